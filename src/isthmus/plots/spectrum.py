"""Top eigenvalues and densities of Hessians side by side, one line for each budget (Liu et al. 2020, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from isthmus._check import require
from isthmus.plots.style import PAGE, SIZE, blank, dress, plain
from isthmus.report.curvature import CurvatureDocument, DensityEntry, density_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
STYLES = ("-", "--", "-.", ":")
DECADES = 20.0  # eigenvalues whose largest is so many times the smallest get a logarithmic axis


@dataclass(frozen=True)
class SpectrumLine:
    """A line in the panel `panel`, named `label` in the legend: the eigenvalues of one or several runs, largest first.

    eigenvalues: one tuple a run, equally long; several are drawn as their mean, in a band from the lowest to the highest. densities:
    of the runs, any number. dimension: of their matrices; densities are drawn down to what a single eigenvalue adds.
    Raises InputError for no run, for no eigenvalue, and where they are not finite or not equally many.
    """

    panel: str
    label: str
    eigenvalues: tuple[tuple[float, ...], ...]
    densities: tuple[DensityEntry, ...] = ()
    dimension: int | None = None

    def __post_init__(self) -> None:
        sizes = sorted({len(run) for run in self.eigenvalues})
        require(len(sizes) == 1 and sizes[0] > 0, "eigenvalues", "be one or more, equally many in each run", sizes)
        finite = all(isfinite(value) for run in self.eigenvalues for value in run)
        require(finite, "eigenvalues", "be finite", f"some that are not in {self.panel}, {self.label}")

    @classmethod
    def of(cls, panel: str, label: str, documents: Sequence[CurvatureDocument]) -> SpectrumLine:
        """Return the line of the runs that `documents`, of one model and kind, tell of."""
        densities = tuple(held.density for held in documents if held.density is not None)
        return cls(panel, label, tuple(held.eigenvalues for held in documents), densities, documents[0].dimension)


def spectrum_figure(lines: Sequence[SpectrumLine], *, width: float = PAGE) -> Figure:
    """Return one column per panel: the eigenvalues against their place, below them the densities where any line has one.

    Panels share the axes of a row; labels have one colour, line style and marker in all of them, from dark to light in the order in
    which they come. Eigenvalues that are positive and span a factor of 20 get a logarithmic axis, densities always. `width` is in
    inches. Raises InputError for no lines, and for one label twice in a panel.
    """
    require(bool(lines), "lines", "hold at least one spectrum", "none")
    keys = [(line.panel, line.label) for line in lines]
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    require(twice is None, "lines", "have each label once in a panel", f"{twice} twice")
    panels, labels = (list(dict.fromkeys(names)) for names in zip(*keys, strict=True))
    rows = 1 + any(line.densities for line in lines)
    figure = blank(width, 1.0 + 1.75 * rows)
    axes = figure.subplots(rows, len(panels), sharex="row", sharey="row", squeeze=False)
    for place, panel in enumerate(panels):
        axes[0, place].set_title(plain(panel), fontsize=SIZE)
        for row in range(rows):
            dress(axes[row, place])
        for line in lines:
            if line.panel == panel:
                _draw([*axes[:, place]], line, _Look.of(labels.index(line.label), len(labels)))
    _label(axes[0, 0], "eigenvalue (nat/weight²)")
    for axis in axes[0]:
        axis.set_xlabel("place, from the largest", fontsize=SIZE - 1)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _scale(axes[0, 0], lines)
    if rows > 1:
        _scale_densities([*axes[1]], lines)
    _legend(figure, list(axes[0]), labels, width)
    return figure


@dataclass(frozen=True)
class _Look:
    colour: tuple[float, float, float, float]
    line: str
    marker: str

    @classmethod
    def of(cls, place: int, count: int) -> _Look:
        """Return how the line at `place` of `count` looks."""
        from matplotlib import colormaps

        colour = colormaps["viridis"](0.05 + 0.8 * place / max(1, count - 1))
        return cls(colour, STYLES[place % len(STYLES)], MARKERS[place % len(MARKERS)])


def _draw(axes: Sequence[Axes], line: SpectrumLine, look: _Look) -> None:
    """Draw the eigenvalues on the first axis and the densities on the second."""
    places = list(range(1, len(line.eigenvalues[0]) + 1))
    each = list(zip(*line.eigenvalues, strict=True))
    if len(line.eigenvalues) > 1:
        lows, highs = ([edge(values) for values in each] for edge in (min, max))
        axes[0].fill_between(places, lows, highs, color=look.colour, alpha=0.18, linewidth=0)
    axes[0].plot(
        places,
        [sum(values) / len(values) for values in each],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=2.6,
        linewidth=1.0,
        label=plain(line.label),
        gid=line.label,
    )
    for held in line.densities:
        axes[1].fill_between(held.points, held.low, held.high, color=look.colour, alpha=0.12, linewidth=0)
        axes[1].plot(held.points, held.values, color=look.colour, linestyle=look.line, linewidth=1.0, gid=line.label)


def _scale(axis: Axes, lines: Sequence[SpectrumLine]) -> None:
    values = [value for line in lines for run in line.eigenvalues for value in run]
    low, high = min(values), max(values)
    if low > 0 and high / low >= DECADES:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.4, high * 1.4)
    elif low >= 0:
        axis.set_ylim(0, 1.06 * high if high > 0 else 1.0)


def _scale_densities(axes: list[Axes], lines: Sequence[SpectrumLine]) -> None:
    peak = max(max(density.values) for line in lines for density in line.densities)
    axes[0].set_yscale("log")
    floor = min(density_floor(density, line.dimension) for line in lines for density in line.densities)
    axes[0].set_ylim(floor, 2 * peak)
    _label(axes[0], "share of eigenvalues\nper nat/weight²")
    drawn = [density for line in lines for density in line.densities]
    seen = [p for d in drawn for p, value in zip(d.points, d.values, strict=True) if value > floor]
    room = 0.03 * (max(seen) - min(seen))
    axes[0].set_xlim(min(seen) - room, max(seen) + room)
    for axis in axes:
        axis.set_xlabel("eigenvalue (nat/weight²)", fontsize=SIZE - 1)


def _label(axis: Axes, text: str) -> None:
    axis.set_ylabel(text, fontsize=SIZE - 1)


def _legend(figure: Figure, axes: Sequence[Axes], labels: list[str], width: float) -> None:
    found = {handle.get_gid(): handle for axis in axes for handle in axis.get_lines()}
    figure.legend(
        handles=[found[label] for label in labels],
        fontsize=SIZE - 1,
        frameon=False,
        ncols=min(len(labels), 8 if width >= 5 else 3),
        loc="outside lower center",
        handlelength=2.4,
        columnspacing=1.2,
    )
