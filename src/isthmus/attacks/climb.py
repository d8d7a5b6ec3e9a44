"""`climb`: ascent whose step size follows its own success, image by image: the loop of APGD and its two step rules."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from isthmus.attacks.protocol import Memory
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim

Score = Callable[..., Tensor]
"""(logits (K, C), then the labels that it needs, (K,) each) -> (K,) what is made large."""

KEPT = 0.75
"""Share of the new step in an iterate; the rest goes on as the last step did."""


class Climbers:
    """The images of a run that are still attacked, K of them, and what each has reached.

    base, points: (K, ...) images and their present iterates, which belong to the who. labels: (K,) each. best, best_points,
    best_gradient: highest loss of the run, and where it was met.
    """

    def __init__(self, threat: Threat, base: Tensor, points: Tensor, labels: tuple[Tensor, ...]):
        self.threat, self.base, self.points, self.labels = threat, base, points, labels
        self.best_points = points.clone()
        self.gradient = self.best_gradient = torch.empty(0)
        self.best = torch.empty(0)

    def take(self, rows: Tensor) -> None:
        """Go on with those of the images alone; `rows` (K,) is boolean."""
        self.threat, self.base, self.points = self.threat.take(rows), self.base[rows], self.points[rows]
        self.labels = tuple(label[rows] for label in self.labels)
        self.best_points = self.best_points[rows]
        if len(self.best):
            self.best, self.best_gradient = self.best[rows], self.best_gradient[rows]

    def learn(self, values: Tensor, gradient: Tensor | None) -> None:
        """Take up the loss at `points` (K,), and its gradient if it is known. A loss that is not a number is no gain."""
        if gradient is not None:
            self.gradient = gradient
        if not len(self.best):
            self._order_as(self.gradient)
            self.best = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
            self.best_gradient = self.gradient.clone()
            return
        better = values > self.best
        self.best = torch.where(better, values, self.best)
        _overwrite(self.best_points, better, self.points)
        if gradient is not None:
            _overwrite(self.best_gradient, better, gradient)

    def _order_as(self, gradient: Tensor) -> None:
        """Store images in the order of the gradient's elements: channels last, where convolutions take it. Mixing them is slow."""
        if gradient.ndim == 4 and gradient.is_contiguous(memory_format=torch.channels_last):
            self.base = self.base.contiguous(memory_format=torch.channels_last)
            self.points = self.points.contiguous(memory_format=torch.channels_last)
            self.best_points = self.best_points.contiguous(memory_format=torch.channels_last)

    def return_to_best(self, rows: Tensor) -> None:
        """Put those of the images, `rows` (K,) boolean, back to where their loss was highest."""
        _overwrite(self.points, rows, self.best_points)
        self.gradient = torch.where(_wide(rows, self.gradient), self.best_gradient, self.gradient)


class Steps(Protocol):
    """How a run moves. What it holds of each image is indexed as the climbers are."""

    def take(self, rows: Tensor) -> None:
        """Go on with those of the images alone."""
        ...

    def review(self, who: Climbers, values: Tensor, step: int) -> None:
        """Take up the loss (K,) met after so many steps, which `who` has learned; at a checkpoint, change course."""
        ...

    def moved(self, who: Climbers, step: int) -> Tensor:
        """Return the next iterates (K, ...), a tensor of its own, inside the threat."""
        ...


class Halving:
    """Steps of Linf and L2: z = P(x_k + eta d_k), x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})), eta from two radii on.

    At a checkpoint eta is halved, and the image returns to its best point, where at most `rho` of the steps since the last checkpoint
    raised the loss, or where the best loss has not changed since and eta was not halved then.
    """

    def __init__(self, who: Climbers, checks: tuple[int, ...], rho: float):
        self.checks, self.rho = checks, rho
        self.eta = 2 * who.threat.radii(who.base)
        self.previous = who.points
        count = len(who.base)
        self.halved = torch.ones(count, dtype=torch.bool, device=who.base.device)
        self.rises = torch.zeros(count, dtype=torch.int32, device=who.base.device)
        self.last = self.bar = torch.empty(0)

    def take(self, rows: Tensor) -> None:
        """Go on with those of the images alone."""
        self.eta, self.previous = self.eta[rows], self.previous[rows]
        self.halved, self.rises = self.halved[rows], self.rises[rows]
        if len(self.last):
            self.last, self.bar = self.last[rows], self.bar[rows]

    def review(self, who: Climbers, values: Tensor, step: int) -> None:
        """Count the rises of the loss; at a checkpoint, halve eta where they are too few."""
        if step == 0:
            self.last, self.bar, self.previous = values, who.best, who.points
            return
        self.rises += values > self.last
        self.last = values
        if step not in self.checks:
            return
        window = step - max((check for check in self.checks if check < step), default=0)
        oscillates = self.rises <= self.rho * window
        stuck = ~self.halved & (self.bar >= who.best)
        self.halved, self.bar = oscillates | stuck, who.best
        self.rises.zero_()
        self.eta = torch.where(_wide(self.halved, self.eta), self.eta / 2, self.eta)
        who.return_to_best(self.halved)

    def moved(self, who: Climbers, step: int) -> Tensor:
        """Return the next iterates, with a quarter of the last step from the second on."""
        threat, base, points = who.threat, who.base, who.points
        tip = threat.project(base, threat.ascent(who.gradient).mul_(self.eta).add_(points))
        if step > 0:
            # As a difference from `points`: an image that rests at a wall stays there to the last bit.
            tip.sub_(points).mul_(KEPT).add_(points).add_(self.previous.sub_(points), alpha=KEPT - 1)
            tip = threat.project(base, tip)
        self.previous = points
        return tip


class Sparse:
    """Steps of L1: x_{k+1} = P(x_k + eta s / ||s||_1), s the signs of the largest gradient entries, eta from one radius on.

    At first two thirds as many entries as the start has changed. Every 4 % of the steps their number becomes two thirds of those that the
    best point has changed; where these are below 95 % of what they were, the image returns to its best point and eta to one radius, and
    elsewhere eta is divided by 1.5, down to a tenth of the radius (Croce and Hein 2021, arXiv:2103.01208, algorithm 1).

    Entries that lead out of the box from its wall are passed over, and of two changed entries one goes on; the authors' code does
    neither, so that its steps can end where nothing moves although the loss of a linear model still rises.
    """

    def __init__(self, who: Climbers, steps: int):
        self.every = max(4 * steps // 100, 1)
        self.radius = who.threat.radii(who.base)
        self.eta = self.radius.clone()
        self.support = _support(who.points, who.base)
        self._count()

    def _count(self) -> None:
        """Set the entries of a step from the support: two thirds, rounded up as in the authors' code, but one of two."""
        self.entries = ((2 * self.support + 2) // 3).sub_((self.support == 2).long()).clamp_min_(1)
        self.most = int(self.entries.amax())

    def take(self, rows: Tensor) -> None:
        """Go on with those of the images alone."""
        self.radius, self.eta = self.radius[rows], self.eta[rows]
        self.support, self.entries = self.support[rows], self.entries[rows]

    def review(self, who: Climbers, values: Tensor, step: int) -> None:
        """Every few steps, follow the support of the best point with the entries of a step and eta."""
        if step == 0 or step % self.every:
            return
        support = _support(who.best_points, who.base)
        sparser = support < 0.95 * self.support
        self.eta = torch.where(_wide(sparser, self.eta), self.radius, self.eta / 1.5).maximum(self.radius / 10)
        self.support = support
        self._count()
        who.return_to_best(sparser)

    def moved(self, who: Climbers, step: int) -> Tensor:
        """Return the next iterates, moved along the largest entries of the gradient."""
        threat, base, points = who.threat, who.base, who.points
        walled = torch.where(who.gradient > 0, points >= threat.high, points <= threat.low)
        flat = who.gradient.masked_fill(walled, 0).nan_to_num_(0).flatten(1)
        size = flat.abs()
        largest = size.topk(min(self.most, flat.shape[1]), dim=1).values
        least = largest.gather(1, self.entries.clamp_max(flat.shape[1])[:, None] - 1)
        signs = flat.sign_().mul_(size >= least)
        signs.div_(signs.abs().sum(1, keepdim=True).clamp_min(1))
        return threat.project(base, signs.reshape(points.shape).mul_(self.eta).add_(points))


def climb(victim: Victim, who: Climbers, moves: tuple[Steps, int], score: Score, memory: Memory | None) -> bool:
    """Ascend in as many steps as `moves` says; return whether some image is still attacked.

    Every iterate is looked at once and noted in `memory`, where there is one; an image that it closes leaves, with all that
    is held of it. The last iterate needs no gradient. With keep "last" it is noted unseen.
    """
    rule, steps = moves
    for step in range(steps):
        look = victim.look(who.points)
        values = score(look.logits, *who.labels)
        stays = torch.ones_like(values, dtype=torch.bool)
        if memory is not None and memory.keep != "last":
            stays = memory.note(who.points, values, look.logits)
        if not stays.any():
            return False
        gradient = look.gradient(lambda out, labels=who.labels: score(out, *labels))
        if not stays.all():
            who.take(stays)
            rule.take(stays)
            values, gradient = values[stays], gradient[stays]
        who.learn(values, gradient)
        rule.review(who, values, step)
        who.points = rule.moved(who, step)
    if memory is not None and memory.keep == "last":
        memory.worst[memory.active] = who.points
        return True
    logits = victim.logits(who.points)
    values = score(logits, *who.labels)
    if memory is None:
        who.learn(values, None)
        return True
    return bool(memory.note(who.points, values, logits).any())


def _overwrite(held: Tensor, rows: Tensor, new: Tensor) -> None:
    """Write the rows of `new` (K, ...) marked in `rows` (K,) into `held`."""
    torch.where(_wide(rows, held), new, held, out=held)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (like.ndim - 1))


def _support(points: Tensor, base: Tensor) -> Tensor:
    return (points != base).flatten(1).sum(1)
