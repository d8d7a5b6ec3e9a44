"""Figures for papers, drawn with matplotlib from tables alone. No global setting of matplotlib is touched and no window opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus._check import InputError, require, unknown
from isthmus.files import atomic
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches, one column of a two-column paper
SIZE = 8.0  # points
FORMATS = ("pdf", "png", "svg")
UNITS = {"1": ""}


@dataclass(frozen=True)
class Look:
    """How a column is drawn. Line style and marker differ as well as colour, so a grey print can be read too."""

    title: str
    colour: str
    line: str
    marker: str


# Colours of Okabe and Ito 2008, told apart by colour-blind readers.
LOOKS = {
    "validation_loss": Look("loss, validation", "#56b4e9", ":", "v"),
    "train_loss": Look("loss, training", "#999999", "-.", "^"),
    "test_loss": Look("loss, test", "#0072b2", "-", "o"),
    "validation_error": Look("error, validation", "#56b4e9", ":", "v"),
    "train_error": Look("error, training", "#999999", "-.", "^"),
    "test_error": Look("error, test", "#0072b2", "-", "o"),
    "attack_success": Look("attack success", "#d55e00", "--", "D"),
    "recovery_accuracy": Look("recovery accuracy", "#cc79a7", "-.", "s"),
    "clean_accuracy": Look("accuracy", "#0072b2", "-", "o"),
}
OTHERS = tuple(Look("", colour, line, "o") for colour, line in (("#009e73", "-"), ("#e69f00", "--"), ("#000000", ":")))
PANELS = ("loss", "error", "success")


def path_figure(
    table: Table,
    *,
    panels: Sequence[Sequence[str]] | None = None,
    chosen: float | None = None,
    ends: tuple[str, str] | None = None,
    width: float = COLUMN,
) -> Figure:
    """Return columns of `table` against its column t, one panel above the other, with bands from `NAME_low` to `NAME_high`.

    `panels` names the columns of each panel; without it there is one for losses, one for errors and one for attack success and
    recovery accuracy, each only where the table has them. `chosen` draws a vertical line at that t, `ends` names the models at the
    smallest and the largest t, `width` is in inches. Raises InputError for a table without t and for an unknown column.
    """
    require("t" in table.names, "table", "have a column 't'", ", ".join(table.names))
    shown = [list(panel) for panel in panels] if panels is not None else _default_panels(table)
    require(any(shown), "table", "have a column of loss, error or attack success", ", ".join(table.names))
    figure = _figure(width, 0.55 * width * len(shown) + 0.35)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, names in zip(axes, shown, strict=True):
        for place, name in enumerate(names):
            _draw_line(axis, table, name, _look(name, place))
        units = list(dict.fromkeys(_unit(table, name) for name in names))
        require(len(units) == 1, "panels", "share one unit in each panel", ", ".join(units))
        _dress(axis)
        axis.set_ylabel(_panel_title(names, units[0]), fontsize=SIZE)
        if chosen is not None:
            axis.axvline(chosen, color="#009e73", linewidth=1.2, zorder=1)
        if units[0] == "%":
            axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # a marker at zero is seen whole
        axis.legend(
            fontsize=SIZE - 1, frameon=False, handlelength=2.4, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0)
        )
    axes[-1].set_xlabel("position along the path, $t$", fontsize=SIZE, labelpad=4 if ends is None else 4 + SIZE)
    if ends is not None:
        _name_ends(axes[-1], table, ends)
    return figure


def comparison_figure(table: Table, *, width: float = COLUMN) -> Figure:
    """Return one row per model of `table` (column `name`) with a dot and its interval for accuracy, attack success and recovery.

    The table is that of :func:`isthmus.report.comparison_table`: measures in %, `NAME_low` and `NAME_high` as bounds, and a column
    `role` whose value `repaired` is highlighted. Missing values are left out. Raises InputError where a column is missing.
    """
    for name in ("name", "role", "clean_accuracy"):
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    names, roles = [str(value) for value in table.values("name")], table.values("role")
    measures = [name for name in ("clean_accuracy", "recovery_accuracy", "attack_success") if name in table.names]
    figure = _figure(width, 0.3 * len(names) + 0.8)
    axis = figure.subplots()
    for place, measure in enumerate(measures):
        shift = 0.18 * (place - (len(measures) - 1) / 2)
        look = LOOKS[measure]
        points = [(row + shift, *held) for row, held in enumerate(_bounded(table, measure)) if held is not None]
        rows, values, lows, highs = zip(*points, strict=True) if points else ((), (), (), ())
        arms = [
            [v - low for v, low in zip(values, lows, strict=True)],
            [high - v for v, high in zip(values, highs, strict=True)],
        ]
        axis.errorbar(
            values,
            rows,
            xerr=arms,
            fmt=look.marker,
            color=look.colour,
            label=look.title,
            markersize=3,
            elinewidth=1,
            capsize=2,
        )
    for row, role in enumerate(roles):
        if role == "repaired":
            axis.axhspan(row - 0.45, row + 0.45, color="#009e73", alpha=0.12, linewidth=0)
    _dress(axis)
    axis.set_yticks(range(len(names)), [_plain(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    axis.set_xlabel("share of test images (%)", fontsize=SIZE)
    figure.legend(
        fontsize=SIZE - 1,
        frameon=False,
        ncols=len(measures),
        loc="outside upper center",
        handletextpad=0.2,
        columnspacing=1,
    )
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PDF, PNG (300 dots per inch) or SVG, by the suffix of `path`, atomically; the same figure gives the same bytes."""
    import matplotlib

    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise unknown("path", suffix, FORMATS)
    # Type 42 fonts: publishers refuse matplotlib's default. A fixed salt and no date: a figure drawn again is the same file.
    undated: Mapping[str, None] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "isthmus"}), atomic(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=300, metadata=dict(undated))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    require(isfinite(width) and width > 0, "width", "be a positive number of inches", width)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _default_panels(table: Table) -> list[list[str]]:
    groups = (
        [name for name in table.names if name.endswith("_loss")],
        [name for name in table.names if name.endswith("_error")],
        [name for name in ("attack_success", "recovery_accuracy") if name in table.names],
    )
    return [group for group in groups if group]


def _look(name: str, place: int) -> Look:
    if name in LOOKS:
        return LOOKS[name]
    other = OTHERS[place % len(OTHERS)]
    return Look(_plain(name.replace("_", " ")), other.colour, other.line, other.marker)


def _unit(table: Table, name: str) -> str:
    unit = table.column(name).unit
    return UNITS.get(unit, unit)


def _panel_title(names: Sequence[str], unit: str) -> str:
    ends = list(dict.fromkeys(name.rpartition("_")[2] for name in names))
    if set(names) <= {"attack_success", "recovery_accuracy"}:
        title = "triggered images"
    else:
        title = _plain(names[0].replace("_", " ")) if len(names) == 1 else _plain(ends[0]) if len(ends) == 1 else ""
    return f"{title} ({unit})".strip() if unit else title


def _draw_line(axis: Axes, table: Table, name: str, look: Look) -> None:
    ts = _numbers(table, "t")
    held = sorted(
        (t, *values)
        for t, values in zip(ts, _bounded(table, name), strict=True)
        if t is not None and values is not None
    )
    if not held:
        raise InputError(f"`table` should have numbers in column {name!r}. Found none.")
    t, values, lows, highs = zip(*held, strict=True)
    axis.fill_between(t, lows, highs, color=look.colour, alpha=0.2, linewidth=0)
    axis.plot(
        t,
        values,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=2.2,
        linewidth=1.3,
        label=look.title,
    )


def _numbers(table: Table, name: str) -> list[float | None]:
    values: list[float | None] = []
    for value in table.values(name):
        if isinstance(value, str):
            raise InputError(f"`table` should have numbers in column {name!r}. Found {value!r}.")
        values.append(None if value is None or not isfinite(value) else float(value))
    return values


def _bounded(table: Table, name: str) -> list[tuple[float, float, float] | None]:
    """Return (value, low, high) per row, the value itself where there are no bounds."""
    values = _numbers(table, name)
    lows, highs = (
        _numbers(table, other) if other in table.names else values for other in (f"{name}_low", f"{name}_high")
    )
    return [
        None if value is None else (value, value if low is None else low, value if high is None else high)
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def _name_ends(axis: Axes, table: Table, ends: tuple[str, str]) -> None:
    """Name the models under the tick labels of the smallest and the largest t."""
    known = [t for t in _numbers(table, "t") if t is not None]
    for t, name, side in ((min(known), ends[0], "left"), (max(known), ends[1], "right")):
        axis.annotate(
            _plain(name if len(name) <= 22 else f"{name[:11]}…{name[-10:]}"),
            (t, 0),
            (0, -2.0 * SIZE),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            va="top",
            fontsize=SIZE - 1,
            color="#444444",
        )


def _plain(text: str) -> str:
    """Return text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _dress(axis: Axes) -> None:
    axis.tick_params(labelsize=SIZE - 1, width=0.6, length=2.5)
    axis.grid(True, color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_linewidth(0.6)
