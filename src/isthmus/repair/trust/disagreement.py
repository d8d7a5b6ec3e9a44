"""`disagreements`: on which images a suspect and its repaired model differ, how, and which of them to look at."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.rates import Paired, Rate, mcnemar
from isthmus.tampering import Trigger, apply_trigger
from isthmus.tampering.triggers import require_image_samples


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Where two models differ on the same inputs.

    shown: "clean", or the name of the trigger in the images. counts: (C, C) int64, images that the first model calls row and the second
    column; the diagonal is agreement. examples: for each pair of classes that occurs off the diagonal, positions in the samples of the
    images on which the two differ most, first the one with the largest total variation distance between their softmax outputs.
    agreement: share called the same. paired: exact test that both are right equally often, by the true labels.
    """

    shown: str
    counts: Tensor
    examples: Mapping[tuple[int, int], tuple[int, ...]]
    agreement: Rate
    paired: Paired

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """Return (first's class, second's class, images) off the diagonal, most images first, then by class."""
        found = [(a, b, int(self.counts[a, b])) for a, b in self.examples]
        return tuple(sorted(found, key=lambda row: (-row[2], row[0], row[1])))


def disagreements(
    first: nn.Module,
    second: nn.Module,
    samples: Samples,
    *,
    triggers: Mapping[str, Trigger] | None = None,
    examples: int = 3,
) -> tuple[Disagreement, ...]:
    """Return where the two models differ on the samples as they are, then on the samples with each of the named triggers.

    Give samples that neither the repair nor its choice has used, or say that they were used: on its training images a repaired model
    disagrees less. examples: images named per pair of classes. Raises InputError where triggers meet inputs that are not images.
    """
    require(examples >= 0, "examples", "be at least 0", examples)
    triggers = triggers or {}
    require("clean" not in triggers, "triggers", "have other names than 'clean', the samples as they are", "'clean'")
    if triggers:
        require_image_samples(samples, "show triggers")
    return tuple(
        _compared(first, second, samples, name, trigger, examples)
        for name, trigger in ({"clean": None} | dict(triggers)).items()
    )


def _compared(
    first: nn.Module, second: nn.Module, samples: Samples, name: str, trigger: Trigger | None, examples: int
) -> Disagreement:
    def shown(x: Tensor) -> Tensor:
        return x if trigger is None else apply_trigger(trigger, x)

    scores = [logits(model, samples, transform=shown) for model in (first, second)]
    classes = max(found.shape[1] for found in scores)
    one, two = (found.argmax(1) for found in scores)
    counts = torch.bincount(one * classes + two, minlength=classes**2).view(classes, classes).cpu()
    distance = _distance(*scores)
    order = torch.argsort(distance, descending=True, stable=True)
    places: dict[tuple[int, int], list[int]] = {}
    for position in order[(one != two)[order]].tolist():
        kept = places.setdefault((int(one[position]), int(two[position])), [])
        if len(kept) < examples:
            kept.append(position)
    return Disagreement(
        shown=name,
        counts=counts,
        examples={pair: tuple(kept) for pair, kept in sorted(places.items())},
        agreement=Rate.of(one == two),
        paired=mcnemar(*(correct(found, samples.y) for found in scores)),
    )


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Return half the l1 distance between the softmax outputs (N,), in [0, 1]; NaN logits count as 1."""
    width = max(first.shape[1], second.shape[1])
    one, two = (
        torch.nn.functional.pad(found.double().softmax(1), (0, width - found.shape[1])) for found in (first, second)
    )
    return (0.5 * (one - two).abs().sum(1)).nan_to_num(1.0)
