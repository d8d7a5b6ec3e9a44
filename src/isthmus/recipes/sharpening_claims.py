"""Which claims of Liu et al. 2020, section 4, hold: trends over budgets by an exact test, similarities by intervals over images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, permutations
from math import exp, isfinite, log, nan, sqrt
from typing import Literal, cast

from isthmus._check import require
from isthmus.rates import Z95
from isthmus.recipes.sharpening_tables import (
    Joined,
    Kind,
    Minimum,
    Row,
    connectivity,
    rows_of,
    similarities,
    spectra,
)
from isthmus.recipes.study import Claim, Findings, mean_and_sd

LEVEL = 0.05  # of the trend test
SPECTRA, BARRIERS = "Curvature by budget", "Barriers between minima of one budget"
NEAR = 0.05  # a cosine that is surely no farther than this below the floor counts as being at it
NOTES = (
    "Trends over budgets: Page's test, exact. With series (seeds, or pairs of seeds that share none) as blocks it asks whether the "
    f"budgets of a series could be exchanged. A claim about a trend holds, or does not, only where p < {LEVEL:g} in one direction and "
    "every series has its largest budget on that side of its smallest; else it is not decided. Three budgets of one series never decide.",
    "Intervals of similarities are over images, of these minima, starts and directions. A budget's a = 0 is two attacks on one model from "
    "starts drawn apart: the floor, never 1 where the start is random.",
    "A barrier is the highest robust loss (or error) of the scanned points less that of the worse end (`draxler_rise`), for budget 0 of "
    "the clean loss. Losses under a larger attack are larger themselves: errors are the fairer comparison.",
    "The paper's similarities are means over training images at full size, ours over the images of each table; only the pattern compares.",
)


@dataclass(frozen=True)
class Trend:
    """Page's test: share of all orders of budgets, in every series, that rise (fall) at least as steadily as found."""

    rising: float
    falling: float


def trend(series: Sequence[Sequence[float]]) -> Trend:
    """Return the exact one-sided p-values that values rise, or fall, along each of `series`, all of one length (Page 1963).

    L = sum over series of sum_j j rank(value_j), its distribution over all orders of each series. Equal values share their mean rank.

    >>> trend([[1.0, 2.0, 3.0]]).rising == 1 / 6
    True
    """
    length = len(series[0]) if series else 0
    even = length >= 2 and all(len(values) == length for values in series)
    require(even and length <= 8, "series", "be of one length, 2 to 8", [len(values) for values in series])
    ranks = [_ranks(values) for values in series]
    # Sums of halves: exact in floating point, so equal statistics compare as equal.
    found = sum(_steadiness(held) for held in ranks)
    total = reduce(_summed, ([Counter(_steadiness(order) for order in permutations(held)) for held in ranks]))
    count = sum(total.values())
    up = sum(number for value, number in total.items() if value >= found)
    down = sum(number for value, number in total.items() if value <= found)
    return Trend(up / count, down / count)


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def _steadiness(ranks: Sequence[float]) -> float:
    return sum(place * rank for place, rank in enumerate(ranks, 1))


def _summed(one: Counter[float], other: Counter[float]) -> Counter[float]:
    found: Counter[float] = Counter()
    for a, m in one.items():
        for b, n in other.items():
            found[a + b] += m * n
    return found


def decided(verdicts: Sequence[bool | None], expected: int) -> bool | None:
    """Return whether all of `expected` cases hold: False as soon as one surely does not, None while one is missing or not decided.

    >>> decided([True, True], 2), decided([True, None], 2), decided([None, False], 3), decided([True], 2)
    (True, None, False, None)
    """
    if any(verdict is False for verdict in verdicts):
        return False
    return None if len(verdicts) < expected or None in verdicts else True


def summarise(
    minima: Sequence[Minimum], joined: Sequence[Joined], *, seeds: int, budgets: Mapping[str, int]
) -> Findings:
    """Return the tables and what becomes of the claims. budgets: of each data set, how many there should be, the vanilla one included."""
    tables = {SPECTRA: spectra(minima)}
    tables |= {f"Similarity of perturbations, {data}": similarities(minima, data) for data in budgets}
    tables[BARRIERS] = connectivity(joined)
    claims = [claim for data, count in budgets.items() for claim in _claims(minima, joined, data, (seeds, count))]
    return Findings(tables, claims, NOTES)


def _claims(minima: Sequence[Minimum], joined: Sequence[Joined], data: str, size: tuple[int, int]) -> list[Claim]:
    seeds, count = size
    held = [m for m in minima if m.data == data]
    found = [
        grows(f"On {data} the top eigenvalue (frozen examples) grows with the budget.", _by_seed(held, _top), size),
        grows(
            f"On {data} so does the curvature along the top eigenvector with examples crafted anew (our question).",
            _by_seed([m for m in held if m.eps > 0], _true),
            (seeds, count - 1),
        ),
        *_scattered([m for m in held if m.eps > 0], data, seeds * (count - 1)),
    ]
    kinds: tuple[tuple[Kind, Literal["loss", "error"]], ...] = (
        ("curve", "loss"),
        ("curve", "error"),
        ("line", "error"),
    )
    for kind, what in kinds:
        path = "Bezier curves trained on the robust loss" if kind == "curve" else "straight lines"
        text = (
            f"On {data} the barrier of the robust {what} along {path} grows with the budget: minima are less connected."
        )
        chosen = [j for j in joined if j.data == data and j.kind == kind]
        found.append(_less_connected(text, chosen, what, (seeds // 2, count)))
    return found


def grows(text: str, series: Mapping[str, Mapping[float, float]], size: tuple[int, int]) -> Claim:
    """Return whether values grow with the budget. series: name -> budget -> value; size: how many series and budgets there should be.

    With the trend's exact p-values, and the ratio of largest to smallest budget: geometric mean with Student's 95 % interval over series.
    """
    whole = [[values[eps] for eps in sorted(values)] for values in series.values() if len(values) == size[1] >= 2]
    if not whole:
        return Claim(text, "nothing to compare", None)
    found = trend(whole)
    up = sum(all(a < b for a, b in pairwise(values)) for values in whole)
    said = f"rises from each budget to the next in {up} of {len(whole)} series; {_ratio_text(whole)}; "
    said += f"trend p = {found.rising:.2g} for growth, {found.falling:.2g} for decline"
    verdict = None
    if len(whole) == size[0]:
        if found.rising < LEVEL and all(values[-1] > values[0] for values in whole):
            verdict = True
        if found.falling < LEVEL and all(values[-1] < values[0] for values in whole):
            verdict = False
    return Claim(text, said, verdict)


def ratio(series: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the geometric mean of last over first value and Student's 95 % interval over series, NaN where it is not defined."""
    if any(values[0] <= 0 or values[-1] <= 0 for values in series):
        return nan, nan, nan
    mean, deviation = mean_and_sd([log(values[-1] / values[0]) for values in series])
    if mean is None or deviation is None:
        return (nan if mean is None else exp(mean)), nan, nan
    from scipy.special import stdtrit  # a quarter of a second to import

    half = float(stdtrit(len(series) - 1, 0.975)) * deviation / sqrt(len(series))
    return exp(mean), exp(min(mean - half, 700)), exp(min(mean + half, 700))


def _ratio_text(series: Sequence[Sequence[float]]) -> str:
    value, low, high = ratio(series)
    if not isfinite(value):
        return f"largest less smallest budget {', '.join(f'{values[-1] - values[0]:+.3g}' for values in series)}"
    within = f" (95 % interval {low:.3g} to {high:.3g})" if isfinite(low) else " (one series, no interval)"
    return f"largest over smallest budget {value:.3g}{within}"


def _by_seed(minima: Sequence[Minimum], value: Callable[[Minimum], float | None]) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = {}
    for m in minima:
        if (v := value(m)) is not None:
            found.setdefault(str(m.seed), {})[m.eps] = v
    return found


def _top(minimum: Minimum) -> float | None:
    return None if minimum.curvature is None else minimum.curvature.eigenvalues[0]


def _true(minimum: Minimum) -> float | None:
    return None if minimum.curvature is None else minimum.curvature.true_curvature


def _scattered(minima: Sequence[Minimum], data: str, expected: int) -> list[Claim]:
    """Return the claims about similarities at the largest amount, from the interval over images of each minimum."""
    tables = [m.scattering for m in minima if m.scattering is not None]
    eigen = [row for table in tables for row in rows_of(table, "eigenvector 1")]
    random = [rows_of(table, "random") for table in tables]
    floors = [next(row for row in table.rows() if row["amount"] == 0) for table in tables]
    gaps = [row for rows in random for row in rows if row["gap"] is not None]
    count = expected * max((len(rows) for rows in random), default=1)
    at = ", ".join(sorted({f"{row['amount']:g}" for row in eigen}))
    return [
        Claim(
            f"On {data} two attacks on one model have a cosine below 1: the floor of a random start.",
            _range("cosine at a = 0", floors, "cosine"),
            decided([_below(row, "cosine", 1.0) for row in floors], expected),
        ),
        Claim(
            f"On {data} the similarity falls along the top eigenvector (at the largest a, {at or '-'}).",
            _range("fall below the floor", eigen, "fall"),
            decided([_above(row, "fall", 0.0) for row in eigen], expected),
        ),
        Claim(
            f"On {data} it falls less along a random direction, image by image.",
            _range("cosine above that along the eigenvector", gaps, "gap"),
            decided([_above(row, "gap", 0.0) for row in gaps], count),
        ),
        Claim(
            f"On {data} it stays at the floor along a random direction (within {NEAR:g}).",
            _range("fall below the floor", [row for rows in random for row in rows], "fall"),
            decided([_below(row, "fall", NEAR) for rows in random for row in rows], count),
        ),
    ]


def _above(row: Row, name: str, limit: float) -> bool | None:
    """Return whether the whole interval of `name` lies above the limit: False where all of it is at or below, else None."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return None
    return True if cast(float, low) > limit else False if cast(float, high) <= limit else None


def _below(row: Row, name: str, limit: float) -> bool | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return None
    return True if cast(float, high) < limit else False if cast(float, low) >= limit else None


def _range(what: str, rows: Sequence[Row], name: str) -> str:
    """Return the smallest and the largest value, each with its interval, and of how many."""
    held = sorted((r for r in rows if r[name] is not None), key=lambda r: cast(float, r[name]))
    if not held:
        return "nothing to compare"
    shown = [f"{r[name]:.3f} ({r[f'{name}_low']:.3f} to {r[f'{name}_high']:.3f})" for r in (held[0], held[-1])]
    return f"{what} from {shown[0]} to {shown[1]}, {len(held)} measured" if len(held) > 1 else f"{what} {shown[0]}"


def _less_connected(
    text: str, joined: Sequence[Joined], what: Literal["loss", "error"], size: tuple[int, int]
) -> Claim:
    """Return whether barriers grow with the budget, over pairs of seeds that share none: pairs with a common end are not apart.

    Of errors the growth from smallest to largest budget should also be more than the images' own noise.
    """
    used, chosen = set[int](), list[tuple[int, int]]()
    for pair in sorted({j.seeds for j in joined}):
        if used.isdisjoint(pair):
            chosen.append(pair)
            used |= set(pair)
    held = [[j for j in joined if j.seeds == pair] for pair in chosen]
    series = {str(pair): {j.eps: j.barrier(what) for j in js} for pair, js in zip(chosen, held, strict=True)}
    claim = grows(text, series, size)
    if what == "loss" or claim.holds is None:
        return claim
    sure = all(_apart(sorted(js, key=lambda j: j.eps)) for js in held)
    noise = "" if sure else "; the difference is within the noise of the images"
    return Claim(text, claim.found + noise, claim.holds if sure else None)


def _apart(joined: Sequence[Joined]) -> bool:
    """Return whether the error's barriers of the first and the last budget differ by more than 1.96 standard errors.

    Peak and end are taken for independent samples: on the same images they vary together, so the test is on the safe side.
    """
    ends, variance = [joined[0], joined[-1]], 0.0
    for j in ends:
        name = j.column("error")
        values, n = {cast(float, r["t"]): cast(float, r[name]) / 100 for r in j.table.rows()}, j.table.column(name).n
        if n is None:
            return False
        worse = max(values[min(values)], values[max(values)])
        variance += sum(p * (1 - p) / n for p in (max(values.values()), worse))
    return abs(ends[1].barrier("error") - ends[0].barrier("error")) > 100 * Z95 * sqrt(variance)
