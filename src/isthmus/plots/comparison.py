"""Models beside each other, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus._check import require
from isthmus.plots.style import COLUMN, LOOKS, SIZE, blank, bounded, dress, plain
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison_figure(table: Table, *, width: float = COLUMN) -> Figure:
    """Return one row per model of `table` (column `name`) with a dot and its interval for accuracy, attack success and recovery.

    The table is that of :func:`isthmus.report.comparison_table`: measures in %, `NAME_low` and `NAME_high` as bounds, and a column
    `role` whose value `repaired` is highlighted. Missing values are left out. Raises InputError where a column is missing.
    """
    for name in ("name", "role", "clean_accuracy"):
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    names, roles = [str(value) for value in table.values("name")], table.values("role")
    measures = [name for name in ("clean_accuracy", "recovery_accuracy", "attack_success") if name in table.names]
    figure = blank(width, 0.3 * len(names) + 0.8)
    axis = figure.subplots()
    for place, measure in enumerate(measures):
        shift = 0.18 * (place - (len(measures) - 1) / 2)
        look = LOOKS[measure]
        points = [(row + shift, *held) for row, held in enumerate(bounded(table, measure)) if held is not None]
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
    dress(axis)
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
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
