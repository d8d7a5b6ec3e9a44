"""What was measured over surfaces, side by side on one colour scale, with the corners and the point that validation chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isthmus._check import InputError, require
from isthmus.plots.style import PAGE, SIZE, blank, dress, numbers, plain, unit_of
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

COLOURS = "cividis_r"  # dark is high: read in a grey print, and by colour-blind readers
FEW = 36  # cells in which numbers can be read, under a mark too


@dataclass(frozen=True, eq=False)
class PatchPanel:
    """A scanned surface under a title, and the coordinates (u, v) of the point that was chosen, if one was."""

    title: str
    table: Table
    chosen: tuple[float, float] | None = None


def patches_figure(panels: Sequence[PatchPanel], *, column: str = "test_error", width: float = PAGE) -> Figure:
    """Return a heat map of `column` over (u, v) for each panel, all of one range of colours, which the bar shows.

    A cell is centred on the point that was measured; nothing is drawn between points that was not. Squares mark the four corners, a ring
    the chosen point; with few points their values are written into the cells. width: in inches.

    Raises InputError for no panels, and for a table without the coordinates, the column, or an even grid of points.
    """
    require(bool(panels), "panels", "hold at least one surface", "none")
    fields = [_field(panel, column) for panel in panels]
    finite = np.concatenate([z[np.isfinite(z)] for _, _, z in fields])
    require(finite.size > 0, "panels", f"have a finite value of {column}", "none")
    low, high = float(finite.min()), float(finite.max())
    figure = blank(width, min(0.9 * width / len(panels), 3.0) + 0.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    image: AxesImage | None = None
    for place, (axis, panel, drawn) in enumerate(zip(axes, panels, fields, strict=True)):
        image = _draw(axis, drawn, (low, high))
        _mark(axis, panel)
        axis.set_title(plain(panel.title), fontsize=SIZE)
        axis.set_ylabel("v" if place == 0 else "", fontsize=SIZE)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), shrink=0.85, aspect=25, pad=0.02)
    bar.ax.tick_params(labelsize=SIZE - 1.5, width=0.6, length=2.5)
    bar.set_label(f"{column.replace('_', ' ')} ({unit_of(panels[0].table, column)})", fontsize=SIZE - 0.5)
    return figure


Field = tuple[list[float], list[float], "NDArray[np.float64]"]
"""Values of u, of v, and what was measured: a row for each v, NaN where it was not finite."""


def _field(panel: PatchPanel, column: str) -> Field:
    us, vs = (numbers(panel.table, name) for name in ("u", "v"))
    known = {(u, v): z for u, v, z in zip(us, vs, numbers(panel.table, column), strict=True)}
    across, up = (sorted({value for value in axis if value is not None}) for axis in (us, vs))
    whole = len(known) == len(us) == len(across) * len(up) and min(len(across), len(up)) >= 2
    require(whole, "table", "have each point of a grid over (u, v) once", f"{len(us)} points in {panel.title!r}")
    for name, axis in (("u", across), ("v", up)):
        steps = np.diff(axis)
        if not np.allclose(steps, steps[0]):
            raise InputError(f"`table` should have evenly spaced values of {name}. Found {axis} in {panel.title!r}.")
    z = [[np.nan if (value := known[u, v]) is None else value for u in across] for v in up]
    return across, up, np.array(z, dtype=np.float64)


def _draw(axis: Axes, drawn: Field, ends: tuple[float, float]) -> AxesImage:
    us, vs, z = drawn
    half = (us[1] - us[0]) / 2, (vs[1] - vs[0]) / 2
    extent = (us[0] - half[0], us[-1] + half[0], vs[0] - half[1], vs[-1] + half[1])
    image = axis.imshow(z, origin="lower", extent=extent, cmap=COLOURS, vmin=ends[0], vmax=ends[1], aspect="equal")
    if z.size <= FEW:
        middle = (ends[0] + ends[1]) / 2
        for (j, i), value in np.ndenumerate(z):
            shade = "white" if value > middle else "black"
            axis.text(us[i], vs[j], f"{value:.3g}", ha="center", va="center", fontsize=SIZE - 2, color=shade)
    dress(axis)
    axis.grid(False)
    axis.set_xlabel("u", fontsize=SIZE)
    return image


def _mark(axis: Axes, panel: PatchPanel) -> None:
    corners = [(u, v) for u in (0.0, 1.0) for v in (0.0, 1.0)]
    for colour, thickness in (("white", 2.6), ("black", 1.0)):  # a pale rim, so that it is seen on dark and light
        _ring(axis, corners, "s", (colour, 9, thickness), "corners")
    if panel.chosen is not None:
        for colour, thickness in (("white", 3.2), ("#d55e00", 1.6)):
            _ring(axis, [panel.chosen], "o", (colour, 12, thickness), "chosen")


def _ring(
    axis: Axes, points: Sequence[tuple[float, float]], marker: str, look: tuple[str, float, float], name: str
) -> None:
    """Draw hollow marks of a colour, size and thickness, whole at the border too."""
    colour, size, thickness = look
    axis.plot(
        *zip(*points, strict=True),
        linestyle="",
        marker=marker,
        markersize=size,
        markerfacecolor="none",
        markeredgecolor=colour,
        markeredgewidth=thickness,
        clip_on=False,
        gid=name,
    )
