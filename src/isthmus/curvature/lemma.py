"""The proposition of Zhao et al. 2020: how far the loss can rise in a small ball, bounded by the largest input eigenvalue."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus._check import require, unknown
from isthmus.curvature.input_hessian import InputSpectrum

Norm = Literal["linf", "l2", "l1"]


@dataclass(frozen=True, eq=False)
class Bounds:
    """Two numbers (B,) in nats for each image, lower <= upper, in float64."""

    lower: Tensor
    upper: Tensor


def change_bounds(
    gradient_norm: Tensor, eigenvalue: Tensor, cosine: Tensor, radius: float, *, norm: Norm = "l2", dim: int = 1
) -> Bounds:
    """Return bounds of max over ||d||_norm <= radius of q(d) = <g, d> + d' H d / 2, the second-order model of the rise of the loss.

    With lambda the largest eigenvalue of H, v its unit eigenvector and c = |<g, v>| / ||g||_2, in the L2 ball of radius r

        max_{0<=s<=r} s c ||g|| + s^2 lambda / 2  <=  max q  <=  max_{0<=s<=r} s ||g|| + s^2 lambda / 2:

    below because the better of +v and -v is a direction in the ball, above because no direction has more slope than ||g|| or more
    curvature than lambda. Where lambda >= 0 the best s is r: the bounds share the term r^2 lambda / 2, differ by r ||g|| (1 - c) and
    meet as c -> 1, which is what ties robustness loss to eigenvalue along a path (Zhao et al. 2020, section on evasion). Other balls
    by inclusion: Linf of radius r lies between the L2 balls of r and r sqrt(dim), L1 between those of r / sqrt(dim) and r.
    The box of valid inputs is left out: it can only lower the maximum. How well q stands for the loss is not looked at.

    gradient_norm, eigenvalue, cosine: (B,); a NaN cosine (no direction) counts as 0. dim: numbers in one input.
    Raises InputError for a negative norm, a cosine outside [0, 1], shapes that differ, and a radius that is not positive and finite.
    """
    if norm not in get_args(Norm):
        raise unknown("norm", str(norm), get_args(Norm))
    require(0 < radius < float("inf"), "radius", "be positive and finite", radius)
    require(dim >= 1, "dim", "be at least 1", dim)
    slope, curvature, share = gradient_norm.double(), eigenvalue.double(), cosine.double().nan_to_num(0)
    shapes = (tuple(slope.shape), tuple(curvature.shape), tuple(share.shape))
    require(len(set(shapes)) == 1, "gradient_norm", "have the shape of `eigenvalue` and `cosine`", str(shapes))
    require(not bool((slope < 0).any()), "gradient_norm", "be at least 0", f"{slope.min():g}")
    inside = bool(((share >= 0) & (share <= 1)).all())
    require(inside, "cosine", "lie in [0, 1]", f"{share.min():g} to {share.max():g}", "Pass its absolute value.")
    root = dim**0.5
    inner, outer = {"linf": (radius, radius * root), "l2": (radius, radius), "l1": (radius / root, radius)}[norm]
    return Bounds(_along(share * slope, curvature, inner), _along(slope, curvature, outer))


def robust_loss_bounds(spectrum: InputSpectrum, radius: float, *, norm: Norm = "l2") -> Bounds:
    """Return the same for each image as bounds of its robust loss: its loss plus the bounds of the rise."""
    images = spectrum.vector
    found = change_bounds(
        spectrum.gradient_norm,
        spectrum.eigenvalues[:, 0],
        spectrum.cosine,
        radius,
        norm=norm,
        dim=images[0].numel(),
    )
    return Bounds(spectrum.loss + found.lower, spectrum.loss + found.upper)


def _along(slope: Tensor, curvature: Tensor, radius: float) -> Tensor:
    """Return the maximum of s slope + s^2 curvature / 2 over 0 <= s <= radius, slope >= 0."""
    turning = slope / curvature.neg().where(curvature < 0, 1)
    s = torch.where(curvature < 0, turning.clamp(max=radius), radius)
    return s * slope + s.square() * curvature / 2
