"""Adversarial objectives: the closed form of linear models, what is crafted where, what stays as it was."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import seeded, untouched
from fit_example import gradient_plan, small, toy
from isthmus._check import InputError
from isthmus.attacks.pgd import PGD
from isthmus.attacks.protocol import Attacked
from isthmus.attacks.threat import Norm, Threat
from isthmus.geometry.build import bezier
from isthmus.layout import Layout
from isthmus.losses import cross_entropy
from isthmus.training.adversarial import Adversarial, Trades, craft, divergence
from isthmus.training.ascent import ascend
from isthmus.training.budget import Budget
from isthmus.training.fit import fit, fit_module
from isthmus.training.plan import Plan, learning_rate

FULL = Budget(kind="constant", target=1.0)
STEEP = PGD(steps=30, step=0.3)


def wide(norm: Norm, radius: float) -> Threat:
    """A threat whose box is never reached."""
    return Threat(norm, radius, -50.0, 50.0)


def linear(classes: int = 2, inputs: int = 7) -> nn.Module:
    with seeded(3):
        return nn.Linear(inputs, classes).double()


def drawn(n: int = 16, inputs: int = 7, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, inputs, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def posed(objective: Adversarial | Trades, model: nn.Module, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return objective(model, x, y, generator=generator, progress=progress)()[0]


def worst_logistic(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, radius: float) -> Tensor:
    """log(1 + exp(-(w_y - w_j).x + eps ||w_y - w_j||_q)), two classes (Liu et al. 2020, section 3)."""
    assert isinstance(model, nn.Linear)
    sign = 1.0 - 2.0 * y
    w, b = (model.weight[0] - model.weight[1]).detach(), (model.bias[0] - model.bias[1]).detach()
    dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    return functional.softplus(-(x @ w + b) * sign + radius * dual)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("radius", [0.01, 0.7])
def test_the_loss_of_a_linear_model_is_its_closed_form(norm: Norm, radius: float) -> None:
    model, (x, y) = linear(), drawn()
    found = posed(Adversarial(STEEP, (wide(norm, radius),), FULL), model, x, y)
    torch.testing.assert_close(found, worst_logistic(model, x, y, norm, radius), rtol=1e-6, atol=1e-9)


def test_several_norms_are_joined_by_the_worst_or_the_mean() -> None:
    model, (x, y) = linear(), drawn()
    threats = (wide("linf", 0.1), wide("l2", 0.4))
    each = torch.stack([worst_logistic(model, x, y, t.norm, float(t.radius)) for t in threats])
    assert (each[0] > each[1]).any() or (each[0] < each[1]).any()
    for combine, expected in (("max", each.amax(0)), ("mean", each.mean(0))):
        found = posed(Adversarial(STEEP, threats, FULL, combine), model, x, y)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert Adversarial(STEEP, threats, FULL).crafting == 60


def test_a_mix_is_the_weighted_sum() -> None:
    model, (x, y) = linear(), drawn()
    found = posed(Adversarial(STEEP, (wide("linf", 0.2),), FULL, clean_weight=0.3), model, x, y)
    expected = 0.7 * worst_logistic(model, x, y, "linf", 0.2) + 0.3 * cross_entropy(model(x), y)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_budget_of_zero_is_the_plain_loss() -> None:
    model, (x, y) = linear(), drawn()
    rising = Budget(kind="periodic-linear", target=1.0)
    objective = Adversarial(STEEP, (wide("linf", 0.2),), rising)
    assert torch.equal(posed(objective, model, x, y), cross_entropy(model(x), y))
    assert objective.settings(0.0) == {"radius": 0.0}
    assert objective.settings(0.25)["radius"] == pytest.approx(0.2 * rising.at(0.25))
    assert torch.equal(posed(Trades(STEEP, wide("linf", 0.2), rising), model, x, y), cross_entropy(model(x), y))


def test_trades_is_its_formula_at_what_was_crafted() -> None:
    model, (x, y) = linear(3), drawn(classes=3)
    threat = wide("l2", 0.5)
    attack = PGD(steps=4, step=0.4, start=0.1)
    clean = model(x).detach()
    crafted = replace(attack, loss=lambda out, _: divergence(clean, out))
    moved = craft(model, crafted, threat, (x, y), generator=torch.Generator().manual_seed(0), mode="eval")
    p = functional.log_softmax(model(x), 1)
    gap = functional.kl_div(functional.log_softmax(model(moved), 1), p, reduction="none", log_target=True).sum(1)
    assert gap.min() > 0
    objective = Trades(attack, threat, FULL, beta=2.5)
    torch.testing.assert_close(posed(objective, model, x, y), cross_entropy(model(x), y) + 2.5 * gap)
    assert objective.crafting == 4


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_crafting_leaves_the_model_as_it_was(mode: str) -> None:
    model, samples = small(0, norm=True), toy()
    model.train()
    x = samples.inputs(torch.arange(8)).double()
    with untouched(model):
        craft(model, PGD(2), Threat(), (x, samples.y[:8]), generator=torch.Generator(), mode=mode)  # type: ignore[arg-type]
    assert all(p.requires_grad for p in model.parameters())


def test_the_statistics_while_crafting_are_those_asked_for() -> None:
    model, samples = small(0, norm=True), toy()
    model.train()
    x = samples.inputs(torch.arange(8)).double()

    def moved(mode: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return craft(model, PGD(3, 0.4), Threat(), (x, samples.y[:8]), generator=generator, mode=mode)  # type: ignore[arg-type]

    assert not torch.equal(moved("eval"), moved("train"))
    model.eval()
    assert torch.equal(moved("eval"), moved("train"))


@dataclass(frozen=True)
class Watching:
    """An attack that notes the weights it sees and moves nothing."""

    steps: int = 3
    restarts: int = 1
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, victim, threat, x, y, *, generator, keep="verdict") -> Attacked:  # type: ignore[no-untyped-def]
        self.seen.append(torch.cat([p.detach().flatten() for p in victim.model.parameters()]).clone())
        return Attacked(torch.zeros(len(x), dtype=torch.bool), x, x, torch.zeros(len(x)))


@pytest.mark.parametrize("changes", [{}, {"sharpness": 0.5}, {"sharpness": 0.1, "ascent": "layerwise"}])
def test_a_bridge_is_attacked_at_the_point_that_was_drawn_once_in_a_step(changes: dict[str, object]) -> None:
    watching, points = Watching(), []
    bridge = bezier([small(0), small(1)])
    plan = Plan.model_validate({"steps": 3, "batch_size": 8, "log_every": 1, "channels_last": False, **changes})
    objective = Adversarial(watching, (Threat(),), FULL)  # type: ignore[arg-type]
    fit(bridge, toy(), plan, seed=4, objective=objective)
    assert len(watching.seen) == 3
    first = watching.seen[0]
    ends = torch.stack([bridge.fixed[0], bridge.free[0], bridge.fixed[1]])
    along = (first - ends[0]) @ (ends[2] - ends[0]) / (ends[2] - ends[0]).square().sum()
    points.append(along.item())
    torch.testing.assert_close(first, ends[0] + along * (ends[2] - ends[0]))  # an untrained curve is the segment
    assert 0 < points[0] < 1


def test_gradients_are_counted_with_those_of_crafting() -> None:
    objective = Adversarial(PGD(steps=4, restarts=2), (Threat(),), FULL)
    _, fitted = fit_module(small(0), toy(), Plan(steps=5, batch_size=8), seed=0, objective=objective)
    assert fitted.evaluations == 5 * (8 + 1)
    assert fitted.history.values("radius") == [pytest.approx(8 / 255)] * 5


@pytest.mark.parametrize("rho", [0.01, 0.5])
def test_layerwise_ascent_moves_each_tensor_by_its_share(rho: float) -> None:
    module = small(0)
    layout = Layout.of(module)
    weights = layout.flatten(dict(module.named_parameters()))
    gradient = torch.randn(layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = weights.clone()
    ascend(gradient_plan(sharpness=rho, ascent="layerwise"), layout, moved, gradient)
    before, after, slope = layout.unflatten(weights), layout.unflatten(moved), layout.unflatten(gradient)
    for name, start in before.items():
        step = after[name] - start
        if start.ndim == 1:
            assert not step.any()
        else:
            assert step.norm().item() == pytest.approx(rho * start.norm().item())
            cosine = functional.cosine_similarity(step.flatten(), slope[name].flatten(), dim=0)
            assert cosine.item() == pytest.approx(1.0)


def test_with_resets_every_cycle_is_a_schedule_of_its_own() -> None:
    plan = Plan(steps=100, learning_rate=1.0, resets=(0.5, 0.75))
    assert plan.cycle_ends == (50, 75, 100)
    for start, length in ((0, 50), (50, 25), (75, 25)):
        for k in (0, 1, length - 1):
            assert learning_rate(plan, start + k) == pytest.approx((1 + math.cos(math.pi * k / length)) / 2)
    single = Plan(steps=100, learning_rate=1.0, resets=(0.5,), restart_rate=False)
    assert learning_rate(single, 60) == learning_rate(Plan(steps=100, learning_rate=1.0), 60)
    with pytest.raises(ValueError, match=r"`resets` should rise. Found \(0.5, 0.5\)"):
        Plan(resets=(0.5, 0.5))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"`threats` should hold at least one threat. Found none"):
        Adversarial(PGD(), (), FULL)
    with pytest.raises(InputError, match=r"`clean_weight` should be in \[0, 1\). Found 1.0"):
        Adversarial(PGD(), (Threat(),), FULL, clean_weight=1.0)
    with pytest.raises(InputError, match=r"`beta` should be above 0. Found 0.0"):
        Trades(PGD(), Threat(), FULL, beta=0.0)
