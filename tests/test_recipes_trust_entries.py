"""Results of the trust measurements as entries of a report: every number arrives where it belongs."""

import base64
import io
from math import nan

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from isthmus.data import Samples
from isthmus.rates import Paired, Rate
from isthmus.recipes.trust_entries import (
    disagreement_entry,
    inverted_entries,
    planted_entries,
    reactivation_entries,
    triage_entry,
)
from isthmus.repair.triggers.candidates import Candidate, Inversion
from isthmus.repair.triggers.inverted import ChangeSearch
from isthmus.repair.trust.disagreement import disagreements
from isthmus.repair.trust.reactivation import Reactivation, Stress
from isthmus.repair.trust.removal import Removal, Removed
from isthmus.repair.trust.triage import Detection, Triage
from isthmus.tampering import parse_trigger

TRIGGER = parse_trigger("patch:size=1,at=0x0")


def test_planted() -> None:
    # The copy was right alone on 6 images, the repaired one on 2, of 100: it lost 4 points.
    one = Removed("patch", Rate(90, 100), Rate(9, 100), Rate(80, 100), Paired(6, 2, 100, 0.29), 0.9, 0.8, 0.95)
    (entry,) = planted_entries(Removal((one,), ("skipped",)))
    assert (entry.name, entry.before.value, entry.after.value) == ("patch", 0.9, 0.09)
    assert (entry.removed.value, entry.removed.low, entry.removed.high) == (0.9, 0.8, 0.95)
    half = 1.959963984540054 * (8 - 16 / 100) ** 0.5 / 100
    assert entry.cost.value == pytest.approx(0.04)
    assert (entry.cost.low, entry.cost.high) == pytest.approx((0.04 - half, 0.04 + half))


def inversion(index: tuple[float, ...]) -> Inversion:
    found = tuple(Candidate(k, TRIGGER, 3.0 + k, Rate(50 + k, 60), True) for k in range(len(index)))
    return Inversion("masks", found, index, 10)


def test_inverted() -> None:
    after = {0: Rate(3, 60), 2: Rate(9, 60)}
    first, last = inverted_entries("a", inversion((2.5, 0.1, -1.0)), after, p_value=0.04)
    assert (first.label, first.anomaly, first.flagged, first.p_value) == (0, 2.5, True, 0.04)
    assert (first.before.value, first.after.value) == (50 / 60, 3 / 60)
    assert (last.label, last.flagged, last.p_value, last.after.value) == (2, False, None, 9 / 60)
    assert not inverted_entries("a", inversion((2.5, 0.1, -1.0)), after, threshold=3.0)[0].flagged


def test_two_classes_have_no_anomaly_index() -> None:
    entries = inverted_entries("a", inversion((nan, nan)), {0: Rate(3, 60), 1: Rate(9, 60)})
    assert [(one.anomaly, one.flagged) for one in entries] == [(None, False)] * 2


def test_reactivation() -> None:
    found = Reactivation(Rate(1, 50), Rate(30, 50), Rate(45, 50), Rate(44, 50), Rate(20, 50), Rate(18, 50), 7)
    tuned, changed = reactivation_entries("patch", found, Stress(samples=5, change=ChangeSearch(radius=0.05)))
    assert (tuned.means, tuned.before.value, tuned.after.value, tuned.control) == (
        "re-tuned on 5 triggered images",
        0.02,
        0.6,
        None,
    )
    assert changed.means == "trigger changed by at most 0.05 in each value"
    assert changed.control is not None
    assert (changed.after.value, changed.control.value) == (0.4, 0.36)


class Brightness(nn.Module):
    """Class 1 where the mean is above a threshold, else class 0."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1).mean(1) - self.threshold
        return torch.stack([-score, score], 1)


def test_disagreement_by_hand() -> None:
    """Of five grey images the first model calls those above 0.3 class 1, the second those above 0.6: they differ on 0.4 and 0.5."""
    shades = torch.tensor([0.1, 0.2, 0.4, 0.5, 0.9])
    x = (255 * shades).round().to(torch.uint8).view(5, 1, 1, 1).expand(5, 1, 4, 4).contiguous()
    samples = Samples(x, torch.tensor([0, 0, 1, 0, 1]), 2, index=torch.tensor([10, 11, 12, 13, 14]))
    plain, shown = disagreements(Brightness(0.3), Brightness(0.6), samples, triggers={"dot": TRIGGER})
    entry = disagreement_entry("suspect 0", plain, samples)
    assert (entry.differ.value, entry.differ.n, entry.shown) == (0.4, 5, "")
    assert (entry.only_suspect_right, entry.only_repaired_right, entry.neither_right) == (1, 1, 0)
    assert [(move.suspect, move.repaired, move.count) for move in entry.moves] == [(1, 0, 2)]
    assert {(one.index, one.label, one.suspect, one.repaired) for one in entry.examples} == {
        (12, 1, 1, 0),
        (13, 0, 1, 0),
    }
    assert len(disagreement_entry("suspect 0", plain, samples, most=1).examples) == 1
    for one in entry.examples:
        held = np.asarray(Image.open(io.BytesIO(base64.b64decode(one.png))).convert("L"))
        assert np.array_equal(held, x[one.index - 10, 0].numpy())
    triggered = disagreement_entry("suspect 0", shown, samples, TRIGGER)
    assert triggered.shown == "dot"
    held = np.asarray(Image.open(io.BytesIO(base64.b64decode(triggered.examples[0].png))).convert("L"))
    assert held[0, 0] == 255


def test_inputs_that_are_no_pictures_have_no_examples() -> None:
    samples = Samples(torch.tensor([[0.1], [0.5]]), torch.tensor([0, 1]), 2)
    (found,) = disagreements(Brightness(0.3), Brightness(0.6), samples)
    entry = disagreement_entry("a", found, samples)
    assert (entry.differ.value, entry.examples) == (0.5, ())


def test_triage() -> None:
    found = Triage(
        "suspicious",
        "both point at 3",
        0.01,
        True,
        3,
        (Detection("masks", 4.2, 3, True), Detection("margins", nan, 3, False)),
    )
    entry = triage_entry("a", found, Rate(1, 20))
    assert (entry.verdict, entry.reason, entry.p_value) == ("suspicious", "both point at 3", 0.01)
    assert [(one.name, one.statistic, one.verdict) for one in entry.detectors] == [
        ("masks", 4.2, "suspicious"),
        ("margins", None, "no evidence found"),
    ]
    assert entry.false_alarms is not None
    assert entry.false_alarms.value == 0.05
    assert triage_entry("a", found).false_alarms is None
