"""What every bridge owes, over any basis and any module: call `check_bridge` in the test of a new basis or architecture."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, bits, stratified, tensors_of, untouched
from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect
from isthmus.geometry.gram import gram, length, metric
from isthmus.layout import Layout


class Vector(nn.Module):
    """A model that is nothing but D numbers."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values.sum()


def through(points: Tensor, basis: Basis) -> Bridge:
    """Return the bridge over `basis` with given control points (n, D); corners are fixed."""
    corners = tuple(index for _, index in basis.corners)
    free = [i for i in range(len(points)) if i not in corners]
    template = Vector(points[0])
    return Bridge(template, Layout.of(template), basis, points[list(corners)], points[free], corners)


def drawn(
    basis: Basis, *, size: int = 40, scale: float = 1.0, offset: float = 0.0, dtype: torch.dtype = torch.float64
) -> Bridge:
    """Return a bridge through random control points."""
    noise = torch.randn(basis.num_points, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return through((offset + scale * noise).to(dtype), basis)


def inside(basis: Basis, count: int = 3) -> list[tuple[float, ...]]:
    """Return coordinates inside the domain."""
    cube = torch.rand(count, basis.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return [tuple(row) for row in basis.place(cube).tolist()]


def check_bridge(make: Callable[[int], nn.Module], basis: Basis) -> None:
    """Assert the contract of the bridge over `basis` between models that `make` returns for seeds, on stratified inputs."""
    for label, group in stratified(make).items():
        models = group[: len(basis.corners)]
        with untouched(*models):
            bridge = connect(models, basis)
            _check_corners(bridge, models, label)
            _check_mixture(bridge, label)
            _check_independence(bridge, label)


def _check_corners(bridge: Bridge, models: list[nn.Module], label: str) -> None:
    expected = [tensors_of(model) for model in models]
    diverged = bridge.with_free(torch.full_like(bridge.free, torch.inf))
    for held in (bridge, diverged, bridge.with_free(bridge.free * 3 + 1)):
        for (u, index), state in zip(bridge.basis.corners, expected, strict=True):
            assert_same_bits(tensors_of(held.at(u)), state, f"{label} corner {u}")
            assert held.corner(u) == index, f"{label} corner {u}"


def _check_mixture(bridge: Bridge, label: str) -> None:
    points = bridge.points.double()
    for u in inside(bridge.basis):
        weights = bridge.basis(torch.tensor(u, dtype=torch.float64))
        expected = sum((w * p for w, p in zip(weights, points, strict=True)), torch.zeros_like(points[0]))
        epsilon = torch.finfo(bridge.layout.dtype).eps * bridge.basis.num_points
        bound = epsilon * float((weights.abs()[:, None] * points.abs()).sum(0).max())
        assert float((bridge.theta(u).double() - expected).abs().max()) <= 2 * bound, f"{label} at {u}"


def _check_independence(bridge: Bridge, label: str) -> None:
    before, points = bridge.at(bridge.basis.corners[0][0]), bridge.points
    middle = inside(bridge.basis, 1)[0]
    kept, expected = tensors_of(before), tensors_of(bridge.at(middle))
    assert_same_bits(tensors_of(before), kept, f"{label}: a point changes when another is made")
    for module in (before, bridge.at(middle)):
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.fill_(1)
    assert torch.equal(bits(bridge.points), bits(points)), label
    assert_same_bits(tensors_of(bridge.at(middle)), expected, f"{label}: points share memory")


def brute_length(bridge: Bridge, chords: int = 2000) -> float:
    """Return the length of the polygon through `chords` + 1 points of a curve, added up in R^D; bends are among the points."""
    t = torch.cat(
        [
            torch.linspace(0, 1, chords + 1, dtype=torch.float64),
            torch.tensor(bridge.basis.breaks[0], dtype=torch.float64),
        ]
    )
    path = bridge.basis(t.unique()[:, None]) @ bridge.points.double()
    return float(path.diff(dim=0).norm(dim=1).sum())


def check_geometry(bridge: Bridge, *, tolerance: float = 1e-6) -> None:
    """Assert that the Gram matrix's metric, and for a curve its length, are those measured in R^D."""
    points = bridge.points.double()
    matrix = gram(bridge)
    size = float(matrix.abs().max())
    centred = points - points[0]
    assert float((matrix - centred @ centred.T).abs().max()) <= 1e-12 * size
    step = 1e-6
    for u in inside(bridge.basis):
        at = torch.tensor(u, dtype=torch.float64)
        shifts = step * torch.eye(bridge.basis.dim, dtype=torch.float64)
        tangents = (bridge.basis(at + shifts) - bridge.basis(at - shifts)) @ centred / (2 * step)
        expected = tangents @ tangents.T
        assert float((metric(bridge, u) - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), f"metric at {u}"
    if bridge.basis.dim == 1:
        brute = brute_length(bridge)
        assert abs(length(bridge) - brute) <= tolerance * brute, f"length {length(bridge)} against {brute}"
