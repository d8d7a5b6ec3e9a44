"""The adversarial loss of one point in one dimension, and the jump of its derivative (Liu et al. 2020, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus._check import require
from isthmus.plots.style import OTHERS, PAGE, SIZE, blank, dress, numbers
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDED = ("eps", "theta", "loss", "left", "right")


def sketch_figure(table: Table, *, width: float = PAGE) -> Figure:
    """Return two panels: the loss and its derivative against theta, a line for each budget, the jump at theta = 0 marked.

    table: columns eps, theta, loss (nat), left and right (the derivatives from either side), with a row at theta = 0 for each of up to
    three budgets. `width` is in inches. Raises InputError for a missing column or value, a budget without theta = 0, and more budgets.
    """
    for name in NEEDED:
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    columns = [numbers(table, name) for name in NEEDED]
    rows = sorted(tuple(value for value in row if value is not None) for row in zip(*columns, strict=True))
    require(all(len(row) == len(NEEDED) for row in rows), "table", "have no missing values", "some")
    budgets = sorted({row[0] for row in rows})
    require(1 <= len(budgets) <= len(OTHERS), "table", f"hold 1 to {len(OTHERS)} budgets", len(budgets))
    figure = blank(width, 0.38 * width)
    loss, slope = figure.subplots(1, 2)
    for look, eps in zip(OTHERS, budgets, strict=False):
        held = [row[1:] for row in rows if row[0] == eps]
        theta = [row[0] for row in held]
        require(0.0 in theta, "table", f"have a row at theta = 0 for eps {eps:g}", "none")
        label, at = f"$\\epsilon$ = {eps:g}", theta.index(0.0)
        style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.2}
        loss.plot(theta, [row[1] for row in held], label=label, **style)
        slope.plot(theta[: at + 1], [row[2] for row in held[: at + 1]], **style)
        slope.plot(theta[at:], [row[3] for row in held[at:]], **style)
        if held[at][2] != held[at][3]:
            ends = [held[at][2], held[at][3]]
            slope.plot([0, 0], ends, color=look.colour, linestyle="", marker="o", markersize=3, gid=f"jump {eps:g}")
    for axis, title in ((loss, "adversarial loss (nat)"), (slope, "its derivative (nat)")):
        dress(axis)
        axis.set_xlabel("weight, $\\theta$", fontsize=SIZE)
        axis.set_ylabel(title, fontsize=SIZE)
    slope.axhline(0, color="#444444", linewidth=0.6)
    loss.legend(fontsize=SIZE - 1, frameon=False)
    return figure
