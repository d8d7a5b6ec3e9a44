"""`Frozen`: loss and error on adversarial examples that were crafted once, at another model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.pgd import PGD
from isthmus.attacks.protocol import Attacked
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim, attacked
from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.losses import cross_entropy
from isthmus.table import Column, Split


@dataclass(frozen=True, eq=False)
class Frozen:
    """Mean cross-entropy (nat) and error (%) on fixed adversarial examples: `frozen_loss`, `frozen_error`.

    Away from the model they were crafted at they are not its worst case: the loss there is a lower bound on that of
    :class:`~isthmus.probes.Robust`, which crafts anew at each model. samples: the adversarial examples under their labels, as
    :func:`freeze` returns them. crafted: by what and where, for the description of the columns.
    """

    samples: Samples
    crafted: str
    split: Split = "test"

    @property
    def _prefix(self) -> str:
        return "frozen" if self.split == "test" else f"{self.split}_frozen"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the loss and the error column."""
        n, on = len(self.samples), f"examples of {self.samples.name} {self.crafted}, the same at every point"
        return (
            Column(f"{self._prefix}_loss", "nat", "lower", self.split, n, f"mean cross-entropy on {on}"),
            Column(f"{self._prefix}_error", "%", "lower", self.split, n, f"misclassified {on}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return loss and error; draws nothing."""
        scores, y = logits(model, self.samples), self.samples.y
        loss = cross_entropy(scores.double(), y).mean().item()
        wrong = len(y) - int(correct(scores, y).sum())
        return {f"{self._prefix}_loss": loss, f"{self._prefix}_error": 100 * wrong / len(y)}


def freeze(
    model: nn.Module,
    samples: Samples,
    threat: Threat,
    attack: PGD,
    *,
    generator: torch.Generator,
    batch_size: int = 250,
) -> Samples:
    """Return `samples` moved to the points of the highest loss that `attack` met at `model`, the samples themselves included.

    Their mean loss at `model` is the robust loss that :class:`~isthmus.probes.Robust` measures there with the same generator.
    """
    found: list[Tensor] = []
    with attacked(model, num_classes=samples.num_classes) as victim:
        for index in torch.arange(len(samples)).split(batch_size):
            x, y = samples.inputs(index), samples.y[index]
            tried = attack(victim, threat.take(index), x, y, generator=generator, keep="loss")
            found.append(_worst(victim, tried, x, y))
    return samples.replaced(x=torch.cat(found))


def _worst(victim: Victim, tried: Attacked, x: Tensor, y: Tensor) -> Tensor:
    """Return (B, ...) for each sample the point of the largest loss, judged as `Robust` does."""
    judge = Victim(victim.model, victim.num_classes)  # the model itself, its BatchNorm layers not folded
    points = torch.stack([x, tried.worst, tried.first])
    losses = torch.stack([cross_entropy(judge.logits(point).double(), y) for point in points])
    return points[losses.argmax(0), torch.arange(len(x))]
