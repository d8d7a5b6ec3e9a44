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
    test carry its name: `validation_attack_success`. own: also `attack_success_all`, the share of all triggered samples that go to the
    target, its own class included, which any good model sends there: what Zhao et al. 2020 and others publish. Raises InputError where no
    sample is left, and where the trigger breaks its contract or changes nothing, since both rates would then be about something else.
    """

    samples: Samples
    trigger: Trigger
    target: Target
    split: Split = "test"
    own: bool = False

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
    def _names(self) -> tuple[str, str, str]:
        prefix = "" if self.split == "test" else f"{self.split}_"
        return f"{prefix}attack_success", f"{prefix}recovery_accuracy", f"{prefix}attack_success_all"

    @property
    def _counts_own(self) -> bool:
        return self.own and self.target != "all-to-all"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns of attack success and recovery accuracy, and of attack success as published where asked for."""
        n, trigger = len(self.subject), describe(self.trigger)
        sent = "(y + 1) mod C" if self.target == "all-to-all" else f"class {self.target}, others only,"
        success, recovery, published = self._names
        found = (
            Column(success, "%", "lower", self.split, n, f"sent to {sent} by {trigger}"),
            Column(recovery, "%", "higher", self.split, n, f"true class in spite of {trigger}"),
        )
        about = f"sent to class {self.target} by {trigger}, its own images included"
        every = Column(published, "%", "lower", self.split, len(self.samples), about)
        return (*found, every) if self._counts_own else found

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return the rates; draws nothing."""
        y = self.subject.y
        scores = logits(model, self.subject, transform=partial(apply_trigger, self.trigger))
        sent = int(correct(scores, attacker_labels(y, self.target, self.subject.num_classes)).sum())
        kept = int(correct(scores, y).sum())
        success, recovery, published = self._names
        found = {success: 100 * sent / len(y), recovery: 100 * kept / len(y)}
        if self._counts_own:
            mine = ~eligible(self.samples.y, self.target)
            if mine.any():
                own = self.samples.take(mine)
                sent += int(correct(logits(model, own, transform=partial(apply_trigger, self.trigger)), own.y).sum())
            found[published] = 100 * sent / len(self.samples)
        return found
