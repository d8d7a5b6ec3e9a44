"""The adversarial loss of linear classifiers: closed where there are two classes, bounded and climbed where there are more.

g_eps(x, W) = max over ||x' - x||_p <= eps of the cross-entropy of the scores W x', in nats, no box of valid inputs; 1/p + 1/q = 1.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import require
from isthmus.losses import cross_entropy
from isthmus.theory.case import Case, distances
from isthmus.theory.linear import Label, worst_margins
from isthmus.theory.norms import aligned, dual_order, norm, require_budget

_CHUNK = 1 << 24  # numbers held at once


@dataclass(frozen=True, eq=False)
class BinaryLoss:
    """The adversarial logistic loss of each point, float64."""

    loss: Tensor
    """(...) nats."""
    gradient: Tensor
    """(..., d) a gradient in w; at a kink the subgradient that belongs to `worst`."""
    worst: Tensor
    """(..., d) an x' that attains the loss; coordinates that w does not see stay."""


@dataclass(frozen=True, eq=False)
class LossBounds:
    """Two numbers (...) in nats for each point, lower <= upper, in float64."""

    lower: Tensor
    upper: Tensor


def binary_loss(w: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> BinaryLoss:
    """Return g_eps(x, w) = log(1 + exp(-y w.x + eps ||w||_q)), its gradient in w and the worst input x' = x - y eps s.

    s is the steepest direction of the ball, <w, s> = ||w||_q, so the gradient is -sigma(-y w.x + eps ||w||_q) y x'. Kinks: where some
    w_i = 0 for p = inf, w = 0 for p = 2, several largest |w_i| for p = 1; there s is sign with sign 0 = 0, zero, or the mean of the
    candidates.

    w: (d,). x: (N, d) or (d,). y: (N,) labels -1 or 1, or one. A classifier of two classes with rows w_0, w_1 is w = w_1 - w_0.
    Raises InputError for other labels, sizes that do not fit, a negative budget, and p below 1.

    >>> found = binary_loss(torch.tensor([2.0]), torch.tensor([1.0]), 1, 1.0)
    >>> bool(torch.isclose(found.loss, torch.tensor(2.0, dtype=torch.float64).log()))
    True
    """
    require_budget(eps)
    labels = torch.as_tensor(y)
    require(bool((labels.abs() == 1).all()), "y", "hold labels -1 and 1", f"{labels.unique().tolist()}")
    case = Case.of(torch.stack([-w, w]), x, (labels > 0).long())
    held, sign = case.W[1], labels.double().reshape(-1, 1)
    worst = case.x - sign * eps * aligned(held, p)
    exponent = -(sign[:, 0] * (case.x @ held)) + eps * norm(held, dual_order(p))
    gradient = -exponent.sigmoid()[:, None] * sign * worst
    size = (*case.shape, len(held))
    return BinaryLoss(functional.softplus(exponent).reshape(case.shape), gradient.reshape(size), worst.reshape(size))


def loss_bounds(W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf) -> LossBounds:
    """Return log(1 + max_j e^{m_j}) <= g_eps(x, W) <= log(1 + sum_{j != y} e^{m_j}), m_j = (w_j - w_y).x + eps ||w_j - w_y||_q.

    The worst case of one class alone, and of every class at once. They meet for two classes, and for more are less than log(K - 1)
    apart. Ours. W: (K, d). x: (N, d) or (d,). y: (N,) labels or one.
    """
    exponents = -worst_margins(W, x, y, eps, p)  # -inf at the label
    upper = torch.cat([torch.zeros_like(exponents[..., :1]), exponents], -1).logsumexp(-1)
    return LossBounds(functional.softplus(exponents.amax(-1)), upper)


def first_order_bounds(
    W: Tensor, x: Tensor, y: Label, eps: float, p: float = inf, *, shares: Tensor | None = None
) -> LossBounds:
    """Return l + s <= g_eps(x, W) <= l + s + R^2 / 8, tight to first order at W = 0, for the scores W x' + log pi.

    l = -log pi_y is the loss at W = 0, s = v.x + eps ||v||_q with v = sum_j pi_j w_j - w_y the slope there (below by Jensen), and
    R = max_{i,j} (w_i - w_j).x + eps ||w_i - w_j||_q the largest range of the scores within the ball (above by Hoeffding's lemma).
    Ours. The lower bound shows that nothing beats W = 0 from the critical budget on, the upper one that something does below it.

    shares: (K,) pi, positive, summing to 1; the bias is its logarithm. Without, pi_j = 1 / K and there is no bias.
    """
    q = dual_order(p)
    require_budget(eps)
    case = Case.of(W, x, y)
    prior = torch.full_like(case.W[:, 0], 1 / len(case.W)) if shares is None else shares.detach().double()
    fits = tuple(prior.shape) == (len(case.W),) and bool((prior > 0).all()) and abs(float(prior.sum()) - 1) < 1e-9
    require(fits, "shares", f"be {len(case.W)} positive numbers that sum to 1", f"{prior.tolist()}")
    v = (prior @ case.W - case.W)[case.y]
    lower = -prior.log()[case.y] + (v * case.x).sum(-1) + eps * norm(v, q)
    scores = case.x @ case.W.T
    reach = eps * distances(case.W, q)
    ranges = torch.stack([(scores[:, k, None] - scores + reach[k]).amax(1) for k in range(len(case.W))]).amax(0)
    return LossBounds(lower.reshape(case.shape), (lower + ranges.square() / 8).reshape(case.shape))


def exact_loss_l1(W: Tensor, x: Tensor, y: Label, eps: float) -> Tensor:
    """Return g_eps(x, W) for p = 1, (...): the largest loss at the 2 d vertices x +- eps e_i.

    The loss is convex in x', so it is largest at a vertex, and those of the L1 ball are few. (For p = inf they are 2^d.)
    """
    require_budget(eps)
    case = Case.of(W, x, y)
    moves = eps * torch.cat([case.W.T, -case.W.T])  # (2 d, K): what each vertex adds to the scores
    most = list[Tensor]()
    for part, labels in zip(*(held.split(max(1, _CHUNK // moves.numel())) for held in (case.x, case.y)), strict=True):
        scores = (part @ case.W.T)[:, None] + moves
        losses = cross_entropy(scores.flatten(0, 1), labels.repeat_interleave(len(moves)))
        most.append(losses.reshape(len(part), -1).amax(1))
    return torch.cat(most).reshape(case.shape)


@dataclass(frozen=True)
class Climb:
    """An adversary of linear classifiers: maximises the linearised loss `steps` times, x'_{n+1} = x + eps s(grad g(x'_n)).

    The loss is convex in x', so it never falls from step to step, and there is no step size. The first step linearises at W = 0,
    where the softmax is that of the bias (uniform without one): it is exact to first order in W. For two classes it is exact.
    """

    eps: float
    p: float = inf
    steps: int = 3

    def __post_init__(self) -> None:
        require_budget(self.eps)
        dual_order(self.p)
        require(self.steps >= 1, "steps", "be at least 1", self.steps)

    @torch.no_grad()
    def __call__(self, W: Tensor, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x' (N, d) in the ball, in the dtype of x, for W (K, d), x (N, d), y (N,) and bias (K,), which are not checked."""
        base = torch.zeros_like(W[:, 0]) if bias is None else bias
        own = functional.one_hot(y, len(W)).to(W.dtype)
        points = x
        for step in range(self.steps):
            share = base.softmax(0) if step == 0 else (points @ W.T + base).softmax(1)
            points = x + self.eps * aligned((share - own) @ W, self.p)
        return points
