"""Editing a bridge moves no model on it."""

import pytest
import torch
from torch import Tensor

from contracts.bridge import drawn, inside
from contracts.modules import assert_same_bits, bits, odd_module, tensors_of
from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, connect, simplex, surface
from isthmus.geometry.edit import edges, elevate, insert, reverse
from isthmus.geometry.flat import Affine, Barycentric

SCALES = pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 1e8])


def assert_same_path(one: Bridge, two: Bridge, *, scale: float) -> None:
    at = [*inside(one.basis, 20), *(u for u, _ in one.basis.corners), tuple([1.3] * one.basis.dim)]
    for u in at:
        torch.testing.assert_close(one.theta(u), two.theta(u), rtol=0, atol=1e-12 * scale * 10)


@SCALES
@pytest.mark.parametrize(
    "basis", [Bernstein(1), Bernstein(2), Bernstein(6), Product(Bernstein(1), Bernstein(3))], ids=str
)
def test_elevation_leaves_the_path(basis: Basis, scale: float) -> None:
    bridge = drawn(basis, scale=scale)
    higher = elevate(bridge)
    assert_same_path(bridge, higher, scale=scale)
    assert higher.basis.num_points > basis.num_points
    assert [higher.points[i].tolist() for _, i in higher.basis.corners] == [
        bridge.points[i].tolist() for _, i in basis.corners
    ]
    assert_same_path(bridge, elevate(elevate(higher)), scale=scale)


def test_elevation_of_a_segment_has_its_middle() -> None:
    bridge = drawn(Bernstein(1))
    higher = elevate(bridge)
    assert higher.basis == Bernstein(2)
    torch.testing.assert_close(higher.free[0], bridge.points.mean(0))
    twice = elevate(elevate(drawn(Bernstein(2)))).points
    a, b, c = drawn(Bernstein(2)).points
    torch.testing.assert_close(twice[2], (a + 4 * b + c) / 6)  # Farin's formula, applied twice by hand


@SCALES
@pytest.mark.parametrize("t", [0.05, 0.3, 0.5000001, 0.99])
def test_insertion_leaves_the_path(t: float, scale: float) -> None:
    bridge = drawn(Chain(4, (0.0, 0.1, 0.5, 1.0)), scale=scale)
    longer = insert(bridge, t)
    assert isinstance(longer.basis, Chain)
    assert longer.basis.knots == tuple(sorted({0.0, 0.1, 0.5, 1.0, t}))
    assert_same_path(bridge, longer, scale=scale)
    assert_same_path(bridge, insert(longer, 0.2), scale=scale)
    at = longer.basis.knots.index(t)
    torch.testing.assert_close(longer.row(at), bridge.theta(t), rtol=0, atol=1e-12 * scale)


def run_backwards(bridge: Bridge, axis: int, scale: float) -> None:
    back = reverse(bridge, axis)
    for u in inside(bridge.basis, 10):
        mirrored = tuple(1 - c if i == axis else c for i, c in enumerate(u))
        torch.testing.assert_close(back.theta(mirrored), bridge.theta(u), rtol=0, atol=1e-11 * scale)
    again = reverse(back, axis)
    assert torch.equal(again.points, bridge.points)
    assert again.fixed_index == bridge.fixed_index


@SCALES
@pytest.mark.parametrize(
    ("basis", "axis"),
    [
        (Bernstein(1), 0),
        (Bernstein(4), 0),
        (Chain(4, (0.0, 0.1, 0.5, 1.0)), 0),
        (Product(Bernstein(2), Chain(3)), 0),
        (Product(Bernstein(2), Chain(3)), 1),
        (Product(Barycentric(3), Bernstein(2)), 2),
        (Product(Bernstein(1), Product(Bernstein(2), Chain(3))), 2),
    ],
    ids=str,
)
def test_reversed_coordinates_are_the_reversed_bridge(basis: Basis, axis: int, scale: float) -> None:
    run_backwards(drawn(basis, scale=scale), axis, scale)


def test_edits_keep_models_states_and_names_exactly() -> None:
    models = [odd_module(0), odd_module(1)]
    curve = bezier(models)
    chain = connect(models, Chain(3), names=("left", "right"))
    for bridge in (elevate(curve), insert(chain, 0.3), reverse(reverse(curve))):
        assert_same_bits(tensors_of(bridge.at(0)), tensors_of(models[0]))
        assert_same_bits(tensors_of(bridge.at(1)), tensors_of(models[1]))
    back = reverse(chain)
    assert_same_bits(tensors_of(back.at(0)), tensors_of(models[1]))
    assert_same_bits(tensors_of(back.at(1)), tensors_of(models[0]))
    assert back.names == ("right", "left")
    assert insert(chain, 0.3).names == ("left", "right")
    assert torch.equal(curve.points, bezier(models).points)


@pytest.mark.parametrize(
    ("edit", "basis"), [(elevate, Bernstein(2)), (lambda b: insert(b, 0.3), Chain(4)), (reverse, Chain(4))]
)
def test_a_diverged_free_point_does_not_reach_the_corners(edit, basis: Basis) -> None:
    bridge = drawn(basis)
    bridge.fixed[0, 0] = -0.0
    edited = edit(bridge.with_free(torch.full_like(bridge.free, torch.inf)))
    ends = [edited.theta(t) for t in (0, 1)]
    ends = ends[::-1] if edit is reverse else ends
    for found, expected in zip(ends, bridge.fixed, strict=True):
        assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("basis", [Product(Bernstein(2), Bernstein(3)), Product(Chain(3), Bernstein(2))], ids=str)
def test_edges_of_a_surface_are_its_border(basis: Product) -> None:
    bridge = drawn(basis)
    found = edges(bridge)
    assert list(found) == ["u=0", "u=1", "v=0", "v=1"]
    assert found["u=0"].basis == basis.second
    assert found["v=0"].basis == basis.first
    for t in (0.0, 0.2, 0.9, 1.0, 1.1):
        for name, u in (("u=0", (0.0, t)), ("u=1", (1.0, t)), ("v=0", (t, 0.0)), ("v=1", (t, 1.0))):
            torch.testing.assert_close(found[name].theta(t), bridge.theta(u), rtol=0, atol=1e-13)


def test_edges_join_the_models_of_the_corners() -> None:
    models = [odd_module(seed) for seed in range(4)]
    found = edges(surface(models, (2, 3)))
    for name, pair in (("u=0", (0, 1)), ("u=1", (2, 3)), ("v=0", (0, 2)), ("v=1", (1, 3))):
        for t, index in zip((0.0, 1.0), pair, strict=True):
            assert_same_bits(tensors_of(found[name].at(t)), tensors_of(models[index]), name)
        assert found[name].names == tuple(f"model {i}" for i in pair)
        assert len(found[name].fixed) == 2


def test_edges_of_a_simplex_are_segments_between_all_pairs() -> None:
    models = [odd_module(seed) for seed in range(3)]
    bridge = simplex(models)
    found = edges(bridge)
    assert list(found) == ["0-1", "0-2", "1-2"]
    points: Tensor = bridge.points
    for name, (i, j) in (("0-1", (0, 1)), ("0-2", (0, 2)), ("1-2", (1, 2))):
        assert torch.equal(found[name].theta(0.25), 0.75 * points[i] + 0.25 * points[j])
        assert_same_bits(tensors_of(found[name].at(1)), tensors_of(models[j]), name)
    torch.testing.assert_close(found["1-2"].theta(0.25), bridge.theta((0.75, 0.25)))


@pytest.mark.parametrize(
    ("edit", "basis", "message"),
    [
        (
            elevate,
            Chain(3),
            r"`bridge` should have a Bezier basis to be elevated\. Found Chain\(.*Use `insert` for a chain\.",
        ),
        (elevate, Product(Bernstein(1), Affine(2)), r"to be elevated\. Found Affine\(points=2\)"),
        (
            lambda b: insert(b, 0.3),
            Bernstein(2),
            r"`bridge` should be a chain to take another bend\. Found Bernstein.*Use `elevate`",
        ),
        (
            lambda b: insert(b, 0.5),
            Chain(3),
            r"`t` should lie strictly between 0 and 1 and differ from the knots .* Found 0\.5\.",
        ),
        (lambda b: insert(b, 0), Chain(3), r"`t` should lie strictly between 0 and 1 .* Found 0\."),
        (lambda b: insert(b, 1.5), Chain(3), r"`t` should lie .* Found 1\.5\."),
        (lambda b: insert(b, float("nan")), Chain(3), r"`t` should lie .* Found nan\."),
        (lambda b: reverse(b, 1), Bernstein(2), r"`axis` should be a coordinate of the bridge, below 1\. Found 1\."),
        (lambda b: reverse(b, -1), Bernstein(2), r"`axis` should be a coordinate .* Found -1\."),
        (
            reverse,
            Barycentric(3),
            r"`bridge` should run along a Bezier curve or a chain to be reversed\. Found Barycentric",
        ),
        (
            edges,
            Bernstein(2),
            r"`bridge` should be a surface, a simplex or a triangle to have edges\. Found Bernstein\(degree=2\)\.",
        ),
        (edges, Product(Barycentric(3), Bernstein(1)), r"`bridge` should be a surface, a simplex or a triangle"),
    ],
)
def test_errors(edit, basis: Basis, message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit(drawn(basis))
