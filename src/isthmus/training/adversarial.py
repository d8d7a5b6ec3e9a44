"""Adversarial objectives: the loss at inputs that an attacker moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import attacked
from isthmus.losses import Loss, cross_entropy
from isthmus.problem import Posed, Problem
from isthmus.training.budget import Budget

Mode = Literal["eval", "train"]


def craft(
    model: nn.Module,
    attack: PGD,
    threat: Threat,
    batch: tuple[Tensor, Tensor],
    *,
    generator: torch.Generator,
    mode: Mode,
) -> Tensor:
    """Return the last iterate of `attack` on `batch` (x, y) against the model as it is now; no gradient flows through it.

    mode: which statistics BatchNorm uses meanwhile; running statistics stay as they were in both.
    """
    x, y = batch
    with attacked(model, mode=mode, memory_format=_format(x)) as victim:
        return attack(victim, threat, x, y, generator=generator, keep="last").points


def _format(x: Tensor) -> torch.memory_format:
    """Return the order x is in, so that no victim has to try one out at every step."""
    return torch.contiguous_format if x.ndim != 4 or x.is_contiguous() else torch.channels_last


@dataclass(frozen=True)
class Adversarial:
    """(1 - clean_weight) loss(x') + clean_weight loss(x), x' found by `attack` in each threat (Madry et al. 2018, eq. 2.1).

    budget: the share of each threat's radius in force, by progress. Several threats: `combine` "max" takes the worst for each sample
    (Maini et al. 2020, the MAX strategy of Tramer and Boneh 2019), "mean" their average. The loss is cross-entropy.
    """

    attack: PGD
    threats: tuple[Threat, ...]
    budget: Budget
    combine: Literal["max", "mean"] = "max"
    clean_weight: float = 0.0
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        require(len(self.threats) >= 1, "threats", "hold at least one threat", "none")
        require(0 <= self.clean_weight < 1, "clean_weight", "be in [0, 1)", self.clean_weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return the problem with x' crafted now; its logits are those at x' of the first threat."""
        share = self.budget.at(progress)
        moved = (
            [x]
            if share <= 0
            else [
                craft(model, self.attack, threat.scaled(share), (x, y), generator=generator, mode=self.mode)
                for threat in self.threats
            ]
        )

        mixed = self.clean_weight > 0

        def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
            losses = torch.stack([cross_entropy(out, labels) for out in outputs[: len(moved)]])
            worst = losses.amax(0) if self.combine == "max" else losses.mean(0)
            if mixed:
                return (1 - self.clean_weight) * worst + self.clean_weight * cross_entropy(outputs[-1], labels)
            return worst

        return Posed(model, (*moved, x) if mixed else tuple(moved), y, loss)

    @property
    def crafting(self) -> int:
        """Return the attack's steps in all threats."""
        return self.attack.steps * self.attack.restarts * len(self.threats)

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return the radius in force, of the first threat."""
        return {"radius": self.budget.at(progress) * float(self.threats[0].radius)}


@dataclass(frozen=True)
class Trades:
    """loss(x) + beta KL(p(x) || p(x')), x' maximising that divergence (Zhang et al. 2019, eq. 5).

    Gradients flow through both distributions; while crafting, p(x) is a constant. The random start is uniform, not Gaussian.
    """

    attack: PGD
    threat: Threat
    budget: Budget
    beta: float = 6.0
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", "be above 0", self.beta)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return the problem with x' crafted now; its logits are those at x'."""
        share = self.budget.at(progress)
        moved = x
        if share > 0:
            with attacked(model, mode=self.mode, memory_format=_format(x)) as victim:
                clean = victim.logits(x)
            attack = replace(self.attack, loss=_divergence_from(clean))
            moved = craft(model, attack, self.threat.scaled(share), (x, y), generator=generator, mode=self.mode)

        def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
            clean, scores = outputs
            return cross_entropy(clean, labels) + self.beta * divergence(clean, scores)

        return Posed(model, (x, moved), y, loss, shown=1)

    @property
    def crafting(self) -> int:
        """Return the attack's steps."""
        return self.attack.steps * self.attack.restarts

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return the radius in force."""
        return {"radius": self.budget.at(progress) * float(self.threat.radius)}


def _divergence_from(clean: Tensor) -> Loss:
    def loss(logits: Tensor, _: Tensor) -> Tensor:
        return divergence(clean, logits)

    return loss


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(softmax(logits) || softmax(others)) for each sample, in nats, (B,).

    >>> divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item()
    0.0
    """
    wide = torch.promote_types(
        logits.dtype, torch.float32
    )  # autocast leaves bfloat16, in which small divergences vanish
    p, q = (functional.log_softmax(scores.to(wide), 1) for scores in (logits, others))
    return (p.exp() * (p - q)).sum(1)
