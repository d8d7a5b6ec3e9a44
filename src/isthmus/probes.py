"""Probes: `probe(model) -> {name: value}`, with each column's unit, direction, split and sample count."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.layout import Layout, require_same_architecture
from isthmus.losses import cross_entropy
from isthmus.table import Column, Split
from isthmus.tampering.poison import Target, attacker_labels, eligible, require_target
from isthmus.tampering.triggers import Trigger, apply_trigger, describe


class Probe(Protocol):
    """Measures one model: `columns` describe what a call returns, in order."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the description of each value."""
        ...

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        """Return name -> value; the model is as before afterwards, and randomness comes from `generator` alone."""
        ...


@dataclass(frozen=True, eq=False)
class Clean:
    """Mean cross-entropy (nat) and error (%) on samples, named by their split: `test_loss`, `test_error`."""

    samples: Samples
    split: Split = "test"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the loss and the error column."""
        n, source = len(self.samples), self.samples.name
        return (
            Column(f"{self.split}_loss", "nat", "lower", self.split, n, f"mean cross-entropy on {source}"),
            Column(f"{self.split}_error", "%", "lower", self.split, n, f"misclassified of {source}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return loss and error; draws nothing."""
        scores, y = logits(model, self.samples), self.samples.y
        hits = int(correct(scores, y).sum())
        loss = cross_entropy(scores.double(), y).mean().item()
        return {f"{self.split}_loss": loss, f"{self.split}_error": 100 * (len(y) - hits) / len(y)}


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


@dataclass(frozen=True, eq=False)
class Distance:
    """L2 distance of the weights to `reference`, and the same over the norm of the reference.

    reference: a module of the same architecture, copied now, or a flat (D,) vector in the order of `Layout.of(model)`.
    Columns `distance_NAME` and `relative_distance_NAME`; buffers do not count.
    """

    reference: nn.Module | Tensor
    name: str = "reference"
    _vector: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reference = self.reference
        if isinstance(reference, nn.Module):
            vector = Layout.of(reference).flatten(dict(reference.named_parameters()))
        else:
            require(reference.ndim == 1, "reference", "be a flat vector (D,) or a module", tuple(reference.shape))
            vector = reference.detach().clone()
        vector = vector.double()
        require(bool(vector.any()), "reference", "have a weight that is not zero", "zeros only")
        object.__setattr__(self, "_vector", vector)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the distance and the relative distance column."""
        return (
            Column(f"distance_{self.name}", "1", None, None, None, f"L2 distance of the weights to {self.name}"),
            Column(
                f"relative_distance_{self.name}", "1", None, None, None, f"that distance over the norm of {self.name}"
            ),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return both distances. Raises InputError where the architectures differ; draws nothing."""
        if isinstance(self.reference, nn.Module):
            require_same_architecture(self.reference, model, ("reference", "model"))
        own = Layout.of(model).flatten(dict(model.named_parameters())).double()
        require(
            own.shape == self._vector.shape, "model", f"have {len(self._vector)} weights, like `reference`", len(own)
        )
        reference = self._vector.to(own.device)
        distance = float((own - reference).square().sum().sqrt())
        relative = distance / float(reference.square().sum().sqrt())
        return {f"distance_{self.name}": distance, f"relative_distance_{self.name}": relative}
