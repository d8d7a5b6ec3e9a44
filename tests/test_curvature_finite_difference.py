"""The curvature of the true adversarial loss against closed forms: logistic regression in Linf and L2 balls, and a jump."""

from collections.abc import Iterable
from math import exp, log, log1p

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import seeded, untouched
from isthmus._check import InputError
from isthmus.curvature.finite_difference import STEPS, Directional, difference, directional_curvature, top_curvature
from isthmus.curvature.loss_at import LossAt
from isthmus.losses import cross_entropy
from isthmus.problem import Pose, Posed
from isthmus.randomness import stream

DIM, N = 6, 9


class Logistic(nn.Module):
    """Logits 0 and <w, x>."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weight
        return torch.stack([torch.zeros_like(score), score], 1)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(N, DIM, generator=stream(0, "x"), dtype=torch.float64), torch.arange(N) % 2


def weight() -> Tensor:
    """All weights at least 0.3 from zero, where the Linf adversary would jump."""
    w = torch.randn(DIM, generator=stream(0, "w"), dtype=torch.float64)
    return w + 0.3 * w.sign()


def attack(x: Tensor, y: Tensor, eps: float, norm: str, *, turn: Tensor | None = None) -> Pose:
    """Pose the exact worst inputs of a logistic model; with `turn` they go along a rotated gradient, and are not the worst."""

    def pose(module: nn.Module) -> Iterable[Posed]:
        w = module.get_parameter("weight").detach()
        push = w.sign() if norm == "linf" else w / w.norm()
        push = push if turn is None else turn @ push
        worst = x - (2 * y.double() - 1)[:, None] * eps * push
        for place in (slice(0, 4), slice(4, None)):
            if len(x[place]):
                yield Posed(
                    module, (worst[place],), y[place], lambda outputs, labels: cross_entropy(outputs[0], labels)
                )

    return pose


def true_loss(w: Tensor, eps: float, norm: str) -> Tensor:
    """mean log(1 + exp(-s <w, x> + eps ||w||_q)), q dual to the norm."""
    x, y = data()
    dual = w.abs().sum() if norm == "linf" else w.norm()
    return functional.softplus(-(2 * y.double() - 1) * (x @ w) + eps * dual).mean()


def true_hessian(eps: float, norm: str) -> Tensor:
    return torch.autograd.functional.hessian(lambda w: true_loss(w, eps, norm), weight())


def frozen_hessian(eps: float, norm: str) -> Tensor:
    """mean s(m) s(-m) x'x'' at the worst inputs x' of `weight`, by hand."""
    x, y = data()
    sign, w = 2 * y.double() - 1, weight()
    push = w.sign() if norm == "linf" else w / w.norm()
    worst = x - sign[:, None] * eps * push
    share = (-sign * (worst @ w)).sigmoid()
    return (worst * (share * (1 - share))[:, None]).T @ worst / N


def found(eps: float, norm: str, v: Tensor, steps: tuple[float, ...] = (1e-2, 1e-3)) -> Directional:
    return directional_curvature(LossAt(Logistic(weight()), attack(*data(), eps, norm)), v, steps=steps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.7])
def test_logistic_regression_has_the_second_derivative_of_its_closed_form(norm: str, eps: float) -> None:
    """Differences are central: their error falls as h^2, 1e-6 at h = 1e-3."""
    true, frozen = true_hessian(eps, norm), frozen_hessian(eps, norm)
    for seed in range(4):
        v = torch.randn(DIM, generator=stream(seed, "v"), dtype=torch.float64)
        unit = v / v.norm()
        curvature = found(eps, norm, v)
        assert curvature.frozen == pytest.approx(float(unit @ frozen @ unit), rel=1e-10)
        for row, tolerance in zip(curvature.differences, (1e-4, 1e-6), strict=True):
            assert row.recrafted == pytest.approx(float(unit @ true @ unit), rel=10 * tolerance, abs=tolerance)
            assert row.kept == pytest.approx(curvature.frozen, rel=10 * tolerance, abs=tolerance)
            assert row.values == pytest.approx(row.recrafted, rel=10 * tolerance, abs=tolerance)
            assert row.rounding < 1e-8


def test_moving_examples_add_nothing_in_linf_and_a_known_term_in_l2() -> None:
    """Away from w_i = 0 the Linf worst input stands still. In L2 it turns with w: eps mean(s) (1 - <v, w>^2 / ||w||^2) / ||w|| more."""
    v, w = torch.eye(DIM, dtype=torch.float64)[2], weight()
    x, y = data()
    row = found(0.5, "linf", v).differences[-1]
    assert row.recrafted == pytest.approx(row.kept, abs=1e-12)
    row = found(0.5, "l2", v).differences[-1]
    share = (-(2 * y.double() - 1) * (x @ w) + 0.5 * w.norm()).sigmoid().mean()
    term = float(0.5 * share * (1 - (v @ w) ** 2 / w.norm() ** 2) / w.norm())
    assert term > 0.05
    assert row.recrafted - row.kept == pytest.approx(term, rel=1e-4)


@pytest.mark.parametrize("eps", [0.3, 1.2])
def test_a_gradient_that_jumps_by_eps_shows_as_eps_over_2h(eps: float) -> None:
    """Liu et al. 2020, section 3: x = 1, log(1 + exp(theta + eps |theta|)), whose derivative jumps by eps at 0."""
    one, label = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    loss = LossAt(Logistic(torch.zeros(1, dtype=torch.float64)), attack(one, label, eps, "linf"))
    curvature = directional_curvature(loss, torch.tensor([-3.0]), steps=STEPS)
    assert curvature.frozen == pytest.approx(0.25, rel=1e-12)

    def slope(theta: float) -> float:
        factor = 1 + eps if theta > 0 else 1 - eps
        return factor / (1 + exp(-theta * factor))

    for row in curvature.differences:
        h = row.step
        assert row.recrafted == pytest.approx((slope(h) - slope(-h)) / (2 * h), rel=1e-9)
        second = log1p(exp(h * (1 + eps))) + log1p(exp(-h * (1 - eps))) - 2 * log(2)
        assert row.values == pytest.approx(second / h**2, rel=1e-6)
        assert row.kept == pytest.approx(0.25, abs=h**2)
        # The jump alone is eps / 2h; what is left is the curvature on the two sides, (1 + eps^2) / 4.
        assert row.recrafted - eps / (2 * h) == pytest.approx((1 + eps**2) / 4, abs=h)
        assert row.values - eps / h == pytest.approx((1 + eps**2) / 4, abs=h)


def test_the_top_curvature_of_the_true_loss() -> None:
    """In L2 it is above that at frozen examples, and found to the residual."""
    loss = LossAt(Logistic(weight()), attack(*data(), 0.7, "l2"))
    exact = torch.linalg.eigvalsh(true_hessian(0.7, "l2"))
    top = top_curvature(loss, step=1e-4, products=400, generator=stream(0), tolerance=1e-3)
    assert top.converged
    assert abs(top.value - float(exact[-1])) <= top.residual <= 1e-3 * top.value
    assert float(top.vector @ true_hessian(0.7, "l2") @ top.vector) == pytest.approx(top.value, rel=1e-5)
    assert top.value > 1.05 * float(torch.linalg.eigvalsh(frozen_hessian(0.7, "l2"))[-1])
    assert top.asymmetry is not None
    assert top.asymmetry < 1e-5
    early = top_curvature(loss, step=1e-4, products=2, generator=stream(0))
    assert (early.converged, early.products) == (False, 2)
    assert early.value < top.value
    assert early.residual > 1e-3 * early.value
    single = top_curvature(loss, step=1e-4, products=1, generator=stream(0))
    assert single.asymmetry is None
    assert single.value != top_curvature(loss, step=1e-4, products=1, generator=stream(1)).value
    assert single.value != top_curvature(loss, step=1.0, products=1, generator=stream(0)).value


def test_an_attack_that_misses_the_maximum_shows_as_asymmetry() -> None:
    """x' = x - s eps R w/||w|| with a rotation R: its gradients are of no one function, C(v) of no symmetric matrix."""
    turn = torch.eye(DIM, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turn[2:4, 2:4] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    exact = LossAt(Logistic(weight()), attack(*data(), 0.7, "l2"))
    missing = LossAt(Logistic(weight()), attack(*data(), 0.7, "l2", turn=turn))
    good, bad = (top_curvature(loss, step=1e-3, products=20, generator=stream(0)) for loss in (exact, missing))
    assert good.asymmetry is not None
    assert bad.asymmetry is not None
    assert good.asymmetry < 1e-3 < 0.05 < bad.asymmetry
    # The gradient of the losses found and the losses themselves disagree too.
    v = torch.ones(DIM, dtype=torch.float64)
    row = difference(missing, v, 1e-3)
    assert abs(row.values - row.recrafted) > 0.005
    row = difference(exact, v, 1e-3)
    assert abs(row.values - row.recrafted) < 1e-5


def test_owners_weights_stay_and_frozen_ones_are_not_moved() -> None:
    """In a network of which one layer is frozen the top vector is zero there; the value is that of the dense Hessian of the rest."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().train()
    model[0].requires_grad_(False)
    x, y = torch.randn(8, 3, generator=stream(1), dtype=torch.float64), torch.arange(8) % 2

    def pose(module: nn.Module) -> Iterable[Posed]:
        yield Posed(module, (x,), y, lambda outputs, labels: cross_entropy(outputs[0], labels))

    with untouched(model):
        top = top_curvature(LossAt(model, pose), step=1e-4, products=300, generator=stream(0), tolerance=1e-5)
        directional_curvature(LossAt(model, pose), torch.ones(26), steps=(0.1,))
    hidden = torch.tanh(model[0](x)).detach()
    dense = torch.autograd.functional.hessian(
        lambda flat: cross_entropy(hidden @ flat[:8].view(2, 4).T + flat[8:], y).mean(),
        torch.cat([model[2].weight.detach().flatten(), model[2].bias.detach()]),
    )
    assert bool((top.vector[:16] == 0).all())
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-5)


def test_no_curvature_at_all() -> None:
    x, y = torch.zeros(2, DIM, dtype=torch.float64), torch.arange(2)
    top = top_curvature(LossAt(Logistic(weight()), attack(x, y, 0.0, "l2")), step=0.1, products=5, generator=stream(0))
    assert (top.value, top.residual, top.converged, top.products) == (0.0, 0.0, True, 1)


def test_the_table() -> None:
    table = found(0.5, "l2", torch.ones(DIM), steps=(0.1, 0.01, 0.001)).table()
    assert list(table.frame.columns) == ["step", "recrafted", "kept", "values", "rounding", "frozen"]
    assert table.frame["step"].tolist() == [0.1, 0.01, 0.001]
    assert table.frame["frozen"].nunique() == 1
    assert table.columns[1].n == N


def test_bad_input() -> None:
    loss = LossAt(Logistic(weight()), attack(*data(), 0.5, "l2"))
    v = torch.ones(DIM)
    with pytest.raises(InputError, match=r"`steps` should name at least one step. Found none"):
        directional_curvature(loss, v, steps=())
    for step in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"`step` should be above 0 and finite. Found"):
            difference(loss, v, step)
        with pytest.raises(InputError, match=r"`step` should be above 0 and finite. Found"):
            top_curvature(loss, step=step, products=3, generator=stream(0))
    with pytest.raises(InputError, match=r"`direction` should have shape \(6,\). Found \(5,\)"):
        difference(loss, torch.ones(5), 0.1)
    for bad in (torch.zeros(DIM), torch.full((DIM,), torch.inf)):
        with pytest.raises(InputError, match=r"`direction` should be finite and not zero. Found a length of"):
            difference(loss, bad, 0.1)
    with pytest.raises(InputError, match=r"`products` should be at least 1. Found 0"):
        top_curvature(loss, step=0.1, products=0, generator=stream(0))
    with pytest.raises(InputError, match=r"`tolerance` should lie between 0 and 1. Found 0"):
        top_curvature(loss, step=0.1, products=3, generator=stream(0), tolerance=0.0)
    far = LossAt(Logistic(weight()), attack(1e10 * data()[0], data()[1], 0.5, "l2"))
    with pytest.raises(
        InputError, match=r"`loss` should have finite gradients around its weights. Found nan in product 1"
    ):
        top_curvature(far, step=1e300, products=3, generator=stream(0))
