"""What a remedy removes of planted tamperings, and where along a path between the suspects a plant dies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from statistics import stdev

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.evaluate import correct, logits
from isthmus.geometry.bridge import Bridge, Settle
from isthmus.layout import buffers_of, require_same_architecture
from isthmus.rates import Paired, Rate, mcnemar
from isthmus.repair.protocol import Clean
from isthmus.repair.trust.planted import Plant
from isthmus.scan import scan
from isthmus.table import Column, Table

Remedy = Callable[[Sequence[nn.Module], Clean], nn.Module]
"""Suspects and clean samples -> the repaired model. A `Repair` with seed and session settled is one."""
LEVEL = 0.8
"""Of the interval for what is removed of a further tampering."""
Share = tuple[float, float, float]
"""A share removed in (-inf, 1] and its bounds: (share, low, high)."""


@dataclass(frozen=True)
class Removed:
    """What a remedy removed of one plant. before: success of the planted copies, the highest; after: of the repaired model.

    share, low, high: of :func:`share_removed`. cost: accuracy on `clean.validation` of the first planted copy against the repaired model.
    """

    name: str
    before: Rate
    after: Rate
    accuracy: Rate
    cost: Paired
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Removal:
    """What a remedy removed of every plant that took. skipped: names of those that did not; they say nothing."""

    outcomes: tuple[Removed, ...]
    skipped: tuple[str, ...]

    @property
    def worst(self) -> Removed:
        """Return the plant of which least was removed: the headline."""
        return min(self.outcomes, key=lambda outcome: (outcome.share, outcome.low))

    @property
    def estimate(self) -> float:
        """Return the mean share removed, in (-inf, 1]: the number by which remedies or cases are ranked."""
        return pooled([(outcome.share, outcome.low, outcome.high) for outcome in self.outcomes])[0]

    @property
    def interval(self) -> tuple[float, float]:
        """Return the bounds of :func:`pooled`: where the share removed of one further tampering is expected, four times in five."""
        return pooled([(outcome.share, outcome.low, outcome.high) for outcome in self.outcomes])[1:]


def pooled(shares: Sequence[Share], level: float = LEVEL) -> Share:
    """Return (mean, low, high): the mean share removed of K plants, and the interval for that of one further tampering.

    mean +- t s sqrt(1 + 1 / K), with s the standard deviation of the K shares and t the (1 + level) / 2 quantile of Student's t with
    K - 1 degrees of freedom; `high` is at most 1. The interval holds those of the plants themselves: shares that agree by chance, all at 1
    for instance, are no certainty. Were the tampering drawn like the plants, and shares normal, it would hold with probability `level`
    or more. It is not drawn like them: see the text of `isthmus.repair.trust.planted`. A single plant says nothing about the spread:
    its interval runs from its own lower bound, or from 0 (nothing removed) where that is lower, to 1.

    >>> pooled([(1.0, 0.75, 1.0), (0.5, 0.25, 0.625)])[0]
    0.75
    """
    require(bool(shares), "shares", "hold that of one plant at least", "none")
    values, count = [share for share, _, _ in shares], len(shares)
    mean = fsum(values) / count
    if count == 1:
        return mean, min(0.0, shares[0][1]), 1.0
    from scipy.special import stdtrit  # a quarter of a second to import

    half = float(stdtrit(count - 1, (1 + level) / 2)) * stdev(values) * sqrt(1 + 1 / count)
    lowest, highest = min(low for _, low, _ in shares), max(high for _, _, high in shares)
    return mean, min(lowest, mean - half), min(1.0, max(highest, mean + half))


def success_before(copies: Sequence[Rate]) -> Rate:
    """Return the rate from which removal is counted: the highest of the copies, whichever of them a remedy repairs."""
    return max(copies, key=lambda rate: rate.value)


def share_removed(before: Rate, after: Rate) -> Share:
    """Return (share, low, high) with share = (before - after) / before, 1 where nothing is left, below 0 where success rose.

    The 95 % interval is that of the ratio after / before by recovery of variance estimates from the two Wilson intervals (Donner and Zou
    2012, eq. 10), taken as independent: on the same images they are not, which makes it wide rather than narrow. Raises InputError
    where `before` is 0: there was nothing to remove.

    >>> share_removed(Rate(50, 50), Rate(0, 50))[0]
    1.0
    """
    require(before.hits > 0, "before", "be above 0, or there was nothing to remove", str(before))
    first, second = after.value, before.value
    centre = first * second
    below = _root(centre, after.low * before.high * (2 * first - after.low) * (2 * second - before.high))
    above = _root(centre, after.high * before.low * (2 * first - after.high) * (2 * second - before.low))
    smallest = (centre - below) / (before.high * (2 * second - before.high))
    largest = (centre + above) / (before.low * (2 * second - before.low))
    return 1 - first / second, 1 - largest, 1 - max(0.0, smallest)


def removal(plants: Sequence[Plant], remedy: Remedy) -> Removal:
    """Return what `remedy` removes of each plant that took, run on the planted copies as on any suspects.

    It is given `plant.clean` and never sees trigger, target or attacked images. Raises InputError where no plant took.
    """
    took = [found for found in plants if found.took]
    require(
        bool(took),
        "plants",
        "hold one that took",
        f"{len(plants)} that did not",
        "Plant with more steps or at a higher rate.",
    )
    return Removal(tuple(_removed(found, remedy) for found in took), tuple(p.name for p in plants if not p.took))


def survival(
    plants: Sequence[Plant],
    bridge: Bridge,
    ts: Tensor | Sequence[float],
    *,
    settle: Settle | None,
    ends: Sequence[int] | None = None,
) -> Table:
    """Return the success (%) of each plant along a curve that was trained between the suspects before anything was planted.

    theta(t) + sum_i basis_i(t) delta_i over the fixed control points i, delta_i what planting changed in that end: the path is the one of
    the unplanted suspects, only its ends carry the plant, and nothing is trained. Where success falls is where the path loses what an
    end brought with it. ends: positions among the suspects whose planted copy is used; all unless given.
    Columns: t, then `NAME_success` for each plant, on validation images. Raises InputError where a plant has another number of copies
    than the bridge has fixed points, and where two plants share a name.
    """
    require(len(plants) >= 1, "plants", "be at least one", 0)
    tables = [
        scan(_planted(bridge, found, ends), ts, [_Success(found)], settle=settle)  # one bridge for each plant
        for found in plants
    ]
    table = tables[0]
    for other in tables[1:]:
        table = table.join(other, on="t")
    return table


@dataclass(frozen=True, eq=False)
class _Success:
    """Probe: a plant's success, in %."""

    plant: Plant

    @property
    def columns(self) -> tuple[Column, ...]:
        n, about = len(self.plant.attacked), f"sent where the planted {self.plant.name} wants them"
        return (Column(f"{self.plant.name}_success", "%", "lower", "validation", n, about),)

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> dict[str, float]:
        return {f"{self.plant.name}_success": 100 * self.plant.measure(model).value}


def _planted(bridge: Bridge, found: Plant, ends: Sequence[int] | None) -> Bridge:
    count = len(bridge.fixed_index)
    require(len(found.modules) == count, "plants", f"have {count} copies, one per fixed point", len(found.modules))
    fixed, states = bridge.fixed.clone(), dict(bridge.states)
    for k in range(count) if ends is None else ends:
        require(0 <= k < count, "ends", f"lie in 0..{count - 1}", k)
        require_same_architecture(bridge.template, found.modules[k], ("bridge", f"plant {found.name}"))
        fixed[k] = bridge.layout.flatten(dict(found.modules[k].named_parameters()))
        states[bridge.fixed_index[k]] = buffers_of(found.modules[k])
    return replace(bridge, fixed=fixed, states=states)


def _removed(found: Plant, remedy: Remedy) -> Removed:
    module, validation = remedy(found.modules, found.clean), found.clean.validation
    before, after = success_before(found.success), found.measure(module)
    first, last = (correct(logits(model, validation), validation.y) for model in (found.modules[0], module))
    share, low, high = share_removed(before, after)
    return Removed(found.name, before, after, Rate.of(last), mcnemar(first, last), share, low, high)


def _root(centre: float, product: float) -> float:
    return sqrt(max(0.0, centre**2 - product))
