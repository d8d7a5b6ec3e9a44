"""FAB-T: minimises the norm of a misclassified point, target class by target class (Croce and Hein 2020, arXiv:1907.02044)."""

from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.attacks.hyperplane import onto_hyperplane
from isthmus.attacks.protocol import Attacked, Keep
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.evaluate import correct

HALVINGS = 10
"""Halvings of the segment from the image to the nearest point found, where the norm itself is asked for: to 0.1 % of that norm."""


@dataclass(frozen=True)
class FAB:
    """x <- box[(1 - a)(x + eta d_1) + a (x_0 + eta d_0)], a = min(||d_1|| / (||d_1|| + ||d_0||), alpha_max).

    d_1 and d_0 lead from the iterate x and from the image x_0 onto the hyperplane where, to first order at x, the target's logit equals
    the label's. A misclassified iterate is kept where it is the nearest so far, and then pulled back: x <- x_0 + beta (x - x_0).

    steps: hyperplanes of a run. targets: classes aimed at in turn, the likeliest at the image first; at most all but the label. restarts:
    runs over all targets; the first starts at the image, later ones are drawn from the ball around it of half the radius, or half the norm
    found where that is smaller. eta: overshoot. beta: pull back. alpha_max: largest share of the image's own projection.

    The norm is minimised and the radius only decides the verdict: a point farther than the radius counts as nothing found.

    An iterate too far to count is not tested but taken to be misclassified, as 94 % were on a network for digits, and its pulled back
    place is visited at once; where the gradient there says that the iterate was not across after all, the iterate is visited too. So a
    step costs little more than one forward and one backward pass. The published code tests every iterate, by a forward pass of its own.
    """

    steps: int = 100
    targets: int = 9
    restarts: int = 1
    eta: float = 1.05
    beta: float = 0.9
    alpha_max: float = 0.1

    def __post_init__(self) -> None:
        for name in ("steps", "targets", "restarts"):
            require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        require(isfinite(self.eta) and self.eta >= 1, "eta", "be at least 1, where 1 stops at the hyperplane", self.eta)
        require(0 < self.beta < 1, "beta", "be between 0 and 1", self.beta)
        require(0 <= self.alpha_max <= 1, "alpha_max", "be in [0, 1]", self.alpha_max)

    @property
    def name(self) -> str:
        """Return `fab-t`, with the restarts where there are several."""
        return "fab-t" + (f"x{self.restarts}" if self.restarts > 1 else "")

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
        """Return what was found around each of x (B, ...) with labels y (B,).

        With "verdict" an image leaves at its first misclassified point within the radius; otherwise every image is attacked to the end.
        Both `first` and `worst` are the nearest misclassified point, if within the radius, and else x: the last iterate means nothing
        here. `loss` is what is made large: minus the norm of the nearest misclassified point seen; beyond the radius a coarse one.
        """
        radius = threat.radii(x).flatten()
        enough = radius if keep == "verdict" else torch.zeros_like(radius)
        nearest = self._search(victim, _Nearest(threat, x, y, enough, limit=radius), generator)
        fooled = nearest.size <= radius
        points = _pick(fooled, nearest.points, x)
        return Attacked(fooled, points, points.clone(), -nearest.size)

    def minimal(
        self, victim: Victim, threat: Threat, x: Tensor, y: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the norm (B,) of the smallest perturbation found that gets each image misclassified, and the points x + it (B, ...).

        An upper bound of the distance to the decision boundary in the box. 0 for a misclassified image; inf, and the image itself, where
        none was found. Of the radius of `threat` only the random starts of later restarts take notice. At the end the segment from the
        image to the point is halved :data:`HALVINGS` times, which the published code does not do: the overshoot leaves about 0.5 %.
        """
        zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        nearest = self._search(victim, _Nearest(threat, x, y, zeros, limit=zeros + torch.inf), generator)
        _halve(victim, nearest)
        return nearest.size, nearest.points

    def _search(self, victim: Victim, nearest: "_Nearest", generator: torch.Generator) -> "_Nearest":
        x, y = nearest.x, nearest.y
        clean = victim.logits(x)
        nearest.note(nearest.open(), x, clean)
        others = clean.scatter(1, y[:, None], -torch.inf)
        ranked = others.topk(min(self.targets, clean.shape[1] - 1)).indices
        for restart in range(self.restarts):
            for target in ranked.unbind(1):
                # Drawn for the whole batch, whoever is still attacked.
                begun = nearest.begun(generator) if restart else x
                at = nearest.open()
                if len(at):
                    self._run(victim, nearest, _Rows(at, x[at], begun[at], y[at], target[at], nearest.limit[at]))
        return nearest

    def _run(self, victim: Victim, nearest: "_Nearest", rows: "_Rows") -> None:
        _, value, gradient, _ = _visit(victim, nearest, rows)
        for left in reversed(range(self.steps)):
            stays = nearest.unfinished(rows.at)
            if not stays.all():
                rows, value, gradient = rows.take(stays), value[stays], gradient[stays]
            if not len(rows.at):
                return
            far = self._moved(nearest.threat, rows, value, gradient)
            counts = nearest.threat.size(far - rows.base) <= rows.limit
            if not left:
                last = replace(rows, points=far).take(counts)
                if len(last.at):
                    nearest.note(last.at, last.points, victim.logits(last.points))
                return
            near = rows.base + self.beta * (far - rows.base)
            rows = replace(rows, points=_pick(counts, far, near))
            wrong, value, gradient, limit = _visit(victim, nearest, rows)
            across = value + (gradient * (far - near)).flatten(1).sum(1) >= 0
            again = torch.where(counts, wrong, ~across) & nearest.unfinished(rows.at)
            rows = replace(rows, limit=limit)
            if again.any():
                second = replace(rows, points=_pick(counts, near, far)).take(again)
                wrong, values, gradients, rows.limit[again] = _visit(victim, nearest, second)
                # An iterate that was too far, yet is misclassified, as another class: the pull back was right.
                moves = counts[again] | ~wrong
                place = again.nonzero().squeeze(1)[moves]
                rows.points[place] = second.points[moves]
                value[place], gradient[place] = values[moves], gradients[moves]

    def _moved(self, threat: Threat, rows: "_Rows", value: Tensor, gradient: Tensor) -> Tensor:
        """Return the next iterates, where the logit difference is `value` (K,) with `gradient` (K, ...) at the present ones."""
        ends = torch.stack([rows.points.flatten(1), rows.base.flatten(1)])
        normal, here = gradient.flatten(1), -value
        gaps = torch.stack([here, here + (normal * (ends[0] - ends[1])).sum(1)])
        d = onto_hyperplane(threat, ends, normal, gaps)
        sizes = threat.size(d.flatten(0, 1)).reshape(2, -1, 1)
        share = (sizes[0] / sizes.sum(0).clamp_min(torch.finfo(ends.dtype).tiny)).clamp(max=self.alpha_max)
        tips = ends + self.eta * d
        return torch.lerp(tips[0], tips[1], share).clamp(threat.low, threat.high).reshape(rows.points.shape)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The images still attacked: place in the batch (K,), image and iterate (K, ...), label and target (K,).

    limit: (K,) the norm up to which a misclassified point counts: the radius, or what this run has found if that is less.
    """

    at: Tensor
    base: Tensor
    points: Tensor
    y: Tensor
    target: Tensor
    limit: Tensor

    def take(self, index: Tensor) -> "_Rows":
        at, base, points = self.at[index], self.base[index], self.points[index]
        return _Rows(at, base, points, self.y[index], self.target[index], self.limit[index])

    def difference(self, logits: Tensor) -> Tensor:
        """Return the target's logit minus the label's, (K,)."""
        return logits.gather(1, self.target[:, None]).squeeze(1) - logits.gather(1, self.y[:, None]).squeeze(1)


class _Nearest:
    """The nearest misclassified point met for each image; size: (B,) its norm, inf where none was met.

    enough: (B,) the norm at which an image is finished. limit: (B,) the norm up to which a misclassified point counts.
    """

    def __init__(self, threat: Threat, x: Tensor, y: Tensor, enough: Tensor, *, limit: Tensor):
        self.threat, self.x, self.y, self.enough, self.limit = threat, x, y, enough, limit
        self.points = x.clone()
        self.size = torch.full_like(enough, torch.inf)

    def unfinished(self, at: Tensor) -> Tensor:
        """Return which of the images `at` (K,) are still attacked, (K,)."""
        return self.size[at] > self.enough[at]

    def open(self) -> Tensor:
        """Return the places (K,) of the images still attacked."""
        return (self.size > self.enough).nonzero().squeeze(1)

    def note(self, at: Tensor, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Record points (K, ...) of the images `at`; return which are misclassified (K,), and the norm of those, inf elsewhere."""
        wrong = ~correct(logits, self.y[at])
        sizes = self.threat.size(points - self.x[at]).where(wrong, torch.inf)
        nearer = sizes < self.size[at]
        self.points[at[nearer]] = points[nearer]
        self.size[at[nearer]] = sizes[nearer]
        return wrong, sizes

    def begun(self, generator: torch.Generator) -> Tensor:
        """Return a random start for every image (B, ...)."""
        reach = torch.minimum(self.size, self.threat.radii(self.x).flatten()) / 2
        reach = reach.clamp_min(torch.finfo(reach.dtype).tiny)  # a threat has no radius 0, and those images have left
        return replace(self.threat, radius=reach).start(self.x, generator=generator)


def _visit(victim: Victim, nearest: _Nearest, rows: _Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of the iterates: misclassified or not, logit difference (K,), its gradient (K, ...), and the limits (K,) from here on."""
    look = victim.look(rows.points)
    wrong, sizes = nearest.note(rows.at, rows.points, look.logits)
    value, gradient = rows.difference(look.logits), look.gradient(rows.difference)
    # What is no number must not lead to points that are none: of those a model only ever says that they are misclassified.
    value, gradient = value.to(gradient.dtype).nan_to_num(0, 0, 0), gradient.nan_to_num(0, 0, 0)
    return wrong, value, gradient, torch.minimum(rows.limit, sizes)


def _pick(rows: Tensor, points: Tensor, others: Tensor) -> Tensor:
    """Return `points` in those rows (B,) and `others` elsewhere, both (B, ...)."""
    return torch.where(rows.reshape(-1, *[1] * (points.ndim - 1)), points, others)


def _halve(victim: Victim, nearest: _Nearest) -> None:
    """Move each point found towards its image as far as it stays misclassified, by halving."""
    at = ((nearest.size > 0) & nearest.size.isfinite()).nonzero().squeeze(1)
    if not len(at):
        return
    base, threat = nearest.x[at], nearest.threat
    span = nearest.points[at] - base
    low = torch.zeros(len(at), *[1] * (base.ndim - 1), dtype=base.dtype, device=base.device)
    high = torch.ones_like(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        points = (base + middle * span).clamp(threat.low, threat.high)
        wrong = nearest.note(at, points, victim.logits(points))[0].reshape(low.shape)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
