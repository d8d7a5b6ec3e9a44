"""`Symmetry`: which hidden units of a module may change places without a change of what it computes, found by watching it run."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.geometry.axes import Axis, Product, Space, pin, resolved, spaces
from isthmus.geometry.axes_trace import Read, Trace, trace
from isthmus.geometry.permute import cycles, difference
from isthmus.geometry.units import Group, Member, Reading, Symmetry

TOLERANCE = 1e-5
"""Largest change of the outputs that a permutation may make, as a share of the largest of them."""


def symmetry_of(module: nn.Module, x: Tensor, *, generator: torch.Generator) -> Symmetry:
    """Return the groups of hidden units that may be permuted, found from one forward pass over the inputs x (B, ...), B >= 2.

    Two axes of tensors belong to one group where an operation makes their places correspond: the outputs of a layer, the inputs of the
    next, the scale and shift of a norm, both ends of a shortcut. Any module will do: linear layers, convolutions (grouped and depthwise
    ones too), BatchNorm, LayerNorm, GroupNorm, attention, additions, concatenation, flattening, pooling, views. Of a grouped convolution
    whole groups move, and the channels within alike in every group; of attention whole heads, and the places within alike in every head.
    Axes that went through any other operation are left as they are and named in `unpermuted`, and so are parameters that are not used.
    Found without gradient, on a copy.

    Then every group is tried on a copy with jittered tensors (:func:`isthmus.geometry.permute.difference`), and one that changes the
    outputs is left out, named too: a module may hide what it does from the watcher.

    >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> found = symmetry_of(net, torch.rand(2, 3), generator=torch.Generator())
    >>> [(group.size, [(m.tensor, m.axis) for m in group.members]) for group in found.groups]
    [(5, [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)])]
    """
    require(x.ndim >= 2 and len(x) >= 2, "x", "be at least 2 inputs (B, ...)", tuple(x.shape))
    found = trace(module, x)
    _part_squares(found)
    named = _groups(found)
    told = (*_unpermuted(found), *(f"{n}: not used" for n, _ in module.named_parameters() if n not in found.axes))
    symmetry = Symmetry(tuple(group for _, group in named), told, _readings(found, named), found.steps)
    return _sound(module, symmetry, x, generator)


def _part_squares(found: Trace) -> None:
    """Pin the spaces that occur twice in one product: their permutation would have to act on both."""
    for axes in found.axes.values():
        for axis in axes:
            for space in _repeated(resolved(axis)):
                pin(space, "an axis over pairs of units")


def _repeated(axis: Axis) -> list[Space]:
    if isinstance(axis, Space):
        return []
    parts = [spaces(part) for part in axis.parts] if isinstance(axis, Product) else []
    across = [
        space for k, part in enumerate(parts) for space in part if any(space in other for other in parts[k + 1 :])
    ]
    return across + [space for part in axis.parts for space in _repeated(part)]


def places_of(axis: Axis) -> list[tuple[Space, Tensor]]:
    """Return each free space of an axis with the places (n, m) that its n units have there: unit i has those of row i."""
    found = resolved(axis)
    if isinstance(found, Space):
        return [] if found.pinned or found.size < 2 else [(found, torch.arange(found.size)[:, None])]
    held: dict[Space, list[Tensor]] = {}
    before, after, start = 1, found.size, 0
    for part in found.parts:
        after //= max(part.size, 1)
        for space, inner in places_of(part):
            places = _in_product(inner, part.size, before, after) if isinstance(found, Product) else inner + start
            held.setdefault(space, []).append(places)
        before, start = before * part.size, start + part.size
    return [(space, torch.cat(parts, 1)) for space, parts in held.items()]


def _in_product(inner: Tensor, size: int, before: int, after: int) -> Tensor:
    """Return the places (n, before m after) in a product of those (n, m) in a part of `size` places between others."""
    rows = torch.arange(before)[:, None, None, None] * size + inner[None, :, :, None]
    return (rows * after + torch.arange(after)).movedim(1, 0).flatten(1)


def _groups(found: Trace) -> list[tuple[Space, Group]]:
    members: dict[Space, list[Member]] = {}
    for name, axes in found.axes.items():
        for k, axis in enumerate(axes):
            for space, places in places_of(axis):
                members.setdefault(space, []).append(Member(name, k, places))
    return [(space, Group(space.size, tuple(held))) for space, held in members.items()]


def _unpermuted(found: Trace) -> tuple[str, ...]:
    """Return the axes all of whose units stay for a reason worth telling."""
    told: list[str] = []
    for name, axes in found.axes.items():
        for k, axis in enumerate(axes):
            held = spaces(axis)
            reasons = sorted({space.why for space in held if space.why is not None and space.size > 1})
            if axis.size > 1 and reasons and all(space.pinned or space.size < 2 for space in held):
                told.append(f"{name}[{k}]: {', '.join(reasons)}")
    return tuple(told)


def _readings(found: Trace, named: Sequence[tuple[Space, Group]]) -> tuple[Reading, ...]:
    order = {space: k for k, (space, _) in enumerate(named)}
    return tuple(reading for read in found.reads for reading in _of_read(read, order))


def _of_read(read: Read, order: dict[Space, int]) -> list[Reading]:
    known = [(order[space], places) for space, places in places_of(read.axes[read.place]) if space in order]
    return [Reading(read.step, read.name, read.place, k, places) for k, places in known]


def _sound(module: nn.Module, symmetry: Symmetry, x: Tensor, generator: torch.Generator) -> Symmetry:
    """Return the symmetry without the groups that change the outputs."""
    if _kept(module, symmetry, x, generator):
        return symmetry
    good: list[int] = []
    for k in range(len(symmetry.groups)):
        if _kept(module, symmetry.only([*good, k]), x, generator):
            good.append(k)
    lost = [group for k, group in enumerate(symmetry.groups) if k not in good]
    told = tuple(f"{m.tensor}[{m.axis}]: a permutation changes the outputs" for group in lost for m in group.members)
    return replace(symmetry.only(good), unpermuted=symmetry.unpermuted + told)


def _kept(module: nn.Module, symmetry: Symmetry, x: Tensor, generator: torch.Generator) -> bool:
    return difference(module, symmetry, cycles(symmetry, generator), x, generator=generator) <= TOLERANCE
