"""The choice of a point from a table: hand-made tables, ties, widths, and columns that must not be read."""

import math

import pytest
import torch

from isthmus._check import InputError
from isthmus.geometry.bases import Bernstein, Product
from isthmus.rates import Rate
from isthmus.repair.choose import Choice, depth, farthest_within
from isthmus.table import Column, Split, Table

T = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)


def table(errors: list[float], *, t: tuple[float, ...] = T, n: int | None = 100, split: Split = "validation") -> Table:
    columns = (Column("t"), Column("validation_error", "%", "lower", split, n))
    return Table.of([{"t": u, "validation_error": e} for u, e in zip(t, errors, strict=True)], columns)


def test_all_alike_means_the_middle() -> None:
    choice = farthest_within(table([10.0] * 9), margin=0.0)
    assert (choice.u[0], choice.candidates) == (0.5, 7)
    assert choice.accuracy == choice.best == Rate(90, 100)


def test_points_below_the_bar_are_passed_over() -> None:
    #                     0.0  0.1  0.25  0.4   0.5   0.6   0.75  0.9  1.0
    choice = farthest_within(table([0.0, 2.0, 3.0, 40.0, 50.0, 40.0, 30.0, 2.0, 0.0]), margin=0.02)
    assert (choice.u[0], choice.candidates) == (0.25, 3)
    assert choice.accuracy == Rate(97, 100)
    assert choice.best == Rate(98, 100)


def test_the_ends_neither_win_nor_set_the_bar() -> None:
    choice = farthest_within(table([0.0, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0, 0.0]), margin=0.0)
    assert choice.u[0] == 0.5
    assert choice.best == Rate(70, 100)


@pytest.mark.parametrize(
    ("middle", "margin", "errors", "expected"),
    [
        (13.0, 0.0, 1.0, 0.5),  # best 90 % of 100: one standard error is sqrt(0.09 / 100) = 3 points
        (14.0, 0.0, 1.0, 0.1),
        (14.0, 0.04, 1.0, 0.5),  # the larger of the two counts
        (15.0, 0.04, 1.0, 0.1),
        (13.0, 0.0, 0.9, 0.1),
        (16.0, 0.0, 2.0, 0.5),
        (17.0, 0.0, 2.0, 0.1),
    ],
)
def test_the_bar_is_the_margin_or_the_standard_error_below_the_best(
    middle: float, margin: float, errors: float, expected: float
) -> None:
    held = table([0.0, 10.0, 90.0, 90.0, middle, 90.0, 90.0, 90.0, 0.0])
    choice = farthest_within(held, margin=margin, errors=errors)
    assert choice.u[0] == expected
    assert choice.bar == pytest.approx(0.9 - max(margin, 0.03 * errors))


def test_the_standard_error_is_that_of_the_number_of_images() -> None:
    few, many = (farthest_within(table([20.0] * 9, n=n), margin=0.0) for n in (25, 400))
    assert few.bar == pytest.approx(0.8 - math.sqrt(0.8 * 0.2 / 25))
    assert many.bar == pytest.approx(0.8 - math.sqrt(0.8 * 0.2 / 400))


def test_a_perfect_best_leaves_the_margin_alone() -> None:
    assert farthest_within(table([0.0] * 9), margin=0.02).bar == pytest.approx(0.98)


def test_a_tie_in_distance_goes_to_the_higher_accuracy_then_to_the_lower_t() -> None:
    left = [50.0, 50.0, 50.0, 10.0, 50.0, 11.0, 50.0, 50.0, 50.0]
    assert farthest_within(table(left), margin=0.1).u[0] == 0.4
    right = [50.0, 50.0, 50.0, 11.0, 50.0, 10.0, 50.0, 50.0, 50.0]
    assert farthest_within(table(right), margin=0.1).u[0] == 0.6
    level = [50.0, 50.0, 50.0, 10.0, 50.0, 10.0, 50.0, 50.0, 50.0]
    assert farthest_within(table(level), margin=0.1).u[0] == 0.4
    # 0.1 and 0.9 are equally far although 1 - 0.9 is not 0.1 in binary
    outer = [50.0, 11.0, 50.0, 50.0, 50.0, 50.0, 50.0, 10.0, 50.0]
    assert farthest_within(table(outer), margin=0.1).u[0] == 0.9


def test_the_order_of_the_rows_does_not_matter() -> None:
    errors = [0.0, 2.0, 3.0, 4.0, 50.0, 40.0, 30.0, 2.0, 0.0]
    backwards = table(errors[::-1], t=T[::-1])
    assert farthest_within(backwards, margin=0.02) == farthest_within(table(errors), margin=0.02)


def test_wild_test_columns_change_nothing() -> None:
    held = table([0.0, 2.0, 3.0, 4.0, 50.0, 40.0, 30.0, 2.0, 0.0])
    rows = [{"t": t, "test_error": 100.0 * (t != 0.9), "attack_success": 1000 * t - 500} for t in T]
    wild = Table.of(
        rows,
        (Column("t"), Column("test_error", "%", "lower", "test", 100), Column("attack_success", "%", None, "test")),
    )
    assert farthest_within(held.join(wild, on="t"), margin=0.02) == farthest_within(held, margin=0.02)


def test_rule_and_explanation_say_what_was_done() -> None:
    choice = farthest_within(table([0.0, 2.0, 3.0, 40.0, 50.0, 40.0, 30.0, 2.0, 0.0]), margin=0.02)
    assert "within 2.0 points of the best interior point" in choice.rule
    assert "the larger of 2.0 points and 1 standard error(s), n = 100" in choice.rule
    assert choice.explanation.startswith("t = 0.25: validation accuracy 97.0 % (91.5-99.0, n = 100)")
    assert "bar 96.0 %; 3 of 7 interior points met it." in choice.explanation


@pytest.mark.parametrize("split", ["test", "train", None])
def test_columns_of_another_split_are_refused(split: Split | None) -> None:
    text = rf"`table` should have a column validation_error measured on validation data\. Found {split}"
    with pytest.raises(InputError, match=text):
        farthest_within(table([0.0] * 9, split=split), margin=0.0)  # type: ignore[arg-type]


def test_a_table_without_the_column_is_refused() -> None:
    held = Table.of([{"t": 0.5, "test_error": 1.0}], (Column("t"), Column("test_error", "%", "lower", "test", 10)))
    with pytest.raises(InputError, match=r"`column` should be one of t, test_error\. Found .validation_error."):
        farthest_within(held, margin=0.0)


def test_a_table_that_does_not_say_its_n_is_refused() -> None:
    with pytest.raises(InputError, match="`table` should say on how many samples validation_error was measured"):
        farthest_within(table([0.0] * 9, n=None), margin=0.0)


def test_a_table_of_ends_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"have at least one point strictly between the ends\. Found 2 rows"):
        farthest_within(table([0.0, 0.0], t=(0.0, 1.0)), margin=0.0)


def test_on_a_surface_the_middle_comes_before_edges_and_edges_before_what_is_near_corners() -> None:
    places = [(u, v) for u in (0.0, 0.5, 1.0) for v in (0.0, 0.5, 1.0)]
    columns = (Column("u"), Column("v"), Column("validation_error", "%", "lower", "validation", 100))

    def chosen(errors: dict[tuple[float, float], float]) -> Choice:
        rows = [{"u": u, "v": v, "validation_error": errors.get((u, v), 10.0)} for u, v in places]
        return farthest_within(Table.of(rows, columns), margin=0.0)

    assert chosen({}).u == (0.5, 0.5)
    edge = chosen({(0.5, 0.5): 50.0, (1.0, 1.0): 0.0})
    assert (edge.u, edge.candidates, edge.best) == ((0.0, 0.5), 4, Rate(90, 100))  # the best corner sets no bar
    assert edge.rule.startswith(
        "farthest from all corners among other points whose validation accuracy is within 3.0 points"
    )
    assert edge.explanation.startswith("u = 0, v = 0.5: validation accuracy")
    assert chosen({(0.5, 0.5): 50.0, (0.5, 1.0): 8.0}).u == (0.5, 1.0)  # equally far: the more accurate


@pytest.mark.parametrize(("u", "expected"), [((0.25,), 0.25), ((0.0, 1.0), 0.0), ((0.25, 0.5), 1 - 0.75 * 0.5)])
def test_depth_is_one_less_the_largest_corner_weight(u: tuple[float, ...], expected: float) -> None:
    flat = Bernstein(1) if len(u) == 1 else Product(Bernstein(1), Bernstein(1))
    weights = flat(torch.tensor(u, dtype=torch.float64))
    assert depth(u) == pytest.approx(expected) == pytest.approx(1 - float(weights.max()))
