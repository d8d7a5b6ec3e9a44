"""Geometry from the Gram matrix against R^D by brute force, and against closed forms."""

from math import asinh, pi, radians, sqrt, tan

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from torch import Tensor

from contracts.bridge import brute_length, check_geometry, drawn, through
from isthmus._check import InputError
from isthmus.geometry import gram as geometry
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.gram import angle, area, distance, gram, length, metric, plane, speed

CURVES = [Bernstein(1), Bernstein(2), Bernstein(5), Chain(3), Chain(5, (0.0, 0.1, 0.15, 0.8, 1.0))]
SURFACES = [Product(Bernstein(2), Bernstein(2)), Product(Chain(3), Bernstein(1)), Barycentric(3), Affine(3)]


def rows(*points: tuple[float, ...]) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)


@pytest.mark.parametrize("basis", [*CURVES, *SURFACES], ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(basis: Basis, scale: float, dtype: torch.dtype) -> None:
    check_geometry(drawn(basis, scale=scale, dtype=dtype))


@pytest.mark.parametrize("basis", CURVES, ids=str)
def test_a_large_common_offset_changes_nothing(basis: Basis) -> None:
    near, far = drawn(basis), drawn(basis, offset=1e4)
    assert length(far) == pytest.approx(length(near), rel=1e-10)
    # In float32 the points themselves are rounded, to 1e4 * 2^-24; brute force on the same rounded points agrees nevertheless.
    rounded = drawn(basis, offset=1e4, scale=0.1, dtype=torch.float32)
    assert length(rounded) == pytest.approx(brute_length(rounded), rel=1e-6)
    assert torch.allclose(gram(rounded), 0.01 * gram(near), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("basis", CURVES, ids=str)
def test_equal_models_have_no_extent(basis: Basis) -> None:
    for value in (0.0, 3.0):
        bridge = through(torch.full((basis.num_points, 5), value, dtype=torch.float64), basis)
        assert (length(bridge), distance(bridge, 0, 1)) == (0, 0)
        assert not metric(bridge, 0.3).any()


def test_memory_is_bounded_and_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = drawn(Bernstein(3), size=103)
    whole = gram(bridge)
    monkeypatch.setattr(geometry, "_CHUNK", 10)
    torch.testing.assert_close(gram(bridge), whole, rtol=1e-13, atol=1e-13)
    assert torch.equal(whole, whole.T)
    assert not whole[0].any()


@pytest.mark.parametrize("basis", [Bernstein(1), Bernstein(4), Chain(4)], ids=str)
def test_a_straight_segment_is_as_long_as_its_chord_and_of_constant_speed(basis: Basis) -> None:
    ends = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sites = torch.tensor(basis.sites, dtype=torch.float64)
    bridge = through(ends[0] * (1 - sites) + ends[1] * sites, basis)
    chord = float((ends[1] - ends[0]).norm())
    assert length(bridge) == pytest.approx(chord, rel=1e-13)
    assert distance(bridge, 0, 1) == pytest.approx(chord, rel=1e-13)
    assert distance(bridge, 0.25, 0.75) == pytest.approx(chord / 2, rel=1e-13)
    np.testing.assert_allclose(speed(bridge, torch.linspace(0, 1, 11)), chord, rtol=1e-12)


def test_length_of_a_parabola() -> None:
    parabola = through(rows((0, 0, 7), (0.5, 0, 7), (1, 1, 7)), Bernstein(2))  # (t, t^2)
    assert length(parabola) == pytest.approx(sqrt(5) / 2 + asinh(2) / 4, rel=1e-14)
    assert length(parabola, 0, 0.5) == pytest.approx(sqrt(2) / 4 + asinh(1) / 4, rel=1e-14)
    assert length(parabola, 0.5, 0) == length(parabola, 0, 0.5)
    assert length(parabola, 0.3, 0.3) == 0
    assert length(parabola, 0, 1.5) > length(parabola)
    np.testing.assert_allclose(speed(parabola, torch.tensor([0.0, 0.5, 1.0])), np.sqrt([1, 2, 5]))


def test_length_of_a_curve_that_turns_back_on_itself() -> None:
    """Three points on a line, the middle one beyond the end: the speed |4 - 6 t| has a kink, and its integral is 5 / 3."""
    bridge = through(rows((0, 0), (2, 0), (1, 0)), Bernstein(2))
    assert length(bridge) == pytest.approx(5 / 3, rel=1e-8)


def test_length_of_a_chain_adds_its_segments() -> None:
    bridge = through(rows((0, 0), (3, 4), (3, 5)), Chain(3, (0.0, 0.9, 1.0)))
    assert length(bridge) == pytest.approx(6, rel=1e-14)
    assert length(bridge, 0.45, 0.95) == pytest.approx(3, rel=1e-13)
    np.testing.assert_allclose(speed(bridge, torch.tensor([0.1, 0.95], dtype=torch.float64)), [5 / 0.9, 10])


def test_metric_of_a_plane_is_the_gram_matrix_of_its_directions() -> None:
    bridge = through(rows((1, 1, 1), (3, 1, 1), (2, 4, 1)), Affine(3))
    np.testing.assert_allclose(metric(bridge, (0.3, -4.0)), [[4, 2], [2, 10]])
    given = metric(bridge, (0.0, 0.0), gram_matrix=4 * gram(bridge))
    np.testing.assert_allclose(given, [[16, 8], [8, 40]])


def test_areas_of_flat_pieces() -> None:
    a, b = torch.tensor([2.0, 0, 1, 0]).double(), torch.tensor([1.0, 3, 0, 1]).double()
    parallelogram = sqrt(float((a @ a) * (b @ b) - (a @ b) ** 2))
    origin = torch.full((4,), 5.0, dtype=torch.float64)
    corners = torch.stack([origin, origin + b, origin + a, origin + a + b])
    assert area(through(corners, Product(Bernstein(1), Bernstein(1)))) == pytest.approx(parallelogram, rel=1e-12)
    assert area(through(corners[:3], Barycentric(3))) == pytest.approx(parallelogram / 2, rel=1e-12)
    assert area(through(corners[:3], Affine(3))) == pytest.approx(parallelogram, rel=1e-12)
    basis = Product(Chain(3, (0.0, 0.2, 1.0)), Bernstein(2))  # the same patch, with bends and bulges that stay in it
    sites = torch.tensor(basis.sites, dtype=torch.float64)
    assert area(through(origin + sites @ torch.stack([a, b]), basis)) == pytest.approx(parallelogram, rel=1e-12)
    flat = through(torch.stack([origin, origin + a, origin + 2 * a]), Barycentric(3))
    assert area(flat) == pytest.approx(0, abs=1e-6)


def test_area_of_a_roof_adds_its_sides() -> None:
    roof = through(
        rows((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 0, 3), (1, 1, 3)),
        Product(Chain(3, (0.0, 0.21, 1.0)), Bernstein(1)),
    )
    assert area(roof) == pytest.approx(4, rel=1e-12)


def test_area_of_a_saddle() -> None:
    """The bilinear patch (u, v, u v) has area element sqrt(1 + u^2 + v^2)."""
    saddle = through(rows((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)), Product(Bernstein(1), Bernstein(1)))
    expected = dblquad(lambda v, u: sqrt(1 + u * u + v * v), 0, 1, 0, 1, epsabs=1e-12)[0]
    assert area(saddle) == pytest.approx(expected, rel=1e-11)


def test_angles_of_known_triangles() -> None:
    bridge = through(rows((1, 1), (4, 1), (1, 5), (7, 1), (-2, 1)), Chain(5))
    assert angle(bridge, 0, 1, 2) == pytest.approx(90)
    assert tan(radians(angle(bridge, 1, 0, 2))) == pytest.approx(4 / 3)
    assert angle(bridge, 0, 1, 3) == pytest.approx(0, abs=1e-5)
    assert angle(bridge, 0, 1, 4) == pytest.approx(180, abs=1e-5)
    assert angle(bridge, 0, 1, 2) + angle(bridge, 1, 2, 0) + angle(bridge, 2, 0, 1) == pytest.approx(180)
    assert angle(drawn(Chain(3), scale=1e-8), 0, 1, 2) == pytest.approx(angle(drawn(Chain(3), scale=1e8), 0, 1, 2))


def test_plane_has_known_coordinates_and_residuals() -> None:
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    flat = rows((0, 0), (5, 0), (2, 3), (-1, 0.5), (4, -2))
    heights = torch.tensor([0, 0, 0, 0, 1.5], dtype=torch.float64)
    points = 100 + torch.cat([flat, heights[:, None], torch.zeros(5, 3, dtype=torch.float64)], 1) @ turn
    found = plane(through(points, Chain(5)), (0, 1, 2))
    np.testing.assert_allclose(found.coordinates, flat, atol=1e-9)
    np.testing.assert_allclose(found.residual, heights, atol=1e-5)
    moved = plane(through(points, Chain(5)), (2, 0, 1)).coordinates
    np.testing.assert_allclose(moved[2], 0, atol=1e-9)
    np.testing.assert_allclose(moved[0], [sqrt(13), 0], atol=1e-9)
    np.testing.assert_allclose(torch.cdist(moved[:4], moved[:4]), torch.cdist(flat[:4], flat[:4]), atol=1e-6)


def test_plane_coordinates_of_a_curve_are_the_mixed_ones() -> None:
    bridge = drawn(Bernstein(2))
    placed = plane(bridge, (0, 2, 1)).coordinates
    at = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    one, two = bridge.basis(at) @ placed
    assert float((one - two).norm()) == pytest.approx(distance(bridge, 0.2, 0.7), rel=1e-9)


def test_a_quarter_circle_is_approximated_as_the_literature_says() -> None:
    """The cubic with handle 4 (sqrt(2) - 1) / 3 has the circle's length to 2e-4 (a known approximation)."""
    handle = 4 * (sqrt(2) - 1) / 3
    bridge = through(rows((1, 0), (1, handle), (handle, 1), (0, 1)), Bernstein(3))
    assert length(bridge) == pytest.approx(pi / 2, rel=3e-4)
    assert length(bridge) != pytest.approx(pi / 2, rel=1e-6)


def test_errors() -> None:
    surface, curve = drawn(Product(Bernstein(1), Bernstein(1))), drawn(Bernstein(2))
    for measure in (length, lambda bridge: speed(bridge, torch.zeros(1))):
        with pytest.raises(InputError, match=r"`bridge` should have 1 coordinate\(s\)\. Found 2\."):
            measure(surface)
    with pytest.raises(InputError, match=r"`bridge` should have 2 coordinate\(s\)\. Found 1\."):
        area(curve)
    doubled = through(rows((0, 0), (0, 0), (1, 1)), Chain(3))
    with pytest.raises(
        InputError, match=r"`angle` should be taken between directions of positive length\. Found 0\.0\."
    ):
        angle(doubled, 0, 1, 2)
    with pytest.raises(InputError, match=r"`through` should name three points that differ\. Found \(0, 1, 2\)\."):
        plane(doubled, (0, 1, 2))


@pytest.mark.parametrize("seed", range(20))
def test_points_on_one_line_span_no_plane(seed: int) -> None:
    """Rounding leaves a height of about 1e-8 of the distance, which is no plane."""
    start, step = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bridge = through(torch.stack([start, start + step, start + 1.7 * step]), Chain(3))
    with pytest.raises(
        InputError, match=r"`through` should name three points that do not lie on one line\. Found \(0, 1, 2\)"
    ):
        plane(bridge, (0, 1, 2))
    start[0] += 1e-3 * float(step.norm())
    bent = through(torch.stack([bridge.points[0], bridge.points[1], start + 1.7 * step]), Chain(3))
    assert plane(bent, (0, 1, 2)).coordinates[2, 1] > 0
