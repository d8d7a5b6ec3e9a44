"""`Operator`: a symmetric matrix known by its products alone; `hessian`: the Hessian of a loss in the weights as one."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.curvature.loss_at import LossAt, losses_of
from isthmus.curvature.memory import Memory, plan_memory
from isthmus.problem import Problem


class Operator(Protocol):
    """A symmetric (D, D) matrix A: `operator(v)` is A v, (D,) float64 -> (D,) float64; `size` is D."""

    @property
    def size(self) -> int:
        """Return D."""
        ...

    def __call__(self, v: Tensor) -> Tensor:
        """Return A v; the argument is left as it is."""
        ...


def dense(operator: Operator) -> Tensor:
    """Return the (D, D) float64 matrix, from D products with unit vectors: for small D and for tests."""
    units = torch.eye(operator.size, dtype=torch.float64, device=device_of(operator))
    return torch.stack([operator(unit) for unit in units], 1)


def precision_of(operator: Operator) -> float:
    """Return the relative rounding error of a product: the operator's own `precision` where it has one, else that of float64."""
    return float(getattr(operator, "precision", torch.finfo(torch.float64).eps))


def device_of(operator: Operator) -> torch.device:
    """Return where the operator computes: its own `device` where it has one, else the CPU."""
    return torch.device(getattr(operator, "device", "cpu"))


Linear = Callable[[list[Tensor]], Sequence[Tensor]]
"""One tensor for each parameter -> the product of a batch with them, summed over its samples, likewise."""


class BatchOperator:
    """The mean over samples of a matrix in the weights that each batch gives as products over an autograd graph of its own.

    products: taken so far. The graphs of the first `plan.kept` batches are kept from one product to the next.
    """

    def __init__(self, loss: LossAt, linearise: Callable[[Problem, list[Tensor]], Linear], plan: Memory):
        self.loss, self.plan, self.products = loss, plan, 0
        self._linearise = linearise
        self._kept: list[Linear] = []

    @property
    def size(self) -> int:
        """Return D, frozen weights included: their rows are zero."""
        return self.loss.size

    @property
    def precision(self) -> float:
        """Return the relative rounding error of a product."""
        return self.loss.precision

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.loss.subject.device

    def __call__(self, v: Tensor) -> Tensor:
        """Return the product (D,) with v (D,), in float64."""
        require(tuple(v.shape) == (self.size,), "v", f"have shape ({self.size},)", str(tuple(v.shape)))
        subject, total = self.loss.subject, torch.zeros(self.size, dtype=torch.float64, device=self.device)
        pieces = subject.pieces(v)
        with self.loss.measured():
            for place, problem in enumerate(self.loss.problems):
                if self.loss.sizes[place] == 0:
                    continue
                total += subject.flat(self._linear(place, problem)(pieces))
        self.products += 1
        return (total / self.loss.num_samples).to(v.device)

    def _linear(self, place: int, problem: Problem) -> Linear:
        if place < len(self._kept):
            return self._kept[place]
        linear = self._linearise(problem, list(self.loss.subject.parameters))
        if place == len(self._kept) < self.plan.kept:
            self._kept.append(linear)
        return linear


def hessian(loss: LossAt, *, plan: Memory | None = None) -> BatchOperator:
    """Return the Hessian of the mean loss in the weights, as products by double backward (Pearlmutter 1994).

    H v = d <g(theta), v> / d theta, over the graph of the gradient g, which is kept between products where memory allows: a product then
    costs about 2.6 gradients, else 3.6. Never reverse mode over forward mode: that is silently wrong through LayerNorm and BatchNorm.
    At frozen adversarial examples this is the Hessian of the loss at those examples, not the second derivative of the maximum.

    plan: what may be kept, from :func:`~isthmus.curvature.memory.plan_memory`; None: half of the memory that is free now.
    Raises InputError for a loss that fails `loss.check()`, and where not one batch fits.
    """
    plan = plan_memory(loss) if plan is None else plan
    loss.check()
    return BatchOperator(loss, _second, plan)


def _second(problem: Problem, parameters: list[Tensor]) -> Linear:
    """Return v -> H v of a batch's summed loss."""
    gradient = torch.autograd.grad(losses_of(problem).sum(), parameters, create_graph=True, materialize_grads=True)
    curved = [place for place, g in enumerate(gradient) if g.requires_grad]
    if not curved:
        return lambda _: [torch.zeros_like(p) for p in parameters]
    left = [gradient[place] for place in curved]

    def product(pieces: list[Tensor]) -> Sequence[Tensor]:
        weights = [pieces[place] for place in curved]
        return torch.autograd.grad(left, parameters, weights, retain_graph=True, materialize_grads=True)

    return product
