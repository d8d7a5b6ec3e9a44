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


def height(u: float, v: float) -> float:
    """Corners 1, 3, 2, 8 and 16 h u (1 - u) v (1 - v) with h = 5 above their bilinear blend."""
    return (1 - u) * (1 - v) + 3 * (1 - u) * v + 2 * u * (1 - v) + 8 * u * v + 80 * u * (1 - u) * v * (1 - v)


def over(unit: str = "nat", *, names: tuple[str, str] = ("u", "v"), points: int = 5) -> Table:
    axis = [i / (points - 1) for i in range(points)]
    rows: list[dict[str, Cell]] = [{names[0]: u, names[1]: v, "test_loss": height(u, v)} for u in axis for v in axis]
    return Table.of(rows, (Column(names[0]), Column(names[1]), Column("test_loss", unit, "lower", "test", 100)))


def test_a_dome_over_a_bent_floor() -> None:
    found = surface_barriers(over())
    assert found["entezari"].value == pytest.approx(5.0)  # at the middle, whatever the corners
    assert found["entezari"].at == (0.5, 0.5)
    # At (0.75, 0.75): 0.0625 + 3 x 0.1875 + 2 x 0.1875 + 8 x 0.5625 = 5.5, and 80 x 0.1875^2 = 2.8125.
    top = 5.5 + 2.8125
    assert max(height(0.5, 0.5), height(0.5, 0.75), height(0.75, 0.5)) < height(0.5, 0.5) + 1
    peak = max(height(u / 4, v / 4) for u in range(5) for v in range(5))
    assert found["garipov_max"].value == found["draxler_max"].value == pytest.approx(peak)
    assert peak == pytest.approx(max(top, 3.5 + 5))
    assert found["garipov_max"].at == (0.5, 0.5)
    assert found["git_re_basin"].value == pytest.approx(peak - 3.5)
    assert found["draxler_rise"].value == pytest.approx(peak - 8)
    assert (found["garipov_min"].value, found["garipov_min"].at) == (1.0, (0.0, 0.0))
    # The blend has the mean of its corners; the mean of u (1 - u) over 0, 1/4, ..., 1 is 1/8.
    assert found["garipov_mean"].value == pytest.approx(3.5 + 80 / 64)
    assert found["garipov_mean"].at is None
    assert {barrier.t for barrier in found.values()} == {None}
    assert "corners" in found["draxler_rise"].definition or "corner" in found["draxler_rise"].definition
    assert "git_re_basin" not in surface_barriers(over("%"))
    assert surface_barriers(over("%"))["frankle"].value == pytest.approx(peak - 3.5)
    named = surface_barriers(over(names=("a", "b")), at=("a", "b"))
    assert named == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.frame.iloc[1:], r"`u, v` should be scanned at the four corners\. Found no \(0\.0, 0\.0\)\."),
        (lambda t: t.frame.iloc[[0, 4, 20, 24]], r"`u, v` should have a point between the corners\. Found 4 points\."),
        (lambda t: t.frame.iloc[[0, 3, *range(25)]], r"`u, v` should have each point once\. Found 2 repeated\."),
        (
            lambda t: t.frame.replace({8.0: nan}),
            r"`test_loss` should have a value at every point\. Found NaN at \(0\.75, 0\.5\)\.",
        ),
        (lambda t: t.frame.replace({8.0: inf}), r"`test_loss` should be finite at the corners\. Found .*inf\]\."),
    ],
)
def test_surfaces_that_cannot_be_told(change, message) -> None:
    whole = over()
    with pytest.raises(InputError, match=message):
        surface_barriers(Table(change(whole), whole.columns))


def test_surfaces_are_of_what_is_better_low() -> None:
    whole = over()
    columns = (*whole.columns[:2], Column("test_loss", "%", "higher"))
    with pytest.raises(InputError, match=r"`value` should be a loss or an error, of which less is better"):
        surface_barriers(Table(whole.frame, columns))
