"""Failures of adversarial training, recognised in made-up courses and against a search by brute force."""

from functools import partial
from math import nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus._check import InputError
from isthmus.table import Column, Table
from isthmus.training.budget import Budget
from isthmus.training.follow import Alarm
from isthmus.training.overfitting import catastrophic, stuck


def course(*errors: float | None, every: int = 100, **further: tuple[float, ...]) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = [{"step": every * (i + 1), "robust_error": e} for i, e in enumerate(errors)]
    for name, values in further.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def test_the_fall_is_named_with_its_steps_and_both_accuracies() -> None:
    said = catastrophic(course(80, 60, 55, 97.5), "robust_error")
    assert said == (
        "Catastrophic overfitting: robust accuracy (robust_error) fell from 45.0 % at step 300 to 2.5 % at step 400. "
        "The weights from before are the ones to keep; train with more attack steps or more noise."
    )


def test_a_recovery_does_not_undo_it_and_the_sentence_stays() -> None:
    rows = course(60, 90, 55, 50, 95, 50)
    said = catastrophic(rows, "robust_error")
    assert said is not None
    assert "fell from 40.0 % at step 100 to 10.0 % at step 200" in said
    assert {catastrophic(rows[:count], "robust_error") for count in range(2, 7)} == {said}
    assert catastrophic(rows[:1], "robust_error") is None


@pytest.mark.parametrize(
    ("errors", "drop", "warned"),
    [
        ((50.0, 70.0), 20.0, False),  # exactly the drop is not more than it
        ((50.0, 70.5), 20.0, True),
        ((50.0, 65.0, 80.0), 20.0, False),  # slowly: robust overfitting, which has another remedy
        ((50.0, 56.0), 5.0, True),
        ((70.0, 10.0), 20.0, False),  # a rise
        ((), 20.0, False),
        ((50.0,), 20.0, False),
        ((50.0, None, 90.0), 20.0, True),  # rows that lack it are passed over
        ((50.0, nan, 60.0), 20.0, False),
    ],
)
def test_the_rule_of_wong_et_al(errors: tuple[float | None, ...], drop: float, warned: bool) -> None:
    rows = course(*errors)
    assert (catastrophic(rows, "robust_error", drop=drop) is not None) == warned


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=8), st.integers(1, 99))
def test_it_warns_exactly_where_a_search_finds_a_fall(errors: list[int], drop: int) -> None:
    falls = [i for i in range(1, len(errors)) if errors[i] - errors[i - 1] > drop]
    said = catastrophic(course(*map(float, errors)), "robust_error", drop=drop)
    assert (said is None) == (not falls)
    assert said is None or f"at step {100 * (falls[0] + 1)}." in said


def table(rows: list[dict[str, float | None]], better: str) -> Table:
    return Table.of(rows, [Column("step"), Column("robust_error", "%", better)])  # type: ignore[arg-type]


def test_a_table_says_whether_a_column_is_an_error_or_an_accuracy() -> None:
    rising, falling = course(50, 90), course(90, 50)
    assert catastrophic(table(rising, "lower"), "robust_error") == catastrophic(rising, "robust_error")
    assert catastrophic(table(falling, "lower"), "robust_error") is None
    assert catastrophic(table(rising, "higher"), "robust_error") is None
    said = catastrophic(table(falling, "higher"), "robust_error")
    assert said is not None
    assert "fell from 90.0 % at step 100 to 50.0 % at step 200" in said
    missing = table(course(50, None, 90), "lower")
    assert catastrophic(missing, "robust_error") is not None


def test_a_model_that_fails_altogether_did_not_overfit() -> None:
    rows = course(50, 52, 90, fast_error=(30.0, 20.0, 91.0))
    said = catastrophic(rows, "robust_error", trained="fast_error")
    assert said == (
        "Collapse: robust accuracy (robust_error) fell from 48.0 % at step 200 to 10.0 % at step 300, "
        "and so did accuracy under the attack trained with (fast_error)."
    )
    rows = course(50, 52, 90, fast_error=(30.0, 20.0, 5.0))
    said = catastrophic(rows, "robust_error", trained="fast_error")
    assert said == catastrophic(rows, "robust_error")
    assert said is not None
    assert said.startswith("Catastrophic overfitting")
    rows[1]["fast_error"] = None  # not measured then: the fall is reported all the same
    assert catastrophic(rows, "robust_error", trained="fast_error") == said


def test_a_reset_of_the_budget_is_no_overfitting() -> None:
    """Two cycles of 1,000 steps: robust accuracy goes after step 1,000, where the budget starts again from zero."""
    errors = [90, 80, 70, 60, 50, 45, 44, 43, 42, 41, 80, 85, 70, 60, 50, 44, 42, 41, 40, 39]
    budget = Budget(kind="periodic-linear", target=1.0, resets=(0.5,))
    exempt = [(2000 * start, 2000 * full) for start, full in budget.climbs]
    assert exempt == [(1000, 1500)]
    rows = course(*errors)
    said = catastrophic(rows, "robust_error")
    assert said is not None
    assert "at step 1000 to 20.0 % at step 1100" in said
    assert catastrophic(rows, "robust_error", exempt=exempt) is None
    rows[-1]["robust_error"] = 95.0  # with the full budget in force it counts again
    said = catastrophic(rows, "robust_error", exempt=exempt)
    assert said is not None
    assert "at step 1900 to 5.0 % at step 2000" in said
    # A fall that ends where the exemption starts, and one that starts where it ends, are outside.
    assert catastrophic(course(50, 90), "robust_error", exempt=[(200, 300), (0, 100)]) is not None
    assert catastrophic(course(50, 90), "robust_error", exempt=[(199, 300)]) is None


LABELS = [0] * 3 + [1] * 5 + [2] * 2  # always 1: error 50 %


def test_the_constant_classifier_is_recognised_by_its_error() -> None:
    said = stuck(course(70, 50, 50.2, 49.8), LABELS, column="robust_error")
    assert said == (
        "Constant classifier: robust_error has been 50.00 % to within 0.5 points since step 200, "
        "the error of always answering class 1. Start from a smaller radius or learning rate."
    )
    assert stuck(course(70, 50, 50.2, 49.8, 50.0), LABELS, column="robust_error") == said  # the same while it lasts
    assert stuck(table(course(70, 50, 50.2, 49.8), "lower"), torch.tensor(LABELS), column="robust_error") == said
    assert "since step 100" in (stuck(course(50, 50, 50), LABELS, column="robust_error") or "")


def test_mnist_gives_the_figure_of_liu_et_al() -> None:
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # the classes of the MNIST test set
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    said = stuck([{"step": i, "error": 88.65} for i in range(3)], labels)
    assert said is not None
    assert "88.65 %" in said
    assert "class 1." in said


@pytest.mark.parametrize(
    ("errors", "last", "within"),
    [
        ((50.0, 50.0), 3, 0.5),  # too few rows yet
        ((50.0, 50.0, 49.4), 3, 0.5),  # it begins to learn
        ((50.0, 49.0, 50.0), 3, 0.5),
        ((50.0, 51.0, 50.0), 3, 0.5),  # worse than constant is not constant either
        ((50.2, 50.2, 50.2), 3, 0.1),
        ((50.0, 50.0, 50.0), 4, 0.5),
        ((None, 50.0, 50.0), 3, 0.5),
    ],
)
def test_what_is_not_constant_is_not_reported(errors: tuple[float | None, ...], last: int, within: float) -> None:
    assert stuck(course(*errors), LABELS, column="robust_error", last=last, within=within) is None


def test_bound_they_are_alarms() -> None:
    alarms: list[Alarm] = [
        partial(catastrophic, column="robust_error"),
        partial(stuck, labels=LABELS, column="robust_error"),
    ]
    held = table(course(20, 50, 50, 50), "lower")
    assert [alarm(held) is not None for alarm in alarms] == [True, True]


def test_bad_input() -> None:
    rows = course(50, 60)
    with pytest.raises(
        InputError, match=r"`column` should be one of robust_error, step\. Found 'robust_eror'\. Did you"
    ):
        catastrophic(rows, "robust_eror")
    with pytest.raises(InputError, match=r"`column` should be one of .*Found 'robust_eror'"):
        catastrophic(table(rows, "lower"), "robust_eror")
    with pytest.raises(InputError, match=r"`column` should be one of robust_error\. Found 'step'"):
        catastrophic([{"robust_error": 50.0}], "robust_error")
    with pytest.raises(InputError, match=r"`step` should be a number in every row\. Found None"):
        catastrophic([{"step": 1, "robust_error": 50.0}, {"robust_error": 50.0}], "robust_error")
    with pytest.raises(InputError, match=r"`robust_error` should be a number in every row\. Found 'high'"):
        catastrophic([{"step": 1, "robust_error": "high"}], "robust_error")
    with pytest.raises(InputError, match=r"`robust_error` should be a share in %, from 0 to 100\. Found 101\.0"):
        catastrophic(course(101), "robust_error")
    for drop in (0.0, 100.0, nan):
        with pytest.raises(InputError, match=r"`drop` should be points of accuracy between 0 and 100\. Found"):
            catastrophic(rows, "robust_error", drop=drop)
    with pytest.raises(InputError, match=r"`last` should be at least 1\. Found 0"):
        stuck(rows, LABELS, column="robust_error", last=0)
    with pytest.raises(InputError, match=r"`within` should be above 0 points\. Found 0"):
        stuck(rows, LABELS, column="robust_error", within=0.0)
    with pytest.raises(InputError, match=r"`labels` should hold at least one label\. Found none"):
        stuck(rows, [], column="robust_error")
