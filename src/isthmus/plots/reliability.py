"""Reliability diagrams: accuracy against confidence by bin, over the shares of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING

from isthmus._check import require, unknown
from isthmus.plots.style import LOOKS, PAGE, SIZE, blank, dress, plain
from isthmus.report.ensemble import Combined, Reliable
from isthmus.report.reliability import drawn, filled, middles
from isthmus.report.text import percent
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 4


def reliability_figure(table: Table, *, names: Sequence[str] | None = None, width: float = PAGE) -> Figure:
    """Return one panel for each model and combination of `isthmus ensemble`, at most four a row, with its calibration error (ECE) named.

    Dots: the accuracy of the test images in each bin of confidence (%) with Wilson 95 % intervals, at their mean confidence; bars: the
    share of the images that is in the bin (%); dashed: a calibrated model. names: rows of the table in the order of the panels; None for
    at most four given models, the chosen one and all combinations. width: in inches.
    Raises InputError for another table, one without bins, and a name that has none.
    """
    combined = Combined(table)
    known = {one.name: one for one in combined.meta.reliability}
    for name in names or ():
        if name not in known:
            raise unknown("names", name, known)
    held = drawn(combined)[0] if names is None else [known[name] for name in names]
    require(bool(held), "table", "have bins of confidence, as `isthmus ensemble` writes them", "none")
    across = min(ACROSS, len(held))
    down = ceil(len(held) / across)
    figure = blank(width, down * (width / across + 0.45))
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place < len(held):
            _panel(axis, held[place])
        else:
            axis.set_visible(False)
    for place in range(len(held) - across, len(held)):  # the lowest panel of each column
        axes.flat[place].set_xlabel("mean confidence (%)", fontsize=SIZE - 1)
        axes.flat[place].tick_params(labelbottom=True)
    for row in axes:
        row[0].set_ylabel("accuracy (%)", fontsize=SIZE - 1)
    return figure


def _panel(axis: Axes, one: Reliable) -> None:
    found, look = one.calibration, LOOKS["clean_accuracy"]
    shares = [100 * part.n / found.n for part in found.by_bin]
    axis.bar(middles(found), shares, width=100 / found.bins, color=look.colour, alpha=0.2, linewidth=0)
    axis.plot([0, 100], [0, 100], "--", color="#777777", linewidth=0.7)
    rows = [[100 * value for value in row[1:]] for row in filled(found)]
    x, y, low, high = zip(*rows, strict=True) if rows else ((), (), (), ())
    arms = [[b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
    axis.errorbar(
        x, y, yerr=arms, fmt="-o", color=look.colour, markersize=2.5, linewidth=0.9, elinewidth=0.7, clip_on=False
    )
    title = "\n".join(wrap(plain(one.name), 26))
    axis.set_title(f"{title}\nECE {percent(found.error)}", fontsize=SIZE - 1)
    axis.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    dress(axis)
