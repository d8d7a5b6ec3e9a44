"""Triage: the p-value by hand, its validity under exchangeability, and that no verdict says clean."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.repair.protocol import Clean
from isthmus.repair.triggers.inverted import MaskSearch, smallest_masks
from isthmus.repair.trust.margins import Margins, MarginSearch, class_margins
from isthmus.repair.trust.triage import (
    Detection,
    Null,
    Searches,
    Verdict,
    examine,
    joint_p_value,
    of_margins,
    of_masks,
    triage,
)
from repair_example import suspects, trusted

SEARCHES = Searches(MaskSearch(steps=6, batch_size=20, interval=2), MarginSearch(images=2, steps=4))


def say(detector: str, statistic: float, target: int = 0, flagged: bool = False) -> Detection:
    return Detection(detector, statistic, target, flagged)


def null(count: int) -> Null:
    return Null({"a": tuple(map(float, range(count))), "b": tuple(map(float, range(count)))}, "numbers")


def test_no_verdict_says_clean() -> None:
    assert get_args(Verdict) == ("suspicious", "no evidence found", "inconclusive", "not applicable")


def test_the_p_value_of_one_detector_is_its_rank() -> None:
    one = Null({"a": (1.0, 2.0, 3.0, 4.0)}, "four")
    assert [joint_p_value([say("a", value)], one) for value in (0.0, 2.5, 4.0, 9.0)] == [1.0, 0.6, 0.4, 0.2]


def test_the_p_value_of_two_detectors_by_hand() -> None:
    """Shares at or above, of 4 models: a (3, 1, 2, 4)/4 and b (1, 4, 3, 2)/4; products 3, 4, 6, 8 of 16: the first is the least."""
    found = [say("a", 2.0), say("b", 9.0)]
    assert joint_p_value(found, Null({"a": (4.0, 3.0, 1.0), "b": (0.0, 1.0, 2.0)}, "three")) == 0.25
    assert joint_p_value([say("a", 4.0), say("b", 0.0)], Null({"a": (2.0, 3.0, 1.0), "b": (9.0, 1.0, 2.0)}, "t")) == 0.5


def test_the_p_value_is_valid_whatever_the_dependence() -> None:
    """One more of the same kind: P(p <= a) <= a for every a; two detectors that depend on each other in an odd way."""
    generator = np.random.default_rng(0)
    p_values: list[float] = []
    for _ in range(2000):
        a = generator.normal(size=20)
        b = a**2 + 0.3 * generator.normal(size=20)
        p_values.append(
            joint_p_value([say("a", a[0]), say("b", b[0])], Null({"a": tuple(a[1:]), "b": tuple(b[1:])}, "n"))
        )
    for level in (0.05, 0.1, 0.25, 0.5):
        share = float(np.mean(np.array(p_values) <= level + 1e-9))
        assert share <= level + 3 * (level * (1 - level) / 2000) ** 0.5
        assert share > 0.5 * level  # and not idle


def test_with_a_null_the_level_decides() -> None:
    high = [say("a", 99.0, 3), say("b", 99.0, 3)]
    found = triage(high, null=null(19), evaluations=7)
    assert (found.verdict, found.p_value, found.calibrated, found.target) == ("suspicious", 0.05, True, 3)
    assert found.reason == "p = 0.05 against 19 untampered models (numbers)"
    assert (found.evaluations, found.detections) == (7, tuple(high))
    assert triage(high, null=null(19), level=0.04).verdict == "inconclusive"
    few = triage(high, null=null(9))
    assert few.verdict == "inconclusive"
    assert few.reason.endswith("with so few no p-value falls to 0.05: the smallest is 0.1")
    low = triage([say("a", 5.0, 1, flagged=True), say("b", 5.0, 2, flagged=True)], null=null(19))
    assert (low.verdict, low.target, low.p_value) == ("no evidence found", None, 0.75)


def test_without_a_null_the_published_thresholds_and_the_word_uncalibrated() -> None:
    cases = {
        ("suspicious", 4): [say("a", 3.0, 4, flagged=True), say("b", 1.0, 4, flagged=True)],
        ("inconclusive", None): [say("a", 3.0, 4, flagged=True), say("b", 1.0, 5, flagged=True)],
        ("inconclusive", 4): [say("a", 3.0, 4, flagged=True), say("b", 0.1, 4)],
        ("no evidence found", 4): [say("a", 0.3, 4), say("b", 0.1, 4)],
    }
    for (verdict, target), detections in cases.items():
        found = triage(detections)
        assert (found.verdict, found.target, found.p_value, found.calibrated) == (verdict, target, None, False)
        assert found.reason.startswith("uncalibrated: ")
    assert triage([say("a", 3.0, 4, flagged=True)]).verdict == "inconclusive"  # one detector alone never suffices


def test_a_statistic_that_is_no_number_is_inconclusive() -> None:
    found = triage([say("a", float("nan")), say("b", 99.0)], null=null(19))
    assert (found.verdict, found.p_value, found.reason) == ("inconclusive", None, "no number from a")


def test_detections_carry_the_published_thresholds() -> None:
    flagged = of_margins(Margins((1.0, 9.0, 2.0), 0.04, 3, 6))
    assert flagged == Detection("largest margin", 0.96, 1, flagged=True)
    assert not of_margins(Margins((1.0, 9.0, 2.0), 0.06, 3, 6)).flagged
    masks = smallest_masks(suspects()[0], trusted().train, trusted().validation, SEARCHES.masks, seed=0)
    found = of_masks(masks)
    assert found == Detection("smallest mask", max(masks.index), masks.suspect.target, max(masks.index) > 2)


def test_a_model_is_examined_by_both_detectors() -> None:
    clean, model = trusted(), suspects()[0]
    with untouched(model):
        found = examine(model, clean, SEARCHES, seed=0)
    masks = smallest_masks(model, clean.train, clean.validation, SEARCHES.masks, seed=0)
    margins = class_margins(model, (1, 8, 8), 10, SEARCHES.margins, seed=0)
    assert found == triage([of_masks(masks), of_margins(margins)], evaluations=10)
    assert found != examine(model, clean, SEARCHES, seed=1)
    statistics = {one.detector: (one.statistic - 1, one.statistic - 2) for one in found.detections}
    held = examine(model, clean, SEARCHES, seed=0, null=Null(statistics, "two"), level=0.4)
    assert (held.verdict, held.p_value) == ("suspicious", pytest.approx(1 / 3))


def test_what_no_detector_is_defined_on_is_not_applicable() -> None:
    flat = Samples(torch.arange(40.0).view(20, 2) / 40, torch.arange(20) % 2, 2)
    clean = Clean(flat.take(torch.arange(10)), flat.take(torch.arange(10, 20)))
    found = examine(nn.Linear(2, 2), clean, seed=0)
    assert (found.verdict, found.detections) == ("not applicable", ())
    assert found.reason == "the inputs have shape (2,); the detectors need images (C, H, W)"
    two = Samples(torch.arange(20.0).view(20, 1, 1, 1) / 20, torch.arange(20) % 2, 2)
    clean = Clean(two.take(torch.arange(10)), two.take(torch.arange(10, 20)))
    assert examine(nn.Flatten(), clean, seed=0).reason == "with 2 classes none can stand out from the others"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Null({"a": (1.0,), "b": (1.0, 2.0)}, "x"), r"`null` should have one number per model.*Found \[1, 2\]"),
        (lambda: Null({"a": ()}, "x"), "`null` should hold at least one untampered model"),
        (lambda: Null({"a": (float("nan"),)}, "x"), r"`null` should hold numbers\. Found NaN"),
        (lambda: triage([say("a", 1.0)], level=0.0), r"`level` should be in \(0, 1\), a share of false alarms"),
        (lambda: triage([]), "`detections` should hold at least one"),
        (lambda: triage([say("c", 1.0)], null=null(3)), r"`null` should have statistics of c\. Found none of c"),
    ],
)
def test_what_cannot_be_judged_is_refused(act, message) -> None:
    with pytest.raises(InputError, match=message):
        act()
