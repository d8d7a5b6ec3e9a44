"""Accuracy against attack success, remedy by remedy, at each budget of clean samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from isthmus._check import require
from isthmus.plots.style import PAGE, SIZE, Look, blank, dress, key_of, keys_across, marked, numbers, plain
from isthmus.report.frontier_figure import undominated
from isthmus.table import Cell, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

X, Y = "attack_success", "clean_accuracy"
ACROSS, NARROW = 3, 2  # panels side by side, and in a figure of one column
TICKS = (0, 1, 5, 20, 50, 100)

Point = tuple[str, float, float, float, float]  # remedy, attack success, accuracy, and the spread of each


def frontier_figure(table: Table, *, width: float = PAGE, emphasis: str | None = None) -> Figure:
    """Return one panel per budget with accuracy (%) over attack success (%), a point per remedy, bars of one standard deviation.

    table: columns `remedy`, `budget` (text or number), `clean_accuracy`, `attack_success` (means, %), and where known their deviations
    `clean_accuracy_sd`, `attack_success_sd`; rows without either mean are left out. The stepped line joins the remedies beside which no
    other is at least as good in both. emphasis: the remedy that is drawn larger. width: in inches.
    The scale of attack success is a square root. Raises InputError where a column is missing, nothing can be drawn, or `emphasis` is no
    remedy of the table.
    """
    for name in ("remedy", "budget", X, Y):
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    panels = _panels(table)
    require(bool(panels), "table", "have a row with both means", f"{len(table)} rows without")
    remedies = list(dict.fromkeys(point[0] for points in panels.values() for point in points))
    known = emphasis is None or emphasis in remedies
    require(known, "emphasis", f"be one of {', '.join(remedies)}", repr(emphasis))
    looks = {remedy: marked(place, remedy) for place, remedy in enumerate(remedies)}
    across = min(ACROSS if width >= 5 else NARROW, len(panels))
    down = -(-len(panels) // across)
    figure = blank(width, 2.3 * down + 0.2 * -(-len(remedies) // keys_across(width)))
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    low, high = _ends([point for points in panels.values() for point in points])
    for place, (axis, (budget, points)) in enumerate(zip(axes, panels.items(), strict=False)):
        _panel(axis, points, looks, emphasis)
        axis.set_title(plain(str(budget)), fontsize=SIZE)
        axis.set_ylim(low, high)
        if place % across == 0:
            axis.set_ylabel("accuracy (%)", fontsize=SIZE)
        if place + across >= len(panels):
            axis.set_xlabel("attack success (%)", fontsize=SIZE)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    key_of(figure, list(looks.values()), width)
    return figure


def _panels(table: Table) -> dict[Cell, list[Point]]:
    spreads = [numbers(table, f"{name}_sd") if f"{name}_sd" in table.names else [None] * len(table) for name in (X, Y)]
    rows = zip(
        table.values("budget"), table.values("remedy"), numbers(table, X), numbers(table, Y), *spreads, strict=True
    )
    panels: dict[Cell, list[Point]] = {}
    for budget, remedy, attack, accuracy, attack_sd, accuracy_sd in rows:
        if attack is not None and accuracy is not None:
            point = (str(remedy), attack, accuracy, attack_sd or 0.0, accuracy_sd or 0.0)
            panels.setdefault(budget, []).append(point)
    return panels


def _panel(axis: Axes, points: Sequence[Point], looks: dict[str, Look], emphasis: str | None) -> None:
    front = [points[i][1:3] for i in undominated([point[1:3] for point in points])]
    x, y = [attack for attack, _ in front], [accuracy for _, accuracy in front]
    axis.plot([*x, 104.0], [*y, y[-1]], drawstyle="steps-post", color="#999999", linewidth=0.8, linestyle=":", zorder=1)
    for remedy, attack, accuracy, attack_sd, accuracy_sd in points:
        look = looks[remedy]
        drawn = axis.errorbar(
            [attack],
            [accuracy],
            xerr=[attack_sd],
            yerr=[accuracy_sd],
            fmt=look.marker,
            color=look.colour,
            markersize=6 if remedy == emphasis else 3.5,
            elinewidth=0.8,
            capsize=1.5,
            zorder=3 if remedy == emphasis else 2,
        )
        drawn.lines[0].set_gid(remedy)
        for part in (*drawn.lines[1], *drawn.lines[2]):  # spreads of ten remedies cover the points of all otherwise
            part.set_alpha(1.0 if remedy == emphasis else 0.4)
    dress(axis)
    # Most remedies stand below 5 %: a square-root scale keeps them apart. Of negative ends of bars the root is taken as of positive ones.
    axis.set_xscale("function", functions=(_root, _square))
    axis.set_xlim(-0.3, 104)
    axis.set_xticks(TICKS, [str(tick) for tick in TICKS])


def _root(x: Values) -> Values:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: Values) -> Values:
    return np.sign(x) * x**2


def _ends(points: Sequence[Point]) -> tuple[float, float]:
    """Return the range of the accuracies with their bars, and some room."""
    ends = [accuracy + side * spread for (_, _, accuracy, _, spread), side in product(points, (-1, 1))]
    pad = 0.06 * (max(ends) - min(ends)) + 1
    return min(ends) - pad, max(ends) + pad
