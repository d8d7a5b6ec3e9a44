"""APGD: projected gradient ascent that finds its step sizes on the way (Croce and Hein 2020, arXiv:2003.01690; L1: 2021, 2103.01208)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.attacks.checkpoints import Rule, checkpoints, wide_schedule
from isthmus.attacks.climb import Climbers, Halving, Score, Sparse, Steps, climb
from isthmus.attacks.protocol import Attacked, Keep, Memory
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.losses import Loss, cross_entropy, targeted_dlr

SHORT: dict[str, str] = {"cross_entropy": "ce"}
"""What a loss is called in the name of an attack, where that is not its own name."""


@dataclass(frozen=True)
class APGD:
    """Ascent on a loss with momentum; step sizes are halved at checkpoints where the loss no longer rises (:mod:`isthmus.attacks.climb`).

    steps: of a restart; it costs `steps` + 1 forward passes and `steps` backward ones. loss: per sample. restarts: independent starts.
    rho: share of the steps since the last checkpoint that should raise the loss. rule: which checkpoints
    (:func:`isthmus.attacks.checkpoints.checkpoints`). L1 takes sparse steps instead, without momentum, `rho` or `rule`, in balls of
    3, 2 and 1 radii one after the other; verdicts count in the last alone, and each stage costs one forward pass more.

    Start: Linf x + r u / max |u|, u uniform in [-1, 1]^d; L2 x + r n / ||n||, n Gaussian; L1 x + n projected onto the widest ball.

    Kept as in the authors' code, so that verdicts match: whole-number checkpoints; a checkpoint asks for *more* than `rho` (the paper: at
    least); after a return to the best point the momentum refers to the iterate before, and the next loss is compared with the one left
    behind. Corrected: the first step is compared with the start, not with an empty row of the record; projections onto ball and box are
    exact, not one after the other; nothing is run backward after the last step; an image can leave at its first misclassified point; the
    entries of an L1 step (:class:`isthmus.attacks.climb.Sparse`).
    """

    steps: int = 100
    loss: Loss = cross_entropy
    restarts: int = 1
    rho: float = 0.75
    rule: Rule = "official"

    def __post_init__(self) -> None:
        _require_counts(self.steps, self.restarts)
        require(isfinite(self.rho) and 0 <= self.rho <= 1, "rho", "be in [0, 1]", self.rho)
        checkpoints(self.steps, self.rule)  # an unknown rule should be said now

    @property
    def name(self) -> str:
        """Return `apgd-ce`, `apgd-dlr` or `apgd-` and the name of the loss, with the restarts where there are several."""
        loss = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"apgd-{SHORT.get(loss, loss)}" + _times(self.restarts)

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
        run = _Run(victim, threat, self.steps, self.loss, partial(Halving, checks=self._checks, rho=self.rho))
        for _ in range(self.restarts):
            begun = _begun(threat, x, generator)
            if not len(memory.reopen()):
                break
            run(x, begun, (y,), memory)
        return memory.result()

    @property
    def _checks(self) -> tuple[int, ...]:
        return checkpoints(self.steps, self.rule)


@dataclass(frozen=True)
class TargetedAPGD:
    """APGD on the targeted difference of logits ratio, towards one class after the other, the likeliest at the image itself first.

    steps, restarts: for each target. targets: how many, at most all classes but the label. Needs 4 classes. Classes are ranked once, at
    the images; an image already misclassified there is its own verdict. The highest loss is the highest over all targets. All else as in
    :class:`APGD`, with its `rho` of 0.75 and the authors' checkpoints.
    """

    steps: int = 100
    targets: int = 9
    restarts: int = 1

    def __post_init__(self) -> None:
        _require_counts(self.steps, self.restarts)
        require(self.targets >= 1, "targets", "be at least 1", self.targets)

    @property
    def name(self) -> str:
        """Return `apgd-t`, with the restarts where there are several."""
        return "apgd-t" + _times(self.restarts)

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
        """Return what was found around each of x (B, ...) with labels y (B,). Raises InputError for a model of fewer than 4 classes."""
        memory = Memory(x, y, keep)
        clean = victim.logits(x)
        classes = clean.shape[1]
        fix = "Use APGD with the loss `cross_entropy`."
        require(classes >= 4, "model", "return logits of 4 classes or more for apgd-t", f"{classes} classes", fix)
        if keep != "last":
            memory.note(x, torch.full_like(clean[:, 0], -torch.inf), clean)
        ranked = clean.scatter(1, y[:, None], -torch.inf).topk(min(self.targets, classes - 1)).indices
        run = _Run(victim, threat, self.steps, targeted_dlr, partial(Halving, checks=checkpoints(self.steps), rho=0.75))
        for target in ranked.unbind(1):
            for _ in range(self.restarts):
                begun = _begun(threat, x, generator)
                if not len(memory.reopen()):
                    return memory.result()
                run(x, begun, (y, target), memory)
        return memory.result()


@dataclass(frozen=True)
class _Run:
    """One restart: `halving` makes the step rule of Linf and L2."""

    victim: Victim
    threat: Threat
    steps: int
    score: Score
    halving: Callable[[Climbers], Steps]

    def __call__(self, x: Tensor, begun: Tensor, labels: tuple[Tensor, ...], memory: Memory) -> None:
        """Climb from `begun` (B, ...) around x (B, ...), with those images that the memory keeps active."""
        at = memory.active
        threat, base, points = self.threat.take(at), x[at], begun[at]
        labels = tuple(label[at] for label in labels)
        if threat.norm != "l1":
            who = Climbers(threat, base, points, labels)
            climb(self.victim, who, (self.halving(who), self.steps), self.score, memory)
            return
        for factor, steps in wide_schedule(self.steps):
            ball = threat.scaled(factor) if factor != 1 else threat
            who = Climbers(ball, base, ball.project(base, points), labels)
            climb(self.victim, who, (Sparse(who, steps), steps), self.score, memory if factor == 1 else None)
            points = who.best_points


def _begun(threat: Threat, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random start for every image, whoever is still attacked."""
    if threat.norm == "l1":
        wide = threat.scaled(3.0)
        return wide.project(x, torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device).add_(x))
    if threat.norm == "l2":
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    else:
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device).mul_(2).sub_(1)
    size = threat.size(noise).clamp_min(torch.finfo(x.dtype).tiny).reshape(-1, *[1] * (x.ndim - 1))
    return threat.project(x, noise.div_(size).mul_(threat.radii(x)).add_(x))


def _require_counts(steps: int, restarts: int) -> None:
    require(steps >= 1, "steps", "be at least 1", steps)
    require(restarts >= 1, "restarts", "be at least 1", restarts)


def _times(restarts: int) -> str:
    return f"x{restarts}" if restarts > 1 else ""
