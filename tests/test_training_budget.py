"""Budgets against the formulas of Liu et al. 2020 and what must hold for any of them."""

from math import acos, cos, nextafter, pi

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isthmus._check import InputError
from isthmus.training.budget import Budget

PERIODIC = ("periodic-cosine", "periodic-linear")
SHARES = [i / 1000 for i in range(1000)]


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    kind = draw(st.sampled_from(("warm-up", *PERIODIC)))
    target = draw(st.floats(1e-3, 10))
    values = {
        "kind": kind,
        "target": target,
        "minimum": target * draw(st.floats(0, 1)),
        "warmup": draw(st.floats(0.01, 1)),
        "resets": tuple(
            sorted(draw(st.sets(st.integers(1, 99), max_size=3).map(lambda held: {i / 100 for i in held})))
        ),
        "epochs": draw(st.none() | st.integers(1, 40)),
    }
    if kind in PERIODIC:
        values["overshoot"] = draw(st.none() | st.floats(1, 4).map(lambda ratio: ratio * target))
    return Budget.model_validate(values)


@settings(max_examples=60, deadline=None)
@given(budgets())
def test_a_budget_stays_between_its_bounds_and_never_falls_within_a_cycle(budget: Budget) -> None:
    found = [budget.at(share) for share in SHARES]
    assert all(budget.minimum <= radius <= budget.target for radius in found)
    assert found[0] == budget.minimum
    resets = budget.resets if budget.kind in PERIODIC else ()
    for before, after, now in zip(found, found[1:], SHARES[1:], strict=False):
        # With epochs a cycle starts at the first epoch at or past its reset.
        width = 0.001 if budget.epochs is None else 0.001 + 1 / budget.epochs
        assert after >= before or any(reset <= now <= reset + width for reset in resets)


@settings(max_examples=60, deadline=None)
@given(budgets())
def test_the_target_is_in_force_from_the_share_named_on(budget: Budget) -> None:
    budget = budget.model_copy(update={"epochs": None, "resets": ()})
    full = budget.full
    assert 0 <= full <= 1
    if full < 0.999:
        assert budget.at(min(full + 1e-6, nextafter(1, 0))) == pytest.approx(budget.target)
    if full > 0.01 and budget.minimum < 0.99 * budget.target:
        assert budget.at(full * 0.99) < budget.target


@settings(max_examples=60, deadline=None)
@given(budgets())
def test_after_the_first_reset_the_budget_is_below_its_target_only_while_it_climbs(budget: Budget) -> None:
    if budget.kind not in PERIODIC or not budget.resets:
        assert budget.climbs == ()
        return
    assert [start for start, _ in budget.climbs] == list(budget.resets)
    for share in SHARES[::3]:
        low = share >= budget.resets[0] and budget.at(share) < budget.target * (1 - 1e-9)
        assert not low or any(start <= share <= back for start, back in budget.climbs)


def test_liu_et_al_on_mnist_and_cifar() -> None:
    cosine, linear = (Budget.model_validate({"kind": kind, "target": 0.4}) for kind in PERIODIC)
    assert (cosine.peak, linear.peak) == pytest.approx((0.6, 0.8))
    assert cosine.full == pytest.approx(0.608, abs=5e-4)
    assert cosine.full == pytest.approx(acos(-1 / 3) / pi)
    assert linear.full == 0.5
    for share in SHARES:
        assert cosine.at(share) == pytest.approx(min(0.4, 0.5 * (1 - cos(pi * share)) * 0.6))
        assert linear.at(share) == pytest.approx(min(0.4, 0.8 * share))
    for kind in PERIODIC:  # 0 to 16/255, clipped at 8/255
        assert Budget.model_validate({"kind": kind, "target": 8 / 255, "overshoot": 16 / 255}).full == pytest.approx(
            0.5
        )


@pytest.mark.parametrize("kind", PERIODIC)
def test_the_radius_changes_once_an_epoch_and_the_first_epoch_has_none(kind: str) -> None:
    budget = Budget.model_validate({"kind": kind, "target": 0.4, "epochs": 100})
    steps, plain = 469 * 100, budget.model_copy(update={"epochs": None})
    for epoch in range(100):
        at_start = plain.at(epoch / 100)
        for step in (0, 1, 234, 468):
            assert budget.at((469 * epoch + step) / steps) == pytest.approx(at_start, abs=1e-15)
    assert budget.at(468 / steps) == 0.0
    assert plain.at(468 / steps) > 0.0


@pytest.mark.parametrize("kind", PERIODIC)
def test_each_cycle_is_the_first_one_stretched(kind: str) -> None:
    resets = (0.5, 0.75)  # epochs 0, 100, 150, 200
    budget = Budget.model_validate({"kind": kind, "target": 1.0, "minimum": 0.1, "resets": resets})
    one = budget.model_copy(update={"resets": ()})
    for start, end in ((0.0, 0.5), (0.5, 0.75), (0.75, 1.0)):
        for share in SHARES[::7]:
            assert budget.at(start + share * (end - start)) == pytest.approx(one.at(share))
    assert [budget.at(reset) for reset in (0.0, *resets)] == [0.1, 0.1, 0.1]


def test_the_climbs_end_where_the_target_is_back() -> None:
    budget = Budget(kind="periodic-cosine", target=1.0, resets=(0.5, 0.75))
    assert [start for start, _ in budget.climbs] == [0.5, 0.75]
    for start, full in budget.climbs:
        assert budget.at(start) == 0.0
        assert budget.at(full - 1e-3) < 1.0
        assert budget.at(full + 1e-9) == pytest.approx(1.0)
    assert Budget(target=1.0, resets=(0.5,)).climbs == ()
    assert Budget(kind="warm-up", target=1.0, resets=(0.5,)).climbs == ()


def test_warm_up_happens_once_and_constant_never() -> None:
    budget = Budget(kind="warm-up", target=0.5, minimum=0.1, warmup=0.25, resets=(0.5,))
    for share in SHARES:
        assert budget.at(share) == pytest.approx(0.1 + 0.4 * share / 0.25 if share < 0.25 else 0.5)
    constant = Budget(target=0.5, resets=(0.5,), epochs=3)
    assert {constant.at(share) for share in SHARES} == {0.5}
    assert (constant.full, budget.full) == (0.0, 0.25)


def test_each_setting_changes_the_radius() -> None:
    base: dict[str, object] = {"kind": "periodic-linear", "target": 0.4}
    at = Budget.model_validate(base).at(0.3)
    for further in (
        {"kind": "periodic-cosine"},
        {"target": 0.2},
        {"minimum": 0.1},
        {"overshoot": 0.5},
        {"resets": (0.2,)},
        {"epochs": 4},
    ):
        assert Budget.model_validate(base | further).at(0.3) != at
    assert Budget(kind="warm-up", target=0.4).at(0.1) != Budget(kind="warm-up", target=0.4, warmup=0.3).at(0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": 0.0}, r"target\n.*Input should be greater than 0"),
        ({"target": -1.0}, r"target\n.*Input should be greater than 0"),
        ({"target": float("inf")}, r"target\n.*Input should be a finite number"),
        ({"target": float("nan")}, r"target\n.*Input should be a finite number"),
        ({"minimum": -0.1}, r"minimum\n.*Input should be greater than or equal to 0"),
        ({"kind": "cosine"}, r"kind\n.*Input should be 'constant', 'warm-up', 'periodic-cosine' or 'periodic-linear'"),
        ({"warmup": 0.0}, r"warmup\n.*Input should be greater than 0"),
        ({"warmup": 1.5}, r"warmup\n.*Input should be less than or equal to 1"),
        ({"epochs": 0}, r"epochs\n.*Input should be greater than or equal to 1"),
        ({"resets": (0.0,)}, r"resets\.0\n.*Input should be greater than 0"),
        ({"resets": (1.0,)}, r"resets\.0\n.*Input should be less than 1"),
        ({"resets": (0.5, 0.5)}, r"`resets` should rise\. Found \(0\.5, 0\.5\)"),
        ({"resets": (0.6, 0.5)}, r"`resets` should rise\. Found \(0\.6, 0\.5\)"),
        ({"minimum": 0.5}, r"`minimum` should be at most the target 0\.4\. Found 0\.5"),
        ({"kind": "constant", "minimum": 0.1}, r"`minimum` should be 0 for a constant budget, which has no rise\. Found 0\.1"),
        ({"overshoot": 0.3}, r"`overshoot` should be at least the target 0\.4, or it is never reached\. Found 0\.3"),
        ({"kind": "warm-up", "overshoot": 0.6}, r"`overshoot` should be None for a warm-up budget, which has no peak\. Found 0\.6"),
        ({"radius": 0.3}, r"radius\n.*Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Budget.model_validate({"kind": "periodic-linear", "target": 0.4} | values)


@pytest.mark.parametrize("progress", [-0.1, 1.0, float("nan")])
def test_progress_is_a_share(progress: float) -> None:
    with pytest.raises(InputError, match=r"`progress` should be a share of the training in \[0, 1\)\. Found"):
        Budget(target=0.4).at(progress)


def test_a_budget_cannot_change_and_survives_json() -> None:
    budget = Budget(kind="periodic-cosine", target=0.4, overshoot=0.6, resets=(0.5,), epochs=10)
    assert Budget.model_validate_json(budget.model_dump_json()) == budget
    with pytest.raises(ValidationError, match="frozen"):
        budget.target = 0.3  # type: ignore[misc]
