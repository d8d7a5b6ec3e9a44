"""Shared adversarial unlearning: its losses in closed form, its examples by the published rule, its steps and how far it goes."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, odd_module, seeded, tensors_of, untouched
from fit_example import small, toy
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.losses import refusal
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.sau import SAU, Ball, SharedUnlearning, js_divergence, shared_examples
from isthmus.repair.unlearning import Unlearning, adam
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import suspects, trusted

WHOLE = (1.0,)
PLAN = adam(Plan(steps=4 * Ball().cost, batch_size=20, learning_rate=1e-3), Ball().cost)


def run(
    repair: SAU, *, seed: int = 3, models: tuple[nn.Module, ...] | None = None, clean: Clean | None = None
) -> Repaired:
    models = models or suspects()
    with untouched(*models):
        return repair(models, clean or trusted(), seed=seed, session=Session())


@cache
def pair() -> tuple[nn.Module, nn.Module]:
    """Two networks of one shape in double precision that say different things."""
    return small(0).eval(), small(1).eval()


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    samples = toy(n)
    return samples.inputs().double(), samples.y


def posed(objective: SharedUnlearning, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return objective(model, x, y, generator=torch.Generator(), progress=0.0)()[0]


# ---- losses ----


def test_the_divergence_is_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (5 * torch.randn(6, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    p, q = (functional.softmax(scores, 1).numpy() for scores in (first, second))
    expected = [float(jensenshannon(a, b)) ** 2 for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(js_divergence(first, second), expected, rtol=1e-9)


def test_the_divergence_is_log_two_of_certain_opposites_and_finite() -> None:
    far = torch.tensor([[2000.0, 0.0]], requires_grad=True)
    found = js_divergence(far, torch.tensor([[0.0, 2000.0]]))
    assert found.item() == pytest.approx(np.log(2))
    (gradient,) = torch.autograd.grad(found.sum(), far)
    assert torch.isfinite(gradient).all()


def test_refusal_is_minus_log_of_what_is_left() -> None:
    scores = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(7) % 4
    left = 1 - functional.softmax(scores, 1)[torch.arange(7), labels]
    torch.testing.assert_close(refusal(scores, labels), -left.log())


def test_refusal_has_a_full_gradient_at_certainty_and_none_where_the_label_is_negligible() -> None:
    scores = torch.tensor([[400.0, 0.0, 0.0], [0.0, 8.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(refusal(scores, torch.tensor([0, 0])).sum(), scores)
    torch.testing.assert_close(gradient[0], torch.tensor([1.0, -0.5, -0.5]))
    assert torch.equal(gradient[1], torch.zeros(3))  # exp(-8) / (1 + 2 exp(-8)) is 0.0003


# ---- shared examples ----


def by_the_rule(models: tuple[nn.Module, nn.Module], image: Tensor, label: int, ball: Ball) -> Tensor:
    """The published search on one image, with probabilities and branches instead of masks."""
    moved = image + ball.radius
    before = [int(model(image[None]).argmax()) for model in models]
    for _ in range(ball.steps):
        moved = moved.detach().requires_grad_()
        p, q = (functional.softmax(model(moved[None])[0], 0) for model in models)
        now = [int(p.argmax()), int(q.argmax())]
        fooled = [a != b for a, b in zip(now, before, strict=True)]
        if all(fooled) and now[0] == now[1]:
            break
        mean = (p + q) / 2
        loss = ((p * (p / mean).log()).sum() + (q * (q / mean).log()).sum()) / 2
        for chance, done in zip((p, q), fooled, strict=True):
            if not done:
                loss = loss + ball.adversarial * chance[label].log() / 2
        (gradient,) = torch.autograd.grad(loss, moved)
        shift = moved.detach() - ball.step * gradient.sign() - image
        moved = image + shift.clamp(-ball.radius, ball.radius)
    return moved.detach()


@pytest.mark.parametrize("ball", [Ball(), Ball(0.3, 0.1, 7), Ball(adversarial=3.0), Ball(0.05, 0.02, 2)])
def test_shared_examples_are_those_of_the_published_rule(ball: Ball) -> None:
    x, y = batch()
    with untouched(*pair()):
        found = shared_examples(ball, pair(), x, y)
    expected = torch.stack([by_the_rule(pair(), image, int(label), ball) for image, label in zip(x, y, strict=True)])
    torch.testing.assert_close(found, expected)
    assert (found - x).abs().max() <= ball.radius + 1e-12


@pytest.mark.parametrize(
    "changed", [{"radius": 0.1}, {"step": 0.05}, {"steps": 1}, {"adversarial": 50.0}, {"box": (0.0, 1.0)}]
)
def test_every_setting_of_the_search_changes_what_is_found(changed: dict[str, Any]) -> None:
    x, y = batch()
    plain = shared_examples(Ball(), pair(), x, y)
    assert not torch.equal(shared_examples(replace(Ball(), **changed), pair(), x, y), plain)


def test_examples_stay_in_the_box_and_leave_it_without() -> None:
    x, y = batch()
    boxed = shared_examples(Ball(box=(0.0, 1.0)), pair(), x, y)
    assert (boxed.min() >= 0, boxed.max() <= 1) == (True, True)
    assert shared_examples(Ball(), pair(), x, y).max() > 1


def test_against_one_sure_linear_model_every_coordinate_goes_to_its_worst_end() -> None:
    model = nn.Linear(6, 2).double()
    with torch.no_grad():
        model.bias.copy_(torch.tensor([9.0, -9.0]))  # nothing in the ball changes what it says
    x = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = shared_examples(Ball(), (model, model), x, torch.zeros(5, dtype=torch.int64))
    against = (model.weight[1] - model.weight[0]).detach().sign()
    torch.testing.assert_close(found, x + 0.2 * against)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"radius": 0.0}, "`radius` should be above 0. Found 0.0."),
        ({"step": -1.0}, "`step` should be above 0. Found -1.0."),
        ({"steps": 0}, "`steps` should be at least 1. Found 0."),
        ({"adversarial": -0.1}, "`adversarial` should be zero or positive. Found -0.1."),
        ({"box": (1.0, 0.0)}, r"`box` should be a lowest and a higher value. Found \(1.0, 0.0\)."),
    ],
)
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Ball(**wrong)


# ---- objective ----


def test_the_objective_is_its_formula_at_what_was_found() -> None:
    model, original = pair()
    x, y = batch(24)
    moved = shared_examples(Ball(), (model, original), x, y)
    said, wrong = original(x).argmax(1), original(moved).argmax(1)
    chance = functional.softmax(model(moved), 1)[torch.arange(24), wrong]
    erring = (wrong != y) & (wrong != said)
    assert 0 < erring.sum() < 24
    expected = functional.cross_entropy(model(x), y, reduction="none") - erring * (1 - chance).log()
    with untouched(model, original):
        found = posed(SharedUnlearning(original), model, x, y)
    torch.testing.assert_close(found, expected)


def test_what_posing_costs_is_two_input_gradients_a_step_and_a_second_batch() -> None:
    assert SharedUnlearning(pair()[0], Ball(steps=3)).crafting == 7
    assert Ball(steps=3).cost == 8
    assert run(SAU(Unlearning(PLAN, WHOLE))).evaluations == 4 * 12


def test_the_first_step_of_adam_goes_by_the_rate_against_the_gradient() -> None:
    clean = Clean(toy(24), Samples(toy(24, noise=9).x, toy(24).y, 5))
    plan = PLAN.model_copy(update={"steps": 1, "batch_size": 24})
    model = small(0, norm=True).eval()
    found = run(SAU(Unlearning(plan, WHOLE)), models=(model,), clean=clean).module
    copied, (x, y) = deepcopy(model), batch(24)
    posed(SharedUnlearning(deepcopy(model)), copied, x, y).mean().backward()
    for after, before in zip(found.parameters(), copied.parameters(), strict=True):
        gradient = before.grad
        assert gradient is not None
        sure = gradient.abs() > 1e-6
        assert sure.any()
        torch.testing.assert_close((after - before)[sure], -1e-3 * gradient.sign()[sure], rtol=0.02, atol=0.0)


# ---- remedy ----


def test_statistics_and_modes_stay_those_of_the_suspect() -> None:
    model = deepcopy(suspects()[0]).train()
    model.fc.eval()
    repaired = run(SAU(Unlearning(PLAN, WHOLE)), models=(model,)).module
    assert [m.training for m in repaired.modules()] == [m.training for m in model.modules()]
    assert_same_bits(dict(repaired.named_buffers()), dict(model.named_buffers()))
    assert not torch.equal(repaired.fc.weight, model.fc.weight)


def test_dropout_batchnorm_and_attention_of_any_module() -> None:
    clean = Clean(toy(24), Samples(toy(24, noise=9).x, toy(24).y, 5))
    first, again = (run(SAU(Unlearning(PLAN, WHOLE)), models=(odd_module(0),), clean=clean).module for _ in range(2))
    assert_same_bits(tensors_of(first), tensors_of(again))
    assert not torch.equal(first.head.weight, odd_module(0).head.weight)


def test_it_needs_no_batchnorm() -> None:
    with seeded(0):
        plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    repaired = run(SAU(Unlearning(PLAN, WHOLE)), models=(plain,)).module
    assert not torch.equal(repaired[1].weight, plain[1].weight)  # type: ignore[index]


def test_ball_name_and_seed_reach_the_result() -> None:
    plain = run(SAU(Unlearning(PLAN, WHOLE)))
    assert (plain.name, plain.note, plain.choice) == ("sau", "1 of the way to the unlearned weights", None)
    assert run(SAU(Unlearning(PLAN, WHOLE), name="other")).name == "other"
    narrow, reseeded = run(SAU(Unlearning(PLAN, WHOLE), Ball(radius=0.05))), run(SAU(Unlearning(PLAN, WHOLE)), seed=4)
    for other in (narrow, reseeded):
        assert not torch.equal(other.module.fc.weight, plain.module.fc.weight)
