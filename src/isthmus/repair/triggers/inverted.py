"""Candidate triggers read out of a model: per class the smallest mask and pattern, or a small universal change, that lead images there.

All classes are searched together, each on its share of every batch: one evaluation is the gradient of one such batch, whatever the number
of classes, and comes at the cost of one gradient of a remedy. What is found is a candidate. Every model has universal perturbations, and a
class that is easy to reach is not a backdoor; see :mod:`isthmus.repair.trust.triage` for what may be concluded.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import checked_forward, correct, logits
from isthmus.layout import arranged, placement
from isthmus.randomness import stream
from isthmus.rates import Rate
from isthmus.repair.triggers.candidates import Candidate, Inversion, Shift, Stamp, anomaly
from isthmus.tampering import Trigger
from isthmus.tampering.triggers import require_image_samples


@dataclass(frozen=True)
class MaskSearch:
    """Settings of Neural Cleanse: Adam at `learning_rate` on arctanh of mask and pattern, loss cross-entropy + weight * L1 of the mask.

    Every `interval` steps a class whose success was at least `least` for `patience` such intervals running has its weight multiplied by
    1.5, one below it divided by 1.5^1.5. Rate 0.1, betas 0.5 and 0.9, weight 1e-3 and least 0.99 are those of the authors' code. There an
    interval is 1,000 images, the patience 5, the factor 2 and the number of intervals up to 1,000, and the weight starts at 0; with 300
    steps in all, intervals and patience are shorter and the factor is the 1.5 of common re-implementations.
    """

    steps: int = 300
    batch_size: int = 120
    learning_rate: float = 0.1
    weight: float = 1e-3
    least: float = 0.99
    interval: int = 10
    patience: int = 2

    def __post_init__(self) -> None:
        require(1 <= self.interval <= self.steps, "interval", f"be in 1..{self.steps} steps", self.interval)
        require(self.patience >= 1, "patience", "be at least 1 interval", self.patience)
        require(self.weight > 0, "weight", "be above 0", self.weight)
        require(0 < self.least <= 1, "least", "be in (0, 1]", self.least)


@dataclass(frozen=True)
class ChangeSearch:
    """Settings of the universal change: signed steps with momentum 0.9, from `radius` / 4 to 0 by a cosine, within l-inf `radius`."""

    steps: int = 100
    batch_size: int = 120
    radius: float = 0.05

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(0 < self.radius <= 1, "radius", "be in (0, 1], where images span [0, 1]", self.radius)


def smallest_masks(
    model: nn.Module,
    samples: Samples,
    held_out: Samples,
    search: MaskSearch | None = None,
    *,
    seed: int,
    classes: Sequence[int] | None = None,
) -> Inversion:
    """Return for each class the smallest mask with a pattern that sends images there (Neural Cleanse, Wang et al. 2019).

    Kept is the mask of the least L1 norm among the intervals whose success on `samples` reached `search.least`. Size: sum of the mask, in
    pixels. Its success is measured on `held_out`, on images of other classes than the target. Raises InputError for other inputs than
    images, more classes than a batch has places, and where a class has no image of another class to start from.
    """
    search = search or MaskSearch()
    ground = _Ground.of(model, (samples, held_out), classes, search.batch_size)
    generator = stream(seed, "smallest masks")
    k, (channels, height, width) = len(ground.classes), samples.input_shape
    start = torch.rand(k, 1 + channels, height, width, generator=generator).clamp(1e-3, 1 - 1e-3)
    free = torch.atanh(2 * start - 1).to(ground.x).requires_grad_()
    optimizer = torch.optim.Adam([free], search.learning_rate, betas=(0.5, 0.9))
    schedule = _Schedule.of(free, search)
    hits = torch.zeros(k, device=free.device)
    for step in range(search.steps):
        drawn = ground.draw(generator)
        mask, pattern = _halves(free)
        losses, rates = ground.judged((1 - mask[:, None]) * drawn + (mask * pattern)[:, None])
        total = (losses + schedule.weight * mask.sum((1, 2, 3))).sum()
        optimizer.zero_grad()
        free.grad = torch.autograd.grad(total, free)[0]
        optimizer.step()
        hits += rates
        if (step + 1) % search.interval == 0:
            schedule.note(hits / search.interval, free.detach())
            hits.zero_()
    mask, pattern = (part.to(samples.x.device) for part in _halves(schedule.kept))
    stamps = [Stamp(m[0].contiguous(), p.contiguous()) for m, p in zip(mask, pattern, strict=True)]
    sizes = [float(stamp.mask.sum()) for stamp in stamps]
    return ground.inversion("smallest mask", stamps, sizes, schedule.reached.tolist(), search.steps)


def universal_changes(
    model: nn.Module,
    samples: Samples,
    held_out: Samples,
    search: ChangeSearch | None = None,
    *,
    seed: int,
    classes: Sequence[int] | None = None,
) -> Inversion:
    """Return for each class one change of at most `search.radius` per pixel that sends images there (Moosavi-Dezfooli et al. 2017).

    Size: mean cross-entropy (nat) towards the class on held-out images, so that smaller is easier here as for masks; reached where more
    than half of them go there. Raises InputError as :func:`smallest_masks`.
    """
    search = search or ChangeSearch()
    ground = _Ground.of(model, (samples, held_out), classes, search.batch_size)
    generator = stream(seed, "universal changes")
    change = torch.zeros(len(ground.classes), *samples.input_shape).to(ground.x)
    momentum = torch.zeros_like(change)
    for step in range(search.steps):
        free = change.clone().requires_grad_()
        losses, _ = ground.judged((ground.draw(generator) + free[:, None]).clamp(0, 1))
        gradient = torch.autograd.grad(losses.sum(), free)[0]
        momentum = 0.9 * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-20)
        rate = search.radius / 4 * (1 + cos(pi * step / search.steps)) / 2
        change = (change - rate * momentum.sign()).clamp(-search.radius, search.radius)
    shifts = [Shift(part.contiguous()) for part in change.to(samples.x.device)]
    sizes = [ground.loss(shift, target) for shift, target in zip(shifts, ground.classes, strict=True)]
    return ground.inversion("universal change", shifts, sizes, None, search.steps)


@dataclass(frozen=True, eq=False)
class _Ground:
    """A private copy of the model, and for each class the images of the others."""

    model: nn.Module
    x: Tensor
    held_out: Samples
    classes: tuple[int, ...]
    pools: tuple[Tensor, ...]
    per: int
    order: torch.memory_format

    @classmethod
    def of(
        cls, model: nn.Module, both: tuple[Samples, Samples], classes: Sequence[int] | None, batch_size: int
    ) -> "_Ground":
        samples, held_out = both
        require_image_samples(samples, "search for triggers")
        wanted = tuple(range(samples.num_classes) if classes is None else classes)
        known = range(samples.num_classes)
        require(bool(wanted) and all(target in known for target in wanted), "classes", f"lie in 0..{known[-1]}", wanted)
        fix = "Raise it, or name fewer `classes`."
        require(
            batch_size >= len(wanted),
            "batch_size",
            f"have a place for each of {len(wanted)} classes",
            batch_size,
            fix,
        )
        for part in both:
            for target in wanted:
                require(
                    bool((part.y != target).any()),
                    "samples",
                    f"hold some that are not of class {target}",
                    f"none in {part.name!r}",
                )
        own = deepcopy(model).eval().requires_grad_(False)
        device, dtype = placement(own)
        x = samples.inputs().to(device, dtype)
        pools = tuple((samples.y != target).nonzero().flatten().cpu() for target in wanted)
        order = arranged(own, x[:1])
        checked_forward(own, x[:1].contiguous(memory_format=order), samples.num_classes)
        return cls(own, x, held_out, wanted, pools, batch_size // len(wanted), order)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return images (K, per, C, H, W), those of row k drawn from the classes other than k."""
        rows = [pool[torch.randint(len(pool), (self.per,), generator=generator)] for pool in self.pools]
        return self.x[torch.cat(rows).to(self.x.device)].unflatten(0, (len(self.pools), self.per))

    def judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return for images (K, per, C, H, W) the mean loss towards each class, with gradient, and the share that goes there."""
        targets = torch.tensor(self.classes, device=images.device).repeat_interleave(self.per)
        out = self.model(images.flatten(0, 1).contiguous(memory_format=self.order)).float()
        losses = functional.cross_entropy(out, targets, reduction="none")
        hit = (out.detach().argmax(1) == targets).float()
        return losses.view(-1, self.per).mean(1), hit.view(-1, self.per).mean(1)

    def loss(self, trigger: Trigger, target: int) -> float:
        """Return the mean loss towards the class on held-out images of the others."""
        scores = self._scores(trigger, target)
        return float(functional.cross_entropy(scores.double(), torch.full((len(scores),), target).to(scores.device)))

    def _scores(self, trigger: Trigger, target: int) -> Tensor:
        return logits(self.model, self.held_out.take(self.held_out.y != target), transform=trigger)

    def inversion(
        self,
        method: str,
        triggers: Sequence[Trigger],
        sizes: Sequence[float],
        reached: Sequence[bool] | None,
        evaluations: int,
    ) -> Inversion:
        found: list[Candidate] = []
        for k, (target, trigger) in enumerate(zip(self.classes, triggers, strict=True)):
            scores = self._scores(trigger, target)
            rate = Rate.of(correct(scores, torch.full((len(scores),), target, device=scores.device)))
            found.append(Candidate(target, trigger, sizes[k], rate, reached[k] if reached else rate.value > 0.5))
        return Inversion(method, tuple(found), anomaly(sizes), evaluations)


@dataclass(eq=False)
class _Schedule:
    """The weight of each class's mask norm, and the smallest mask so far that still led there."""

    search: MaskSearch
    weight: Tensor
    streak: Tensor
    best: Tensor
    kept: Tensor
    reached: Tensor

    @classmethod
    def of(cls, free: Tensor, search: MaskSearch) -> "_Schedule":
        flat = free.detach()[:, 0, 0, 0]
        return cls(
            search,
            torch.full_like(flat, search.weight),
            torch.zeros_like(flat),
            torch.full_like(flat, torch.inf),
            free.detach().clone(),
            torch.zeros_like(flat, dtype=torch.bool),
        )

    def note(self, rates: Tensor, free: Tensor) -> None:
        """Take in an interval: `rates` (K,) are the shares that reached their class."""
        good = rates >= self.search.least
        size = _halves(free)[0].sum((1, 2, 3))
        better = good & (size < self.best)
        self.best = torch.where(better, size, self.best)
        self.reached = self.reached | good
        self.kept = torch.where((better | ~self.reached)[:, None, None, None], free, self.kept)
        sign = torch.where(good, 1.0, -1.0).to(self.streak)
        self.streak = torch.where(self.streak * sign >= 0, self.streak + sign, sign)
        full = self.streak.abs() >= self.search.patience
        factor = torch.where(sign > 0, 1.5, 1.5**-1.5).to(self.weight)
        self.weight = torch.where(full, self.weight * factor, self.weight)
        self.streak = torch.where(full, 0.0, self.streak).to(self.weight)


def _halves(free: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks (K, 1, H, W) and patterns (K, C, H, W) in [0, 1]."""
    both = (torch.tanh(free) + 1) / 2
    return both[:, :1], both[:, 1:]
