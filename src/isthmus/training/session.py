"""Where a fit runs, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from isthmus.geometry.bridge import Bridge
from isthmus.table import Column, Table

Monitor = Callable[[int, int, Mapping[str, float]], None]
"""Called as monitor(step, steps, metrics) after steps that are logged."""

HISTORY = (
    Column("step", "1", None, "train", None, "optimizer steps done"),
    Column(
        "loss",
        "nat",
        "lower",
        "train",
        None,
        "mean objective over the samples since the last row, at the coordinates drawn",
    ),
    Column("error", "%", "lower", "train", None, "misclassified share of the same samples"),
    Column("learning_rate", "1", None, "train", None, "learning rate of the last step"),
)


@dataclass(frozen=True)
class Session:
    """Where and how visibly work runs: devices and processes (Fabric), a checkpoint file to survive a kill, a monitor of the steps.

    stage: told in words what begins, where one command trains several times.
    """

    fabric: Fabric | None = None
    checkpoint: Path | None = None
    every_seconds: float = 20.0
    monitor: Monitor | None = None
    stage: Callable[[str], None] | None = None

    def tell(self, text: str) -> None:
        """Say what begins to whoever listens."""
        if self.stage is not None:
            self.stage(text)


@dataclass(frozen=True)
class Fitted:
    """A trained bridge with its history (one row per logged interval), seconds and gradients taken."""

    bridge: Bridge
    history: Table
    seconds: float
    evaluations: int
