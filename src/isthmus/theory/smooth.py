"""How smooth the adversarial loss is in the weights, and the example in one dimension that shows the jump to be real.

Liu et al. 2020 (section 3): where the gradient in theta of a loss g changes by at most L_thth per unit of theta and L_thx per unit of x,
that of g_eps = max over S_eps(x) of g changes by at most L_thth ||theta_1 - theta_2|| + 2 eps L_thx. The second part does not vanish as
the weights come together: the worst input jumps. The example is g_eps(theta) = log(1 + exp(theta + eps |theta|)), logistic regression
on the one point x = 1 with label -1.
"""

from dataclasses import dataclass
from math import inf

from torch import Tensor
from torch.nn import functional

from isthmus._check import require
from isthmus.theory.norms import require_budget

MIXED_AT_ZERO = 0.5
"""|d/dx d/dtheta log(1 + exp(theta x))| at theta = 0, for every x: L_thx of the example where its gradient jumps."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """g_eps at each theta, in nats, and its derivatives from the left and the right, in the dtype of theta; equal but at 0."""

    loss: Tensor
    left: Tensor
    right: Tensor


def sketch(theta: Tensor, eps: float) -> Sketch:
    """Return g_eps(theta) = log(1 + exp(theta + eps |theta|)) and its one-sided derivatives, sigma(.) (1 -+ eps) either side of 0.

    Convex. Its minimiser is 0 for eps > 1; at eps = 1 every theta <= 0; below, it falls without end as theta goes to -infinity.

    >>> import torch
    >>> at = sketch(torch.tensor(0.0), 1.2)
    >>> round(at.left.item(), 6), round(at.right.item(), 6)
    (-0.1, 1.1)
    """
    require_budget(eps)
    exponent = theta + eps * theta.abs()
    slope = exponent.sigmoid()
    left = slope * (1 + eps * (theta > 0).to(theta.dtype) - eps * (theta <= 0).to(theta.dtype))
    right = slope * (1 + eps * (theta >= 0).to(theta.dtype) - eps * (theta < 0).to(theta.dtype))
    return Sketch(functional.softplus(exponent), left, right)


def sketch_jump(eps: float) -> float:
    """Return the jump of the derivative of the example at 0: eps = 2 eps L_thx with L_thx = 1/2 there, so the constant 2 is tight.

    The tightness is ours. Over all theta and x' the mixed derivative sigma(z) + z sigma'(z), z = theta x', reaches 1.1; only its value
    where the two weights meet enters the jump.
    """
    require_budget(eps)
    return 2 * eps * MIXED_AT_ZERO


def gradient_change_bound(distance: float, eps: float, *, in_theta: float, in_x: float) -> float:
    """Return the theorem's bound of ||grad g_eps(theta_1) - grad g_eps(theta_2)||: in_theta * distance + 2 eps in_x.

    distance: ||theta_1 - theta_2||. in_theta, in_x: the Lipschitz constants L_thth and L_thx of the gradient of g, over S_eps(x).
    """
    require_budget(eps)
    for name, value in {"distance": distance, "in_theta": in_theta, "in_x": in_x}.items():
        require(0 <= value < inf, name, "be finite and at least 0", value)
    return in_theta * distance + 2 * eps * in_x


def stall_probability(gamma: float) -> float:
    """Return the paper's bound 4 / (gamma^2 - 2 gamma + 4) of P(||grad L_eps(theta_t)|| > gamma eps L_thx) under long SGD, gamma >= 2.

    For a constant step 1 / (L_thth sqrt(T)), T large, unbiased stochastic gradients of bounded variance; 1, so vacuous, at gamma = 2.
    Take it as the paper's claim: it has no term in the variance of the noise, although the jump 2 eps L_thx multiplies the length of a
    noisy step in the proof. What can be checked is its shape, a floor of the gradient norm that grows about linearly in eps.

    >>> [round(stall_probability(gamma), 3) for gamma in (2, 3, 4, 10)]
    [1.0, 0.571, 0.333, 0.048]
    """
    require(2 <= gamma < inf, "gamma", "be finite and at least 2", gamma)
    return 4 / (gamma * gamma - 2 * gamma + 4)
