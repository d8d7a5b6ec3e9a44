"""Bad directions: weights along which the adversarial loss of a linear classifier does not fall when it leaves W = 0.

At W = 0 every x' is worst, so the slope of g_eps along W is a maximum over S_eps(x) of a linear function (Danskin 1966) and closed:
(u.x + eps ||u||_q) / K with u = sum_j w_j - K w_y. The loss is convex in W, so that slope decides. With a free bias the origin is W = 0,
b = log pi (class shares pi), where the slope is v.x + eps ||v||_q with v = sum_j pi_j w_j - w_y and the part of the bias sums to zero.
Bad: the slope is not negative along W nor along -W. The definition is Liu et al. 2020's (section 3), the closed forms are ours.
"""

from math import inf

from torch import Tensor

from isthmus._check import require, require_finite
from isthmus.data import Samples
from isthmus.theory.case import Case
from isthmus.theory.linear import Label
from isthmus.theory.means import ClassMeans, means_of
from isthmus.theory.norms import dual_order, norm, require_budget


def bad_budget(W: Tensor, x: Tensor, y: Label, p: float = inf) -> Tensor:
    """Return the smallest eps from which on W is a bad direction of each point, |u.x| / ||u||_q, (...); 0 where u = 0.

    It is at most ||x||_p, whatever W.
    """
    case = Case.of(W, x, y)
    u = case.W.sum(0) - len(case.W) * case.W
    size = norm(u, dual_order(p))[case.y]
    slope = (u[case.y] * case.x).sum(-1).abs()
    return (slope / size.where(size > 0, 1)).masked_fill(size == 0, 0).reshape(case.shape)


def in_bad_directions(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> Tensor:
    """Return for each point whether W is in T_eps = {W : 0 in argmin over gamma of g_eps(x, gamma W)}, boolean (...).

    Decided by |u.x| <= eps ||u||_q; T_eps grows with eps and is the whole space from eps = ||x||_p on, where W = 0 minimises g_eps.
    W: (K, d), no bias. x: (N, d) or (d,). y: (N,) labels or one. eps: in units of the input. p: order of the norm, at least 1.
    Raises InputError as :func:`~isthmus.theory.linear.in_version_space` does.

    >>> import torch
    >>> W, x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0.5, 9.0])
    >>> [bool(in_bad_directions(W, x, 0, eps)) for eps in (0.49, 0.5)]
    [False, True]
    """
    require_budget(eps)
    case = Case.of(W, x, y)
    u = case.W.sum(0) - len(case.W) * case.W
    slope = (u[case.y] * case.x).sum(-1).abs()
    return (slope <= eps * norm(u, dual_order(p))[case.y]).reshape(case.shape)


def bad_budget_of_data(W: Tensor, data: Samples | ClassMeans, p: float = inf, *, bias: bool = False) -> float:
    """Return the smallest eps from which on W is a bad direction of the mean loss over a data set; 0 where all rows of W are equal.

    |sum_k pi_k v_k.mu_k| / sum_k pi_k ||v_k||_q with v_k = sum_j w_j - K w_k, or with a free bias v_k = sum_j pi_j w_j - w_k.
    Its maximum over W is the critical budget. W: (K, d). bias: whether the classifier has a bias that is trained with W.
    """
    slope, size = _slopes(W, means_of(data), p, bias)
    return slope / size if size > 0 else 0.0


def data_in_bad_directions(
    W: Tensor, data: Samples | ClassMeans, eps: float, p: float = inf, *, bias: bool = False
) -> bool:
    """Return whether W is a bad direction of the mean adversarial loss over a data set at the budget eps."""
    require_budget(eps)
    slope, size = _slopes(W, means_of(data), p, bias)
    return slope <= eps * size


def _slopes(W: Tensor, data: ClassMeans, p: float, bias: bool) -> tuple[float, float]:
    """Return |sum_k pi_k v_k.mu_k| and sum_k pi_k ||v_k||_q, both relative to the length of W, so that no scale of it underflows."""
    found = f"shape {tuple(W.shape)}"
    require(W.shape == data.means.shape, "W", f"have shape {tuple(data.means.shape)}, as the class means", found)
    require_finite({"W": W}, "classifier")
    held = W.detach().double()
    held = held / held.abs().amax().clamp_min(1e-300)
    v = data.shares @ held - held if bias else held.sum(0) - len(held) * held
    slope = (data.shares * (v * data.means).sum(-1)).sum().abs()
    return float(slope), float(data.shares @ norm(v, dual_order(p)))
