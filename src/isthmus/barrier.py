"""Barriers of a scanned path under the definitions in circulation, each by its name: they are not interchangeable."""

from dataclasses import dataclass
from math import isfinite, isnan

import numpy as np
from numpy.typing import NDArray

from isthmus._check import require
from isthmus.table import Table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Barrier:
    """A `value` in `unit`, the coordinate `t` at which it is reached (None for an average), what it is, and whose."""

    name: str
    value: float
    t: float | None
    unit: str
    definition: str
    citation: str


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
    column = table.column(value)
    require(column.better != "higher", "value", "be a loss or an error, of which less is better", value)
    t, v, order = _sorted(table, value, at)
    line = (1 - t) * v[0] + t * v[-1]
    top = int(v.argmax())
    rise = v - line
    peak = float(v[top])
    ends = float(v[0] + v[-1]) / 2
    kind = "error" if column.unit == "%" else "loss"
    found: list[Barrier] = []

    def add(name: str, amount: float, where: int | None, definition: str, citation: str) -> None:
        place = None if where is None else float(t[where])
        found.append(Barrier(name, float(amount), place, column.unit, definition, citation))

    if kind == "error":
        add("frankle", peak - ends, top, "highest error minus the mean error of the ends; 'stable' below 2 %", _FRANKLE)
    else:
        add("git_re_basin", peak - ends, top, "highest loss minus the mean loss of the ends", _REBASIN)
    steepest = int(rise.argmax())
    above = f"highest rise of the {kind} above the straight line between its ends"
    add("entezari", rise[steepest], steepest, above, _ENTEZARI)
    add("garipov_max", peak, top, f"highest {kind} of the scanned points", _GARIPOV)
    add("garipov_min", v.min(), int(v.argmin()), f"lowest {kind} of the scanned points", _GARIPOV)
    add("garipov_mean", v.mean(), None, f"mean {kind} of the scanned points", _GARIPOV)
    if "speed" in table.names:
        integral = _weighted(t, v, np.asarray(table.frame["speed"], dtype=np.float64)[order])
        add("garipov_int", integral, None, f"mean {kind} weighted by the length of the path", _GARIPOV)
    add("draxler_max", peak, top, f"highest {kind} on the path", _DRAXLER)
    add("draxler_rise", peak - float(max(v[0], v[-1])), top, f"highest {kind} minus that of the worse end", _DRAXLER)
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
