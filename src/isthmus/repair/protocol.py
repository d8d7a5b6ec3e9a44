"""`Repair`: suspects and clean samples -> `Repaired`. Weights, table and the rule that chose them are one object."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from isthmus._check import require
from isthmus.data import Samples, require_disjoint
from isthmus.geometry.bridge import Bridge
from isthmus.repair.choose import Choice
from isthmus.table import Table
from isthmus.training.session import Session


@dataclass(frozen=True)
class Clean:
    """The trusted samples: what a remedy trains on, and what it chooses by. The two may not share a sample."""

    train: Samples
    validation: Samples

    def __post_init__(self) -> None:
        require_disjoint(self.train, self.validation, ("train", "validation"))
        classes = (self.train.num_classes, self.validation.num_classes)
        require(
            classes[0] == classes[1], "validation", f"have {classes[0]} classes like the training samples", classes[1]
        )


@dataclass(frozen=True)
class Repaired:
    """What a remedy returns. bridge, table and choice are those of a path; None for remedies that do not search.

    note: a few words for a table. reason: why it was done so, in sentences, where that is more than the note.
    """

    name: str
    module: nn.Module
    seconds: float
    evaluations: int
    note: str = ""
    bridge: Bridge | None = None
    table: Table | None = None
    choice: Choice | None = None
    history: Table | None = None
    warnings: tuple[str, ...] = field(default=())
    reason: str = ""


class Repair(Protocol):
    """A remedy. It sees suspects and clean samples and nothing else: no trigger, no attack success, no poisoned sample."""

    @property
    def name(self) -> str:
        """Return the short name that tables use."""
        ...

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the repaired model; the suspects stay as they are."""
        ...
