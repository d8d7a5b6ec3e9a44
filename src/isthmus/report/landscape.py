"""`Landscape`: a table over a slice of weight space, read as a picture: axes, fields, marked models, and the sentences about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, floor, isfinite, log10
from typing import Literal

from pydantic import BaseModel, ValidationError

from isthmus._check import InputError, require
from isthmus.report.text import number, sentence
from isthmus.table import Column, Table

KIND = "landscape"
DECADES = 20.0  # losses whose largest is so many times the smallest are shown on a logarithmic scale
ROUNDING = 1e-9  # of the slice's extent: what is nearer to zero is no distance
MEASURES = (  # end of a column's name, what it is
    ("robust_loss", "loss under attack"),
    ("frozen_loss", "loss on frozen adversarial examples"),
    ("_loss", "loss"),
    ("robust_error", "error under attack"),
    ("frozen_error", "error on frozen adversarial examples"),
    ("_error", "error"),
)
LIMITS = (
    "A slice shows one or two directions out of as many as the model has weights. What looks flat or round in it may be steep or bent in "
    "a direction that is not shown.",
    "Widths compare between models only where the directions are scaled alike: a network with ReLU or BatchNorm computes the same function "
    "with weights of another size, and along a direction of fixed length it then looks sharper or flatter (Li et al. 2018).",
    "Values between the measured points are drawn, not measured.",
)
PROJECTED = "Marked models with a distance are not in the slice: the loss drawn at their mark is not theirs."
FROZEN = "Frozen examples are the worst case at the centre only. Elsewhere the loss under attack is higher than the one drawn."
ATTACKED = "Loss and error under attack are those of the attack that was run. A stronger one can only raise them."


class Axis(BaseModel, frozen=True, extra="ignore"):
    """A coordinate of the slice: what it runs along, its unit, and the length of its direction in weight units."""

    name: str
    label: str
    unit: str
    norm: float

    @property
    def title(self) -> str:
        """Return the axis title: `a, along eigenvector 1 (unit length)`."""
        return f"{self.name}, {self.label} ({self.unit})" if self.label else self.name


class Anchor(BaseModel, frozen=True, extra="ignore"):
    """A marked model: its coordinates and its distance from the slice."""

    name: str
    role: Literal["centre", "model", "trajectory"]
    at: tuple[float, ...]
    off: float


class _Meta(BaseModel, frozen=True, extra="ignore"):
    kind: Literal["landscape"]
    directions: str
    axes: tuple[Axis, ...]
    anchors: tuple[Anchor, ...] = ()
    examples: str = ""
    data: str = ""
    split: str = ""
    n: int = 0
    policy: str | None = None
    seed: int = 0
    seconds: float | None = None
    complete: bool = True


@dataclass(frozen=True, eq=False)
class Landscape:
    """The table of `isthmus landscape` and what it is called. Raises InputError for a table that is none."""

    title: str
    table: Table
    meta: _Meta = field(init=False)

    def __post_init__(self) -> None:
        try:
            meta = _Meta.model_validate(self.table.meta)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InputError(
                f"`table` should be a landscape, as `isthmus landscape` writes it. Found in its meta no usable {where!r}."
            ) from error
        there = all(axis.name in self.table.names for axis in meta.axes) and len(meta.axes) in (1, 2)
        require(there, "table", "have a column for each axis", ", ".join(self.table.names))
        object.__setattr__(self, "meta", meta)

    @property
    def dim(self) -> int:
        """Return 1 for a line, 2 for a plane."""
        return len(self.meta.axes)

    @cached_property
    def grid(self) -> tuple[list[float], ...]:
        """Return the measured values of each coordinate, rising."""
        return tuple(
            sorted({float(v) for v in self.table.values(axis.name) if isinstance(v, int | float)})
            for axis in self.meta.axes
        )

    def fields(self) -> list[str]:
        """Return the measured losses and errors, those under attack first."""
        names = [c.name for c in self.table.columns if not c.name.endswith(("_low", "_high"))]
        return [name for end, _ in MEASURES for name in names if measure(name) == end]

    def values(self, name: str) -> list[list[float | None]]:
        """Return a field as rows over b of values along a; one row for a line; None where it is missing or not finite."""
        places = zip(*(self.table.values(axis.name) for axis in self.meta.axes), strict=True)
        found = dict(zip(places, (_finite(value) for value in self.table.values(name)), strict=True))
        if self.dim == 1:
            return [[found.get((a,)) for a in self.grid[0]]]
        return [[found.get((a, b)) for a in self.grid[0]] for b in self.grid[1]]

    def known(self, name: str) -> list[float]:
        """Return the finite values of a field. Raises InputError where there are none."""
        held = [value for row in self.values(name) for value in row if value is not None]
        require(bool(held), name, "have a finite value somewhere in the slice", "none")
        return held

    def at(self, point: Sequence[float], name: str) -> float | None:
        """Return a field at a point, by linear interpolation between the measured ones; None outside them and beside missing ones."""
        found = [_between(line, v) for v, line in zip(point, self.grid, strict=True)]
        places = [pair for pair in found if pair is not None]
        if len(places) < len(found):
            return None
        rows, total = self.values(name), 0.0
        for j, down in _corners(places[1]) if self.dim == 2 else [(0, 1.0)]:
            for i, across in _corners(places[0]):
                if down * across == 0:
                    continue
                value = rows[j][i]
                if value is None:
                    return None
                total += down * across * value
        return total

    def inside(self, anchor: Anchor) -> bool:
        """Return whether a marked model falls among the measured coordinates."""
        return all(line[0] <= v <= line[-1] for v, line in zip(anchor.at, self.grid, strict=True))

    def placed(self, anchor: Anchor) -> tuple[tuple[float, ...], float]:
        """Return the coordinates of a marked model and its distance from the slice, what is rounding alone as 0."""
        reach = [line[-1] - line[0] for line in self.grid]
        at = tuple(0.0 if abs(v) < ROUNDING * r else v for v, r in zip(anchor.at, reach, strict=True))
        wide = max(r * axis.norm for r, axis in zip(reach, self.meta.axes, strict=True))
        return at, 0.0 if anchor.off < ROUNDING * wide else anchor.off

    def what(self, name: str) -> str:
        """Return what a field is, on which images: `loss under attack, examples crafted anew at each point, 500 test images`."""
        crafted = f", examples {self.meta.examples}" if measure(name).startswith(("robust", "frozen")) else ""
        return f"{title_of(name)}{crafted}, {self.meta.n:,} {self.meta.split} images of {self.meta.data}"

    def sentences(self) -> list[str]:
        """Return what the slice is, and of every field its value at the centre, its lowest and its highest."""
        shape = " x ".join(str(len(line)) for line in self.grid)
        lines = [f"{shape} points of a {'line' if self.dim == 1 else 'plane'} in weight space."]
        lines += [
            f"{axis.title}, from {number(line[0])} to {number(line[-1])}; length of the direction {number(axis.norm)}."
            for axis, line in zip(self.meta.axes, self.grid, strict=True)
        ]
        return [*lines, *(self.finding(name) for name in self.fields())]

    def finding(self, name: str) -> str:
        """Return the value of a field at the centre, its lowest and its highest."""
        unit = unit_of(self.table.column(name))
        held = self.known(name)
        lost = len(self.table) - len(held)
        centre = self.at([0.0] * self.dim, name)
        first = "model 1" if self.meta.directions == "plane" else "the centre"
        start = "" if centre is None else f"{_shown(centre, unit)} at {first}, "
        gaps = f"; not finite at {lost} of {len(self.table)} points" if lost else ""
        return f"{sentence(title_of(name))}: {start}{_shown(min(held), unit)} to {_shown(max(held), unit)} in the slice{gaps}."


def _between(line: Sequence[float], value: float) -> tuple[int, float] | None:
    """Return which cell of rising numbers `value` is in, and how far along it; None outside."""
    place = next((i for i in range(len(line) - 1) if line[i] <= value <= line[i + 1]), None)
    return None if place is None else (place, (value - line[place]) / (line[place + 1] - line[place]))


def _corners(place: tuple[int, float]) -> list[tuple[int, float]]:
    return [(place[0], 1 - place[1]), (place[0] + 1, place[1])]


def measure(name: str) -> str:
    """Return the end of :data:`MEASURES` that a column's name has, empty for other columns."""
    return next((end for end, _ in MEASURES if name.endswith(end)), "")


def title_of(name: str) -> str:
    """Return what a column is called."""
    return dict(MEASURES)[measure(name)]


def unit_of(column: Column) -> str:
    """Return the unit of a column as it is shown."""
    return "" if column.unit == "1" else column.unit


def _shown(value: float, unit: str) -> str:
    return f"{value:.1f} %" if unit == "%" else f"{value:.3g} {unit}".strip()


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


@dataclass(frozen=True)
class Scale:
    """The colours of a field, shared by all its panels: range, unit, and the levels of the contours on both scales.

    floor: the smallest positive value, at which a logarithmic scale begins. log: whether it is the better one.
    """

    low: float
    high: float
    floor: float
    unit: str

    @classmethod
    def of(cls, panels: Sequence[Landscape], name: str) -> "Scale":
        """Return the scale that covers a field in all `panels`."""
        return cls.of_values([value for panel in panels for value in panel.known(name)], panels[0].table.column(name))

    @classmethod
    def of_values(cls, held: Sequence[float], column: Column) -> "Scale":
        """Return the scale that covers values of a column, of which one at least is finite."""
        held = [value for value in held if isfinite(value)]
        positive = [value for value in held if value > 0]
        unit = unit_of(column)
        low, high = min(held), max(held)
        return cls(low, high if high > low else low + 1.0, min(positive, default=1.0), unit)

    @classmethod
    def covering(cls, scales: Sequence["Scale"]) -> "Scale":
        """Return the scale that covers several of one unit."""
        low, high, floor_ = min(s.low for s in scales), max(s.high for s in scales), min(s.floor for s in scales)
        return cls(low, high, floor_, scales[0].unit)

    @property
    def can_log(self) -> bool:
        """Return whether a logarithmic scale makes sense: a loss, with values that differ by a factor of at least two."""
        return self.unit != "%" and self.high >= 2 * self.floor

    @property
    def log(self) -> bool:
        """Return whether the logarithmic scale is the one to begin with."""
        return self.can_log and self.high >= DECADES * self.floor

    def step(self) -> float:
        """Return the distance of two contours: 1, 2 or 5 times a power of ten, for five to twelve of them."""
        rough = (self.high - self.low) / 8
        power = 10.0 ** floor(log10(rough))
        return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)

    def levels(self) -> list[float]:
        """Return the contours of the linear scale, inside its range."""
        step = self.step()
        first, last = floor(self.low / step) + 1, ceil(self.high / step) - 1
        return [float(f"{i * step:.6g}") for i in range(first, last + 1)]

    def stride(self) -> int:
        """Return how many rungs of the ladder 1, 2, 5, 10, 20, ... lie between two contours of the logarithmic scale: 1, or 3 (decades)."""
        return 1 if rung(self.high) - rung(self.floor) <= 12 else 3

    def log_levels(self) -> list[float]:
        """Return the contours of the logarithmic scale: 1, 2 and 5 times powers of ten inside its range, or powers of ten alone."""
        stride = self.stride()
        first, last = floor(rung(self.floor) / stride) + 1, ceil(rung(self.high) / stride) - 1
        return [float(f"{(1, 2, 5)[i * stride % 3] * 10.0 ** (i * stride // 3):.1g}") for i in range(first, last + 1)]


def rung(value: float) -> float:
    """Return the place of a positive number on the ladder 1, 2, 5, 10, 20, 50, ...: 0 at 1, 1 at 2, logarithmic between two rungs.

    >>> [rung(x) for x in (0.1, 1.0, 2.0, 50.0)]
    [-3.0, 0.0, 1.0, 5.0]
    """
    power = floor(log10(value))
    part = value / 10.0**power
    low, high, start = (1, 2, 0) if part < 2 else (2, 5, 1) if part < 5 else (5, 10, 2)
    return 3 * power + start + log10(part / low) / log10(high / low)
