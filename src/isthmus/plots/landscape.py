"""Landscapes side by side: contours, surfaces, or lines over one axis, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from isthmus._check import require, unknown
from isthmus.plots.style import OTHERS, PAGE, SIZE, blank, dress, look_of, plain
from isthmus.report.landscape import Landscape, Scale, title_of
from isthmus.report.landscape_colours import INK, SHADES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D  # pyright: ignore[reportMissingTypeStubs]
    from numpy.typing import NDArray

Kind = Literal["contours", "surface", "both"]
MARKS = {"centre": ("o", "the model"), "model": ("D", "models"), "trajectory": (".", "trajectory")}
RED = "#d4003a"
ACROSS = 3  # panels side by side: more are too small for the labels of their contours
DASHES = ("-", "--", ":", "-.")


def landscape_figure(
    panels: Sequence[Landscape],
    *,
    column: str | None = None,
    kind: Kind = "contours",
    shared: bool = True,
    log: bool | None = None,
    width: float = PAGE,
) -> Figure:
    """Return the landscapes of several models side by side: contours with labelled levels, surfaces, or both, at most three panels a row,
    or a column for each panel.

    column: the loss or error that is drawn; None for the foremost that all panels have, the one under attack where there is one. Along a
    single axis it is a line for each panel, in one frame. shared: one range, one set of contours and one colour bar for all panels, else
    each its own. log: a logarithmic scale for a loss; None where its values span a factor of 20. width: in inches.
    Given models are marked and numbered, and a trajectory is drawn, where they fall into the slice.
    Raises InputError for no panels, an unknown kind or column, panels with another number of axes, and a logarithmic error.
    """
    require(bool(panels), "panels", "hold at least one landscape", "none")
    if kind not in get_args(Kind):
        raise unknown("kind", kind, get_args(Kind))
    dims = sorted({panel.dim for panel in panels})
    require(len(dims) == 1, "panels", "have the same number of axes", dims)
    name = _column(panels, column)
    whole = Scale.of(panels, name)
    scales = [whole if shared else Scale.of([panel], name) for panel in panels]
    chosen = whole.log if log is None else log
    require(not chosen or all(s.unit != "%" for s in scales), "log", "be used for a loss", name)
    if dims == [1]:
        return _lines(panels, name, (whole, chosen), width)
    rows: list[Literal["contours", "surface"]] = ["contours", "surface"] if kind == "both" else [kind]
    across = len(panels) if kind == "both" else min(ACROSS, len(panels))
    down = len(rows) * ceil(len(panels) / across)
    figure = blank(width, down * min(2.6, 0.86 * width / across + 0.2) + 0.6)
    columns = [
        _panel(
            figure,
            (panel, name),
            (scale, chosen),
            [(row, (i + j // across, down, j % across, across)) for i, row in enumerate(rows)],
        )
        for j, (panel, scale) in enumerate(zip(panels, scales, strict=True))
    ]
    groups = [[axis for held in columns for axis in held]] if shared else columns
    for j in range(1, len(panels)):
        same = _words(panels[j], -1) == _words(panels[j - 1], -1)
        if same and kind != "surface" and j % across:
            columns[j][0].set_ylabel("")
    for group, scale in zip(groups, scales, strict=False):
        colour_bar(figure, group, _titled(name, scale, 40), (scale, chosen))
    return figure


def _panel(
    figure: Figure,
    shown: tuple[Landscape, str],
    drawn: tuple[Scale, bool],
    rows: Sequence[tuple[str, tuple[int, int, int, int]]],
) -> list[Axes]:
    """Return the axes of one landscape, one below the other: what each is, and its row and column out of how many."""
    held: list[Axes] = []
    for kind, (i, down, j, across) in rows:
        place = (down, across, i * across + j + 1)
        if kind == "surface":
            space = figure.add_subplot(*place, projection="3d")
            draw_space(space, *shown, drawn)  # pyright: ignore[reportArgumentType]  of that projection
            held.append(space)
        else:
            held.append(figure.add_subplot(*place))
            draw_contours(held[-1], *shown, drawn)
    held[0].set_title(plain(shown[0].title), fontsize=SIZE)
    return held


def _column(panels: Sequence[Landscape], column: str | None) -> str:
    common = [name for name in panels[0].fields() if all(name in panel.fields() for panel in panels)]
    if column is None:
        require(bool(common), "panels", "have a loss or error in common", "none")
        return common[0]
    if column not in common:
        raise unknown("column", column, common)
    return column


def levels_of(scale: Scale, log: bool) -> list[float]:
    """Return the contours of a scale."""
    return scale.log_levels() if log else scale.levels()


def colours_of(scale: Scale, log: bool) -> tuple[Colormap, Normalize]:
    """Return the colours of a scale and how values become them."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    ends = (scale.floor, scale.high) if log else (scale.low, scale.high)
    return LinearSegmentedColormap.from_list("landscape", SHADES), (LogNorm if log else Normalize)(*ends)


def _heights(panel: Landscape, name: str, scale: Scale, log: bool) -> NDArray[np.float64]:
    """Return the field as an array, NaN where it was not finite; no lower than the floor of a logarithmic scale."""
    z = np.array(panel.values(name), dtype=np.float64)
    return np.maximum(z, scale.floor) if log else z


def draw_contours(axis: Axes, panel: Landscape, name: str, drawn: tuple[Scale, bool]) -> None:
    """Draw a field over two coordinates with labelled levels and the marked models."""
    scale, log = drawn
    colours, norm = colours_of(scale, log)
    z, levels = _heights(panel, name, scale, log), levels_of(scale, log)
    low, high = (scale.floor, scale.high) if log else (scale.low, scale.high)
    axis.contourf(*panel.grid, z, levels=sorted({low, *levels, high}), cmap=colours, norm=norm, extend="both")
    lines = axis.contour(*panel.grid, z, levels=levels, colors=INK, linewidths=0.4)
    axis.clabel(lines, fontsize=SIZE - 2.5, fmt=shown, inline_spacing=2)
    _mark(axis, panel)
    dress(axis)
    axis.grid(False)
    axis.set_xlabel(plain(_words(panel, 0)), fontsize=SIZE - 1.5)
    axis.set_ylabel(plain(_words(panel, 1)), fontsize=SIZE - 1.5)
    if panel.meta.directions != "trajectory":  # its second component may be hundreds of times shorter
        axis.set_aspect("equal")


def shown(value: float) -> str:
    """Return a level as it is written."""
    return f"{value:g}"


def _words(panel: Landscape, place: int) -> str:
    """Return an axis title in two lines: what it runs along, and the unit."""
    axis = panel.meta.axes[place]
    return f"{axis.name}, {axis.label}\n({axis.unit})" if axis.label else axis.name


def _mark(axis: Axes, panel: Landscape) -> None:
    models = 0
    for anchor in panel.meta.anchors:
        models += anchor.role == "model"
        if not panel.inside(anchor) or anchor.role == "trajectory":
            continue
        axis.plot(*anchor.at, MARKS[anchor.role][0], color=RED, markeredgecolor="white", markersize=4, gid=anchor.role)
        if anchor.role == "model":
            axis.annotate(
                str(models),
                (anchor.at[0], anchor.at[1]),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=SIZE - 1.5,
            )
    path = [anchor.at for anchor in panel.meta.anchors if anchor.role == "trajectory" and panel.inside(anchor)]
    if path:
        axis.plot(*zip(*path, strict=True), ".-", color="#b04a00", markersize=3.5, linewidth=0.9, gid="trajectory")


def draw_space(axis: Axes3D, panel: Landscape, name: str, drawn: tuple[Scale, bool]) -> None:
    """Draw a surface; logarithmic heights are exponents with ticks of their own, because the 3-D axes know no such scale."""
    scale, log = drawn
    colours, norm = colours_of(scale, log)
    z = _heights(panel, name, scale, log)
    a, b = np.meshgrid(*panel.grid)
    height, paint = np.log10(z) if log else z, colours(norm(np.nan_to_num(z, nan=scale.high)))
    axis.plot_surface(
        a, b, height, facecolors=paint, rstride=1, cstride=1, linewidth=0.15, edgecolor="#1b243055", shade=False
    )
    low, high = (log10(scale.floor), log10(scale.high)) if log else (scale.low, scale.high)
    axis.set_zlim(low, high)
    levels = levels_of(scale, log)[:: max(1, len(levels_of(scale, log)) // 4)]
    axis.set_zticks([log10(level) for level in levels] if log else levels, labels=[shown(v) for v in levels])  # pyright: ignore[reportCallIssue, reportUnknownMemberType]
    axis.tick_params(labelsize=SIZE - 2.5, pad=-2)
    axis.locator_params(axis="x", nbins=4)
    axis.locator_params(axis="y", nbins=4)
    across, up = (one.name for one in panel.meta.axes)
    axis.set_xlabel(across, fontsize=SIZE - 1, labelpad=-6)
    axis.set_ylabel(up, fontsize=SIZE - 1, labelpad=-6)
    axis.set_zlabel(scale.unit, fontsize=SIZE - 1, labelpad=-8)
    axis.view_init(35, 45)


def colour_bar(figure: Figure, axes: Sequence[Axes], title: str, drawn: tuple[Scale, bool]) -> None:
    """Draw the colours of a scale beside axes, its levels as ticks."""
    from matplotlib.cm import ScalarMappable

    scale, log = drawn
    colours, norm = colours_of(scale, log)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), shrink=0.85, aspect=25, pad=0.02)
    levels = levels_of(scale, log)
    bar.set_ticks(levels, labels=[f"{level:g}" for level in levels])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=SIZE - 1.5, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)  # pyright: ignore[reportCallIssue, reportUnknownMemberType, reportAttributeAccessIssue]
    bar.set_label(title, fontsize=SIZE - 0.5)


def _titled(name: str, scale: Scale, length: int) -> str:
    """Return what a field is and its unit, in lines of at most `length` letters."""
    return "\n".join(wrap(f"{title_of(name)} ({scale.unit})" if scale.unit else title_of(name), length))


def _lines(panels: Sequence[Landscape], name: str, drawn: tuple[Scale, bool], width: float) -> Figure:
    scale, log = drawn
    figure = blank(width, 0.55 * width + 0.4)
    axis = figure.subplots()
    for place, panel in enumerate(panels):
        look = look_of(name, 0) if len(panels) == 1 else OTHERS[place % len(OTHERS)]
        points = [(a, v) for a, v in zip(panel.grid[0], panel.values(name)[0], strict=True) if v is not None]
        axis.plot(
            *zip(*points, strict=True),
            color=look.colour,
            linestyle=look.line if len(panels) == 1 else DASHES[place % len(DASHES)],
            marker=look.marker,
            markersize=2.2,
            linewidth=1.2,
            label=plain(panel.title),
        )
    axis.axvline(0, color=RED, linewidth=0.8, linestyle=":", zorder=1)
    dress(axis)
    if log:
        axis.set_yscale("log")
    titles = list(dict.fromkeys(panel.meta.axes[0].title for panel in panels))
    axis.set_xlabel(plain(titles[0] if len(titles) == 1 else "a, in units of each direction"), fontsize=SIZE)
    axis.set_ylabel(_titled(name, scale, 24), fontsize=SIZE)
    axis.legend(fontsize=SIZE - 1, frameon=False)
    return figure
