"""`Robust`: loss and error under attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.attacks.pgd import PGD
from isthmus.attacks.protocol import Attacked
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim, attacked
from isthmus.data.samples import Samples
from isthmus.evaluate import correct
from isthmus.losses import cross_entropy
from isthmus.table import Column, Split

PGD10 = PGD()


@dataclass(frozen=True, eq=False)
class Robust:
    """Robust loss (nat), robust error (%) and evasion success (%) under `attack`, each image at the worst point met.

    robust_loss: mean of the largest cross-entropy met, the image itself included. robust_error: share misclassified at the image, at the
    point of that loss or at the first misclassified one, both tested again in float32. evasion_success: share of the images classified
    correctly that were made wrong. The attack runs to its end on every image: a loss needs its maximum.

    warm: attack a second time from the points that the fresh attack found at the model measured before, the neighbour on a path, and keep
    the better. Values then depend on which model came before; `name` is appended to the columns, for several threats in one table.
    """

    samples: Samples
    threat: Threat
    attack: PGD = PGD10
    split: Split = "test"
    batch_size: int = 250
    warm: bool = False
    name: str = ""
    _before: list[Tensor] = field(default_factory=list[Tensor], init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)
        self.threat.require_inputs(self.samples.inputs(torch.arange(len(self.samples))))

    @property
    def chained(self) -> bool:
        """Return whether a call depends on the model measured before."""
        return self.warm

    @property
    def _names(self) -> tuple[str, str, str]:
        prefix, suffix = "" if self.split == "test" else f"{self.split}_", f"_{self.name}" if self.name else ""
        return (f"{prefix}robust_loss{suffix}", f"{prefix}robust_error{suffix}", f"{prefix}evasion_success{suffix}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the loss, the error and the success column."""
        n, names = len(self.samples), self._names
        radius = (
            f"{float(self.threat.radius):.4g}" if not isinstance(self.threat.radius, Tensor) else "a radius per image"
        )
        under = f"under {self.attack.name}, {self.threat.norm} {radius}, on {self.samples.name}"
        return (
            Column(names[0], "nat", "lower", self.split, n, f"mean of the largest cross-entropy met {under}"),
            Column(names[1], "%", "lower", self.split, n, f"misclassified {under}"),
            # No n: the correctly classified are another number at every model, so no interval is attached.
            Column(names[2], "%", "lower", self.split, None, f"made wrong, of those classified correctly, {under}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        """Return loss, error and success; draws the random starts."""
        found: list[Tensor] = []
        before, self._before[:] = list(self._before), []
        with attacked(model, num_classes=self.samples.num_classes) as victim:
            for place, index in enumerate(torch.arange(len(self.samples)).split(self.batch_size)):
                x, y = self.samples.inputs(index), self.samples.y[index]
                threat = self.threat.take(index)
                tries = [self.attack(victim, threat, x, y, generator=generator, keep="loss")]
                if self.warm:
                    self._before.append(tries[0].worst)
                    tries += [
                        self.attack.climb(victim, threat, (x, y), points, keep="loss")
                        for points in before[place : place + 1]
                    ]
                found.append(_worst(victim, tries, x, y))
        losses, clean, robust = torch.cat(found, 1)
        right = clean.sum().item()
        return dict(
            zip(
                self._names,
                (
                    losses.mean().item(),
                    100 * (1 - robust.mean().item()),
                    100 * (clean - robust).sum().item() / right if right else 0.0,
                ),
                strict=True,
            )
        )


def _worst(victim: Victim, tries: list[Attacked], x: Tensor, y: Tensor) -> Tensor:
    """Return (3, B) float64: the largest loss, whether x itself is right, and whether everything tested is."""
    judge = Victim(victim.model, victim.num_classes)  # the model itself, its BatchNorm layers not folded
    scores = [
        judge.logits(points) for points in [x, *(point for found in tries for point in (found.worst, found.first))]
    ]
    losses = torch.stack([cross_entropy(out.double(), y) for out in scores]).amax(0)
    right = torch.stack([correct(out, y) for out in scores])
    return torch.stack([losses, right[0].double(), right.all(0).double()])
