"""`Backdoor`: what a trigger does to a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from isthmus._check import require
from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.table import Column, Split
from isthmus.tampering.poison import Target, attacker_labels, eligible, require_target
from isthmus.tampering.triggers import Trigger, apply_trigger, describe


@dataclass(frozen=True, eq=False)
class Backdoor:
    """Attack success and recovery accuracy (%) on triggered samples.

    attack_success: share of triggered samples not of the target class that go to it; all-to-all: share of all samples that go to
    (y + 1) mod C. recovery_accuracy: share of the same triggered samples that go to their true class. Columns of another split than
    test carry its name: `validation_attack_success`. Raises InputError where no sample is left, and where the trigger breaks its
    contract or changes nothing, since both rates would then be about something else.
    """

    samples: Samples
    trigger: Trigger
    target: Target
    split: Split = "test"

    def __post_init__(self) -> None:
        require_target(self.target, self.samples.num_classes)
        left = int(eligible(self.samples.y, self.target).sum())
        require(
            left > 0,
            "samples",
            f"hold some that are not of the target class {self.target}",
            f"none in {self.samples.name!r}",
        )
        head = self.subject.inputs(torch.arange(min(64, left), device=self.samples.x.device))
        changed = not torch.equal(apply_trigger(self.trigger, head), head)
        require(
            changed, "trigger", "change the images", f"{describe(self.trigger)} changing none of the first {len(head)}"
        )

    @cached_property
    def subject(self) -> Samples:
        """Return the samples the rates are about, without trigger and with their true labels."""
        return self.samples.take(eligible(self.samples.y, self.target))

    @property
    def _prefix(self) -> str:
        return "" if self.split == "test" else f"{self.split}_"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the attack success and the recovery accuracy column."""
        n, trigger = len(self.subject), describe(self.trigger)
        sent = "(y + 1) mod C" if self.target == "all-to-all" else f"class {self.target}, others only,"
        return (
            Column(f"{self._prefix}attack_success", "%", "lower", self.split, n, f"sent to {sent} by {trigger}"),
            Column(
                f"{self._prefix}recovery_accuracy", "%", "higher", self.split, n, f"true class in spite of {trigger}"
            ),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return both rates; draws nothing."""
        y = self.subject.y
        scores = logits(model, self.subject, transform=partial(apply_trigger, self.trigger))
        sent = int(correct(scores, attacker_labels(y, self.target, self.subject.num_classes)).sum())
        kept = int(correct(scores, y).sum())
        names = (f"{self._prefix}attack_success", f"{self._prefix}recovery_accuracy")
        return {names[0]: 100 * sent / len(y), names[1]: 100 * kept / len(y)}
