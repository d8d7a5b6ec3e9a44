"""Coordinates drawn uniformly over the domain of a basis."""

import torch
from torch import Tensor

from isthmus.geometry.bases import Basis


def sample(basis: Basis, count: int, *, generator: torch.Generator, stratified: bool = False) -> Tensor:
    """Return (count, d) float64 coordinates, each uniform over the basis's domain.

    Stratified: a Latin hypercube (McKay et al. 1979): every coordinate has exactly one value in each of `count` equal cells, so the
    mean over the draws has less variance while each draw alone stays uniform.
    """
    cube = torch.rand(count, basis.dim, dtype=torch.float64, generator=generator)
    if stratified and count > 1:
        cells = [torch.randperm(count, generator=generator) for _ in range(basis.dim)]
        cube = (torch.stack(cells, -1) + cube) / count if cells else cube
    return basis.place(cube)
