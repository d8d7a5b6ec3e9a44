"""Barriers of a scanned path or surface under the definitions in circulation, each by its name: they are not interchangeable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isthmus._check import require
from isthmus.table import Column, Table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Barrier:
    """A `value` in `unit`, what it is, whose, and where it is reached: `t` on a path, `at` on a surface, None for an average."""

    name: str
    value: float
    t: float | None
    unit: str
    definition: str
    citation: str
    at: tuple[float, float] | None = None


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
    column = _lower_is_better(table, value)
    t, v, order = _sorted(table, value, at)
    ends = v[[0, -1]]
    made = _Maker("error" if column.unit == "%" else "loss", column.unit, _PATH, [{"t": float(x)} for x in t])
    found = made.barriers(v, (1 - t) * v[0] + t * v[-1], ends)
    if "speed" in table.names:
        integral = _weighted(t, v, np.asarray(table.frame["speed"], dtype=np.float64)[order])
        found.append(
            made.barrier(
                "garipov_int", integral, None, f"mean {made.kind} weighted by the length of the path", _GARIPOV
            )
        )
    return {barrier.name: barrier for barrier in found}


def surface_barriers(table: Table, *, value: str = "test_loss", at: tuple[str, str] = ("u", "v")) -> dict[str, Barrier]:
    """Return name -> barrier of column `value` over the surface coordinates `at`, from the scanned points alone.

    The definitions of :func:`barriers` with the four corners, at coordinates 0 and 1, in place of the two ends. The straight line becomes
    the bilinear blend of the corners, (1-u)(1-v) value(0,0) + (1-u) v value(0,1) + u (1-v) value(1,0) + u v value(1,1). No source has
    them for a surface: the citations are of the lines. `garipov_mean` weights all points alike, borders too; there is no `garipov_int`.

    Raises InputError where a corner is not scanned, where nothing but corners is, for repeated points, for values that are NaN or not
    finite at a corner, and for a column of which more is better.
    """
    column = _lower_is_better(table, value)
    u, v = (np.asarray(table.frame[table.column(name).name], dtype=np.float64) for name in at)
    z = np.asarray(table.frame[value], dtype=np.float64)
    places = list(zip(u.tolist(), v.tolist(), strict=True))
    known = {place: float(height) for place, height in zip(places, z, strict=True)}
    name = ", ".join(at)
    lacking = [corner for corner in _CORNERS if corner not in known]
    require(not lacking, name, "be scanned at the four corners", f"no {lacking[0] if lacking else ''}")
    require(len(places) > 4, name, "have a point between the corners", f"{len(places)} points")
    require(len(known) == len(places), name, "have each point once", f"{len(places) - len(known)} repeated")
    missing = next((place for place in places if isnan(known[place])), None)
    require(missing is None, value, "have a value at every point", f"NaN at {missing}")
    corners = np.array([known[corner] for corner in _CORNERS])
    require(bool(np.isfinite(corners).all()), value, "be finite at the corners", str(corners.tolist()))
    weights = [(u if a else 1 - u) * (v if b else 1 - v) for a, b in _CORNERS]
    flat = sum((weight * corner for weight, corner in zip(weights, corners, strict=True)), np.zeros_like(z))
    made = _Maker("error" if column.unit == "%" else "loss", column.unit, _SURFACE, [{"at": place} for place in places])
    return {barrier.name: barrier for barrier in made.barriers(z, flat, corners)}


def _lower_is_better(table: Table, value: str) -> Column:
    column = table.column(value)
    require(column.better != "higher", "value", "be a loss or an error, of which less is better", value)
    return column


@dataclass(frozen=True)
class _Words:
    """What the models that are joined are called, the one of highest value, what joins them flatly, and the whole."""

    ends: str
    worst: str
    flat: str
    whole: str


_PATH = _Words("ends", "worse end", "straight line between its ends", "path")
_SURFACE = _Words("corners", "worst corner", "bilinear blend of its corners", "surface")
_CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))


@dataclass(frozen=True)
class _Maker:
    """Names barriers of a `kind` (loss, error) at `places`, the coordinates of each point as the barrier holds them."""

    kind: str
    unit: str
    words: _Words
    places: Sequence[Mapping[str, Any]]

    def barrier(self, name: str, amount: float, where: int | None, definition: str, citation: str) -> Barrier:
        place = {} if where is None else self.places[where]
        return Barrier(name, float(amount), place.get("t"), self.unit, definition, citation, place.get("at"))

    def barriers(self, v: Values, flat: Values, ends: Values) -> list[Barrier]:
        """Return the barriers of values `v` whose flat counterpart is `flat`, between models of the values `ends`."""
        kind, words = self.kind, self.words
        top, steepest, rise = int(v.argmax()), int((v - flat).argmax()), v - flat
        peak, above = float(v[top]), float(v[top] - ends.mean())
        first = (
            (
                "frankle",
                above,
                top,
                f"highest error minus the mean error of the {words.ends}; 'stable' below 2 %",
                _FRANKLE,
            )
            if kind == "error"
            else ("git_re_basin", above, top, f"highest loss minus the mean loss of the {words.ends}", _REBASIN)
        )
        rows: list[tuple[str, float, int | None, str, str]] = [
            first,
            ("entezari", rise[steepest], steepest, f"highest rise of the {kind} above the {words.flat}", _ENTEZARI),
            ("garipov_max", peak, top, f"highest {kind} of the scanned points", _GARIPOV),
            ("garipov_min", v.min(), int(v.argmin()), f"lowest {kind} of the scanned points", _GARIPOV),
            ("garipov_mean", v.mean(), None, f"mean {kind} of the scanned points", _GARIPOV),
            ("draxler_max", peak, top, f"highest {kind} on the {words.whole}", _DRAXLER),
            ("draxler_rise", peak - ends.max(), top, f"highest {kind} minus that of the {words.worst}", _DRAXLER),
        ]
        return [self.barrier(*row) for row in rows]


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
