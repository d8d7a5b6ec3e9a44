"""`empirical_smoothness`: how steep a model's loss and its gradient are, in the weights and from input to input."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from isthmus._check import require, unknown
from isthmus.curvature.input_hessian import require_batch
from isthmus.curvature.loss_at import LossAt, gradient_of, losses_of
from isthmus.layout import placement
from isthmus.losses import cross_entropy
from isthmus.problem import Posed

ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0}


@dataclass(frozen=True)
class Sampling:
    """Which pairs are looked at: weights theta +- radius d, d of length 1 at random, so many for each image.

    radius: in units of weight. norm: of the inputs, "linf", "l2" or "l1".
    """

    radius: float
    pairs: int = 10
    norm: str = "linf"

    def __post_init__(self) -> None:
        require(0 < self.radius < inf, "radius", "be above 0 and finite", self.radius)
        require(self.pairs >= 1, "pairs", "be at least 1", self.pairs)
        if self.norm not in ORDERS:
            raise unknown("norm", str(self.norm), ORDERS)


@dataclass(frozen=True)
class Smoothness:
    """The largest ratios met: lower bounds of the constants of Liu et al. 2020 in the neighbourhood, never the constants themselves."""

    loss: float
    """L_theta: |l(x, theta_1) - l(x, theta_2)| over ||theta_1 - theta_2||, nats per unit of weight."""
    gradient: float
    """L_theta-theta: ||g(x, theta_1) - g(x, theta_2)|| over the same, g the gradient in the weights."""
    mixed: float | None
    """L_theta-x: ||g(x_1, theta) - g(x_2, theta)|| over ||x_1 - x_2||; None where no input was moved."""
    weight_pairs: int
    """Pairs of weights in `loss` and `gradient`, over all images and both inputs of each."""
    input_pairs: int
    """Pairs of inputs in `mixed`, likewise over both weights."""


def empirical_smoothness(
    model: nn.Module,
    x: Tensor,
    moved: Tensor | Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    sampling: Sampling,
    generator: torch.Generator,
) -> Smoothness:
    """Return the largest change of the cross-entropy of single images, and of its gradient, per unit of weights and of input.

    Each pair of weights theta_1, theta_2 = theta +- radius d with each pair of inputs x_i, x_i': four losses and gradients, evaluation
    mode. What the theorem makes of the constants is :func:`isthmus.theory.smooth.gradient_change_bound`:
    ||grad l_eps(theta_1) - grad l_eps(theta_2)|| <= L_theta-theta ||theta_1 - theta_2|| + 2 eps L_theta-x.

    x: (B, ...); y: (B,) labels. moved: (B, ...) the second inputs, adversarial ones for instance, or what gives one for (1, ...), called
    anew for each pair. generator: of the directions, which leave weights alone that the owner froze. The model is left as it was.
    Raises InputError for inputs that do not fit, where a gradient is not finite, and for a model that fails the check of its loss
    (:meth:`~isthmus.curvature.loss_at.LossAt.check`).
    """
    require_batch(x, y)
    fits = not isinstance(moved, Tensor) or moved.shape == x.shape
    require(fits, "moved", f"have shape {tuple(x.shape)}", str(tuple(moved.shape)) if isinstance(moved, Tensor) else "")
    most = {"loss": 0.0, "gradient": 0.0, "mixed": 0.0}
    met = 0
    around = LossAt(model, lambda module: [_posed(module, x[:1], y[:1])])
    around.check()
    free = around.subject.flat([torch.ones_like(p) for p in around.subject.parameters]).cpu()
    for i in range(len(x)):
        for _ in range(sampling.pairs):
            first = x[i : i + 1]
            second = moved[i : i + 1] if isinstance(moved, Tensor) else moved(first)
            d = torch.randn(around.size, generator=generator, dtype=torch.float64) * free
            ratios = _ratios(around, [first, second], y[i : i + 1], sampling, d / d.norm())
            met += 2 * ("mixed" in ratios)
            most = {name: max(value, ratios.get(name, 0.0)) for name, value in most.items()}
    mixed = most["mixed"] if met else None
    return Smoothness(most["loss"], most["gradient"], mixed, 2 * len(x) * sampling.pairs, met)


def _ratios(around: LossAt, inputs: list[Tensor], y: Tensor, sampling: Sampling, d: Tensor) -> dict[str, float]:
    """Return the largest ratios over two weights and two inputs; no "mixed" where the inputs are equal."""
    sides = [
        around.moved(around.theta.double() + h * d.to(around.theta.device)) for h in (sampling.radius, -sampling.radius)
    ]
    found = [[_first_order(side, x, y) for x in inputs] for side in sides]
    gradients = torch.stack([torch.stack([gradient for _, gradient in row]) for row in found])  # (weights, inputs, D)
    require(bool(gradients.isfinite().all()), "model", "have finite gradients around its weights", "NaN or infinity")
    distance = 2 * sampling.radius
    ratios = {
        "loss": max(abs(one[0] - other[0]) for one, other in zip(*found, strict=True)) / distance,
        "gradient": float((gradients[0] - gradients[1]).norm(dim=1).max()) / distance,
    }
    apart = float((inputs[1].double() - inputs[0].double()).flatten().norm(ORDERS[sampling.norm]))
    mixed = {"mixed": float((gradients[:, 0] - gradients[:, 1]).norm(dim=1).max()) / apart} if apart > 0 else {}
    return ratios | mixed


def _first_order(at: LossAt, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return the loss of one image and its gradient (D,)."""
    with at.measured():
        loss = losses_of(_posed(at.subject.module, x, y)).sum()
        return float(loss.detach()), at.subject.flat(gradient_of(loss, at.subject.parameters))


def _posed(module: nn.Module, x: Tensor, y: Tensor) -> Posed:
    device, dtype = placement(module)
    return Posed(
        module, (x.to(device, dtype),), y.to(device), lambda outputs, labels: cross_entropy(outputs[0], labels)
    )
