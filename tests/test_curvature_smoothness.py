"""Empirical Lipschitz constants against closed forms of logistic regression, and the theorem of Liu et al. 2020 on its tight example."""

from collections.abc import Iterable
from math import exp

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import odd_module, untouched
from isthmus._check import InputError
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.smoothness import Sampling, Smoothness, empirical_smoothness
from isthmus.losses import cross_entropy
from isthmus.problem import Posed
from isthmus.randomness import stream
from isthmus.theory.smooth import gradient_change_bound, sketch_jump


class Logistic(nn.Module):
    """Logits 0 and <w, x>: with label 0 the loss is log(1 + exp(<w, x>))."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.double())

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weight
        return torch.stack([torch.zeros_like(score), score], 1)


ONE, LABEL = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)


def sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z))


@pytest.mark.parametrize("theta", [-0.8, 0.0, 1.5])
@pytest.mark.parametrize("radius", [1e-3, 0.5])
def test_one_dimension_by_hand(theta: float, radius: float) -> None:
    """In one dimension +-1 are the only directions, so nothing is left to chance."""
    eps = 0.4
    inputs = (1 - eps, 1 + eps)
    x, moved = (torch.full((1, 1), value, dtype=torch.float64) for value in inputs)
    sampling = Sampling(radius, pairs=3)
    model = Logistic(torch.tensor([theta], dtype=torch.float64))
    found = empirical_smoothness(model, x, moved, LABEL, sampling=sampling, generator=stream(0))
    sides = (theta - radius, theta + radius)

    def gradient(t: float, value: float) -> float:
        return value * sigmoid(t * value)

    losses = [[torch.tensor(t * v, dtype=torch.float64).exp().log1p().item() for t in sides] for v in inputs]
    assert found.loss == pytest.approx(max(b - a for a, b in losses) / (2 * radius), rel=1e-9)
    slopes = [(gradient(sides[1], v) - gradient(sides[0], v)) / (2 * radius) for v in inputs]
    assert found.gradient == pytest.approx(max(slopes), rel=1e-9)
    mixed = [abs(gradient(t, inputs[1]) - gradient(t, inputs[0])) / (2 * eps) for t in sides]
    assert found.mixed == pytest.approx(max(mixed), rel=1e-9)
    assert (found.weight_pairs, found.input_pairs) == (6, 6)


@pytest.mark.parametrize("eps", [0.3, 0.6, 1.2])
def test_the_constant_2_is_attained_by_the_jump_of_the_tight_example(eps: float) -> None:
    """x = 1, log(1 + exp(theta + eps |theta|)): the gradients at +-h differ by eps + O(h), and 2 eps L_thx = eps with L_thx = 1/2 at 0.

    The constants are those met between the weights in question and the worst inputs 1 +- eps, where the loss is smooth.
    """

    def pose(module: nn.Module) -> Iterable[Posed]:
        theta = module.get_parameter("weight").detach()
        yield Posed(module, (ONE + eps * theta.sign(),), LABEL, lambda out, labels: cross_entropy(out[0], labels))

    low, high = ONE - eps, ONE + eps
    for h in (1e-2, 1e-4, 1e-6):
        model = Logistic(torch.zeros(1))
        loss = LossAt(model, pose)
        one, other = (loss.moved(torch.tensor([side]), repose=True).gradient() for side in (h, -h))
        gap = float((one - other).norm())
        assert gap == pytest.approx((1 + eps) * sigmoid(h * (1 + eps)) - (1 - eps) * sigmoid(-h * (1 - eps)), rel=1e-9)
        sampling = Sampling(h, pairs=1)
        found = empirical_smoothness(model, low, high, LABEL, sampling=sampling, generator=stream(0))
        assert found.mixed == pytest.approx(0.5, abs=h)
        assert found.gradient == pytest.approx((1 + eps) ** 2 / 4, rel=1e-3)
        bound = gradient_change_bound(2 * h, eps, in_theta=found.gradient, in_x=found.mixed or 0.0)
        assert gap <= bound
        assert bound - gap <= 4 * h * (1 + eps) ** 2  # the bound is exact as the weights meet
    assert gap == pytest.approx(sketch_jump(eps), abs=1e-5)


def logistic(norm: str = "linf", *, pairs: int = 10, radius: float = 0.3, seed: int = 0) -> Smoothness:
    generator = stream(0, "data")
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    moved = x + 0.1 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    model = Logistic(torch.tensor([0.5, -1.0, 0.2, 0.1]))
    sampling = Sampling(radius, pairs, norm)
    return empirical_smoothness(model, x, moved, torch.arange(6) % 2, sampling=sampling, generator=stream(seed))


def test_never_above_the_true_constants() -> None:
    """Of log(1 + exp(-s <w, x>)): ||x|| for the loss and ||x||^2 / 4 for its gradient, by |sigma| <= 1 and sigma' <= 1/4."""
    generator = stream(0, "data")
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    moved = x + 0.1 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    longest = float(torch.cat([x, moved]).norm(dim=1).max())
    found = logistic(pairs=60)
    assert 0.3 * longest < found.loss <= longest
    assert 0.3 * longest**2 / 4 < found.gradient <= longest**2 / 4
    assert found.weight_pairs == found.input_pairs == 2 * 6 * 60


def test_each_parameter_matters() -> None:
    base = logistic()
    assert base != logistic(seed=1)
    assert base != logistic(radius=0.6)
    assert base != logistic(pairs=11)
    mixed = [logistic(norm).mixed or 0.0 for norm in ("l1", "l2", "linf")]
    assert mixed[0] < mixed[1] < mixed[2]  # ||.||_1 >= ||.||_2 >= ||.||_inf


def test_inputs_from_a_callable_and_inputs_that_do_not_move() -> None:
    model, calls = Logistic(torch.tensor([0.5])), list[float]()
    draws = stream(3)

    def move(image: Tensor) -> Tensor:
        assert image.shape == (1, 1)
        calls.append(float(torch.rand((), generator=draws)))
        return image + 0.4 * calls[-1]

    sampling = Sampling(0.1, pairs=5)
    x, y = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    found = empirical_smoothness(model, x, move, y, sampling=sampling, generator=stream(0))
    assert len(calls) == len(set(calls)) == 10
    assert found.mixed is not None
    assert found.input_pairs == 20
    still = empirical_smoothness(model, x, x, y, sampling=sampling, generator=stream(0))
    assert (still.mixed, still.input_pairs, still.weight_pairs) == (None, 0, 20)
    assert still.gradient < found.gradient  # which also saw steeper inputs


def test_a_module_is_left_as_it_was_and_frozen_weights_are_not_moved() -> None:
    model, x = odd_module(0), torch.rand(2, 3, 8, 8, generator=stream(0))
    sampling = Sampling(0.1, pairs=2)
    with untouched(model):
        found = empirical_smoothness(model, x, x + 0.01, torch.tensor([0, 1]), sampling=sampling, generator=stream(0))
    assert min(found.loss, found.gradient, found.mixed or 0.0) > 0
    model.requires_grad_(False)
    model.head.bias.requires_grad_()
    only = empirical_smoothness(model, x, x + 0.01, torch.tensor([0, 1]), sampling=sampling, generator=stream(0))
    assert only.loss < 2**0.5 + 1e-6  # ||p - e_y|| <= sqrt(2) is the gradient in the bias
    assert only.gradient < 0.5 + 1e-6  # and diag p - p p' its Hessian, at most 1/2


def test_bad_input() -> None:
    model, x, y = Logistic(torch.tensor([0.5])), torch.ones(2, 1, dtype=torch.float64), torch.zeros(2).long()
    for radius in (0.0, -1.0, float("inf")):
        with pytest.raises(InputError, match=r"`radius` should be above 0 and finite. Found"):
            Sampling(radius)
    with pytest.raises(InputError, match=r"`pairs` should be at least 1. Found 0"):
        Sampling(1.0, 0)
    with pytest.raises(InputError, match=r"`norm` should be one of l1, l2, linf. Found 'l3'"):
        Sampling(1.0, norm="l3")
    with pytest.raises(InputError, match=r"`moved` should have shape \(2, 1\). Found \(1, 1\)"):
        empirical_smoothness(model, x, x[:1], y, sampling=Sampling(1.0), generator=stream(0))
    with pytest.raises(InputError, match=r"`y` should have shape \(2,\)"):
        empirical_smoothness(model, x, x, y[:1], sampling=Sampling(1.0), generator=stream(0))
    with pytest.raises(InputError, match=r"`model` should have finite gradients around its weights. Found NaN"):
        empirical_smoothness(model, 1e10 * x, x, y, sampling=Sampling(1e300), generator=stream(0))
    model.requires_grad_(False)
    with pytest.raises(InputError, match=r"`model` should have parameters that require a gradient"):
        empirical_smoothness(model, x, x, y, sampling=Sampling(1.0), generator=stream(0))
