"""`Purify`: find the smallest triggers of a suspect and teach it to answer triggered images as it answers them without."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil, inf, isfinite
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.layout import arranged, placement
from isthmus.randomness import seed_of
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.triggers.families import FAMILIES, Family
from isthmus.repair.triggers.hunt import Found, Search, Target
from isthmus.repair.triggers.smallest import anomalous, hunted, pursue, smallest_triggers, table_of
from isthmus.table import Table
from isthmus.training.distillation import Distilled
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.record import joined
from isthmus.training.session import Session

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class Doubt:
    """How triggers are shown to the student.

    share: of the images of a batch that carry one. Triggers are drawn with probability proportional to r^-power, r the ratio of their
    size to their family's median within 0.03 to 10: one that stands out takes most, and where none does all are shown, as a model whose
    backdoor lies elsewhere still forgets what it was asked about in its neighbourhood. suspected: how many of the smallest are sought
    `restarts` times more, which share the probability of theirs. rounds: parts of the training; between them what is suspected is sought
    further in the student, and shown beside what was found before: it may have learnt to refuse those triggers alone. spread: each is
    shown at a strength drawn from this range times that found, because the search finds the weakest that works and an attacker has no
    reason to be so sparing.
    """

    share: float = 0.5
    suspected: int = 3
    restarts: int = 4
    rounds: int = 3
    power: float = 3.0
    spread: tuple[float, float] = (0.5, 4.0)

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", "be in (0, 1], of the images of a batch", self.share)
        require(self.suspected >= 1, "suspected", "be at least 1", self.suspected)
        require(self.restarts >= 1, "restarts", "be at least 1", self.restarts)
        require(self.rounds >= 1, "rounds", "be at least 1", self.rounds)
        require(0 <= self.power < inf, "power", "be finite and at least 0", self.power)
        require(0 <= self.spread[0] <= self.spread[1], "spread", "be a lowest and a highest strength", self.spread)


@dataclass(frozen=True, eq=False)
class Triggered:
    """A `Change` that puts found triggers on a share of the images of a batch, each drawn by its weight."""

    found: tuple[Found, ...] = field(repr=False)
    weights: Tensor = field(repr=False)
    doubt: Doubt
    places: tuple[tuple[int, int], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places = tuple((i, k) for i, one in enumerate(self.found) for k in range(len(one.targets)))
        object.__setattr__(self, "places", places)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a copy of the images (B, C, H, W), round(share B) of them with a trigger."""
        chosen = torch.randperm(len(x), generator=generator)[: round(self.doubt.share * len(x))]
        if len(chosen) == 0:
            return x.clone()
        drawn = torch.multinomial(self.weights, len(chosen), replacement=True, generator=generator).tolist()
        low, high = self.doubt.spread
        strength = low + (high - low) * torch.rand(len(chosen), generator=generator)
        out = x.clone()
        for i, one in enumerate(self.found):
            rows = [j for j, place in enumerate(drawn) if self.places[place][0] == i]
            if not rows:
                continue
            which = [self.places[drawn[j]][1] for j in rows]
            at = chosen[rows].to(x.device)
            out[at] = one.family.apply(one.free[which].to(x), x[at], strength[rows].to(x))
        return out


@dataclass(frozen=True)
class Purify:
    """Inverted triggers unlearned by self-distillation, ours.

    The suspect's smallest triggers are sought (:func:`isthmus.repair.triggers.smallest.smallest_triggers`); the suspect then is its own
    teacher: a student that starts from it answers mixed, triggered images as the suspect answers them mixed but without the trigger
    (:class:`isthmus.training.distillation.Distilled`). What the suspect knows of clean images comes from the suspect, not from the few
    clean samples alone, and what it says to its own triggers is never a target. Running statistics stay those of the training: they were
    seen with triggered images, and recomputing them on clean images alone costs accuracy where the suspect's weights expect others.

    `plan` trains; `search` is spent before it. labels: the true label's share in the targets of images that are not mixed.
    """

    plan: Plan
    search: Search = field(default_factory=Search)
    doubt: Doubt = field(default_factory=Doubt)
    labels: float = 0.5
    name: str = "purify"

    def __post_init__(self) -> None:
        require(0 <= self.labels <= 1, "labels", "be in [0, 1], the label's share of a target", self.labels)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the purified copy of the first suspect, with the table of the triggers found."""
        found = smallest_triggers(suspects[0], clean.train, self.search, seed=seed_of(seed, "search"))
        return self.taught(suspects[0], found, clean, seed=seed, session=session)

    def taught(
        self, suspect: nn.Module, found: Sequence[Found], clean: Clean, *, seed: int, session: Session
    ) -> Repaired:
        """Return the purified copy of `suspect`, whose smallest triggers are `found`; their search counts as spent."""
        began, samples = perf_counter(), clean.train
        suspected = anomalous(found, self.doubt.suspected)
        wanted, again = [(family, target) for _, family, target in suspected], seed_of(seed, "again")
        hunts = hunted(suspect, samples, wanted, self.search, restarts=self.doubt.restarts, seed=again)
        more = tuple(hunt.found(self.search) for hunt in hunts)
        teacher, student, histories = deepcopy(suspect).eval().requires_grad_(False), suspect, list[Table]()
        arranged(teacher, samples.inputs(torch.arange(1)).to(*placement(teacher)))
        parts = _parts(self.plan.steps, self.doubt.rounds)
        for k, steps in enumerate(parts):
            if k > 0:
                pursue(hunts, student, samples, self.search, seed=seed_of(seed, "again", k))
                more += tuple(hunt.found(self.search) for hunt in hunts)
            change = Triggered((*found, *more), _weights(found, more, self.doubt.power), self.doubt)
            student, fitted = fit_module(
                student,
                samples,
                self.plan.model_copy(update={"steps": steps}),
                seed=seed_of(seed, "part", k),
                objective=Distilled((teacher,), labels=self.labels, change=change),
                session=session.part(f"part-{k}"),
            )
            histories.append(fitted.history)
        spent = round(sum(one.images for one in (*found, *hunts)) / self.plan.batch_size)
        return Repaired(
            name=self.name,
            module=student,
            seconds=perf_counter() - began + sum(one.seconds for one in found),
            evaluations=self.plan.evaluations + spent,
            note=f"smallest trigger: {told(suspected[0])}",
            table=table_of(found, len(samples)),
            history=joined(histories, self.plan),
        )


def told(one: tuple[float, Family, Target]) -> str:
    """Return a trigger in words, from (ratio, family, target).

    >>> from isthmus.repair.triggers.families import Mask
    >>> told((0.1, Mask(), None))
    "mask towards any wrong class, 0.10 of its family's median"
    """
    ratio, family, target = one
    if not isfinite(ratio):
        return "no trigger of any family worked"
    towards = "any wrong class" if target is None else f"class {target}"
    return f"{family.name} towards {towards}, {ratio:.2f} of its family's median"


def _parts(steps: int, count: int) -> list[int]:
    """Return `steps` in at most `count` nearly equal parts.

    >>> _parts(8, 3), _parts(2, 3)
    ([3, 3, 2], [1, 1])
    """
    count = min(steps, count)
    return [steps // count + (k < steps % count) for k in range(count)]


def _weights(found: Sequence[Found], more: Sequence[Found], power: float) -> Tensor:
    """Return the probabilities (K,) by which triggers are drawn, in the order of `found`, then `more`; finds of one kind share theirs."""
    kinds = [(one.family.name, target) for one in (*found, *more) for target in one.targets]
    ratios = torch.cat([one.ratio for one in found]).double().cpu().clamp(0.03, 10.0)
    odds = dict(zip(kinds, (ratios**-power).tolist(), strict=False))
    counts = Counter(kinds)
    weights = torch.tensor([odds[kind] / counts[kind] for kind in kinds], dtype=torch.float64)
    return weights / weights.sum()


def split(
    evaluations: int, *, classes: int, batch_size: int, precision: Precision, models: int = 1
) -> tuple[int, Search]:
    """Return the training steps and the search that together spend `evaluations` gradients of a batch, half of them at most on the search.

    Of each model T = families x (classes + 1) triggers are sought for one round of s steps; of one model ceil(T / 2) and ceil(T / 4) for
    the two others, suspected x restarts again for all three, and once more between the parts of the training. With many classes, or where
    rounds would be shorter than 16 steps, each is sought on fewer images, at least 2.
    """
    doubt, rounds = Doubt(), Search().rounds
    triggers = len(FAMILIES) * (classes + 1)
    halves = sum(ceil(triggers / 2**k) for k in range(1, rounds))
    active = models * triggers + halves + doubt.suspected * doubt.restarts * (rounds + doubt.rounds - 1)
    images = 0.5 * evaluations * batch_size
    per = max(2, min(8, 96 // (classes + 1), int(images / (16 * active))))
    steps = max(1, int(images / (active * per)))
    spent = round(steps * active * per / batch_size)
    return max(1, evaluations - spent), Search(steps=steps, per=per, precision=precision)
