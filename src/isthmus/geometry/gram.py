"""Intrinsic geometry of a bridge, from the n x n Gram matrix of its control points alone: no cost depends on the model's size twice."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isthmus._check import require
from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.simplexes import Complex, Triangle

_CHUNK = 1 << 20  # scalars of each point held in float64 at once: memory stays small for models of any size
_NODES = 64  # Gauss-Legendre nodes per smooth piece
# At a cusp, where a curve turns back on itself, the speed has a kink: pieces are halved until the length stands.
_HALVINGS = 9


def gram(bridge: Bridge) -> Tensor:
    """Return the (n, n) float64 inner products of control points, relative to the first: G_ij = <p_i - p_0, p_j - p_0>.

    Weights sum to 1, so speeds, lengths, angles and areas do not depend on the origin; taking it inside the bridge avoids the
    cancellation between nearly equal large vectors.
    """
    points = bridge.points
    n, size = points.shape
    total = torch.zeros(n, n, dtype=torch.float64)
    for start in range(0, size, _CHUNK):
        block = points[:, start : start + _CHUNK].double()
        block = block - block[:1]
        total += (block @ block.T).cpu()
    return (total + total.T) / 2  # a product of a matrix with itself is symmetric but for the kernel's rounding


def metric(bridge: Bridge, u: float | tuple[float, ...] | Tensor, *, gram_matrix: Tensor | None = None) -> Tensor:
    """Return the first fundamental form g_ab(u) = <d theta/du_a, d theta/du_b>, a (d, d) float64 tensor in squared weight units."""
    derivative = bridge.basis.derivative(bridge.coordinates(u))
    return derivative @ (gram(bridge) if gram_matrix is None else gram_matrix) @ derivative.T


def speed(bridge: Bridge, t: Tensor, *, gram_matrix: Tensor | None = None) -> Tensor:
    """Return ||d theta/dt|| at each of (k,) coordinates of a curve, in weight units per unit of t."""
    _require_dim(bridge, 1)
    derivative = bridge.basis.derivative(t.double()[:, None])[:, 0]
    matrix = gram(bridge) if gram_matrix is None else gram_matrix
    return torch.einsum("ki,ij,kj->k", derivative, matrix, derivative).clamp_min(0).sqrt()


def density(bridge: Bridge, u: Tensor, *, gram_matrix: Tensor | None = None) -> Tensor:
    """Return sqrt(det g(u)) at each of (k, d) coordinates: how much length, area or volume in weight space a unit of u covers."""
    derivative = bridge.basis.derivative(u.double())
    forms = derivative @ (gram(bridge) if gram_matrix is None else gram_matrix) @ derivative.transpose(-1, -2)
    return torch.linalg.det(forms).clamp_min(0).sqrt()


def length(bridge: Bridge, start: float = 0.0, end: float = 1.0) -> float:
    """Return the arc length of a curve between two coordinates, in either order: the integral of the speed, piece by smooth piece."""
    _require_dim(bridge, 1)
    start, end = min(start, end), max(start, end)
    inner = [b for b in bridge.basis.breaks[0] if start < b < end]
    matrix = gram(bridge)
    return sum(_piece_length(bridge, low, high, matrix) for low, high in pairwise([start, *inner, end]))


def _piece_length(bridge: Bridge, low: float, high: float, matrix: Tensor) -> float:
    total = 0.0
    for halvings in range(_HALVINGS):
        before, edges = total, np.linspace(low, high, 2**halvings + 1)
        rules = [_rule(float(a), float(b)) for a, b in pairwise(edges)]
        nodes, weights = (np.concatenate(part) for part in zip(*rules, strict=True))
        total = float(weights @ speed(bridge, torch.from_numpy(nodes), gram_matrix=matrix).numpy())
        if abs(total - before) <= 1e-12 * total:
            break
    return total


def distance(bridge: Bridge, a: float | tuple[float, ...], b: float | tuple[float, ...]) -> float:
    """Return the straight-line distance between the models at two coordinates (the chord)."""
    difference = bridge.basis(bridge.coordinates(a)) - bridge.basis(bridge.coordinates(b))
    return float((difference @ gram(bridge) @ difference).clamp_min(0).sqrt())


def area(bridge: Bridge) -> float:
    """Return the area of a surface: the integral of sqrt(det g) over its two coordinates (over the triangle for a simplex).

    Several simplexes that share vertices have a :func:`isthmus.geometry.volume.volume`.
    """
    _require_dim(bridge, 2)
    require(bridge.basis != Complex(2, 1), "bridge", "be a surface to have an area", bridge.basis)
    matrix = gram(bridge)
    total = 0.0
    for (a, b), (c, d) in product(*(pairwise(axis) for axis in bridge.basis.breaks)):
        (x, wx), (y, wy) = _rule(a, b), _rule(c, d)
        grid = torch.from_numpy(np.array(list(product(x, y))))
        weights = torch.from_numpy(np.array([prod(pair) for pair in product(wx, wy)]))
        if _triangular(bridge.basis):  # Duffy: the square onto the triangle
            weights = weights * (1 - grid[:, 0])
            grid = torch.stack([grid[:, 0], grid[:, 1] * (1 - grid[:, 0])], -1)
        total += float(weights @ density(bridge, grid, gram_matrix=matrix))
    return total


def _triangular(basis: Basis) -> bool:
    return isinstance(basis, Barycentric | Triangle) or basis == Complex(1, 2)


def angle(bridge: Bridge, at: int, first: int, second: int) -> float:
    """Return the angle in degrees, in [0, 180], at control point `at` between the directions to two other control points."""
    matrix = gram(bridge)

    def inner(i: int, j: int) -> float:
        return float(matrix[i, j] - matrix[i, at] - matrix[at, j] + matrix[at, at])

    lengths = (inner(first, first) * inner(second, second)) ** 0.5
    require(lengths > 0, "angle", "be taken between directions of positive length", lengths)
    return float(np.degrees(np.arccos(np.clip(inner(first, second) / lengths, -1.0, 1.0))))


@dataclass(frozen=True)
class Plane:
    """Control points in the plane of three of them. coordinates: (n, 2) in weight units; residual: (n,) distance from that plane."""

    coordinates: Tensor
    residual: Tensor


def plane(bridge: Bridge, through: tuple[int, int, int]) -> Plane:
    """Return the control points in the plane through three of them: origin at the first, x axis towards the second.

    This is the plane of Garipov et al. 2018 (figure 1). Points of the bridge have coordinates basis(u) @ coordinates.
    """
    matrix = gram(bridge)
    origin, first, second = through
    centred = matrix - matrix[origin] - matrix[:, origin, None] + matrix[origin, origin]
    along = centred[first, first].sqrt()
    require(float(along) > 0, "through", "name three points that differ", through)
    x = centred[first] / along
    height = (centred[second, second] - x[second] ** 2).clamp_min(0).sqrt()
    # A height is the root of a difference of squares: for points on one line rounding leaves up to 1e-7 of their distance.
    widest = max(float(along), float(centred[second, second].clamp_min(0).sqrt()))
    require(float(height) > 1e-6 * widest, "through", "name three points that do not lie on one line", through)
    y = (centred[second] - x[second] * x) / height
    residual = (centred.diagonal() - x**2 - y**2).clamp_min(0).sqrt()
    return Plane(torch.stack([x, y], -1), residual)


@cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(_NODES)


def _rule(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = _gauss()
    return (high - low) / 2 * nodes + (high + low) / 2, (high - low) / 2 * weights


def _require_dim(bridge: Bridge, dim: int) -> None:
    require(bridge.basis.dim == dim, "bridge", f"have {dim} coordinate(s)", bridge.basis.dim)
