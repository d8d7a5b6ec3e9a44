"""What a remedy removes of the real tampering against what it removes of planted ones, repair by repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus._check import require
from isthmus.plots.style import COLUMN, SIZE, blank, bounded, dress, key_of, keys_across, marked
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

X, Y = "estimate", "removed"


def removal_figure(table: Table, *, width: float = COLUMN) -> Figure:
    """Return the share removed of the real tampering (%) over that of planted ones (%), a point per repair, bars from low to high.

    table: columns `remedy`, `estimate`, `removed`, and where known their bounds `NAME_low`, `NAME_high`; rows without either are left out.
    On the dotted line both are equal: a repair is foretold where its horizontal bar meets it. width: in inches.
    Raises InputError where a column is missing and where nothing can be drawn.
    """
    for name in ("remedy", X, Y):
        require(name in table.names, "table", f"have a column {name!r}", ", ".join(table.names))
    held = [
        (str(remedy), x, y)
        for remedy, x, y in zip(table.values("remedy"), bounded(table, X), bounded(table, Y), strict=True)
        if x is not None and y is not None
    ]
    require(bool(held), "table", "have a row with both shares", f"{len(table)} rows without")
    remedies = list(dict.fromkeys(remedy for remedy, _, _ in held))
    figure = blank(width, 0.9 * width + 0.2 * -(-len(remedies) // keys_across(width)))
    axis = figure.subplots()
    ends = [value for _, x, y in held for value in (*x, *y)]
    low, high = min(0.0, *ends), max(100.0, *ends)
    pad = 0.04 * (high - low)
    axis.axline((0, 0), slope=1, color="#999999", linewidth=0.8, linestyle=":", zorder=1)
    looks = [marked(place, remedy) for place, remedy in enumerate(remedies)]
    for remedy, look in zip(remedies, looks, strict=True):
        own = [(x, y) for name, x, y in held if name == remedy]
        drawn = axis.errorbar(
            [x[0] for x, _ in own],
            [y[0] for _, y in own],
            xerr=[[max(0.0, x[0] - x[1]) for x, _ in own], [max(0.0, x[2] - x[0]) for x, _ in own]],
            yerr=[[max(0.0, y[0] - y[1]) for _, y in own], [max(0.0, y[2] - y[0]) for _, y in own]],
            fmt=look.marker,
            color=look.colour,
            markersize=3.5,
            elinewidth=0.6,
            zorder=2,
        )
        drawn.lines[0].set_gid(remedy)
    dress(axis)
    axis.set_xlim(low - pad, high + pad)
    axis.set_ylim(low - pad, high + pad)
    axis.set_xlabel("removed of planted tamperings (%)", fontsize=SIZE)
    axis.set_ylabel("removed of the real one (%)", fontsize=SIZE)
    key_of(figure, looks, width)
    return figure
