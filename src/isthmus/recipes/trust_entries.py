"""What planting, inverting, re-tuning, comparing and triage have found, as entries of a report."""

from collections.abc import Mapping, Sequence
from math import isfinite

from isthmus import report
from isthmus.data import Samples
from isthmus.rates import Rate
from isthmus.recipes.quality import change_of
from isthmus.repair.triggers.candidates import Inversion
from isthmus.repair.trust.disagreement import Disagreement
from isthmus.repair.trust.reactivation import Reactivation, Stress
from isthmus.repair.trust.removal import Removal
from isthmus.repair.trust.triage import Triage
from isthmus.report.picture import png
from isthmus.tampering.triggers import Trigger, apply_trigger

MOST_MOVES = 5


def planted_entries(removal: Removal) -> tuple[report.Planted, ...]:
    """Return what became of every plant that took. cost: the accuracy that its copy lost, with the paired interval."""
    found: list[report.Planted] = []
    for one in removal.outcomes:
        change = change_of(one.cost, one.name)
        cost = report.Estimate(value=0.0 - change.value, low=0.0 - change.high, high=0.0 - change.low)
        share = report.Estimate(value=one.share, low=min(one.low, one.share), high=max(one.high, one.share))
        before, after = report.RateEntry.of(one.before), report.RateEntry.of(one.after)
        found.append(report.Planted(name=one.name, before=before, after=after, removed=share, cost=cost))
    return tuple(found)


def inverted_entries(
    suspect: str,
    inversion: Inversion,
    after: Mapping[int, Rate],
    *,
    threshold: float = 2.0,
    p_value: float | None = None,
) -> tuple[report.Inverted, ...]:
    """Return the made-up trigger of each class that `after` has a rate for: how often it still works in the repaired model.

    threshold: of the anomaly index beyond which a class stands out (2, Wang et al. 2019). p_value: that of the model, from its triage; it
    belongs to the class that stands out most, the others have none.
    """
    pairs = list(zip(inversion.candidates, inversion.index, strict=True))
    most = inversion.suspect.target
    return tuple(
        report.Inverted(
            suspect=suspect,
            label=one.target,
            anomaly=index if isfinite(index) else None,
            p_value=p_value if one.target == most else None,
            before=report.RateEntry.of(one.success),
            after=report.RateEntry.of(after[one.target]),
            flagged=index > threshold,
        )
        for one, index in pairs
        if one.target in after
    )


def reactivation_entries(name: str, found: Reactivation, stress: Stress) -> tuple[report.Reactivation, ...]:
    """Return the two attempts to bring a backdoor back: a little training, and a small change of its trigger."""
    before = report.RateEntry.of(found.before)
    tuned = report.Reactivation(
        name=name,
        means=f"re-tuned on {stress.samples} triggered image{'s' if stress.samples > 1 else ''}",
        before=before,
        after=report.RateEntry.of(found.retuned),
    )
    changed = report.Reactivation(
        name=name,
        means=f"trigger changed by at most {stress.change.radius:g} in each value",
        before=before,
        after=report.RateEntry.of(found.changed),
        control=report.RateEntry.of(found.alone),
    )
    return tuned, changed


def disagreement_entry(
    suspect: str, found: Disagreement, samples: Samples, trigger: Trigger | None = None, *, most: int = 8
) -> report.Disagreement:
    """Return where a suspect and the repaired model differ, with at most `most` of the images, those of the most frequent moves first.

    samples: those that were compared; trigger: the one that they carried there, None for images as they are.
    """
    n = int(found.counts.sum())
    same = round(found.agreement.value * found.agreement.n)
    suspect_alone, repaired_alone = found.paired.only_first, found.paired.only_second
    counts = {
        (i, j): int(found.counts[i, j])
        for i in range(len(found.counts))
        for j in range(len(found.counts))
        if i != j and int(found.counts[i, j]) > 0
    }
    moves = sorted(counts, key=lambda pair: (-counts[pair], pair))
    return report.Disagreement(
        suspect=suspect,
        shown="" if trigger is None else found.shown,
        differ=report.RateEntry.of(Rate(n - same, n)),
        only_suspect_right=suspect_alone,
        only_repaired_right=repaired_alone,
        # Where one is right and the other is not, they differ; the rest of what differs has no right answer.
        neither_right=max(0, n - same - suspect_alone - repaired_alone),
        moves=tuple(report.Move(suspect=i, repaired=j, count=counts[i, j]) for i, j in moves[:MOST_MOVES]),
        examples=_examples(found, moves, samples, trigger, most),
    )


def _examples(
    found: Disagreement, moves: Sequence[tuple[int, int]], samples: Samples, trigger: Trigger | None, most: int
) -> tuple[report.Example, ...]:
    if samples.x.ndim != 4 or samples.x.shape[1] not in (1, 3):  # no pictures
        return ()
    # One of each move before a second of any.
    depth = max((len(places) for places in found.examples.values()), default=0)
    held = [(pair, found.examples.get(pair, ())) for pair in moves]
    chosen = [(pair, places[k]) for k in range(depth) for pair, places in held if k < len(places)][:most]
    entries: list[report.Example] = []
    for (i, j), place in chosen:
        image = samples.inputs(samples.index.new_tensor([place]))
        image = image if trigger is None else apply_trigger(trigger, image)
        index, label = int(samples.index[place]), int(samples.y[place])
        entries.append(report.Example(index=index, png=png(image[0]), label=label, suspect=i, repaired=j))
    return tuple(entries)


def triage_entry(suspect: str, found: Triage, false_alarms: Rate | None = None) -> report.Triage:
    """Return a triage. false_alarms: share of models known to be untampered that the same detectors call suspicious."""
    detectors = tuple(
        report.Detector(
            name=one.detector,
            statistic=one.statistic if isfinite(one.statistic) else None,
            label=one.target,
            verdict="suspicious" if one.flagged else "no evidence found",
        )
        for one in found.detections
    )
    return report.Triage(
        suspect=suspect,
        verdict=found.verdict,
        reason=found.reason,
        p_value=found.p_value,
        detectors=detectors,
        false_alarms=None if false_alarms is None else report.RateEntry.of(false_alarms),
    )
