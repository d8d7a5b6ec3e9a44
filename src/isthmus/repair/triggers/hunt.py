"""`Hunt`: triggers of one family made smaller step by step while they still lead a model's images to their classes."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import checked_forward
from isthmus.layout import arranged, placement
from isthmus.losses import refusal
from isthmus.repair.triggers.families import Family
from isthmus.tampering.triggers import require_image_samples

Target = int | None
"""A class, or None for any class but the right one, which is how all-to-all backdoors show."""
_GROWTH = 1.15
_MEMORY = 0.7


@dataclass(frozen=True)
class Search:
    """Settings of a search: Adam with betas 0.5 and 0.9, `steps` of `per` images for every trigger sought, in each of `rounds`.

    After each round but the last the half of all triggers goes on whose ratio to the median of their family is smallest (successive
    halving, Jamieson and Talwalkar 2016): most of the images go where a backdoor may be.

    The loss of a trigger is cross-entropy towards its class (for any wrong class: -log(1 - p), p the probability of the right one, with a
    gradient where the model is sure) plus 10 c times its size. c starts at 1 and grows by 15 % a step while the success, averaged over
    the last batches, is above `wanted`, and shrinks by as much below it, within 0.05 to 200: the trigger is made as small as it can be and
    still work. reached: the success below which a trigger does not count as found.
    """

    steps: int = 20
    rounds: int = 3
    per: int = 16
    wanted: float = 0.85
    reached: float = 0.6
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.rounds >= 1, "rounds", "be at least 1", self.rounds)
        require(self.per >= 2, "per", "be at least 2 images for each trigger", self.per)
        require(
            0 < self.reached <= self.wanted <= 1, "reached", "be in (0, wanted], with wanted at most 1", self.reached
        )


@dataclass(frozen=True, eq=False)
class Found:
    """Triggers of one family: of each the smallest that worked, or where none did what was tried last.

    free: (K, ...); targets: K; sizes, success: (K,), the latter a running average over batches of the search.

    ratio: (K,) sizes over the median size of the classes, sought in vain or not, the lower of two in the middle; infinite where the
    trigger itself does not work. images, seconds: gradients of one image that the search took, and its time.
    """

    family: Family
    free: Tensor
    targets: tuple[Target, ...]
    sizes: Tensor
    success: Tensor
    ratio: Tensor
    images: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Ground:
    """A private copy of the model and the samples, with the positions from which each target may be reached."""

    model: nn.Module
    x: Tensor
    y: Tensor
    num_classes: int
    order: torch.memory_format
    precision: str
    pools: dict[Target, Tensor] = field(default_factory=dict[Target, Tensor])

    @classmethod
    def of(cls, model: nn.Module, samples: Samples, precision: str) -> "Ground":
        """Return the ground, with a copy of the model.

        Raises InputError for other inputs than images and for a model that returns no logits of them.
        """
        require_image_samples(samples, "search for triggers")
        own = deepcopy(model).eval().requires_grad_(False)
        device, dtype = placement(own)
        x = samples.inputs().to(device, dtype)
        order = arranged(own, x[:1])
        checked_forward(own, x[:1].contiguous(memory_format=order), samples.num_classes)
        return cls(own, x, samples.y.to(device), samples.num_classes, order, precision)

    def pool(self, target: Target) -> Tensor:
        """Return the positions of the images that are not of the target's class. Raises InputError where there are none."""
        if target not in self.pools:
            held = torch.arange(len(self.y)) if target is None else (self.y != target).nonzero().flatten().cpu()
            require(len(held) > 0, "samples", f"hold some that are not of class {target}", "none")
            self.pools[target] = held
        return self.pools[target]

    def draw(self, targets: Sequence[Target], per: int, generator: torch.Generator) -> Tensor:
        """Return positions (K * per,) of images that are not of their target's class."""
        rows = [pool[torch.randint(len(pool), (per,), generator=generator)] for pool in map(self.pool, targets)]
        return torch.cat(rows)

    def scores(self, x: Tensor) -> Tensor:
        """Return the logits of images (B, C, H, W)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            return self.model(x.contiguous(memory_format=self.order)).float()


@dataclass(eq=False)
class Hunt:
    """Triggers of one family on their way.

    free, weight, success: (K, ...), (K,), (K,): where they are, the price c of their size, and how well they work. held, least, proved:
    for each the smallest that worked so far, its size (infinite for none), and how well it did.
    """

    family: Family
    targets: tuple[Target, ...]
    free: Tensor
    generator: torch.Generator
    weight: Tensor = field(init=False)
    success: Tensor = field(init=False)
    held: Tensor = field(init=False)
    least: Tensor = field(init=False)
    proved: Tensor = field(init=False)
    images: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, ground: Ground, family: Family, targets: tuple[Target, ...], generator: torch.Generator) -> "Hunt":
        """Return the hunt before its first step."""
        free = family.start(len(targets), tuple(ground.x.shape[1:]), generator)
        return cls(family, targets, free.to(ground.x), generator)

    def __post_init__(self) -> None:
        count = len(self.targets)
        self.weight, self.success = self.free.new_ones(count), self.free.new_zeros(count)
        self.held, self.least, self.proved = (
            self.free.clone(),
            self.free.new_full((count,), inf),
            self.free.new_zeros(count),
        )

    def advance(self, ground: Ground, search: Search, active: Sequence[int]) -> None:
        """Take `search.steps` steps with the triggers at the positions `active`."""
        began, at = perf_counter(), torch.tensor(active, device=self.free.device)
        targets = [self.targets[k] for k in active]
        free = self.free[at].requires_grad_()
        optimizer = torch.optim.Adam([free], self.family.rate, betas=(0.5, 0.9))
        for _ in range(search.steps):
            losses, won = _attempt(ground, self.family, free, targets, search.per, self.generator)
            success = self.success[at] = _MEMORY * self.success[at] + (1 - _MEMORY) * won
            growth = torch.where(success > search.wanted, _GROWTH, 1 / _GROWTH)
            weight = self.weight[at] = (self.weight[at] * growth).clamp(0.05, 200)
            size = self.family.size(free)
            better = (success > search.wanted) & (size < self.least[at])
            self.held[at[better]] = free.detach()[better]
            self.least[at[better]], self.proved[at[better]] = size.detach()[better], success[better]
            free.grad = torch.autograd.grad((losses + 10 * weight * size).sum(), free)[0]
            optimizer.step()
        self.free[at] = free.detach()
        self.images += search.steps * search.per * len(active)
        self.seconds += perf_counter() - began

    def forget(self) -> None:
        """Forget which worked; where they are stays the start of what follows."""
        self.least.fill_(inf)

    def found(self, search: Search) -> Found:
        """Return the smallest that worked, and for the others what was tried last."""
        worked = self.least.isfinite()
        free = torch.where(worked.reshape(-1, *[1] * (self.free.ndim - 1)), self.held, self.free)
        sizes, success = self.family.size(free), torch.where(worked, self.proved, self.success)
        ratio = _ratio(sizes, success, self.targets, search)
        return Found(self.family, free, self.targets, sizes, success, ratio, self.images, self.seconds)


def _attempt(
    ground: Ground, family: Family, free: Tensor, targets: Sequence[Target], per: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the mean loss and the success of each trigger (K,) on `per` images of its own."""
    rows = torch.arange(len(targets)).repeat_interleave(per)
    away = torch.tensor([target is None for target in targets], device=free.device)[rows]
    wanted = torch.tensor([target or 0 for target in targets], device=free.device)[rows]
    drawn = ground.draw(targets, per, generator).to(free.device)
    aim = torch.where(away, ground.y[drawn], wanted)
    scores = ground.scores(family.apply(free[rows], ground.x[drawn]))
    losses = torch.where(away, refusal(scores, aim), functional.cross_entropy(scores, aim, reduction="none"))
    won = (scores.detach().argmax(1) == aim) ^ away
    return losses.view(-1, per).mean(1), won.float().view(-1, per).mean(1)


def _ratio(sizes: Tensor, success: Tensor, targets: Sequence[Target], search: Search) -> Tensor:
    """Return sizes over the median of the classes, sought in vain or not; the restarts of one trigger have no others beside them.

    A class that alone can be reached must stand out, so those that cannot count in the median, with the size they were last tried at. It
    was not enough for them: where all others failed, that of the one which did not counts half.
    """
    classes = torch.tensor([target is not None for target in targets], device=sizes.device)
    if len(set(targets)) < 3:
        return torch.ones_like(sizes)
    worked = success >= search.reached
    alone = 0.5 if int((worked & classes).sum()) == 1 else 1.0
    ratio = torch.where(classes, alone, 1.0) * sizes / sizes[classes].median()
    return torch.where(worked, ratio, torch.full_like(sizes, inf))
