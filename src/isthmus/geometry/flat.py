"""Flat bases: weights that are linear in the coordinates, without or with a border."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.geometry.bases import Coordinates


@dataclass(frozen=True)
class Affine:
    """Plane through n points: weights (1 - sum(u), u_1, ..., u_{n-1}), any real coordinates; n = 1 is a single model.

    >>> Affine(3)(torch.tensor([0.5, -1.0], dtype=torch.float64)).tolist()
    [1.5, 0.5, -1.0]
    """

    points: int

    def __post_init__(self) -> None:
        require(self.points >= 1, "points", "be at least 1", self.points)

    @property
    def num_points(self) -> int:
        """Return n."""
        return self.points

    @property
    def dim(self) -> int:
        """Return n - 1."""
        return self.points - 1

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the origin and the unit vectors."""
        return tuple((site, i) for i, site in enumerate(self.sites))

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return the corners' coordinates: every control point is a corner."""
        return tuple(tuple(float(axis == i - 1) for axis in range(self.dim)) for i in range(self.points))

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the unit interval for each coordinate."""
        return ((0.0, 1.0),) * self.dim

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., n) weights; they may be negative."""
        return torch.cat([1 - u.sum(-1, keepdim=True), u], -1)

    def derivative(self, u: Tensor) -> Tensor:
        """Return the constant (..., n - 1, n) differences to the first point."""
        eye = torch.eye(self.dim, dtype=u.dtype, device=u.device)
        constant = torch.cat([-eye.new_ones(self.dim, 1), eye], -1)
        return constant.expand(*u.shape[:-1], self.dim, self.points)

    def place(self, cube: Tensor) -> Tensor:
        """Return `cube`: a plane has no border, its unit cell is used."""
        return cube


@dataclass(frozen=True)
class Barycentric:
    """Simplex over n vertices: the weights of :class:`Affine` on u >= 0, sum(u) <= 1 (Benton et al. 2021, section 3).

    >>> Barycentric(3)(torch.tensor([0.25, 0.5], dtype=torch.float64)).tolist()
    [0.25, 0.25, 0.5]
    """

    points: int

    def __post_init__(self) -> None:
        require(self.points >= 2, "points", "be at least 2", self.points)

    @property
    def num_points(self) -> int:
        """Return n."""
        return self.points

    @property
    def dim(self) -> int:
        """Return n - 1; the first vertex has the weight that remains."""
        return self.points - 1

    @property
    def corners(self) -> tuple[tuple[Coordinates, int], ...]:
        """Return the vertices."""
        return Affine(self.points).corners

    @property
    def sites(self) -> tuple[Coordinates, ...]:
        """Return the vertices' coordinates."""
        return Affine(self.points).sites

    @property
    def breaks(self) -> tuple[Coordinates, ...]:
        """Return the unit interval for each coordinate."""
        return Affine(self.points).breaks

    def __call__(self, u: Tensor) -> Tensor:
        """Return (..., n) weights."""
        return Affine(self.points)(u)

    def derivative(self, u: Tensor) -> Tensor:
        """Return the constant (..., n - 1, n) differences to the first vertex."""
        return Affine(self.points).derivative(u)

    def place(self, cube: Tensor) -> Tensor:
        """Return the spacings of sorted uniforms, which are Dirichlet(1, ..., 1): uniform over the simplex."""
        rising = cube.sort(-1).values
        return torch.diff(rising, dim=-1, prepend=torch.zeros_like(rising[..., :1])) if self.dim else rising
