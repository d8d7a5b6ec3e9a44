"""`Simplex`: the table of a scan over a simplex of four and more vertices, or over several that share vertices, read as pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import isfinite

from isthmus._check import require
from isthmus.report.document import Choice
from isthmus.report.scan_record import (
    Corner,
    branched,
    choice_of,
    coordinate_columns,
    corners_of,
    on_simplex,
    short_names,
    vertices_of,
)
from isthmus.report.surface import ON, Surface, drawable, letters
from isthmus.table import Cell, Column, Table

Weights = tuple[float, ...]
MOST = 10  # faces that are drawn: all of five vertices


@dataclass(frozen=True, eq=False)
class Simplex:
    """A table whose coordinates are the shares of all vertices but the first; its vertices by letter, and the chosen point.

    corners: those of the vertices that are given models; the others were trained.
    """

    table: Table
    vertices: Mapping[str, Corner]
    corners: Mapping[str, Corner]
    choice: Choice | None = None

    @classmethod
    def of(cls, table: Table) -> "Simplex":
        """Return the simplex that a scan's table is of. Raises InputError for a table that is of none."""
        require(is_simplex(table), "table", "be of a scan over a simplex of four and more vertices", "another")
        held = vertices_of(table)
        lettered = dict(zip(letters(len(held)), held, strict=True))
        given = {corner.at for corner in corners_of(table)}
        corners = {letter: vertex for letter, vertex in lettered.items() if vertex.at in given}
        return cls(table, lettered, corners, choice_of(table))

    @cached_property
    def names(self) -> dict[str, str]:
        """Return letter -> the part of the file's name by which a vertex differs from the others."""
        short = short_names([corner.name for corner in self.corners.values()])
        given = dict(zip(self.corners, short, strict=True))
        return {letter: given.get(letter, vertex.name) for letter, vertex in self.vertices.items()}

    @cached_property
    def fields(self) -> list[str]:
        """Return the columns that can be drawn, losses and errors first."""
        return drawable(self.table)

    @cached_property
    def points(self) -> dict[Weights, dict[str, Cell]]:
        """Return coordinates -> row."""
        axes = coordinate_columns(self.table)
        return {tuple(float(row[axis] or 0) for axis in axes): row for row in self.table.rows()}

    @cached_property
    def shares(self) -> dict[Weights, dict[str, float]]:
        """Return coordinates -> letter -> share, of the vertices that have one."""
        found: dict[Weights, dict[str, float]] = {}
        for at in self.points:
            weights = zip(self.vertices, (1 - sum(at), *at), strict=True)
            found[at] = {letter: weight for letter, weight in weights if weight > ON}
        return found

    def value(self, at: Sequence[float], name: str) -> float | None:
        """Return a field at a measured point, None elsewhere and where it is not finite."""
        found = self.points.get(tuple(at), {}).get(name)
        return float(found) if isinstance(found, int | float) and isfinite(found) else None

    def edge(self, one: str, other: str, name: str) -> list[tuple[float, float]]:
        """Return (place t, value) of the measured points from one vertex to another, none where there is nothing between."""
        held = [(s.get(other, 0.0), self.value(at, name)) for at, s in self.shares.items() if set(s) <= {one, other}]
        found = sorted((t, value) for t, value in held if value is not None)
        return found if any(ON < t < 1 - ON for t, _ in found) else []

    def worst(self, one: str, other: str, name: str) -> tuple[float, float] | None:
        """Return the worst value along an edge, both vertices included, and its place t; None where the edge was not measured."""
        sign = -1 if self.table.column(name).better == "higher" else 1
        found = self.edge(one, other, name)
        return max(((value, t) for t, value in found), key=lambda pair: sign * pair[0]) if found else None

    @cached_property
    def faces(self) -> list[Surface]:
        """Return the triangles of which all three edges were measured between their ends, in the order of their vertices."""
        inner = {frozenset(held) for held in self.shares.values() if len(held) == 2}
        every = combinations(self.vertices, 3)
        return [
            self._face(three) for three in every if all(frozenset(pair) in inner for pair in combinations(three, 2))
        ]

    def _face(self, three: tuple[str, str, str]) -> Surface:
        """Return a face as a triangle over the shares of its second and third vertex."""
        axes = coordinate_columns(self.table)
        held = {at: shares for at, shares in self.shares.items() if set(shares) <= set(three)}
        places = {at: tuple(shares.get(letter, 0.0) for letter in three[1:]) for at, shares in held.items()}
        rows = [
            {"u": u, "v": v, **{k: value for k, value in self.points[at].items() if k not in axes}}
            for at, (u, v) in places.items()
        ]
        columns = [Column("u"), Column("v"), *(c for c in self.table.columns if c.name not in axes)]
        table = Table.of(rows, columns, {"basis": {"basis": "barycentric", "points": 3}})
        chosen = None if self.choice is None or self.choice.u not in places else places[self.choice.u]
        choice = None if self.choice is None or chosen is None else self.choice.model_copy(update={"u": chosen})
        corners = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        named = {k: Corner(name=self.names[k], at=at) for k, at in zip(three, corners, strict=True)}
        return replace(Surface.of(table), corners=named, choice=choice)

    def drawn(self, name: str) -> list[Surface]:
        """Return the faces that have the field: all, or of more than ten those with the worst values."""
        sign = -1 if self.table.column(name).better == "higher" else 1
        found = [face for face in self.faces if name in face.fields]
        worst = {
            i: max(sign * value for at in face.points if (value := face.value(at, name)) is not None)
            for i, face in enumerate(found)
        }
        kept = sorted(worst, key=lambda i: -worst[i])[:MOST]
        return [found[i] for i in sorted(kept)]


def is_simplex(table: Table) -> bool:
    """Return whether a table is of a scan over a simplex of four and more vertices, or over simplexes that share vertices."""
    dim = len(coordinate_columns(table))
    return (dim >= 3 and bool(on_simplex(table))) or (dim >= 2 and branched(table))
