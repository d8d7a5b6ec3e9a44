"""Coordinates drawn uniformly over the domain of a basis, or over the length or area of a bridge in weight space."""

import torch
from torch import Tensor

from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.gram import density
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.volume import log_volumes

_CELLS = 4096


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


def sample_by_area(bridge: Bridge, count: int, *, generator: torch.Generator) -> Tensor:
    """Return (count, d) float64 coordinates, uniform over the length, area or volume of the bridge itself: density ~ sqrt(det g(u)).

    Where a curve is fast in t, uniform t visits it too seldom: this is the expectation over the curve that Garipov et al. 2018 set out from
    (eq. 1) before they take t uniform (eq. 2), and the surface integral of Ren et al. 2025 (eq. 6). The density is taken as constant
    within each of about 4,096 equal cells; of a complex the simplex is drawn by its volume. A bridge without extent is sampled uniformly
    in u.
    """
    basis = bridge.basis
    if isinstance(basis, Complex):
        return _by_volume(bridge, basis, count, generator)
    if basis.dim == 0:
        return sample(basis, count, generator=generator)
    side = round(_CELLS ** (1 / basis.dim))
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    middles = torch.cartesian_prod(*[axis] * basis.dim).reshape(-1, basis.dim)
    weights = density(bridge, basis.place(middles))
    if not float(weights.sum()) > 0:
        return sample(basis, count, generator=generator)
    cells = torch.multinomial(weights, count, replacement=True, generator=generator)
    jitter = torch.rand(count, basis.dim, dtype=torch.float64, generator=generator) - 0.5
    return basis.place(middles[cells] + jitter / side)


def _by_volume(bridge: Bridge, basis: Complex, count: int, generator: torch.Generator) -> Tensor:
    logs = log_volumes(bridge)
    shares = (logs - logs.max()).exp() if float(logs.max()) > -torch.inf else torch.ones_like(logs)
    model = torch.multinomial(shares, count, replacement=True, generator=generator)
    cube = torch.rand(count, basis.connectors, dtype=torch.float64, generator=generator)
    return basis.joined(model, Barycentric(basis.connectors + 1).place(cube))
