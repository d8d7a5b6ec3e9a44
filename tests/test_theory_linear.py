"""Version spaces against every vertex of the ball, and the limit of the loss against the loss itself."""

from math import inf, log

import pytest
import torch

from isthmus._check import InputError
from isthmus.theory import in_version_space, largest_budget_in_version_space, loss_limit, version_margin
from isthmus.theory.linear import worst_margins
from isthmus.theory.norms import aligned, dual_order, norm
from theory_example import ORDERS, ball, brute_loss, case


@pytest.mark.parametrize("p", ORDERS)
def test_the_finite_test_agrees_with_brute_force(p: float) -> None:
    """Of 400 random cases none differs, and each verdict occurs often."""
    verdicts = list[bool]()
    for seed in range(400):
        W, x, y, g = case(seed, p)
        y = (x @ W.T).argmax(1)  # right about x itself, else the verdict is always no
        eps = 0.6 * torch.rand((), generator=g).item()
        scores = ball(x, eps, p)[0] @ W.T
        ahead = scores - scores[:, y]
        ahead[:, y[0]] = -inf
        brute = -ahead.amax().item()
        assert version_margin(W, x[0], y[0], eps, p).item() == pytest.approx(brute, abs=1e-5 if p == 2 else 1e-12)
        verdict = bool(in_version_space(W, x[0], int(y[0]), eps, p))
        assert verdict == (brute >= 0), seed
        verdicts.append(verdict)
    assert 80 < sum(verdicts) < 320


@pytest.mark.parametrize("p", [*ORDERS, 1.5, 3.0])
def test_a_larger_budget_has_a_smaller_version_space(p: float) -> None:
    for seed in range(100):
        W, x, y, g = case(seed, p, n=8)
        small, large = torch.rand(2, generator=g).sort().values.tolist()
        inside = in_version_space(W, x, y, large, p)
        assert not (inside & ~in_version_space(W, x, y, small, p)).any()
        assert in_version_space(3e5 * W, x, y, large, p).equal(inside)  # a cone
        most = largest_budget_in_version_space(W, x, y, p)
        for point, label, budget in zip(x, y, most.tolist(), strict=True):
            if budget > 0:
                assert in_version_space(W, point, label, budget * (1 - 1e-9), p)
                assert not in_version_space(W, point, label, budget * (1 + 1e-9), p)
            else:
                assert not in_version_space(W, point, label, 0.0, p)


def test_the_largest_budget_of_two_classes_is_the_distance_to_their_boundary() -> None:
    W, x = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.5], [-1.0, 0.0]])
    label = torch.zeros(2, dtype=torch.int64)
    for p, expected in ((inf, 5 / 7), (2, 1.0), (1, 5 / 4)):
        assert largest_budget_in_version_space(W, x, label, p)[0].item() == pytest.approx(expected)
    assert largest_budget_in_version_space(W, x, label, 2)[1].item() == pytest.approx(-0.6)
    assert largest_budget_in_version_space(torch.ones(3, 2), x, label).tolist() == [inf, inf]


@pytest.mark.parametrize("p", [*ORDERS, 1.5, 3.0])
def test_the_steepest_direction_meets_the_dual_norm(p: float) -> None:
    v = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[0], v[1, :3], v[2] = 0, 0, 1.0
    s = aligned(v, p)
    assert torch.allclose((v * s).sum(1), norm(v, dual_order(p)), rtol=1e-12)
    assert (norm(s, p) <= 1 + 1e-12).all()
    assert (s[0] == 0).all()


@pytest.mark.parametrize("p", ORDERS)
def test_the_limit_of_the_loss_inside_outside_and_on_the_boundary(p: float) -> None:
    for seed in range(100):
        W, x, y, g = case(seed, p, n=1)
        eps = 0.3 * torch.rand((), generator=g).item()
        limit = loss_limit(W, x, y, eps, p).item()
        far = brute_loss(1e6 * W, x, y, eps, p).item()
        assert (limit, far > 1) in ((0.0, False), (inf, True))
        if limit == 0:
            assert far < 1e-6


def corner(*gaps: tuple[float, ...]) -> torch.Tensor:
    """Rows w_0 = 0 and w_i = -gap: the label's lead over class i is gap.x."""
    return torch.tensor([(0.0,) * len(gaps[0]), *gaps], dtype=torch.float64).neg()


def test_margins_that_are_zero_at_one_point_add_up_and_at_different_points_do_not() -> None:
    """Two classes whose margins at x = (1, 1) both reach zero at budget 1: at (0, 0) for Linf, at (0, 1) and at (1, 0) for L2 and L1."""
    W, x, zero = corner((1, 0), (0, 1)), torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    for p, expected in ((inf, log(3)), (2.0, log(2)), (1.0, log(2))):
        assert worst_margins(W, x, zero, 1.0, p)[0, 1:].tolist() == [0.0, 0.0]
        assert loss_limit(W, x, zero, 1.0, p).item() == pytest.approx(expected)
        assert brute_loss(1e4 * W, x, zero, 1.0, p).item() == pytest.approx(expected, abs=1e-3 if p == 2 else 1e-9)
    parallel = corner((1, 0), (2, 0), (0, 1))
    assert loss_limit(parallel, x, zero, 1.0, 2.0).item() == pytest.approx(log(3))
    opposed = corner((1, 0), (1, 1), (1, -1))
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert worst_margins(opposed, start, zero, 0.5)[0, 1:].tolist() == [0.5, 0.0, 0.0]
    assert loss_limit(opposed, start, zero, 0.5).item() == pytest.approx(log(2))
    assert brute_loss(1e4 * opposed, start, zero, 0.5, inf).item() == pytest.approx(log(2))


def test_equal_rows_are_in_every_version_space_and_never_win() -> None:
    W = torch.randn(5, generator=torch.Generator().manual_seed(0)).expand(4, 5).contiguous()
    x, y = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 3])
    for eps in (0.0, 0.1, 10.0):
        assert in_version_space(W, x, y, eps).all()
        assert torch.allclose(loss_limit(W, x, y, eps), torch.tensor(4.0, dtype=torch.float64).log())


def test_tolerance_decides_what_counts_as_zero() -> None:
    W, x = corner((1, 0), (0, 1)), torch.tensor([1.0 + 1e-9, 1.0])
    assert loss_limit(W, x.double(), 0, 1.0 + 1e-7).item() == inf
    assert loss_limit(W, x.double(), 0, 1.0 + 1e-7, tolerance=1e-6).item() == pytest.approx(log(3))


def test_shapes_follow_the_labels_and_nothing_is_changed() -> None:
    W, x = torch.eye(3).requires_grad_(), torch.rand(4, 3)
    kept = x.clone()
    assert worst_margins(W, x, torch.arange(4) % 3, 0.1).shape == (4, 3)
    assert version_margin(W, x[0], 0, 0.1).shape == ()
    assert version_margin(W, x, torch.zeros(4, dtype=torch.int32), 0.1).dtype == torch.float64
    assert W.requires_grad
    assert x.equal(kept)


def test_bad_input() -> None:
    W, x, y = torch.eye(3), torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"`W` should have shape \(K, d\) with K >= 2 classes. Found \(1, 3\)"):
        in_version_space(W[:1], x, y, 0.1)
    with pytest.raises(InputError, match=r"`x` should have shape \(N, 3\) beside \(N,\) labels, or one of each. Found"):
        in_version_space(W, x[:, :2], y, 0.1)
    with pytest.raises(InputError, match=r"x \(2, 3\) and y \(\). Flatten images"):
        in_version_space(W, x, 0, 0.1)
    with pytest.raises(InputError, match=r"`y` should lie from 0 to 2. Found 3"):
        in_version_space(W, x, torch.tensor([0, 3]), 0.1)
    with pytest.raises(InputError, match=r"`y` should hold integer labels. Found torch.float32"):
        in_version_space(W, x, torch.tensor([0.0, 1.0]), 0.1)
    with pytest.raises(InputError, match=r"`case` should hold finite numbers. Found 1 NaN .* in tensor 'x'"):
        in_version_space(W, torch.tensor([[0.0, torch.nan, 0.0]]), torch.tensor([0]), 0.1)
    for eps in (-0.1, inf, float("nan")):
        with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found .* units of the input"):
            in_version_space(W, x, y, eps)
    for p in (0.5, float("nan")):
        with pytest.raises(
            InputError, match=r"`p` should be a norm's order, at least 1. Found .* Linf is float\('inf'\)"
        ):
            in_version_space(W, x, y, 0.1, p)
    with pytest.raises(InputError, match=r"`tolerance` should be at least 0. Found -1"):
        loss_limit(W, x, y, 0.1, tolerance=-1)
