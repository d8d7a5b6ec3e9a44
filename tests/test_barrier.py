"""Barriers of paths whose height is known on paper."""

from math import inf, nan

import pytest

from isthmus._check import InputError
from isthmus.barrier import barriers, surface_barriers
from isthmus.table import Better, Cell, Column, Table

GRID = [i / 20 for i in range(21)]


def table(
    values: list[float], *, unit: str = "nat", t: list[float] | None = None, speed: list[float] | None = None
) -> Table:
    columns = [Column("t"), Column("test_loss", unit, "lower", "test", 100)]
    rows: list[dict[str, Cell]] = [{"t": a, "test_loss": b} for a, b in zip(t or GRID, values, strict=True)]
    if speed is not None:
        columns.append(Column("speed"))
        rows = [{**row, "speed": s} for row, s in zip(rows, speed, strict=True)]
    return Table.of(rows, columns)


def parabola(t: float) -> float:
    """Ends 1 and 3, and 4 h t (1 - t) with h = 5 above the line between them."""
    return 1 + 2 * t + 20 * t * (1 - t)


def test_a_parabola_over_a_slope() -> None:
    found = barriers(table([parabola(t) for t in GRID]))
    # d/dt = 22 - 40 t: the top lies at 0.55, the highest rise over the line at 1/2.
    assert found["entezari"].value == pytest.approx(5.0)
    assert found["entezari"].t == 0.5
    assert found["git_re_basin"].value == pytest.approx(parabola(0.55) - 2)
    assert found["git_re_basin"].t == 0.55
    assert found["garipov_max"].value == found["draxler_max"].value == pytest.approx(7.05)
    assert found["garipov_min"].value == 1.0
    assert found["garipov_min"].t == 0.0
    assert found["draxler_rise"].value == pytest.approx(7.05 - 3)
    # Mean of the 21 points: 1 + 2/2 + 20 x (mean of t - t^2 = 1/2 - 41/120).
    assert found["garipov_mean"].value == pytest.approx(2 + 20 * (0.5 - 41 / 120))
    assert found["garipov_mean"].t is None
    assert {barrier.unit for barrier in found.values()} == {"nat"}
    assert all(barrier.name == name for name, barrier in found.items())
    assert all(barrier.citation and "loss" in barrier.definition for barrier in found.values())


def test_frankle_is_of_errors_and_git_re_basin_of_losses() -> None:
    loss, error = barriers(table([parabola(t) for t in GRID])), barriers(table([parabola(t) for t in GRID], unit="%"))
    assert "frankle" not in loss
    assert "git_re_basin" not in error
    assert error["frankle"].value == loss["git_re_basin"].value
    assert error["frankle"].unit == "%"
    assert "error" in error["entezari"].definition


def test_a_valley_has_no_barrier_and_a_fall_below_the_line_is_zero() -> None:
    found = barriers(table([1 - t * (1 - t) for t in GRID]))
    assert found["entezari"].value == 0.0
    assert found["entezari"].t == 0.0
    assert found["draxler_rise"].value == 0.0
    assert found["garipov_min"].t == 0.5


def test_reversed_and_shuffled_paths_have_the_same_barriers() -> None:
    values = [parabola(t) for t in GRID]
    straight = barriers(table(values))
    shuffled = barriers(table(values[::-1], t=GRID[::-1]))
    assert {name: b.value for name, b in straight.items()} == {name: b.value for name, b in shuffled.items()}
    assert {name: b.t for name, b in straight.items()} == {name: b.t for name, b in shuffled.items()}
    backwards = barriers(table(values[::-1]))
    for name, barrier in straight.items():
        assert backwards[name].value == pytest.approx(barrier.value)
        assert barrier.t is None or backwards[name].t == pytest.approx(1 - barrier.t)


def test_the_length_weighted_mean_forgets_the_parametrisation() -> None:
    # The value is the length s run through; with s = t^2 the speed is 2 t, and the mean over the length is 1/2.
    fine = [i / 1000 for i in range(1001)]
    found = barriers(table([t * t for t in fine], t=fine, speed=[2 * t for t in fine]))
    assert found["garipov_int"].value == pytest.approx(0.5, abs=1e-6)
    assert found["garipov_mean"].value == pytest.approx(1 / 3, abs=1e-3)
    # By hand: steps of length 0.5 x (1 + 3) / 2 = 1 and 0.5 x (3 + 5) / 2 = 2, values in the middle 1 and 3.
    small = barriers(table([0.0, 2.0, 4.0], t=[0.0, 0.5, 1.0], speed=[1.0, 3.0, 5.0]))
    assert small["garipov_int"].value == pytest.approx((1 * 1 + 2 * 3) / 3)
    # Rows in another order carry their speed along.
    turned = barriers(table([4.0, 0.0, 2.0], t=[1.0, 0.0, 0.5], speed=[5.0, 1.0, 3.0]))
    assert turned["garipov_int"] == small["garipov_int"]
    assert "garipov_int" not in barriers(table([parabola(t) for t in GRID]))


def test_a_diverged_point_is_an_infinite_barrier() -> None:
    found = barriers(table([1.0, inf, 1.0], t=[0.0, 0.5, 1.0]))
    assert found["entezari"].value == inf
    assert found["entezari"].t == 0.5


@pytest.mark.parametrize(
    ("values", "t", "message"),
    [
        ([1.0, 1.0], [0.0, 1.0], r"`t` should have both ends and a point between\. Found 2 points"),
        ([1.0, 1.0, 1.0], [0.0, 0.5, 0.9], r"`t` should run from 0 to 1, the ends of the path\. Found 0 to 0\.9"),
        ([1.0, 1.0, 1.0], [-0.5, 0.5, 1.0], r"Found -0\.5 to 1"),
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0], r"`t` should have each point once\. Found t = 0\.5 twice"),
        ([1.0, nan, 1.0], [0.0, 0.5, 1.0], r"`test_loss` should have a value at every point\. Found NaN at t = 0\.5"),
        ([1.0, 1.0, inf], [0.0, 0.5, 1.0], r"`test_loss` should be finite at the ends\. Found 1\.0 and inf"),
    ],
)
def test_paths_without_a_barrier_are_refused(values: list[float], t: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        barriers(table(values, t=t))


@pytest.mark.parametrize(("better", "refused"), [("higher", True), ("lower", False), (None, False)])
def test_more_is_better_has_no_barrier(better: Better | None, refused: bool) -> None:
    rows = [{"t": t, "accuracy": 1.0} for t in GRID]
    made = Table.of(rows, [Column("t"), Column("accuracy", "%", better)])
    if not refused:
        assert barriers(made, value="accuracy")["frankle"].value == 0.0
        return
    with pytest.raises(
        InputError, match=r"`value` should be a loss or an error, of which less is better\. Found accuracy"
    ):
        barriers(made, value="accuracy")


def test_unknown_columns_and_impossible_speeds_are_refused() -> None:
    made = table([parabola(t) for t in GRID])
    with pytest.raises(InputError, match=r"Found 'test_los'\. Did you mean 'test_loss'\?"):
        barriers(made, value="test_los")
    with pytest.raises(InputError, match=r"`column` should be one of t, test_loss\. Found 'u'"):
        barriers(made, at="u")
    with pytest.raises(
        InputError, match=r"`speed` should be at least 0 and not 0 everywhere\. Found \[0\.0, -1\.0, 0\.0\]"
    ):
        barriers(table([1.0, 2.0, 1.0], t=[0.0, 0.5, 1.0], speed=[0.0, -1.0, 0.0]))


def surface_of(rows, unit="nat"):
    columns = [Column("u"), Column("v"), Column("test_loss", unit, "lower")]
    return Table.of([dict(zip(("u", "v", "test_loss"), row, strict=True)) for row in rows], columns)


SQUARE = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
ROWS = [(0.0, 0.0, 1.0), (0.0, 1.0, 2.0), (1.0, 0.0, 3.0), (1.0, 1.0, 8.0), (0.5, 0.5, 4.5), (0.5, 0.0, 2.25)]


def test_surface_barriers_against_numbers_on_paper():
    found = surface_barriers(surface_of(ROWS), SQUARE)
    assert {name: held.value for name, held in found.items()} == {
        "git_re_basin": 8 - 3.5,
        "entezari": 1.0,  # at the middle 4.5 against 14 / 4
        "garipov_max": 8.0,
        "garipov_min": 1.0,
        "garipov_mean": 20.75 / 6,
        "draxler_max": 8.0,
        "draxler_rise": 0.0,
    }
    assert found["entezari"].u == (0.5, 0.5)
    assert found["garipov_mean"].u is None
    assert found["entezari"].t is None
    assert found["draxler_rise"].definition == "highest loss minus that of the worst corner"
    three = [row for row in ROWS if row[:2] != (1.0, 1.0)]
    flat = surface_barriers(surface_of(three), SQUARE[:3])
    assert flat["entezari"].value == 4.5 - (1 + (3 - 1) / 2 + (2 - 1) / 2)
    assert set(surface_barriers(surface_of(ROWS, "%"), SQUARE)) >= {"frankle"}


def test_a_surface_with_one_edge_has_the_barriers_of_that_path():
    t = [i / 4 for i in range(5)]
    z = [0.3, 1.0, 0.7, 0.2, 0.5]
    path = Table.of(
        [{"t": a, "test_loss": b} for a, b in zip(t, z, strict=True)],
        [Column("t"), Column("test_loss", "nat", "lower")],
    )
    wide = surface_of([(u, a, b) for u in (0.0, 1.0) for a, b in zip(t, z, strict=True)])
    ours, theirs = surface_barriers(wide, SQUARE), barriers(path)
    assert {name: held.value for name, held in ours.items()} == pytest.approx(
        {name: held.value for name, held in theirs.items()}
    )


@pytest.mark.parametrize(
    ("rows", "corners", "text"),
    [
        (ROWS, SQUARE[:2], r"`corners` should be those of the unit square, or \(0, 0\), \(1, 0\) and \(0, 1\). Found"),
        (ROWS[1:], SQUARE, r"`table` should have a row for each corner. Found none at \(u, v\) = \(0.0, 0.0\)"),
        (
            [*ROWS, (0.25, 0.0, nan)],
            SQUARE,
            r"`test_loss` should have a value at every point. Found NaN at \(u, v\) = \(0.25, 0.0\)",
        ),
        ([(0.0, 0.0, inf), *ROWS[1:]], SQUARE, r"`test_loss` should be finite at the corners. Found \[inf"),
    ],
)
def test_bad_surfaces_are_refused(rows, corners, text):
    with pytest.raises(InputError, match=text):
        surface_barriers(surface_of(rows), corners)
