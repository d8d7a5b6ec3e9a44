"""Poisoning of labelled samples: the rate is exact, the indices and the original labels are recorded."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.data.samples import Samples
from isthmus.tampering.triggers import Trigger, apply_trigger, describe

Target = int | Literal["all-to-all"]
Source = Literal["non-target", "any"]
SOURCES = ("non-target", "any")
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Poisoned:
    """Samples of which those at `index` carry the trigger and the attacker's label.

    samples: all samples in their order.
    index: (K,) positions of the poisoned ones in `samples`, ascending; original_labels: (K,) their labels before.
    rate: the rate asked for, a share of all samples; K / N is the one reached.
    """

    samples: Samples
    index: Tensor
    original_labels: Tensor
    target: Target
    rate: float
    source: Source
    trigger: str

    def to_json(self) -> dict[str, object]:
        """Return the record of the poisoning: everything but the samples."""
        return {
            "trigger": self.trigger,
            "target": self.target,
            "rate": self.rate,
            "source": self.source,
            "index": [int(i) for i in self.index],
            "original_labels": [int(y) for y in self.original_labels],
        }


def require_target(target: Target, num_classes: int) -> None:
    """Raise InputError unless `target` is "all-to-all" or a class."""
    whole = isinstance(target, int) and not isinstance(target, bool)
    if target != "all-to-all" and not (whole and 0 <= target < num_classes):
        raise InputError(f"`target` should be a class in 0..{num_classes - 1} or 'all-to-all'. Found {target!r}.")


def parse_target(text: str) -> Target:
    """Return the target a text such as "1" or "all-to-all" names."""
    if text == "all-to-all":
        return "all-to-all"
    if not text.isdecimal():
        raise InputError(f"`target` should be a class number or 'all-to-all'. Found {text!r}.")
    return int(text)


def eligible(y: Tensor, target: Target) -> Tensor:
    """Return the boolean (N,) of the labels that the attack changes: all but the target's, or all in all-to-all."""
    return torch.ones_like(y, dtype=torch.bool) if target == "all-to-all" else y != target


def attacker_labels(y: Tensor, target: Target, num_classes: int) -> Tensor:
    """Return the labels (N,) the attacker wants: the target, or (y + 1) mod C in all-to-all.

    >>> attacker_labels(torch.tensor([0, 2]), "all-to-all", 3).tolist()
    [1, 0]
    """
    return (y + 1) % num_classes if target == "all-to-all" else torch.full_like(y, target)


def poison(
    samples: Samples,
    trigger: Trigger,
    *,
    target: Target,
    rate: float,
    generator: torch.Generator,
    source: Source = "non-target",
) -> Poisoned:
    """Return the samples with the trigger and the attacker's label in round(`rate` x N) of them (rate in (0, 1]).

    The rate is a share of all N samples. They are drawn without replacement from those whose label the attack changes ("non-target",
    the default), or from all, so that some keep their label ("any", the meaning of BackdoorBench). The trigger is applied before any
    augmentation, to pixels / 255; uint8 stays uint8, rounded, and written only where the trigger changed a value.
    Raises InputError where the rate selects no sample or more than there are to draw from.
    """
    require_target(target, samples.num_classes)
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    require(0 < rate <= 1, "rate", "be in (0, 1], a share of all samples", rate)
    count, candidates = round(rate * len(samples)), torch.arange(len(samples))
    if source == "non-target":
        candidates = candidates[eligible(samples.y, target).cpu()]
    require(count >= 1, "rate", f"select at least one of {len(samples)} samples", rate)
    if count > len(candidates):
        raise InputError(
            f"`rate` should be at most {len(candidates) / len(samples):.4g}, the share of samples not of class {target}. "
            f'Found {rate!r}. Poison less, or draw from all samples (source="any").'
        )
    chosen = candidates[torch.randperm(len(candidates), generator=generator, device=generator.device).cpu()[:count]]
    index = chosen.sort().values.to(samples.x.device)
    x, y = samples.x.clone(), samples.y.clone()
    for start in range(0, count, _CHUNK):
        place = index[start : start + _CHUNK]
        x[place] = _triggered(samples, trigger, place)
    y[index] = attacker_labels(samples.y[index], target, samples.num_classes)
    record = samples.replaced(x=x, y=y)
    return Poisoned(record, index, samples.y[index], target, rate, source, describe(trigger))


def _triggered(samples: Samples, trigger: Trigger, place: Tensor) -> Tensor:
    """Return the samples at `place` with the trigger, in their own dtype."""
    before, plain = samples.x[place], samples.inputs(place)
    out = apply_trigger(trigger, plain)
    written = (out * 255).round().to(torch.uint8) if before.dtype == torch.uint8 else out.to(before.dtype)
    return torch.where(out != plain, written, before)
