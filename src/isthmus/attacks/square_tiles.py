"""The proposals of the Square attack: where a window lies, and what is painted into it in each norm (Andriushchenko et al. 2020)."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from isthmus.attacks.threat import Threat

HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Proposals after which the share of the image that a window covers is halved."""

Window = tuple[slice, slice]


def share_at(p: float, proposal: int) -> float:
    """Return the share of the image covered by the window of a proposal, counted from 0.

    >>> [share_at(0.8, k) for k in (0, 10, 11, 50, 51)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """
    return p / 2 ** bisect_left(HALVED, proposal)


def window_sides(height: int, width: int, share: float, *, tiles: bool = False) -> tuple[int, int]:
    """Return the sides (a, b) of a window that covers `share` of the image: a square where one fits, else as long as it takes.

    The common implementation cuts the square to the shorter side, which leaves a row of pixels with windows of one pixel. tiles: sides
    odd and at least 3, as L2 and L1 ask for, where the image allows it.

    >>> window_sides(32, 32, 0.8), window_sides(4, 100, 0.5), window_sides(1, 64, 0.25)
    ((29, 29), (4, 50), (1, 16))
    """
    area = share * height * width
    side = _odd(area**0.5) if tiles else max(round(area**0.5), 1)
    if side > height:
        return height, min(max(round(area / height), side), width)
    return (min(max(round(area / width), side), height), width) if side > width else (side, side)


def _odd(side: float) -> int:
    whole = max(round(side), 3)
    return whole + 1 - whole % 2


@lru_cache(maxsize=64)
def tile(height: int, width: int, upright: bool) -> Tensor:
    """Return the tile (height, width) of the L2 attack in float64, not normalised: two pyramids of opposite sign side by side.

    A pyramid's value at a distance d (the larger of the two offsets) from its centre is the sum over j > d of 1 / j^2, which
    falls off like an image's energy. upright: the pyramids lie one above the other. A side of 1 is not cut.
    """
    upright = height > 1 and (upright or width == 1)
    if height == width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if not upright:
        return tile(width, height, True).T
    first = height // 2
    return torch.cat([_pyramid(first, width), -_pyramid(height - first, width)])


def _pyramid(height: int, width: int) -> Tensor:
    """Return one pyramid (height, width) of L2 norm 1."""
    rows, columns = ((torch.arange(side) - side // 2).abs() for side in (height, width))
    distance = torch.maximum(rows[:, None], columns)
    terms = 1 / torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** 2
    found = terms.flip(0).cumsum(0).flip(0)[distance]
    return found / found.norm()


@dataclass(frozen=True, eq=False)
class Draws:
    """What a run draws, for every proposal at once and for all images alike: uniform (Q, 5) for places and turns, signs (Q, c, 1, 1)."""

    places: list[list[float]]
    signs: Tensor

    @classmethod
    def of(cls, count: int, like: Tensor, generator: torch.Generator) -> "Draws":
        """Return `count` draws for images like those (B, c, h, w), on their device."""
        places = torch.rand(count, 5, generator=generator, dtype=torch.float64).tolist()
        bits = torch.randint(0, 2, (count, like.shape[1], 1, 1), generator=generator)
        return cls(places, (2 * bits - 1).to(like))

    def window(self, k: int, image: tuple[int, int], sides: tuple[int, int], *, second: bool = False) -> Window:
        """Return the window of proposal k: any place in the image, the last row and column included."""
        top, left = self.places[k][2:4] if second else self.places[k][:2]
        a = int(top * (image[0] - sides[0] + 1))
        b = int(left * (image[1] - sides[1] + 1))
        return slice(a, a + sides[0]), slice(b, b + sides[1])


Proposal = Callable[[Threat, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(threat, images, present points), both (K, c, h, w) -> points proposed (K, c, h, w), and which of them are new (K,)."""


def stripes(threat: Threat, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the start of the Linf attack: each column of each channel at one of the two faces of the ball."""
    bits = torch.randint(0, 2, (*x.shape[:2], 1, x.shape[3]), generator=generator)
    return threat.project(x, x + (2 * bits - 1).to(x) * threat.radii(x))


def painted(draws: Draws, k: int, p: float) -> Proposal:
    """Return proposal k of the Linf attack: a window in which each channel is at one face of the ball."""

    def propose(threat: Threat, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        image = (x.shape[2], x.shape[3])
        rows, columns = draws.window(k, image, window_sides(*image, share_at(p, k)))
        below = x[:, :, rows, columns]
        paint = threat.project(below, below + draws.signs[k] * threat.radii(x))
        candidate = points.clone()
        candidate[:, :, rows, columns] = paint
        return candidate, (paint != points[:, :, rows, columns]).flatten(1).any(1)

    return propose


def mosaic(threat: Threat, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the start of the L2 and L1 attack: a mosaic of about 5 x 5 tiles, a random sign for each channel of each."""
    height, width = x.shape[2:]
    a, b = max(height // 5, 1), max(width // 5, 1)
    down, across = height // a, width // b
    top, left = (height - a * down) // 2, (width - b * across) // 2
    turns = torch.rand(down, across, generator=generator).gt(0.5).tolist()
    signs = (2 * torch.randint(0, 2, (*x.shape[:2], down, across), generator=generator) - 1).to(x)
    delta = torch.zeros_like(x)
    for i in range(down):
        for j in range(across):
            part = _unit(tile(a, b, turns[i][j]).to(x), threat.norm)
            place = (slice(top + i * a, top + (i + 1) * a), slice(left + j * b, left + (j + 1) * b))
            delta[:, :, *place] = part * signs[:, :, i, j, None, None]
    return _stretched(threat, x, delta, 1.0 if threat.norm == "l2" else float(x.shape[1]))


def moved_mass(draws: Draws, k: int, p: float) -> Proposal:
    """Return proposal k of the L2 and L1 attack: one window gives up its share of the norm, and a tile in another gains it.

    For L1 the tile gains that of all channels, and the projection takes back what is too much: else what the box cuts off would be lost.
    """

    def propose(threat: Threat, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        image, q = (x.shape[2], x.shape[3]), 2 if threat.norm == "l2" else 1
        sides = window_sides(*image, share_at(p, k), tiles=True)
        gets, gives = draws.window(k, image, sides), draws.window(k, image, sides, second=True)
        delta = points - x
        power = delta.abs() ** q
        spare = (threat.radii(x) ** q - power.sum((1, 2, 3), keepdim=True)).clamp_min(0)
        held = _mass(power, gets) + _mass(power, gives) - _mass(power, _overlap(gets, gives))
        part = _unit(tile(*sides, draws.places[k][4] > 0.5).to(x), threat.norm)
        fresh = _unit(part * draws.signs[k] + _unit(delta[:, :, *gets], threat.norm), threat.norm)
        budget = (spare / x.shape[1] + held.clamp_min(0)) ** (1 / q)
        delta[:, :, *gives] = 0
        delta[:, :, *gets] = fresh * (budget if threat.norm == "l2" else budget * x.shape[1])
        candidate = _stretched(threat, x, delta) if threat.norm == "l2" else threat.project(x, x + delta)
        return candidate, torch.ones(len(x), dtype=torch.bool, device=x.device)

    return propose


def _mass(power: Tensor, window: Window) -> Tensor:
    return power[:, :, *window].sum((2, 3), keepdim=True)


def _overlap(one: Window, other: Window) -> Window:
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else (slice(0, 0), slice(0, 0))


def _unit(part: Tensor, norm: str) -> Tensor:
    """Return windows (..., a, b), each divided by its norm; one of zeros stays."""
    size = part.norm(dim=(-2, -1), keepdim=True) if norm == "l2" else part.abs().sum((-2, -1), keepdim=True)
    return part / size.clamp_min(1e-12)


def _stretched(threat: Threat, x: Tensor, delta: Tensor, factor: float = 1.0) -> Tensor:
    """Return x + delta, delta brought to `factor` times the radius, in the threat."""
    # A hair less: what rounding pushes out of the ball would have to be projected.
    reach = threat.radii(x) * (factor * (1 - 8 * torch.finfo(x.dtype).eps))
    size = threat.size(delta).reshape(-1, 1, 1, 1).clamp_min(1e-12)
    return threat.project(x, x + delta * (reach / size))
