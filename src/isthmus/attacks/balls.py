"""Norm balls cut by a box: projections, linear maximisers and uniform draws, for a whole batch at once.

A perturbation v (B, ...) lives in `Cell`: low <= v <= high for each coordinate (low <= 0 <= high, what the box leaves of room around an
image) and ||v|| <= radius. All norms are summed in float64, so that a float32 result is inside and not only nearly so.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 60
"""Iterations at most; beyond, the root is known to the last bit. Both searches stop on the inner side."""


class Cell(NamedTuple):
    """low, high: (B, ...) room of each coordinate, low <= 0 <= high. radius: (B, 1, ...)."""

    low: Tensor
    high: Tensor
    radius: Tensor


def size(delta: Tensor, order: float) -> Tensor:
    """Return the norm of that order of each perturbation, (B,) in float64."""
    axes = tuple(range(1, delta.ndim))
    if order == torch.inf:
        return delta.abs().amax(axes).double()
    if order == 1:
        return delta.abs().sum(axes, dtype=torch.float64)  # sums in pairs; the norm of order 1 sums one by one
    return torch.linalg.vector_norm(delta, order, dim=axes, dtype=torch.float64)


def stretched(direction: Tensor, cell: Cell) -> Tensor:
    """Return clip(s d, low, high) for the largest s at which its L2 norm is at most the radius; the corner where all of them are.

    That is the maximiser of <d, v>, and for a d outside it is the projection of d (both by the conditions of Karush, Kuhn and Tucker).
    With t = s^2, ||v||^2 = sum min(t d_i^2, c_i^2) is concave and piecewise linear in t: Newton's method from the left never oversteps
    the root and ends in finitely many steps. Scale of d does not matter; d = 0 gives 0.
    """
    axes = tuple(range(1, direction.ndim))
    tiny = torch.finfo(direction.dtype).tiny
    unit = direction / direction.abs().amax(axes, keepdim=True).clamp_min(tiny)
    slopes, caps = unit.square(), _corner(unit, cell).square_()
    goal = cell.radius.square()
    t = (goal / slopes.sum(axes, keepdim=True).clamp_min(tiny)).clamp_max(1e30)
    # Taking fresh memory in each round would cost as much as the sums.
    reached, spare = torch.empty_like(unit), torch.empty_like(unit)
    for _ in range(MOST):
        torch.mul(slopes, t, out=reached)
        free = torch.sub(caps, reached, out=spare).sign_().clamp_min_(0).mul_(slopes).sum(axes, keepdim=True)
        gap = goal - torch.minimum(reached, caps, out=reached).sum(axes, keepdim=True)
        done = gap <= 4 * torch.finfo(unit.dtype).eps * goal  # stays as it is, however long its neighbours take
        if bool(done.all()):
            break
        further = torch.where(free > 0, t + gap / free.clamp_min(tiny), 1e30)  # nothing is free: the corner lies inside
        t = torch.where(done, t, further)
    return _inside(torch.clamp(unit.mul_(t.sqrt()), cell.low, cell.high), 2, cell)


def thresholded(delta: Tensor, cell: Cell) -> Tensor:
    """Return the L2 projection of `delta`, which is outside, onto the L1 ball and the room: sign(d) clip(|d| - tau, 0, c).

    tau > 0 solves h(tau) = sum clip(|d| - tau, 0, c) = radius (Duchi et al. 2008, with the caps of Croce and Hein 2021, prop. 2.1). h falls
    with tau and is piecewise linear: Newton's method inside a bracket, bisected where a step leaves it. Far from the root Newton's
    method is run on log h, whose tail bends less: three or four steps less on images.
    """
    axes = tuple(range(1, delta.ndim))
    length, caps = delta.abs(), _corner(delta, cell).abs_()
    bits = 4 * torch.finfo(delta.dtype).eps
    low = torch.zeros_like(cell.radius)
    tau, high = low, length.amax(axes, keepdim=True)
    kept, spare = torch.empty_like(length), torch.empty_like(length)
    for step in range(MOST):
        torch.minimum(torch.sub(length, tau, out=kept).clamp_min_(0), caps, out=kept)
        total = kept.sum(axes, keepdim=True)
        free = torch.sub(caps, kept, out=spare).mul_(kept).sign_().sum(axes, keepdim=True)
        excess = total - cell.radius
        low, high = torch.where(excess > 0, tau, low), torch.where(excess > 0, high, tau)
        done = (excess.abs() <= bits * (cell.radius + free * tau)) | (high <= torch.nextafter(low, high))
        if bool(done.all()):
            break
        ratio = total / cell.radius
        newton = tau + torch.where(ratio > 1.5, total * ratio.clamp_min(1).log(), excess) / free.clamp_min(1)
        leaves = (newton <= low) | (newton >= high) | (free < 1) | (step % 8 == 7)
        tau = torch.where(done, tau, torch.where(leaves, low + (high - low) / 2, newton))
    return _inside(kept.copysign_(delta), 1, cell)


def filled(gradient: Tensor, cell: Cell) -> Tensor:
    """Return the maximiser of <g, v> over the L1 ball and the room: coordinates filled to their caps in the order of |g|.

    Only the largest |g| are sorted: as many as are needed to spend the radius.
    """
    corner = _corner(gradient, cell).flatten(1)
    caps = corner.abs()
    radius = cell.radius.reshape(-1, 1)
    key = gradient.abs().flatten(1) * caps.sign()
    count = min(key.shape[1], 64)
    while True:
        order = key.topk(count, 1).indices
        room = caps.gather(1, order).double()
        spent = room.cumsum(1)
        if count == key.shape[1] or bool((spent[:, -1:] >= radius).all()):
            break
        count = min(key.shape[1], 4 * count)
    amount = torch.minimum((radius - (spent - room)).clamp_min(0), room).to(caps.dtype)
    v = torch.zeros_like(caps).scatter_(1, order, amount).copysign(corner)
    return _inside(v.reshape(gradient.shape), 1, cell)


def uniform(shape: torch.Size, order: float, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Return draws (B, ...) uniform in the unit ball of that order: 1, 2 or infinity.

    A direction (Gaussian for L2, Laplace for L1, over its norm) times u^(1/d), u uniform in [0, 1].
    """
    if order == torch.inf:
        return torch.rand(shape, generator=generator, dtype=dtype).mul_(2).sub_(1)
    if order == 2:
        noise = torch.randn(shape, generator=generator, dtype=dtype)
    else:
        noise = torch.empty(shape, dtype=dtype).exponential_(generator=generator)
        noise = noise.copysign_(torch.rand(shape, generator=generator, dtype=dtype).sub_(0.5))
    u = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    scale = u.pow(1 / max(prod(shape[1:]), 1)) / size(noise, order).clamp_min(torch.finfo(dtype).tiny)
    scale *= 1 - 2 * torch.finfo(dtype).eps  # not out of the ball by rounding
    return noise * scale.to(dtype).reshape(-1, *[1] * (len(shape) - 1))


def _corner(direction: Tensor, cell: Cell) -> Tensor:
    """How far each coordinate can go along `direction`, with the sign of it; 0 where the direction is 0."""
    return torch.clamp(direction.sign().mul_(torch.finfo(direction.dtype).max), cell.low, cell.high)


def _inside(v: Tensor, order: float, cell: Cell) -> Tensor:
    """Shrink by the few bits by which rounding led out of the ball."""
    bits = 1 if v.dtype == torch.float32 else 8  # a float64 sum of float64 terms is itself a few bits off
    bound = cell.radius.double() * (1 - bits * torch.finfo(v.dtype).eps)
    factor = (bound / size(v, order).reshape(bound.shape).clamp_min(1e-300)).clamp_max(1)
    return v.mul_(factor.to(v.dtype))
