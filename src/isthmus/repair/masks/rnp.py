"""Reconstructive neuron pruning (Li et al. 2023): unlearn the clean samples, learn them back by masks alone, close what stays low."""

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
from isthmus.settle import Recalibrate
from isthmus.training.plan import Plan
from isthmus.training.session import Session


@dataclass(frozen=True)
class RNP:
    """Ascend the clean loss until training accuracy is near chance; masks that win it back from there; the lowest are closed.

    Li et al. 2023. Unlearning goes on until the accuracy on a batch is at most 1 / C + `above`, or to the last step of its plan; what it
    leaves of its steps goes to the recovery. That minimises alpha L(m w, b) over masks m in [0, 1] on the unlearned weights. Closed
    channels, of the *suspect*, lose their weights and keep their bias. Batch statistics in both, as published.

    Differs from the published code in how many are closed, given there as a threshold and chosen here by validation accuracy; in judging
    every batch, not every pass (there four batches; with more samples a pass goes far beyond what masks win back); and in clipping the
    ascent's gradient, which the code does before there is one. Where channels are closed, BatchNorm statistics are recomputed: the masks
    were learned under those of the batch, and the old ones cost more accuracy than the channels. shares: to choose from. margin: see
    :func:`isthmus.repair.strength.strongest_within`.
    """

    unlearning: Plan
    recovery: Plan
    name: str = "rnp"
    above: float = 0.1
    alpha: float = 0.2
    shares: tuple[float, ...] = SHARES
    margin: float = 0.02

    def __post_init__(self) -> None:
        require(0 <= self.above < 1, "above", "be in [0, 1)", self.above)
        require(self.alpha > 0, "alpha", "be positive", self.alpha)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect with the channels closed that recovery did without, its statistics recomputed on the samples."""
        began = perf_counter()
        suspect, samples = suspects[0], clean.train
        channels = channels_of(suspect, samples)
        unlearning = Rounds("unlearning", suspect, samples, self.unlearning, seed, session)
        warnings = self.unlearn(unlearning)
        left = self.unlearning.steps - unlearning.steps
        plan = self.recovery.model_copy(update={"steps": self.recovery.steps + left})
        recovery = Rounds("recovery", unlearning.module, samples, plan, seed, session)
        knob = self.recover(recovery, channels).knob(self.shares)
        pruned = prune(suspect, channels, knob, clean, margin=self.margin, settle=Recalibrate(samples))
        return Repaired(
            self.name,
            pruned.module,
            perf_counter() - began,
            unlearning.steps + recovery.steps,
            f"{pruned.note}; {unlearning.steps} steps of unlearning",
            table=pruned.table,
            history=recovery.history(),
            warnings=warnings,
        )

    def unlearn(self, rounds: Rounds) -> tuple[str, ...]:
        """Let the working copy of the rounds forget the samples; return a warning where it did not get far enough."""
        parameters = [p.requires_grad_() for p in rounds.module.parameters() if p.is_floating_point()]
        floor = 1 / rounds.samples.num_classes + self.above

        def turn(x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
            with rounds.fabric.autocast():
                logits = rounds.module(x).float()
            return -functional.cross_entropy(logits, y), logits

        rounds.descend(parameters, turn, floor=floor)
        accuracy = 100 - float(rounds.rows[-1]["error"])
        if rounds.steps < rounds.plan.steps or accuracy <= 100 * floor:
            return ()
        return (
            f"RNP unlearned for all of its {rounds.steps} steps and still got {accuracy:.0f} % of its last batch right, above "
            f"{100 * floor:.0f} %: its masks say little. Allow more gradients.",
        )

    def recover(self, rounds: Rounds, channels: Channels) -> Masked:
        """Return the masks that the rounds end with."""
        masked = Masked(rounds.module, channels)

        def turn(x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
            with rounds.fabric.autocast():
                logits = masked(x, masked.values).float()
            return self.alpha * functional.cross_entropy(logits, y), logits

        masked.learn(rounds, turn)
        return masked
