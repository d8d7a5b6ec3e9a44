"""Ascent steps in weight space: the worst weights near a point, at which the gradient is taken instead."""

from torch import Tensor

from isthmus.layout import Layout
from isthmus.training.plan import Plan

TINY = 1e-12  # a gradient of zero leads nowhere, and underflow must not blow up


def ascend(plan: Plan, layout: Layout, weights: Tensor, gradient: Tensor) -> None:
    """Move the flat `weights` (D,) uphill in place by the plan's radius rho; `gradient` (D,) is that of the loss there.

    adaptive: rho T^2 g / ||T g|| with T = |w| (Kwon et al. 2021, eq. 8). layerwise: rho ||w_l|| g_l / ||g_l|| for each tensor l with more
    than one axis (Wu et al. 2020, eq. 9, as in their code; biases and normalisation layers stay).
    """
    assert plan.sharpness is not None
    if plan.ascent == "adaptive":
        scaled = gradient * weights
        norm = scaled.norm().clamp_min(TINY)
        weights.add_(scaled.mul_(weights).mul_(plan.sharpness / norm))
        return
    for shape, place in zip(layout.shapes, layout.slices, strict=True):
        if len(shape) > 1:
            w, g = weights[place], gradient[place]
            w.add_(g * (plan.sharpness * w.norm() / g.norm().clamp_min(TINY)))
