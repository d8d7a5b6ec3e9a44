"""Loss, error, attack success and input curvature along the paths between several pairs of models (Zhao et al. 2020, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from re import sub
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, get_args

from isthmus._check import require, unknown
from isthmus.association import associate_columns, decimals
from isthmus.plots.style import LOOKS, PAGE, SIZE, blank, bounded, dress, numbers, plain, unit_of
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = Literal["standard", "robust"]
LINES: dict[str, Literal["-", "--"]] = {"standard": "-", "robust": "--"}
ROWS = {
    "loss": ("test_loss", "robust_loss"),
    "error": ("test_error", "robust_error"),
    "attack success": ("evasion_success",),
    "largest input\neigenvalue": ("input_eigenvalue",),
}
LETTER = 0.62 * SIZE / 72  # inches, an average letter of the default face at full size
ROOMY = 1.7  # inches; a pair's column at least this wide holds both correlations on one line
DECADES = 20.0  # a row whose largest value is so many times its smallest gets a logarithmic axis


@dataclass(frozen=True)
class Panel:
    """A scan of one path: the `title` of its pair of models, the loss it was trained on, and its table with a column t.

    Panels with one title share a column of the figure. Drawn are test_loss, robust_loss, test_error, robust_error, evasion_success
    and input_eigenvalue, each with its bounds, as far as the table has them. Raises InputError for another kind of path, and for a
    table without t or without any of these.
    """

    title: str
    path: Path
    table: Table

    def __post_init__(self) -> None:
        if self.path not in get_args(Path):
            raise unknown("path", self.path, get_args(Path))
        require("t" in self.table.names, "table", "have a column 't'", ", ".join(self.table.names))
        known = [name for names in ROWS.values() for name in names]
        found = ", ".join(self.table.names)
        require(any(name in self.table.names for name in known), "table", f"have one of {', '.join(known)}", found)


def evasion_figure(panels: Sequence[Panel], *, width: float = PAGE) -> Figure:
    """Return the paths of several pairs side by side: loss, error, attack success and largest input eigenvalue along t.

    A column per pair, a row per quantity that any table has, one scale per row, logarithmic where its values span a factor of 20.
    Blue are the images themselves, orange with marks the attacked ones; full lines are paths trained on the standard loss, dashed ones
    paths trained on the robust loss. Bands are the bounds in the table: Wilson 95 % for rates, median to 90 % quantile over images
    for eigenvalues, the line being their mean. Each title has Pearson's correlation of robust loss and eigenvalue with its 95 %
    interval along the path, and Spearman's, of :func:`isthmus.association.associate_columns`; a dash where there is none.
    `width` is in inches. Raises InputError for no panels, and for a pair with two paths of one kind.
    """
    require(bool(panels), "panels", "hold at least one path", "none")
    keys = [(panel.title, panel.path) for panel in panels]
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    require(twice is None, "panels", "have each kind of path once for a pair", f"{twice} twice")
    pairs = list(dict.fromkeys(panel.title for panel in panels))
    rows = {
        row: names
        for row, names in ROWS.items()
        if any(name in panel.table.names for panel in panels for name in names)
    }
    each = (width - 0.7) / len(pairs)
    titles = [_title([panel for panel in panels if panel.title == pair], each) for pair in pairs]
    head = max(title.count("\n") + 1 for title in titles) * 1.3 * SIZE / 72
    figure = blank(width, min(1.1, max(0.85, 0.6 * each)) * len(rows) + head + 0.9)
    axes = figure.subplots(len(rows), len(pairs), sharex=True, sharey="row", squeeze=False)
    for line, (row, names) in zip(axes, rows.items(), strict=True):
        for axis, pair in zip(line, pairs, strict=True):
            for panel in panels:
                if panel.title == pair:
                    _draw(axis, panel, names)
            dress(axis)
        _scale(line[0], panels, names)
        units = list(dict.fromkeys(unit_of(p.table, name) for p in panels for name in names if name in p.table.names))
        require(len(units) == 1, "panels", f"share one unit of {' and '.join(names)}", ", ".join(units))
        apart = " " if each >= ROOMY and len(units[0]) <= 3 else "\n"
        unit = f"{apart}({units[0]})" if units[0] else ""
        line[0].set_ylabel(row + unit, fontsize=SIZE - 1)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=SIZE - 1, linespacing=1.15)
    for axis in axes[-1]:
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_xlabel("position along the path, $t$" if each >= ROOMY else "position, $t$", fontsize=SIZE - 1)
    figure.align_ylabels(list(axes[:, 0]))
    _legend(figure, panels, rows, width)
    return figure


def _title(panels: Sequence[Panel], width: float) -> str:
    """Return the pair's name and the correlations on each of its paths, in lines that `width` inches hold."""
    # `wrap` breaks a line after a hyphen but not after a dash.
    apart = sub(r"–(?=\S)", "–\x1f ", panels[0].title)
    lines = wrap(apart, max(8, int(width / LETTER)), break_long_words=False) or [""]
    lines = [line.replace("\x1f ", "").replace("\x1f", "") for line in lines]
    for panel in panels:
        if "robust_loss" not in panel.table.names or "input_eigenvalue" not in panel.table.names:
            continue
        found = associate_columns(panel.table, "robust_loss", "input_eigenvalue")
        lines.append(f"{panel.path} path:")
        if found is None:
            lines.append("no correlation")
            continue
        pearson, spearman = f"r = {found.pearson}", f"ρ = {decimals(found.spearman.value)}"
        said = f"{pearson}, {spearman}" if width >= ROOMY else "\n".join((pearson.replace(" (", "\n("), spearman))
        lines.append(said.replace("-", "−"))
    return plain("\n".join(lines))


def _draw(axis: Axes, panel: Panel, names: Sequence[str]) -> None:
    for name in names:
        if name not in panel.table.names:
            continue
        ts = numbers(panel.table, "t")
        held = sorted(
            (t, *values)
            for t, values in zip(ts, bounded(panel.table, name), strict=True)
            if t is not None and values is not None
        )
        if not held:
            continue
        t, values, lows, highs = zip(*held, strict=True)
        look = LOOKS[name]
        axis.fill_between(t, lows, highs, color=look.colour, alpha=0.12, linewidth=0)
        if name == "input_eigenvalue" and (lows, highs) != (values, values):
            for edge in (lows, highs):  # in the path's line style: wide bands of one colour blur where they overlap
                axis.plot(t, edge, color=look.colour, linestyle=LINES[panel.path], linewidth=0.4, alpha=0.7)
        axis.plot(
            t,
            values,
            color=look.colour,
            linestyle=LINES[panel.path],
            marker=None if name in ("test_loss", "test_error") else look.marker,
            markevery=max(1, len(t) // 6),
            markersize=2.2,
            linewidth=1.2,
            gid=f"{name}, {panel.path} path",
        )


def _scale(axis: Axes, panels: Sequence[Panel], names: Sequence[str]) -> None:
    """Set the scale of a row of panels: 0 to 100 for rates, logarithmic for values over decades, else from zero."""
    tables = [(panel.table, name) for panel in panels for name in names if name in panel.table.names]
    values = [row for table, name in tables for row in bounded(table, name) if row is not None]
    if not values:
        return
    if unit_of(*tables[0]) == "%":
        axis.set_ylim(-4, 104)
        return
    low, high = min(value for value, _, _ in values), max(max(row) for row in values)
    if low > 0 and high / low >= DECADES:
        axis.set_yscale("log")
        # A quantile near zero would take decades of the axis: the band may leave it below, the means may not.
        axis.set_ylim(low / 1.6, high * 1.6)
    elif low >= 0:
        axis.set_ylim(-0.04 * high, 1.06 * high if high > 0 else 1.0)


def _legend(figure: Figure, panels: Sequence[Panel], rows: dict[str, tuple[str, ...]], width: float) -> None:
    from matplotlib.lines import Line2D

    drawn = [name for names in rows.values() for name in names]
    kinds = [
        ("test images", "test_loss", None),
        ("attacked", "robust_loss", "D"),
        ("eigenvalue, mean", "input_eigenvalue", "s"),
    ]
    of = {"test_loss": {"test_loss", "test_error"}, "robust_loss": {"robust_loss", "robust_error", "evasion_success"}}
    handles = [
        Line2D([], [], color=LOOKS[name].colour, marker=marker, markersize=2.2, linewidth=1.2, label=label)
        for label, name, marker in kinds
        if of.get(name, {name}) & set(drawn)
    ]
    for path in get_args(Path):
        if any(panel.path == path for panel in panels):
            handles.append(Line2D([], [], color="#444444", linestyle=LINES[path], linewidth=1.2, label=f"{path} path"))
    figure.legend(
        handles=handles,
        fontsize=SIZE - 1,
        frameon=False,
        ncols=len(handles) if width >= 5 else 2,
        loc="outside lower center",
        handlelength=2.4,
        columnspacing=1.2,
    )
