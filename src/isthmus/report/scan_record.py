"""What the table of a scan records of its bridge: coordinates, corners, basis, and the point chosen on validation images."""

from collections.abc import Sequence
from itertools import takewhile
from re import fullmatch
from typing import cast

from pydantic import BaseModel, FiniteFloat, JsonValue, TypeAdapter, ValidationError

from isthmus._check import InputError
from isthmus.report.document import Choice
from isthmus.table import Table

LONG = 12
"""Letters of a name that fit beside a corner of a figure."""


class Corner(BaseModel, frozen=True, extra="ignore"):
    """A given model: the name of its file and its coordinates."""

    name: str
    at: tuple[FiniteFloat, ...]


_CORNERS = TypeAdapter(tuple[Corner, ...])


def coordinate_columns(table: Table) -> list[str]:
    """Return the columns that hold the place on the bridge: t, or u and v, or u1, u2, ..."""
    return [name for name in table.names if fullmatch(r"t|u|v|u\d+", name)]


def choice_of(table: Table) -> Choice | None:
    """Return the point that a scan chose on validation images, None where it chose none. Raises InputError for an unusable record."""
    held = table.meta.get("chosen")
    if held is None:
        return None
    fields = cast(dict[str, JsonValue], held) if isinstance(held, dict) else {}
    try:
        return Choice.model_validate({"explanation": "", **fields})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            f"`chosen` should be a point of the scan. Found in the table's meta no usable {where!r}."
        ) from error


def corners_of(table: Table) -> tuple[Corner, ...]:
    """Return the corners that a scan recorded, none for a table that says nothing of them. Raises InputError for an unusable record."""
    try:
        return _CORNERS.validate_python(table.meta.get("corners", ()))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        raise InputError(
            f"`corners` should be names and coordinates. Found in the table's meta no usable {where!r}."
        ) from error


def on_simplex(table: Table) -> bool | None:
    """Return whether coordinates fill a simplex, flat, curved (a Bezier triangle) or grown; None for a table that does not say."""
    basis = _basis(table)
    if basis is None:
        return None
    return basis.get("basis") in ("barycentric", "triangle") or (
        basis.get("basis") == "complex" and not branched(table)
    )


def branched(table: Table) -> bool:
    """Return whether the bridge is several simplexes that share vertices: no two of its models are in one of them."""
    basis = _basis(table) or {}
    return basis.get("basis") == "complex" and basis.get("models") != 1


def _basis(table: Table) -> dict[str, object] | None:
    basis = table.meta.get("basis")
    return cast(dict[str, object], basis) if isinstance(basis, dict) else None


def vertices_of(table: Table) -> tuple[Corner, ...]:
    """Return the vertices of a simplex or complex in the order of their weights, those that were trained by their number.

    The first is at 0, each other where its own coordinate is 1.
    """
    dim, given = len(coordinate_columns(table)), {corner.at: corner for corner in corners_of(table)}
    places = [tuple(float(i == k) for i in range(dim)) for k in range(-1, dim)]
    return tuple(given.get(at) or Corner(name=f"trained {k + 1}", at=at) for k, at in enumerate(places))


def short_names(names: Sequence[str]) -> list[str]:
    """Return the parts of paths in which they differ, of long ones the words between hyphens; as they are where they differ in none.

    >>> short_names(["runs/a/model.safetensors", "runs/b/model.safetensors"])
    ['a', 'b']
    >>> short_names(["x.pt", "y.pt"])
    ['x.pt', 'y.pt']
    >>> short_names(["cifar10-patch-seed-0", "cifar10-blend-seed-0"])
    ['patch', 'blend']
    """
    short = _differing(names, "/")
    return short if max(map(len, short), default=0) <= LONG else _differing(short, "-")


def _differing(names: Sequence[str], mark: str) -> list[str]:
    """Return the names without the parts, between marks, that all have at their start or at their end."""
    parts = [name.strip(mark).split(mark) for name in names]
    head = _shared(parts)
    tail = _shared([part[head:][::-1] for part in parts])
    short = [mark.join(part[head : len(part) - tail]) for part in parts]
    return short if all(short) else list(names)


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Return at how many places from the start all are equal."""
    return len(list(takewhile(lambda held: len(set(held)) == 1, zip(*parts, strict=False))))
