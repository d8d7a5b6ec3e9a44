"""Sampling against the distributions it claims, with fixed seeds."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare, kstest, uniform

from contracts.bridge import drawn
from isthmus.geometry import gram
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.edit import elevate
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.patch import part
from isthmus.geometry.sampling import sample, sample_by_area

STRATIFIED = pytest.mark.parametrize("stratified", [False, True])


def first_of_each(basis: Basis, *, draws: int = 1500, count: int = 4) -> torch.Tensor:
    """Return one draw from each of many small stratified sets: alone, each is to be uniform."""
    generator = torch.Generator().manual_seed(5)
    return torch.stack([sample(basis, count, generator=generator, stratified=True)[0] for _ in range(draws)])


@STRATIFIED
@pytest.mark.parametrize("basis", [Bernstein(3), Chain(3, (0.0, 0.1, 1.0)), Affine(3), Product(Bernstein(2), Chain(4))])
def test_coordinates_are_uniform(basis: Basis, *, stratified: bool) -> None:
    found = first_of_each(basis) if stratified else sample(basis, 4000, generator=torch.Generator().manual_seed(3))
    assert found.shape[1] == basis.dim
    assert found.dtype == torch.float64
    for axis in range(basis.dim):
        assert kstest(found[:, axis], uniform.cdf).pvalue > 0.01


def test_coordinates_of_a_surface_are_independent() -> None:
    for found in (
        sample(Product(Bernstein(1), Bernstein(1)), 8000, generator=torch.Generator().manual_seed(3)),
        first_of_each(Product(Bernstein(1), Bernstein(1)), draws=3000),
    ):
        cells = (found * 4).long()
        counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16)
        assert chisquare(counts).pvalue > 0.01


@STRATIFIED
@pytest.mark.parametrize("vertices", [2, 3, 5])
def test_simplex_weights_are_dirichlet(vertices: int, *, stratified: bool) -> None:
    """Uniform over a simplex is Dirichlet(1, ..., 1): each weight has the marginal Beta(1, n - 1), and pairs add to Beta(2, n - 2)."""
    basis = Barycentric(vertices)
    found = first_of_each(basis) if stratified else sample(basis, 4000, generator=torch.Generator().manual_seed(4))
    weights = basis(found)
    assert bool((weights >= -1e-15).all())
    for column in weights.T:
        assert kstest(column, beta(1, vertices - 1).cdf).pvalue > 0.01
    if vertices > 2:
        assert kstest(weights[:, 0] + weights[:, -1], beta(2, vertices - 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_latin_hypercube_has_one_value_in_every_cell(count: int) -> None:
    found = sample(Affine(4), count, generator=torch.Generator().manual_seed(0), stratified=True)
    for column in found.T:
        assert sorted((column * count).floor().long().tolist()) == list(range(count))
    # The plain draw does not: the option does something.
    plain = sample(Affine(4), 64, generator=torch.Generator().manual_seed(0))
    assert sorted((plain[:, 0] * 64).floor().long().tolist()) != list(range(64))


def test_the_cells_of_different_coordinates_are_paired_at_random() -> None:
    found = sample(Affine(3), 200, generator=torch.Generator().manual_seed(0), stratified=True)
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 0.2


def test_stratified_means_vary_less() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = [
        torch.stack([sample(Bernstein(1), 8, generator=generator, stratified=s).mean() for _ in range(300)]).var()
        for s in (False, True)
    ]
    assert spread[0] == pytest.approx(1 / 96, rel=0.3)  # 1 / 12 over 8 draws
    assert spread[1] == pytest.approx(1 / 96 / 64, rel=0.3)  # each draw within its eighth


@STRATIFIED
def test_draws_come_from_the_generator_alone(*, stratified: bool) -> None:
    def draw(seed: int) -> torch.Tensor:
        return sample(Barycentric(3), 5, generator=torch.Generator().manual_seed(seed), stratified=stratified)

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


@STRATIFIED
def test_a_basis_without_coordinates(*, stratified: bool) -> None:
    assert sample(Affine(1), 3, generator=torch.Generator(), stratified=stratified).shape == (3, 0)


def test_a_curve_is_covered_by_its_length() -> None:
    """Arc length by quadrature, elsewhere in the library, of what is drawn: uniform between the ends."""
    bridge = drawn(Bernstein(2))
    bridge = bridge.with_free(bridge.free * 20 + 5)  # fast at its ends
    found = sample_by_area(bridge, 1500, generator=torch.Generator().manual_seed(3))
    whole = gram.length(bridge)
    share = [gram.length(bridge, 0.0, t) / whole for t in found[:, 0].tolist()]
    assert kstest(share, uniform.cdf).pvalue > 0.01
    assert kstest(found[:, 0], uniform.cdf).pvalue < 1e-6


def test_a_chain_is_covered_piece_by_piece() -> None:
    bridge = drawn(Chain(3))
    pieces = np.array([gram.length(bridge, 0.0, 0.5), gram.length(bridge, 0.5, 1.0)])
    found = sample_by_area(bridge, 4000, generator=torch.Generator().manual_seed(3))
    first = int((found < 0.5).sum())
    expected = 4000 * pieces / pieces.sum()
    assert chisquare([first, 4000 - first], expected).pvalue > 0.01


def test_a_surface_is_covered_by_its_area() -> None:
    bridge = elevate(drawn(Product(Bernstein(1), Bernstein(1))))
    bridge = bridge.with_free(bridge.free * torch.linspace(0.2, 6, len(bridge.free), dtype=torch.float64)[:, None])
    bounds = (0.0, 0.25, 0.6, 1.0)
    spans = list(pairwise(bounds))
    areas = [gram.area(part(bridge, [a, c], [b, d])) for a, b in spans for c, d in spans]
    found = sample_by_area(bridge, 6000, generator=torch.Generator().manual_seed(3))
    cells = [torch.bucketize(found[:, k].contiguous(), torch.tensor(bounds[1:-1], dtype=torch.float64)) for k in (0, 1)]
    counts = torch.bincount(cells[0] * 3 + cells[1], minlength=9).tolist()
    assert chisquare(counts, [6000 * one / sum(areas) for one in areas]).pvalue > 0.01
    assert chisquare(counts, [6000 * (b - a) * (d - c) for a, b in spans for c, d in spans]).pvalue < 1e-6


def test_on_a_flat_simplex_area_is_uniform_and_a_point_has_none() -> None:
    flat = drawn(Barycentric(3))
    found = sample_by_area(flat, 3000, generator=torch.Generator().manual_seed(3))
    assert kstest(found[:, 0], beta(1, 2).cdf).pvalue > 0.01
    still = drawn(Bernstein(2))
    still = replace(still, fixed=torch.zeros_like(still.fixed), free=torch.zeros_like(still.free))
    one, two = (draw(still, 8, generator=torch.Generator().manual_seed(3)) for draw in (sample_by_area, of_basis))
    assert torch.equal(one, two)
    assert sample_by_area(drawn(Affine(1)), 3, generator=torch.Generator()).shape == (3, 0)


def of_basis(bridge: Bridge, count: int, *, generator: torch.Generator) -> torch.Tensor:
    return sample(bridge.basis, count, generator=generator)
