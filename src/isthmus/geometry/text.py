"""Bases as plain JSON values, the form in which a bridge file holds them."""

from isthmus._check import require
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle


def describe(basis: Basis) -> dict[str, object]:
    """Return the basis as plain JSON values; :func:`from_description` reverses it."""
    match basis:
        case Bernstein(degree):
            return {"basis": "bernstein", "degree": degree}
        case Chain(points, knots):
            return {"basis": "chain", "points": points, "knots": list(knots)}
        case Affine(points):
            return {"basis": "affine", "points": points}
        case Barycentric(points):
            return {"basis": "barycentric", "points": points}
        case Triangle(degree):
            return {"basis": "triangle", "degree": degree}
        case Complex(models, connectors):
            return {"basis": "complex", "models": models, "connectors": connectors}
        case Product(first, second):
            return {"basis": "product", "first": describe(first), "second": describe(second)}
        case _:
            require(False, "basis", "be one of the library's own to be saved", type(basis).__name__)
            raise AssertionError


def from_description(text: dict[str, object]) -> Basis:
    """Return the basis described by :func:`describe`. Raises InputError on anything else."""
    match text:
        case {"basis": "bernstein", "degree": int(degree)}:
            return Bernstein(degree)
        case {"basis": "chain", "points": int(points), "knots": list(knots)}:
            return Chain(points, tuple(float(knot) for knot in knots))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case {"basis": "affine", "points": int(points)}:
            return Affine(points)
        case {"basis": "barycentric", "points": int(points)}:
            return Barycentric(points)
        case {"basis": "triangle", "degree": int(degree)}:
            return Triangle(degree)
        case {"basis": "complex", "models": int(models), "connectors": int(connectors)}:
            return Complex(models, connectors)
        case {"basis": "product", "first": dict(first), "second": dict(second)}:
            return Product(from_description(first), from_description(second))  # pyright: ignore[reportUnknownArgumentType]
        case _:
            require(False, "basis", "be described by a bridge file of this library", text)
            raise AssertionError
