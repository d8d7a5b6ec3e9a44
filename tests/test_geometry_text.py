"""Bases as JSON values and back."""

import json
from dataclasses import dataclass

import pytest

from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle
from isthmus.geometry.text import describe, from_description


@pytest.mark.parametrize(
    "basis",
    [
        Bernstein(1),
        Bernstein(9),
        Chain(4),
        Chain(3, (0.0, 0.1, 1.0)),
        Affine(1),
        Barycentric(3),
        Product(Bernstein(2), Product(Chain(4), Barycentric(2))),
        Triangle(3),
        Complex(2, 5),
    ],
    ids=str,
)
def test_round_trip_through_json(basis: Basis) -> None:
    assert from_description(json.loads(json.dumps(describe(basis)))) == basis


def test_the_text_is_what_files_hold() -> None:
    assert describe(Product(Bernstein(2), Chain(2))) == {
        "basis": "product",
        "first": {"basis": "bernstein", "degree": 2},
        "second": {"basis": "chain", "points": 2, "knots": [0.0, 1.0]},
    }


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"basis": "spline", "degree": 2},
        {"basis": "bernstein"},
        {"basis": "bernstein", "degree": "2"},
        {"basis": "bernstein", "degree": 2.5},
        {"basis": "chain", "points": 3},
        {"basis": "product", "first": {"basis": "bernstein", "degree": 2}},
        {"basis": "product", "first": {"basis": "affine", "points": 2}, "second": {"basis": "?"}},
    ],
)
def test_other_descriptions_are_refused(text: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"`basis` should be described by a bridge file of this library\. Found \{"):
        from_description(text)


def test_impossible_values_are_refused_by_the_basis() -> None:
    with pytest.raises(InputError, match=r"`degree` should be at least 1\. Found 0\."):
        from_description({"basis": "bernstein", "degree": 0})


@dataclass(frozen=True)
class Own:
    points: int = 2


def test_a_basis_of_somebody_else_cannot_be_described() -> None:
    with pytest.raises(InputError, match=r"`basis` should be one of the library's own to be saved\. Found Own\."):
        describe(Own())
