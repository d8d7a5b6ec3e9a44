"""A triangle of three models: equilateral coordinates, a field between its measured points, and the axes of the shares."""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from isthmus.report.figures import Figure, label
from isthmus.report.landscape import Landscape
from isthmus.report.surface import Surface
from isthmus.table import Column, Table

TOP = sqrt(3) / 2
OUTLINE = ((0.0, 0.0), (1.0, 0.0), (0.5, TOP), (0.0, 0.0))
FINE = 40  # drawn steps along a side, at least
TICKS = (0.2, 0.4, 0.6, 0.8)
Values = NDArray[np.float64]


def flat(at: Sequence[float]) -> tuple[float, float]:
    """Return the place of (u, v) in the equilateral triangle: the models at (0, 0), (1, 0) and the top.

    >>> flat((1.0, 0.0)), flat((0.0, 0.0))
    ((1.0, 0.0), (0.0, 0.0))
    """
    return at[0] + at[1] / 2, at[1] * TOP


def triangles(surface: Surface) -> list[tuple[int, int, int]]:
    """Return the Delaunay triangles of the measured points in equilateral coordinates, by their rows; none of points along a line."""
    places = np.array([flat(at) for at in surface.points])
    try:
        found = Delaunay(places).simplices
    except (QhullError, ValueError):
        return []
    kept: list[tuple[int, int, int]] = []
    for one, two, three in found.tolist():
        (a, b), (c, d), (e, f) = places[[one, two, three]]
        if abs((c - a) * (f - b) - (e - a) * (d - b)) > 1e-9:  # three points of one side are no triangle
            kept.append((one, two, three))
    return kept


def raster(surface: Surface, name: str) -> Landscape:
    """Return a field over a rectangle around the triangle, linear between the measured points, missing where one of them is.

    Outside the triangle stand the values at its nearest point of the same height, so that contours reach its sides; they are covered
    when it is drawn.
    """
    steps = len({u for u, _ in surface.points}) - 1
    part = steps * ceil(FINE / steps)
    x, y = np.linspace(0, 1, 2 * part + 1), np.linspace(0, TOP, part + 1)
    v = np.repeat(y / TOP, len(x))
    u = np.clip(np.tile(x, len(y)) - v / 2, 0, 1 - v)
    z = between(surface, name, np.stack([u + v / 2, v * TOP], -1))
    grid = [(float(a), float(b)) for b in y for a in x]
    rows = [{"x": a, "y": b, name: float(f"{value:.6g}")} for (a, b), value in zip(grid, z, strict=True)]
    axes = [{"name": axis, "label": "", "unit": "", "norm": 1.0} for axis in ("x", "y")]
    meta = {"kind": "landscape", "directions": "surface", "axes": axes}
    return Landscape("", Table.of(rows, [Column("x"), Column("y"), surface.table.column(name)], meta))


def between(surface: Surface, name: str, places: Values) -> Values:
    """Return a field at (N, 2) equilateral places, linear in each triangle of measured points, NaN outside them and beside missing ones."""
    corners = np.array([flat(at) for at in surface.points])
    held = [surface.value(at, name) for at in surface.points]
    values = np.array([np.nan if value is None else value for value in held])
    found = np.full(len(places), np.nan)
    for cell in triangles(surface):
        a, b, c = corners[list(cell)]
        inverse = np.linalg.inv(np.stack([b - a, c - a], -1))
        share = (places - a) @ inverse.T
        weights = np.concatenate([1 - share.sum(-1, keepdims=True), share], -1)
        inside = (weights >= -1e-9).all(-1)
        # A missing value matters only to places that it has a share in.
        parts = np.where(np.abs(weights[inside]) < 1e-9, 0.0, weights[inside] * values[list(cell)])
        found[inside] = parts.sum(-1)
    return found


def sides() -> list[object]:
    """Return what covers the rectangle outside the triangle, and its outline."""
    covers = [((-0.02, 0.0), (0.5, TOP), (0.5, TOP + 0.02), (-0.02, TOP + 0.02))]
    covers.append(((1.02, 0.0), (0.5, TOP), (0.5, TOP + 0.02), (1.02, TOP + 0.02)))
    shapes = [
        {
            "type": "scatter",
            "x": [x for x, _ in cover],
            "y": [y for _, y in cover],
            "mode": "lines",
            "fill": "toself",
            "fillcolor": "var:paper",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "cliponaxis": False,
        }
        for cover in covers
    ]
    line: Figure = {
        "type": "scatter",
        "x": [x for x, _ in OUTLINE],
        "y": [y for _, y in OUTLINE],
        "mode": "lines",
        "line": {"color": "var:ink", "width": 1.5},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }
    return [*shapes, line]


def ticks() -> list[tuple[str, float, tuple[float, float]]]:
    """Return (side, share, place) of the ticks: B along the base, C up the right side, A down the left one."""
    found = [("base", share, flat((share, 0.0))) for share in TICKS]
    found += [("right", share, flat((1 - share, share))) for share in TICKS]
    return found + [("left", share, flat((0.0, 1 - share))) for share in TICKS]


def triangle_layout(surface: Surface, layout: Figure) -> Figure:
    """Return the layout of a map with the axes of the shares in place of x and y."""
    shift = {"base": (0, -12), "right": (17, 4), "left": (-17, 4)}
    notes = [_note(f"{share:g}", at, shift[side], 11) for side, share, at in ticks()]
    names = [f"{letter} {label(name, 14)}" for letter, name in surface.names.items()] or ["A", "B", "C"]
    letters = list(surface.names) or names
    for name, corner, by in zip(names, OUTLINE, ((0, -32), (0, -32), (0, 18)), strict=False):
        notes.append({**_note(name, corner, by, 13), "font": {"size": 13, "color": "var:ink"}})
    for letter, place, by, angle in zip(
        (letters[1], letters[2], letters[0]),
        ((0.5, 0.0), (0.75, TOP / 2), (0.25, TOP / 2)),
        ((0, -32), (40, 14), (-40, 14)),
        (0, 60, -60),
        strict=True,
    ):
        said = f"← share of {letter}" if angle else f"share of {letter} →"
        notes.append({**_note(said, place, by, 12), "textangle": angle})
    hidden: Figure = {"visible": False, "fixedrange": True}
    return {
        **layout,
        "xaxis": {**hidden, "range": [-0.02, 1.02], "constrain": "domain"},
        "yaxis": {**hidden, "range": [-0.02, TOP + 0.02], "scaleanchor": "x", "constrain": "domain"},
        "margin": {"l": 62, "r": 40, "t": 76, "b": 52},
        "annotations": notes,
    }


def _note(text: str, at: tuple[float, float], by: tuple[float, float], size: int) -> Figure:
    return {
        "text": text,
        "x": at[0],
        "y": at[1],
        "xshift": by[0],
        "yshift": by[1],
        "showarrow": False,
        "font": {"size": size, "color": "var:soft"},
    }
