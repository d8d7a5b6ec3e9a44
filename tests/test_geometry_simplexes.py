"""Bezier triangles and complexes: against de Casteljau, patches with a collapsed edge, and their definitions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.bridge import check_geometry, drawn, inside
from isthmus._check import InputError
from isthmus.geometry import domain
from isthmus.geometry.bases import Basis, Bernstein, Product
from isthmus.geometry.edit import as_patch, edges, elevate
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.gram import area
from isthmus.geometry.simplexes import Complex, Triangle
from isthmus.scan import grid

TRIANGLES = [Triangle(1), Triangle(2), Triangle(3), Triangle(5)]


def at(u: tuple[float, ...] | list[float]) -> Tensor:
    return torch.tensor(u, dtype=torch.float64)


def de_casteljau(basis: Triangle, points: Tensor, u: float, v: float) -> Tensor:
    """Return the point of a Bezier triangle by repeated interpolation of three neighbours."""
    net = dict(zip(basis.indices, points, strict=True))
    for degree in range(basis.degree - 1, -1, -1):
        net = {
            (i, j): (1 - u - v) * net[i, j] + u * net[i + 1, j] + v * net[i, j + 1]
            for i in range(degree + 1)
            for j in range(degree + 1 - i)
        }
    return net[0, 0]


@pytest.mark.parametrize("basis", TRIANGLES, ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_de_casteljau_agrees(basis: Triangle, scale: float) -> None:
    bridge = drawn(basis, scale=scale)
    for u, v in [*inside(basis, 5), (0.0, 0.0), (0.3, 0.7), (1.2, -0.4)]:
        expected = de_casteljau(basis, bridge.points, u, v)
        torch.testing.assert_close(bridge.theta((u, v)), expected, rtol=1e-11, atol=1e-11 * scale)


def test_the_first_degree_is_the_flat_simplex() -> None:
    cube = torch.rand(20, 2, dtype=torch.float64)
    basis, u = Triangle(1), Barycentric(3).place(cube)
    places = [index for _, index in basis.corners]
    torch.testing.assert_close(basis(u)[:, places], Barycentric(3)(u))
    assert torch.equal(basis.place(cube), u)
    assert [site for site, _ in basis.corners] == [site for site, _ in Barycentric(3).corners]


@pytest.mark.parametrize("basis", TRIANGLES, ids=str)
def test_elevation_leaves_the_triangle_and_its_corners(basis: Triangle) -> None:
    bridge = drawn(basis)
    higher = elevate(elevate(bridge))
    assert higher.basis == Triangle(basis.degree + 2)
    for u in inside(basis, 5):
        torch.testing.assert_close(higher.theta(u), bridge.theta(u), rtol=1e-13, atol=1e-13)
    for u, index in basis.corners:
        assert torch.equal(higher.theta(u), bridge.row(index))
    assert higher.free_index == tuple(
        i for i in range(higher.basis.num_points) if i not in [k for _, k in higher.basis.corners]
    )


@pytest.mark.parametrize("basis", TRIANGLES, ids=str)
def test_a_triangle_is_a_patch_with_one_edge_collapsed(basis: Triangle) -> None:
    bridge = drawn(basis)
    patch = as_patch(bridge)
    assert patch.basis == Product(Bernstein(basis.degree), Bernstein(basis.degree))
    for s, t in [(0.0, 0.7), (1.0, 0.0), (1.0, 1.0), (0.3, 0.6), (0.8, 0.1), (1.0, 0.4)]:
        torch.testing.assert_close(patch.theta((s, t)), bridge.theta((s * (1 - t), s * t)), rtol=1e-12, atol=1e-12)
    collapsed = [patch.row(j) for j in range(basis.degree + 1)]
    assert all(torch.equal(row, bridge.row(0)) for row in collapsed)
    assert float(area(patch)) == pytest.approx(area(bridge), rel=1e-6)
    with pytest.raises(InputError, match=r"`bridge` should be a Bezier triangle\. Found Barycentric\(points=3\)\."):
        as_patch(drawn(Barycentric(3)))


@pytest.mark.parametrize("basis", TRIANGLES, ids=str)
def test_edges_of_a_triangle_are_bezier_curves_of_its_degree(basis: Triangle) -> None:
    bridge = drawn(basis)
    curves = edges(bridge)
    where = {"0-1": lambda t: (t, 0.0), "0-2": lambda t: (0.0, t), "1-2": lambda t: (1 - t, t)}
    for name, curve in curves.items():
        assert curve.basis == Bernstein(basis.degree)
        assert curve.fixed_index == (0, basis.degree)
        for t in (0.0, 0.3, 1.0):
            torch.testing.assert_close(curve.theta(t), bridge.theta(where[name](t)), rtol=1e-12, atol=1e-12)


def test_the_area_of_a_triangle_is_that_of_its_pieces() -> None:
    bridge = drawn(Triangle(3))
    check_geometry(bridge)
    lattice = 300
    ticks = np.arange(lattice + 1) / lattice
    points = bridge.points.double()

    def place(i: int, j: int) -> Tensor:
        return torch.stack([at([ticks[i], ticks[j]])])

    total = 0.0
    rows = [bridge.basis(torch.cat([place(i, j) for j in range(lattice + 1 - i)])) @ points for i in range(lattice + 1)]
    for low, high in pairwise(rows):
        a, b = low[1:] - low[:-1], high - low[:-1]
        total += float(_pair_areas(a, b).sum()) / 2
        c, d = high[1:] - low[1:-1], high[:-1] - low[1:-1]
        total += float(_pair_areas(c, d).sum()) / 2
    assert area(bridge) == pytest.approx(total, rel=1e-4)


def _pair_areas(a: Tensor, b: Tensor) -> Tensor:
    return ((a * a).sum(-1) * (b * b).sum(-1) - (a * b).sum(-1) ** 2).clamp_min(0).sqrt()


def test_a_complex_is_its_simplexes() -> None:
    basis = Complex(3, 2)
    assert basis.faces == ((0, 3, 4), (1, 3, 4), (2, 3, 4))
    assert Complex(1, 3).faces == ((0, 1, 2, 3),)
    u = basis.place(torch.rand(3000, basis.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    weights = basis(u)
    given = weights[:, :3] > 1e-12
    assert bool((given.sum(1) <= 1).all())
    assert bool((weights >= -1e-12).all())
    for model in range(3):
        share = given[:, model].double().mean()
        assert abs(float(share) - 1 / 3) < 4 * (2 / 9 / 3000) ** 0.5
        own = weights[given[:, model]][:, [model, 3, 4]]
        assert own.mean(0).numpy() == pytest.approx([1 / 3] * 3, abs=4 * (1 / 18 / 900) ** 0.5)  # Dirichlet(1, 1, 1)


def test_a_complex_over_one_model_is_a_simplex() -> None:
    u = torch.rand(10, 3, dtype=torch.float64)
    one, two = Complex(1, 3), Barycentric(4)
    assert torch.equal(one(u), two(u))
    assert torch.equal(one.place(u), two.place(u))
    assert one.corners == two.corners[:1]
    assert set(edges(drawn(one))) == set(edges(drawn(two)))


def test_edges_of_a_complex_leave_out_pairs_of_given_models() -> None:
    bridge = drawn(Complex(2, 2))
    assert list(edges(bridge)) == ["0-2", "0-3", "1-2", "1-3", "2-3"]
    torch.testing.assert_close(edges(bridge)["1-2"].theta(0.25), 0.75 * bridge.row(1) + 0.25 * bridge.row(2))


@pytest.mark.parametrize(
    ("basis", "size", "count"),
    [
        (Triangle(3), "5", 15),
        (Complex(1, 2), "5", 15),
        (Complex(3, 1), "5", 13),  # three lines of five points share one
        (Complex(2, 2), "3", 9),  # two triangles of six points share the edge of three
        (Product(Triangle(2), Bernstein(1)), "3x3x2", 12),
    ],
)
def test_grids_lie_inside(basis: Basis, size: str, count: int) -> None:
    found = grid(basis, size)
    assert len(found) == len(found.unique(dim=0)) == count
    assert all(domain.inside(basis, row) for row in found.tolist())
    rows = found.tolist()
    assert all(list(u) in rows for u, _ in basis.corners)


@pytest.mark.parametrize(
    ("basis", "u", "expected"),
    [
        (Complex(2, 1), (0.5, 0.5), True),
        (Complex(2, 1), (0.5, 0.4), False),  # between the two models
        (Complex(2, 1), (0.0, 0.4), True),
        (Complex(3, 1), (0.3, 0.3, 0.4), False),
        (Complex(1, 2), (0.3, 0.3), True),
        (Complex(1, 2), (0.8, 0.3), False),
        (Triangle(2), (0.5, 0.5), True),
        (Triangle(2), (0.5, 0.6), False),
        (Triangle(2), (-0.1, 0.6), False),
        (Product(Triangle(2), Bernstein(1)), (0.6, 0.6, 0.5), False),
        (Affine(3), (4.0, -3.0), True),
        (Affine(3), (4.0, float("nan")), False),
    ],
)
def test_what_lies_inside(basis: Basis, u: tuple[float, ...], expected: bool) -> None:
    assert domain.inside(basis, u) is expected


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"`degree` should be at least 1\. Found 0\."):
        Triangle(0)
    with pytest.raises(InputError, match=r"`models` should be at least 1\. Found 0\."):
        Complex(0, 1)
    with pytest.raises(InputError, match=r"`connectors` should be at least 1\. Found 0\."):
        Complex(1, 0)
    with pytest.raises(InputError, match=r"`grid` should be one number for a complex\. Found 3x4\."):
        grid(Complex(2, 1), "3x4")
