"""Volumes of simplexes and complexes in weight space, and their gradient, from Gram matrices alone."""

from collections.abc import Sequence
from math import exp, inf, lgamma

import torch
from torch import Tensor

from isthmus._check import InputError
from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.gram import gram
from isthmus.geometry.simplexes import Complex

_FLAT = 1e-13  # eigenvalues below this share of the largest are the rounding of a simplex that has no volume


def simplexes_of(basis: Basis) -> tuple[tuple[int, ...], ...]:
    """Return the vertices of each simplex of a flat simplex or a complex. Raises InputError for another basis."""
    match basis:
        case Barycentric(points):
            return (tuple(range(points)),)
        case Complex():
            return basis.faces
        case _:
            raise InputError(f"`bridge` should be a simplex or a complex to have a volume. Found {basis}.")


def log_volumes(bridge: Bridge, matrix: Tensor | None = None) -> Tensor:
    """Return the natural logarithm of the volume of each simplex, -inf for one that has none. matrix: the bridge's Gram matrix."""
    own = gram(bridge) if matrix is None else matrix
    return torch.tensor([_log_volume(_edges(own, face)) for face in simplexes_of(bridge.basis)], dtype=torch.float64)


def log_volume(bridge: Bridge) -> float:
    """Return the natural logarithm of the summed volumes of the bridge's simplexes; -inf where none has any.

    A simplex over p_0, ..., p_d has V = sqrt(det(E E^T)) / d! with the edges p_i - p_0 as rows of E, which is the determinant of Cayley and
    Menger in other words. d = 1: lengths, 2: areas. The logarithm, because in many dimensions volumes leave the range of numbers.
    """
    return float(log_volumes(bridge).logsumexp(0))


def volume(bridge: Bridge) -> float:
    """Return the summed volumes of the bridge's simplexes, in weight units to the power of their dimension; inf beyond 1e308."""
    found = log_volume(bridge)
    return exp(found) if found < 709 else inf


def log_volume_gradient(bridge: Bridge) -> Tensor:
    """Return the gradient (m, D) of :func:`log_volume` with respect to the free control points.

    d log V / dE = (E E^T)^-1 E for one simplex, and the mean of the simplexes' weighted by their volumes for several (Benton et al. 2021
    take the logarithm of the sum). The n x n coefficients are found from the Gram matrix; the cost in D is that of mixing n points for
    each free one. A simplex without volume has no such gradient and gets none.
    """
    basis, matrix = bridge.basis, gram(bridge)
    faces, logs = simplexes_of(basis), log_volumes(bridge, matrix)
    gradient = torch.zeros_like(bridge.free)
    if not float(logs.max()) > -inf:
        return gradient
    coefficients = torch.zeros(basis.num_points, basis.num_points, dtype=torch.float64)
    for face, share in zip(faces, logs.softmax(0), strict=True):
        if float(share) > 0:
            coefficients[_pairs(face)] += share * _coefficients(_edges(matrix, face))
    for j in range(1, basis.num_points):  # rows sum to 0: the origin is free to choose, and inside nothing cancels
        edge = bridge.row(j) - bridge.row(0)
        for row, i in zip(gradient, bridge.free_index, strict=True):
            row.add_(edge, alpha=float(coefficients[i, j]))
    return gradient


def _edges(matrix: Tensor, face: Sequence[int]) -> Tensor:
    """Return E E^T, (d, d), of one simplex from the Gram matrix of all points."""
    own = matrix[_pairs(face)]
    return own[1:, 1:] - own[1:, :1] - own[:1, 1:] + own[0, 0]


def _pairs(face: Sequence[int]) -> tuple[Tensor, Tensor]:
    index = torch.tensor(list(face))
    return index[:, None], index[None, :]


def _log_volume(inner: Tensor) -> float:
    values = torch.linalg.eigvalsh(inner)
    if not float(values[0]) > _FLAT * float(values[-1]):
        return -inf
    return float(values.log().sum()) / 2 - lgamma(len(inner) + 1)


def _coefficients(inner: Tensor) -> Tensor:
    """Return C (d + 1, d + 1) with d log V / dp = C p: the inverse, and what the first vertex gets, minus the sum of the others."""
    inverse = torch.linalg.inv(inner)
    first = -inverse.sum(0, keepdim=True)
    below = torch.cat([first.T, inverse], 1)
    return torch.cat([-below.sum(0, keepdim=True), below])
