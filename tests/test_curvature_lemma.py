"""The bounds of Zhao et al. against exact maximisers of quadratics and a brute-force search on a network."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import InputError
from isthmus.curvature.input_hessian import input_eigenvalues
from isthmus.curvature.lemma import Norm, change_bounds, robust_loss_bounds


def trust_region(g: np.ndarray, h: np.ndarray, radius: float) -> float:
    """Return the exact maximum of g'd + d'Hd/2 over the L2 ball by its convex dual in one number.

    min over mu >= max(lambda_max, 0) of sum g_i^2 / (mu - lambda_i) / 2 + mu radius^2 / 2, with g in the eigenbasis.
    """
    values, vectors = np.linalg.eigh(h)
    parts = (vectors.T @ g) ** 2
    floor = max(float(values[-1]), 0.0)

    def dual(log_shift: float) -> float:
        mu = floor + np.exp(log_shift)
        return float((parts / (mu - values)).sum() / 2 + mu * radius**2 / 2)

    return float(minimize_scalar(dual, bounds=(-30, 30), method="bounded", options={"xatol": 1e-12}).fun)


def quadratic(seed: int, size: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((size, size))
    return rng.standard_normal(size), (a + a.T) / 2 + shift * np.eye(size)


def parts(g: np.ndarray, h: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors = np.linalg.eigh(h)
    cosine = abs(g @ vectors[:, -1]) / np.linalg.norm(g)
    return tuple(torch.tensor([float(v)], dtype=torch.float64) for v in (np.linalg.norm(g), values[-1], cosine))


@pytest.mark.parametrize("shift", [-20.0, -2.0, 0.0, 5.0])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 10.0])
def test_the_exact_maximum_over_the_l2_ball_lies_between(shift: float, radius: float) -> None:
    """Convex, concave and indefinite quadratics; -20 makes all curvature negative and puts the best point inside the ball."""
    for seed, size in enumerate((1, 2, 5, 9)):
        g, h = quadratic(seed, size, shift)
        exact = trust_region(g, h, radius)
        found = change_bounds(*parts(g, h), radius)
        assert found.lower.item() <= exact * (1 + 1e-6)
        assert exact <= found.upper.item() * (1 + 1e-6)
        if size == 1:
            assert found.lower.item() == pytest.approx(exact, rel=1e-6)
            assert found.upper.item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("shift", [-20.0, 0.0, 5.0])
def test_the_bounds_meet_where_the_gradient_is_the_top_eigenvector(shift: float) -> None:
    _, h = quadratic(0, 6, shift)
    v = np.linalg.eigh(h)[1][:, -1]
    for radius in (0.01, 1.0):
        exact = trust_region(3 * v, h, radius)
        found = change_bounds(*parts(3 * v, h), radius)
        assert found.lower.item() == pytest.approx(exact, rel=1e-6)
        assert found.upper.item() == pytest.approx(exact, rel=1e-6)


def test_each_bound_is_reached_by_some_quadratic() -> None:
    """Lower: no slope along v and no curvature across (then c = 0, H = 0 elsewhere). Upper: curvature lambda in every direction."""
    v = np.eye(3)[2]
    found = change_bounds(*parts(1e-9 * np.eye(3)[0], 4 * np.outer(v, v)), 0.5)
    assert found.lower.item() == pytest.approx(0.5, rel=1e-6)
    assert trust_region(1e-9 * np.eye(3)[0], 4 * np.outer(v, v), 0.5) == pytest.approx(0.5, rel=1e-6)
    g = np.array([1.0, 2.0, 2.0])
    assert change_bounds(*parts(g, 4 * np.eye(3)), 0.5).upper.item() == pytest.approx(
        trust_region(g, 4 * np.eye(3), 0.5), rel=1e-6
    )


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_other_balls_by_the_corners_of_convex_quadratics(norm: Norm) -> None:
    """A convex function is largest at a corner: all 2^d signs for Linf, +- each axis for L1."""
    for seed in range(5):
        size, radius = 6, 0.4
        g, h = quadratic(seed, size, 8.0)
        if norm == "linf":
            corners = np.array(np.meshgrid(*[[-radius, radius]] * size)).reshape(size, -1).T
        else:
            corners = radius * np.vstack([np.eye(size), -np.eye(size)])
        assert np.linalg.eigvalsh(h)[0] > 0
        exact = (corners @ g + ((corners @ h) * corners).sum(1) / 2).max()
        found = change_bounds(*parts(g, h), radius, norm=norm, dim=size)
        assert found.lower.item() <= exact <= found.upper.item()
        l2 = change_bounds(*parts(g, h), radius)
        side = found.lower if norm == "linf" else found.upper
        assert side.item() == (l2.lower if norm == "linf" else l2.upper).item()


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(4)
        model[2].weight.mul_(6)
    return model


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_the_robust_loss_of_a_network_up_to_third_order(norm: Norm) -> None:
    """Brute force over the boundary and the inside of a plane ball. What is left of the excess shrinks like radius^3."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(12, 2, generator=generator, dtype=torch.float64), torch.arange(12) % 3
    model = network(0)
    spectrum = input_eigenvalues(model, x, y)
    angle = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    ring = ring / {"l2": 1.0, "linf": ring.abs().amax(1, keepdim=True), "l1": ring.abs().sum(1, keepdim=True)}[norm]
    ball = torch.cat([ring * share for share in (0.25, 0.5, 0.75, 1.0)])
    excess: list[float] = []
    for radius in (0.02, 0.01):
        points = x[:, None] + radius * ball
        logits = model(points.flatten(0, 1))
        losses = functional.cross_entropy(logits, y.repeat_interleave(len(ball)), reduction="none")
        worst = losses.view(len(x), -1).amax(1).detach()
        bounds = robust_loss_bounds(spectrum, radius, norm=norm)
        # The second-order term is seen at this radius: without it the excess would not be of third order.
        assert float((spectrum.eigenvalues[:, 0] * radius**2 / 2).max()) > 1e-3
        excess.append(float(torch.maximum(bounds.lower - worst, worst - bounds.upper).clamp_min(0).max()))
    assert excess[0] <= 30 * 0.02**3 * float(spectrum.gradient_norm.max())
    assert excess[1] <= excess[0] / 6 + 1e-12


def test_a_direction_that_does_not_exist_counts_as_cosine_zero() -> None:
    nan, two, zero = (torch.tensor([v], dtype=torch.float64) for v in (torch.nan, 2.0, 0.0))
    assert change_bounds(zero, two, nan, 0.5).lower.item() == change_bounds(zero, two, nan, 0.5).upper.item() == 0.25
    linear = change_bounds(two, zero, nan, 0.5)
    assert (linear.lower.item(), linear.upper.item()) == (0.0, 1.0)


def test_bad_input() -> None:
    one = torch.ones(2)
    for radius in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"`radius` should be positive and finite. Found"):
            change_bounds(one, one, one, radius)
    with pytest.raises(InputError, match=r"`norm` should be one of l1, l2, linf. Found 'l3'"):
        change_bounds(one, one, one, 1.0, norm="l3")
    with pytest.raises(InputError, match=r"`dim` should be at least 1. Found 0"):
        change_bounds(one, one, one, 1.0, dim=0)
    with pytest.raises(InputError, match=r"`gradient_norm` should have the shape of `eigenvalue` and `cosine`"):
        change_bounds(torch.ones(3), one, one, 1.0)
    with pytest.raises(InputError, match=r"`gradient_norm` should be at least 0. Found -1"):
        change_bounds(-one, one, one, 1.0)
    with pytest.raises(InputError, match=r"`cosine` should lie in \[0, 1\]. Found -1 to -1. Pass its absolute value"):
        change_bounds(one, one, -one, 1.0)
