"""The critical budget: the adversary's radius from which on the best linear softmax classifier is the constant one."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from isthmus._check import require, require_finite
from isthmus.data import Samples
from isthmus.theory.centre import weighted_centre
from isthmus.theory.directions import bad_budget_of_data
from isthmus.theory.means import ClassMeans, means_of
from isthmus.theory.norms import aligned, dual_order, norm


@dataclass(frozen=True, eq=False)
class CriticalBudget:
    """The critical budget of a data set, with what proves it. Lengths in units of the input; tensors in float64."""

    radius: float
    """From this eps on W = 0 minimises the mean adversarial loss; an upper bound by `centre`, met up to `gap`."""
    gap: float
    """How much larger `radius` is than the budget up to which `W` leads downhill; rounding, or what a solver left."""
    centre: Tensor
    """(d,) c with radius = max_k ||mu_k - scale_k c||_p, scale_k = 1 / (K pi_k), or 1 with a free bias."""
    distances: Tensor
    """(K,) those norms; -inf for a class that plays no part because it has no samples."""
    classes: tuple[int, ...]
    """The classes that decide: moving the mean of any other by little changes nothing."""
    W: Tensor
    """(K, d) of length 1, a direction in which the loss falls at every eps < radius - gap; zero where the radius is."""
    p: float
    bias: bool


def point_budget(x: Tensor, p: float = inf) -> Tensor:
    """Return the critical budget of each point x (N, ...), ||x||_p, (N,) in float64.

    There x' = 0 becomes possible, and every classifier without bias gives it the loss log K.

    >>> point_budget(torch.tensor([[3.0, -4.0]]), 2).item()
    5.0
    """
    dual_order(p)
    require_finite({"x": x}, "points")
    return norm(x.detach().double().flatten(1), p)


def critical_budget(data: Samples | ClassMeans, p: float = inf, *, bias: bool = False) -> CriticalBudget:
    """Return the eps from which on W = 0 minimises the mean adversarial cross-entropy of a linear softmax over a data set.

    Below it W = 0 is no minimum: `W` of the result leads downhill. With class means mu_k and shares pi_k of K classes it is

        without bias:      min over c of max_k ||mu_k - c / (K pi_k)||_p
        with a free bias:  min over c of max_k ||mu_k - c||_p,

    the least radius of a ball around all class means, which for balanced classes is both. It depends on nothing else of the data,
    and there is no box of valid inputs: inside one an adversary can do less, and the collapse comes later. A class without samples
    forces c = 0 without bias (then it is max_k ||mu_k||_p, and for one point ||x||_p), and plays no part with one.

    data: samples as a model sees them (uint8 divided by 255), flattened; or their class means. p: 1, 2 or inf. bias: whether the
    classifier has a bias, trained with W; at the collapse it is log pi, and without it, or with balanced classes, the scores are all 0.
    Cost: closed form for inf; for 1 and 2 small programmes over the classes, certified by `gap`.
    Liu et al. 2020 (section 3) show that such a budget exists for a point; value, data sets, shares and bias are ours.
    Raises InputError for another p.

    >>> means = ClassMeans(torch.tensor([[0.0, 0.25], [1.0, 0.5]]), torch.tensor([0.5, 0.5]))
    >>> critical_budget(means).radius
    0.5
    """
    require(p in (1, 2, inf), "p", "be 1, 2 or inf", p)
    known = means_of(data)
    here = known.present
    scale = torch.ones_like(known.shares) if bias else 1 / (len(known.shares) * known.shares)
    mu, o = known.means[here], scale[here]
    if bool(here.all()) or bias:
        found = weighted_centre(mu / o[:, None], o, p)
        centre, forces = found.point, found.forces
    else:
        centre, forces = torch.zeros_like(mu[0]), aligned(mu, dual_order(p))
        forces[norm(mu, p) < norm(mu, p).amax()] = 0
    distances = torch.full_like(known.shares, -inf)
    distances[here] = norm(mu - o[:, None] * centre, p)
    W = _classifier(known, forces)
    radius = float(distances.amax())
    return CriticalBudget(
        radius=radius,
        gap=radius - bad_budget_of_data(W, known, p, bias=bias),
        centre=centre,
        distances=distances,
        classes=tuple(here.nonzero().flatten()[forces.abs().amax(1) > 0].tolist()),
        W=W,
        p=p,
        bias=bias,
    )


def _classifier(known: ClassMeans, forces: Tensor) -> Tensor:
    """Return W of length 1 along which the forces (of the classes present) act: w_k = a_k / pi_k, its rows summing to zero.

    Without classes that are absent, or with a bias, the forces balance, so that u_k = -K w_k; else the absent ones take the rest.
    """
    W = torch.zeros_like(known.means)
    W[known.present] = forces / known.shares[known.present][:, None]
    if not bool(known.present.all()):
        W[~known.present] = -W.sum(0) / (~known.present).sum()
    return W / W.norm().clamp_min(1e-300)
