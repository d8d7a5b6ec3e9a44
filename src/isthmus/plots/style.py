"""How figures look, and the numbers they take from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from isthmus._check import InputError, require
from isthmus.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches, one column of a two-column paper
PAGE = 7.0  # inches, both columns
SIZE = 8.0  # points
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
    "robust_loss": Look("loss, attacked", "#d55e00", "--", "D"),
    "validation_error": Look("error, validation", "#56b4e9", ":", "v"),
    "train_error": Look("error, training", "#999999", "-.", "^"),
    "test_error": Look("error, test", "#0072b2", "-", "o"),
    "robust_error": Look("error, attacked", "#d55e00", "--", "D"),
    "evasion_success": Look("evasion success", "#d55e00", "--", "D"),
    "input_eigenvalue": Look("largest input eigenvalue", "#009e73", "-", "s"),
    "attack_success": Look("attack success", "#d55e00", "--", "D"),
    "recovery_accuracy": Look("recovery accuracy", "#cc79a7", "-.", "s"),
    "clean_accuracy": Look("accuracy", "#0072b2", "-", "o"),
}
OTHERS = tuple(Look("", colour, line, "o") for colour, line in (("#009e73", "-"), ("#e69f00", "--"), ("#000000", ":")))

# Okabe and Ito 2008 but their yellow, which is hardly seen on white; a colour returns with another marker.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches. Raises InputError for a width that is no positive number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    require(isfinite(width) and width > 0, "width", "be a positive number of inches", width)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look_of(name: str, place: int) -> Look:
    """Return how a column is drawn; one that is not listed looks by its place in the panel."""
    if name in LOOKS:
        return LOOKS[name]
    other = OTHERS[place % len(OTHERS)]
    return Look(plain(name.replace("_", " ")), other.colour, other.line, other.marker)


def marked(place: int, name: str) -> Look:
    """Return the look of the points of one of many kinds: no two of the first 49 share both colour and marker."""
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
    return Look(plain(name), colour, "", marker)


def keys_across(width: float) -> int:
    """Return how many entries of a legend stand side by side in so many inches."""
    return max(1, int(width / 1.4))


def key_of(figure: Figure, looks: Sequence[Look], width: float) -> None:
    """Write what the points of each look are below the figure."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=look.marker, markersize=4, color=look.colour, label=look.title)
        for look in looks
    ]
    figure.legend(
        handles=handles,
        fontsize=SIZE - 1,
        frameon=False,
        ncols=min(len(handles), keys_across(width)),
        loc="outside lower center",
        handletextpad=0.2,
        columnspacing=1,
    )


def unit_of(table: Table, name: str) -> str:
    """Return the unit of a column as an axis shows it."""
    unit = table.column(name).unit
    return UNITS.get(unit, unit)


def numbers(table: Table, name: str) -> list[float | None]:
    """Return the numbers of a column, None where missing or infinite. Raises InputError where it holds text."""
    values: list[float | None] = []
    for value in table.values(name):
        if isinstance(value, str):
            raise InputError(f"`table` should have numbers in column {name!r}. Found {value!r}.")
        values.append(None if value is None or not isfinite(value) else float(value))
    return values


def bounded(table: Table, name: str) -> list[tuple[float, float, float] | None]:
    """Return (value, low, high) per row, bounds from `NAME_low` and `NAME_high`, else from `NAME_median` and `NAME_q90`, else the value."""
    values = numbers(table, name)
    pairs = [(f"{name}_{low}", f"{name}_{high}") for low, high in (("low", "high"), ("median", "q90"))]
    found = next((pair for pair in pairs if set(pair) <= set(table.names)), (name, name))
    lows, highs = (numbers(table, bound) for bound in found)
    return [
        None if value is None else (value, value if low is None else low, value if high is None else high)
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def plain(text: str) -> str:
    """Return text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def dress(axis: Axes) -> None:
    """Give an axis the ticks, the grid and the frame that all figures have."""
    axis.tick_params(labelsize=SIZE - 1, width=0.6, length=2.5)
    axis.grid(True, color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_linewidth(0.6)
