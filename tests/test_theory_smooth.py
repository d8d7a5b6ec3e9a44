"""The example in one dimension against automatic and numerical derivatives, and the theorem's numbers as printed."""

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional

from isthmus._check import InputError
from isthmus.theory import binary_loss
from isthmus.theory.smooth import MIXED_AT_ZERO, gradient_change_bound, sketch, sketch_jump, stall_probability

BUDGETS = (0.0, 0.6, 1.0, 1.2)


@pytest.mark.parametrize("eps", BUDGETS)
def test_the_sketch_is_the_loss_of_one_point(eps: float) -> None:
    theta = torch.linspace(-3, 3, 61, dtype=torch.float64)
    found = sketch(theta, eps)
    at = theta.clone().requires_grad_()
    plain = functional.softplus(at + eps * at.abs())
    (slope,) = torch.autograd.grad(plain.sum(), at)
    assert torch.allclose(found.loss, plain)
    away = theta != 0
    assert torch.allclose(found.left[away], slope[away])
    assert torch.allclose(found.right[away], slope[away])
    for value in theta[::10]:
        loss = binary_loss(value[None], torch.ones(1), -1, eps).loss
        assert loss.item() == pytest.approx(sketch(value, eps).loss.item(), rel=1e-12)


@pytest.mark.parametrize("eps", BUDGETS)
def test_the_jump_is_eps_and_the_constant_2_is_tight(eps: float) -> None:
    at = sketch(torch.tensor(0.0, dtype=torch.float64), eps)
    assert (at.right - at.left).item() == pytest.approx(sketch_jump(eps))
    h = 1e-7
    near = sketch(torch.tensor([-h, 0.0, h], dtype=torch.float64), eps).loss
    assert ((near[2] - near[1]) / h).item() == pytest.approx(at.right.item(), abs=1e-6)
    assert ((near[1] - near[0]) / h).item() == pytest.approx(at.left.item(), abs=1e-6)
    assert gradient_change_bound(0.0, eps, in_theta=5.0, in_x=MIXED_AT_ZERO) == pytest.approx(sketch_jump(eps))


def test_the_mixed_derivative_of_the_example() -> None:
    """1/2 at theta = 0 for every x, and at most 1.1 anywhere."""
    x = torch.linspace(-9, 9, 37, dtype=torch.float64, requires_grad=True)
    for theta, expected in ((0.0, 0.5), (1.3, None)):
        leaf = torch.full_like(x, theta, requires_grad=True)
        (slope,) = torch.autograd.grad(functional.softplus(leaf * x).sum(), leaf, create_graph=True)
        (mixed,) = torch.autograd.grad(slope.sum(), x)
        if expected is not None:
            assert torch.allclose(mixed, torch.full_like(mixed, MIXED_AT_ZERO))
        assert mixed.abs().max() < 1.1


@pytest.mark.parametrize("eps", [0.3, 1.2])
def test_the_theorem_bounds_the_change_of_the_gradient(eps: float) -> None:
    """Constants by a grid over theta in [-2, 2] and x' in the ball; pairs near 0 come within 2 % of the bound's jump alone."""
    theta = torch.linspace(-2, 2, 401, dtype=torch.float64)
    x = torch.linspace(1 - eps, 1 + eps, 201, dtype=torch.float64)
    share = (theta[:, None] * x).sigmoid()
    bend = share * (1 - share)
    in_theta, in_x = (bend * x.square()).max().item(), (share + theta[:, None] * x * bend).abs().max().item()
    slopes = sketch(theta, eps).right
    change = (slopes[:, None] - slopes).abs()
    distance = (theta[:, None] - theta).abs()
    for c, d in zip(change.flatten()[::37].tolist(), distance.flatten()[::37].tolist(), strict=True):
        assert c <= gradient_change_bound(d, eps, in_theta=in_theta, in_x=in_x) + 1e-12
    middle = len(theta) // 2
    assert change[middle + 1, middle - 1].item() == pytest.approx(sketch_jump(eps), rel=0.02)


def test_the_minimiser_is_the_origin_above_one_and_infinitely_far_below() -> None:
    def loss(theta: float, eps: float) -> float:
        return sketch(torch.tensor(theta, dtype=torch.float64), eps).loss.item()

    least = minimize_scalar(loss, args=(1.2,), bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    assert least.x == pytest.approx(0, abs=1e-6)
    assert loss(-100.0, 0.6) < 1e-15 < loss(-10.0, 0.6)
    assert {round(loss(theta, 1.0), 12) for theta in (-5.0, -1.0, 0.0)} == {
        round(torch.tensor(2.0).double().log().item(), 12)
    }


def test_the_stall_probabilities_of_the_paper() -> None:
    for gamma, expected in ((2, 1.0), (3, 0.571), (4, 0.333), (6, 0.143), (10, 0.048)):
        assert stall_probability(gamma) == pytest.approx(expected, abs=5e-4)


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"`gamma` should be finite and at least 2. Found 1.9"):
        stall_probability(1.9)
    with pytest.raises(InputError, match=r"`in_theta` should be finite and at least 0. Found -1"):
        gradient_change_bound(1.0, 0.1, in_theta=-1, in_x=1.0)
    for wrong in (lambda: sketch(torch.zeros(1), -1), lambda: sketch_jump(-1)):
        with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
            wrong()
