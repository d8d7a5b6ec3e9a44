"""Surfaces in stages: edges are the curves trained alone, kept ones stay so bitwise, and no step is lost."""

import pytest
import torch

from contracts.modules import assert_same_bits, tensors_of
from fit_example import small, toy
from isthmus._check import InputError
from isthmus.geometry.bases import Bernstein, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, simplex
from isthmus.geometry.edit import edges
from isthmus.geometry.patch import patch
from isthmus.randomness import seed_of
from isthmus.training.fit import fit
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session
from isthmus.training.staged import Stages, fit_staged

PLAN = Plan(steps=18, batch_size=8, learning_rate=0.05)


def flat(first: int = 2, second: int = 3) -> Bridge:
    return connect([small(k) for k in range(4)], Product(Bernstein(first), Bernstein(second)))


def train(bridge: Bridge, plan: Plan, seed: int, session: Session) -> Fitted:
    return fit(bridge, toy(), plan, seed=seed, session=session)


@pytest.mark.parametrize("stages", ["edges-first", "edges-kept"])
def test_the_stages_put_together(stages: Stages) -> None:
    own = PLAN.model_copy(update={"steps": 2})
    curves = {
        name: fit(curve, toy(), own, seed=seed_of(3, "edge", name)).bridge for name, curve in edges(flat()).items()
    }
    start = patch(curves)
    if stages == "edges-first":
        start = flat().with_free(start.points[list(flat().free_index)])
    rest = fit(start, toy(), PLAN.model_copy(update={"steps": 10}), seed=seed_of(3, "surface"))
    told: list[str] = []
    found = fit_staged(flat(), PLAN, train, seed=3, stages=stages, session=Session(stage=told.append))
    assert torch.equal(found.bridge.points, rest.bridge.points)
    assert told == [*(f"training the edge {name}" for name in edges(flat())), "training the surface"]
    assert found.evaluations == PLAN.evaluations == 18
    steps = found.history.frame["step"].tolist()
    assert steps == sorted(set(steps))
    assert (steps[-1], found.history.meta["plan"]["steps"]) == (18, 18)
    for name, curve in edges(found.bridge).items():
        same = [torch.equal(curve.row(k), curves[name].row(k)) for k in range(curve.basis.num_points)]
        assert all(same) == (stages == "edges-kept")


def test_corners_stay_and_together_is_a_plain_fit() -> None:
    plain = fit(flat(), toy(), PLAN, seed=3).bridge
    assert torch.equal(fit_staged(flat(), PLAN, train, seed=3).bridge.points, plain.points)
    kept = fit_staged(flat(), PLAN, train, seed=3, stages="edges-kept").bridge
    for k, (u, _) in enumerate(kept.basis.corners):
        assert_same_bits(tensors_of(kept.at(u)), tensors_of(small(k)))


def test_straight_edges_leave_their_steps_to_the_others() -> None:
    found = fit_staged(flat(1, 2), PLAN, train, seed=3, stages="edges-first")
    assert found.evaluations == 18
    kept = fit_staged(
        flat(1, 2), PLAN, train, seed=3, stages="edges-kept"
    )  # no inner point: the edges are all there is
    assert kept.evaluations == 4
    assert kept.bridge.free.shape[0] == 0
    straight = edges(kept.bridge)["v=0"]
    torch.testing.assert_close(straight.theta(0.5), (straight.row(0) + straight.row(1)) / 2)


def test_a_stopped_training_goes_on(tmp_path, monkeypatch) -> None:
    whole = fit_staged(flat(), PLAN, train, seed=3, stages="edges-kept")
    told: list[str] = []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) == 4:
            raise KeyboardInterrupt

    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0.0, stage=stop)
    with pytest.raises(KeyboardInterrupt):
        fit_staged(flat(), PLAN, train, seed=3, stages="edges-kept", session=session)
    assert len(list(tmp_path.glob("checkpoint-edge-*.pt"))) == 3
    again = fit_staged(flat(), PLAN, train, seed=3, stages="edges-kept", session=session)
    assert torch.equal(again.bridge.points, whole.bridge.points)


def test_what_cannot_be_staged_is_refused() -> None:
    with pytest.raises(InputError, match=r"`stages` should be .*Found 'edges'"):
        fit_staged(flat(), PLAN, train, seed=0, stages="edges")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"together for anything but a Bezier surface. Found stages for Barycentric"):
        fit_staged(simplex([small(k) for k in range(3)]), PLAN, train, seed=0, stages="edges-first")
    with pytest.raises(InputError, match=r"at least one free control point. Found 0. A bilinear patch has none"):
        fit_staged(flat(1, 1), PLAN, train, seed=0, stages="edges-kept")
    with pytest.raises(InputError, match=r"`steps` should be at least 8, of which each edge takes an eighth. Found 7"):
        fit_staged(flat(), PLAN.model_copy(update={"steps": 7}), train, seed=0, stages="edges-first")
