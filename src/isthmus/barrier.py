"""Barriers of a scanned path or surface under the definitions in circulation, each by its name: they are not interchangeable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

import numpy as np
from numpy.typing import NDArray

from isthmus._check import require
from isthmus.table import Column, Table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Barrier:
    """A `value` in `unit`, the coordinate `t`, on a surface `u`, at which it is reached (None for an average), what it is, and whose."""

    name: str
    value: float
    t: float | None
    unit: str
    definition: str
    citation: str
    u: tuple[float, float] | None = None


SQUARE = {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}
TRIANGLE = {(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)}
PATH = {"ends": "ends", "flat": "the straight line between its ends", "whole": "path", "worse": "worse end"}
SURFACE = {
    "ends": "corners",
    "flat": "the interpolation between those of the corners",
    "whole": "surface",
    "worse": "worst corner",
}
_FRANKLE = "Frankle, Dziugaite, Roy, Carbin 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis"
_ENTEZARI = "Entezari, Sedghi, Saukh, Neyshabur 2022, Permutation Invariance in Linear Mode Connectivity, eq. 1"
_REBASIN = "Ainsworth, Hayase, Srinivasa 2023, Git Re-Basin"
_GARIPOV = "Garipov, Izmailov, Podoprikhin, Vetrov, Wilson 2018, Loss Surfaces, Mode Connectivity, Fast Ensembling"
_DRAXLER = "Draxler, Veschgini, Salmhofer, Hamprecht 2018, Essentially No Barriers in Neural Network Energy Landscape"


def barriers(table: Table, *, value: str = "test_loss", at: str = "t") -> dict[str, Barrier]:
    """Return name -> barrier of column `value` along the path coordinate `at`, from the scanned points alone.

    frankle: max - mean of the ends, of an error (unit %) only.
    git_re_basin: the same of a loss (any other unit) only.
    entezari: max over t of value(t) - [(1 - t) value(0) + t value(1)].
    garipov_max, garipov_min, garipov_mean: over the scanned points; garipov_int: mean with each step between points weighted by its
    length, where the table has a column `speed` (length per unit of t).
    draxler_max, draxler_rise: max, and max minus the worse end.

    All are in the column's unit. The suprema are over the scanned points, so a finer scan can only raise them. The ends are t = 0 and
    t = 1. Raises InputError where they are not scanned, where no point lies between, for repeated t, for NaN or a value that is not
    finite at an end, and for a column of which more is better.
    """
    column = _falling(table, value)
    t, v, order = _sorted(table, value, at)
    places = [{"t": float(place)} for place in t]
    line = (1 - t) * v[0] + t * v[-1]
    mean = None
    if "speed" in table.names:
        mean = _weighted(t, v, np.asarray(table.frame["speed"], dtype=np.float64)[order])
    return _named(_Values(column.unit, v, line, v[[0, -1]], places, PATH, mean))


def surface_barriers(
    table: Table, corners: Sequence[tuple[float, float]], *, value: str = "test_loss"
) -> dict[str, Barrier]:
    """Return name -> barrier of column `value` over a surface with coordinates u and v, from the scanned points alone.

    The definitions of :func:`barriers` with corners instead of ends: the mean or the worst of them, and for entezari their bilinear
    interpolation, over three corners (0, 0), (1, 0), (0, 1) their linear one. corners: coordinates of the given models, four in any order
    at the corners of the unit square or those three. Raises InputError for other corners, for a corner that was not scanned, for NaN or
    a value that is not finite at a corner, and for a column of which more is better.

    >>> rows = [{"u": u, "v": v, "test_loss": 1.0 + 2 * u * (1 - u)} for u in (0.0, 0.5, 1.0) for v in (0.0, 1.0)]
    >>> table = Table.of(rows, [Column("u"), Column("v"), Column("test_loss", "nat", "lower")])
    >>> found = surface_barriers(table, [(0, 0), (0, 1), (1, 0), (1, 1)])
    >>> found["git_re_basin"].value, found["entezari"].value, found["entezari"].u
    (0.5, 0.5, (0.5, 0.0))
    """
    column = _falling(table, value)
    held = {(float(u), float(v)) for u, v in corners}
    known = len(corners) == len(held) and held in (SQUARE, TRIANGLE)
    require(known, "corners", "be those of the unit square, or (0, 0), (1, 0) and (0, 1)", sorted(held))
    u, v, z = (np.asarray(table.frame[name], dtype=np.float64) for name in ("u", "v", value))
    points = list(zip(u.tolist(), v.tolist(), strict=True))
    lost = next((corner for corner in sorted(held) if corner not in points), None)
    require(lost is None, "table", "have a row for each corner", f"none at (u, v) = {lost}")
    missing = next((point for point, number in zip(points, z, strict=True) if isnan(number)), None)
    require(missing is None, value, "have a value at every point", f"NaN at (u, v) = {missing}")
    ends = {corner: float(z[points.index(corner)]) for corner in sorted(held)}
    require(all(map(isfinite, ends.values())), value, "be finite at the corners", list(ends.values()))
    flat = (1 - u - v) * ends[0, 0] + u * ends[1, 0] + v * ends[0, 1]
    if held == SQUARE:
        flat = (1 - u) * ((1 - v) * ends[0, 0] + v * ends[0, 1]) + u * ((1 - v) * ends[1, 0] + v * ends[1, 1])
    places = [{"u": point} for point in points]
    return _named(_Values(column.unit, z, flat, np.array(list(ends.values())), places, SURFACE, None))


def _falling(table: Table, value: str) -> Column:
    column = table.column(value)
    require(column.better != "higher", "value", "be a loss or an error, of which less is better", value)
    return column


@dataclass(frozen=True)
class _Values:
    """What definitions are made of: values and those of the flat interpolation at every point, those of the given models, and words."""

    unit: str
    v: Values
    flat: Values
    given: Values
    places: Sequence[Mapping[str, float | tuple[float, float]]]
    words: Mapping[str, str]
    weighted: float | None


def _named(held: _Values) -> dict[str, Barrier]:
    v, kind = held.v, "error" if held.unit == "%" else "loss"
    top = int(v.argmax())
    rise, peak, mean = v - held.flat, float(v[top]), float(held.given.mean())
    found: list[Barrier] = []

    def add(name: str, amount: float, where: int | None, definition: str, citation: str) -> None:
        place = {} if where is None else held.places[where]
        words = definition.format(kind=kind, **held.words)
        found.append(Barrier(name, float(amount), place.get("t"), held.unit, words, citation, place.get("u")))  # type: ignore[arg-type]

    if kind == "error":
        add(
            "frankle",
            peak - mean,
            top,
            "highest error minus the mean error of the {ends}; 'stable' below 2 %",
            _FRANKLE,
        )
    else:
        add("git_re_basin", peak - mean, top, "highest loss minus the mean loss of the {ends}", _REBASIN)
    steepest = int(rise.argmax())
    add("entezari", rise[steepest], steepest, "highest rise of the {kind} above {flat}", _ENTEZARI)
    add("garipov_max", peak, top, "highest {kind} of the scanned points", _GARIPOV)
    add("garipov_min", v.min(), int(v.argmin()), "lowest {kind} of the scanned points", _GARIPOV)
    add("garipov_mean", v.mean(), None, "mean {kind} of the scanned points", _GARIPOV)
    if held.weighted is not None:
        add("garipov_int", held.weighted, None, "mean {kind} weighted by the length of the path", _GARIPOV)
    add("draxler_max", peak, top, "highest {kind} on the {whole}", _DRAXLER)
    worst = float(held.given.max())
    add("draxler_rise", peak - worst, top, "highest {kind} minus that of the {worse}", _DRAXLER)
    return {barrier.name: barrier for barrier in found}


def _sorted(table: Table, value: str, at: str) -> tuple[Values, Values, NDArray[np.intp]]:
    """Return coordinates and values in the order of the path, checked, and that order."""
    table.column(at)
    t = np.asarray(table.frame[at], dtype=np.float64)
    v = np.asarray(table.frame[value], dtype=np.float64)
    require(len(t) >= 3, at, "have both ends and a point between", f"{len(t)} points")
    order = np.argsort(t, kind="stable")
    t, v = t[order], v[order]
    require(t[0] == 0 and t[-1] == 1, at, "run from 0 to 1, the ends of the path", f"{t[0]:g} to {t[-1]:g}")
    repeated = np.flatnonzero(np.diff(t) == 0)
    require(not len(repeated), at, "have each point once", f"t = {t[repeated[0]]:g} twice" if len(repeated) else "")
    missing = next((float(t[i]) for i in range(len(t)) if isnan(v[i])), None)
    require(missing is None, value, "have a value at every point", f"NaN at t = {missing}")
    require(isfinite(v[0]) and isfinite(v[-1]), value, "be finite at the ends", f"{v[0]} and {v[-1]}")
    return t, v, order


def _weighted(t: Values, v: Values, speed: Values) -> float:
    """Return sum of (v_i + v_i+1) / 2 x step / sum of steps, a step's length by the trapezoidal rule from its two speeds."""
    usable = bool((speed >= 0).all()) and bool(speed.any())
    require(usable, "speed", "be at least 0 and not 0 everywhere", str(speed.tolist()))
    steps = np.diff(t) * (speed[:-1] + speed[1:]) / 2
    return float((steps * (v[:-1] + v[1:]) / 2).sum() / steps.sum())
