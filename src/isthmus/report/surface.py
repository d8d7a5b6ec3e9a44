"""`Surface`: the table of a scan over two coordinates, read as a picture: corners, paths on it, fields, and the chosen point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isclose, isfinite
from re import search

from isthmus._check import InputError, require
from isthmus.barrier import SQUARE, TRIANGLE, Barrier, barriers
from isthmus.report.document import Choice
from isthmus.report.figures import LINES
from isthmus.report.landscape import Landscape
from isthmus.report.scan_figure import BOUND, PANELS
from isthmus.report.scan_record import Corner, branched, choice_of, corners_of, on_simplex, short_names, vertices_of
from isthmus.table import Cell, Column, Table

Place = tuple[float, float]
BORDERS = {  # corners in the order of a walk along the border
    4: ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)),
    3: ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),
}
ON = 1e-9  # how far from a straight line a point may be and still be on it


@dataclass(frozen=True, eq=False)
class Surface:
    """A table with columns u and v, its corners by letter, and the point chosen on validation images.

    corners: letter -> given model, A, B, C, D in the order of the files. triangle: whether the points fill u + v <= 1 only.
    """

    table: Table
    corners: Mapping[str, Corner]
    triangle: bool
    choice: Choice | None = None

    @classmethod
    def of(cls, table: Table, *, choice: Choice | None = None, names: Sequence[str] = ()) -> "Surface":
        """Return the surface that a scan's table is of. Raises InputError for one without u and v, or without a grid of them.

        choice, names: the chosen point and the files at the corners, where the table does not record them.
        """
        require(
            {"u", "v"} <= set(table.names), "table", "have the columns u and v of a surface", ", ".join(table.names)
        )
        points = [_place(row) for row in table.rows()]
        wide = all(len({point[axis] for point in points}) > 1 for axis in (0, 1))
        require(wide, "table", "have a grid of at least 2 x 2 points", f"{len(points)} point(s) along a line")
        said = on_simplex(table)
        triangle = all(u + v <= 1 + ON for u, v in points) if said is None else said
        held = corners_of(table) or _corners(names, triangle)
        held = vertices_of(table) if triangle and 0 < len(held) < 3 else held  # one model and two trained vertices
        lettered = dict(zip(letters(len(held)), held, strict=True))
        return cls(table, lettered, triangle, choice_of(table) or choice)

    @cached_property
    def names(self) -> dict[str, str]:
        """Return letter -> the part of the corner's file name by which it differs from the others."""
        short = short_names([corner.name for corner in self.corners.values()])
        return dict(zip(self.corners, short, strict=True))

    @cached_property
    def fields(self) -> list[str]:
        """Return the columns that can be drawn, losses and errors first."""
        return drawable(self.table)

    @cached_property
    def panel(self) -> Landscape:
        """Return the surface as a slice over u and v without marks, for what draws those."""
        axes = [{"name": name, "label": "", "unit": "", "norm": 1.0} for name in ("u", "v")]
        meta: dict[str, object] = {"kind": "landscape", "directions": "surface", "axes": axes}
        return Landscape("", Table(self.table.frame, self.table.columns, meta))

    @cached_property
    def points(self) -> dict[Place, dict[str, Cell]]:
        """Return coordinates -> row."""
        return {_place(row): row for row in self.table.rows()}

    def value(self, at: Sequence[float], name: str) -> float | None:
        """Return a field at a measured point, None elsewhere and where it is not finite."""
        found = self.points.get((at[0], at[1]), {}).get(name)
        return float(found) if isinstance(found, int | float) and isfinite(found) else None

    @cached_property
    def whole(self) -> bool:
        """Return whether the corners are those of the unit square or of the triangle, so that there are edges and barriers."""
        return {corner.at for corner in self.corners.values()} in (SQUARE, TRIANGLE) and len(self.corners) <= 4

    @cached_property
    def walk(self) -> list[str]:
        """Return the letters of the corners along the border, the first once more at the end; none where there is no border."""
        if not self.whole:
            return []
        letters = {(corner.at[0], corner.at[1]): letter for letter, corner in self.corners.items()}
        found = [letters[at] for at in BORDERS[len(letters)]]
        return [*found, found[0]]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Return the pairs of corners that an edge joins, in the order of the walk."""
        return list(pairwise(self.walk))

    @property
    def diagonals(self) -> list[tuple[str, str]]:
        """Return the pairs of opposite corners; a triangle has none."""
        one = self.walk
        return [(one[0], one[2]), (one[1], one[3])] if len(one) == 5 else []

    def path(self, one: str, other: str) -> Table | None:
        """Return the measured points on the straight line between two corners, with their place t on it; None where only the ends are."""
        (a, b), (c, d) = (self.corners[letter].at for letter in (one, other))
        found: list[tuple[float, Place]] = []
        for u, v in self.points:
            t = ((u - a) * (c - a) + (v - b) * (d - b)) / ((c - a) ** 2 + (d - b) ** 2)
            near = isclose(a + t * (c - a), u, abs_tol=ON) and isclose(b + t * (d - b), v, abs_tol=ON)
            if near and -ON <= t <= 1 + ON:
                found.append((min(max(round(t, 12), 0.0), 1.0), (u, v)))
        ends = {t for t, _ in found}
        return self._along(sorted(found)) if {0.0, 1.0} <= ends and len(found) > 2 else None

    def border(self) -> Table | None:
        """Return the edges one after the other, t = 0 to 1 along the first, 1 to 2 along the second, ...; None where one is missing."""
        paths = [self.path(*edge) for edge in self.edges]
        held = [path for path in paths if path is not None]
        if not held or len(held) < len(paths):
            return None
        rows = [
            {**row, "t": place + float(row["t"])}  # type: ignore[arg-type]
            for place, path in enumerate(held)
            for row in path.rows()
            if place == len(held) - 1 or row["t"] != 1
        ]
        return Table.of(rows, held[0].columns)

    def _along(self, found: Sequence[tuple[float, Place]]) -> Table:
        rows = [{"t": t, **{k: v for k, v in self.points[at].items() if k not in ("u", "v")}} for t, at in found]
        columns = [column for column in self.table.columns if column.name not in ("u", "v")]
        return Table.of(rows, [Column("t", about="place along the line"), *columns])

    def edge_barriers(self, name: str) -> dict[tuple[str, str], dict[str, Barrier]]:
        """Return the barriers along each edge and diagonal that was measured at its ends and between, as of any path."""
        found: dict[tuple[str, str], dict[str, Barrier]] = {}
        for pair in (*self.edges, *self.diagonals):
            path = self.path(*pair)
            try:
                found |= {} if path is None else {pair: barriers(path, value=name)}
            except InputError:  # a value that is missing: the surface's own barriers say so
                continue
        return found


def letters(count: int) -> list[str]:
    """Return what models are called in a figure: A, B, C, ..., and numbers where there are more than letters."""
    return [chr(ord("A") + k) if k < 26 else str(k + 1) for k in range(count)]


def drawable(table: Table) -> list[str]:
    """Return the columns that have a finite value and are no bound, losses and errors first."""
    known = [column.name for column in table.columns if not search(BOUND, column.name) and _finite(table, column.name)]
    found = [name for _, kind in PANELS for name in known if search(kind, name)]
    return list(dict.fromkeys(found))


def _finite(table: Table, name: str) -> bool:
    return any(isinstance(value, int | float) and isfinite(value) for value in table.values(name))


def is_surface(table: Table) -> bool:
    """Return whether a table has a grid of points over u and v that can be drawn: fewer than 2 x 2 are listed only."""
    if not {"u", "v"} <= set(table.names) or branched(table):
        return False
    return all(len(set(table.values(name))) > 1 for name in ("u", "v"))


def field_title(name: str) -> str:
    """Return what a field is called; not escaped."""
    return LINES[name][0] if name in LINES else name.replace("_", " ")


def _place(row: Mapping[str, Cell]) -> Place:
    u, v = row["u"], row["v"]
    if not isinstance(u, int | float) or not isinstance(v, int | float):
        raise InputError(f"`table` should have numbers in the columns u and v. Found {u!r} and {v!r}.")
    return float(u), float(v)


def _corners(names: Sequence[str], triangle: bool) -> tuple[Corner, ...]:
    """Return the corners in the order in which files are given, none where their number does not fit."""
    places = BORDERS[3] if triangle else sorted(SQUARE)
    if len(names) != len(places):
        return ()
    return tuple(Corner(name=name, at=at) for name, at in zip(names, places, strict=True))
