"""Triage over the grid: leave-one-out p-values by hand, shares with their bounds, and what gave no number."""

from dataclasses import replace
from math import nan

import pytest

from isthmus.rates import Rate
from isthmus.recipes.repair_grid_triage import Inspected, false_alarms, p_value, triage
from isthmus.repair.trust.triage import Detection
from isthmus.report.inspection import CandidateEntry, DetectionLine, FileEntry, InspectDocument
from repair_grid_example import FASHION, setting


def seen(value: float, of=None, *, verdict: str = "no evidence found") -> Inspected:
    return Inspected(of or setting(None), verdict, (Detection("d", value, 3, False), Detection("e", value, 3, False)))


def test_p_values_are_against_the_other_untampered_models():
    null = [seen(float(i)) for i in range(20)]
    assert p_value(null[19], null) == pytest.approx(1 / 20)  # itself and 19 others
    assert p_value(null[0], null) == 1.0
    bad = seen(30.0, setting())
    assert p_value(bad, [*null, bad]) == pytest.approx(1 / 21)
    assert p_value(seen(30.0, setting(block=FASHION)), null) is None  # none of its own kind to compare with
    assert p_value(seen(nan, setting()), null) is None
    assert p_value(bad, [*null, seen(nan)]) == pytest.approx(1 / 21)  # a model without a number is no null


def test_triage_by_threat():
    null = [seen(float(i), verdict="inconclusive" if i == 0 else "no evidence found") for i in range(20)]
    bad = [seen(30.0, setting(), verdict="suspicious"), seen(2.0, setting())]
    free, tampered = triage([*null, *bad]).rows()
    assert (free["threat"], free["models"], free["suspicious"], free["inconclusive"]) == ("untampered", 20, 0.0, 5.0)
    assert (free["calibrated"], free["suspicious_high"]) == (5.0, pytest.approx(100 * Rate(0, 20).high))
    assert (tampered["suspicious"], tampered["calibrated"], tampered["rate"]) == (50.0, 50.0, 0.1)
    alone = triage([seen(1.0, setting())]).rows()[0]
    assert (alone["calibrated"], alone["suspicious"]) == (None, 0.0)


@pytest.mark.parametrize(("alarms", "n", "holds"), [(0, 20, None), (0, 100, True), (9, 20, False), (1, 20, None)])
def test_the_false_alarm_rate_is_printed_with_its_bounds(alarms, n, holds):
    held = [seen(1.0, verdict="suspicious" if i < alarms else "no evidence found") for i in range(n)]
    claim = false_alarms([*held, seen(1.0, setting(), verdict="suspicious")])
    assert claim is not None
    assert (claim.holds, claim.found) == (holds, f"{alarms} of {n}: {Rate(alarms, n)}")
    assert false_alarms([seen(1.0, setting())]) is None


def test_an_inspection_without_a_number_or_a_search():
    lines = tuple(DetectionLine(detector="d", statistic=s, target=1, flagged=False) for s in (1.0, None))
    document = InspectDocument(
        status="nothing_found",
        file=FileEntry(path="m", layout="safetensors", size=1, sha256="0"),
        tensors=(),
        parameters=1,
        dtypes={},
        candidates=CandidateEntry(verdict="inconclusive", reason="-", detections=lines),
    )
    found = Inspected.read(setting(), document)
    assert (found.verdict, found.detections[0].statistic, found.whole) == ("inconclusive", 1.0, False)
    bare = Inspected.read(setting(), document.model_copy(update={"candidates": None}))
    assert (bare.verdict, bare.detections, bare.whole) == ("not applicable", (), False)
    assert replace(found, detections=found.detections[:1]).whole
