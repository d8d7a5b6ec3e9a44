"""From one model to another layer by layer, retrained on the way: the low-loss path finding of Tian et al. 2025."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isthmus._check import InputError, require, unknown
from isthmus.evaluate import evaluating
from isthmus.geometry.bases import Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Affine
from isthmus.layout import Layout, placement
from isthmus.randomness import seed_of
from isthmus.training.band import Losses
from isthmus.training.grow import GuidedTrain
from isthmus.training.plan import Plan
from isthmus.training.record import joined, taken
from isthmus.training.session import Fitted, Session

Walk = Literal["across", "inward-first"]
ROUND = 10  # steps over which a loss is held against the one to reach; of CCT7 in the authors' code
INSIDE = 3  # points of each piece at which the loss is looked at
MOST_INSIDE = 15  # of a piece that takes the place of several
RELEASED = 0.5  # share of the ticks by which the last layer has been released; in the authors' ResNet18 five eighths


def flow_order(module: nn.Module, x: Tensor) -> tuple[tuple[str, ...], ...]:
    """Return the names of the parameters by layer, in the order in which a forward pass of `x` reaches the layers.

    Parameters of no layer that is called come last. The module's mode and buffers are as before afterwards.
    """
    seen: list[tuple[str, ...]] = []

    def reached(names: tuple[str, ...], _module: nn.Module, _inputs: object) -> None:
        if names not in seen:
            seen.append(names)

    known = [name for name, _ in module.named_parameters()]
    hooks: list[RemovableHandle] = []
    for prefix, layer in module.named_modules():
        own = [f"{prefix}.{name}" if prefix else name for name, _ in layer.named_parameters(recurse=False)]
        if names := tuple(name for name in own if name in known):
            hooks.append(layer.register_forward_pre_hook(partial(reached, names)))
    try:
        with evaluating(module), torch.no_grad():
            device, dtype = placement(module)
            module(x.to(device, dtype))
    finally:
        for hook in hooks:
            hook.remove()
    rest = tuple(name for name in known if not any(name in group for group in seen))
    return (*seen, rest) if rest else tuple(seen)


@dataclass(frozen=True)
class Route:
    """How to walk: so many ticks, the layers in the order of their release, and where the loss of a path is looked up.

    walk: straight `across` to the second model, or `inward-first`, towards the origin until no matrix is spread wider than there.
    """

    ticks: int
    layers: Sequence[Sequence[str]]
    losses: Losses
    walk: Walk = "across"


def walk(
    bridge: Bridge, plan: Plan, train: GuidedTrain, route: Route, *, seed: int, session: Session | None = None
) -> Fitted:
    """Return a chain from the first model P to the second, D, along which training has kept the loss low.

    At each tick the tensors W of the layers released so far move by (D - W) / (ticks left), so that all arrive with the last tick; layers
    are released one by one over the first half of the ticks. Then the mean and the direction of every weight matrix stay and its variance
    becomes v,

        W <- mean + sqrt(v / var) (W - mean),    v between those of both ends by the share of the way that is behind,

    and all layers are trained by an equal part of the plan's steps at its constant rate, and corrected again. With `plan.until` a tick ends
    as soon as the loss over a round, `plan.log_every` steps or 10, is below that, and the ticks after it share what is left.

    `inward-first` begins with ticks towards the origin, as many as make those of both parts equally long: every matrix of a standard
    deviation above that of D, s_P > s_D, is scaled to s_P + (share of these ticks) (s_D - s_P) before and after training. The others stay.

    Points that the path can do without are left out: as long as the training loss on the shortcut is not above the highest of the whole
    path, looked at on 3 points of each piece. Tian et al. 2025 (algorithm 1) step by lengths given beforehand, train until the loss is
    below a threshold, take v from the start, and go towards the origin first (M2O) where the weight decays of the ends differ.

    Raises InputError for anything but a straight line between two models, for an unknown walk, and for fewer steps than ticks.
    """
    session = session or Session()
    _require_walkable(bridge, plan, route)
    start, end = bridge.row(0), bridge.row(1)
    first = _inward_ticks(bridge.layout, start, end, route)
    journey = _Journey(bridge, plan, train, seed, session, route.ticks - 1)
    session.tell(
        f"walking in {route.ticks} ticks through {len(route.layers)} layers, {first} of them towards the origin"
    )
    for tick in range(first):
        journey.go(_Inward(bridge.layout, start, end, first), tick)
    across = _Across(bridge.layout, journey.points[-1], end, route.layers, route.ticks - first)
    for tick in range(across.ticks - 1):
        journey.go(across, tick)
    fits = journey.fits
    return replace(
        fits[-1],
        bridge=_thinned(bridge, torch.stack([*journey.points, end]), route.losses),
        history=joined([one.history for one in fits], plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        averaged=None,
        snapshots=(),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


def _require_walkable(bridge: Bridge, plan: Plan, route: Route) -> None:
    if route.walk not in get_args(Walk):
        raise unknown("walk", str(route.walk), get_args(Walk))
    require(route.ticks >= 2, "ticks", "be at least 2", route.ticks)
    require(plan.steps >= route.ticks - 1, "steps", f"be at least 1 a tick, {route.ticks - 1}", plan.steps)
    if bridge.free.shape[0] > 0 or bridge.basis.num_points != 2:
        raise InputError(f"`bridge` should be the straight line between two models. Found {bridge.basis}.")


class _Leg(Protocol):
    """A part of the way."""

    def advance(self, theta: Tensor, tick: int) -> None:
        """Move a flat vector on, in place."""
        ...

    def correct(self, theta: Tensor, tick: int) -> None:
        """Give the weight matrices of a flat vector the spread that belongs to where it is, in place. Vectors stay."""
        ...


@dataclass(frozen=True, eq=False)
class _Across:
    """The way from one flat vector to another, tensor by tensor."""

    layout: Layout
    start: Tensor
    end: Tensor
    layers: Sequence[Sequence[str]]
    ticks: int

    def advance(self, theta: Tensor, tick: int) -> None:
        """Move the tensors of the layers released so far by their share of what is before them."""
        apart = RELEASED * self.ticks / max(1, len(self.layers) - 1)
        moving = {name for i, names in enumerate(self.layers) if i * apart <= tick for name in names}
        for name, place in zip(self.layout.names, self.layout.slices, strict=True):
            if name in moving:
                theta[place] += (self.end[place] - theta[place]) / (self.ticks - tick)
        self.correct(theta, tick)

    def correct(self, theta: Tensor, tick: int) -> None:
        """Give every weight matrix the variance that belongs to where it is between the ends."""
        for shape, place in zip(self.layout.shapes, self.layout.slices, strict=True):
            if len(shape) < 2:
                continue
            one, two, own = (vector[place] for vector in (self.start, self.end, theta))
            whole, left = float((two - one).norm()), float((two - own).norm())
            done = min(max(1 - left / whole, 0.0), 1.0) if whole > 0 else 1.0
            wanted = (1 - done) * float(one.var()) + done * float(two.var())
            if (held := float(own.var())) > 0:
                theta[place] = own.mean() + (wanted / held) ** 0.5 * (own - own.mean())


@dataclass(frozen=True, eq=False)
class _Inward:
    """The way towards the origin, of the matrices that are spread wider at the start than at the end."""

    layout: Layout
    start: Tensor
    end: Tensor
    ticks: int

    def advance(self, theta: Tensor, tick: int) -> None:
        """Scale those matrices to the spread of the tick."""
        self.correct(theta, tick)

    def correct(self, theta: Tensor, tick: int) -> None:
        """Scale those matrices to the spread of the tick."""
        for shape, place in zip(self.layout.shapes, self.layout.slices, strict=True):
            if len(shape) < 2:
                continue
            one, two, own = (float(vector[place].std()) for vector in (self.start, self.end, theta))
            if two < one and own > 0:
                theta[place] *= (one + (tick + 1) / self.ticks * (two - one)) / own


def _inward_ticks(layout: Layout, start: Tensor, end: Tensor, route: Route) -> int:
    """Return how many ticks lead towards the origin: the share of the length, one at least, two left to cross; 0 where none leads there."""
    if route.walk == "across":
        return 0
    require(route.ticks >= 3, "ticks", "be at least 3 to walk inward first", route.ticks)
    goal = start.clone()
    _Inward(layout, start, end, 1).correct(goal, 0)
    inward, rest = float((goal - start).norm()), float((end - goal).norm())
    if inward == 0:
        return 0
    return min(max(1, round(route.ticks * inward / (inward + rest))), route.ticks - 2)


@dataclass(eq=False)
class _Journey:
    """The points reached so far, and the trainings that led there. trainings: of the whole way."""

    bridge: Bridge
    plan: Plan
    train: GuidedTrain
    seed: int
    session: Session
    trainings: int
    fits: list[Fitted] = field(default_factory=list[Fitted])
    points: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        start = self.bridge.row(0)
        single = replace(
            self.bridge, basis=Affine(1), fixed=start[None][:0], free=start[None], fixed_index=(), names=()
        )
        self.single = replace(single, states={0: self.bridge.states[0]})
        self.points = [start]

    def go(self, leg: _Leg, tick: int) -> None:
        """Move on by a tick of a leg, train there, and correct what training has moved."""
        k = len(self.fits)
        moved = self.single.free[0].clone()
        leg.advance(moved, tick)
        own = self._plan(self.plan.steps - sum(taken(one.history) for one in self.fits), self.trainings - k)
        work = self.session.part(f"tick-{k + 1}")
        self.fits.append(self.train(self.single.with_free(moved[None]), own, seed_of(self.seed, "tick", k), work))
        arrived = self.fits[-1].bridge.free[0].clone()
        leg.correct(arrived, tick)
        self.single = self.fits[-1].bridge.with_free(arrived[None])
        self.points.append(arrived)

    def _plan(self, left: int, trainings: int) -> Plan:
        """Return the plan of the next tick, of `left` steps for so many of them."""
        plan = self.plan
        often = plan.log_every or (None if plan.until is None else ROUND)
        parts = {"steps": -(-left // trainings), "log_every": often}
        return plan.model_copy(update={**parts, "schedule": "constant", "warmup": 0.0, "resets": ()})


def _thinned(bridge: Bridge, points: Tensor, losses: Losses) -> Bridge:
    """Return the chain through as few of the points as the highest loss of the whole path allows, knots at its shares of length."""
    whole = chain_through(bridge, points)
    highest = float(losses(whole, looked_at(whole)).max())
    kept, points = [0], whole.points
    for j in range(2, len(points)):
        piece = chain_through(bridge, points[[kept[-1], j]])
        t = looked_at(piece, min(INSIDE * (j - kept[-1]), MOST_INSIDE))
        if float(losses(piece, t).max()) > highest:
            kept.append(j - 1)
    return chain_through(bridge, points[[*kept, len(points) - 1]])


def chain_through(bridge: Bridge, points: Tensor) -> Bridge:
    """Return the chain through points (n, D), of which the first and the last keep what `bridge` knows of its ends, knots by length."""
    final = points[-1]
    different = [
        points[0],
        *(b for a, b in pairwise(points[:-1]) if not torch.equal(a, b) and not torch.equal(b, final)),
    ]
    points = torch.stack([*different, final])
    lengths = points.diff(dim=0).double().norm(dim=1)
    reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    last = len(points) - 1
    total = float(reached[-1])
    knots = (0.0, *((reached[1:-1] / total).tolist()), 1.0) if total > 0 else ()
    basis = Chain(len(points), knots)
    states = {0: bridge.states[0], last: bridge.states[1]}
    return replace(
        bridge, basis=basis, fixed=points[[0, last]], free=points[1:-1], fixed_index=(0, last), states=states
    )


def looked_at(path: Bridge, inside: int = INSIDE) -> Tensor:
    """Return the knots of a chain and `inside` points between each two of them."""
    knots = torch.tensor(path.basis.breaks[0], dtype=torch.float64)
    shares = torch.arange(inside + 1, dtype=torch.float64) / (inside + 1)
    inner = [a + shares * (b - a) for a, b in pairwise(knots)]
    return torch.cat([*inner, knots[-1:]])
