"""`Record`: what a fit writes down beside its control points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pandas as pd
from torch import Tensor

from isthmus.geometry.bridge import Bridge
from isthmus.randomness import stream
from isthmus.table import Column, Table
from isthmus.training.engine import Point
from isthmus.training.follow import Follow
from isthmus.training.plan import Plan

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
    Column(
        "error", "%", "lower", "train", None, "misclassified share of the inputs trained on, attacked ones included"
    ),
    Column("learning_rate", "1", None, "train", None, "learning rate of the last step"),
    Column("gradient_norm", "1", None, "train", None, "norm of the last step's stochastic gradient"),
    Column("distance", "1", None, "train", None, "distance of the trained weights from where they started"),
    Column("radius", "1", None, "train", None, "budget of the adversary at the last step, in units of the input"),
)


@dataclass(eq=False)
class Record:
    """Rows, measurements, snapshots, the best points and the running average of one fit."""

    follow: Follow | None
    seed: int
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    measured: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    snapshots: list[Point] = field(default_factory=list[Point])
    best: Point | None = None
    best_value: float = inf
    average: Tensor | None = None
    warnings: list[str] = field(default_factory=list[str])
    halted: bool = False

    def averaged(self, free: Tensor, decay: float) -> None:
        """Move the running average towards `free`: mean <- decay mean + (1 - decay) free."""
        if self.average is None:
            self.average = free.detach().clone()
        else:  # a resumed one comes from a file, and so on the CPU
            self.average = self.average.to(free.device).lerp_(free.detach(), 1 - decay)

    def due(self, step: int, steps: int) -> bool:
        """Return whether the probes measure after `step`."""
        return self.follow is not None and (step % self.follow.every == 0 or step == steps)

    def measure(self, bridge: Bridge, point: Point) -> None:
        """Let the probes measure `bridge`, whose points are those of `point`; keep these if they are the best so far."""
        follow = self.follow
        assert follow is not None
        model = bridge.at(follow.at)
        if follow.settle is not None:
            follow.settle(model)
        row: dict[str, float] = {"step": point["step"]}
        for probe in follow.probes:
            row |= probe(model, generator=stream(self.seed, "follow", type(probe).__name__, point["step"]))
        self.measured.append(row)
        if follow.keep_best is not None and (value := follow.sign() * row[follow.keep_best]) < self.best_value:
            self.best, self.best_value = point, value
        table = self.measurements()
        assert table is not None
        new = [said for alarm in follow.alarms if (said := alarm(table)) is not None and said not in self.warnings]
        self.warnings += new
        self.halted = self.halted or (follow.halt and bool(new))

    def measurements(self) -> Table | None:
        """Return what the probes measured, one row for each time; None where nothing was followed."""
        if self.follow is None:
            return None
        columns = [column for probe in self.follow.probes for column in probe.columns]
        return Table.of(self.measured, (HISTORY[0], *columns))

    def history(self, meta: dict[str, object]) -> Table:
        """Return the rows, without the columns that no row has."""
        present = {name for row in self.rows for name in row}
        return Table.of(self.rows, [column for column in HISTORY if column.name in present], meta)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        names = ("rows", "measured", "snapshots", "best", "best_value", "average", "warnings", "halted")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name, value in state.items():
            setattr(self, name, value)


def taken(history: Table) -> int:
    """Return the steps that a training took: those of its last row."""
    return int(history.frame["step"].iloc[-1])


def joined(histories: Sequence[Table], plan: Plan) -> Table:
    """Return the histories of the parts of a training as that of the whole `plan`, steps counted through."""
    frames, done = list[pd.DataFrame](), 0
    for one in histories:
        frames.append(one.frame.assign(step=one.frame["step"] + done))
        done += taken(one)
    meta = {**histories[-1].meta, "plan": plan.model_dump(mode="json")}
    return Table(pd.concat(frames, ignore_index=True), histories[-1].columns, meta)
