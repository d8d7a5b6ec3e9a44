"""Whether `auto` meets its targets and is beaten by a single remedy, with intervals from resampled settings."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.randomness import stream
from isthmus.recipes.repair_grid_cells import Repair
from isthmus.recipes.repair_grid_scales import AUTO
from isthmus.recipes.repair_grid_tables import Result, grouped
from isthmus.recipes.study import Claim

RESAMPLES = 2000
TARGETS: Mapping[int, tuple[float, float]] = {2500: (2.0, 1.5), 500: (3.0, 4.0), 50: (5.0, 7.0)}
"""Clean images -> mean attack success (%) and mean fall of accuracy (points) that `auto` should not exceed."""
CONTROL_DROP = 1.0


@dataclass(frozen=True)
class Mean:
    """A mean over cells with its 95 % interval over settings, None from a single setting."""

    value: float
    low: float | None
    high: float | None

    def text(self, unit: str) -> str:
        """Return for instance `1.30 % (95 % interval 0.80 to 2.10)`."""
        within = "one setting, no interval" if self.low is None else f"95 % interval {self.low:.2f} to {self.high:.2f}"
        return f"{self.value:.2f} {unit} ({within})"


def resampled(settings: Sequence[str], *, count: int = RESAMPLES, seed: int = 0) -> Tensor:
    """Return weights (count, N) of N cells, each row a resample of whole settings, of sum 1 (Field and Welsh 2007, cluster bootstrap).

    The cells of one setting share their suspects and are alike: settings are drawn, with replacement, as many as there are.

    >>> resampled(["a", "a"], count=1).tolist()
    [[0.5, 0.5]]
    """
    places = {name: i for i, name in enumerate(dict.fromkeys(settings))}
    draws = torch.randint(len(places), (count, len(places)), generator=stream(seed, "bootstrap"))
    times = torch.zeros(count, len(places), dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    weights = times[:, [places[name] for name in settings]]
    return weights / weights.sum(1, keepdim=True)


def mean_of(values: Sequence[float], settings: Sequence[str]) -> Mean:
    """Return the mean of values of cells, and its interval from :func:`resampled` settings."""
    held = torch.tensor(values, dtype=torch.float64)
    if len(set(settings)) < 2:
        return Mean(float(held.mean()), None, None)
    means = resampled(settings) @ held
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Mean(float(held.mean()), low, high)


def claims(results: Sequence[Result], planned: Sequence[Repair], kept: Sequence[Result]) -> list[Claim]:
    """Return the claims about `auto`. results: all finished repairs; planned: all there should be; kept: those that are compared."""
    done = {one.repair.name for one in results}
    found: list[Claim] = []
    for budget in dict.fromkeys(one.budget for one in planned):
        held = [one for one in kept if one.repair.budget == budget]
        repairs = [one for one in planned if one.budget == budget and one.setting.threat is not None]
        if budget in TARGETS:
            found.append(_target(held, budget, lacks([one.name for one in repairs if one.remedy == AUTO], done)))
        found.append(_undominated(held, budget, lacks([one.name for one in repairs], done)))
    for budget in dict.fromkeys(one.budget for one in planned):
        repairs = [one for one in planned if one.budget == budget and one.setting.threat is None and one.remedy == AUTO]
        free = [one for one in results if not one.tampered and one.repair.budget == budget and _is_auto(one)]
        found.append(_harmless(free, budget, lacks([one.name for one in repairs], done)))
    return found


def dominators(results: Sequence[Result]) -> dict[str, tuple[Mean, Mean]]:
    """Return the remedies whose mean attack success and mean fall of accuracy are both lower than those of `auto`, on the same cells.

    With each the differences from `auto` in attack success (%) and fall (points), paired by cell.
    """
    by_remedy = {remedy: _in_order(held) for remedy, held in grouped(results, lambda one: one.repair.remedy).items()}
    own = by_remedy.pop(AUTO)
    settings = [one.case[0] for one in own]
    found: dict[str, tuple[Mean, Mean]] = {}
    for remedy, held in by_remedy.items():
        pairs = list(zip(held, own, strict=True))
        attack = mean_of([one.attack - mine.attack for one, mine in pairs], settings)
        drop = mean_of([one.drop - mine.drop for one, mine in pairs], settings)
        if attack.value < 0 and drop.value < 0:
            found[remedy] = (attack, drop)
    return found


def share_dominated(results: Sequence[Result]) -> float:
    """Return the share of resamples in which some remedy's means are both lower than those of `auto`."""
    by_remedy = {remedy: _in_order(held) for remedy, held in grouped(results, lambda one: one.repair.remedy).items()}
    weights = resampled([one.case[0] for one in by_remedy[AUTO]])
    attack, drop = (
        {
            remedy: weights @ torch.tensor([getattr(one, name) for one in held], dtype=torch.float64)
            for remedy, held in by_remedy.items()
        }
        for name in ("attack", "drop")
    )
    beaten = torch.zeros(len(weights), dtype=torch.bool)
    for remedy in by_remedy:
        beaten |= (attack[remedy] < attack[AUTO]) & (drop[remedy] < drop[AUTO])
    return float(beaten.double().mean())


def lacks(planned: Sequence[str], done: Collection[str]) -> str:
    """Return what to add to a finding of which cells are missing, nothing where none is.

    >>> lacks(["a", "b"], {"a"}), lacks(["a"], {"a"})
    ('; 1 of 2 repairs are missing', '')
    """
    missing = sum(name not in done for name in planned)
    return f"; {missing} of {len(planned)} repairs are missing" if missing else ""


def _target(kept: Sequence[Result], budget: int, lacking: str) -> Claim:
    most, fall = TARGETS[budget]
    text = (
        f"With {budget:,} clean images `auto` leaves a mean attack success of at most {most:g} % "
        f"at a mean fall of accuracy of at most {fall:g} points."
    )
    own = [one for one in kept if _is_auto(one)]
    if not own:
        return Claim(text, "nothing to compare", None)
    settings = [one.case[0] for one in own]
    attack, drop = mean_of([one.attack for one in own], settings), mean_of([one.drop for one in own], settings)
    said = f"attack success {attack.text('%')}, fall {drop.text('points')}, cells: {len(own)}, settings: {len(set(settings))}"
    floors = [one.floor for one in own if one.floor is not None]
    if len(floors) == len(own):
        said += f"; the same triggers work on {sum(floors) / len(floors):.2f} % of the images of untampered models"
    holds = attack.value <= most and drop.value <= fall
    return Claim(text, said + lacking, None if lacking else holds)


def _undominated(kept: Sequence[Result], budget: int, lacking: str) -> Claim:
    text = f"With {budget:,} clean images no single remedy has both a lower mean attack success and a lower mean fall than `auto`."
    others = {one.repair.remedy for one in kept} - {AUTO}
    if not others or not any(_is_auto(one) for one in kept):
        return Claim(text, "nothing to compare", None)
    found, share = dominators(kept), share_dominated(kept)
    parts = [
        f"{remedy} has, by {attack.text('%')} and {drop.text('points')}" for remedy, (attack, drop) in found.items()
    ]
    said = "; ".join(parts) or f"none has, of {len(others)}"
    return Claim(
        text, f"{said}; one has in {100 * share:.0f} % of resampled grids{lacking}", None if lacking else not found
    )


def _harmless(free: Sequence[Result], budget: int, lacking: str) -> Claim:
    text = f"With {budget:,} clean images `auto` costs untampered models at most {CONTROL_DROP:g} point."
    if not free:
        return Claim(text, "nothing to compare", None)
    drops = [one.drop for one in free]
    mean = sum(drops) / len(drops)
    said = f"mean {mean:.2f} points, worst {max(drops):.2f}, cells: {len(drops)}"
    return Claim(text, said + lacking, None if lacking else mean <= CONTROL_DROP)


def _in_order(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda one: one.case)


def _is_auto(result: Result) -> bool:
    return result.repair.remedy == AUTO
