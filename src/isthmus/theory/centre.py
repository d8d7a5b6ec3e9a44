"""The weighted Chebyshev centre: the point whose largest weighted distance to given points is least, with forces that prove it.

For points z_k and weights o_k > 0, the radius is r = min over t of max_k o_k ||t - z_k||_p. By Lagrange duality
r = max of sum_k <a_k, o_k z_k> / sum_k ||a_k||_q over forces a_k (d,) that balance, sum_k o_k a_k = 0: each t bounds r from above, each
set of balanced forces from below.
"""

from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize, nnls
from torch import Tensor

from isthmus._check import require

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Solution = tuple[Array, Array]
_CUTS = 2000
_EXACT = 1e-13  # relative: below this lies the rounding of float64


@dataclass(frozen=True, eq=False)
class Centre:
    """point: (d,). forces: (K, d), balanced, zero for points that do not matter."""

    point: Tensor
    forces: Tensor


def weighted_centre(points: Tensor, weights: Tensor, p: float) -> Centre:
    """Return the weighted Chebyshev centre of points (K, d) with weights (K,) in the norm of order p, and forces that prove it.

    inf: coordinates part, and on a line two points decide: r = max over k, l of |z_k - z_l| / (1 / o_k + 1 / o_l), in closed form.
    1: cutting planes over shares of the points (Kelley 1960), for which the best t is a weighted median in each coordinate; the
    function is piecewise linear, so it ends.
    2: the smallest enclosing ball in the span of the points by sequential quadratic programming (Kraft 1988), and forces by
    non-negative least squares (Lawson and Hanson 1974) on the points at the rim.
    Raises InputError for another p.
    """
    require(p in (1, 2, inf), "p", "be 1, 2 or inf", p)
    z, o = points.double().cpu().numpy(), weights.double().cpu().numpy()
    solve = {1: _by_cuts, 2: _ball, inf: _by_coordinate}[p]
    point, forces = solve(z, o) if len(z) > 1 else (z[0], np.zeros_like(z))
    return Centre(torch.from_numpy(point), torch.from_numpy(forces))


def _by_coordinate(z: Array, o: Array) -> Solution:
    """Return the exact centre for p = inf; two forces, on the coordinate that decides."""
    best, first, second = np.full(z.shape[1], -1.0), np.zeros(z.shape[1], int), np.zeros(z.shape[1], int)
    for k in range(len(z)):
        ratios = (z[k] - z) / (1 / o[k] + 1 / o)[:, None]
        other = ratios.argmax(0)
        ratio = ratios[other, np.arange(z.shape[1])]
        better = ratio > best
        best, first, second = np.where(better, ratio, best), np.where(better, k, first), np.where(better, other, second)
    across = np.arange(z.shape[1])
    point = (o[first] * z[first, across] + o[second] * z[second, across]) / (o[first] + o[second])
    decides, forces = int(best.argmax()), np.zeros_like(z)
    high, low = first[decides], second[decides]
    if high != low:
        forces[high, decides], forces[low, decides] = 1 / o[high], -1 / o[low]
    return point, forces


def _by_cuts(z: Array, o: Array) -> Solution:
    """Return the centre for p = 1 by cutting planes on shares s (K,): max over s of sum_j min over t_j of sum_k s_k o_k |t_j - z_kj|."""
    order = z.argsort(0)
    shares, best, kept = np.full(len(z), 1 / len(z)), -inf, np.zeros(len(z))
    medians, costs, mix = list[Array](), list[Array](), np.ones(1)
    scale = max(float((o[:, None] * np.abs(z - np.median(z, 0))).sum(1).max()), 1e-300)
    for _ in range(_CUTS):
        t = z[_median(order, shares * o), np.arange(z.shape[1])]
        cost = o * np.abs(z - t).sum(1) / scale
        medians.append(t)
        costs.append(cost)
        if shares @ cost > best:
            best, kept = float(shares @ cost), shares
        upper, shares, mix = _master(np.array(costs))
        if upper - best <= _EXACT * upper:
            break
    return mix @ np.array(medians), _median_forces(z, o, kept, order)


def _master(costs: Array) -> tuple[float, Array, Array]:
    """Return the least upper bound that the cuts (n, K) leave, the shares (K,) that meet it, and the weights (n,) of the cuts."""
    cuts, count = costs.shape
    found = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.hstack([-costs, np.ones((cuts, 1))]),
        b_ub=np.zeros(cuts),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * count + [(None, None)],
        method="highs-ds",
    )
    mix = np.maximum(-np.asarray(found.ineqlin.marginals), 0)
    shares = np.maximum(np.asarray(found.x)[:-1], 0)
    return -float(cast(float, found.fun)), shares / shares.sum(), mix / mix.sum()


def _median(order: Indices, mass: Array) -> Indices:
    """Return for each coordinate which point is the weighted median, (d,)."""
    passed = mass[order].cumsum(0)
    place = (passed >= passed[-1] / 2).argmax(0)
    return order[place, np.arange(order.shape[1])]


def _median_forces(z: Array, o: Array, shares: Array, order: Indices) -> Array:
    """Return forces of at most `shares` in each coordinate, up for points above the median and down for those below."""
    middle, across = _median(order, shares * o), np.arange(z.shape[1])
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(len(z))[:, None], 0)
    forces = np.sign(place - place[middle, across]) * shares[:, None]
    forces[middle, across] = (
        -(o @ forces) / o[middle]
    )  # the median takes what balances; by its definition no more than its share
    return forces


def _ball(z: Array, o: Array) -> Solution:
    """Return the centre for p = 2: min R over (t, R) with o_k^2 ||t - z_k||^2 <= R."""
    base = o @ z / o.sum()
    scale = float((o * np.linalg.norm(z - base, axis=1)).max())
    if scale == 0:
        return base, np.zeros_like(z)
    u, s, axes = np.linalg.svd((z - base) / scale, full_matrices=False)
    inside = s > _EXACT * s[0]
    flat, axes = (u * s)[:, inside], axes[inside]
    goal = np.append(np.zeros(flat.shape[1]), 1.0)
    found = minimize(
        lambda v: v[-1],
        goal.copy(),
        jac=lambda _: goal,
        constraints={
            "type": "ineq",
            "fun": lambda v: v[-1] - (o**2) * ((flat - v[:-1]) ** 2).sum(1),
            "jac": lambda v: np.hstack([2 * (o**2)[:, None] * (flat - v[:-1]), np.ones((len(o), 1))]),
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-15},
    )
    t = np.asarray(found.x)[:-1]
    return base + scale * t @ axes, _rim_forces(flat - t, o) @ axes


def _rim_forces(arms: Array, o: Array) -> Array:
    """Return forces along the arms z_k - t of the points farthest away, non-negative multiples that balance."""
    far = o * np.linalg.norm(arms, axis=1)
    rim = far >= far.max() * (1 - 1e-5)
    held = np.zeros(len(o))
    balance = np.vstack([((o**2)[:, None] * arms)[rim].T, o[rim][None] / o[rim].mean()])
    held[rim] = nnls(balance, np.append(np.zeros(arms.shape[1]), 1.0))[0]
    forces = (held * o)[:, None] * arms
    # What rounding left over is taken by those that pull.
    return forces - np.outer(held * o, o @ forces) / max(float(held @ o**2), 1e-300)
