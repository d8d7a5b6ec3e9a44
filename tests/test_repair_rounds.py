"""Steps on something other than a bridge: beside a fit, interrupted and resumed, stopped, refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Augment
from isthmus.repair.masks.rounds import Rounds
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import fresh, trusted

PLAN = Plan(steps=9, batch_size=25, learning_rate=0.1, schedule="multistep", milestones=(0.5,), weight_decay=0.01)


def rounds(
    plan: Plan = PLAN, session: Session | None = None, *, seed: int = 3, module: nn.Module | None = None
) -> Rounds:
    return Rounds("test", module or fresh(0), trusted().train, plan, seed, session or Session())


def train(made: Rounds, floor: float | None = None) -> nn.Module:
    """Ordinary training of the working copy."""

    def turn(x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        logits = made.module(x)
        return functional.cross_entropy(logits, y), logits

    made.descend(list(made.module.parameters()), turn, floor=floor)
    return made.module


@pytest.mark.parametrize("change", [{}, {"clip": 0.5}, {"momentum": 0.5, "nesterov": True}])
def test_on_the_weights_it_is_a_fit(change: dict[str, float]) -> None:
    plan = PLAN.model_copy(update=change)
    made, module = rounds(plan), fresh(0)
    with untouched(module):
        found = train(rounds(plan, module=module))
    train(made)
    expected, fitted = fit_module(fresh(0), trusted().train, plan.model_copy(update={"log_every": 1}), seed=3)
    for name, tensor in tensors_of(expected).items():
        torch.testing.assert_close(tensors_of(found)[name], tensor, rtol=2e-4, atol=2e-5)
    table = made.history()
    for name in ("step", "learning_rate", "error"):
        assert table.values(name) == pytest.approx(fitted.history.values(name))
    assert table.values("loss") == pytest.approx(fitted.history.values("loss"), rel=1e-4)
    assert table.meta["plan"] == plan.model_dump(mode="json")


def test_seed_and_augmentation_change_what_is_seen() -> None:
    one, other = rounds().batch(2), rounds(seed=4).batch(2)
    assert not torch.equal(one[0], other[0])
    moved = rounds(PLAN.model_copy(update={"augment": Augment(2)})).batch(2)
    assert torch.equal(one[1], moved[1])
    assert not torch.equal(one[0], moved[0])


def test_interrupted_and_resumed_ends_as_if_never_stopped(tmp_path: Path) -> None:
    whole = train(rounds())
    session = Session(checkpoint=tmp_path / "fit.pt", every_seconds=0.0)

    def stop(step: int, steps: int, row: object) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rounds(PLAN, replace(session, monitor=stop)))
    assert (tmp_path / "fit-test.pt").exists()
    steps = list[int]()
    again = rounds(PLAN, replace(session, monitor=lambda step, *_: steps.append(step)))
    assert_same_bits(tensors_of(train(again)), tensors_of(whole))
    assert steps == [7, 8, 9]  # saved behind step 6
    assert again.history().values("step") == list(range(1, 10))
    steps.clear()
    assert_same_bits(tensors_of(train(rounds(PLAN, again.session))), tensors_of(whole))
    assert steps == []
    with pytest.raises(InputError, match="`checkpoint` should belong to this run"):
        train(rounds(PLAN, session, seed=4))


@pytest.mark.parametrize(("floor", "expected"), [(None, 9), (0.7, 9), (0.76, 4), (0.8, 4), (0.88, 1)])
def test_the_first_batch_at_the_floor_is_the_last(floor: float | None, expected: int) -> None:
    made, variable = rounds(), torch.zeros(1, requires_grad=True)

    def turn(x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        """Get three of 25 wrong in each of the first three batches, and six in the others: 88 and 76 %."""
        wrong = 3 if made.steps < 3 else 6
        scores = functional.one_hot(torch.where(torch.arange(25) < wrong, (y + 1) % 10, y), 10).float()
        return variable.sum(), scores

    made.descend([variable], turn, floor=floor)
    assert made.steps == expected
    assert made.rows[0]["error"] == 12


def test_what_is_done_after_each_step_is_done() -> None:
    made, variable = rounds(), torch.zeros(3, requires_grad=True)
    made.descend(
        [variable], lambda *_: (variable.sum(), torch.zeros(25, 10)), after=lambda: variable.detach().clamp_(-0.05)
    )
    assert variable.tolist() == pytest.approx([-0.05] * 3)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    plan = PLAN.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(InputError, match=r"`learning_rate` should keep the loss finite.*of test at 1e\+30. Lower it"):
        train(rounds(plan))
