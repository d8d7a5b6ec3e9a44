"""What was measured along one path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isthmus._check import InputError, require
from isthmus.plots.style import COLUMN, SIZE, Look, blank, bounded, dress, look_of, numbers, plain, unit_of
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def path_figure(
    table: Table,
    *,
    panels: Sequence[Sequence[str]] | None = None,
    chosen: float | None = None,
    ends: tuple[str, str] | None = None,
    width: float = COLUMN,
) -> Figure:
    """Return columns of `table` against its column t, one panel above the other, with bands from `NAME_low` to `NAME_high`.

    `panels` names the columns of each panel; without it there is one each for losses, errors, the success of adversarial examples,
    the largest input eigenvalue (band: median to 90 % quantile over images), and for attack success and recovery accuracy, only
    where the table has them. `chosen` draws a vertical line at that t, `ends` names the models at the
    smallest and the largest t, `width` is in inches. Raises InputError for a table without t and for an unknown column.
    """
    require("t" in table.names, "table", "have a column 't'", ", ".join(table.names))
    shown = [list(panel) for panel in panels] if panels is not None else _default_panels(table)
    require(any(shown), "table", "have a column of loss, error or attack success", ", ".join(table.names))
    figure = blank(width, 0.55 * width * len(shown) + 0.35)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, names in zip(axes, shown, strict=True):
        for place, name in enumerate(names):
            _draw_line(axis, table, name, look_of(name, place))
        units = list(dict.fromkeys(unit_of(table, name) for name in names))
        require(len(units) == 1, "panels", "share one unit in each panel", ", ".join(units))
        dress(axis)
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


def _default_panels(table: Table) -> list[list[str]]:
    groups = (
        [name for name in table.names if name.endswith("_loss")],
        [name for name in table.names if name.endswith("_error")],
        *([name] for name in ("evasion_success", "input_eigenvalue") if name in table.names),
        [name for name in ("attack_success", "recovery_accuracy") if name in table.names],
    )
    return [group for group in groups if group]


def _panel_title(names: Sequence[str], unit: str) -> str:
    ends = list(dict.fromkeys(name.rpartition("_")[2] for name in names))
    if set(names) <= {"attack_success", "recovery_accuracy"}:
        title = "triggered images"
    else:
        title = plain(names[0].replace("_", " ")) if len(names) == 1 else plain(ends[0]) if len(ends) == 1 else ""
    return f"{title} ({unit})".strip() if unit else title


def _draw_line(axis: Axes, table: Table, name: str, look: Look) -> None:
    ts = numbers(table, "t")
    held = sorted(
        (t, *values) for t, values in zip(ts, bounded(table, name), strict=True) if t is not None and values is not None
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


def _name_ends(axis: Axes, table: Table, ends: tuple[str, str]) -> None:
    """Name the models under the tick labels of the smallest and the largest t."""
    known = [t for t in numbers(table, "t") if t is not None]
    for t, name, side in ((min(known), ends[0], "left"), (max(known), ends[1], "right")):
        axis.annotate(
            plain(name if len(name) <= 22 else f"{name[:11]}…{name[-10:]}"),
            (t, 0),
            (0, -2.0 * SIZE),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            va="top",
            fontsize=SIZE - 1,
            color="#444444",
        )
