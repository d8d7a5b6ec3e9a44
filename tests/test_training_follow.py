"""What is measured while a fit runs, what is kept because of it, and that a stopped run keeps the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.modules import bits
from fit_example import small, toy
from isthmus._check import InputError
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, single
from isthmus.layout import Layout
from isthmus.settle import Recalibrate
from isthmus.table import Better, Column, Split, Table
from isthmus.training.fit import fit
from isthmus.training.follow import Follow
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session

PLAN = Plan(steps=12, batch_size=8, log_every=1, schedule="constant")


@dataclass(frozen=True)
class Size:
    """How far the norm of the weights is from a given one."""

    goal: float
    better: Better | None = "lower"
    split: Split | None = "validation"

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("size", "1", self.better, self.split, 3, "distance of the norm"),)

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        sign = -1 if self.better == "higher" else 1
        return {"size": sign * abs(norm(model) - self.goal)}


def norm(model: nn.Module) -> float:
    return Layout.of(model).flatten(dict(model.named_parameters())).norm().item()


def train(follow: Follow | None = None, plan: Plan = PLAN, path: Path | None = None, stop: int | None = None) -> Fitted:
    def monitor(step: int, _: int, __: Mapping[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    session = Session(checkpoint=path, every_seconds=0.0, monitor=monitor, follow=follow)
    return fit(single(small(0, norm=True)), toy(), plan, seed=1, session=session)


def per_step() -> tuple[Bridge, ...]:
    """The points after every step, as snapshots of so many cycles."""
    resets = tuple(k / 12 for k in range(1, 12))
    return train(plan=PLAN.model_copy(update={"resets": resets, "restart_rate": False})).snapshots


def test_snapshots_are_the_points_at_the_ends_of_cycles() -> None:
    every = per_step()
    assert len(every) == 12
    plan = PLAN.model_copy(update={"resets": (0.25, 0.5), "restart_rate": False})
    found = train(plan=plan)
    for snapshot, step in zip(found.snapshots, (3, 6, 12), strict=True):
        assert torch.equal(snapshot.free, every[step - 1].free)
    assert torch.equal(found.snapshots[-1].free, found.bridge.free)
    assert train().snapshots == ()


def test_the_average_is_the_exponential_one_with_statistics_of_its_own() -> None:
    found = train(plan=PLAN.model_copy(update={"average": 0.8})).averaged
    assert found is not None
    every = per_step()
    mean = every[0].free
    for bridge in every[1:]:
        mean = 0.8 * mean + 0.2 * bridge.free
    torch.testing.assert_close(found.free, mean)
    module = found.at(())
    fresh = found.at(())
    Recalibrate(toy())(fresh)
    running = dict(module.named_buffers())["1.running_var"]
    torch.testing.assert_close(running, dict(fresh.named_buffers())["1.running_var"])
    assert train().averaged is None


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_best_points_are_kept(better: Better) -> None:
    every = per_step()
    goal = norm(every[5].at(()))
    found = train(Follow([Size(goal, better)], every=2, keep_best="size"))
    assert found.best_step == 6
    assert found.best is not None
    assert torch.equal(found.best.free, every[5].free)
    assert found.measured is not None
    assert found.measured.values("step") == [2, 4, 6, 8, 10, 12]
    expected = [abs(norm(every[k].at(())) - goal) for k in (1, 3, 5, 7, 9, 11)]
    assert [abs(value) for value in found.measured.values("size")] == pytest.approx(expected)  # type: ignore[arg-type]


def test_following_changes_nothing() -> None:
    assert torch.equal(train(Follow([Size(1.0)], every=3)).bridge.free, train().bridge.free)


def test_the_history_tells_gradient_norm_and_distance() -> None:
    every, history = per_step(), train(plan=PLAN.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})).history
    assert "radius" not in history.names
    start = single(small(0, norm=True)).free
    plain = train(plan=PLAN.model_copy(update={"momentum": 0.0, "weight_decay": 0.0, "steps": 1}))
    # One plain step of rate 0.05 moves by 0.05 times the gradient.
    assert history.values("distance")[0] == pytest.approx((plain.bridge.free - start).norm().item())
    assert history.values("gradient_norm")[0] == pytest.approx((plain.bridge.free - start).norm().item() / 0.05)
    assert train().history.values("distance")[-1] == pytest.approx((every[-1].free - start).norm().item())


def test_a_stopped_run_keeps_the_same(tmp_path: Path) -> None:
    goal = norm(per_step()[3].at(()))
    follow = Follow([Size(goal)], every=2, keep_best="size", alarms=(lambda table: f"seen {len(table)}",))
    plan = PLAN.model_copy(update={"average": 0.9, "resets": (0.5,)})
    whole, path = train(follow, plan), tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(follow, plan, path, stop=8)
    resumed = train(follow, plan, path)
    assert resumed.best_step == whole.best_step
    for one, two in (
        (resumed.best, whole.best),
        (resumed.averaged, whole.averaged),
        *zip(resumed.snapshots, whole.snapshots, strict=True),
    ):
        assert one is not None
        assert two is not None
        assert torch.equal(bits(one.free), bits(two.free))
    assert resumed.measured is not None
    assert whole.measured is not None
    assert resumed.measured.frame.equals(whole.measured.frame)
    assert resumed.warnings == whole.warnings == tuple(f"seen {k}" for k in range(1, 7))


def test_an_alarm_ends_the_training_where_asked_to() -> None:
    def alarm(table: Table) -> str | None:
        return "too far" if len(table) == 2 else None

    assert train(Follow([Size(1.0)], every=3, alarms=(alarm,))).warnings == ("too far",)
    halted = train(Follow([Size(1.0)], every=3, alarms=(alarm,), halt=True))
    assert halted.history.values("step")[-1] == 6
    assert halted.evaluations == 6


def test_a_curve_is_measured_at_the_coordinate_asked_for() -> None:
    bridge = bezier([small(0, norm=True), small(1, norm=True)])
    seen: list[float] = []

    @dataclass(frozen=True)
    class Seen:
        columns: tuple[Column, ...] = (Column("norm", "1", None),)

        def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
            seen.append(norm(model))
            return {"norm": seen[-1]}

    follow = Follow([Seen()], every=12, at=(0.5,), settle=Recalibrate(toy()))
    fitted = fit(bridge, toy(), PLAN, seed=0, session=Session(follow=follow))
    assert seen == [pytest.approx(norm(fitted.bridge.at(0.5)))]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"`every` should be at least 1. Found 0"):
        Follow([], every=0)
    with pytest.raises(InputError, match=r"`keep_best` should be one of size. Found 'sizes'. Did you mean 'size'\?"):
        Follow([Size(1.0)], keep_best="sizes")
    with pytest.raises(
        InputError, match=r"`keep_best` should be measured on validation data. Found 'size' of test data"
    ):
        Follow([Size(1.0, split="test")], keep_best="size")
    with pytest.raises(InputError, match=r"`keep_best` should be a column with a better direction. Found 'size'"):
        Follow([Size(1.0, better=None)], keep_best="size")
