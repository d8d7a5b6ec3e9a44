"""The version space of a linear classifier: which weights are right about a point whatever an adversary does within its budget.

Scores are W x with rows w_k, no bias, and S_eps(x) = {x' : ||x' - x||_p <= eps} without a box of valid inputs; 1/p + 1/q = 1.
"""

from math import inf

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.theory.case import Case
from isthmus.theory.norms import dual_order, norm, require_budget

Label = Tensor | int


def worst_margins(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> Tensor:
    """Return min over x' in S_eps(x) of (w_y - w_i).x' = (w_y - w_i).x - eps ||w_y - w_i||_q for each class i, (..., K).

    +inf at i = y. The minima of two classes need not be met at the same x'. In units of the scores, float64.
    """
    q = dual_order(p)
    require_budget(eps)
    case = Case.of(W, x, y)
    gaps = case.gaps(q)
    leads = case.leads().masked_fill(gaps == 0, 0)  # equal rows tie exactly, however their scores were rounded
    return (leads - eps * gaps).masked_fill(case.own, inf).reshape(*case.shape, len(W))


def version_margin(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> Tensor:
    """Return the least of the worst margins, (...): at least 0 exactly where W is in the version space."""
    return worst_margins(W, x, y, eps, p).amin(-1)


def in_version_space(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> Tensor:
    """Return for each point whether W is in V_eps = {W : (w_i - w_y).x' <= 0 for all i and all x' in S_eps(x)}, boolean (...).

    Decided by (w_y - w_i).x >= eps ||w_y - w_i||_q for every i != y; V_eps is a closed convex cone, and shrinks as eps grows.
    W: (K, d). x: (N, d) or (d,). y: (N,) labels or one. eps: in units of the input. p: order of the adversary's norm, at least 1.
    Compared in float64 without a tolerance: a point on the boundary may fall on either side by rounding.
    Raises InputError for sizes that do not fit, labels out of range, a negative budget, and p below 1.
    Definition: Liu et al. 2020, section 3; the finite test is ours.

    >>> W, x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0.5, 9.0])
    >>> [bool(in_version_space(W, x, 0, eps)) for eps in (0.5, 0.51)]
    [True, False]
    """
    return version_margin(W, x, y, eps, p) >= 0


def largest_budget_in_version_space(W: Tensor, x: Tensor, y: Label, p: float = inf) -> Tensor:
    """Return the largest eps at which W is in V_eps, min over i of (w_y - w_i).x / ||w_y - w_i||_q, (...), in units of the input.

    That is the distance of x to the nearest decision boundary. Negative where W is wrong about x itself, so in no version space;
    +inf where all rows of W are equal (those never lose, and never win).
    """
    case = Case.of(W, x, y)
    gaps = case.gaps(dual_order(p))
    ratio = case.leads() / gaps.where(gaps > 0, 1)
    return ratio.masked_fill(gaps == 0, inf).amin(-1).reshape(case.shape)


def loss_limit(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf, *, tolerance: float = 0.0) -> Tensor:
    """Return the limit of g_eps(x, gamma W) as gamma grows, in nats, (...), with g_eps = max over S_eps(x) of the cross-entropy.

    0 where every worst margin is positive; +inf where one is negative; else log(1 + m), with m the most classes that tie with the
    label at one and the same x' in S_eps(x): those of zero margin on which the norm of order q is additive,
    ||sum (w_y - w_i)||_q = sum ||w_y - w_i||_q. So m is at most the number of zero margins, and less where they are met at different
    x'. The claim of Liu et al. 2020 that the limit is 0 for all of V_eps without W = 0 is too strong on its boundary (ours): with
    all rows equal W is in every V_eps and the loss stays at log K.

    tolerance: margins within this, in units of the scores, count as zero; rounding seldom leaves an exact one.
    """
    require(tolerance >= 0, "tolerance", "be at least 0", tolerance)
    case = Case.of(W, x, y)
    margins = worst_margins(W, x, y, eps, p).reshape(len(case.x), -1)
    limits = torch.where((margins < -tolerance).any(1), inf, 0.0).to(case.x.dtype)
    for i in ((margins.abs() <= tolerance).any(1) & (limits == 0)).nonzero().flatten().tolist():
        ties = case.W[case.y[i]] - case.W[margins[i].abs() <= tolerance]
        count = ties if eps > 0 else torch.zeros_like(ties)  # without a ball there is only one x'
        limits[i] = torch.tensor(1.0 + _at_once(count, dual_order(p))).log()
    return limits.reshape(case.shape)


def _at_once(ties: Tensor, q: float) -> int:
    """Return the size of the largest set of rows (z, d) on which the norm is additive; each part of such a set is one."""
    sizes = norm(ties, q)

    def grow(total: Tensor, size: Tensor, rest: list[int]) -> int:
        fitting = [i for i in rest if bool(norm(total + ties[i], q) >= (size + sizes[i]) * (1 - 1e-12))]
        most = 0
        for place, i in enumerate(fitting):
            if len(fitting) - place > most:
                most = max(most, 1 + grow(total + ties[i], size + sizes[i], fitting[place + 1 :]))
        return most

    return grow(torch.zeros_like(ties[0]), sizes.new_zeros(()), list(range(len(ties))))
