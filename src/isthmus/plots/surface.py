"""A scanned surface: maps with contours, the surface in space, ternary plots of three models, and its edges unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from isthmus._check import require, unknown
from isthmus.plots.landscape import colour_bar, colours_of, draw_contours, draw_space, levels_of, shown
from isthmus.plots.path import path_figure
from isthmus.plots.style import COLUMN, PAGE, SIZE, blank, plain
from isthmus.report.landscape import Scale
from isthmus.report.landscape_colours import INK
from isthmus.report.surface import Surface, field_title
from isthmus.report.ternary import OUTLINE, TOP, flat, ticks, triangles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D  # pyright: ignore[reportMissingTypeStubs]

Kind = Literal["maps", "space", "both"]
Drawn = tuple[Scale, bool]
ACROSS = 3
CHOSEN = "#d4003a"
NEAR = 0.06


def surface_figure(
    surface: Surface,
    *,
    columns: Sequence[str] | None = None,
    kind: Kind = "maps",
    log: bool | None = None,
    width: float = PAGE,
) -> Figure:
    """Return what was measured over a surface: maps with labelled levels, surfaces in space, or both, at most three columns a row.

    columns: what is drawn, each with a scale of its own; None for losses and errors on test images, or all there is without any. Over
    three models whose shares are the coordinates a map is a ternary plot. log: a logarithmic scale for losses; None where their values
    span a factor of 20. width: in inches. Corners and the point chosen on validation images are marked.
    Raises InputError for an unknown kind or column.
    """
    if kind not in get_args(Kind):
        raise unknown("kind", kind, get_args(Kind))
    names = list(columns) if columns is not None else _usual(surface.fields)
    for name in names:
        if name not in surface.fields:
            raise unknown("columns", name, surface.fields)
    require(bool(names), "columns", "name at least one column", "none")
    rows: list[Literal["maps", "space"]] = ["maps", "space"] if kind == "both" else [kind]
    across = 2 if len(names) == 4 else min(ACROSS, len(names))
    down = len(rows) * ceil(len(names) / across)
    figure = blank(width, down * min(3.2, 0.82 * width / across + 0.35))
    for place, name in enumerate(names):
        scale = Scale.of([surface.panel], name)
        drawn = (scale, scale.can_log and (scale.log if log is None else log))
        held: list[Axes] = []
        for i, row in enumerate(rows):
            where = (down, across, (i + len(rows) * (place // across)) * across + place % across + 1)
            held.append(_panel(figure, where, row, surface, (name, drawn)))
        held[0].set_title(plain(field_title(name)), fontsize=SIZE, pad=18 if rows[0] == "maps" else None)
        unit = f" ({scale.unit})" if scale.unit else ""
        colour_bar(figure, held, "\n".join(wrap(plain(field_title(name)) + unit, 30)), drawn)
    return figure


def _usual(fields: Sequence[str]) -> list[str]:
    names = ("test_loss", "robust_loss", "test_error", "robust_error")
    return [name for name in names if name in fields] or list(fields)


def _panel(figure: Figure, where: tuple[int, int, int], row: str, surface: Surface, what: tuple[str, Drawn]) -> Axes:
    name, drawn = what
    if row == "space":
        space = figure.add_subplot(*where, projection="3d")
        (_mesh if surface.triangle else _sheet)(space, surface, name, drawn)  # pyright: ignore[reportArgumentType]  of that projection
        return space
    axis = figure.add_subplot(*where)
    if surface.triangle:
        draw_ternary(axis, surface, name, drawn)
    else:
        draw_contours(axis, surface.panel, name, drawn)
        for level in axis.texts:  # a level's number at the border would be cut, or lie on a model
            level.set_visible(all(NEAR < place < 1 - NEAR for place in level.get_position()))
        _name_corners(axis, surface)
        for pair in surface.diagonals:
            axis.plot(
                *zip(*(surface.corners[letter].at for letter in pair), strict=True), "--", color=INK, linewidth=0.5
            )
    draw_marks(axis, surface)
    return axis


def _put(surface: Surface, at: Sequence[float]) -> tuple[float, float]:
    return flat(at) if surface.triangle else (at[0], at[1])


def draw_marks(axis: Axes, surface: Surface) -> None:
    """Mark the corners and the chosen point."""
    style = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6, "clip_on": False, "zorder": 5}
    for corner in surface.corners.values():
        axis.plot(*_put(surface, corner.at), "o", color=INK, gid="corner", **style)  # pyright: ignore[reportArgumentType]
    if surface.choice is not None:
        axis.plot(*_put(surface, surface.choice.u), "D", color=CHOSEN, gid="chosen", **style)  # pyright: ignore[reportArgumentType]


def _name_corners(axis: Axes, surface: Surface) -> None:
    """Name the models outside the square, above its upper corners and below the tick labels of its lower ones."""
    for letter, corner in surface.corners.items():
        u, v = corner.at
        axis.annotate(
            plain(f"{letter} {_short(surface.names[letter])}"),
            (u, v),
            (0, 5 if v > 0.5 else -2.3 * SIZE),
            textcoords="offset points",
            ha="left" if u < 0.5 else "right",
            va="bottom" if v > 0.5 else "top",
            fontsize=SIZE - 1.5,
        )


def _short(name: str, length: int = 12) -> str:
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length // 2 - 1) :]}"


def draw_ternary(axis: Axes, surface: Surface, name: str, drawn: Drawn) -> None:
    """Draw a field over a triangle with labelled levels, its outline and the shares along its sides."""
    from matplotlib.tri import Triangulation

    scale, log = drawn
    colours, norm = colours_of(scale, log)
    held = [surface.value(at, name) for at in surface.points]
    cells = [cell for cell in triangles(surface) if all(held[place] is not None for place in cell)]
    z = np.array([scale.low if value is None else value for value in held])
    z = np.maximum(z, scale.floor) if log else z
    x, y = np.array([flat(at) for at in surface.points]).T
    levels, low = levels_of(scale, log), scale.floor if log else scale.low
    if cells:
        mesh = Triangulation(x, y, np.array(cells))
        axis.tricontourf(mesh, z, levels=sorted({low, *levels, scale.high}), cmap=colours, norm=norm, extend="both")
        if levels:
            lines = axis.tricontour(mesh, z, levels=levels, colors=INK, linewidths=0.4)
            axis.clabel(lines, fontsize=SIZE - 2.5, fmt=shown, inline_spacing=2)
    axis.plot(*zip(*OUTLINE, strict=True), color=INK, linewidth=0.8)
    _ternary_axes(axis, surface)


def _ternary_axes(axis: Axes, surface: Surface) -> None:
    """Draw the shares of the three models along the sides, and their names at the corners."""
    small = SIZE - 2
    shifts = {
        "base": ((0, -3), "center", "top"),
        "right": ((3, 1), "left", "center"),
        "left": ((-3, 1), "right", "center"),
    }
    for side, share, at in ticks():
        shift, across, up = shifts[side]
        axis.annotate(f"{share:g}", at, shift, textcoords="offset points", ha=across, va=up, fontsize=small)  # pyright: ignore[reportArgumentType]
    names = [f"{letter} {_short(name)}" for letter, name in surface.names.items()] or ["A", "B", "C"]
    letters = list(surface.names) or names
    for name, at, shift in zip(names, OUTLINE, ((0, -1.9 * SIZE), (0, -1.9 * SIZE), (0, 0.6 * SIZE)), strict=False):
        up = "bottom" if shift[1] > 0 else "top"
        axis.annotate(plain(name), at, shift, textcoords="offset points", ha="center", va=up, fontsize=SIZE - 1)
    middle = (
        ((0.5, 0.0), (0, -1.9 * SIZE), 0, 1),
        ((0.75, TOP / 2), (2.4 * SIZE, 6), -60, 2),
        ((0.25, TOP / 2), (-2.4 * SIZE, 6), 60, 0),
    )
    for at, shift, turn, place in middle:
        said = f"share of {letters[place]}"
        where = "top" if turn == 0 else "center"
        axis.annotate(said, at, shift, textcoords="offset points", ha="center", va=where, rotation=turn, fontsize=small)
    axis.set_axis_off()
    axis.set_aspect("equal")


def _sheet(axis: Axes3D, surface: Surface, name: str, drawn: Drawn) -> None:
    draw_space(axis, surface.panel, name, drawn)
    axis.view_init(35, -130)
    _raise_marks(axis, surface, name, drawn)


def _mesh(axis: Axes3D, surface: Surface, name: str, drawn: Drawn) -> None:
    """Draw the surface over a triangle; a flat panel over its own corner coordinates would be skewed."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # pyright: ignore[reportMissingTypeStubs]

    scale, log = drawn
    colours, norm = colours_of(scale, log)
    held = [surface.value(at, name) for at in surface.points]
    places = [flat(at) for at in surface.points]
    faces: list[list[tuple[float, float, float]]] = []
    tones: list[float] = []
    for cell in triangles(surface):
        values = [value for place in cell if (value := held[place]) is not None]
        if len(values) == 3:
            faces.append([(*places[p], _height(v, scale, log)) for p, v in zip(cell, values, strict=True)])
            tones.append(max(sum(values) / 3, scale.floor) if log else sum(values) / 3)
    axis.add_collection3d(
        Poly3DCollection(faces, facecolors=colours(norm(tones)), linewidths=0.15, edgecolors="#1b243055")
    )
    low, high = (log10(scale.floor), log10(scale.high)) if log else (scale.low, scale.high)
    axis.set(xlim=(0, 1), ylim=(0, 1), zlim=(low, high), xticks=[], yticks=[])
    levels = levels_of(scale, log)[:: max(1, len(levels_of(scale, log)) // 4)]
    axis.set_zticks([_height(level, scale, log) for level in levels], labels=[f"{v:g}" for v in levels])  # pyright: ignore[reportCallIssue, reportUnknownMemberType]
    axis.tick_params(labelsize=SIZE - 2.5, pad=-2)
    axis.view_init(35, -100)
    _raise_marks(axis, surface, name, drawn)


def _height(value: float, scale: Scale, log: bool) -> float:
    return log10(max(value, scale.floor)) if log else value


def _raise_marks(axis: Axes3D, surface: Surface, name: str, drawn: Drawn) -> None:
    """Mark and letter the corners and the chosen point at their height."""
    found = [(letter, corner.at, INK) for letter, corner in surface.corners.items()]
    found += [] if surface.choice is None else [("", surface.choice.u, CHOSEN)]
    for letter, at, colour in found:
        value = surface.value(at, name)
        if value is None:
            continue
        x, y = _put(surface, at)
        z = _height(value, *drawn)
        axis.plot([x], [y], [z], "o" if letter else "D", color=colour, markersize=3, zorder=10)
        axis.text(x, y, z, f" {letter}", fontsize=SIZE - 1, zorder=11)


def edges_figure(surface: Surface, *, panels: Sequence[Sequence[str]] | None = None, width: float = COLUMN) -> Figure:
    """Return columns of a surface along its border, from corner to corner and back to the first, one panel above the other.

    panels, width: as in :func:`isthmus.plots.path_figure`. Raises InputError where the corners are not recorded or an edge was not scanned.
    """
    border = surface.border()
    require(
        border is not None, "surface", "have recorded corners and measured edges", f"{len(surface.corners)} corner(s)"
    )
    assert border is not None
    figure = path_figure(border, panels=panels, width=width)
    for axis in figure.axes:
        for place in range(len(surface.walk)):
            axis.axvline(place, color="#999999", linewidth=0.5, zorder=0)
    names = [f"{letter}\n{_short(surface.names[letter], 10)}" for letter in surface.walk]
    figure.axes[-1].set_xticks(range(len(names)), labels=[plain(name) for name in names])
    figure.axes[-1].set_xlabel("corners along the border", fontsize=SIZE)
    return figure
