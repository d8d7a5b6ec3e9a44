"""Objectives: what is minimised at a point, per sample."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus.losses import Loss, cross_entropy


class Objective(Protocol):
    """Scores a model on a batch: `objective(model, x, y, generator=...) -> (losses (B,), logits (B, C))`, both with gradient."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the losses per sample and the logits on which the training accuracy is counted."""
        ...


@dataclass(frozen=True)
class Supervised:
    """The loss on the labels, the objective of every method in its plain form."""

    loss: Loss = cross_entropy

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return loss(model(x), y) and model(x)."""
        logits = model(x)
        return self.loss(logits, y), logits
