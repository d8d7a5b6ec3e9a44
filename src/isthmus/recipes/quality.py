"""Figures of one model beside its rates: accuracy by class, calibration, the paired change, and the rating of the defence."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from isthmus import report
from isthmus._check import require
from isthmus.rates import Z95, Paired, Rate, mcnemar
from isthmus.report.quantities import Bin, Calibration, Change

BINS = 15


def by_class(right: Tensor, y: Tensor, num_classes: int) -> tuple[report.RateEntry | None, ...]:
    """Return the accuracy on the samples of each class, None for a class without any. right: (N,) booleans; y: (N,) labels.

    >>> [
    ...     None if rate is None else rate.value
    ...     for rate in by_class(torch.tensor([True, False]), torch.tensor([0, 0]), 2)
    ... ]
    [0.5, None]
    """
    held = [right[y == label] for label in range(num_classes)]
    return tuple(report.RateEntry.of(Rate.of(one)) if len(one) > 0 else None for one in held)


def calibration(scores: Tensor, y: Tensor, *, bins: int = BINS) -> Calibration | None:
    """Return the expected calibration error of logits (N, C) with labels (N,); None where a probability is not a number.

    ECE = sum_b (n_b / n) |accuracy_b - confidence_b| over bins ((b - 1) / B, b / B] of the largest softmax probability, both means being
    those of the samples in the bin (Naeini et al. 2015; Guo et al. 2017, who take B = 15). On n samples a perfectly calibrated model does
    not show 0: beside it stands sum_b sqrt(2 v_b / pi) / n with v_b = sum over the bin of c (1 - c), the mean absolute deviation that its
    confidences c cause by chance (normal approximation).
    """
    require(bins >= 1, "bins", "be at least 1", bins)
    confidence, answer = scores.double().softmax(1).max(1)
    if not torch.isfinite(confidence).all():
        return None
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    right = (answer == y).double()
    parts = torch.stack([torch.ones_like(confidence), confidence, right, confidence * (1 - confidence)])
    held = torch.zeros(4, bins, dtype=torch.float64).index_add_(1, place, parts)
    counts, sums, hits, variance = held
    n = len(y)
    return Calibration(
        error=min(1.0, float((hits - sums).abs().sum()) / n),
        by_chance=min(1.0, float((2 * variance.clamp_min(0) / torch.pi).sqrt().sum()) / n),
        confidence=min(1.0, float(confidence.mean())),
        bins=bins,
        n=n,
        by_bin=tuple(_bin(*row) for row in zip(counts.tolist(), sums.tolist(), hits.tolist(), strict=True)),
    )


def _bin(n: float, confidence: float, hits: float) -> Bin:
    return Bin(n=int(n), confidence=min(1.0, confidence / n), accuracy=hits / n) if n > 0 else Bin(n=0)


def brier(scores: Tensor, y: Tensor) -> float | None:
    """Return the Brier score of logits (N, C) with labels (N,), in [0, 2]; None where a probability is not a number.

    Mean over samples of sum_c (p_c - [c = y])^2, over all classes (Brier 1950, eq. 2): twice what is in use for two classes.

    >>> brier(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    0.5
    """
    distance = scores.double().softmax(1)
    distance[torch.arange(len(y)), y] -= 1
    found = distance.square().sum(1).mean()
    return float(found) if torch.isfinite(found) else None


def changed(before: Tensor, after: Tensor, against: str) -> Change:
    """Return the change of accuracy between two outcomes (N,) on the same samples, with McNemar's exact test.

    With b samples right only before and c only after: d = (c - b) / n +- z sqrt(b + c - (b - c)^2 / n) / n, the paired Wald interval. The
    variance counts one discordant pair at least: no difference seen is not none there.
    """
    return change_of(mcnemar(before.to(torch.bool), after.to(torch.bool)), against)


def change_of(pairs: Paired, against: str) -> Change:
    """Return the change that :func:`changed` returns, from discordant pairs that were counted already."""
    half = Z95 * sqrt(paired_variance(pairs.only_first, pairs.only_second, pairs.n)) / pairs.n
    return Change(
        against=against,
        n=pairs.n,
        lost=pairs.only_first,
        won=pairs.only_second,
        value=pairs.change,
        low=pairs.change - half,
        high=pairs.change + half,
        p_value=min(1.0, pairs.p_value),
    )


def paired_variance(lost: int, won: int, n: int) -> float:
    """Return the variance of lost - won over n pairs, of one discordant pair at least."""
    return max(lost + won - (lost - won) ** 2 / n, 1.0)


def effectiveness(before: report.Entry, after: report.Entry) -> float | None:
    """Return the defence effectiveness rating in [0, 1], None where an attack success is not known.

    DER = [max(0, fall of attack success) - max(0, fall of accuracy) + 1] / 2 (Zhu et al. 2023): 1 is best, 0.5 is nothing done.
    """
    if before.attack_success is None or after.attack_success is None:
        return None
    gain = max(0.0, before.attack_success.value - after.attack_success.value)
    cost = max(0.0, before.clean_accuracy.value - after.clean_accuracy.value)
    return (gain - cost + 1) / 2


def least_effectiveness(suspects: Sequence[report.Entry], after: report.Entry) -> float | None:
    """Return the smallest rating over the suspects in which the trigger works (attack success >= 1/2), over all where it works in none."""
    known = [entry for entry in suspects if entry.attack_success is not None]
    works = [entry for entry in known if entry.attack_success is not None and entry.attack_success.value >= 0.5]
    ratings = [rating for entry in works or known if (rating := effectiveness(entry, after)) is not None]
    return min(ratings, default=None)
