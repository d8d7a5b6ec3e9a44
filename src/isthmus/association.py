"""`Association`: Pearson's and Spearman's correlation of two measurements, with 95 % intervals that hold along a path too."""

from dataclasses import asdict, dataclass
from math import atanh, sqrt, tanh
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus._check import InputError, require
from isthmus.rates import Z95
from isthmus.table import Table

Values = NDArray[np.float64]
FEWEST = 4  # the variance of Fisher's z is 1 / (n - 3)


@dataclass(frozen=True)
class Correlation:
    """A correlation `value` in [-1, 1], its 95 % interval, and the number of independent points that interval rests on."""

    value: float
    low: float
    high: float
    effective: float

    def __str__(self) -> str:
        """Return for instance `0.87 (0.62 to 0.95)`."""
        return f"{decimals(self.value)} ({decimals(self.low)} to {decimals(self.high)})"


@dataclass(frozen=True)
class Association:
    """Pearson's and Spearman's correlation of `n` pairs; `method` says what the intervals are."""

    pearson: Correlation
    spearman: Correlation
    n: int
    method: str

    def __str__(self) -> str:
        """Return both correlations with their 95 % intervals, and how many independent pairs these rest on where fewer than n."""
        worth = sorted((self.pearson.effective, self.spearman.effective))
        said = " to ".join(dict.fromkeys(f"{count:.1f}" for count in worth))
        count = f"n = {self.n}" + (f", worth {said} independent points" if worth[0] < self.n else "")
        return f"Pearson {self.pearson}, Spearman {self.spearman}, intervals 95 %, {count}"

    def to_json(self) -> dict[str, object]:
        """Return `{"pearson", "spearman", "n", "method"}`, each correlation as `{"value", "low", "high", "effective"}`."""
        return asdict(self)


def associate(x: ArrayLike, y: ArrayLike, *, path: bool = False) -> Association:
    """Return both correlations of pairs (x, y), each of shape (n,), with two-sided 95 % intervals tanh(artanh r +- 1.96 s).

    s^2 = 1 / (n - 3) for Pearson (Fisher 1921), (1 + r^2 / 2) / (n - 3) for Spearman (Bonett and Wright 2000, tied ranks averaged).

    These hold for independent pairs. Neighbours along a path are alike: 31 points on a smooth curve say as much as a handful. With
    path=True, x and y are in the order of the path and n in s is replaced by the effective number of independent pairs,

        n* = n / (1 + 2 sum over lags k of (1 - k / n) a_k b_k), at most n,

    a_k and b_k the autocorrelations of x and y, of their ranks for Spearman (Bayley and Hammersley 1946; Pyper and Peterman 1998).
    Where n* is 3 or less the interval is (-1, 1): the path says nothing. Of correlated Gaussian series, 11 or 31 points with
    neighbours correlated 0 to 0.99, these intervals held the true correlation in 92 to 99 % of the draws, Fisher's with n in 35 to
    96 %, and a bootstrap of moving blocks (Kuensch 1989, blocks of n^(1/3) or n^(1/2)) in 59 to 91 %, which is why none is offered.

    Even so the interval is about this pair of models: it tells what other points of such a path would give, not another path.
    Raises InputError for other shapes, for fewer than 4 pairs, for NaN or infinities, and where one side is constant.
    """
    a, b = _series(x, "x"), _series(y, "y")
    require(len(a) == len(b), "y", f"have as many values as `x`, {len(a)}", len(b))
    require(len(a) >= FEWEST, "x", f"hold at least {FEWEST} values", len(a))
    from scipy.stats import rankdata  # half a second to import

    ranks = [np.asarray(rankdata(values), dtype=np.float64) for values in (a, b)]
    return Association(
        _correlation(a, b, 0.0, path),
        _correlation(ranks[0], ranks[1], 0.5, path),
        len(a),
        "Fisher's z" + (" with the effective number of independent points along the path" if path else ""),
    )


def associate_columns(table: Table, one: str, other: str, *, path: bool = True) -> Association | None:
    """Return the association of two columns over the rows that have both, or None where there is no correlation to speak of.

    That is with fewer than 4 such rows, with a constant column, and with an infinite value. path: the rows are points along a path,
    taken in the order of its coordinate, column t; False takes them as independent. Raises InputError for an unknown column, and for
    one that holds text.
    """
    wanted = [_numbers(table, name) for name in (one, other)]
    if path:
        order = np.argsort(_numbers(table, "t"), kind="stable")
        wanted = [values[order] for values in wanted]
    both = ~np.isnan(wanted[0]) & ~np.isnan(wanted[1])
    first, second = (values[both] for values in wanted)
    usable = len(first) >= FEWEST and all(bool(np.isfinite(v).all()) and _varies(v) for v in (first, second))
    return associate(first, second, path=path) if usable else None


def rank_correlations(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> Values:
    """Return Spearman's correlation (R,) of pairs (x, y), each (n,), under each row of `weights` (R, n); NaN where a side is constant.

    A weight says how often a pair is there, up to a factor that a row has in common: rows of a bootstrap are resamples, and a row of
    ones gives the correlation of the pairs themselves. Weighted ranks: rank_i = sum_j w_j ([x_j < x_i] + [x_j = x_i] / 2), ties averaged.
    Raises InputError for other shapes, for NaN or infinities, and for a weight that is negative or a row of zeros.

    >>> rank_correlations([1, 2, 3], [1, 3, 2], [[1, 1, 1], [1, 0, 1], [0, 2, 0]]).round(6).tolist()
    [0.5, 1.0, nan]
    """
    a, b, w = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    for name, values in (("x", a), ("y", b)):
        require(values.ndim == 1, name, "have one dimension", f"shape {values.shape}")
        require(bool(np.isfinite(values).all()), name, "hold finite numbers", values[~np.isfinite(values)].tolist())
    require(len(a) == len(b), "y", f"have as many values as `x`, {len(a)}", len(b))
    require(w.ndim == 2 and w.shape[1] == len(a), "weights", f"have the shape (rows, {len(a)})", w.shape)
    totals = w.sum(1, keepdims=True)
    require(
        bool((w >= 0).all() and (totals > 0).all()),
        "weights",
        "be at least 0, with a sum above 0",
        float(w.min(initial=0)),
    )
    w = w / totals
    first, second = (_centred(w @ ((v < v[:, None]) + (v == v[:, None]) / 2).T, w) for v in (a, b))
    covariance, variances = (w * first * second).sum(1), [(w * ranks**2).sum(1) for ranks in (first, second)]
    # Ranks of weights that sum to 1 lie in [0, 1]: a variance of rounding errors is that of a constant.
    product = np.where(np.minimum(*variances) > 1e-12, variances[0] * variances[1], np.nan)
    found = covariance / np.sqrt(product)
    return np.where(np.abs(found) > 1 - 1e-12, np.sign(found), found)  # the same order is 1, not 1 less rounding


def decimals(correlation: float) -> str:
    """Return a correlation with two decimals, with three where two would round it to a whole one that it is not.

    >>> decimals(0.956), decimals(0.998), decimals(0.99999), decimals(1.0)
    ('0.96', '0.998', '0.999', '1.00')
    """
    if 0.995 <= abs(correlation) < 1:
        return f"{max(-0.999, min(0.999, correlation)):.3f}"
    return f"{correlation:.2f}".replace("-0.00", "0.00")


def _centred(ranks: Values, weights: Values) -> Values:
    return ranks - (weights * ranks).sum(1, keepdims=True)


def _series(values: ArrayLike, name: str) -> Values:
    found = np.asarray(values, dtype=np.float64)
    require(found.ndim == 1, name, "have one dimension", f"shape {found.shape}")
    bad = np.flatnonzero(~np.isfinite(found))
    require(not len(bad), name, "hold finite numbers", f"{found[bad[0]]} at place {bad[0]}" if len(bad) else "")
    if len(found) >= FEWEST:
        fix = "A constant has no correlation with anything."
        require(_varies(found), name, "vary by more than rounding", f"{found[0]:g} throughout", fix)
    return found


def _varies(values: Values) -> bool:
    return bool(np.ptp(values) > 1e-11 * np.abs(values).max())


def _numbers(table: Table, name: str) -> Values:
    values = table.values(name)
    text = next((value for value in values if isinstance(value, str)), None)
    if text is not None:
        raise InputError(f"`table` should have numbers in column {name!r}. Found {text!r}.")
    return np.array([np.nan if v is None else v for v in cast(list[float | None], values)], dtype=np.float64)


def _correlation(x: Values, y: Values, extra: float, path: bool) -> Correlation:
    """Return the correlation with the interval of variance (1 + extra r^2) / (n - 3) in Fisher's z."""
    a, b = _unit(x), _unit(y)
    r = min(1.0, max(-1.0, float(a @ b)))
    n = _effective(a, b) if path else float(len(a))
    if n <= 3:
        return Correlation(r, -1.0, 1.0, n)
    if abs(r) == 1:
        return Correlation(r, r, r, n)
    half = Z95 * sqrt((1 + extra * r * r) / (n - 3))
    return Correlation(r, tanh(atanh(r) - half), tanh(atanh(r) + half), n)


def _unit(values: Values) -> Values:
    """Return the values less their mean, scaled to length 1."""
    # Scaled first, so that squares of very small or large values neither vanish nor overflow.
    scaled = values / np.abs(values).max()
    centred = scaled - scaled.mean()
    return centred / np.linalg.norm(centred)


def _effective(a: Values, b: Values) -> float:
    """Return n*; the weighted sum is never negative, since products of autocorrelations are themselves positive semidefinite."""
    n = len(a)
    lags = np.arange(1, n)
    products = np.correlate(a, a, "full")[n:] * np.correlate(b, b, "full")[n:]
    inflation = 1 + 2 * float(((1 - lags / n) * products).sum())
    return n / max(1.0, inflation)
