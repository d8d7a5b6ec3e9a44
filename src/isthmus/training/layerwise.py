"""From one model to another layer by layer, retrained on the way: the low-loss path finding of Tian et al. 2025."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isthmus._check import InputError, require
from isthmus.evaluate import evaluating
from isthmus.geometry.bases import Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Affine
from isthmus.layout import Layout, placement
from isthmus.randomness import seed_of
from isthmus.training.band import Losses
from isthmus.training.grow import GuidedTrain
from isthmus.training.plan import Plan
from isthmus.training.record import joined
from isthmus.training.session import Fitted, Session

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
    """How to walk: so many ticks, the layers in the order of their release, and where the loss of a path is looked up."""

    ticks: int
    layers: Sequence[Sequence[str]]
    losses: Losses


def walk(
    bridge: Bridge, plan: Plan, train: GuidedTrain, route: Route, *, seed: int, session: Session | None = None
) -> Fitted:
    """Return a chain from the first model P to the second, D, along which training has kept the loss low.

    At each tick the tensors W of the layers released so far move by (D - W) / (ticks left), so that all arrive with the last tick; layers
    are released one by one over the first half of the ticks. Then the mean and the direction of every weight matrix stay and its variance
    becomes v,

        W <- mean + sqrt(v / var) (W - mean),    v between those of both ends by the share of the way that is behind,

    and all layers are trained by an equal part of the plan's steps at its constant rate, and corrected again. Points that the path can do
    without are left out: as long as the training loss on the shortcut is not above the highest of the whole path, looked at on 3 points
    of each piece. Tian et al. 2025 (algorithm 1) step by lengths given beforehand, train until the loss is below a threshold, and take v
    from the start.

    Raises InputError for anything but a straight line between two models, and for fewer steps than ticks.
    """
    session = session or Session()
    require(route.ticks >= 2, "ticks", "be at least 2", route.ticks)
    require(plan.steps >= route.ticks - 1, "steps", f"be at least 1 a tick, {route.ticks - 1}", plan.steps)
    if bridge.free.shape[0] > 0 or bridge.basis.num_points != 2:
        raise InputError(f"`bridge` should be the straight line between two models. Found {bridge.basis}.")
    start, end = bridge.row(0), bridge.row(1)
    way = _Way(bridge.layout, start, end)
    release = [RELEASED * route.ticks * i / max(1, len(route.layers) - 1) for i in range(len(route.layers))]
    single = replace(bridge, basis=Affine(1), fixed=start[None][:0], free=start[None], fixed_index=(), names=())
    single = replace(single, states={0: bridge.states[0]})
    count, points, fits = route.ticks - 1, [start], list[Fitted]()
    parts = [plan.steps // count + (k < plan.steps % count) for k in range(count)]
    session.tell(f"walking in {route.ticks} ticks through {len(route.layers)} layers")
    for k, steps in enumerate(parts):
        moved = single.free[0].clone()
        for names in (layer for layer, tick in zip(route.layers, release, strict=True) if tick <= k):
            way.move(moved, names, 1 / (route.ticks - k))
        way.correct(moved)
        own = plan.model_copy(update={"steps": steps, "schedule": "constant", "warmup": 0.0, "resets": ()})
        work = session.part(f"tick-{k + 1}")
        fits.append(train(single.with_free(moved[None]), own, seed_of(seed, "tick", k), work))
        single = fits[-1].bridge
        arrived = single.free[0].clone()
        way.correct(arrived)
        single = single.with_free(arrived[None])
        points.append(arrived)
    path = _thinned(bridge, torch.stack([*points, end]), route.losses)
    return replace(
        fits[-1],
        bridge=path,
        history=joined([one.history for one in fits], parts, plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        averaged=None,
        snapshots=(),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


@dataclass(frozen=True, eq=False)
class _Way:
    """The way from one flat vector to another, tensor by tensor."""

    layout: Layout
    start: Tensor
    end: Tensor

    def move(self, theta: Tensor, names: Sequence[str], share: float) -> None:
        """Move the named tensors by a share of what is before them, in place."""
        for name, place in zip(self.layout.names, self.layout.slices, strict=True):
            if name in names:
                theta[place] += share * (self.end[place] - theta[place])

    def correct(self, theta: Tensor) -> None:
        """Give every weight matrix the variance that belongs to where it is between the ends, in place. Vectors stay."""
        for shape, place in zip(self.layout.shapes, self.layout.slices, strict=True):
            if len(shape) < 2:
                continue
            one, two, own = (vector[place] for vector in (self.start, self.end, theta))
            whole, left = float((two - one).norm()), float((two - own).norm())
            done = min(max(1 - left / whole, 0.0), 1.0) if whole > 0 else 1.0
            wanted = (1 - done) * float(one.var()) + done * float(two.var())
            if (held := float(own.var())) > 0:
                theta[place] = own.mean() + (wanted / held) ** 0.5 * (own - own.mean())


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
