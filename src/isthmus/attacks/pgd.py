"""Projected gradient ascent with a fixed step: FGSM, PGD and the one-step methods of fast adversarial training."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.attacks.protocol import Attacked, Keep, Memory
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.losses import Loss, cross_entropy


@dataclass(frozen=True)
class PGD:
    """x_{k+1} = P(x_k + step * radius * d_k), d_k the steepest direction of the norm (Madry et al. 2018, eq. 2.2).

    In L1 the steepest direction that the box has room for: the step is spread over the coordinates of largest gradient.

    steps: gradient passes of a restart. step: size of one, in radii (8/255 with 2/255 a step is 0.25). start: radius of the uniform
    random start, in radii; 0 starts at the image itself. restarts: independent starts. loss: what is made large, per sample.
    confine: project onto the ball; False, with the box alone, is the noise-augmented step of de Jorge et al. 2022, for training only.
    """

    steps: int = 10
    step: float = 0.25
    start: float = 1.0
    restarts: int = 1
    loss: Loss = cross_entropy
    confine: bool = True

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.restarts >= 1, "restarts", "be at least 1", self.restarts)
        require(isfinite(self.step) and self.step > 0, "step", "be above 0, in radii", self.step)
        require(isfinite(self.start) and self.start >= 0, "start", "be at least 0, in radii", self.start)

    @property
    def name(self) -> str:
        """Return `fgsm` for one step from the image itself, else `pgd-K`, with the restarts where there are several."""
        if self.steps == 1 and self.start == 0:
            return "fgsm"
        return f"pgd-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def __call__(
        self,
        victim: Victim,
        threat: Threat,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        keep: Keep = "verdict",
    ) -> Attacked:
        """Return what was found around each of x (B, ...) with labels y (B,)."""
        memory = Memory(x, y, keep)
        for _ in range(self.restarts):
            begun = self._begin(threat, x, generator)
            if len(memory.reopen()):
                self._climb(victim, threat, (x, begun), memory)
        return memory.result()

    def climb(
        self, victim: Victim, threat: Threat, batch: tuple[Tensor, Tensor], points: Tensor, *, keep: Keep = "verdict"
    ) -> Attacked:
        """Return what one restart finds that begins at `points`, which should lie in the threat around `batch` (x, y)."""
        memory = Memory(*batch, keep)
        self._climb(victim, threat, (batch[0], threat.project(batch[0], points)), memory)
        return memory.result()

    def _begin(self, threat: Threat, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.start == 0:
            return x.clone()
        wide = threat.scaled(self.start).start(x, generator=generator)
        return threat.project(x, wide) if self.confine else wide

    def _climb(self, victim: Victim, threat: Threat, ends: tuple[Tensor, Tensor], memory: Memory) -> None:
        """Ascend from `ends[1]` around `ends[0]`, as far as the memory keeps images active."""
        base, points = (part[memory.active] for part in ends)
        threat = threat.take(memory.active)
        y = memory.y[memory.active]
        stays = torch.ones_like(y, dtype=torch.bool)
        for _ in range(self.steps):
            look = victim.look(points)
            if memory.keep != "last":
                stays = memory.note(points, self.loss(look.logits, y), look.logits)
                if not stays.any():
                    return
            points = self._moved(threat, base, points, look.gradient(lambda out, y=y: self.loss(out, y)))
            if memory.keep == "verdict" and not stays.all():
                base, points, y, threat = base[stays], points[stays], y[stays], threat.take(stays)
        if memory.keep == "last":
            memory.worst.copy_(points)
            return
        logits = victim.logits(points)
        memory.note(points, self.loss(logits, y), logits)

    def _moved(self, threat: Threat, base: Tensor, points: Tensor, gradient: Tensor) -> Tensor:
        there = threat.ascend(points, gradient, self.step)
        return threat.project(base, there) if self.confine else there.clamp(threat.low, threat.high)


FGSM = PGD(steps=1, step=1.0, start=0.0)
"""One step of the whole radius from the image itself (Goodfellow et al. 2015)."""
