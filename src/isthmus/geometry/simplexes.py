"""Bases over triangles, and over simplexes that share vertices."""

from dataclasses import dataclass
from math import factorial

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.geometry.bases import Coordinates
from isthmus.geometry.flat import Affine, Barycentric


@dataclass(frozen=True)
class Triangle:
    """Bezier triangle of any degree n: weight_ij(u, v) = n! / (i! j! k!) u^i v^j (1 - u - v)^k with k = n - i - j.

    The domain is u, v >= 0, u + v <= 1. Control point (i, j) belongs to the coordinates (i / n, j / n); i rises first to last, and j
    within it. The corners are those of :class:`isthmus.geometry.flat.Barycentric` over three vertices, which degree 1 is
    (Farin 2002, chapter 17).

    >>> Triangle(2)(torch.tensor([0.5, 0.25], dtype=torch.float64)).tolist()
    [0.0625, 0.125, 0.0625, 0.25, 0.25, 0.25]
    """

    degree: int

    def __post_init__(self) -> None:
        require(self.degree >= 1, "degree", "be at least 1", self.degree)

    @property
    def indices(self) -> tuple[tuple[int, int], ...]:
        """Return (i, j) for each control point."""
        return _indices(self.degree)

    @property
    def num_points(self) -> int:
        """Return (degree + 1)(degree + 2) / 2."""
        return (self.degree + 1) * (self.degree + 2) // 2

    @property
    def dim(self) -> int:
        """Return 2."""
        return 2

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the three corners, in the order of a simplex's."""
        return (((0.0, 0.0), 0), ((1.0, 0.0), self.num_points - 1), ((0.0, 1.0), self.degree))

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return (i / degree, j / degree)."""
        return tuple((i / self.degree, j / self.degree) for i, j in self.indices)

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the unit interval for each coordinate."""
        return ((0.0, 1.0),) * 2

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., num_points) weights."""
        return _trinomial(self.degree, u)

    def derivative(self, u: Tensor) -> Tensor:
        """Return (..., 2, num_points): degree times a difference of the weights of one degree less, along u and along v."""
        place = {pair: at for at, pair in enumerate(self.indices)}
        lower = _indices(self.degree - 1)
        slopes = u.new_zeros(2, len(lower), self.num_points)
        for row, (i, j) in enumerate(lower):
            slopes[:, row, place[i, j]] = -self.degree
            slopes[0, row, place[i + 1, j]] = self.degree
            slopes[1, row, place[i, j + 1]] = self.degree
        weights = _trinomial(self.degree - 1, u)
        return torch.stack([weights @ slopes[0], weights @ slopes[1]], -2)

    def place(self, cube: Tensor) -> Tensor:
        """Return the points spread uniformly over the triangle."""
        return Barycentric(3).place(cube)


def _indices(degree: int) -> tuple[tuple[int, int], ...]:
    return tuple((i, j) for i in range(degree + 1) for j in range(degree + 1 - i))


def _trinomial(degree: int, u: Tensor) -> Tensor:
    powers = [(i, j, degree - i - j) for i, j in _indices(degree)]
    ways = [factorial(degree) // (factorial(i) * factorial(j) * factorial(k)) for i, j, k in powers]
    i, j, k = torch.tensor(powers, dtype=u.dtype, device=u.device).T
    first, second = u[..., :1], u[..., 1:]
    return torch.tensor(ways, dtype=u.dtype, device=u.device) * first**i * second**j * (1 - first - second) ** k


@dataclass(frozen=True)
class Complex:
    """Simplexes that share their connectors: for each of `models` given vertices one simplex over it and all `connectors`.

    theta(u) = (1 - sum(u)) p_0 + sum_i u_i p_i over n = models + connectors vertices, the given ones first, on the coordinates u >= 0
    with sum(u) <= 1 at which at most one given vertex has a weight. This is the simplicial complex of Benton et al. 2021 (section 3): the
    given models lie in different simplexes, which meet in the one spanned by the connectors. One model makes a single simplex whose
    other vertices are free; one connector makes a star, straight lines from it to every model (Sonthalia et al. 2024).

    >>> Complex(2, 1).place(torch.tensor([[0.2, 0.25], [0.7, 0.25]], dtype=torch.float64)).tolist()
    [[0.0, 0.25], [0.75, 0.25]]
    """

    models: int
    connectors: int

    def __post_init__(self) -> None:
        require(self.models >= 1, "models", "be at least 1", self.models)
        require(self.connectors >= 1, "connectors", "be at least 1", self.connectors)

    @property
    def faces(self) -> tuple[tuple[int, ...], ...]:
        """Return the vertices of each simplex: a given one, then the connectors."""
        shared = tuple(range(self.models, self.num_points))
        return tuple((model, *shared) for model in range(self.models))

    @property
    def num_points(self) -> int:
        """Return models + connectors."""
        return self.models + self.connectors

    @property
    def dim(self) -> int:
        """Return n - 1; the first vertex has the weight that remains."""
        return self.num_points - 1

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the given vertices; the connectors are one-hot too, but they are what is trained."""
        return Affine(self.num_points).corners[: self.models]

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return the vertices' coordinates."""
        return Affine(self.num_points).sites

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the unit interval for each coordinate."""
        return Affine(self.num_points).breaks

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., n) weights."""
        return Affine(self.num_points)(u)

    def derivative(self, u: Tensor) -> Tensor:
        """Return the constant (..., n - 1, n) differences to the first vertex, most of which lead out of the complex."""
        return Affine(self.num_points).derivative(u)

    def place(self, cube: Tensor) -> Tensor:
        """Return points of which each simplex has an equal share, uniform within it: the first coordinate picks the simplex."""
        if self.models == 1:
            return Barycentric(self.num_points).place(cube)
        model = (cube[..., 0] * self.models).long().clamp(0, self.models - 1)
        return self.joined(model, Barycentric(self.connectors + 1).place(cube[..., 1 : 1 + self.connectors]))

    def joined(self, model: Tensor, shares: Tensor) -> Tensor:
        """Return coordinates (k, n - 1) from the simplex (k,) and the connectors' weights (k, connectors) in it."""
        rest = 1 - shares.sum(-1, keepdim=True)
        rest = torch.where(rest.abs() < 1e-12, torch.zeros_like(rest), rest)
        given = shares.new_zeros(*shares.shape[:-1], self.models).scatter(-1, model[..., None], rest)
        return torch.cat([given[..., 1:], shares], -1)
