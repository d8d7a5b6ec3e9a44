"""`Similarity`: how alike the perturbations are that one attack finds at two models (Liu et al. 2020, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim, attacked
from isthmus.data.samples import Samples
from isthmus.evaluate import correct
from isthmus.randomness import stream
from isthmus.rates import Z95, spread
from isthmus.table import Split


@dataclass(frozen=True, eq=False)
class Crafting:
    """Which images are perturbed, within which threat, by which attack: its last iterate counts, as in training.

    split: what the images are part of. seed: names the random starts; in L1 and L2 they depend on the batch size too. Raises InputError for
    an attack of several restarts or outside the ball, whose last iterate is no one perturbation of the threat.
    """

    samples: Samples
    threat: Threat
    attack: PGD
    split: Split = "test"
    batch_size: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)
        require(self.attack.restarts == 1, "attack", "have one restart", f"{self.attack.restarts} restarts")
        require(self.attack.confine, "attack", "stay in the ball", "confine=False")
        self.threat.require_inputs(self.samples.inputs(torch.arange(len(self.samples))))


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What an attack did to N images at one model.

    delta: (N, d) x' - x. moved: (N,) whether x' differs from x and from where the attack began; where all gradients are zero it does not,
    and delta has no direction. clean, robust: (N,) whether the model is right at x, and at both x and x'.
    """

    delta: Tensor
    moved: Tensor
    clean: Tensor
    robust: Tensor


@dataclass(frozen=True)
class Mean:
    """A mean over images, its standard error, the normal 95 % interval, and of how many images. NaN where there are too few."""

    value: float
    error: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Return the mean of `values`.

        >>> Mean.of([0.0, 1.0, 0.0, 1.0]).value
        0.5
        """
        if not values:
            return cls(nan, nan, 0)
        mean, deviation = spread(values)
        return cls(mean, deviation / sqrt(len(values)), len(values))

    @property
    def low(self) -> float:
        """Return the lower bound."""
        return self.value - Z95 * self.error

    @property
    def high(self) -> float:
        """Return the upper bound."""
        return self.value + Z95 * self.error


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the perturbations of N images are at two models, image by image; NaN where either attack did not move.

    cosine: (N,) of the two perturbations, each from a random start of its own. signs: (N,) cosine of their signs. same_start: (N,) cosine
    where both begin at one start, which leaves the weights as the only difference. clean, robust: (2, N) whether the first and the
    second model are right at x, and at x and x'.
    """

    cosine: Tensor
    signs: Tensor
    same_start: Tensor
    clean: Tensor
    robust: Tensor

    @property
    def excluded(self) -> int:
        """Return how many images have no cosine."""
        return int(self.cosine.isnan().sum())

    def mean(self, name: str = "cosine") -> Mean:
        """Return the mean of `cosine`, `signs` or `same_start` over the images that have it."""
        values: Tensor = getattr(self, name)
        return Mean.of(values[~values.isnan()].tolist())

    def less(self, other: "Similarity") -> Mean:
        """Return the mean over images of this cosine less that of `other`, image by image, over those that have both."""
        difference = self.cosine - other.cosine
        return Mean.of(difference[~difference.isnan()].tolist())

    def error(self, name: str = "robust", place: int = 0) -> float:
        """Return the share (%) of images that the first (0) or second (1) model gets wrong; `name`: clean or robust."""
        right: Tensor = getattr(self, name)[place]
        return 100 * (1 - right.double().mean().item())

    def packed(self) -> Tensor:
        """Return everything as one (7, N) float64 tensor, for a file."""
        parts = (self.cosine, self.signs, self.same_start, *self.clean, *self.robust)
        return torch.stack([part.double() for part in parts])

    @classmethod
    def unpacked(cls, values: Tensor) -> "Similarity":
        """Return what :meth:`packed` wrote. Raises InputError for a tensor of another shape."""
        require(values.ndim == 2 and len(values) == 7, "values", "have shape (7, N)", tuple(values.shape))
        return cls(values[0], values[1], values[2], values[3:5] > 0, values[5:7] > 0)


def perturb(model: nn.Module, crafting: Crafting, *, generator: torch.Generator) -> Perturbed:
    """Return the perturbations of all images at `model`, in evaluation mode with its own BatchNorm statistics.

    Two calls with equal generators begin at equal points. The model is left as it was.
    """
    samples, attack = crafting.samples, crafting.attack
    parts: list[tuple[Tensor, ...]] = []
    with attacked(model, num_classes=samples.num_classes) as victim:
        for index in torch.arange(len(samples)).split(crafting.batch_size):
            x, y = samples.inputs(index), samples.y[index]
            threat = crafting.threat.take(index)
            begun = _begin(attack, threat, x, generator)
            points = attack.climb(victim, threat, (x, y), begun, keep="last").points
            parts.append(_judged(victim, (x, y), begun, points))
    return Perturbed(*(torch.cat(column) for column in zip(*parts, strict=True)))


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row of `first` (N, d) with that of `second`, (N,) float64; NaN where either row is zero.

    >>> cosines(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, -1.0], [1.0, 0.0]])).tolist()
    [0.0, nan]
    """
    one, two = (rows.double() for rows in (first, second))
    lengths = (one.square().sum(1) * two.square().sum(1)).sqrt()  # of equal rows the cosine is then 1 to the bit
    found = ((one * two).sum(1) / lengths).clamp(-1, 1)
    return torch.where(lengths > 0, found, torch.nan)


def similarity(first: nn.Module, second: nn.Module, crafting: Crafting) -> Similarity:
    """Return how alike the perturbations crafted at two models are: mean cosine of x' - x, Liu et al. 2020.

    cosine compares starts drawn apart, so that at one and the same model it is what the random start alone leaves, below 1; same_start
    compares equal starts, and is 1 there. Starts do not depend on the models: another pair is attacked from the same points. Three
    attacks in all. Both models are left as they were.
    """
    starts = [stream(crafting.seed, "similarity", place) for place in (0, 1, 0)]
    one, other = perturb(first, crafting, generator=starts[0]), perturb(second, crafting, generator=starts[1])
    return compare(one, other, one if first is second else perturb(second, crafting, generator=starts[2]))


def compare(first: Perturbed, second: Perturbed, alike: Perturbed) -> Similarity:
    """Return the similarity of perturbations at two models; `alike`: at the second model, from the starts of the first."""
    return Similarity(
        _where_moved(cosines(first.delta, second.delta), first, second),
        _where_moved(cosines(first.delta.sign(), second.delta.sign()), first, second),
        _where_moved(cosines(first.delta, alike.delta), first, alike),
        torch.stack([first.clean, second.clean]),
        torch.stack([first.robust, second.robust]),
    )


def _begin(attack: PGD, threat: Threat, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return where the attack begins: its uniform random start, or x itself where it has none."""
    if attack.start == 0:
        return x
    return threat.project(x, threat.scaled(attack.start).start(x, generator=generator))


def _judged(victim: Victim, batch: tuple[Tensor, Tensor], begun: Tensor, points: Tensor) -> tuple[Tensor, ...]:
    """Return the fields of `Perturbed` for a batch (x, y)."""
    x, y = batch
    judge = Victim(victim.model, victim.num_classes)  # the model itself, its BatchNorm layers not folded
    clean = correct(judge.logits(x), y)
    robust = clean & correct(judge.logits(points), y)
    moved = (points != x).flatten(1).any(1) & (points != begun).flatten(1).any(1)
    return (points - x).flatten(1), moved, clean, robust


def _where_moved(values: Tensor, first: Perturbed, second: Perturbed) -> Tensor:
    return torch.where(first.moved & second.moved, values, torch.nan)
