"""Objectives: what is minimised at a point, per sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus.losses import Loss, cross_entropy
from isthmus.problem import Posed, Problem


class Objective(Protocol):
    """Poses a batch as a problem: `objective(model, x, y, generator=..., progress=...) -> Problem`.

    What depends on the weights but is not differentiated through, such as adversarial examples, is settled while posing. An ascent in
    weight space (sharpness-aware, adversarial weights) then evaluates one problem at two places.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return the problem of this batch at `progress`, the share of the steps already done, in [0, 1)."""
        ...

    @property
    def crafting(self) -> int:
        """Return the gradient passes over a batch that posing takes."""
        ...

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return what is scheduled, by column of the history: `radius` in units of the input, or nothing."""
        ...


@dataclass(frozen=True)
class Supervised:
    """The loss on the labels, the objective of every method in its plain form."""

    loss: Loss = cross_entropy

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return loss(model(x), y) and model(x), to be evaluated."""

        def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
            return self.loss(outputs[0], labels)

        return Posed(model, (x,), y, loss)

    @property
    def crafting(self) -> int:
        """Return 0."""
        return 0

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return nothing: a plain loss has no schedule."""
        return {}


class Losses(Protocol):
    """A function of one's own: `losses(model, x, y, generator=...) -> (losses (B,), logits (B, C))`, both with gradient."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the losses per sample and the logits on which the training error is counted."""
        ...


@dataclass(frozen=True)
class Own:
    """The objective that a function of one's own computes; it draws the same at every evaluation of one problem."""

    losses: Losses

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return losses(model, x, y), to be evaluated."""
        state = generator.get_state()
        return lambda: self.losses(model, x, y, generator=generator.set_state(state))

    @property
    def crafting(self) -> int:
        """Return 0, whatever the function does."""
        return 0

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return nothing."""
        return {}
