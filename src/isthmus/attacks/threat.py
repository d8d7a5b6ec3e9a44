"""`Threat`: which inputs an attacker may choose: a ball around each image, inside the box of valid inputs."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus._check import require, unknown

Norm = Literal["linf", "l2", "l1"]


@dataclass(frozen=True)
class Threat:
    """All x' with ||x' - x||_norm <= radius and low <= x' <= high.

    radius: in units of the input, one number or a tensor (B,) with one for each image. low, high: the box of valid inputs.
    """

    norm: Norm = "linf"
    radius: float | Tensor = 8 / 255
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise unknown("norm", str(self.norm), get_args(Norm))
        require(isfinite(self.low) and isfinite(self.high) and self.low < self.high, "low", "be below `high`", self.low)

    def take(self, index: Tensor) -> "Threat":
        """Return the threat of a part of the batch; `index` is boolean or integer, of shape (B,) or (K,)."""
        return replace(self, radius=self.radius[index]) if isinstance(self.radius, Tensor) else self

    def scaled(self, factor: float) -> "Threat":
        """Return the threat of `factor` times the radius."""
        return replace(self, radius=self.radius * factor)

    def radii(self, x: Tensor) -> Tensor:
        """Return the radius of each image, broadcast against x (B, ...): shape (B, 1, ...)."""
        held = torch.as_tensor(self.radius, dtype=x.dtype, device=x.device)
        return held.expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))

    def project(self, x: Tensor, points: Tensor) -> Tensor:
        """Return the nearest inputs to `points` in the ball around x and the box (L2 distance)."""
        r = self.radii(x)
        if self.norm == "linf":
            return torch.clamp(points, (x - r).clamp_min(self.low), (x + r).clamp_max(self.high))
        d = points - x
        size = self.size(d).reshape(r.shape)
        return (x + d * (r / size.clamp_min(1e-30)).clamp(max=1)).clamp(self.low, self.high)

    def start(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a uniform draw from the ball around each x, projected onto the box. Draws on the CPU, for the whole batch."""
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device).mul_(2).sub_(1)
        return self.project(x, x + noise * self.radii(x))

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return for each gradient the direction of norm 1 in which a linear function grows most: argmax <g, d>, ||d|| <= 1."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / self.size(gradient).clamp_min(1e-30).reshape(-1, *[1] * (gradient.ndim - 1))

    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each perturbation, (B,)."""
        flat = delta.flatten(1)
        if self.norm == "linf":
            return flat.abs().amax(1)
        return flat.norm(dim=1) if self.norm == "l2" else flat.abs().sum(1)
