"""`smallest_triggers`: the smallest changes of each family that lead a model's images to each class, or to any wrong one.

A backdoor is a change that is small for what it does. Against the median over classes its own class stands out, wherever in pixels, low
frequencies or a mask it lies; the search asks no more of the attacker than that. Every model has such changes: see
:mod:`isthmus.repair.trust.triage` for what may be concluded about a model, and :mod:`isthmus.repair.purify` for what is done about them.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import pandas as pd
import torch
from torch import nn

from isthmus.data import Samples
from isthmus.layout import placement
from isthmus.randomness import seed_of, stream
from isthmus.repair.triggers.families import FAMILIES, Family
from isthmus.repair.triggers.hunt import Found, Ground, Hunt, Search, Target
from isthmus.table import Column, Table


@dataclass(eq=False)
class Survey:
    """A search for the smallest triggers of a model that can be stopped after its first round, to see which model is worth the others."""

    model: nn.Module
    samples: Samples
    search: Search
    seed: int
    hunts: tuple[Hunt, ...]

    @classmethod
    def begun(cls, model: nn.Module, samples: Samples, search: Search, *, seed: int) -> "Survey":
        """Return the survey after one round over all families, classes and any wrong class.

        Raises InputError for other inputs than images, for a model that returns no logits of them, and where a class has no image of
        another class to start from.
        """
        targets: tuple[Target, ...] = (*range(samples.num_classes), None)
        with _drawing(model, seed):
            ground = Ground.of(model, samples, search.precision)
            hunts = (Hunt.of(ground, family, targets, stream(seed, "smallest", family.name)) for family in FAMILIES)
            found = cls(model, samples, search, seed, tuple(hunts))
            found._advance(ground, [range(len(targets))] * len(FAMILIES))
        return found

    def finished(self) -> tuple[Found, ...]:
        """Return for each family the smallest triggers, after the other rounds."""
        active: list[Sequence[int]] = [range(len(hunt.targets)) for hunt in self.hunts]
        with _drawing(self.model, self.seed):
            ground = Ground.of(self.model, self.samples, self.search.precision)
            for _ in range(self.search.rounds - 1):
                active = _best_half(self.found, active)
                self._advance(ground, active)
        return self.found

    @property
    def found(self) -> tuple[Found, ...]:
        """Return what was found so far."""
        return tuple(hunt.found(self.search) for hunt in self.hunts)

    @property
    def images(self) -> int:
        """Return how many gradients of one image were spent so far."""
        return sum(hunt.images for hunt in self.hunts)

    def _advance(self, ground: Ground, active: Sequence[Sequence[int]]) -> None:
        for hunt, held in zip(self.hunts, active, strict=True):
            if len(held) > 0:
                hunt.advance(ground, self.search, held)


def smallest_triggers(model: nn.Module, samples: Samples, search: Search, *, seed: int) -> tuple[Found, ...]:
    """Return for each family the smallest triggers found, one for each class and one for any wrong class.

    Raises what :meth:`Survey.begun` raises.
    """
    return Survey.begun(model, samples, search, seed=seed).finished()


def hunted(
    model: nn.Module,
    samples: Samples,
    wanted: Sequence[tuple[Family, Target]],
    search: Search,
    *,
    restarts: int,
    seed: int,
) -> tuple[Hunt, ...]:
    """Return hunts for each of `wanted` from `restarts` other starts, searched to the end: a backdoor answers to many triggers."""
    with _drawing(model, seed):
        ground = Ground.of(model, samples, search.precision)
        found: list[Hunt] = []
        for family, target in wanted:
            hunt = Hunt.of(ground, family, (target,) * restarts, stream(seed, "again", family.name, target))
            for _ in range(search.rounds):
                hunt.advance(ground, search, range(restarts))
            found.append(hunt)
        return tuple(found)


def pursue(hunts: Sequence[Hunt], model: nn.Module, samples: Samples, search: Search, *, seed: int) -> None:
    """Take the hunts one round on with another model, whose smallest triggers are other ones: what they held is forgotten."""
    with _drawing(model, seed):
        ground = Ground.of(model, samples, search.precision)
        for hunt in hunts:
            hunt.forget()
            hunt.advance(ground, search, range(len(hunt.targets)))


@contextmanager
def _drawing(model: nn.Module, seed: int) -> Generator[None]:
    """Give a module that draws even in evaluation mode numbers of its own, and leave the caller's stream as it was."""
    device = placement(model)[0]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed_of(seed, "module"))
        if device.type == "cuda":
            torch.cuda.manual_seed(seed_of(seed, "module"))
        yield


def _best_half(found: Sequence[Found], active: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return of all active triggers the half with the smallest ratios, by family."""
    ranked = sorted((float(found[i].ratio[k]), i, k) for i, held in enumerate(active) for k in held)
    kept = {(i, k) for _, i, k in ranked[: (len(ranked) + 1) // 2]}
    return [[k for k in held if (i, k) in kept] for i, held in enumerate(active)]


def anomalous(found: Sequence[Found], most: int) -> list[tuple[float, Family, Target]]:
    """Return the `most` smallest triggers against their family's median: (ratio, family, target), smallest first."""
    every = [
        (float(ratio), family.family, target)
        for family in found
        for ratio, target in zip(family.ratio, family.targets, strict=True)
    ]
    return sorted(every, key=lambda one: one[0])[:most]


def table_of(found: Sequence[Found], n: int) -> Table:
    """Return one row for each trigger of a search: family, class, size, success, ratio to the median of its family."""
    rows = [
        {
            "family": one.family.name,
            "target": "any" if target is None else str(target),
            "size": float(size),
            "success": 100 * float(success),
            "ratio": float(ratio) if isfinite(ratio) else None,
        }
        for one in found
        for target, size, success, ratio in zip(one.targets, one.sizes, one.success, one.ratio, strict=True)
    ]
    columns = (
        Column("family", "", None, "train", n, "kind of change sought"),
        Column("target", "", None, "train", n, "class that images are led to, or any wrong one"),
        Column("size", "1", None, "train", n, "mean share of the largest change of a pixel, or of the mask"),
        Column("success", "%", None, "train", n, "running average over the last batches of the search"),
        Column(
            "ratio", "1", None, "train", n, "size over the median of its family; none where the trigger did not work"
        ),
    )
    return Table(pd.DataFrame(rows), columns, {})
