"""Plans: schedules against closed forms and PyTorch's own, and settings that make no sense."""

from math import cos, pi

import pytest
import torch
from pydantic import ValidationError

from isthmus.data import Augment
from isthmus.training.plan import Plan, learning_rate

SCHEDULES = ("cosine", "multistep", "triangular", "constant")


def rates(plan: Plan) -> list[float]:
    return [learning_rate(plan, step) for step in range(plan.steps)]


def of_torch(scheduler: type, steps: int, rate: float, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule = scheduler(optimizer, **settings)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_cosine_is_that_of_torch(steps: int) -> None:
    expected = of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, steps, 0.3, T_max=steps)
    assert rates(Plan(steps=steps, learning_rate=0.3)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [3, 10, 80])
def test_multistep_is_that_of_torch(steps: int) -> None:
    shares = (0.3, 0.75)
    last = [-(-int(1000 * share * steps) // 1000) for share in shares]  # the first step at or past each share
    expected = of_torch(torch.optim.lr_scheduler.MultiStepLR, steps, 0.3, milestones=last, gamma=0.2)
    plan = Plan(steps=steps, learning_rate=0.3, schedule="multistep", milestones=shares, gamma=0.2)
    assert rates(plan) == pytest.approx(expected, rel=1e-12)


def test_constant_is_constant() -> None:
    assert set(rates(Plan(steps=9, learning_rate=0.3, schedule="constant"))) == {0.3}


def test_triangular_rises_to_the_peak_and_falls_to_zero_in_straight_lines() -> None:
    found = rates(Plan(steps=20, learning_rate=2.0, schedule="triangular", warmup=0.25))
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[5:] == pytest.approx([2.0 * (20 - step) / 15 for step in range(5, 20)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_linearly_and_then_the_schedule_has_the_rest(schedule: str) -> None:
    plan = Plan.model_validate({"steps": 40, "learning_rate": 0.5, "schedule": schedule, "warmup": 0.2})
    found = rates(plan)
    assert found[:8] == pytest.approx([0.5 * (step + 1) / 8 for step in range(8)])
    rest = [(step - 8) / 32 for step in range(8, 40)]
    expected = {
        "cosine": [(1 + cos(pi * s)) / 4 for s in rest],
        "multistep": [0.5 if step < 20 else 0.05 if step < 30 else 0.005 for step in range(8, 40)],
        "triangular": [0.5 * (1 - s) for s in rest],
        "constant": [0.5] * 32,
    }
    assert found[8:] == pytest.approx(expected[schedule])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.5), (10, 0.25), (7, 0.01), (3, 0.99), (50, 0.33)])
def test_no_step_passes_the_peak_and_none_stands_still(schedule: str, steps: int, warmup: float) -> None:
    plan = Plan.model_validate({"steps": steps, "learning_rate": 0.5, "schedule": schedule, "warmup": warmup})
    assert all(0 < rate <= 0.5 for rate in rates(plan))


def test_evaluations_count_gradients_of_whole_batches() -> None:
    assert Plan(steps=10).evaluations == 10
    assert Plan(steps=10, num_points=3, accumulate=2).evaluations == 30
    assert Plan(steps=10, sharpness=0.5).evaluations == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("learning_rate", float("nan")), ("momentum", 1.0),
        ("momentum", -0.1), ("weight_decay", -1e-4), ("warmup", 1.0), ("warmup", -0.1), ("gamma", 0.0), ("gamma", 1.5),
        ("num_points", 0), ("accumulate", 0), ("sharpness", 0.0), ("clip", 0.0), ("milestones", (30.0,)), ("milestones", (0.0,)),
        ("optimizer", "adam"), ("schedule", "linear"), ("decay", "both"), ("sampling", "grid"), ("precision", "16-mixed"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f"(?s)1 validation error.*{name}.*Input should"):
        Plan.model_validate({name: value})


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match=r"`nesterov` should come with a momentum above 0\. Found 0\.0"):
        Plan(nesterov=True, momentum=0.0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"(?s)epochs.*Extra inputs are not permitted"):
        Plan.model_validate({"epochs": 3})


def test_a_plan_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Plan().steps = 3  # type: ignore[misc]


def test_a_plan_survives_json() -> None:
    plan = Plan(steps=3, sharpness=0.5, augment=Augment(2, flip=True), milestones=(0.1, 0.9))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
