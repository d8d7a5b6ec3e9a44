"""Gradient scattering: how fast the perturbations that an attack finds turn as the weights move (Liu et al. 2020, section 4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.geometry.bridge import Bridge, Settle
from isthmus.layout import Bound, Layout
from isthmus.probes.similarity import Crafting, Mean, Similarity, similarity
from isthmus.settle import require_policy
from isthmus.table import Cell, Column, Table, with_bounds

Place = tuple[str, float]
"""What was measured (a direction, or what along a bridge), and how far along."""
FLOOR: Place = ("", 0.0)
Row = dict[str, Cell]


@dataclass(frozen=True, eq=False)
class Watch:
    """Follows the measurements: `on_found` is told each new one; those in `done`, of an interrupted run, are taken over."""

    on_found: Callable[[Place, Similarity], None]
    done: Mapping[Place, Similarity] = field(default_factory=dict[Place, Similarity])


def random_direction(size: int, *, generator: torch.Generator) -> Tensor:
    """Return a direction of length 1 drawn uniformly, a Gaussian vector over its norm, (size,) float64."""
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return vector / vector.norm()


def scattering(
    model: nn.Module,
    directions: Mapping[str, Tensor],
    amounts: Sequence[float],
    crafting: Crafting,
    *,
    watch: Watch | None = None,
) -> Table:
    """Return a row for each direction v and amount a: the similarity of perturbations at theta + a v and theta - a v.

    v is scaled to length 1 over all D parameters; directions: (D,) in the order of `Layout.of(model)`. BatchNorm statistics stay those of
    the model. a = 0 is always measured, as the first row of each direction: two attacks on one model from starts drawn apart, the floor
    that the noise of the start leaves, which is below 1. All places are attacked from the same starts, so differences between rows are
    taken image by image: `fall` is the floor less the cosine here, `gap` the cosine here less that along the first direction. Intervals
    are normal, of 95 %, over images: about other images, not about other starts, directions or models. Errors count what is wrong
    at x or at the last iterate, which is a weaker attack than the worst point met. Liu et al. 2020 give the cosine on training images.

    Raises InputError for no directions, for one that is zero, not finite or of another length, and for amounts that are not ascending
    from 0 on. The model is left as it was.
    """
    layout = Layout.of(model)
    units = {name: _unit(name, vector, layout.size) for name, vector in directions.items()}
    require(bool(units), "directions", "hold at least one", "none")
    held = list(amounts)
    rising = all(0 <= a < float("inf") for a in held) and held == sorted(set(held))
    require(rising and any(held), "amounts", "be finite numbers of at least 0, ascending, one of them above 0", held)
    theta = layout.flatten(dict(model.named_parameters())).double()
    bounds = Bound(model, layout), Bound(model, layout)

    def look(name: str, amount: float) -> Similarity:
        for bound, sign in zip(bounds, (1, -1), strict=True):
            bound.buffer.copy_(theta + sign * amount * units[name].to(theta.device) if amount else theta)
            bound.publish()
        return similarity(bounds[0].module, bounds[1 if amount else 0].module, crafting)

    book = _Book(watch)
    floor = book.get(FLOOR, lambda: look(next(iter(units)), 0.0))
    rows: list[Row] = []
    firsts = {0.0: floor}
    for name in units:
        for amount in (0.0, *(float(a) for a in held if a > 0)):
            found = book.get((name, amount), lambda n=name, a=amount: look(n, a)) if amount else floor
            first = firsts.setdefault(amount, found)
            rows.append(_row(name, amount, found, floor, None if name == next(iter(units)) else first))
    meta: dict[str, object] = {**_about(crafting), "parameters": layout.size}
    return with_bounds(Table.of(rows, _columns(crafting, _HEAD, _GAP), meta))


def scattering_along(
    bridge: Bridge,
    ts: Sequence[float],
    step: float,
    crafting: Crafting,
    *,
    settle: Settle | None,
    watch: Watch | None = None,
) -> Table:
    """Return a row for each t of a curve: the similarity of perturbations at t - step and t + step, and at t and the next t.

    Where the curve ends, its end takes the place of what would lie beyond. `floor` is what two attacks on the model at t have in common,
    `fall` the floor less the cosine, image by image; `distance` is that of the two models' weights. settle: as for :func:`scan`.
    Errors are those at t. Raises InputError for a surface, for ts that are not ascending on the curve, and for a step that is not above 0.
    """
    require(bridge.basis.dim == 1, "bridge", "be a curve", f"{bridge.basis.dim} coordinates")
    require_policy(bridge.template, settle)
    begin, end = bridge.basis.breaks[0][0], bridge.basis.breaks[0][-1]
    held = [float(t) for t in ts]
    good = bool(held) and held == sorted(set(held)) and begin <= held[0] and held[-1] <= end
    require(good, "ts", f"be ascending from {begin:g} to {end:g} at most", held)
    require(0 < step <= end - begin, "step", f"be above 0 and at most {end - begin:g}", step)
    book = _Book(watch)

    def look(one: float, other: float) -> Similarity:
        first = bridge.at(one, settle=settle)
        return similarity(first, first if one == other else bridge.at(other, settle=settle), crafting)

    rows: list[Row] = []
    for place, t in enumerate(held):
        low, high = max(begin, t - step), min(end, t + step)
        floor = book.get(("floor", t), lambda t=t: look(t, t))
        across = book.get(("across", t), lambda low=low, high=high: look(low, high))
        row: Row = {"t": t, **_shown(across, floor), **_errors(floor), "distance": _distance(bridge, low, high)}
        row |= _bounded("floor", floor.mean())
        if place + 1 < len(held):
            following = held[place + 1]
            beyond = book.get(("next", t), lambda t=t, after=following: look(t, after))
            row |= {**_bounded("next_cosine", beyond.mean()), "next_distance": _distance(bridge, t, following)}
        rows.append(row)
    meta = {**_about(crafting), "step": step, "settle": None if settle is None else type(settle).__name__}
    return with_bounds(
        Table.of(rows, _columns(crafting, (Column("t", about="coordinate on the bridge"),), _ALONG), meta)
    )


@dataclass(eq=False)
class _Book:
    """Measures what is not there yet, and says so."""

    watch: Watch | None

    def get(self, place: Place, measure: Callable[[], Similarity]) -> Similarity:
        if self.watch is not None and place in self.watch.done:
            return self.watch.done[place]
        found = measure()
        if self.watch is not None:
            self.watch.on_found(place, found)
        return found


def _unit(name: str, vector: Tensor, size: int) -> Tensor:
    label = f"directions[{name!r}]"
    require(
        tuple(vector.shape) == (size,),
        label,
        f"have shape ({size},), one entry for each parameter",
        tuple(vector.shape),
    )
    wide = vector.detach().double()
    require(bool(torch.isfinite(wide).all()), label, "be finite", "NaN or infinite values")
    length = wide.norm()
    require(bool(length > 0), label, "have a length above 0", "the zero vector")
    return wide / length


def _distance(bridge: Bridge, one: float, other: float) -> float:
    return float((bridge.theta(one).double() - bridge.theta(other).double()).norm())


def _row(name: str, amount: float, found: Similarity, floor: Similarity, first: Similarity | None) -> Row:
    row: Row = {"direction": name, "amount": amount, **_shown(found, floor), **_errors(found)}
    row["robust_error_minus"] = found.error("robust", 1)
    return row if first is None else row | _bounded("gap", found.less(first))


def _shown(found: Similarity, floor: Similarity) -> Row:
    """Return the similarity itself, and how far it is below the floor."""
    cosine = found.mean()
    return {
        **_bounded("cosine", cosine),
        "cosine_se": cosine.error,
        "sign_cosine": found.mean("signs").value,
        "same_start": found.mean("same_start").value,
        **_bounded("fall", floor.less(found)),
        "excluded": found.excluded,
    }


def _errors(found: Similarity) -> Row:
    return {"clean_error": found.error("clean"), "robust_error": found.error("robust")}


def _bounded(name: str, mean: Mean) -> Row:
    return {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}


def _about(crafting: Crafting) -> dict[str, object]:
    radius = crafting.threat.radius
    threat = {"norm": crafting.threat.norm, "radius": None if isinstance(radius, Tensor) else radius}
    attack = {"name": crafting.attack.name, "step": crafting.attack.step, "start": crafting.attack.start}
    return {"seed": crafting.seed, "threat": threat, "attack": attack, "data": crafting.samples.name}


def _interval(name: str, about: str) -> tuple[tuple[str, str], ...]:
    return (
        (name, about),
        *((f"{name}_{side}", f"{side}er 95 % bound of {name}, over images") for side in ("low", "high")),
    )


_HEAD = (
    Column("direction"),
    Column("amount", about="a: the models are theta + a v and theta - a v, v of length 1"),
)
_COMMON = (
    *_interval("cosine", "mean cosine of the perturbations at the two models, starts drawn apart"),
    ("cosine_se", "standard error of cosine, over images"),
    ("sign_cosine", "mean cosine of the signs of the perturbations"),
    ("same_start", "mean cosine where both attacks begin at one start: the weights alone"),
    *_interval("fall", "mean over images of the cosine of one model with itself less that here"),
)
_GAP = _interval("gap", "mean over images of the cosine here less that along the first direction")
_ALONG = (
    *_interval("floor", "mean cosine at t with itself, starts drawn apart"),
    *_interval("next_cosine", "mean cosine at t and at the next t"),
    ("distance", "of the weights at t - step and t + step"),
    ("next_distance", "of the weights at t and at the next t"),
)


def _columns(crafting: Crafting, head: Sequence[Column], further: Sequence[tuple[str, str]]) -> tuple[Column, ...]:
    n, split = len(crafting.samples), crafting.split
    under = f"under {crafting.attack.name}, at x or at its last iterate"
    errors = [("clean_error", "misclassified"), ("robust_error", f"misclassified {under}")]
    if further is _GAP:
        errors.append(("robust_error_minus", f"misclassified {under}, at theta - a v"))
    return (
        *head,
        *(Column(name, "1", None, split, None, about) for name, about in (*_COMMON, *further)),
        Column("excluded", "1", None, split, None, "images without a cosine: an attack did not move"),
        *(Column(name, "%", "lower", split, n, about) for name, about in errors),
    )
