"""A scanned simplex of four and more vertices: ternary plots of its faces on one scale, and the worst value along each edge."""

from __future__ import annotations

from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from isthmus._check import require, unknown
from isthmus.plots.landscape import colour_bar, colours_of
from isthmus.plots.style import COLUMN, PAGE, SIZE, blank, plain
from isthmus.plots.surface import draw_marks, draw_ternary
from isthmus.report.landscape import Scale
from isthmus.report.landscape_colours import INK
from isthmus.report.simplex import Simplex
from isthmus.report.simplex_figure import pair
from isthmus.report.surface import field_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 2.3  # inches of a ternary plot


def faces_figure(
    simplex: Simplex, *, column: str | None = None, log: bool | None = None, width: float = PAGE
) -> Figure:
    """Return a ternary plot of each face of a simplex, all on one scale; of more than ten faces those with the worst values.

    column: what is drawn; None for the first. log: a logarithmic scale for a loss; None where values span a factor of 20. width: in inches.
    Raises InputError for an unknown column, and where no face was measured on all of its edges.
    """
    name = _column(simplex, column)
    faces = simplex.drawn(name)
    require(bool(faces), "simplex", "have a face with measured edges", f"{len(simplex.points)} points on none")
    scale = Scale.of([face.panel for face in faces], name)
    drawn = (scale, scale.can_log and (scale.log if log is None else log))
    across = 2 if len(faces) == 4 else min(max(1, round(width / WIDEST)), len(faces))
    down = ceil(len(faces) / across)
    figure = blank(width, down * min(2.9, 0.85 * width / across + 0.2))
    axes = [figure.add_subplot(down, across, place + 1) for place in range(len(faces))]
    for axis, face in zip(axes, faces, strict=True):
        draw_ternary(axis, face, name, drawn)
        draw_marks(axis, face)
    colour_bar(figure, axes, _titled(name, scale.unit), drawn)
    return figure


def pairs_figure(simplex: Simplex, *, column: str | None = None, width: float = COLUMN) -> Figure:
    """Return the worst measured value along the edge between each two vertices, on the diagonal that of the vertex itself.

    column: what is drawn; None for the first. Cells of edges that were not measured are empty. Raises InputError for an unknown column.
    """
    name = _column(simplex, column)
    held = list(simplex.vertices)
    found = [[pair(simplex, one, other, name)[0] for other in held] for one in held]
    values = np.array(found, dtype=np.float64)
    require(bool(np.isfinite(values).any()), "simplex", "have a finite value at a vertex or on an edge", "none")
    scale = Scale.of_values(values.ravel().tolist(), simplex.table.column(name))
    colours, norm = colours_of(scale, False)
    figure = blank(width, 0.82 * width)
    axis = figure.subplots()
    axis.imshow(np.ma.masked_invalid(values), cmap=colours, norm=norm)  # pyright: ignore[reportUnknownMemberType]
    for (row, place), value in np.ndenumerate(values):
        if np.isfinite(value):
            shown = f"{value:.1f}" if scale.unit == "%" else f"{value:.3g}"
            axis.text(place, row, shown, ha="center", va="center", fontsize=SIZE - 1, color=INK)
    names = [plain("\n".join((letter, *wrap(simplex.names[letter], 12)[:1]))) for letter in held]
    axis.set_xticks(range(len(held)), labels=names)
    axis.set_yticks(range(len(held)), labels=names)
    axis.tick_params(labelsize=SIZE - 1, length=0)
    axis.spines[:].set_visible(False)
    colour_bar(figure, [axis], _titled(name, scale.unit), (scale, False))
    return figure


def _column(simplex: Simplex, column: str | None) -> str:
    require(bool(simplex.fields), "simplex", "have a column to draw", "none")
    if column is not None and column not in simplex.fields:
        raise unknown("column", column, simplex.fields)
    return simplex.fields[0] if column is None else column


def _titled(name: str, unit: str) -> str:
    return "\n".join(wrap(plain(field_title(name)) + (f" ({unit})" if unit else ""), 30))
