"""`Clean`: loss and error on labelled samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.losses import cross_entropy
from isthmus.table import Column, Split


@dataclass(frozen=True, eq=False)
class Clean:
    """Mean cross-entropy (nat) and error (%) on samples, named by their split: `test_loss`, `test_error`; so many at once."""

    samples: Samples
    split: Split = "test"
    batch_size: int = 500

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the loss and the error column."""
        n, source = len(self.samples), self.samples.name
        return (
            Column(f"{self.split}_loss", "nat", "lower", self.split, n, f"mean cross-entropy on {source}"),
            Column(f"{self.split}_error", "%", "lower", self.split, n, f"misclassified of {source}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return loss and error; draws nothing."""
        scores, y = logits(model, self.samples, batch_size=self.batch_size), self.samples.y
        hits = int(correct(scores, y).sum())
        loss = cross_entropy(scores.double(), y).mean().item()
        return {f"{self.split}_loss": loss, f"{self.split}_error": 100 * (len(y) - hits) / len(y)}
