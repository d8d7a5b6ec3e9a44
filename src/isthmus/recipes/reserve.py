"""The reserve: training images that tampered models never saw, set aside to be the clean images of a repair."""

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.data import Samples, Splits, split_roles
from isthmus.randomness import stream


def reserve(splits: Splits, n: int, *, seed: int = 0) -> tuple[Samples, Samples]:
    """Return `n` training images and the rest, disjoint by content from each other and from the test images.

    Smaller reserves are part of larger ones of the same seed: who trains with 2,500 images held out can be repaired with any 250 of
    them. Image k of a class with m images stands at k / m (its place in a seeded order of the class) and the first n by that place
    are taken: every class comes once before any comes twice, and shares follow the classes. Of equal images only one is used.

    Raises InputError for fewer images than classes, and where nothing would be left to train on.
    """
    usable = split_roles(splits.train, {"train": None}, seed=seed, avoid=splits.test)["train"]
    present = torch.unique(usable.y)
    require(n >= len(present), "clean", f"be at least {len(present)} images, one of each class of {splits.name}", n)
    most = len(usable) - len(present)
    require(n <= most, "clean", f"leave images to train on: at most {most:,} of {splits.train.name}", n)
    order = _order(usable.y, seed)
    taken = torch.zeros(len(usable), dtype=torch.bool)
    taken[order[:n]] = True
    return usable.take(taken), usable.take(~taken)


def kept_apart(samples: Samples, n: int, *, test: Samples) -> tuple[Samples, Samples]:
    """Return the `n` images of `samples` that are kept apart to choose by, and the rest, disjoint by content from `test` too.

    The same images for every command that is given the same number (`--validation`).
    """
    parts = split_roles(samples, {"validation": n, "train": None}, seed=0, avoid=test)
    return parts["validation"], parts["train"]


def chosen_on(splits: Splits, n: int, held: int | None) -> tuple[Samples, Samples]:
    """Return `n` validation images and the training images that statistics are recomputed on, disjoint.

    Without `held` those that `isthmus train --validation` keeps apart; with it the last `n` of so many reserved images, which
    `isthmus connect --clean` with fewer of them has not seen. Raises InputError where there are not so many.
    """
    if held is None:
        classes = len(torch.unique(splits.train.y))
        most = len(splits.train) - classes
        requirement = f"be between {classes} and {most:,} of the images of {splits.train.name}"
        require(classes <= n <= most, "validation", requirement, n)
        return kept_apart(splits.train, n, test=splits.test)
    whole, rest = reserve(splits, held)
    classes = len(torch.unique(whole.y))
    fits = n == held or n <= held - classes
    require(fits, "validation", f"be {held}, all that is held out, or at most {held - classes} of them", n)
    if n == held:
        return whole, rest
    first = reserve(splits, held - n)[0]
    return whole.take(~torch.isin(whole.index, first.index)), rest


def _order(labels: Tensor, seed: int) -> Tensor:
    """Return all positions, nearest to the front of its class first; ties by class."""
    places = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=stream(seed, "reserve", label))]
        places[shuffled] = torch.arange(len(members), dtype=torch.float64) / len(members)
    by_class = torch.argsort(labels, stable=True)
    return by_class[torch.argsort(places[by_class], stable=True)]
