"""Families of triggers that a search can make small: `Pixels`, `Smooth`, `Waves`, `Mask`, `Bend`; each from free numbers to images."""

from dataclasses import dataclass
from math import pi
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import require
from isthmus.repair.triggers.candidates import Shift, Stamp, mark
from isthmus.tampering import Trigger
from isthmus.tampering.triggers import require_images


class Family(Protocol):
    """K triggers as free numbers (K, ...), all reals allowed, so that a search needs no constraint."""

    @property
    def name(self) -> str:
        """Return the name that tables use."""
        ...

    @property
    def rate(self) -> float:
        """Return Adam's learning rate for the free numbers."""
        ...

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return the free numbers of `count` triggers for images of `shape` (C, H, W)."""
        ...

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the images (B, C, H, W), image i with the trigger of free[i], `strength`[i] times as strong (B,); None for 1."""
        ...

    def size(self, free: Tensor) -> Tensor:
        """Return the sizes (K,) of the triggers, in [0, 1], with gradient."""
        ...

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return one trigger, free numbers without the first axis, as a function of images."""
        ...


@dataclass(frozen=True)
class Pixels:
    """A change of every pixel, clip(x + reach tanh(a)): blended pictures. Size: mean of |tanh(a)|."""

    reach: float = 0.3
    name: str = "pixels"
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.reach <= 1, "reach", "be in (0, 1], the largest change of a pixel", self.reach)

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return small normal numbers (K, C, H, W)."""
        return 0.1 * torch.randn(count, *shape, generator=generator)

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the changed images."""
        return (x + self.reach * times(free.tanh(), strength)).clamp(0, 1)

    def size(self, free: Tensor) -> Tensor:
        """Return the mean absolute change, in units of `reach`."""
        return free.tanh().abs().mean((1, 2, 3))

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return the change as a `Shift`."""
        return Shift((self.reach * free.tanh()).detach())


@dataclass(frozen=True)
class Smooth:
    """A smooth change, clip(x + reach tanh(B a)) with B the bicubic interpolation from `grid` x `grid`: low-frequency triggers."""

    reach: float = 0.3
    grid: int = 5
    name: str = "smooth"
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.reach <= 1, "reach", "be in (0, 1], the largest change of a pixel", self.reach)
        require(self.grid >= 2, "grid", "be at least 2 points along each side", self.grid)

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return small normal numbers (K, C, grid, grid)."""
        return 0.1 * torch.randn(count, shape[0], self.grid, self.grid, generator=generator)

    def _change(self, free: Tensor, shape: tuple[int, ...]) -> Tensor:
        return functional.interpolate(free, size=shape[-2:], mode="bicubic", align_corners=True).tanh()

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the changed images."""
        return (x + self.reach * times(self._change(free, tuple(x.shape)), strength)).clamp(0, 1)

    def size(self, free: Tensor) -> Tensor:
        """Return the mean absolute change on the grid, in units of `reach`."""
        return free.tanh().abs().mean((1, 2, 3))

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return the change as a `Shift`."""
        return Shift((self.reach * self._change(free[None], shape))[0].detach())


@dataclass(frozen=True)
class Waves:
    """Sinusoids along rows and columns, clip(x + reach tanh(w)), w their sum: SIG (Barni et al. 2019) and other gratings.

    Free are the cosine and sine amplitudes of every whole frequency below half the side, for each channel and both axes. Size: the
    amplitudes' norm over phase and channels (root mean square over the latter), summed over frequencies, so that few waves count as
    small, in units of `reach` over 3.
    """

    reach: float = 0.3
    name: str = "waves"
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.reach <= 1, "reach", "be in (0, 1], the largest change of a pixel", self.reach)

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return small normal numbers (K, 2, C, F, 2), F of the longer side."""
        channels, height, width = shape
        return 0.02 * torch.randn(count, 2, channels, max(1, max(height, width) // 2 - 1), 2, generator=generator)

    def _change(self, free: Tensor, shape: tuple[int, ...]) -> Tensor:
        down, across = (_along(free[:, axis], shape[axis - 2]) for axis in (0, 1))
        return (down[..., None] + across[..., None, :]).tanh()

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the changed images."""
        return (x + self.reach * times(self._change(free, tuple(x.shape)), strength)).clamp(0, 1)

    def size(self, free: Tensor) -> Tensor:
        """Return the sum of the waves' amplitudes."""
        return (free.square().sum((2, 4)) / free.shape[2] + 1e-10).sqrt().sum((1, 2)) / 3

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return the change as a `Shift`."""
        return Shift((self.reach * self._change(free[None], shape))[0].detach())


def _along(amplitudes: Tensor, side: int) -> Tensor:
    """Return the waves (K, C, side) of amplitudes (K, C, F, 2), those of frequencies that the side cannot carry left out."""
    count = min(amplitudes.shape[2], max(1, side // 2 - 1))
    frequencies = torch.arange(1, count + 1, device=amplitudes.device, dtype=amplitudes.dtype)
    phases = 2 * pi / side * frequencies[:, None] * torch.arange(side, device=amplitudes.device)
    waves = torch.stack([phases.cos(), phases.sin()], 1)
    return torch.einsum("kcfp,fpn->kcn", amplitudes[:, :, :count], waves)


@dataclass(frozen=True)
class Mask:
    """A mask and a pattern, (1 - m) x + m p with m and p sigmoids of the free numbers: patches (Wang et al. 2019). Size: mean of m."""

    name: str = "mask"
    rate: float = 0.3

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return numbers (K, 1 + C, H, W): a mask of about 0.12 everywhere, a random pattern."""
        free = torch.randn(count, 1 + shape[0], *shape[1:], generator=generator)
        free[:, 0] = 0.1 * free[:, 0] - 2
        return free

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the images with the pattern in the mask's share of each pixel."""
        mask = times(free[:, :1].sigmoid(), strength).clamp(max=1)
        return (1 - mask) * x + mask * free[:, 1:].sigmoid()

    def size(self, free: Tensor) -> Tensor:
        """Return the mean of the mask."""
        return free[:, 0].sigmoid().mean((1, 2))

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return mask and pattern as a `Stamp`."""
        return Stamp(free[0].sigmoid().detach(), free[1:].sigmoid().detach())


@dataclass(frozen=True)
class Bend:
    """A smooth warp: pixels move by B (reach tanh(a)) of the image's side, B as in `Smooth` (WaNet, Nguyen and Tran 2021).

    Size: mean of |tanh(a)|. Between the points of the grid bicubic interpolation can overshoot `reach` a little.
    """

    reach: float = 0.125
    grid: int = 4
    name: str = "bend"
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.reach <= 1, "reach", "be in (0, 1], the largest move as a share of the side", self.reach)
        require(self.grid >= 2, "grid", "be at least 2 points along each side", self.grid)

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return small normal numbers (K, 2, grid, grid)."""
        return 0.1 * torch.randn(count, 2, self.grid, self.grid, generator=generator)

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the warped images, sampled bilinearly; what lies outside is never asked for."""
        return bent(x, 2 * self.reach * times(free.tanh(), strength))

    def size(self, free: Tensor) -> Tensor:
        """Return the mean absolute move on the grid, in units of `reach`."""
        return free.tanh().abs().mean((1, 2, 3))

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        """Return the warp as a `Bent`."""
        return Bent((2 * self.reach * free.tanh()).detach())


@dataclass(frozen=True, eq=False)
class Bent:
    """Trigger that moves pixels by `moves` (2, grid, grid), columns first, in units where the image spans [-1, 1]."""

    moves: Tensor

    @property
    def spec(self) -> str:
        """Return a name made from the content; there is no text to read it back from."""
        return f"inverted-bend:sha256={mark(self.moves)}"

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the warped images (B, C, H, W)."""
        require_images(x, "a warp")
        return bent(x, self.moves.to(x).expand(len(x), -1, -1, -1)).clamp(0, 1)


def bent(x: Tensor, moves: Tensor) -> Tensor:
    """Return images (B, C, H, W) sampled bilinearly at clip(identity + B moves), B the bicubic interpolation of `moves` (B, 2, g, g).

    Coordinates, columns first, span [-1, 1] between the centres of the outermost pixels; what is clipped is sampled at the border.
    """
    height, width = x.shape[2:]
    rows, columns = (torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in (height, width))
    y, across = torch.meshgrid(rows, columns, indexing="ij")
    offsets = functional.interpolate(moves, size=(height, width), mode="bicubic", align_corners=True).permute(
        0, 2, 3, 1
    )
    place = (torch.stack([across, y], -1) + offsets).clamp(-1, 1)
    return functional.grid_sample(x, place, align_corners=True)


def times(change: Tensor, strength: Tensor | None) -> Tensor:
    """Return a change (B, ...) times a strength (B,)."""
    return change if strength is None else strength.reshape(-1, *[1] * (change.ndim - 1)) * change


FAMILIES: tuple[Family, ...] = (Pixels(), Smooth(), Waves(), Mask(), Bend())
