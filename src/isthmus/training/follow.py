"""`Follow`: what is measured while a fit runs, and what is kept because of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isthmus._check import InputError, require, unknown
from isthmus.geometry.bridge import Settle
from isthmus.probes import Probe
from isthmus.table import Table

Alarm = Callable[[Table], str | None]
"""Reads the measurements so far and returns a sentence where something has gone wrong."""


@dataclass(frozen=True, eq=False)
class Follow:
    """Probes that measure the model every so many steps, and the last.

    keep_best: a column of the probes; the points at its best value are kept beside the last ones (early stopping, Rice et al. 2020), so
    it should come from validation data. at: the coordinates measured on a bridge, with `settle` as its BatchNorm policy; () for a single
    model, which has its own statistics. alarms: read the measurements; what they say becomes a warning, and ends the training with `halt`.
    """

    probes: Sequence[Probe]
    every: int = 100
    keep_best: str | None = None
    at: tuple[float, ...] = ()
    settle: Settle | None = None
    alarms: Sequence[Alarm] = ()
    halt: bool = False

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", "be at least 1", self.every)
        columns = {column.name: column for probe in self.probes for column in probe.columns}
        if self.keep_best is None:
            return
        if self.keep_best not in columns:
            raise unknown("keep_best", self.keep_best, columns)
        best = columns[self.keep_best]
        require(best.better is not None, "keep_best", "be a column with a better direction", repr(self.keep_best))
        if best.split == "test":
            raise InputError(
                f"`keep_best` should be measured on validation data. Found {self.keep_best!r} of test data, which may not steer."
            )

    def sign(self) -> float:
        """Return 1.0 where less of the column `keep_best` is better, else -1.0."""
        better = next(c.better for probe in self.probes for c in probe.columns if c.name == self.keep_best)
        return 1.0 if better == "lower" else -1.0
