"""`Attack`: searches a threat for inputs that a model gets wrong. It never grades itself: the evaluator does."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.evaluate import correct

Keep = Literal["verdict", "loss", "last"]
"""verdict: an image leaves the batch at its first misclassified point. loss: every image is attacked to the end and the point of the
highest loss counts. last: the last iterate counts, unseen, which saves a pass (training)."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack found for each image; B images.

    fooled: (B,) whether a misclassified point was met. first: (B, ...) the first such point, x itself where none was. worst: (B, ...) the
    point of the highest loss met. loss: (B,) that loss.
    """

    fooled: Tensor
    first: Tensor
    worst: Tensor
    loss: Tensor

    @property
    def points(self) -> Tensor:
        """Return the first misclassified point of each image, and the one of the highest loss where none was met."""
        return torch.where(self.fooled.reshape(-1, *[1] * (self.first.ndim - 1)), self.first, self.worst)


class Attack(Protocol):
    """Searches for misclassified inputs: `attack(victim, threat, x, y, generator=..., keep=...) -> Attacked`.

    All randomness is drawn from `generator` for the whole batch, whatever part of it is still attacked, so the verdict on an image does
    not depend on when its neighbours fell. Every point returned lies in the threat.
    """

    @property
    def name(self) -> str:
        """Return what the attack is called in a table, such as `pgd-10` or `apgd-ce`."""
        ...

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
        ...


class Memory:
    """Keeps what an attack has met, for each image of a batch, and which images are still attacked.

    `active` (K,) are the places of the images still attacked. With keep "verdict" an image is closed at its first misclassified point.
    """

    def __init__(self, x: Tensor, y: Tensor, keep: Keep):
        self.keep: Keep = keep
        self.y = y
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.first, self.worst = x.clone(), x.clone()
        self.loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.active = torch.arange(len(x), device=x.device)

    def reopen(self) -> Tensor:
        """Return `active` for another restart or target: every image, or with "verdict" those not fooled so far."""
        every = torch.arange(len(self.fooled), device=self.fooled.device)
        self.active = every[~self.fooled] if self.keep == "verdict" else every
        return self.active

    def note(self, points: Tensor, values: Tensor, logits: Tensor) -> Tensor:
        """Record points (K, ...) of the active images, the loss there (K,) and their logits; return which of the K stay active (K,).

        A value that is not a number counts as no gain, and logits that are not numbers as misclassified (see `correct`).
        """
        at = self.active
        wrong = ~correct(logits, self.y[at])
        better = values > self.loss[at]
        self.loss[at[better]] = values[better].to(self.loss.dtype)
        self.worst[at[better]] = points[better]
        new = wrong & ~self.fooled[at]
        self.first[at[new]] = points[new]
        self.fooled[at[new]] = True
        stays = ~wrong if self.keep == "verdict" else torch.ones_like(wrong)
        self.active = at[stays]
        return stays

    def result(self) -> Attacked:
        """Return what was met."""
        return Attacked(self.fooled, self.first, self.worst, self.loss)
