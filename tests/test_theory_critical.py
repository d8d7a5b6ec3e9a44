"""The critical budget against linear programmes, known balls, brute-force directions and training by direct minimisation."""

from math import inf, log, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from isthmus._check import InputError
from isthmus.data import Samples, load_data
from isthmus.theory import ClassMeans, bad_budget_of_data, critical_budget, data_in_bad_directions, point_budget
from isthmus.theory.norms import norm
from theory_example import ORDERS, ball, brute_loss


def random_means(seed: int, classes: int, d: int, *, even: bool = False) -> ClassMeans:
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, d, generator=g, dtype=torch.float64)
    shares = torch.rand(classes, generator=g, dtype=torch.float64) + 0.05
    return ClassMeans(means, torch.full_like(shares, 1 / classes) if even else shares / shares.sum())


def programme(means: ClassMeans, p: float, bias: bool) -> float:
    """min r with ||mu_k - scale_k c||_p <= r as one dense linear programme over (c, e, r), for p = inf and 1."""
    mu, scale = means.means.numpy(), (np.ones(len(means.shares)) if bias else 1 / means.shares.numpy())
    classes, d = mu.shape
    rows, bounds = list[np.ndarray](), list[float]()
    for k in range(classes):
        for j in range(d):
            for sign in (1, -1):
                row = np.zeros(d + classes * d + 1)
                row[j], row[d + k * d + j] = sign * scale[k], -1
                rows.append(row)
                bounds.append(sign * mu[k, j])
        for j in range(d) if p == inf else range(1):
            row = np.zeros(d + classes * d + 1)
            row[d + k * d + j : d + (k * d + j + 1 if p == inf else (k + 1) * d)] = 1
            row[-1] = -1
            rows.append(row)
            bounds.append(0)
    cost = np.append(np.zeros(d + classes * d), 1.0)
    return float(linprog(cost, A_ub=np.array(rows), b_ub=bounds, bounds=(None, None)).fun)


@pytest.mark.parametrize("p", [inf, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_linear_programme(p: float, bias: bool) -> None:
    for seed in range(25):
        means = random_means(seed, 2 + seed % 5, 1 + seed % 4)
        assert critical_budget(means, p, bias=bias).radius == pytest.approx(programme(means, p, bias), rel=1e-7)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bias", [False, True])
def test_the_result_proves_itself(p: float, bias: bool) -> None:
    """The centre bounds it from above, W from below, and no random direction lies above: 15 problems of up to 30 classes."""
    for seed in range(15):
        means = random_means(seed, 2 + 2 * seed, 1 + (7 * seed) % 40, even=seed % 3 == 0)
        found = critical_budget(means, p, bias=bias)
        scale = torch.ones_like(means.shares) if bias else 1 / (len(means.shares) * means.shares)
        above = norm(means.means - scale[:, None] * found.centre, p)
        assert torch.allclose(above, found.distances, rtol=1e-12)
        assert found.radius == pytest.approx(above.max().item(), rel=1e-12)
        attained = bad_budget_of_data(found.W, means, p, bias=bias)
        assert found.gap == pytest.approx(found.radius - attained, abs=1e-12)
        assert -1e-12 <= found.gap <= 1e-7 * found.radius
        assert found.W.norm().item() == pytest.approx(1)
        assert (found.distances[list(found.classes)] > found.radius * (1 - 1e-4)).all()
        assert not data_in_bad_directions(found.W, means, 0.999 * found.radius, p, bias=bias)
        for W in torch.randn(20, *means.means.shape, generator=torch.Generator().manual_seed(seed)):
            assert data_in_bad_directions(W, means, found.radius * (1 + 1e-9), p, bias=bias)


def test_two_classes_collapse_at_the_norm_of_the_signed_mean() -> None:
    """Without bias ||E[y x]||_p with y = +-1; with one, half the distance of the means."""
    means = random_means(0, 2, 6)
    signed = means.shares[0] * means.means[0] - means.shares[1] * means.means[1]
    for p in ORDERS:
        assert critical_budget(means, p).radius == pytest.approx(norm(signed, p).item(), rel=1e-9)
        half = norm(means.means[0] - means.means[1], p).item() / 2
        assert critical_budget(means, p, bias=True).radius == pytest.approx(half, rel=1e-9)


def test_known_balls() -> None:
    """Unit vectors: radius sqrt((K - 1) / K) in L2, 1/2 in Linf, 2 (K - 1) / K in L1. A square and a point inside it."""
    for classes in (2, 3, 10):
        means = ClassMeans(torch.eye(classes), torch.full((classes,), 1 / classes, dtype=torch.float64))
        assert critical_budget(means, 2).radius == pytest.approx(sqrt((classes - 1) / classes), rel=1e-9)
        assert critical_budget(means, inf).radius == 0.5
        assert critical_budget(means, 1).radius == pytest.approx(min(1.0, 2 * (classes - 1) / classes), rel=1e-9)
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [1.2, 0.9]])
    means = ClassMeans(square, torch.full((5,), 0.2, dtype=torch.float64))
    for p, expected in ((inf, 1.0), (2, sqrt(2)), (1, 2.0)):
        found = critical_budget(means, p)
        assert found.radius == pytest.approx(expected, rel=1e-9)
        assert 4 not in found.classes


def test_balanced_classes_have_one_budget_and_in_linf_it_is_half_the_largest_range() -> None:
    means = random_means(4, 10, 30, even=True)
    spread = means.means.amax(0) - means.means.amin(0)
    assert critical_budget(means).radius == pytest.approx(spread.max().item() / 2, rel=1e-12)
    for p in ORDERS:
        assert critical_budget(means, p).radius == pytest.approx(critical_budget(means, p, bias=True).radius, rel=1e-7)
    uneven = random_means(4, 10, 30)
    assert abs(critical_budget(uneven).radius / critical_budget(uneven, bias=True).radius - 1) > 0.1


def test_the_classes_that_do_not_decide_may_move() -> None:
    means = random_means(8, 6, 12)
    for p in ORDERS:
        found = critical_budget(means, p)
        others = [k for k in range(6) if k not in found.classes]
        assert others
        moved = means.means.clone()
        moved[others] += 1e-4
        assert critical_budget(ClassMeans(moved, means.shares), p).radius == pytest.approx(found.radius, rel=1e-9)
        first = found.classes[0]
        moved[first] += 1e-2 * found.W[first] / found.W[first].norm()
        assert critical_budget(ClassMeans(moved, means.shares), p).radius > found.radius * (1 + 1e-5)


@pytest.mark.parametrize("p", ORDERS)
def test_stratified_inputs(p: float) -> None:
    """Equal means, repeated ones, a line, an offset, and scales from 1e-8 to 1e8."""
    means = random_means(2, 6, 5)
    even = torch.full_like(means.shares, 1 / 6)
    same = critical_budget(ClassMeans(means.means[:1].expand(6, 5).clone(), even), p)
    assert same.radius == pytest.approx(0, abs=1e-12)
    twice = ClassMeans(means.means[[0, 0, 1, 1, 2, 2]], even)
    three = ClassMeans(means.means[:3], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert critical_budget(twice, p).radius == pytest.approx(critical_budget(three, p).radius, rel=1e-7)
    line = ClassMeans(torch.arange(6.0)[:, None] * torch.ones(5), even)
    assert critical_budget(line, p).radius == pytest.approx(2.5 * 5 ** (0 if p == inf else 1 / p), rel=1e-7)
    found = critical_budget(means, p, bias=True).radius
    offset = ClassMeans(means.means + 100, means.shares)
    assert critical_budget(offset, p, bias=True).radius == pytest.approx(found, rel=1e-7)
    assert critical_budget(offset, p).radius > 2 * critical_budget(means, p).radius
    for scale in (1e-8, 1e-3, 1e8):
        scaled = critical_budget(ClassMeans(scale * means.means, means.shares), p)
        assert scaled.radius == pytest.approx(scale * critical_budget(means, p).radius, rel=1e-7)
        assert abs(scaled.gap) <= 1e-7 * scaled.radius


def test_a_point_and_absent_classes() -> None:
    """One point has the budget ||x||_p; an absent class forces c = 0 without a bias and plays no part with one."""
    x = torch.rand(1, 7, generator=torch.Generator().manual_seed(0))
    for p in ORDERS:
        for classes in (2, 5):
            found = critical_budget(Samples(x, torch.tensor([1]), classes), p)
            assert found.radius == pytest.approx(point_budget(x, p).item(), rel=1e-12)
            assert abs(found.gap) < 1e-12
            assert found.classes == (1,)
        means = random_means(1, 4, 3)
        fuller = ClassMeans(
            torch.cat([means.means, torch.zeros(2, 3)]), torch.cat([means.shares, torch.zeros(2, dtype=torch.float64)])
        )
        alone = critical_budget(fuller, p)
        assert alone.radius == pytest.approx(norm(means.means, p).max().item(), rel=1e-12)
        assert abs(alone.gap) < 1e-12
        with_bias = critical_budget(fuller, p, bias=True)
        assert with_bias.radius == pytest.approx(critical_budget(means, p, bias=True).radius, rel=1e-12)
        assert abs(with_bias.gap) < 1e-7
        assert with_bias.distances[4:].tolist() == [-inf, -inf]
    one = critical_budget(Samples(x, torch.tensor([0]), 2), bias=True)
    assert (one.radius, one.gap, one.classes) == (0.0, 0.0, ())


def least_loss(x: Tensor, y: Tensor, eps: float, p: float, bias: bool) -> tuple[float, float]:
    """Return the least mean adversarial loss over W (and b), and |W| there, by minimising over (W, b, t) with t_i >= every vertex's loss.

    Smooth, convex and exact for p = inf and 1; no closed form enters.
    """
    n, d, classes = len(x), x.shape[1], int(y.max()) + 1
    points = ball(x, eps, p).numpy()
    labels, size = y.numpy(), classes * d

    def gaps(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        W, b = v[:size].reshape(classes, d), v[size : size + classes] * bias
        scores = points @ W.T + b
        scores -= scores.max(-1, keepdims=True)
        share = np.exp(scores)
        total = share.sum(-1, keepdims=True)
        losses = np.log(total[..., 0]) - scores[np.arange(n), :, labels]
        share /= total
        share[np.arange(n), :, labels] -= 1
        slope = np.zeros((n, points.shape[1], len(v)))
        slope[..., :size] = (share[..., None] * points[..., None, :]).reshape(n, -1, size)
        slope[..., size : size + classes] = share * bias
        above = -slope
        above[np.arange(n), :, size + classes + np.arange(n)] += 1
        return (v[size + classes :][:, None] - losses).ravel(), above.reshape(-1, len(v))

    start = np.random.default_rng(0).standard_normal(size + classes + n)
    start[size + classes :] = 20
    goal = np.append(np.zeros(size + classes), np.full(n, 1 / n))
    rule = {"type": "ineq", "fun": lambda v: gaps(v)[0], "jac": lambda v: gaps(v)[1]}
    options = {"maxiter": 300, "ftol": 1e-13}
    found = minimize(lambda v: goal @ v, start, jac=lambda _: goal, constraints=rule, method="SLSQP", options=options)
    W = torch.from_numpy(found.x[:size].reshape(classes, d))
    b = torch.from_numpy(found.x[size : size + classes]) * bias
    return brute_loss(W, x, y, eps, p, b).mean().item(), float((W - W.mean(0)).norm())


@pytest.mark.parametrize("p", [inf, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_training_by_direct_minimisation_collapses_where_predicted(p: float, bias: bool) -> None:
    """Unbalanced small data: 3 % above the prediction the best classifier is the constant one, 3 % below it is not."""
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
        x = torch.randn(3, 2, generator=g, dtype=torch.float64)[y] + torch.randn(9, 2, generator=g, dtype=torch.float64)
        shares = torch.bincount(y).double() / 9
        means = ClassMeans(torch.stack([x[y == k].mean(0) for k in range(3)]), shares)
        radius = critical_budget(means, p, bias=bias).radius
        constant = float(-(shares * shares.log()).sum()) if bias else log(3)
        above, length = least_loss(x, y, 1.03 * radius, p, bias)
        assert above == pytest.approx(constant, abs=1e-6)
        assert length < 1e-3
        below, length = least_loss(x, y, 0.97 * radius, p, bias)
        assert below < constant - 1e-6
        assert length > 1e-2


def test_class_means_of_real_images() -> None:
    """Digits: half the largest range of a pixel's class means, and the same from bytes and from floats, in one chunk or many."""
    data = load_data("digits").train
    x = data.inputs().double().flatten(1)
    means = torch.stack([x[data.y == k].mean(0) for k in range(10)])
    found = ClassMeans.of(data)
    assert torch.allclose(found.means, means, rtol=1e-12)
    assert found.n == 1200
    assert torch.allclose(found.shares, torch.bincount(data.y).double() / 1200)
    half = (means.amax(0) - means.amin(0)).max().item() / 2
    assert critical_budget(data, bias=True).radius == pytest.approx(half, rel=1e-12)


def test_bad_input() -> None:
    means = random_means(0, 3, 2)
    for p in (1.5, 0.5, float("nan")):
        with pytest.raises(InputError, match=r"`p` should be 1, 2 or inf. Found"):
            critical_budget(means, p)
    with pytest.raises(InputError, match=r"`means` should have shape \(K, d\) with K >= 2 classes. Found \(1, 2\)"):
        ClassMeans(torch.ones(1, 2), torch.ones(1))
    with pytest.raises(InputError, match=r"`shares` should be 2 shares that sum to 1. Found shape \(2,\), sum 1.5"):
        ClassMeans(torch.ones(2, 2), torch.tensor([1.0, 0.5]))
    with pytest.raises(InputError, match=r"`class means` should hold finite numbers. Found 1 NaN .* 'means'"):
        ClassMeans(torch.tensor([[1.0], [torch.nan]]), torch.tensor([0.5, 0.5]))
    with pytest.raises(InputError, match=r"`points` should hold finite numbers"):
        point_budget(torch.tensor([[torch.inf]]))
