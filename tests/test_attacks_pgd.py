"""Projected gradient ascent: the contract of every attack, and linear models, whose worst inputs are known on paper."""

import pytest
import torch
from torch import Tensor, nn

from contracts.attacks import attack_small, check_attack, check_points
from isthmus._check import InputError
from isthmus.attacks.pgd import FGSM, PGD
from isthmus.attacks.protocol import Memory
from isthmus.attacks.threat import Norm, Threat
from isthmus.attacks.victim import attacked
from isthmus.evaluate import correct
from isthmus.losses import cross_entropy, margin

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


@pytest.mark.parametrize(
    ("attack", "stronger"),
    [
        (FGSM, PGD(steps=3, step=1.0, start=0.0)),
        (PGD(steps=3, step=0.5, start=0.0), PGD(steps=6, step=0.5, start=0.0)),
        (PGD(steps=4), PGD(steps=4, restarts=3)),
        (PGD(steps=3, restarts=2, loss=margin, start=2.0), None),
    ],
    ids=lambda attack: attack.name if attack else "-",
)
def test_the_contract_of_every_attack(attack: PGD, stronger: PGD | None) -> None:
    check_attack(attack, stronger=stronger)


def linear(classes: int, shape: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    size = torch.Size(shape).numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


def run(attack: PGD, model: nn.Module, threat: Threat, x: Tensor, y: Tensor, **options):
    with attacked(model) as victim:
        return attack(victim, threat, x, y, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(7,), (3, 5, 4)])
def test_two_classes_and_a_linear_model_reach_the_optimum_over_ball_and_box(
    norm: Norm, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    model = linear(2, shape, generator)
    x = torch.rand(20, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(20) % 2
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    gradient = (weight[1 - y] - weight[y]).reshape(x.shape)
    attack = PGD(steps=30, step=0.25 if norm == "l1" else 1.0, loss=margin)
    for radius in (0.05, 0.4, 2.5) if norm == "l1" and x.ndim > 2 else (0.05, 0.4):  # the box cuts the larger ones
        threat = Threat(norm, radius)
        best = threat.best_response(x, gradient)
        check_points(threat, x, best)
        optimum = (best.flatten(1) * gradient.flatten(1)).sum(1) + (bias[1 - y] - bias[y])
        found = run(attack, model, threat, x, y, keep="loss")
        gain = (best - x).flatten(1).mul(gradient.flatten(1)).sum(1)
        lost = (optimum - found.loss) / gain
        assert float(lost.min()) >= -1e-12  # nothing is above the optimum
        assert float(lost.max()) <= 1e-4
        verdict = run(attack, model, threat, x, y)
        clear = optimum.abs() > 1e-3 * gain
        assert torch.equal(verdict.fooled[clear], (optimum > 0)[clear])


@pytest.mark.parametrize("norm", NORMS)
def test_robust_accuracy_of_a_linear_model_is_the_closed_form(norm: Norm, generator: torch.Generator) -> None:
    """Robust is who has margin_j > radius ||w_y - w_j||_q for all j, where the box is far away."""
    model = linear(4, (12,), generator)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    logits = model(x).detach()
    y = logits.argmax(1)
    weight = model[1].weight.detach()
    order = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    between = torch.linalg.vector_norm(weight[y][:, None] - weight[None], order, dim=2)
    gaps = logits.gather(1, y[:, None]) - logits
    reach = (gaps / between.clamp_min(1e-12)).masked_fill(nn.functional.one_hot(y, 4) > 0, torch.inf).amin(1)
    radius = float(reach.median())
    threat = Threat(norm, radius, low=-50, high=50)

    fooled = torch.zeros(200, dtype=torch.bool)
    for j in range(4):  # towards each class in turn: a single loss may stop at the wrong boundary

        def towards(out: Tensor, y: Tensor, j: int = j) -> Tensor:
            return torch.where(y == j, 0.0, 1.0) * (out[:, j] - out.gather(1, y[:, None]).squeeze(1))

        found = run(PGD(steps=4, step=1.0, start=0.0, loss=towards), model, threat, x, y)
        check_points(threat, x, found.points)
        fooled |= found.fooled
    clear = (reach - radius).abs() > 1e-6
    assert torch.equal(fooled[clear], (reach < radius)[clear])
    assert 95 <= int(fooled.sum()) <= 105  # the radius is the median


def test_the_minimal_radius_of_a_linear_model_is_found_by_halving(generator: torch.Generator) -> None:
    model = linear(2, (9,), generator)
    x = torch.rand(6, 9, generator=generator, dtype=torch.float64)
    logits = model(x).detach()
    y = logits.argmax(1)
    weight = model[1].weight.detach()
    truth = (logits.gather(1, y[:, None]) - logits).amax(1) / torch.linalg.vector_norm(weight[0] - weight[1])
    low, high = torch.full_like(truth, 1e-9), 4 * truth.amax().expand(6)
    for _ in range(12):
        middle = (low + high) / 2
        fooled = run(PGD(steps=2, step=1.0, start=0.0), model, Threat("l2", middle, -50, 50), x, y).fooled
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    torch.testing.assert_close(high, truth, rtol=0.01, atol=0.01 * float(truth.amax()))


def test_one_step_from_the_image_is_the_formula(generator: torch.Generator) -> None:
    model = linear(3, (6,), generator)
    x = torch.rand(5, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(5) % 3
    inputs = x.clone().requires_grad_()
    cross_entropy(model(inputs), y).sum().backward()
    found = run(FGSM, model, Threat("linf", 0.03), x, y, keep="last")
    torch.testing.assert_close(found.points, (x + 0.03 * inputs.grad.sign()).clamp(0, 1), rtol=0, atol=1e-15)


def test_keep_last_returns_the_last_iterate_and_saves_a_pass(generator: torch.Generator) -> None:
    model = linear(3, (6,), generator)
    x = torch.rand(5, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(5) % 3
    counts = {}
    for keep in ("last", "loss"):
        with attacked(model) as victim:
            start = torch.Generator().manual_seed(0)
            PGD(steps=4)(victim, Threat(), x, y, generator=start, keep=keep)
        counts[keep] = victim.queries, victim.gradients
    assert counts == {"last": (20, 20), "loss": (25, 20)}


def test_fooled_images_leave_the_batch() -> None:
    threat = Threat("linf", 0.5)
    model_calls: dict[str, list[int]] = {}
    for keep in ("loss", "verdict"):
        model_calls[keep] = []

        def loss(out: Tensor, y: Tensor, seen: list[int] = model_calls[keep]) -> Tensor:
            seen.append(len(out))
            return cross_entropy(out, y)

        attack_small(PGD(steps=6, start=0.0, loss=loss), threat, keep=keep)
    assert set(model_calls["loss"]) == {12}
    assert model_calls["verdict"][0] == 12
    assert model_calls["verdict"][-1] < 8


def test_nothing_is_differentiated_once_all_are_fooled(generator: torch.Generator) -> None:
    model = linear(3, (6,), generator)
    x = torch.rand(5, 6, generator=generator, dtype=torch.float64)
    y = (model(x).argmax(1) + 1) % 3
    with attacked(model) as victim:
        found = PGD(steps=4, start=0.0, restarts=3)(victim, Threat(), x, y, generator=generator)
    assert found.fooled.all()
    assert torch.equal(found.first, x)
    assert (victim.queries, victim.gradients) == (5, 0)


def test_without_confinement_only_the_box_holds(generator: torch.Generator) -> None:
    """N-FGSM: noise of two radii and a step of one may end three radii away."""
    model = linear(2, (50,), generator)
    x = torch.full((4, 50), 0.5, dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64)
    attack = PGD(steps=1, step=1.0, start=2.0, confine=False)
    moved = run(attack, model, Threat("linf", 0.1), x, y, keep="last").points - x
    assert 0.25 < float(moved.abs().max()) <= 0.3
    assert float(run(attack, model, Threat("linf", 0.4), x, y, keep="last").points.max()) == 1.0


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_nan_moves_nothing_out_of_the_threat(norm: Norm) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.stack([flat.sum(1), (flat - flat).abs().sqrt().sum(1)], 1)  # the slope at 0 is not a number

    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = run(PGD(steps=2), Broken(), Threat(norm, 0.1), x, torch.zeros(3, dtype=torch.int64), keep="loss")
    check_points(Threat(norm, 0.1), x, found.worst)
    assert not found.fooled.any()


def test_memory_keeps_the_first_fooled_and_the_worst_point() -> None:
    x, y = torch.zeros(2, 1), torch.tensor([0, 0])
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    memory = Memory(x, y, "loss")
    for value, (points, logits) in enumerate([([1.0, 1.0], [right, wrong]), ([2.0, 2.0], [wrong, wrong])]):
        values = torch.tensor([5.0 - value, 1.0 + value])
        assert memory.note(torch.tensor(points)[:, None], values, torch.tensor(logits)).all()
    memory.note(torch.full((2, 1), 9.0), torch.tensor([torch.nan, 0.0]), torch.tensor([right, right]))
    found = memory.result()
    assert found.first.flatten().tolist() == [2, 1]
    assert found.worst.flatten().tolist() == [1, 2]
    assert found.loss.tolist() == [5, 2]
    assert found.fooled.all()
    assert torch.equal(found.points, found.first)


def test_memory_closes_the_fooled_and_reopens_the_rest() -> None:
    memory = Memory(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), "verdict")
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0]])
    assert memory.note(torch.ones(3, 1), torch.zeros(3), logits).tolist() == [True, False, False]
    assert memory.active.tolist() == [0]
    memory.active = memory.active[:0]
    assert memory.reopen().tolist() == [0]
    assert torch.equal(~correct(logits, memory.y), memory.fooled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"`steps` should be at least 1\. Found 0"),
        ({"restarts": 0}, r"`restarts` should be at least 1\. Found 0"),
        ({"step": 0.0}, r"`step` should be above 0, in radii\. Found 0\.0"),
        ({"step": float("nan")}, r"`step` should be above 0, in radii\. Found nan"),
        ({"start": -1.0}, r"`start` should be at least 0, in radii\. Found -1\.0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD(**options)


def test_names() -> None:
    assert [FGSM.name, PGD().name, PGD(restarts=3).name, PGD(steps=1).name] == ["fgsm", "pgd-10", "pgd-10x3", "pgd-1"]
