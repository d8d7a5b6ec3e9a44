"""Adversarial neuron pruning (Wu and Wang 2021): close the channels that give way to a small perturbation of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.repair.masks.masked import SHARES, Channels, Masked, channels_of, prune
from isthmus.repair.masks.rounds import Rounds
from isthmus.repair.protocol import Clean, Repaired
from isthmus.training.plan import Plan
from isthmus.training.session import Session


@dataclass(frozen=True)
class ANP:
    """Masks m in [0, 1] per channel that minimise alpha L(m w, b) + (1 - alpha) max L((m + d) w, (1 + e) b); the lowest are closed.

    Wu and Wang 2021, eq. 5: the maximum is over d and e in [-radius, radius], one each for every channel; w and b are its weights and
    its bias. It is sought by `ascents` steps of size radius / ascents along the sign of the gradient from a random start, as in the
    published code without projection, so that d and e reach 2 radius. Batch statistics. A closed channel loses its weights
    and keeps its bias; BatchNorm keeps the statistics it came with, as published.

    Differs from the published code in how many are closed, found there by attack success on test images and here by validation accuracy.
    plan: of the masks, `ascents + 2` gradients a step. shares: to choose from. margin: see
    :func:`isthmus.repair.strength.strongest_within`.
    """

    plan: Plan
    name: str = "anp"
    radius: float = 0.4
    ascents: int = 1
    alpha: float = 0.2
    shares: tuple[float, ...] = SHARES
    margin: float = 0.02

    def __post_init__(self) -> None:
        require(self.radius >= 0, "radius", "be zero or positive", self.radius)
        require(self.ascents >= 1, "ascents", "be at least 1", self.ascents)
        require(0 <= self.alpha <= 1, "alpha", "be in [0, 1]", self.alpha)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect with the channels closed whose masks fell, its statistics as they were."""
        began = perf_counter()
        channels = channels_of(suspects[0], clean.train)
        rounds = Rounds("masks", suspects[0], clean.train, self.plan, seed, session)
        knob = self.masks(rounds, channels).knob(self.shares)
        pruned = prune(suspects[0], channels, knob, clean, margin=self.margin)
        return Repaired(
            self.name,
            pruned.module,
            perf_counter() - began,
            rounds.steps * (self.ascents + 2),
            pruned.note,
            table=pruned.table,
            history=rounds.history(),
        )

    def masks(self, rounds: Rounds, channels: Channels) -> Masked:
        """Return the masks that the rounds end with."""
        masked = Masked(rounds.module, channels)
        masks = masked.values

        def loss_at(x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            with rounds.fabric.autocast():
                logits = masked(x, masks + noise[0], 1 + noise[1]).float()
            return functional.cross_entropy(logits, y), logits

        def turn(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            noise = (2 * torch.rand(2, channels.total, generator=generator) - 1).mul(self.radius).to(masks.device)
            for _ in range(self.ascents):
                noise.requires_grad_()
                slope = torch.autograd.grad(loss_at(x, y, noise)[0], noise)[0]
                noise = noise.detach() + self.radius / self.ascents * slope.sign()
            worst, _ = loss_at(x, y, noise)
            plain, logits = loss_at(x, y, torch.zeros_like(noise))
            return self.alpha * plain + (1 - self.alpha) * worst, logits

        masked.learn(rounds, turn)
        return masked
