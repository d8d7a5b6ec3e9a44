"""`Threat`: which inputs an attacker may choose: a ball around each image, inside the box of valid inputs."""

from copy import copy
from dataclasses import dataclass
from math import frexp, inf, isfinite, ldexp, prod
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import InputError, require, unknown
from isthmus.attacks import balls

Norm = Literal["linf", "l2", "l1"]
ORDERS: dict[Norm, float] = {"linf": inf, "l2": 2, "l1": 1}
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
FAR = 1e12
"""Points farther than this from zero are projected as if they were this far: infinities stay out of the sums."""


@dataclass(frozen=True)
class Threat:
    """All x' with ||x' - x||_norm <= radius and low <= x' <= high.

    radius: in units of the input, above 0: one number or a tensor (B,) with one for each image. low, high: the box of valid inputs.
    Images x are float32 or float64 (B, ...) inside the box. What is returned is in the ball and the box to one unit in the last place.
    Raises InputError for an unknown norm, a radius that is not above 0 and finite, and a box without inside.
    """

    norm: Norm = "linf"
    radius: float | Tensor = 8 / 255
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise unknown("norm", str(self.norm), get_args(Norm))
        box = f"low {self.low:g}, high {self.high:g}"
        require(isfinite(self.low) and isfinite(self.high) and self.low < self.high, "low", "be below `high`", box)
        requirement, fix = "be finite and above 0", "It is in units of the input, such as 8/255."
        if not isinstance(self.radius, Tensor):
            require(isfinite(self.radius) and self.radius > 0, "radius", requirement, self.radius, fix)
            return
        shape = tuple(self.radius.shape)
        require(self.radius.ndim == 1, "radius", "be a number, or a tensor (B,) with one for each image", f"{shape}")
        bad = (~(torch.isfinite(self.radius) & (self.radius > 0))).nonzero()
        if len(bad):
            found = f"{float(self.radius[bad[0]]):g} for image {int(bad[0])}"
            require(False, "radius", requirement, found, fix)

    def take(self, index: Tensor) -> "Threat":
        """Return the threat of a part of the batch; `index` is boolean or integer, of shape (B,) or (K,)."""
        return self._of(self.radius[index.to(self.radius.device)]) if isinstance(self.radius, Tensor) else self

    def scaled(self, factor: float) -> "Threat":
        """Return the threat of `factor` > 0 times the radius."""
        require(isfinite(factor) and factor > 0, "factor", "be finite and above 0", factor)
        return self._of(self.radius * factor)

    def _of(self, radius: float | Tensor) -> "Threat":
        """The same threat of another radius that is known to be good: checking a tensor would wait for the device."""
        other = copy(self)
        object.__setattr__(other, "radius", radius)
        return other

    def radii(self, x: Tensor) -> Tensor:
        """Return the radius of each image, broadcast against x (B, ...): shape (B, 1, ...)."""
        if isinstance(self.radius, Tensor):
            requirement = f"have one entry for each of {len(x)} images"
            require(len(self.radius) == len(x), "radius", requirement, f"{len(self.radius)} entries")
        held = torch.as_tensor(self.radius, dtype=x.dtype, device=x.device)
        return held.expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))

    def project(self, x: Tensor, points: Tensor) -> Tensor:
        """Return the points of the ball around x, cut by the box, that are nearest to `points` (B, ...) in the L2 distance.

        Points inside are returned bit by bit. Where clipping to the box leads into the ball, that is the projection; elsewhere the
        norm's own equation is solved (:mod:`isthmus.attacks.balls`).
        """
        r = self.radii(x)
        if self.norm == "linf":
            return torch.clamp(points, x - r, x + r).clamp_(self.low, self.high)
        boxed = points.clamp(self.low, self.high)
        outside = balls.size(boxed - x, ORDERS[self.norm]) > r.reshape(-1).double()
        if not bool(outside.any()):
            return boxed
        rows = slice(None) if bool(outside.all()) else outside
        base = x[rows]
        delta = points[rows].clamp(-FAR, FAR).sub_(base)
        solve = balls.stretched if self.norm == "l2" else balls.thresholded
        boxed[rows] = self._seated(base, solve(delta, self._cell(base, r[rows])))
        return boxed

    def start(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a uniform draw from the ball around each x, projected onto the box. Draws on the CPU, for the whole batch."""
        noise = balls.uniform(x.shape, ORDERS[self.norm], generator=generator, dtype=x.dtype).to(x.device)
        return self._seated(x, noise.mul_(self.radii(x)))  # in the ball already: clipping to the box is the projection

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return for each gradient the direction of norm 1 in which a linear function grows most: argmax <g, d>, ||d|| <= 1.

        sign(g), g / ||g||, or for L1 the sign at the largest |g| alone. A zero gradient has direction zero, and NaN counts as zero.
        """
        if self.norm == "linf":
            return gradient.sign().nan_to_num_(0)
        axes = tuple(range(1, gradient.ndim))
        finite = gradient.nan_to_num(0)
        if self.norm == "l2":
            tiny = torch.finfo(gradient.dtype).tiny
            unit = finite.div_(finite.abs().amax(axes, keepdim=True).clamp_min(tiny))  # squares of 1e-30 would vanish
            length = torch.linalg.vector_norm(unit, dim=axes, keepdim=True)
            return unit.div_(length.clamp_min(tiny))
        flat = finite.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign()).reshape(gradient.shape)

    def ascend(self, points: Tensor, gradient: Tensor, factor: float | Tensor) -> Tensor:
        """Return points in the box moved by `factor` radii, a number or (B, 1, ...), along the steepest direction; not yet projected.

        In L1 with the walls in mind: the coordinates of largest |g| that have room move, as many as it takes; one alone, as `ascent` has
        it, would stand at its wall from the first step on. Those of larger |g| are pushed against their walls, the steeper the harder,
        so that the projection takes what is too much from the flattest: then only the optimum of a linear function is a fixed point.
        """
        reach = self.radii(points) * factor
        if self.norm != "l1":
            return self.ascent(gradient).mul_(reach).add_(points)
        axes = tuple(range(1, points.ndim))
        slope = gradient.nan_to_num(0)
        v = balls.filled(slope, self._cell(points, reach))
        steep = slope.abs()
        last = steep.where(v != 0, inf).amin(axes, keepdim=True)
        above = (steep - last) / (steep.amax(axes, keepdim=True) - last).clamp_min(torch.finfo(v.dtype).tiny)
        return points + torch.where(steep > last, slope.sign_() * reach * (1 + above), v)

    def best_response(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the maximiser of <g, x'> over the threat: where a linear model is attacked at its worst. NaN counts as zero.

        Linf: clip(x + r sign g). L1: the coordinates of largest |g| go to their walls until the radius is spent. L2: x + clip(s g) with
        the s at which its norm is the radius. Where several are best, coordinates of zero gradient stay.
        """
        r = self.radii(x)
        finite = gradient.nan_to_num(0)
        if self.norm == "linf":
            return (x + r * finite.sign_()).clamp_(self.low, self.high)
        solve = balls.stretched if self.norm == "l2" else balls.filled
        return self._seated(x, solve(finite, self._cell(x, r)))

    def dual(self, gradient: Tensor) -> Tensor:
        """Return max <g, d> over ||d|| <= 1 for each gradient, (B,): its L1, L2 or Linf norm for Linf, L2, L1."""
        return balls.size(gradient, ORDERS[DUAL[self.norm]]).to(gradient.dtype)

    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each perturbation, (B,), summed in float64."""
        return balls.size(delta, ORDERS[self.norm]).to(delta.dtype)

    def inside(self, x: Tensor, points: Tensor) -> Tensor:
        """Return for each of `points` whether it lies in ball and box, (B,), to one unit in the last place; NaN does not."""
        reach = torch.maximum(self.radii(x).reshape(-1).double(), torch.tensor(self._scale, device=x.device))
        ulp = torch.finfo(x.dtype).eps
        near = balls.size(points.double() - x.double(), ORDERS[self.norm]) <= self.radii(x).reshape(-1) + ulp * reach
        low, high = (bound.double() for bound in torch.aminmax(points.flatten(1), dim=1))
        return near & (low >= self.low - ulp * self._scale) & (high <= self.high + ulp * self._scale)

    def require_inputs(self, x: Tensor) -> None:
        """Raise InputError unless x (B, ...) are finite float images inside the box, and the radius is no larger than the box."""
        require(x.ndim >= 2 and x[0:1].numel() > 0, "x", "be inputs (B, ...) with B >= 1", f"shape {tuple(x.shape)}")
        if x.dtype not in (torch.float32, torch.float64):
            fix = f"Give floats in [{self.low:g}, {self.high:g}], or `Samples`, which divides bytes by 255."
            require(False, "x", "hold float32 or float64 inputs", str(x.dtype), fix)
        bad = int((~torch.isfinite(x)).sum())
        require(bad == 0, "x", "hold finite numbers", f"{bad} NaN or infinite values of {x.numel()}")
        low, high = (float(bound) for bound in torch.aminmax(x))
        ulp = torch.finfo(x.dtype).eps * self._scale
        found = f"values from {low:.4g} to {high:.4g}"
        fits = self.low - ulp <= low and high <= self.high + ulp
        require(fits, "x", f"lie in [{self.low:g}, {self.high:g}]", found, "" if fits else self._advice(low, high))
        self._require_radius(x)

    def _advice(self, low: float, high: float) -> str:
        if self.low >= 0 and low < self.low - 0.01 and max(-low, high) < 20 * self.high:
            return "The inputs look normalised: put mean and standard deviation into the model, as its first layer."
        if low >= 0 and self.high == 1 and 1.5 < high <= 255:
            return "They look like bytes: divide by 255."
        return "Clip or rescale them, or give the threat their box as `low` and `high`."

    def _require_radius(self, x: Tensor) -> None:
        largest = float(self.radii(x).amax())
        widths: dict[Norm, float] = {"linf": 1.0, "l2": prod(x.shape[1:]) ** 0.5, "l1": float(prod(x.shape[1:]))}
        width = widths[self.norm] * (self.high - self.low)
        hint = f" Did you mean {largest:g}/255?" if largest >= 1 and self.low == 0 and self.high == 1 else ""
        fix = f"It is in units of the input.{hint}"
        require(largest <= width, "radius", f"be at most {width:g}, the width of the box in this norm", largest, fix)

    @property
    def _scale(self) -> float:
        return max(abs(self.low), abs(self.high))

    def _cell(self, x: Tensor, r: Tensor) -> balls.Cell:
        return balls.Cell((self.low - x).clamp_max_(0), (self.high - x).clamp_min_(0), r)

    def _seated(self, x: Tensor, v: Tensor) -> Tensor:
        """Sum x + v, each coordinate rounded toward x: half a unit in the last place less cannot be rounded to more than v.

        Rounding to nearest instead leads out of an L1 ball by up to d half units, where all coordinates round the same way.
        """
        mantissa, exponent = frexp(self._scale)
        digits = 24 if x.dtype == torch.float32 else 53
        half = ldexp(0.5, exponent - digits - (mantissa == 0.5))  # of the floats just below `_scale`
        return x.add(functional.softshrink(v, half)).clamp_(self.low, self.high)


def parse_radius(text: str) -> float:
    """Return the radius written as a fraction or a decimal.

    Raises InputError for what is no number, and for a radius that is not finite and above 0.

    >>> parse_radius("8/255") == 8 / 255
    True
    """
    requirement = "be a fraction or a decimal, such as 8/255 or 0.03"
    try:
        parts = [float(part) for part in text.split("/")]
        value = parts[0] / parts[1] if len(parts) == 2 else parts[0]
    except (ValueError, ZeroDivisionError):
        raise InputError(f"`radius` should {requirement}. Found {text!r}.") from None
    require(len(parts) <= 2, "radius", requirement, text)
    require(isfinite(value) and value > 0, "radius", "be finite and above 0", text)
    return value


def parse_threat(norm: str, eps: str, *, low: float = 0.0, high: float = 1.0) -> Threat:
    """Return the threat of `norm` (linf, l2 or l1, in any case) and the radius written in `eps`.

    >>> parse_threat("Linf", "8/255") == Threat("linf", 8 / 255)
    True
    """
    for known in get_args(Norm):
        if norm.lower() == known:
            return Threat(known, parse_radius(eps), low, high)
    raise unknown("norm", norm, get_args(Norm))
