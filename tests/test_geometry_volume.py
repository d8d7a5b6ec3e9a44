"""Volumes against the determinant of Cayley and Menger and closed forms, gradients against float64 autograd of that determinant."""

from math import factorial, inf, log, sqrt

import pytest
import torch
from torch import Tensor

from contracts.bridge import drawn, through
from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.gram import area, length
from isthmus.geometry.sampling import sample_by_area
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.volume import log_volume, log_volume_gradient, simplexes_of, volume


def cayley_menger(points: Tensor) -> Tensor:
    """Return the volume of a simplex from the squared distances of its vertices alone."""
    d = len(points) - 1
    squares = (points[:, None] - points[None]).pow(2).sum(-1)
    bordered = torch.ones(d + 2, d + 2, dtype=points.dtype)
    bordered[1:, 1:] = squares
    bordered[0, 0] = 0
    return ((-1) ** (d + 1) * torch.linalg.det(bordered) / factorial(d) ** 2 / 2**d).sqrt()


def total(basis: Basis, points: Tensor) -> Tensor:
    return torch.stack([cayley_menger(points[list(face)]) for face in simplexes_of(basis)]).sum()


BASES = [Barycentric(2), Barycentric(4), Complex(1, 1), Complex(1, 3), Complex(2, 2), Complex(3, 1), Complex(4, 3)]


@pytest.mark.parametrize("basis", BASES, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_cayley_and_menger_agree(basis: Basis, scale: float) -> None:
    bridge = drawn(basis, size=9, scale=scale)
    expected = float(total(basis, bridge.points))
    assert volume(bridge) == pytest.approx(expected, rel=1e-9)
    assert log_volume(bridge) == pytest.approx(log(expected), abs=1e-9)


@pytest.mark.parametrize("basis", [b for b in BASES if isinstance(b, Complex)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_gradient_is_that_of_autograd(basis: Complex, offset: float) -> None:
    bridge = drawn(basis, size=9, offset=offset)
    centred = (bridge.points - offset).requires_grad_()
    total(basis, centred).log().backward()
    assert centred.grad is not None
    expected = centred.grad[list(bridge.free_index)]
    torch.testing.assert_close(log_volume_gradient(bridge), expected, rtol=1e-8, atol=1e-10 + 1e-9 * offset)


def test_right_corners_have_the_volume_of_the_textbook() -> None:
    corners = torch.cat([torch.zeros(1, 5), 2 * torch.eye(5)]).double()
    assert volume(through(corners, Barycentric(6))) == pytest.approx(2**5 / 120)
    regular = torch.eye(4).double()  # a tetrahedron of edges sqrt(2)
    assert volume(through(regular, Barycentric(4))) == pytest.approx(sqrt(2) ** 3 / (6 * sqrt(2)))
    huge = through(1e150 * corners, Barycentric(6))
    assert volume(huge) == inf
    assert log_volume(huge) == pytest.approx(5 * (log(2) + 150 * log(10)) - log(120))


def test_lengths_and_areas_are_the_first_two() -> None:
    assert volume(drawn(Barycentric(2))) == pytest.approx(length(drawn(Bernstein(1))))
    assert volume(drawn(Barycentric(3))) == pytest.approx(area(drawn(Barycentric(3))))
    assert area(drawn(Complex(1, 2))) == pytest.approx(area(drawn(Barycentric(3))))
    with pytest.raises(InputError, match=r"`bridge` should have 2 coordinate\(s\)\. Found 3\."):
        area(drawn(Complex(1, 3)))


def test_a_flat_simplex_has_no_volume_and_no_gradient() -> None:
    points = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[3] = points[:3].mean(0)
    bridge = through(points, Complex(1, 3))
    assert (log_volume(bridge), volume(bridge)) == (-inf, 0.0)
    assert bool((log_volume_gradient(bridge) == 0).all())
    equal = through(points[:1].expand(3, 6).clone(), Complex(2, 1))
    assert log_volume(equal) == -inf
    half = through(torch.stack([points[0], points[1], points[0]]), Complex(2, 1))  # one of the two lines is a point
    assert volume(half) == pytest.approx(float((points[0] - points[1]).norm()))
    expected = (points[0] - points[1]) / (points[0] - points[1]).pow(2).sum()
    torch.testing.assert_close(log_volume_gradient(half)[0], expected)


def test_draws_by_area_favour_the_larger_simplex() -> None:
    points = torch.zeros(3, 2, dtype=torch.float64)
    points[0, 0], points[1, 0] = 3.0, -1.0  # lines of 3 and 1 to the connector
    bridge = through(points, Complex(2, 1))
    u = sample_by_area(bridge, 4000, generator=torch.Generator().manual_seed(0))
    long = (bridge.basis(u)[:, 0] > 1e-12).double().mean()
    assert abs(float(long) - 0.75) < 4 * sqrt(0.75 * 0.25 / 4000)
    where = (bridge.basis(u) @ points)[:, 0]
    assert float(where.mean()) == pytest.approx(1.0, abs=0.08)  # (9/2 - 1/2) / 4


def test_only_simplexes_have_a_volume() -> None:
    with pytest.raises(
        InputError, match=r"`bridge` should be a simplex or a complex to have a volume\. Found Bernstein"
    ):
        volume(drawn(Bernstein(2)))
