"""The loss landscape against the adversary's budget: eigenvalues, similarity of perturbations, barriers (Liu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from isthmus._check import require
from isthmus.plots.style import COLUMN, PAGE, SIZE, Look, blank, dress, numbers, plain
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECADES = 20.0  # values that span such a factor get a logarithmic axis
Point = tuple[float, float, float]
"""Where, a mean, and its standard deviation over seeds."""

# Colours of Okabe and Ito 2008; line styles and markers differ too.
SPECTRUM = {
    "eigenvalue_1": Look("eigenvalue 1", "#d55e00", "-", "D"),
    "eigenvalue_5": Look("eigenvalue 5", "#e69f00", "--", "s"),
    "eigenvalue_20": Look("eigenvalue 20", "#009e73", "-.", "^"),
    "true_curvature": Look("along eigenvector 1,\nexamples crafted anew", "#0072b2", ":", "o"),
}
BARRIERS = {"curve": Look("Bezier curve", "#0072b2", "-", "o"), "line": Look("straight line", "#d55e00", "--", "D")}
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#000000")
KINDS: dict[str, tuple[Literal["-", "--"], str]] = {"eigenvector": ("-", "D"), "random": ("--", "o")}


def eigenvalue_figure(table: Table, *, width: float = PAGE) -> Figure:
    """Return the top eigenvalues of the loss against the budget of training, a panel for each data set.

    `table` is `Curvature by budget` of the study: columns data, eps, and eigenvalue_1, eigenvalue_5, eigenvalue_20, true_curvature as far
    as they are there, means over seeds, with their `_sd` as bars. An axis is logarithmic where its values span a factor of 20 and all
    are above 0. Raises InputError for a table without rows or without these columns.
    """
    sets = _sets(table, ("data", "eps", "eigenvalue_1"))
    names = [name for name in SPECTRUM if name in table.names]
    figure, axes = _panels(sets, width, 2.3)
    for axis, data in zip(axes, sets, strict=True):
        lines = {name: _points(table, "eps", name, {"data": data}) for name in names}
        for name, points in lines.items():
            _draw(axis, points, SPECTRUM[name], name)
        _budget_axis(axis, data)
        _log_where_wide(axis, [p for points in lines.values() for p in points])
    axes[0].set_ylabel("curvature (nat/weight²)", fontsize=SIZE)
    _legend(figure, axes)
    return figure


def similarity_figure(tables: dict[str, Table], *, width: float = PAGE) -> Figure:
    """Return the cosine of perturbations at theta + a v and theta - a v against a, a panel for each data set, a colour for each budget.

    `tables`: data set -> `Similarity of perturbations` of the study, with columns eps, direction, amount, cosine. Full lines are along the
    top eigenvector, dashed ones along random directions; both begin at the floor, a = 0. The paper's numbers are hollow marks without a
    line. Raises InputError for no tables, and for one without rows or these columns.
    """
    require(bool(tables), "tables", "hold at least one data set", "none")
    held = {data: table for data, table in tables.items() if _budgets(table)}
    require(bool(held), "tables", "have rows", "none")
    figure, axes = _panels(list(held), width, 2.5)
    for axis, (data, table) in zip(axes, held.items(), strict=True):
        for place, eps in enumerate(_budgets(table)):
            _draw_budget(axis, table, eps, COLOURS[place % len(COLOURS)])
        axis.set_title(plain(data), fontsize=SIZE)
        _amount_axis(axis, table)
        axis.set_ylim(-0.04, 1.04)
        axis.set_xlabel("distance from θ, $a$", fontsize=SIZE)
        axis.legend(fontsize=SIZE - 2, frameon=False, title="budget", title_fontsize=SIZE - 2, loc="lower left")
    axes[0].set_ylabel("cosine of perturbations", fontsize=SIZE)
    _kinds_legend(figure, any("paper_cosine" in table.names for table in held.values()))
    return figure


def barrier_figure(table: Table, *, width: float = PAGE) -> Figure:
    """Return the rise of robust loss (top) and robust error (bottom) between minima of one budget against it, a column for each data set.

    `table` is `Barriers between minima of one budget` of the study: columns data, eps, and curve_loss, curve_error, line_loss, line_error
    as far as they are there, means over pairs, with their `_sd` as bars. Raises InputError as :func:`eigenvalue_figure`.
    """
    sets = _sets(table, ("data", "eps", "curve_loss"))
    figure = blank(width, 3.4)
    axes = figure.subplots(2, len(sets), sharex="col", squeeze=False)
    for line, (what, label) in zip(axes, (("loss", "barrier (nat)"), ("error", "barrier (%)")), strict=True):
        for axis, data in zip(line, sets, strict=True):
            for kind, look in BARRIERS.items():
                name = f"{kind}_{what}"
                if name in table.names:
                    _draw(axis, _points(table, "eps", name, {"data": data}), look, name)
            axis.axhline(0, color="#888888", linewidth=0.6)
            dress(axis)
        line[0].set_ylabel(f"robust {what}\n{label}", fontsize=SIZE)
    for axis, data in zip(axes[0], sets, strict=True):
        axis.set_title(plain(data), fontsize=SIZE)
    for axis in axes[-1]:
        axis.set_xlabel("budget, ε", fontsize=SIZE)
    figure.align_ylabels(list(axes[:, 0]))
    _legend(figure, list(axes[0]))
    return figure


def _sets(table: Table, needed: Sequence[str]) -> list[str]:
    for name in needed:
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    sets = [str(value) for value in dict.fromkeys(table.values("data"))]
    require(bool(sets), "table", "have rows", "none")
    return sets


def _budgets(table: Table) -> list[float]:
    for name in ("eps", "direction", "amount", "cosine"):
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    return sorted({eps for eps in numbers(table, "eps") if eps is not None})


def _panels(sets: Sequence[str], width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = blank(width if len(sets) > 1 else min(width, COLUMN), height)
    axes = list(figure.subplots(1, len(sets), squeeze=False)[0])
    for axis in axes:
        dress(axis)
    return figure, axes


def _points(table: Table, at: str, name: str, where: dict[str, str | float]) -> list[Point]:
    """Return the points of a line, in order: rows that agree with `where` and have a value."""
    spread = numbers(table, f"{name}_sd") if f"{name}_sd" in table.names else [None] * len(table)
    held = zip(table.rows(), numbers(table, at), numbers(table, name), spread, strict=True)
    found = [
        (x, value, deviation or 0.0)
        for row, x, value, deviation in held
        if x is not None and value is not None and all(row[key] == wanted for key, wanted in where.items())
    ]
    return sorted(found)


def _draw(axis: Axes, points: Sequence[Point], look: Look, gid: str) -> None:
    if not points:
        return
    x, values, spread = zip(*points, strict=True)
    drawn = axis.errorbar(
        x,
        values,
        yerr=spread,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        label=look.title,
        markersize=3,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
    )
    drawn.lines[0].set_gid(gid)


def _draw_budget(axis: Axes, table: Table, eps: float, colour: str) -> None:
    floor = _points(table, "amount", "cosine", {"eps": eps, "amount": 0.0})
    for kind, (line, marker) in KINDS.items():
        where: dict[str, str | float] = {"eps": eps, "direction": kind}
        points = sorted({*floor[:1], *_points(table, "amount", "cosine", where)})
        label = budget_text(eps) if kind == "eigenvector" else "_"
        _draw(axis, points, Look(label, colour, line, marker), f"{kind}, {eps:.4g}")
        if "paper_cosine" in table.names:
            theirs = _points(table, "amount", "paper_cosine", where)
            axis.plot(
                [x for x, _, _ in theirs],
                [y for _, y, _ in theirs],
                linestyle="",
                marker=marker,
                markersize=4,
                markerfacecolor="none",
                markeredgecolor=colour,
                markeredgewidth=0.6,
                gid=f"paper, {kind}, {eps:.4g}",
            )


def _amount_axis(axis: Axes, table: Table) -> None:
    """Set a logarithmic scale that has a place for 0; the first and the last amount are named, the others marked."""
    amounts = sorted({a for a in numbers(table, "amount") if a}) or [1.0]
    axis.set_xscale("symlog", linthresh=amounts[0])
    axis.set_xlim(left=-0.15 * amounts[0])
    named = list(dict.fromkeys([0.0, amounts[0], amounts[-1]]))
    axis.set_xticks(named, [f"{a:g}" for a in named])
    axis.set_xticks(amounts[1:-1], minor=True)


def budget_text(eps: float) -> str:
    """Return a small budget of whole steps of a byte as such, another as a number.

    >>> budget_text(8 / 255), budget_text(0.3), budget_text(0.0)
    ('8/255', '0.3', '0')
    """
    steps = 255 * eps
    return f"{steps:.0f}/255" if 0 < eps < 0.1 and abs(steps - round(steps)) < 1e-6 else f"{eps:.3g}"


def _budget_axis(axis: Axes, data: str) -> None:
    axis.set_title(plain(data), fontsize=SIZE)
    axis.set_xlabel("budget, ε", fontsize=SIZE)


def _log_where_wide(axis: Axes, points: Sequence[Point]) -> None:
    values = [value for _, value, _ in points]
    if values and min(values) > 0 and max(values) / min(values) >= DECADES:
        axis.set_yscale("log")


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(found.values()),
        list(found),
        fontsize=SIZE - 1,
        frameon=False,
        ncols=min(len(found), 4) if figure.get_figwidth() >= 5 else 2,
        loc="outside lower center",
        columnspacing=1.2,
    )


def _kinds_legend(figure: Figure, paper: bool) -> None:
    from matplotlib.lines import Line2D

    grey = "#444444"
    titles = {"eigenvector": "top eigenvector", "random": "random direction"}
    handles = [
        Line2D([], [], color=grey, linestyle=line, marker=marker, markersize=3, linewidth=1.2, label=titles[kind])
        for kind, (line, marker) in KINDS.items()
    ]
    if paper:
        hollow = Line2D([], [], linestyle="", marker="D", markersize=4, label="the paper's", color=grey)
        hollow.set_markerfacecolor("none")
        hollow.set_markeredgewidth(0.6)
        handles.append(hollow)
    wide = figure.get_figwidth() >= 5
    figure.legend(handles=handles, fontsize=SIZE - 1, frameon=False, ncols=3 if wide else 2, loc="outside lower center")
