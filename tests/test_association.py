"""Correlations: the numbers are SciPy's, the intervals hold what they promise, also for points along a path."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import pearsonr, spearmanr

from isthmus._check import InputError
from isthmus.association import Association, Correlation, associate, associate_columns, rank_correlations
from isthmus.rates import Z95
from isthmus.table import Column, Table


def pairs(rng: np.random.Generator, n: int, rho: float, memory: float = 0.0) -> np.ndarray:
    """Two series (2, n) correlated `rho`, each an autoregressive process: correlation `memory` between neighbours."""
    noise = rng.standard_normal((2, n + 200))
    noise[1] = rho * noise[0] + math.sqrt(1 - rho**2) * noise[1]
    return lfilter([1.0], [1.0, -memory], noise, axis=1)[:, -n:]


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e8, 1e200])
@pytest.mark.parametrize("n", [4, 5, 31, 200])
def test_values_and_pearson_interval_are_scipys(n: int, scale: float) -> None:
    x, y = pairs(np.random.default_rng(n), n, 0.7)
    found = associate(scale * x + 3 * scale, -y)
    expected = pearsonr(x, -y)
    bounds = expected.confidence_interval(0.95)
    assert found.pearson.value == pytest.approx(expected.statistic, rel=1e-9)
    assert (found.pearson.low, found.pearson.high) == pytest.approx((bounds.low, bounds.high), rel=1e-9)
    assert found.spearman.value == pytest.approx(spearmanr(x, -y).statistic, rel=1e-12)
    assert (found.n, found.pearson.effective, found.method) == (n, n, "Fisher's z")


def test_rank_correlations_under_weights_are_scipys_on_repeated_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 12).astype(float), rng.integers(0, 6, 12).astype(float)
    times = rng.integers(0, 4, (20, 12))
    found = rank_correlations(x, y, times)
    for row, value in zip(times, found, strict=True):
        assert value == pytest.approx(spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic, abs=1e-12)
    assert rank_correlations(x, y, times / 7) == pytest.approx(found, abs=1e-12)  # a factor says nothing
    assert rank_correlations(x, np.exp(y), times) == pytest.approx(found, abs=1e-12)  # ranks alone


def test_a_constant_side_has_no_rank_correlation() -> None:
    found = rank_correlations([0.1, 0.2, 0.2], [3.0, 1.0, 2.0], [[1, 1, 1], [0, 1, 1], [0, 0, 5], [1, 0, 2]])
    assert np.isnan(found).tolist() == [False, True, True, False]
    assert found[3] == -1.0  # without a rounding error
    assert math.isnan(rank_correlations([1.0], [2.0], [[1]])[0])


@pytest.mark.parametrize(
    ("x", "y", "weights", "message"),
    [
        ([[1.0]], [1.0], [[1]], r"`x` should have one dimension\. Found shape \(1, 1\)"),
        ([1.0, 2.0], [1.0, math.nan], [[1, 1]], r"`y` should hold finite numbers\. Found \[nan\]"),
        ([1.0, 2.0], [1.0], [[1, 1]], r"`y` should have as many values as `x`, 2\. Found 1"),
        ([1.0, 2.0], [1.0, 2.0], [1, 1], r"`weights` should have the shape \(rows, 2\)\. Found \(2,\)"),
        ([1.0, 2.0], [1.0, 2.0], [[1, -1]], r"`weights` should be at least 0, with a sum above 0\. Found -1\.0"),
        ([1.0, 2.0], [1.0, 2.0], [[0, 0]], r"`weights` should be at least 0, with a sum above 0\. Found 0\.0"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(x, y, weights, message) -> None:
    with pytest.raises(InputError, match=message):
        rank_correlations(x, y, weights)


def test_ties_are_ranked_as_scipy_ranks_them() -> None:
    x, y = [1.0, 2, 2, 3, 3, 3, 7], [1.0, 1, 4, 4, 2, 9, 9]
    assert associate(x, y).spearman.value == pytest.approx(spearmanr(x, y).statistic, rel=1e-12)


def test_spearman_interval_by_hand() -> None:
    """Ranks 1..7 with two neighbours exchanged: rho = 1 - 6 * 2 / (7 * 48) = 27/28; variance (1 + rho^2 / 2) / 4."""
    found = associate([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 7, 60]).spearman
    assert found.value == pytest.approx(1.0)
    found = associate([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 70, 60]).spearman
    rho = 27 / 28
    half = Z95 * math.sqrt((1 + rho**2 / 2) / 4)
    assert found.value == pytest.approx(rho)
    assert (math.atanh(found.low), math.atanh(found.high)) == pytest.approx(
        (math.atanh(rho) - half, math.atanh(rho) + half)
    )


def test_a_straight_line_has_no_doubt() -> None:
    for sign in (1.0, -1.0):
        found = associate(np.arange(8.0), sign * np.arange(8.0))
        for correlation in (found.pearson, found.spearman):
            assert (correlation.value, correlation.low, correlation.high) == pytest.approx((sign, sign, sign))


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_the_interval_holds_the_truth_in_95_percent_of_independent_draws(rho: float) -> None:
    rng, repeats = np.random.default_rng(5), 1000
    rank = 6 / math.pi * math.asin(rho / 2)  # Spearman's correlation of a bivariate normal, Pearson 1907
    held = np.zeros(2)
    for _ in range(repeats):
        found = associate(*pairs(rng, 30, rho))
        held += [found.pearson.low <= rho <= found.pearson.high, found.spearman.low <= rank <= found.spearman.high]
    assert (abs(held / repeats - 0.95) < 0.025).all()  # 3.6 standard deviations of 1,000 draws


def _block_bootstrap(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of Pearson's correlation over moving blocks of n^(1/3) neighbours."""
    n = len(x)
    length = math.ceil(n ** (1 / 3))
    starts = rng.integers(0, n - length + 1, (300, math.ceil(n / length), 1))
    chosen = (starts + np.arange(length)).reshape(300, -1)[:, :n]
    a, b = (v[chosen] - v[chosen].mean(1, keepdims=True) for v in (x, y))
    found = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return tuple(np.quantile(found, (0.025, 0.975)))


@pytest.mark.parametrize("memory", [0.5, 0.8, 0.95])
def test_along_a_path_only_the_effective_number_of_points_keeps_the_promise(memory: float) -> None:
    """Why neither the plain interval nor a bootstrap of blocks is reported for a path."""
    rng, repeats, rho = np.random.default_rng(1), 400, 0.6
    held = np.zeros(3)
    for _ in range(repeats):
        x, y = pairs(rng, 31, rho, memory)
        plain, path, blocks = associate(x, y).pearson, associate(x, y, path=True).pearson, _block_bootstrap(x, y, rng)
        held += [low <= rho <= high for low, high in ((plain.low, plain.high), (path.low, path.high), blocks)]
    plain, path, blocks = held / repeats
    assert 0.91 <= path <= 0.99
    assert path > max(plain, blocks) + 0.03
    assert memory < 0.8 or max(plain, blocks) < 0.85


def test_effective_number_by_brute_force() -> None:
    x, y = pairs(np.random.default_rng(3), 12, 0.3, 0.9)
    n, a, b = 12, x - x.mean(), y - y.mean()
    total = 1.0
    for k in range(1, n):
        one = sum(a[i] * a[i + k] for i in range(n - k)) / sum(a**2)
        two = sum(b[i] * b[i + k] for i in range(n - k)) / sum(b**2)
        total += 2 * (1 - k / n) * one * two
    assert total > 1.5
    found = associate(x, y, path=True)
    assert found.pearson.effective == pytest.approx(n / total, rel=1e-9)
    assert found.n == n
    assert "effective number of independent points" in found.method


def test_a_path_never_counts_more_points_than_it_has_and_may_say_nothing() -> None:
    flips = [1.0, -1, 1, -1, 1, -1, 1, -1.1]
    assert associate(flips, np.arange(8.0), path=True).pearson.effective <= 8
    step = associate([0.0, 0.1, 0.9, 1.0], [0.0, 0.2, 1.1, 0.9], path=True).pearson
    assert step.effective < 3
    assert (step.low, step.high) == (-1.0, 1.0)


def scanned(**columns: list[float | str | None]) -> Table:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Table.of(rows, [Column(name) for name in columns])


def test_columns_are_read_in_the_order_of_the_path_and_gaps_left_out() -> None:
    x, y = pairs(np.random.default_rng(4), 9, 0.5, 0.7)
    order = [3, 8, 0, 5, 1, 7, 2, 6, 4]
    held = {"t": [i / 8 for i in order], "x": [x[i] for i in order], "y": [y[i] for i in order]}
    table = scanned(**held)
    assert associate_columns(table, "x", "y") == associate(x, y, path=True)
    assert associate_columns(table, "x", "y", path=False) == associate(np.array(held["x"]), np.array(held["y"]))
    gaps = scanned(**(held | {"x": [None if i == 5 else v for i, v in zip(order, held["x"], strict=True)]}))
    assert associate_columns(gaps, "x", "y") == associate(np.delete(x, 5), np.delete(y, 5), path=True)


@pytest.mark.parametrize("x", [[1.0, 2, 3, None], [2.0, 2, 2, 2], [1.0, 2, 3, math.inf], [0.0, 0, 0, 0]])
def test_columns_without_a_correlation_have_none(x: list[float | None]) -> None:
    assert associate_columns(scanned(t=[0.0, 0.3, 0.6, 1.0], x=x, y=[1.0, 3, 2, 5]), "x", "y") is None


def test_text_says_how_many_points_the_interval_rests_on() -> None:
    one = Correlation(0.987, -0.2, 0.9996, 3.71)
    assert str(one) == "0.99 (-0.20 to 0.999)"
    assert str(Association(one, one, 31, "")) == (
        f"Pearson {one}, Spearman {one}, intervals 95 %, n = 31, worth 3.7 independent points"
    )
    other = Correlation(0.5, 0.1, 0.8, 6.0)
    assert str(Association(other, one, 31, "")).endswith("n = 31, worth 3.7 to 6.0 independent points")
    assert str(associate([1, 2, 3, 5], [1, 3, 2, 6])).endswith("n = 4")


def test_to_json_holds_plain_numbers() -> None:
    held = associate([1, 2, 3, 5], [1, 3, 2, 6]).to_json()
    assert set(held) == {"pearson", "spearman", "n", "method"}
    assert set(held["pearson"]) == {"value", "low", "high", "effective"}


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0, 2.0]], [1.0], r"`x` should have one dimension. Found shape \(1, 2\)"),
        ([1.0, 2, 3, 4], [1.0, 2, 4], "`y` should have as many values as `x`, 4. Found 3"),
        ([1.0, 2, 3], [1.0, 2, 4], "`x` should hold at least 4 values. Found 3"),
        ([1.0, 2, math.nan, 3], [1.0, 2, 3, 4], "`x` should hold finite numbers. Found nan at place 2"),
        ([1.0, 2, 4, 3], [1.0, 2, 3, -math.inf], "`y` should hold finite numbers. Found -inf at place 3"),
        ([5.0] * 4, [1.0, 2, 3, 4], "`x` should vary by more than rounding. Found 5 throughout. A constant has no"),
        ([1.0, 2, 3, 4], [0.1] * 3 + [0.1 + 1e-15], "`y` should vary by more than rounding. Found 0.1 throughout"),
    ],
)
def test_what_has_no_correlation_is_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        associate(x, y)


def test_columns_that_cannot_be_read_are_refused() -> None:
    table = scanned(t=[0.0, 0.5], x=["a", "b"], loss=[1.0, 2.0])
    with pytest.raises(InputError, match=r"`table` should have numbers in column 'x'. Found 'a'"):
        associate_columns(table, "x", "loss")
    with pytest.raises(InputError, match="Did you mean 'loss'"):
        associate_columns(table, "los", "loss")
