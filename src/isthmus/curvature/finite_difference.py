"""`directional_curvature`: the curvature of the true adversarial loss, by differences with examples crafted anew at each side.

The Hessian at frozen adversarial examples is not the second derivative of the maximum over the ball. With x'(theta) a worst input,
Danskin's theorem makes the *gradient* of L(theta) = max_x' l(x', theta) that of l at the frozen x'(theta), and no more: a second
derivative also has x'(theta) move, d2l/dtheta dx' dx'/dtheta. Where x' jumps there is no second derivative at all: the gradient is not
even Lipschitz (Liu et al. 2020, https://arxiv.org/abs/2006.08403, section 3). Differences at a stated step h are defined everywhere.
"""

from dataclasses import asdict, dataclass
from math import inf

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.table import Column, Table

STEPS = (0.1, 0.03, 0.01, 0.003, 0.001)


@dataclass(frozen=True)
class Difference:
    """The curvature along a unit vector v at a step h, in nats per squared unit of weight."""

    step: float
    """h, in units of weight."""
    recrafted: float
    """<g(theta + h v) - g(theta - h v), v> / 2h, examples crafted anew at both: of the true adversarial loss."""
    kept: float
    """The same with the examples of theta at both: what differs from `recrafted` is due to the examples that move."""
    values: float
    """[L(theta + h v) - 2 L(theta) + L(theta - h v)] / h^2, examples crafted anew at both: an attack that finds less there shows here."""
    rounding: float
    """What roundings of the three losses may put into `values`: 4 precision L / h^2."""


@dataclass(frozen=True)
class Directional:
    """What is found along one direction at several steps, beside v'Hv at frozen examples."""

    frozen: float
    differences: tuple[Difference, ...]
    num_samples: int

    def table(self) -> Table:
        """Return one row for each step."""
        n, unit = self.num_samples, "nat / weight^2"
        columns = [
            Column("step", "weight", about="h"),
            Column("recrafted", unit, n=n, about="difference of gradients, examples crafted anew at theta +- h v"),
            Column("kept", unit, n=n, about="difference of gradients at the examples of theta"),
            Column("values", unit, n=n, about="second difference of losses, examples crafted anew"),
            Column("rounding", unit, n=n, about="what rounding may put into `values`"),
            Column("frozen", unit, n=n, about="v'Hv at the examples of theta"),
        ]
        return Table.of([{**asdict(row), "frozen": self.frozen} for row in self.differences], columns)


def directional_curvature(loss: LossAt, direction: Tensor, *, steps: tuple[float, ...] = STEPS) -> Directional:
    """Return the curvature of the true adversarial loss along `direction` at each of `steps`, and that at frozen examples.

    Where the loss is smooth `recrafted` and `values` agree and tend to the second derivative as h falls. Where the gradient jumps within
    reach they grow like jump / 2h: read along the steps, that is the finding. At frozen examples `kept` tends to `frozen`.

    loss: posed at its own weights. direction: (D,), of which only the orientation counts. Two poses, four gradients and two losses for
    each step. In float32 steps below 1e-3 mostly show rounding: see `rounding`, and `dtype` of :class:`LossAt`.
    Raises InputError for a direction or a step that is zero or not finite, and for a loss that fails `loss.check()`.
    """
    require(len(steps) > 0, "steps", "name at least one step", "none")
    v = _unit(loss, direction)
    frozen = float(v @ hessian(loss)(v))
    rows = tuple(difference(loss, v, step) for step in steps)
    return Directional(frozen, rows, loss.num_samples)


def difference(loss: LossAt, direction: Tensor, step: float) -> Difference:
    """Return one row of :func:`directional_curvature`."""
    require(0 < step < inf, "step", "be above 0 and finite", step)
    v, value = _unit(loss, direction), loss.value()
    anew = [_moved(loss, v, h, repose=True) for h in (step, -step)]
    kept = [_moved(loss, v, h, repose=False) for h in (step, -step)]
    return Difference(
        step,
        recrafted=float(v @ _slope(anew, step)),
        kept=float(v @ _slope(kept, step)),
        values=(anew[0].value() - 2 * value + anew[1].value()) / step**2,
        rounding=4 * loss.precision * abs(value) / step**2,
    )


@dataclass(frozen=True, eq=False)
class TopCurvature:
    """The curvature of largest magnitude that power iteration found at one step."""

    value: float
    """v'C(v), in nats per squared unit of weight, with C(v) = [g(theta + h v) - g(theta - h v)] / 2h, examples crafted anew."""
    vector: Tensor
    """(D,) v, a unit vector."""
    residual: float
    """||C(v) - v'C(v) v||."""
    asymmetry: float | None
    """The most |u'C(v) / v'C(u) - 1| over successive iterates: 0 for a symmetric matrix. None after a single product."""
    converged: bool
    products: int


def top_curvature(
    loss: LossAt, *, step: float, products: int, generator: torch.Generator, tolerance: float = 1e-3
) -> TopCurvature:
    """Return the curvature of largest magnitude of the true adversarial loss at the scale `step`, by power iteration on C.

    C is linear and symmetric only as far as the loss has a second derivative and the attack finds the maximum: an attack that stops
    short gives gradients of no one function. `asymmetry` measures both at no cost, and is to be read with the value. Nothing is
    symmetrised, which would need products with the transpose, and C is no :class:`~isthmus.curvature.operator.Operator`: Lanczos
    processes rest on a symmetry that it need not have.

    products: at most; each takes two poses and two gradients. tolerance: of the residual over |value|. generator: of the random start,
    which leaves weights alone that the owner froze.
    Raises InputError for a step that is not above 0, for fewer than one product, for gradients that are not finite, and for a loss that
    fails `loss.check()`.
    """
    require(0 < step < inf, "step", "be above 0 and finite", step)
    require(products >= 1, "products", "be at least 1", products)
    require(0 < tolerance < 1, "tolerance", "lie between 0 and 1", tolerance)
    loss.check()
    free = loss.subject.flat([torch.ones_like(p) for p in loss.subject.parameters]).cpu()
    v = _unit(loss, torch.randn(loss.size, generator=generator, dtype=torch.float64) * free)
    before: tuple[Tensor, float] | None = None
    asymmetry: float | None = None
    taken = 0
    while True:
        image = _slope([_moved(loss, v, h, repose=True) for h in (step, -step)], step)
        taken += 1
        length, value = float(image.norm()), float(v @ image)
        require(length < inf, "loss", "have finite gradients around its weights", f"{length} in product {taken}")
        if before is not None:
            asymmetry = max(asymmetry or 0.0, abs(float(before[0] @ image) / before[1] - 1))
        residual = float((image - value * v).norm())
        converged = residual <= tolerance * abs(value)
        if converged or taken == products:
            return TopCurvature(value, v, residual, asymmetry, converged, taken)
        before, v = (v, length), image / length


def _unit(loss: LossAt, direction: Tensor) -> Tensor:
    """Return a direction at length 1, on the CPU."""
    v = direction.detach().cpu().double()
    require(tuple(v.shape) == (loss.size,), "direction", f"have shape ({loss.size},)", str(tuple(v.shape)))
    length = float(v.norm())
    require(0 < length < inf, "direction", "be finite and not zero", f"a length of {length:g}")
    return v / length


def _moved(loss: LossAt, v: Tensor, h: float, *, repose: bool) -> LossAt:
    """Return the loss at theta + h v."""
    return loss.moved(loss.theta.double() + h * v.to(loss.theta.device), repose=repose)


def _slope(sides: list[LossAt], step: float) -> Tensor:
    """Return (D,) the difference of the gradients at both sides over 2h, on the CPU."""
    return (sides[0].gradient() - sides[1].gradient()).cpu() / (2 * step)
