"""Surfaces from their edges, and parts of bridges: same weights at the same places."""

from dataclasses import replace

import pytest
import torch

from contracts.bridge import drawn, inside
from contracts.modules import assert_same_bits, odd_module, tensors_of
from isthmus._check import InputError
from isthmus.geometry.bases import Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, surface
from isthmus.geometry.edit import edges, elevate, reverse
from isthmus.geometry.patch import SIDES, part, patch

QUADRATIC, UNEVEN = Product(Bernstein(2), Bernstein(2)), Product(Bernstein(3), Bernstein(2))
LINEAR = Product(Bernstein(1), Bernstein(1))


@pytest.mark.parametrize("basis", [LINEAR, QUADRATIC, UNEVEN, Product(Bernstein(1), Bernstein(4))], ids=str)
def test_the_edges_of_a_patch_are_the_ones_given(basis: Product) -> None:
    given = edges(drawn(basis))
    made = patch(given)
    assert made.basis == basis
    assert set(SIDES) == set(given)
    for name, curve in edges(made).items():
        for k in range(curve.basis.num_points):
            assert torch.equal(curve.row(k), given[name].row(k))
        assert curve.free.shape[0] == 0
    inner = (basis.first.num_points - 2) * (basis.second.num_points - 2)
    assert made.free.shape[0] == max(0, inner)


def test_a_patch_of_straight_edges_is_the_bilinear_patch() -> None:
    flat = drawn(LINEAR)
    made = patch({name: elevate(elevate(curve)) for name, curve in edges(flat).items()})
    assert made.basis == Product(Bernstein(3), Bernstein(3))
    for u in inside(flat.basis, 20):
        torch.testing.assert_close(made.theta(u), flat.theta(u), rtol=0, atol=1e-12)


def test_the_inner_point_is_that_of_the_formula() -> None:
    points = drawn(QUADRATIC).points
    a, b, c, d, _, f, g, h, i = points
    expected = (b + h + d + f) / 2 - (a + c + g + i) / 4  # discrete Coons at i = j = 1, n = m = 2
    torch.testing.assert_close(patch(edges(drawn(QUADRATIC))).free[0], expected)


def test_models_at_the_corners_keep_buffers_and_names() -> None:
    models = [odd_module(k) for k in range(4)]
    bridge = connect(models, QUADRATIC, names=("a", "b", "c", "d"))
    made = patch(edges(bridge))
    for (u, _), model in zip(QUADRATIC.corners, models, strict=True):
        assert_same_bits(tensors_of(made.at(u)), tensors_of(model))
    assert [name for name in made.names if "point" not in name] == ["a", "b", "c", "d"]
    assert len(made.names) == 8
    assert surface(models).free.shape[0] - made.free.shape[0] == 4


def test_edges_that_do_not_fit_are_refused() -> None:
    given = edges(drawn(QUADRATIC))
    with pytest.raises(InputError, match=r"`edges` should be named u=0, u=1, v=0, v=1. Found u=0"):
        patch({"u=0": given["u=0"]})
    with pytest.raises(InputError, match=r"Found none"):
        patch({})
    with pytest.raises(InputError, match=r"one degree on opposite sides, as 'v=0' and 'v=1'. Found 3 and 2. Elevate"):
        patch({**given, "v=0": elevate(given["v=0"])})
    with pytest.raises(InputError, match=r"`edges` should be Bezier curves. Found Chain"):
        patch({**given, "u=1": drawn(Chain(3))})
    with pytest.raises(
        InputError, match=r"meet at the corner \(0, 0\). Found other weights at the ends of 'u=0' and 'v=0'"
    ):
        patch({**given, "u=0": reverse(given["u=0"])})
    other = replace(
        given["v=1"], layout=replace(given["v=1"].layout, names=("other",) * len(given["v=1"].layout.names))
    )
    with pytest.raises(InputError, match=r"meet at the corner \(0, 1\)"):
        patch({**given, "v=1": other})


@pytest.mark.parametrize("basis", [Bernstein(1), Bernstein(5), UNEVEN], ids=str)
def test_a_part_is_the_same_surface_between_its_bounds(basis: Bernstein | Product) -> None:
    bridge = drawn(basis)
    low, high = torch.tensor([0.2, 0.9][: basis.dim]), torch.tensor([0.7, 0.1][: basis.dim])
    piece = part(bridge, low.tolist(), high.tolist())
    assert piece.basis == basis
    for s in inside(basis, 20):
        at = low.double() + torch.as_tensor(s).double() * (high.double() - low.double())
        torch.testing.assert_close(piece.theta(s), bridge.theta(at), rtol=0, atol=1e-6)


def test_a_part_to_a_corner_keeps_it_bitwise_and_backwards_is_the_reverse() -> None:
    bridge = connect([odd_module(k) for k in range(2)], Bernstein(3), names=("a", "b"))
    half = part(bridge, [0.0], [0.5])
    assert_same_bits(tensors_of(half.at(0.0)), tensors_of(odd_module(0)))
    assert (half.fixed_index, half.names, half.free.shape[0]) == ((0,), ("a",), 3)
    back = part(bridge, [1.0], [0.0])
    assert torch.equal(back.points, reverse(bridge).points)
    whole = part(bridge, [0.0], [1.0])
    assert torch.equal(whole.points, bridge.points)


def test_the_parts_of_a_curve_meet() -> None:
    bridge = drawn(Bernstein(4))
    first, second = part(bridge, [0.0], [0.3]), part(bridge, [0.3], [1.0])
    torch.testing.assert_close(first.theta(1.0), second.theta(0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("bridge", "low", "high", "message"),
    [
        (
            drawn(Bernstein(2)),
            [0.5],
            [0.5],
            r"`high` should differ from `low` along every coordinate. Found 0.5 and 0.5",
        ),
        (drawn(QUADRATIC), [0.5], [0.6], r"`low` should have 2 coordinate\(s\), like the bridge. Found \[0.5\]"),
        (
            drawn(Chain(3)),
            [0.0],
            [0.5],
            r"`bridge` should have a Bezier basis for a part of it to have one. Found Chain",
        ),
    ],
)
def test_errors_of_part(bridge: Bridge, low: list[float], high: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(bridge, low, high)
