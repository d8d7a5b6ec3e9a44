"""The remedies by name: one budget for all, end to end on small digits."""

import pytest

from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.data import Augment
from isthmus.probes import Clean as CleanProbe
from isthmus.repair.methods import METHODS, Budget, make
from isthmus.training.session import Session
from repair_example import digits, fresh, suspects, trusted

BUDGET = Budget(build=fresh, evaluations=12, batch_size=30, points=5, augment=Augment(1))

# One step of i-bau takes 13; a search takes one step of every trigger at least, and the first round of `auto` is made in both suspects. Of
# 12 for a surface nine make four steps of two, and each of two copies gets one.
SPENT = {"average": 0, "clp": 0, "noise": 0, "module-switch": 0, "i-bau": 13, "auto": 15, "surface": 10}
CHOOSING = ("path", "sharp-path", "surface", "polished-path", "self-path", "extrapolate")


@pytest.mark.parametrize("name", METHODS)
def test_every_remedy_runs_and_spends_the_budget_exactly(name: str) -> None:
    repair = make(name, BUDGET)
    with untouched(*suspects()):
        found = repair(suspects(), trusted(), seed=0, session=Session())
    assert repair.name == found.name == name
    assert found.evaluations == SPENT.get(name, 12)
    assert not any(module.training for module in found.module.modules())
    error = CleanProbe(digits().test)(found.module)["test_error"]
    assert error < 50 or name in (
        "scratch",
        "average",
        "fst",
        "d3",
        "noise",
    )  # guessing: 90; a fresh head after 12 steps
    assert (found.choice is not None) == (name in CHOOSING)


@pytest.mark.parametrize("name", METHODS)
def test_a_remedy_takes_as_many_suspects_as_it_says(name: str) -> None:
    few = suspects()[: METHODS[name].suspects]
    assert make(name, BUDGET)(few, trusted(), seed=0, session=Session()).name == name


@pytest.mark.parametrize(
    ("evaluations", "sharpness", "steps"), [(12, None, 12), (12, 2.0, 6), (13, 2.0, 6), (1, 2.0, 1)]
)
def test_a_sharpness_aware_step_costs_two(evaluations: int, sharpness: float | None, steps: int) -> None:
    plan = Budget(build=fresh, evaluations=evaluations).plan(learning_rate=0.1, sharpness=sharpness)
    assert plan.steps == steps
    assert plan.sharpness == sharpness


def test_what_the_user_said_goes_before_the_methods_own() -> None:
    own = Budget(build=fresh)
    said = Budget(
        build=fresh, learning_rate=0.3, sharpness=0.7, batch_size=9, augment=Augment(2), precision="bf16-mixed"
    )
    assert own.plan(learning_rate=0.1, sharpness=2.0).learning_rate == 0.1
    plan = said.plan(learning_rate=0.1, sharpness=2.0)
    assert (plan.learning_rate, plan.sharpness, plan.batch_size) == (0.3, 0.7, 9)
    assert (plan.augment, plan.precision) == (Augment(2), "bf16-mixed")
    assert said.plan(learning_rate=0.1).sharpness is None  # a plain method stays plain


@pytest.mark.parametrize("name", ["path", "sharp-path"])
def test_points_and_margin_reach_the_path(name: str) -> None:
    repair = make(name, Budget(build=fresh, points=9, margin=0.2))
    assert (repair.points, repair.margin) == (9, 0.2)  # type: ignore[attr-defined]
    assert (repair.plan.sharpness is None) == (name == "path")  # type: ignore[attr-defined]


def test_an_unknown_remedy_suggests_the_nearest() -> None:
    with pytest.raises(
        InputError,
        match=r"`method` should be one of anp, auto, average, .*Found 'sharp-pat'\. Did you mean 'sharp-path'",
    ):
        make("sharp-pat", BUDGET)
