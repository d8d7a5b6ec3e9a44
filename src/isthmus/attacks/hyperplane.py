"""The smallest step onto a hyperplane inside a box, in the Linf, L2 and L1 norm: the projections of FAB (Croce and Hein 2020).

In every norm each coordinate moves in the direction in which its weight helps, by at most its room up to the wall, and what a move gains
is |w_i| times its length. Linf and L2 move coordinate i by min(level * rate_i, room_i), with rate 1 and |w_i|: what is gained is a
concave, piecewise linear, increasing function of the level, so Newton's method from the left meets the level exactly after a few passes
and nothing is sorted. L1 spends the whole room of the largest weights first, and only those are selected.
"""

import torch
from torch import Tensor

from isthmus.attacks.threat import Threat

SELECTED = 64
"""Largest weights selected first for L1; four times as many, and so on, where those do not suffice."""


def onto_hyperplane(threat: Threat, points: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
    """Return d (..., B, D), the smallest in the norm of `threat`, with <normal, d> = gap and low <= points + d <= high.

    points: (..., B, D) in the box. normal: (B, D), shared by the leading dimensions of points. gap: (..., B). Where the box does not
    reach the hyperplane, d leads to the corner of the box nearest to it; where the normal is 0, d is 0. The radius plays no part.
    Independent of the scale of the normal: the common implementation ignores weights below 1e-8.
    """
    gain = normal.abs()
    scale = gain.amax(-1, keepdim=True).clamp_min(torch.finfo(gain.dtype).tiny)
    gain, wanted = gain / scale, gap.abs() / scale.squeeze(-1)
    upward = (normal > 0) == (gap >= 0)[..., None]
    room = torch.where(upward, threat.high - points, points - threat.low).clamp_min(0) * (gain > 0)
    if threat.norm == "l1":
        moves = _greedy(gain, room, wanted)
    else:
        rate = torch.ones_like(gain) if threat.norm == "linf" else gain
        moves = torch.minimum(_level(gain, rate, room, wanted)[..., None] * rate, room)
    return torch.where(upward, moves, -moves)


def _level(gain: Tensor, rate: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Return the level (..., B) at which the sum of gain * min(level * rate, room) is `wanted`; a huge one where it never is."""
    worth, slopes = gain * room, gain * rate
    # Far above every level that a box can ask for, yet its product with a rate is finite.
    never = torch.full_like(wanted, torch.finfo(gain.dtype).max)
    level = wanted / slopes.sum(-1).clamp_min(torch.finfo(gain.dtype).tiny)
    level = torch.where(worth.sum(-1) > wanted, level, never)
    for _ in range(gain.shape[-1] + 1):  # each pass fills one coordinate or more, or is the last
        full = level[..., None] * rate >= room
        free = slopes.masked_fill(full, 0).sum(-1)
        rest = wanted - worth.masked_fill(~full, 0).sum(-1)
        higher = torch.where(free > 0, rest / free, never)
        if not (higher > level).any():
            break
        level = torch.maximum(level, higher)
    return level


def _greedy(gain: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Return the moves (..., B, D) that spend the room of the largest gains until `wanted` is gained."""
    out_of_reach = ((gain * room).sum(-1) <= wanted)[..., None]
    count = min(SELECTED, gain.shape[-1])
    while True:
        largest, order = gain.topk(count)
        order = order.expand(*room.shape[:-1], count)
        rooms = room.gather(-1, order)
        reached = (largest * rooms).cumsum(-1)
        if count == gain.shape[-1] or bool(((reached[..., -1:] >= wanted[..., None]) | out_of_reach).all()):
            break
        count = min(4 * count, gain.shape[-1])
    before = reached - largest * rooms
    part = (wanted[..., None] - before) / largest.clamp_min(torch.finfo(gain.dtype).tiny)
    spent = torch.zeros_like(room).scatter_(-1, order, torch.minimum(part.clamp_min(0), rooms))
    return torch.where(out_of_reach, room, spent)
