"""Chains of pivots relaxed towards the path of least maximal loss: AutoNEB of Draxler et al. 2018."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.geometry.bases import Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.edit import insert
from isthmus.geometry.gram import gram
from isthmus.randomness import seed_of
from isthmus.training.grow import GuidedTrain
from isthmus.training.plan import Plan
from isthmus.training.record import joined
from isthmus.training.session import Fitted, Session

CYCLES = ((1, 1.0),) * 4 + ((2, 1.0),) * 2 + ((1, 0.1),) * 4 + ((1, 0.01),) * 4
"""Share of the steps, of 16, and of the learning rate in each cycle: 4 x 1000, 2 x 2000, 4 x 1000 and 4 x 1000 steps in the paper."""
BETWEEN = 9  # points of each piece at which the loss is compared with that of its pivots
EXCESS = 0.2  # of the range of losses, above which a piece gets another pivot
MOST = 2  # pivots inserted before a cycle
Losses = Callable[[Bridge, Tensor], Tensor]
"""Bridge, coordinates (k,) -> the training loss (k,) there."""


@dataclass(frozen=True)
class Band:
    """Lets each pivot of a chain follow its own loss across the chain, and spaces the pivots along it.

    The gradient g_i of the loss at pivot i loses its part along the tangent: g_i - <g_i, t_i> t_i, t_i the unit vector along
    p_{i+1} - p_{i-1} (Jonsson et al. 1998). Draxler et al. 2018 (section 3) take the piece towards the neighbour of higher loss, which asks
    for the losses of all pivots at every step. In place of springs the pivots are put back, after each step, to their shares of the length,
    which are the chain's knots.
    """

    def steer(self, bridge: Bridge, gradient: Tensor) -> None:
        """Give each pivot the gradient of its own loss, a share of the mean's until now, without its part along the chain."""
        gradient.mul_(len(gradient))
        for row, i in zip(gradient, bridge.free_index, strict=True):
            tangent = bridge.row(i + 1) - bridge.row(i - 1)
            length = tangent.norm()
            if float(length) > 0:
                tangent.div_(length)
                row.sub_(tangent, alpha=float(row @ tangent))

    def place(self, bridge: Bridge) -> None:
        """Move the pivots along the chain to their knots' shares of its length."""
        basis = bridge.basis
        assert isinstance(basis, Chain)
        weights = respacing(basis, gram(bridge))
        new = [_mixed(bridge, row) for row in weights[list(bridge.free_index)].tolist()]
        for row, value in zip(bridge.free, new, strict=True):
            row.copy_(value)


def respacing(basis: Chain, matrix: Tensor) -> Tensor:
    """Return the weights (n, n) over a chain's points of points on it, at the knots' shares of its length. matrix: its Gram matrix."""
    steps = matrix.diag()[1:] + matrix.diag()[:-1] - 2 * matrix.diag(1)
    reached = torch.cat([steps.new_zeros(1), steps.clamp_min(0).sqrt().cumsum(0)])
    if not float(reached[-1]) > 0:
        return torch.eye(basis.points, dtype=matrix.dtype)
    knots = torch.tensor(basis.knots, dtype=matrix.dtype)
    wanted = knots * reached[-1]
    piece = (torch.searchsorted(reached, wanted, right=True) - 1).clamp(0, basis.points - 2)
    share = ((wanted - reached[piece]) / (reached[piece + 1] - reached[piece])).nan_to_num(0).clamp(0, 1)
    rows = torch.arange(basis.points)
    weights = torch.zeros(basis.points, basis.points, dtype=matrix.dtype)
    weights[rows, piece], weights[rows, piece + 1] = 1 - share, share
    return weights


def _mixed(bridge: Bridge, weights: list[float]) -> Tensor:
    """Return one point on the chain; at most two weights differ from 0."""
    used = [(i, weight) for i, weight in enumerate(weights) if weight != 0]
    first, rest = used[0], used[1:]
    point = bridge.row(first[0]) * first[1]
    for i, weight in rest:
        point.add_(bridge.row(i), alpha=weight)
    return point


def relax(
    bridge: Bridge, plan: Plan, train: GuidedTrain, losses: Losses, *, seed: int, session: Session | None = None
) -> Fitted:
    """Return a chain relaxed in 14 cycles by the steps of one plan, with pivots inserted where its pieces rise above their ends.

    Shares of steps and rates: `CYCLES` (Draxler et al. 2018, section 4.1). Before each cycle but the first the loss is looked at on 9
    points of each piece; the two pieces that exceed the straight line between their pivots' losses by the most, and by more than a fifth
    of the range of losses on the chain, each get a pivot there. A step takes the gradient of one batch at every pivot. The history
    counts the steps through.

    Raises InputError for anything but a chain with free bends, and for fewer than 16 steps.
    """
    session = session or Session()
    if not isinstance(bridge.basis, Chain) or bridge.free.shape[0] == 0:
        raise InputError(f"`bridge` should be a chain with a free pivot to relax. Found {bridge.basis}.")
    require(plan.steps >= 16, "steps", "be at least 16, of which a cycle takes one or two", plan.steps)
    ends = [0, *(done * plan.steps // 16 for done in accumulate(share for share, _ in CYCLES))]
    parts = [high - low for low, high in pairwise(ends)]
    fits: list[Fitted] = []
    for k, (steps, (_, rate)) in enumerate(zip(parts, CYCLES, strict=True)):
        if k > 0:
            bridge = inserted(bridge, losses)
        pivots = bridge.free.shape[0]
        session.tell(f"cycle {k + 1} of {len(CYCLES)}: {pivots} pivots")
        own = plan.model_copy(
            update={
                "steps": steps,
                "learning_rate": plan.learning_rate * rate,
                "schedule": "constant",
                "warmup": 0.0,
                "resets": (),
                "sampling": "points",
                "num_points": pivots,
            }
        )
        work = session if k == len(CYCLES) - 1 else session.part(f"cycle-{k + 1}")
        fits.append(train(bridge, own, seed_of(seed, "cycle", k), work, Band()))
        bridge = fits[-1].bridge
    return replace(
        fits[-1],
        history=joined([one.history for one in fits], plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        averaged=None,
        snapshots=(),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


def inserted(bridge: Bridge, losses: Losses) -> Bridge:
    """Return the chain with up to two more pivots, where the loss between pivots rises above theirs by more than a fifth of the range."""
    basis = bridge.basis
    assert isinstance(basis, Chain)
    shares = torch.arange(BETWEEN + 1, dtype=torch.float64) / (BETWEEN + 1)
    knots = torch.tensor(basis.knots, dtype=torch.float64)
    t = torch.cat([(knots[:-1, None] + shares * knots.diff()[:, None]).flatten(), knots[-1:]])
    values = losses(bridge, t).double()
    own = values[:: BETWEEN + 1]
    straight = own[:-1, None] + shares * own.diff()[:, None]
    above = values[:-1].view(len(own) - 1, -1) - straight
    height, at = above[:, 1:].max(1)
    spread = float(values.max() - values.min())
    chosen = [int(i) for i in height.argsort(descending=True, stable=True)[:MOST] if float(height[i]) > EXCESS * spread]
    for i in sorted(chosen):
        bridge = insert(bridge, float(t[i * (BETWEEN + 1) + int(at[i]) + 1]))
    return bridge
