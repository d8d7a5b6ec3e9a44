"""Disjoint roles (clean, validation, ...) cut from one pool."""

from collections.abc import Mapping

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.data import strata
from isthmus.data.samples import Samples


def split_roles(
    pool: Samples, sizes: Mapping[str, int | None], *, seed: int, avoid: Samples | None = None
) -> dict[str, Samples]:
    """Return one `Samples` for each role in `sizes`, pairwise disjoint, stratified, the same for the same seed.

    One permutation of each class is cut into consecutive parts, one for each role in the order of `sizes`: no two roles can share a
    sample. Shares follow the pool's classes (largest remainder), every class that occurs gets at least one in every role.
    Of samples with equal content only the first is used, and none whose content equals one of `avoid` (the test samples),
    so roles share no image under another number either. `None` as a size means all that is left.

    Raises InputError where the pool is too small, naming what would do.
    """
    usable = _usable(pool, avoid)
    counts = strata.class_counts(pool.y[usable], pool.num_classes)
    wanted = _wanted(pool, sizes, counts)
    members = strata.shuffled_by_class(pool.y[usable], pool.num_classes, torch.Generator().manual_seed(seed))
    used = torch.zeros_like(counts)
    roles: dict[str, Samples] = {}
    for position, (role, size) in enumerate(wanted.items()):
        later = len(wanted) - position - 1  # each later role is owed one of every class
        lower = counts.clamp(max=1)
        shares = strata.apportion(counts, size, lower=lower, upper=(counts - used - later).clamp(min=0))
        parts = [
            part[start : start + share]
            for part, start, share in zip(members, strata.numbers(used), strata.numbers(shares), strict=True)
        ]
        roles[role] = pool.take(usable[strata.gathered(parts)])
        used = used + shares
    return roles


def require_disjoint(first: Samples, second: Samples, names: tuple[str, str] = ("first", "second")) -> None:
    """Raise InputError with the count of samples of `first` whose content, by hash, also stands in `second`."""
    one, two = _comparable(first, second)
    standing = set(two)
    if shared := sum(content in standing for content in one):
        raise InputError(
            f"`{names[0]}` should share no sample with `{names[1]}` (overlapping roles). Found {shared:,} in both. "
            "Draw both with one `split_roles`."
        )


def _comparable(first: Samples, second: Samples) -> tuple[list[bytes], list[bytes]]:
    """Return the content hashes of both, of their float32 values where the two are stored differently. Other shapes never agree."""
    if first.input_shape != second.input_shape:
        return first.contents(), []
    if first.x.dtype != second.x.dtype:
        first, second = (samples.replaced(x=samples.inputs()) for samples in (first, second))
    return first.contents(), second.contents()


def _usable(pool: Samples, avoid: Samples | None) -> Tensor:
    """Return the positions of the first sample of each content that does not stand in `avoid`, ascending."""
    own, other = (pool.contents(), []) if avoid is None else _comparable(pool, avoid)
    seen = set(other)
    positions: list[int] = []
    for position, content in enumerate(own):
        if content not in seen:
            seen.add(content)
            positions.append(position)
    found = f"all {len(pool):,} of them there"
    require(len(positions) > 0, pool.name, "hold samples that do not stand in the samples to avoid", found)
    return torch.tensor(positions)


def _wanted(pool: Samples, sizes: Mapping[str, int | None], counts: Tensor) -> dict[str, int]:
    """Return the checked size of each role, `None` resolved."""
    require(len(sizes) > 0, "sizes", "name at least one role", "none")
    open_roles = [role for role, size in sizes.items() if size is None]
    require(len(open_roles) <= 1, "sizes", "leave the size of one role open at most", ", ".join(open_roles))
    for role, size in sizes.items():
        require(size is None or size > 0, role, "be a positive number of samples", size)
    available, present = int(counts.sum()), int((counts > 0).sum())
    asked = sum(size for size in sizes.values() if size is not None)
    listed = ", ".join(f"{role} {'the rest' if size is None else format(size, ',')}" for role, size in sizes.items())
    require(
        asked + present * len(open_roles) <= available,
        "sizes",
        f"ask for no more than the {available:,} different samples that {pool.name!r} can give",
        listed,
    )
    wanted = {role: available - asked if size is None else size for role, size in sizes.items()}
    for role, size in wanted.items():
        require(
            size >= present, role, f"hold at least {present} samples, one of each class in {pool.name!r}", f"{size}"
        )
    scarce = ((counts > 0) & (counts < len(sizes))).nonzero().flatten()
    if len(scarce):
        label = int(scarce[0])
        raise InputError(
            f"`{pool.name}` should hold at least {len(sizes)} different samples of every class it has, one for each role ({listed}). "
            f"Found {int(counts[label])} of class {label}."
        )
    return wanted
