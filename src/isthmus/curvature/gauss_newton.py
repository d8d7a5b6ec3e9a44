"""`gauss_newton`: the Gauss-Newton matrix of a loss in the weights, as products."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.memory import Memory, plan_memory
from isthmus.curvature.operator import BatchOperator, Linear
from isthmus.problem import Posed, Problem


def gauss_newton(loss: LossAt, *, plan: Memory | None = None) -> BatchOperator:
    """Return G = 1/N sum_i J_i' (d^2 l / d o_i^2) J_i, with o_i all the logits of sample i and J_i their Jacobian in the weights.

    The Hessian without the curvature of the model itself (Schraudolph 2002): positive semidefinite where the loss is convex in the logits,
    as cross-entropy is (there G is the Fisher matrix), and equal to the Hessian where the logits are linear in the weights. Several inputs,
    clean and adversarial of TRADES, are taken together, with the mixed derivatives between their logits. J v is the derivative of
    J' u in u, by double backward.

    plan: as of :func:`~isthmus.curvature.operator.hessian`.
    Raises InputError for problems that give their losses whole (an objective of one's own), for a loss that fails `loss.check()`, and
    where not one batch fits into memory.
    """
    other = next((problem for problem in loss.problems if not isinstance(problem, Posed)), None)
    fix = "Pose it as `Posed(model, inputs, y, loss)`, or take `hessian`."
    found = f"{type(other).__name__}, which gives losses alone"
    require(other is None, "pose", "tell the model's outputs and the loss of them apart", found, fix)
    plan = plan_memory(loss) if plan is None else plan
    loss.check()
    return BatchOperator(loss, _linearised, plan)


def _linearised(problem: Problem, parameters: list[Tensor]) -> Linear:
    """Return v -> J' H J v of a batch's summed loss."""
    assert isinstance(problem, Posed)
    outputs = [out for out in problem.outputs() if out.requires_grad]
    seeds = [torch.zeros_like(out, requires_grad=True) for out in outputs]
    pulled = torch.autograd.grad(outputs, parameters, seeds, create_graph=True, materialize_grads=True)
    reached = [place for place, g in enumerate(pulled) if g.requires_grad]
    bend = _bend(problem)

    def product(pieces: list[Tensor]) -> Sequence[Tensor]:
        weights = [pieces[place] for place in reached]
        pushed = torch.autograd.grad(
            [pulled[place] for place in reached], seeds, weights, retain_graph=True, materialize_grads=True
        )
        return torch.autograd.grad(outputs, parameters, bend(pushed), retain_graph=True, materialize_grads=True)

    return product


def _bend(problem: Posed) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Return u -> H u, H the Hessian of the summed loss in all outputs that depend on the weights."""
    with torch.no_grad():
        values = problem.outputs()
    leaves = [value.clone().requires_grad_() for value in values]
    losses = problem.loss(leaves, problem.y).double().sum()
    slopes = torch.autograd.grad(losses, leaves, create_graph=True, materialize_grads=True)
    curved = [place for place, slope in enumerate(slopes) if slope.requires_grad]

    def product(u: Sequence[Tensor]) -> Sequence[Tensor]:
        if not curved:
            return [torch.zeros_like(one) for one in u]
        return torch.autograd.grad(
            [slopes[place] for place in curved],
            leaves,
            [u[place] for place in curved],
            retain_graph=True,
            materialize_grads=True,
        )

    return product
