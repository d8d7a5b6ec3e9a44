"""Bad directions against the loss along them, computed from every vertex of the ball; no closed form is assumed there."""

from math import inf

import pytest
import torch
from torch import Tensor

from isthmus._check import InputError
from isthmus.theory import (
    ClassMeans,
    bad_budget,
    bad_budget_of_data,
    data_in_bad_directions,
    in_bad_directions,
    in_version_space,
    point_budget,
)
from theory_example import ORDERS, brute_loss, case

STEP = 1e-7  # the second order and the rounding of the loss are both far below what is told apart


def stays(W: Tensor, x: Tensor, y: Tensor, eps: float, p: float, bias: Tensor | None = None) -> bool:
    """Whether the mean loss does not fall on leaving W = 0 along W or -W. It is convex along that line, so near 0 is enough."""
    at = brute_loss(torch.zeros_like(W), x, y, 0.0, p, bias).mean()
    return all(bool(brute_loss(c * W, x, y, eps, p, bias).mean() >= at) for c in (STEP, -STEP))


def means(x: Tensor, y: Tensor, classes: int) -> ClassMeans:
    counts = torch.bincount(y, minlength=classes).double()
    sums = torch.zeros(classes, x.shape[1], dtype=torch.float64).index_add_(0, y, x)
    return ClassMeans(sums / counts.clamp_min(1)[:, None], counts / counts.sum())


@pytest.mark.parametrize("p", ORDERS)
def test_a_point_agrees_with_brute_force(p: float) -> None:
    """Of 400 random cases none differs."""
    verdicts = list[bool]()
    for seed in range(400):
        W, x, y, g = case(seed, p)
        eps = 1.2 * torch.rand((), generator=g).item()
        verdict = bool(in_bad_directions(W, x[0], int(y[0]), eps, p))
        assert verdict == stays(W, x, y, eps, p), seed
        assert verdict == (bad_budget(W, x, y, p).item() <= eps)
        verdicts.append(verdict)
    assert 80 < sum(verdicts) < 320


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_data_set_agrees_with_brute_force(p: float, bias: bool) -> None:
    """Of 300 random cases, with unequal and absent classes, none differs. With a bias the origin is the best bias at W = 0."""
    verdicts = list[bool]()
    for seed in range(300):
        W, x, y, g = case(seed, p, n=7)
        if bias:
            y[: len(W)] = torch.arange(len(W))
        held = means(x, y, len(W))
        eps = 0.6 * torch.rand((), generator=g).item()
        verdict = data_in_bad_directions(W, held, eps, p, bias=bias)
        assert verdict == stays(W, x, y, eps, p, held.shares.log() if bias else None), seed
        assert verdict == (bad_budget_of_data(W, held, p, bias=bias) <= eps)
        verdicts.append(verdict)
    assert 60 < sum(verdicts) < 240


def test_moving_the_bias_along_does_not_help_to_first_order() -> None:
    W, x, y, g = case(3, inf, n=20)
    y[: len(W)] = torch.arange(len(W))
    shares = means(x, y, len(W)).shares
    for _ in range(5):
        shift = torch.randn(len(W), generator=g, dtype=torch.float64)
        plain, moved = (
            brute_loss(STEP * W, x, y, 0.3, inf, shares.log() + c * STEP * shift).mean().item() for c in (0, 1)
        )
        assert moved == pytest.approx(plain, abs=1e-13)


@pytest.mark.parametrize("p", [*ORDERS, 1.5, 3.0])
def test_a_larger_budget_has_more_bad_directions_and_all_from_the_norm_on(p: float) -> None:
    for seed in range(60):
        W, x, y, g = case(seed, p, n=6)
        small, large = torch.rand(2, generator=g).sort().values.tolist()
        assert not (in_bad_directions(W, x, y, small, p) & ~in_bad_directions(W, x, y, large, p)).any()
        most = point_budget(x, p)
        assert (bad_budget(W, x, y, p) <= most * (1 + 1e-12)).all()
        for point, label, budget in zip(x, y, most.tolist(), strict=True):
            assert in_bad_directions(W, point, label, budget * (1 + 1e-12), p)
            assert not (in_bad_directions(W, point, label, 0.0, p) and in_version_space(W, point, label, 1e-3, p))


def test_one_point_is_a_data_set_of_one() -> None:
    W, x, y, _ = case(5, inf)
    for p in ORDERS:
        assert bad_budget_of_data(W, means(x, y, len(W)), p) == pytest.approx(bad_budget(W, x, y, p).item())


def test_equal_rows_are_bad_at_every_budget_and_scale_does_not_matter() -> None:
    W, x, y, _ = case(1, inf, n=9)
    held = means(x, y, len(W))
    assert data_in_bad_directions(torch.ones_like(W), held, 0.0)
    assert bad_budget_of_data(torch.ones_like(W), held) == 0.0
    assert bad_budget(torch.zeros_like(W), x, y).tolist() == [0.0] * 9
    for scale in (1e-200, 1e-8, 1e8, 1e200):
        assert bad_budget_of_data(scale * W, held) == pytest.approx(bad_budget_of_data(W, held), rel=1e-12)


def test_bad_input() -> None:
    held = ClassMeans(torch.eye(3), torch.full((3,), 1 / 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"`W` should have shape \(3, 3\), as the class means. Found shape \(2, 3\)"):
        data_in_bad_directions(torch.ones(2, 3), held, 0.1)
    with pytest.raises(InputError, match=r"`classifier` should hold finite numbers"):
        bad_budget_of_data(torch.full((3, 3), torch.inf), held)
    with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
        data_in_bad_directions(torch.ones(3, 3), held, -1)
    with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
        in_bad_directions(torch.ones(3, 3), torch.ones(3), 0, -1)
