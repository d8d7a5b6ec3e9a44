"""What an evaluation by attacks is about: a `Stage` for each attack, a `Progress` on the way, a `Robustness` at the end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.attacks.threat import Threat
from isthmus.rates import Rate
from isthmus.table import Column, Table, with_bounds

NOBODY = -1
"""Stands in `by` for an image that no attack has fooled."""


@dataclass(frozen=True)
class Doubt:
    """A reason why an evaluation may be wrong. voids: whether the robust accuracy then says nothing that can be relied on."""

    kind: str
    message: str
    voids: bool = True


@dataclass(frozen=True)
class Stage:
    """What one attack did.

    attacked, fooled: images. queries, gradients: images that it passed forward, and of those also backward; the re-test is not counted.
    unconfirmed: images that it said it had fooled and that the re-test, and a second try in full precision, found correctly classified.
    outside: images for which it handed in a point outside ball or box.
    """

    name: str
    attacked: int
    fooled: int = 0
    queries: int = 0
    gradients: int = 0
    seconds: float = 0.0
    unconfirmed: int = 0
    outside: int = 0


@dataclass(frozen=True, eq=False)
class Progress:
    """An evaluation of N images as far as it has come.

    by: (N,) int64, the place in `stages` of the attack that fooled each image, -1 where none did. points: (N, ...) the adversarial
    images where `by` is not -1. stages: the attacks begun so far. batch, batches: finished and all batches of the last of them.
    """

    by: Tensor
    points: Tensor
    stages: tuple[Stage, ...] = ()
    batch: int = 0
    batches: int = 0

    def state(self) -> dict[str, object]:
        """Return what :meth:`resumed` needs, as tensors, numbers and text: of `points` only the adversarial ones."""
        stages = [asdict(stage) for stage in self.stages]
        points = self.points[self.by != NOBODY].clone()
        return {"by": self.by, "points": points, "stages": stages, "batch": self.batch, "batches": self.batches}

    @classmethod
    def resumed(cls, state: dict[str, object], x: Tensor) -> "Progress":
        """Return the progress that was saved, for the images x (N, ...). Raises InputError where it is of other images."""
        by, held, stages = state.get("by"), state.get("points"), state.get("stages")
        if not (isinstance(by, Tensor) and isinstance(held, Tensor) and isinstance(stages, list)):
            raise InputError(f"`state` should hold 'by', 'points' and 'stages'. Found {', '.join(state) or 'nothing'}.")
        require(tuple(by.shape) == (len(x),), "state", f"be of these {len(x):,} images", f"{len(by):,}")
        points = x.clone()
        points[by != NOBODY] = held.to(points)
        batch, batches = (int(str(state[name])) for name in ("batch", "batches"))
        return cls(by, points, tuple(Stage(**entry) for entry in stages), batch, batches)


@dataclass(frozen=True, eq=False)
class Robustness:
    """What is left of a model's accuracy under attack; N images.

    correct: (N,) classified correctly before. by: (N,) int64, the place in `stages` of the attack that fooled the image, -1 where none
    did. points: (N, ...) float32, the adversarial image where one was found, else the image itself. passes: forward passes over which
    the logits were averaged.
    """

    threat: Threat
    correct: Tensor
    by: Tensor
    points: Tensor
    stages: tuple[Stage, ...]
    doubts: tuple[Doubt, ...] = ()
    passes: int = 1

    @property
    def fooled(self) -> Tensor:
        """Return (N,) whether an attack turned a correctly classified image into a misclassified one."""
        return self.by != NOBODY

    @property
    def clean(self) -> Rate:
        """Return the accuracy on the images themselves."""
        return Rate.of(self.correct)

    @property
    def robust(self) -> Rate:
        """Return the share of images classified correctly that no attack fooled."""
        return Rate.of(self.correct & ~self.fooled)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return why the evaluation may be wrong."""
        return tuple(doubt.message for doubt in self.doubts)

    @property
    def reliable(self) -> bool:
        """Return whether nothing was seen that would make the robust accuracy meaningless."""
        return not any(doubt.voids for doubt in self.doubts)

    @property
    def queries(self) -> int:
        """Return the images passed forward by all attacks, re-tests not counted."""
        return sum(stage.queries for stage in self.stages)

    @property
    def gradient_passes(self) -> int:
        """Return the images passed backward by all attacks."""
        return sum(stage.gradients for stage in self.stages)

    @property
    def table(self) -> Table:
        """Return one row for each attack: images attacked and fooled, robust accuracy (%) after it, passes, seconds."""
        n = len(self.correct)
        columns = (
            Column("attack"),
            Column("attacked", about="images that were still classified correctly"),
            Column("fooled", about="of those, confirmed by the re-test"),
            Column("robust_accuracy", "%", "higher", None, n, "after this attack and those above"),
            Column("queries", about="images passed forward"),
            Column("gradient_passes", about="images passed backward"),
            Column("seconds", "s"),
        )
        rows = [
            {
                "attack": stage.name,
                "attacked": stage.attacked,
                "fooled": stage.fooled,
                "robust_accuracy": 100 * rate.value,
                "queries": stage.queries,
                "gradient_passes": stage.gradients,
                "seconds": stage.seconds,
            }
            for stage, rate in zip(self.stages, self.after(), strict=True)
        ]
        return with_bounds(Table.of(rows, columns, {"threat": threat_json(self.threat), "reliable": self.reliable}))

    def after(self) -> Sequence[Rate]:
        """Return the robust accuracy after each attack."""
        left, rates = int(self.correct.sum()), list[Rate]()
        for stage in self.stages:
            left -= stage.fooled
            rates.append(Rate(left, len(self.correct)))
        return rates

    def to_json(self) -> dict[str, object]:
        """Return the result as JSON values; rates as `{"value", "n", "low", "high"}`, fractions."""
        attacks = [
            {
                "attack": stage.name,
                "attacked": stage.attacked,
                "fooled": stage.fooled,
                "robust_accuracy": rate.to_json(),
                "queries": stage.queries,
                "gradient_passes": stage.gradients,
                "seconds": stage.seconds,
            }
            for stage, rate in zip(self.stages, self.after(), strict=True)
        ]
        return {
            "clean_accuracy": self.clean.to_json(),
            "robust_accuracy": self.robust.to_json(),
            "reliable": self.reliable,
            "attacks": attacks,
            "gradient_passes": self.gradient_passes,
            "queries": self.queries,
            "passes": self.passes,
            "warnings": list(self.warnings),
            "threat": threat_json(self.threat),
        }


def threat_json(threat: Threat) -> dict[str, object]:
    """Return norm, radius (a list where each image has its own), and the box."""
    radius = threat.radius.tolist() if isinstance(threat.radius, torch.Tensor) else threat.radius
    return {"norm": threat.norm, "radius": radius, "low": threat.low, "high": threat.high}
