"""Bases: coordinates `u` -> one weight per control point. Every row of weights sums to 1, and is one-hot at the corners."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import comb
from typing import Protocol

import torch
from torch import Tensor

from isthmus._check import require

Coordinates = tuple[float, ...]


class Basis(Protocol):
    """Weights of `num_points` control points over `dim` coordinates; theta(u) = basis(u) @ points."""

    @property
    def num_points(self) -> int:
        """Return n, the number of control points."""
        ...

    @property
    def dim(self) -> int:
        """Return d, the number of coordinates."""
        ...

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the (coordinates, control point) pairs at which the weights are one-hot by design."""
        ...

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return for each control point the coordinates it belongs to (Greville abscissae): where it starts on a flat bridge."""
        ...

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return for each coordinate the values between which theta(u) is smooth, first and last included."""
        ...

    def __call__(self, u: Tensor) -> Tensor:
        """Return weights (..., n) at coordinates (..., d)."""
        ...

    def derivative(self, u: Tensor) -> Tensor:
        """Return the weights' derivatives (..., d, n); rows sum to 0. At a kink: the derivative to the right."""
        ...

    def place(self, cube: Tensor) -> Tensor:
        """Return coordinates (k, d) spread uniformly over the domain for points (k, d) spread uniformly over the unit cube."""
        ...


@dataclass(frozen=True)
class Bernstein:
    """Bezier curve of any degree: weight_i(t) = C(degree, i) t^i (1 - t)^(degree - i) on [0, 1]; n = degree + 1.

    Degree 1 is the straight segment, degree 2 the curve of Garipov et al. 2018 (section 3.2). Coordinates beyond [0, 1] extrapolate.

    >>> Bernstein(2)(torch.tensor([0.1], dtype=torch.float64)).tolist()
    [0.81, 0.18000000000000002, 0.010000000000000002]
    """

    degree: int

    def __post_init__(self) -> None:
        require(self.degree >= 1, "degree", "be at least 1", self.degree)

    @property
    def num_points(self) -> int:
        """Return degree + 1."""
        return self.degree + 1

    @property
    def dim(self) -> int:
        """Return 1."""
        return 1

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the two ends."""
        return (((0.0,), 0), ((1.0,), self.degree))

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return i / degree."""
        return tuple((i / self.degree,) for i in range(self.num_points))

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the whole interval: polynomials are smooth."""
        return ((0.0, 1.0),)

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., degree + 1) weights."""
        return _bernstein(self.degree, u)

    def derivative(self, u: Tensor) -> Tensor:
        """Return degree * (B_{i-1} - B_i) of one degree less, shape (..., 1, degree + 1)."""
        lower = _bernstein(self.degree - 1, u)
        none = torch.zeros_like(lower[..., :1])
        return self.degree * (torch.cat([none, lower], -1) - torch.cat([lower, none], -1))[..., None, :]

    def place(self, cube: Tensor) -> Tensor:
        """Return `cube`: the domain is the unit interval."""
        return cube


def _bernstein(degree: int, u: Tensor) -> Tensor:
    index = torch.arange(degree + 1, dtype=u.dtype, device=u.device)
    choose = torch.tensor([comb(degree, i) for i in range(degree + 1)], dtype=u.dtype, device=u.device)
    return choose * u**index * (1 - u) ** (degree - index)


@dataclass(frozen=True)
class Chain:
    """Polygonal chain through `points` control points: piecewise linear between rising `knots` (default: evenly spaced on [0, 1]).

    With 3 points and even knots this is the chain with one bend of Garipov et al. 2018 (section 3.2).

    >>> Chain(3)(torch.tensor([0.25], dtype=torch.float64)).tolist()
    [0.5, 0.5, 0.0]
    """

    points: int
    knots: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        require(self.points >= 2, "points", "be at least 2", self.points)
        if not self.knots:
            object.__setattr__(self, "knots", tuple(i / (self.points - 1) for i in range(self.points)))
        require(len(self.knots) == self.points, "knots", f"hold one value per point, {self.points}", len(self.knots))
        rising = all(a < b for a, b in pairwise(self.knots)) and self.knots[0] == 0 and self.knots[-1] == 1
        require(rising, "knots", "rise strictly from 0 to 1", self.knots)

    @property
    def num_points(self) -> int:
        """Return the number of points, both ends included."""
        return self.points

    @property
    def dim(self) -> int:
        """Return 1."""
        return 1

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the two ends; the bends are one-hot too, but they are what is trained."""
        return (((0.0,), 0), ((1.0,), self.points - 1))

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return the knots."""
        return tuple((knot,) for knot in self.knots)

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the knots: the speed jumps there."""
        return (self.knots,)

    def _piece(self, u: Tensor) -> tuple[Tensor, Tensor]:
        knots = torch.tensor(self.knots, dtype=u.dtype, device=u.device)
        piece = (torch.searchsorted(knots, u.contiguous(), right=True) - 1).clamp(0, self.points - 2)
        return piece, knots

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., points) weights, at most two of them not zero."""
        piece, knots = self._piece(u)
        share = (u - knots[piece]) / (knots[piece + 1] - knots[piece])
        weights = u.new_zeros(*u.shape[:-1], self.points)
        return weights.scatter(-1, piece, 1 - share).scatter(-1, piece + 1, share)

    def derivative(self, u: Tensor) -> Tensor:
        """Return (..., 1, points): minus and plus one over the length of the piece."""
        piece, knots = self._piece(u)
        slope = 1 / (knots[piece + 1] - knots[piece])
        weights = u.new_zeros(*u.shape[:-1], self.points)
        return weights.scatter(-1, piece, -slope).scatter(-1, piece + 1, slope)[..., None, :]

    def place(self, cube: Tensor) -> Tensor:
        """Return `cube`: the domain is the unit interval."""
        return cube


@dataclass(frozen=True)
class Product:
    """Tensor-product basis: weight_{ij}(u, v) = first_i(u) second_j(v), control point (i, j) at index i * second.num_points + j.

    `Product(Bernstein(n), Bernstein(m))` is the Bezier surface of Ren et al. 2025 (eq. 5).
    """

    first: Basis
    second: Basis

    @property
    def num_points(self) -> int:
        """Return the product of the factors' numbers of points."""
        return self.first.num_points * self.second.num_points

    @property
    def dim(self) -> int:
        """Return the sum of the factors' dimensions."""
        return self.first.dim + self.second.dim

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return all pairs of the factors' corners."""
        wide = self.second.num_points
        return tuple((a + b, i * wide + j) for a, i in self.first.corners for b, j in self.second.corners)

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return all pairs of the factors' sites."""
        return tuple(a + b for a in self.first.sites for b in self.second.sites)

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the factors' breaks."""
        return self.first.breaks + self.second.breaks

    def _halves(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u[..., : self.first.dim], u[..., self.first.dim :]

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., n_first * n_second) weights."""
        a, b = self._halves(u)
        return (self.first(a)[..., :, None] * self.second(b)[..., None, :]).flatten(-2)

    def derivative(self, u: Tensor) -> Tensor:
        """Return (..., d, n): the product rule, one factor's derivative times the other's weights."""
        a, b = self._halves(u)
        along_first = self.first.derivative(a)[..., :, :, None] * self.second(b)[..., None, None, :]
        along_second = self.first(a)[..., None, :, None] * self.second.derivative(b)[..., :, None, :]
        return torch.cat([along_first.flatten(-2), along_second.flatten(-2)], -2)

    def place(self, cube: Tensor) -> Tensor:
        """Return each factor's placing of its share of the cube."""
        a, b = self._halves(cube)
        return torch.cat([self.first.place(a), self.second.place(b)], -1)
