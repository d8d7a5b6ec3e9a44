"""The adversarial loss of linear classifiers against its largest value over every vertex of the ball."""

from math import inf, log

import pytest
import torch
from torch.nn import functional

from isthmus._check import InputError
from isthmus.theory import binary_loss, logistic, loss_bounds
from isthmus.theory.logistic import Climb, exact_loss_l1, first_order_bounds
from isthmus.theory.norms import norm
from theory_example import ORDERS, brute_loss, case


@pytest.mark.parametrize("p", ORDERS)
def test_the_binary_loss_equals_brute_force(p: float) -> None:
    """300 cases, and the worst input lies in the ball and attains the loss."""
    slack = 1e-5 if p == 2 else 1e-12
    for seed in range(300):
        W, x, y, g = case(seed, p, n=3)
        w, y = W[1], y % 2
        eps = torch.rand((), generator=g).item()
        found = binary_loss(w, x, 2 * y - 1, eps, p)
        rows = torch.stack([torch.zeros_like(w), w])
        assert torch.allclose(found.loss, brute_loss(rows, x, y, eps, p), atol=slack)
        assert (norm(found.worst - x, p) <= eps * (1 + 1e-12)).all()
        assert torch.allclose(functional.softplus(-(2 * y - 1) * (found.worst @ w)), found.loss, rtol=1e-12)


@pytest.mark.parametrize("p", [*ORDERS, 1.5, 3.0])
def test_the_binary_gradient_is_the_derivative(p: float) -> None:
    W, x, _, _ = case(11, inf, n=4)
    w, y = W[0].clone().requires_grad_(), torch.tensor([1, -1, 1, -1])
    q = 1.0 if p == inf else inf if p == 1 else p / (p - 1)
    loss = functional.softplus(-y * (x @ w) + 0.3 * torch.linalg.vector_norm(w, q))
    (expected,) = torch.autograd.grad(loss.sum(), w)
    assert torch.allclose(binary_loss(w, x, y, 0.3, p).gradient.sum(0), expected, rtol=1e-10)


@pytest.mark.parametrize("p", ORDERS)
def test_at_kinks_the_gradient_is_a_subgradient(p: float) -> None:
    """g(v) >= g(w) + <gradient, v - w> for many v, at w = 0, with a zero coordinate, and with two largest ones."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, generator=g, dtype=torch.float64)
    for w in ([0.0, 0.0, 0.0], [0.0, 1.0, -0.5], [1.0, -1.0, 0.2]):
        at = torch.tensor(w, dtype=torch.float64)
        found = binary_loss(at, x, 1, 0.7, p)
        for v in at + torch.randn(200, 3, generator=g, dtype=torch.float64):
            assert binary_loss(v, x, 1, 0.7, p).loss >= found.loss + found.gradient @ (v - at) - 1e-12
    assert binary_loss(torch.zeros(3), x, 1, 0.7, p).gradient.tolist() == (-x / 2).tolist()


@pytest.mark.parametrize("p", ORDERS)
def test_the_sandwich_holds_the_exact_maximum(p: float) -> None:
    """300 cases; for two classes both bounds are exact, for more they are less than log(K - 1) apart."""
    slack = 1e-5 if p == 2 else 1e-12
    strict = 0
    for seed in range(300):
        W, x, y, g = case(seed, p, n=3)
        eps = torch.rand((), generator=g).item()
        exact, found = brute_loss(W, x, y, eps, p), loss_bounds(W, x, y, eps, p)
        assert (found.lower <= exact + slack).all()
        assert (exact <= found.upper + 1e-12).all()
        if len(W) == 2:
            assert torch.allclose(found.lower, exact, atol=slack)
            assert torch.allclose(found.upper, found.lower, rtol=1e-12)
        else:
            assert (found.upper - found.lower < log(len(W) - 1) + 1e-12).all()
            strict += int((found.upper > exact + 1e-3).sum() > 0 and (found.lower < exact - 1e-3).sum() > 0)
    assert strict > 100


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bias", [False, True])
def test_the_first_order_bounds_hold_and_meet_at_the_origin(p: float, bias: bool) -> None:
    slack = 1e-5 if p == 2 else 1e-12
    for seed in range(200):
        W, x, y, g = case(seed, p, n=3)
        eps = torch.rand((), generator=g).item()
        shares = (torch.rand(len(W), generator=g, dtype=torch.float64) + 0.1).softmax(0) if bias else None
        exact = brute_loss(W, x, y, eps, p, None if shares is None else shares.log())
        found = first_order_bounds(W, x, y, eps, p, shares=shares)
        assert (found.lower <= exact + slack).all()
        assert (exact <= found.upper + 1e-12).all()
        near = first_order_bounds(1e-3 * W, x, y, eps, p, shares=shares)
        assert torch.allclose(near.upper - near.lower, 1e-6 * (found.upper - found.lower), atol=1e-14)


def test_the_first_order_bounds_certify_what_the_sandwich_cannot() -> None:
    """Three balanced classes at -1, 0 and 1: the critical budget is 1; at 0.9 the sandwich never shows a loss below log 3."""
    x, y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.arange(3)
    W = torch.tensor([[-1.0], [0.0], [1.0]])
    scales = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)
    assert min(first_order_bounds(c * W, x, y, 0.9).upper.mean() for c in scales) < log(3)
    assert min(loss_bounds(c * W, x, y, 0.9).upper.mean() for c in scales) > log(3)
    assert min(first_order_bounds(c * W, x, y, 1.1).lower.mean() for c in scales) > log(3)


def test_the_exact_l1_loss_equals_brute_force() -> None:
    for seed in range(300):
        W, x, y, g = case(seed, 1.0, n=5)
        eps = torch.rand((), generator=g).item()
        assert torch.allclose(exact_loss_l1(W, x, y, eps), brute_loss(W, x, y, eps, 1.0), rtol=1e-12)


def test_the_exact_l1_loss_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    W, x, y = torch.randn(9, 50, generator=g), torch.randn(70, 50, generator=g), torch.arange(70) % 9
    found = exact_loss_l1(W, x, y, 0.5)
    monkeypatch.setattr(logistic, "_CHUNK", 3000)
    assert torch.allclose(exact_loss_l1(W, x, y, 0.5), found, rtol=1e-12)
    assert exact_loss_l1(W, x[34], int(y[34]), 0.5).item() == pytest.approx(found[34].item(), rel=1e-12)


@pytest.mark.parametrize("p", ORDERS)
def test_the_climb_rises_to_at_most_the_exact_maximum_and_reaches_it_for_two_classes(p: float) -> None:
    reached = 0
    for seed in range(200):
        W, x, y, g = case(seed, p, n=4)
        eps = torch.rand((), generator=g).item()
        exact, before = brute_loss(W, x, y, eps, p), torch.full((4,), -inf, dtype=torch.float64)
        for steps in (1, 2, 5):
            points = Climb(eps, p, steps)(W, x, y)
            assert (norm(points - x, p) <= eps * (1 + 1e-12)).all()
            now = functional.cross_entropy(points @ W.T, y, reduction="none")
            assert (now >= before - 1e-12).all()
            before = now
        assert (before <= exact + 1e-5 * (p == 2) + 1e-12).all()
        close = (before >= exact - 1e-5).all()
        assert close or len(W) > 2
        reached += int(close)
    assert reached > 120


def test_the_climb_sees_the_bias() -> None:
    W, x, y, _ = case(7, inf, n=6)
    far = torch.linspace(-8, 8, len(W), dtype=torch.float64)
    plain, moved = (Climb(0.5, inf, 1)(W, x, y, bias) for bias in (None, far))
    assert not plain.equal(moved)
    assert plain.equal(Climb(0.5, inf, 1)(W, x, y, torch.zeros_like(far)))


def test_bad_input() -> None:
    W, x, y = torch.eye(3), torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"`y` should hold labels -1 and 1. Found \[0, 1\]"):
        binary_loss(W[0], x, y, 0.1)
    with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
        binary_loss(W[0], x, 2 * y - 1, -1)
    with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
        loss_bounds(W, x, y, -1)
    with pytest.raises(InputError, match=r"`eps` should be finite and at least 0. Found -1"):
        exact_loss_l1(W, x, y, -1)
    with pytest.raises(
        InputError, match=r"`shares` should be 3 positive numbers that sum to 1. Found \[1.0, 0.0, 0.0\]"
    ):
        first_order_bounds(W, x, y, 0.1, shares=torch.tensor([1.0, 0.0, 0.0]))
    with pytest.raises(InputError, match=r"`steps` should be at least 1. Found 0"):
        Climb(0.1, steps=0)
    with pytest.raises(InputError, match=r"`p` should be a norm's order"):
        Climb(0.1, 0.5)
