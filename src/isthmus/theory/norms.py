"""Norms of order p and their duals: the maximum of <v, d> over ||d||_p <= 1 is ||v||_q with 1/p + 1/q = 1, met at `aligned`."""

from math import inf

import torch
from torch import Tensor

from isthmus._check import require


def dual_order(p: float) -> float:
    """Return q with 1/p + 1/q = 1. Raises InputError for p below 1.

    >>> dual_order(float("inf")), dual_order(2), dual_order(1)
    (1.0, 2.0, inf)
    """
    require(p >= 1, "p", "be a norm's order, at least 1", p, "Linf is float('inf').")
    if p == inf:
        return 1.0
    return inf if p == 1 else p / (p - 1)


def norm(v: Tensor, order: float) -> Tensor:
    """Return the norm of that order along the last axis, (...)."""
    return torch.linalg.vector_norm(v, order, dim=-1)


def aligned(v: Tensor, p: float) -> Tensor:
    """Return s (..., d) with ||s||_p <= 1 and <v, s> = ||v||_q: the steepest direction of the ball. Zero for v = 0.

    p = inf: sign v. p = 1: the largest coordinates, in equal parts where several are. Else sign(v) (|v| / ||v||_q)^(q - 1).
    """
    q = dual_order(p)
    if q == 1:
        return v.sign()
    size = norm(v, q)[..., None]
    share = v.abs() / size.where(size > 0, 1)
    if q == inf:
        largest = (share == 1).to(v.dtype)
        return v.sign() * largest / largest.sum(-1, keepdim=True).clamp_min(1)
    return v.sign() * share.pow(q - 1)


def require_budget(eps: float) -> None:
    """Raise InputError unless eps is a finite radius, at least 0."""
    require(0 <= eps < inf, "eps", "be finite and at least 0", eps, "It is in units of the input, such as 8/255.")
