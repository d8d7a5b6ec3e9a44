"""Bases against their contract, De Casteljau's construction, hat functions and outer products."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from contracts.basis import check_basis
from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle

BASES = [
    Bernstein(1),
    Bernstein(2),
    Bernstein(7),
    Chain(2),
    Chain(3),
    Chain(4, (0.0, 0.1, 0.35, 1.0)),
    Affine(2),
    Affine(4),
    Barycentric(2),
    Barycentric(5),
    Product(Bernstein(2), Bernstein(3)),
    Product(Bernstein(1), Chain(3)),
    Product(Product(Bernstein(1), Bernstein(2)), Barycentric(3)),
    Triangle(1),
    Triangle(4),
    Product(Triangle(2), Bernstein(1)),
    Complex(1, 3),
    Complex(2, 1),
    Complex(4, 2),
]


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_contract(basis: Basis) -> None:
    check_basis(basis)


def test_one_model_is_a_basis_without_coordinates() -> None:
    basis = Affine(1)
    assert (basis.dim, basis.num_points, basis.corners, basis.breaks) == (0, 1, (((), 0),), ())
    assert basis(torch.zeros(3, 0)).tolist() == [[1.0]] * 3
    assert basis.derivative(torch.zeros(3, 0)).shape == (3, 0, 1)


def de_casteljau(points: Tensor, t: float) -> Tensor:
    """Return the point of a Bezier curve by repeated interpolation of neighbours, without any polynomial."""
    rows = list(points)
    while len(rows) > 1:
        rows = [(1 - t) * a + t * b for a, b in pairwise(rows)]
    return rows[0]


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_de_casteljau_agrees(degree: int, scale: float, generator: torch.Generator) -> None:
    points = scale * torch.randn(degree + 1, 6, dtype=torch.float64, generator=generator)
    for t in (0.0, 1e-9, 0.25, 0.7, 1.0, 1.2, -0.3):
        found = Bernstein(degree)(torch.tensor([t], dtype=torch.float64)) @ points
        size = scale * (abs(t) + abs(1 - t)) ** degree
        assert float((found - de_casteljau(points, t)).abs().max()) <= 1e-13 * degree * size


@pytest.mark.parametrize("degree", [1, 4, 30])
def test_bernstein_is_the_binomial_distribution(degree: int) -> None:
    t = np.linspace(0, 1, 23)
    found = Bernstein(degree)(torch.from_numpy(t)[:, None])
    np.testing.assert_allclose(found, binom.pmf(np.arange(degree + 1), degree, t[:, None]), atol=1e-13)


@pytest.mark.parametrize("knots", [(), (0.0, 0.2, 0.25, 0.9, 1.0)])
def test_chain_weights_are_hat_functions(knots: tuple[float, ...]) -> None:
    basis = Chain(5, knots)
    t = np.linspace(0, 1, 101)
    hats = np.stack([np.interp(t, basis.knots, row) for row in np.eye(5)], -1)
    np.testing.assert_allclose(basis(torch.from_numpy(t)[:, None]), hats, atol=1e-15)
    at_knots = basis(torch.tensor(basis.knots, dtype=torch.float64)[:, None])
    assert torch.equal(at_knots, torch.eye(5, dtype=torch.float64))


def test_chain_slope_at_a_bend_is_the_one_to_the_right() -> None:
    basis = Chain(3, (0.0, 0.25, 1.0))
    at = torch.tensor([[0.25], [1.0], [1.5]], dtype=torch.float64)
    np.testing.assert_allclose(basis.derivative(at)[:, 0], [[0, -4 / 3, 4 / 3]] * 3)
    assert basis(torch.tensor([1.75], dtype=torch.float64)).tolist() == [0, -1, 2]


def test_product_is_the_outer_product_in_row_order() -> None:
    first, second = Bernstein(2), Chain(4)
    basis = Product(first, second)
    for u, v in ((0.0, 0.0), (0.3, 0.9), (1.0, 0.4)):
        one, two = (torch.tensor([c], dtype=torch.float64) for c in (u, v))
        expected = np.outer(first(one), second(two)).ravel()
        np.testing.assert_array_equal(basis(torch.tensor([u, v], dtype=torch.float64)), expected)
    assert basis.corners == (((0.0, 0.0), 0), ((0.0, 1.0), 3), ((1.0, 0.0), 8), ((1.0, 1.0), 11))
    assert basis.sites[5] == (0.5, pytest.approx(1 / 3))


def test_simplex_weights_are_the_coordinates_and_what_remains() -> None:
    u = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    np.testing.assert_allclose(Barycentric(4)(u), [0.3, 0.1, 0.2, 0.4])
    assert torch.equal(Affine(4)(u), Barycentric(4)(u))
    assert Barycentric(3).corners == (((0.0, 0.0), 0), ((1.0, 0.0), 1), ((0.0, 1.0), 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bernstein(0), r"`degree` should be at least 1\. Found 0\."),
        (lambda: Chain(1), r"`points` should be at least 2\. Found 1\."),
        (lambda: Chain(3, (0.0, 1.0)), r"`knots` should hold one value per point, 3\. Found 2\."),
        (lambda: Chain(3, (0.0, 0.0, 1.0)), r"`knots` should rise strictly from 0 to 1\. Found \(0\.0, 0\.0, 1\.0\)\."),
        (lambda: Chain(3, (0.0, float("nan"), 1.0)), r"`knots` should rise strictly"),
        (lambda: Chain(3, (0.1, 0.5, 1.0)), r"`knots` should rise strictly from 0 to 1"),
        (lambda: Affine(0), r"`points` should be at least 1\. Found 0\."),
        (lambda: Barycentric(1), r"`points` should be at least 2\. Found 1\."),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@dataclass(frozen=True)
class Broken:
    """A Bezier basis with one thing wrong."""

    fault: str
    inner: Bernstein = field(default_factory=lambda: Bernstein(2))
    num_points: int = 3
    dim: int = 1

    @property
    def corners(self):
        return (((0.0,), 0), ((1.0,), 0)) if self.fault == "shared" else self.inner.corners

    @property
    def sites(self):
        return ((0.0,), (0.2,), (1.0,)) if self.fault == "sites" else self.inner.sites

    @property
    def breaks(self):
        return self.inner.breaks

    def __call__(self, u: Tensor) -> Tensor:
        weights = self.inner(u)
        match self.fault:
            case "sum":
                return weights * 1.001
            case "corner":
                bump = 1e-13 * torch.ones_like(u)
                return weights + torch.cat([bump, torch.zeros_like(u), -bump], -1)
            case "writes":
                u.mul_(0.5)
            case "rows" if u.ndim > 1 and len(u) > 1:
                return weights.mean(0, keepdim=True).expand_as(weights)
            case "dtype":
                return weights.double()
        return weights

    def derivative(self, u: Tensor) -> Tensor:
        slope = self.inner.derivative(u)
        return slope * 1.01 if self.fault == "slope" else slope + 1 if self.fault == "slope sum" else slope

    def place(self, cube: Tensor) -> Tensor:
        return cube * 1.2 if self.fault == "place" else cube


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("sum", "weights do not sum to 1"),
        ("corner", "not one-hot"),
        ("shared", "not one-hot"),
        ("writes", "the coordinates were written"),
        ("rows", "rows see each other"),
        ("dtype", "float32"),
        ("sites", "not linear"),
        ("slope", "derivative off"),
        ("slope sum", "slopes do not sum to 0"),
        ("place", "placed outside"),
    ],
)
def test_the_contract_sees_a_broken_basis(fault: str, message: str) -> None:
    check_basis(Broken("none"))
    with pytest.raises(AssertionError, match=message):
        check_basis(Broken(fault))
