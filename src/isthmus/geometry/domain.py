"""Where the coordinates of a basis lie: whether some do, and lattices of them."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import comb, isfinite, prod

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.geometry.bases import Basis, Product
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle

_ROUNDING = 1e-12


def inside(basis: Basis, u: Sequence[float]) -> bool:
    """Return whether coordinates lie in the basis's domain; a plane has no border."""
    if isinstance(basis, Product):
        return inside(basis.first, u[: basis.first.dim]) and inside(basis.second, u[basis.first.dim :])
    if isinstance(basis, Affine):
        return all(isfinite(value) for value in u)
    within = all(low[0] <= value <= low[-1] for value, low in zip(u, basis.breaks, strict=True))
    if not isinstance(basis, Barycentric | Triangle | Complex):
        return within
    rest = 1 - sum(u)
    if isinstance(basis, Complex):
        within = within and sum(weight > _ROUNDING for weight in (rest, *u[: basis.models - 1])) <= 1
    return within and rest >= -_ROUNDING


def domain(basis: Basis) -> str:
    """Return the domain in words."""
    match basis:
        case Affine():
            return "a plane with any finite coordinates"
        case Complex(models=models) if models > 1:
            return "at least 0 with a sum of at most 1, and a weight for at most one of the models"
        case Barycentric() | Triangle() | Complex():
            return "at least 0 with a sum of at most 1"
        case _:
            return "each coordinate in [0, 1]"


def lattice_size(basis: Basis, counts: Sequence[int]) -> int:
    """Return how many points :func:`lattice` has, at most, without making them."""
    if isinstance(basis, Complex):
        return basis.models * lattice_size(Barycentric(basis.connectors + 1), counts[: basis.connectors])
    simplex = _is_simplex(basis) and len(set(counts)) == 1
    return comb(counts[0] - 1 + basis.dim, basis.dim) if simplex else prod(counts)


def lattice(basis: Basis, counts: Sequence[int]) -> Tensor:
    """Return (N, d) float64 coordinates inside the domain, `counts` evenly spaced values along each, ends included.

    A complex has the lattice of a simplex in each of its own, points they share once; its counts are equal.
    """
    if isinstance(basis, Complex) and basis.models > 1:
        require(len(set(counts)) == 1, "grid", "be one number for a complex", "x".join(map(str, counts)))
        shares = lattice(Barycentric(basis.connectors + 1), counts[: basis.connectors])
        parts = [basis.joined(torch.full((len(shares),), model), shares) for model in range(basis.models)]
        return torch.cat(parts).unique(dim=0)
    if _is_simplex(basis) and len(set(counts)) == 1:
        axis = torch.linspace(0, 1, counts[0], dtype=torch.float64).tolist()
        steps = list(_steps(basis.dim, counts[0] - 1))
        return torch.tensor([[axis[k] for k in row] for row in steps], dtype=torch.float64)
    axes = [
        torch.linspace(low[0], low[-1], count, dtype=torch.float64).tolist()
        for low, count in zip(basis.breaks, counts, strict=True)
    ]
    return torch.tensor([row for row in product(*axes) if inside(basis, row)], dtype=torch.float64)


def _is_simplex(basis: Basis) -> bool:
    return isinstance(basis, Barycentric | Triangle) or (isinstance(basis, Complex) and basis.models == 1)


def _steps(dim: int, left: int) -> Iterator[tuple[int, ...]]:
    """Yield the whole numbers (k_1, ..., k_dim) of sum at most `left`, the last rising first."""
    if dim == 0:
        yield ()
        return
    for k in range(left + 1):
        for rest in _steps(dim - 1, left - k):
            yield (k, *rest)
