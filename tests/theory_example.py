"""Brute force for the linear theory: balls as lists of points that hold every maximum of a convex function on them, and random cases."""

from itertools import product
from math import inf, pi

import torch
from torch import Tensor
from torch.nn import functional

ORDERS = (inf, 2.0, 1.0)
CIRCLE = 1_500


def unit_ball(p: float, d: int) -> Tensor:
    """Return the vertices (V, d) of the unit ball, or for p = 2 a dense circle; a function that is convex is largest at one of them."""
    if p == inf:
        return torch.tensor(list(product((-1.0, 1.0), repeat=d)), dtype=torch.float64)
    if p == 1:
        return torch.cat([torch.eye(d), -torch.eye(d)]).double()
    assert d == 2, "the circle is the only dense sphere here"
    angle = torch.arange(CIRCLE, dtype=torch.float64) * (2 * pi / CIRCLE)
    return torch.stack([angle.cos(), angle.sin()], 1)


def ball(x: Tensor, eps: float, p: float) -> Tensor:
    """Return points (N, V, d) of the balls around x (N, d)."""
    return x[:, None] + eps * unit_ball(p, x.shape[1])


def brute_loss(W: Tensor, x: Tensor, y: Tensor, eps: float, p: float, bias: Tensor | None = None) -> Tensor:
    """Return the largest cross-entropy over each ball, (N,)."""
    scores = ball(x, eps, p) @ W.T + (0 if bias is None else bias)
    losses = functional.cross_entropy(scores.flatten(0, 1), y.repeat_interleave(scores.shape[1]), reduction="none")
    return losses.reshape(len(x), -1).amax(1)


def case(seed: int, p: float, *, n: int = 1) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Return random W (K, d), x (n, d), y (n,) of random sizes, and the generator."""
    g = torch.Generator().manual_seed(seed)
    classes = int(torch.randint(2, 6, (), generator=g))
    d = 2 if p == 2 else int(torch.randint(1, 6, (), generator=g))
    W, x = (torch.randn(size, d, generator=g, dtype=torch.float64) for size in (classes, n))
    y = torch.randint(0, classes, (n,), generator=g)
    return W, x, y, g
