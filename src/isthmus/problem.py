"""`Problem`: a batch posed at a model; its losses are those at the model's weights of the moment of evaluation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Problem(Protocol):
    """Evaluated, gives losses (B,) and the logits (B, C) on which the error is counted, both with gradient."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return losses and logits."""
        ...


@dataclass(frozen=True, eq=False)
class Posed:
    """The problem loss([model(x) for x in inputs], y), with the inputs settled, adversarial ones too.

    Outputs and loss are apart, so that the Gauss-Newton matrix, which linearises the outputs alone, can be formed.

    loss: logits of each input and labels (B,) -> losses (B,). shown: of which input the logits count the error.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    y: Tensor
    loss: Callable[[Sequence[Tensor], Tensor], Tensor]
    shown: int = 0

    def outputs(self) -> list[Tensor]:
        """Return the logits (B, C) of each input."""
        return [self.model(x) for x in self.inputs]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return the losses and the logits of the input `shown`."""
        outputs = self.outputs()
        return self.loss(outputs, self.y), outputs[self.shown]


Pose = Callable[[nn.Module], Iterable[Problem]]
"""Poses a fixed set of samples, batch by batch, at the model it is given, the same at every call with the same weights.

Adversarial examples are crafted while posing: problems evaluated later at other weights keep them (frozen), posing anew crafts anew.
"""
