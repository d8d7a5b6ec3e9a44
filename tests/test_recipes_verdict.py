"""The verdict: bounds on the good side, on the bad side, or on both; and how many images would decide."""

import re
from math import sqrt

import pytest
import torch
from torch import Tensor

from isthmus.geometry.bases import Bernstein
from isthmus.geometry.build import connect
from isthmus.rates import Rate, wilson
from isthmus.recipes.evidence import _familiar
from isthmus.recipes.verdict import judge
from isthmus.repair.protocol import Repaired
from isthmus.report import Entry, RateEntry
from isthmus.table import Column, Table

Z = 1.959963984540054
SAME = torch.ones(2000, dtype=torch.bool)


def outcomes(n: int, lost: int, won: int) -> tuple[Tensor, Tensor]:
    """Before and after on n images: `lost` were right only before, `won` only after, the others both times."""
    before, after = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    after[:lost] = False
    before[lost : lost + won] = False
    return before, after


@pytest.mark.parametrize(
    ("hits", "n", "status"),
    [
        (0, 600, "done"),
        (20, 600, "done"),  # high 5.1 %
        (31, 600, "inconclusive"),
        (80, 600, "criteria_not_met"),
        (0, 20, "inconclusive"),
        (20, 20, "criteria_not_met"),
    ],
)
def test_attack_success_is_judged_on_its_wilson_interval(hits: int, n: int, status: str) -> None:
    low, high = wilson(hits / n, n)
    limit = 0.052
    expected = "done" if high <= limit else "criteria_not_met" if low > limit else "inconclusive"
    assert expected == status
    found, reasons = judge(Rate(hits, n), limit, SAME, SAME, 0.1)
    assert found == status
    assert reasons[0].startswith(f"Attack success {Rate(hits, n)}, limit 5.2 %: ")


def number(text: str) -> int:
    found = re.search(r"About ([\d,]+) ", text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 100), (8, 100)])
def test_the_number_of_triggered_images_that_would_decide_does(hits: int, n: int) -> None:
    status, reasons = judge(Rate(hits, n), 0.05, SAME, SAME, 0.1)
    assert status == "inconclusive"
    needed, value = number(reasons[0]), hits / n
    assert not wilson(value, needed)[0] <= 0.05 <= wilson(value, needed)[1]
    assert wilson(value, needed - 1)[0] <= 0.05 <= wilson(value, needed - 1)[1]


def test_no_number_of_images_decides_a_rate_on_the_limit() -> None:
    status, reasons = judge(Rate(5, 100), 0.05, SAME, SAME, 0.1)
    assert status == "inconclusive"
    assert "About" not in reasons[0]
    status, reasons = judge(None, 0.05, *outcomes(100, 10, 0), 0.1)
    assert status == "inconclusive"
    assert "About" not in reasons[1]


@pytest.mark.parametrize(
    ("n", "lost", "won", "status", "word"),
    [
        (1000, 30, 10, "done", "met"),
        (1000, 60, 40, "done", "met"),
        (1000, 170, 20, "criteria_not_met", "not met"),
        (1000, 130, 40, "inconclusive", "undecided"),
        (50, 3, 0, "inconclusive", "undecided"),
        (20, 0, 0, "done", "met"),
        (15, 0, 0, "inconclusive", "undecided"),  # no difference seen in 15 images is not none there
        (100, 0, 40, "done", "met"),  # it rose
    ],
)
def test_the_drop_is_judged_on_its_paired_interval(n: int, lost: int, won: int, status: str, word: str) -> None:
    drop = (lost - won) / n
    half = Z * sqrt(max(lost + won - (lost - won) ** 2 / n, 1.0)) / n
    expected = "done" if drop + half <= 0.1 else "criteria_not_met" if drop - half > 0.1 else "inconclusive"
    assert expected == status
    found, reasons = judge(None, 0.05, *outcomes(n, lost, won), 0.1)
    assert found == status
    interval = f"paired 95 %: {100 * (drop - half):.1f} to {100 * (drop + half):.1f}, n = {n:,}"
    assert reasons[1].startswith(f"Accuracy fell by {100 * drop:.1f} points ({interval}), limit 10: {word}.")
    assert ("About" in reasons[1]) == (status == "inconclusive")


@pytest.mark.parametrize(("n", "lost", "won"), [(50, 3, 0), (1000, 130, 40), (15, 0, 0)])
def test_the_number_of_test_images_that_would_decide_does(n: int, lost: int, won: int) -> None:
    _, reasons = judge(None, 0.05, *outcomes(n, lost, won), 0.1)
    drop, variance = (lost - won) / n, max(lost + won - (lost - won) ** 2 / n, 1.0) / n  # of one image

    def half(count: int) -> float:
        return Z * sqrt(variance / count)

    needed = number(reasons[1])
    assert half(needed) <= abs(drop - 0.1) < half(needed - 1)


def test_the_worse_of_both_criteria_is_the_verdict() -> None:
    good, bad, open_ = Rate(0, 1000), Rate(900, 1000), Rate(5, 100)
    kept, lost, unsure = outcomes(1000, 0, 0), outcomes(1000, 500, 0), outcomes(50, 3, 0)
    cases = {
        (good, kept): "done", (good, unsure): "inconclusive", (open_, kept): "inconclusive", (good, lost): "criteria_not_met",
        (bad, kept): "criteria_not_met", (bad, unsure): "criteria_not_met", (open_, lost): "criteria_not_met",
    }  # fmt: skip
    for (attack, pair), status in cases.items():
        assert judge(attack, 0.05, *pair, 0.1)[0] == status


def test_without_a_trigger_only_the_accuracy_is_judged() -> None:
    status, reasons = judge(None, 0.05, SAME, SAME, 0.1)
    assert status == "done"
    assert reasons[0] == (
        "No trigger is known: attack success was not measured. The accuracy criterion alone was judged."
    )


def test_the_limits_decide() -> None:
    pair = outcomes(1000, 50, 0)
    assert judge(None, 0.05, *pair, 0.1)[0] == "done"
    assert judge(None, 0.05, *pair, 0.02)[0] == "criteria_not_met"
    assert judge(Rate(30, 1000), 0.05, SAME, SAME, 0.1)[0] == "done"
    assert judge(Rate(30, 1000), 0.01, SAME, SAME, 0.1)[0] == "criteria_not_met"


@pytest.mark.parametrize("second", ["suspect 1", "fine-tuned"])
@pytest.mark.parametrize(("error", "warned"), [(5.0, True), (14.0, False), (30.0, False)])
def test_a_suspect_that_knows_the_validation_images_is_named(error: float, warned: bool, second: str) -> None:
    columns = [Column("t"), Column("validation_error", "%", "lower", "validation", 200)]
    rows = [{"t": t, "validation_error": e} for t, e in ((0.0, error), (0.5, 20.0), (1.0, 1.0))]
    ends = [torch.nn.Linear(1, 2), torch.nn.Linear(1, 2)]
    bridge = connect(ends, Bernstein(1), names=("suspect 0", second))
    main = Repaired("path", torch.nn.Identity(), 0.0, 0, bridge=bridge, table=Table.of(rows, columns))
    rate = RateEntry.of(Rate(840, 1000))  # three standard errors of 200 images are 7.8 points
    found = _familiar(main, [Entry(name=f"suspect {k}", clean_accuracy=rate) for k in range(2)])
    named = [text.split(" is ")[0] for text in found]
    assert named == ["suspect 0"] * warned + ["suspect 1"] * (second == "suspect 1")  # a tuned copy is no suspect
