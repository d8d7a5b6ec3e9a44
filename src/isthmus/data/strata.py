"""Stratified drawing: how many of each class, and which."""

import torch
from torch import Tensor

Parts = list[Tensor]


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return the (num_classes,) number of samples of each class."""
    return torch.bincount(labels.cpu(), minlength=num_classes)


def apportion(counts: Tensor, total: int, *, lower: Tensor, upper: Tensor) -> Tensor:
    """Return (C,) whole numbers that sum to `total`, as near to `counts`' proportions as the bounds allow.

    Largest-remainder rounding (Hamilton) in exact integers; a tie goes to the lower class. Within the bounds every share is
    the quota `total * counts / counts.sum()` rounded down or up; needs `lower.sum() <= total <= upper.sum()`.

    >>> counts = torch.tensor([60, 30, 10])
    >>> apportion(counts, 11, lower=torch.zeros(3, dtype=torch.int64), upper=counts).tolist()
    [7, 3, 1]
    """
    whole = int(counts.sum())
    quota = counts * total  # in units of 1 / whole, so that nothing is rounded
    share = (quota // whole).clamp(lower, upper)
    while (missing := total - int(share.sum())) != 0:
        lack = quota - share * whole
        if missing > 0:
            share[lack.masked_fill(share >= upper, torch.iinfo(torch.int64).min).argmax()] += 1
        else:
            share[lack.masked_fill(share <= lower, torch.iinfo(torch.int64).max).argmin()] -= 1
    return share


def numbers(counts: Tensor) -> list[int]:
    """Return the whole numbers in a (C,) tensor."""
    return [int(count) for count in counts]


def by_class(labels: Tensor, num_classes: int) -> Parts:
    """Return, for each class, the positions of its samples in ascending order."""
    counts = class_counts(labels, num_classes)
    return list(torch.argsort(labels.cpu(), stable=True).tensor_split(counts.cumsum(0)[:-1]))


def shuffled_by_class(labels: Tensor, num_classes: int, generator: torch.Generator) -> Parts:
    """Return, for each class, the positions of its samples in an order drawn from `generator`."""
    return [
        members[torch.randperm(len(members), generator=generator, device=generator.device).cpu()]
        for members in by_class(labels, num_classes)
    ]


def gathered(parts: Parts) -> Tensor:
    """Return the positions of all parts, ascending: no order by class, so that any run of them is a fair sample."""
    return torch.cat(parts).sort().values


def evenly_spaced(labels: Tensor, num_classes: int, total: int) -> Tensor:
    """Return `total` positions: every class by its share, evenly spaced through its samples in stored order.

    No random numbers, so the split is the same on every machine and version. A class with two samples or more gives at least
    one and keeps at least one; a class with one sample keeps it.
    """
    counts = class_counts(labels, num_classes)
    upper = (counts - 1).clamp(min=0)
    lower = upper.clamp(max=1)
    total = min(max(total, int(lower.sum())), int(upper.sum()))
    shares = apportion(counts, total, lower=lower, upper=upper)
    chosen = [
        members[(torch.arange(share) * 2 + 1) * len(members) // (2 * max(share, 1))]
        for members, share in zip(by_class(labels, num_classes), numbers(shares), strict=True)
    ]
    return gathered(chosen)
