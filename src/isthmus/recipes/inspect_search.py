"""What a search for triggers says of a model, as part of an inspection."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn

from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.randomness import stream
from isthmus.repair.protocol import Clean
from isthmus.repair.trust.triage import Triage, examine
from isthmus.report.inspection import CandidateEntry, DetectionLine, Finding

Search = Callable[[nn.Module, Clean, int], Triage]


@dataclass(frozen=True)
class Searched:
    """The entry of the document, and what it means for the whole."""

    entry: CandidateEntry
    findings: tuple[Finding, ...] = ()
    tested: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def examined(model: nn.Module, clean: Clean, seed: int) -> Triage:
    """Return what the library's own two detectors say of a model, without models to compare with."""
    return examine(model, clean, seed=seed)


def few(train: Samples, count: int, seed: int) -> Samples:
    """Return `count` training images, each class by its share: the test images measure, nothing is searched on them."""
    return train.subset(min(count, len(train)), generator=stream(seed, "inspect"))


def searched(model: nn.Module, samples: Samples, search: Search, *, seed: int) -> Searched:
    """Return what `search` says; it makes triggers up on one half of the samples and measures them on the other."""
    order = torch.randperm(len(samples), generator=stream(seed, "inspect halves"))
    halves = [samples.take(part.sort().values) for part in order.chunk(2)]
    try:
        found = search(model, Clean(halves[0], halves[1]), seed)
    except InputError as error:
        found = Triage("not applicable", str(error))
    entry = _entry(found)
    if found.verdict == "not applicable":
        return Searched(entry, untested=(f"triggers: {found.reason}",))
    tested = (f"search for triggers with {len(samples):,} training images",)
    if found.verdict == "suspicious":
        where = "the model" if found.target is None else f"class {found.target}"
        finding = Finding(code="candidate-trigger", level="finding", where=where, text=found.reason)
        return Searched(entry, (finding,), tested)
    doubt = f"the search for triggers is inconclusive: {found.reason}"
    return Searched(entry, (), tested, doubts=(doubt,) if found.verdict == "inconclusive" else ())


def _entry(found: Triage) -> CandidateEntry:
    lines = tuple(
        DetectionLine(
            detector=one.detector,
            statistic=one.statistic if isfinite(one.statistic) else None,
            target=one.target,
            flagged=one.flagged,
        )
        for one in found.detections
    )
    return CandidateEntry(
        verdict=found.verdict, reason=found.reason, p_value=found.p_value, target=found.target, detections=lines
    )
