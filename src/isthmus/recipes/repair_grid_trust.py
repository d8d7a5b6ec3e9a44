"""Whether planted tamperings foretell what a remedy removes of the real one: rank correlation, and coverage of the interval."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from isthmus import report
from isthmus.association import decimals, rank_correlations
from isthmus.rates import Rate
from isthmus.recipes.repair_grid_cells import Repair, trusted_name
from isthmus.recipes.repair_grid_claims import lacks, resampled
from isthmus.recipes.repair_grid_scales import Scale
from isthmus.recipes.repair_grid_tables import Result, Row, grouped
from isthmus.recipes.study import Claim
from isthmus.repair.trust.removal import Share, pooled, share_removed, success_before
from isthmus.table import Column, Table

LEAST_COVERAGE = 0.8
EVERY = "all together"


def _bounded(column: Column, about: str) -> tuple[Column, ...]:
    low, high = (Column(f"{column.name}_{side}", column.unit, about=f"{about}, {side}") for side in ("low", "high"))
    return column, low, high


TRUST = (
    Column("threat"),
    Column("rate", about="of all training images"),
    Column("remedy"),
    *_bounded(
        Column("removed", "%", "higher", "test", None, "of the real trigger's success, the highest of the suspects'"),
        "95 % bound, of a ratio of two rates",
    ),
    *_bounded(
        Column("estimate", "%", "higher", "validation", None, "of planted tamperings, mean over those that took"),
        "bound over the plants",
    ),
    Column("covered", about="whether the interval of the estimate holds what was removed of the real trigger"),
    Column("took", about="plants that did"),
    Column("skipped", about="plants that did not take and say nothing"),
)
SUMMARY = (
    Column("remedy"),
    Column("cells", about="with a suspect that works and a plant that took"),
    *_bounded(
        Column("rank_correlation", about="Spearman's, of estimate and truth over cells"),
        "95 % bound, bootstrap of whole settings",
    ),
    Column("within_threats", about="Spearman's across the remedies of one setting, mean over settings"),
    Column("settings", about="over which that mean is"),
    *_bounded(
        Column("coverage", "%", "higher", None, None, "cells whose interval holds the truth"), "95 % bound, Wilson"
    ),
    Column(
        "width", "points", "lower", None, None, "mean width of that interval: a wide one covers much and says little"
    ),
    Column("error", "points", "lower", None, None, "mean absolute difference of estimate and truth"),
)


@dataclass(frozen=True)
class Foretold:
    """One repair, judged by the real trigger and by planted tamperings.

    truth: share removed of the real one, counted like that of a plant: from the highest success of the suspects, whichever is repaired.
    estimate: the mean share over the plants that took and the interval, see `isthmus.repair.trust.removal.Removal`; None without any.
    counts: whether the suspect works, see `Result.counts`.
    """

    repair: Repair
    truth: Share
    estimate: Share | None
    took: int
    skipped: int
    counts: bool

    @classmethod
    def read(cls, repair: Repair, document: report.Document) -> "Foretold":
        """Return what the report of a repair with planted tamperings says."""
        suspects = [_rate(one.attack_success) for one in document.suspects]
        trust = document.trust or report.Trust()
        shares = [share_removed(_rate(one.before), _rate(one.after)) for one in trust.planted]
        before, after = success_before(suspects), _rate(document.repaired.attack_success)
        truth = share_removed(before, after) if before.hits else (0.0, 0.0, 0.0)  # nothing to remove: it does not count
        return cls(
            repair=repair,
            truth=truth,
            estimate=pooled(shares) if shares else None,
            took=len(shares),
            skipped=len(trust.skipped),
            counts=Result.read(repair, document).counts,
        )

    @property
    def covered(self) -> bool:
        """Return whether the interval holds the measured truth; the truth's own uncertainty widens nothing."""
        return self.estimate is not None and self.estimate[1] <= self.truth[0] <= self.estimate[2]


def trust(found: Sequence[Foretold]) -> Table:
    """Return a row per repair that counts: truth, estimate, interval, whether it covers. Without a plant that took there is no estimate."""
    rows: list[Row] = []
    for one in (one for one in found if one.counts):
        threat = one.repair.setting.threat
        assert threat is not None  # only tampered models are repaired again
        row: Row = {"threat": threat.name, "rate": threat.rate, "remedy": one.repair.remedy}
        row |= _percent("removed", one.truth) | {"took": one.took, "skipped": one.skipped}
        if one.estimate is not None:
            row |= _percent("estimate", one.estimate) | {"covered": "yes" if one.covered else "no"}
        rows.append(row)
    return Table.of(rows, TRUST)


def summary(found: Sequence[Foretold]) -> Table:
    """Return agreement of estimate and truth for each remedy, and over all of them."""
    usable = _usable(found)
    groups = grouped(usable, lambda one: one.repair.remedy)
    held = groups | {EVERY: usable} if len(groups) > 1 else groups
    return Table.of([_agreement(remedy, cells) for remedy, cells in held.items()], SUMMARY)


def claims(found: Sequence[Foretold], planned: Sequence[Repair], done: Collection[str]) -> list[Claim]:
    """Return whether the intervals cover and whether the estimate ranks; nothing where no such repair is planned.

    planned: the repairs that there should be; done: names of the cells that are finished.
    """
    if not planned:
        return []
    missing = lacks([trusted_name(one) for one in planned], done)
    usable = _usable(found)
    return [_covers(usable, missing), _ranks(usable, missing)]


def about(size: Scale) -> str:
    """Return what a reader should know of the tables."""
    return (
        f"Trust is judged on {size.trusted_block} with {size.trusted_budget:,} clean images and seed 0: each repair is made again, with "
        "known tamperings planted in copies of the suspects. `removed` is (before - after) / before of the real trigger's success on "
        "test images, `estimate` the mean of the same over the plants that took. Before is the highest of the suspects, or of the "
        "copies, whichever a remedy repairs. An interval covers where it holds the measured truth, whose own bounds widen nothing. "
        "Cells of a setting share suspects and plants: intervals of correlations are from resampled settings; Wilson's of the "
        "coverage takes cells as independent, and is too narrow by that. `within_threats` ranks the remedies on one setting."
    )


def left_out(found: Sequence[Foretold]) -> list[str]:
    """Return a sentence about every repair with plants that is in no summary."""
    weak = [one.repair for one in found if not one.counts]
    empty = [one.repair for one in found if one.counts and one.estimate is None]
    lines = (("the first suspect is no evidence", weak), ("no planted tampering took", empty))
    return [
        f"Not among the cells on which trust is judged, because {why}: {', '.join(one.name for one in held)}."
        for why, held in lines
        if held
    ]


def rank_correlation(found: Sequence[Foretold]) -> tuple[float | None, float | None, float | None]:
    """Return Spearman's correlation of estimate and truth, and its 95 % percentile interval over resampled settings.

    found: with an estimate each. None where one of the two is the same in all cells, and bounds None from a single setting. In a
    resample in which one of them is the same throughout nothing is known: it counts as -1 for the lower bound and as 1 for the upper one.
    """
    settings = [one.repair.setting.name for one in found]
    value = _spearman(found)
    if value is None or len(set(settings)) < 2:
        return value, None, None
    draws = rank_correlations(*_pairs(found), resampled(settings).numpy())
    low = float(np.quantile(np.nan_to_num(draws, nan=-1.0), 0.025))
    return value, low, float(np.quantile(np.nan_to_num(draws, nan=1.0), 0.975))


def within_threats(found: Sequence[Foretold]) -> list[float]:
    """Return Spearman's correlation across the remedies of each setting: settings alone, easy or hard, do not make it large.

    found: with an estimate each. Settings in which estimate or truth is the same for all remedies have none.
    """
    values = [_spearman(held) for held in grouped(found, lambda one: one.repair.setting.name).values()]
    return [value for value in values if value is not None]


def _usable(found: Sequence[Foretold]) -> list[Foretold]:
    return [one for one in found if one.counts and one.estimate is not None]


def _agreement(remedy: str, found: Sequence[Foretold]) -> Row:
    row: Row = {"remedy": remedy, "cells": len(found)}
    row["error"] = 100 * fmean([abs(estimate - truth) for estimate, truth in zip(*_pairs(found), strict=True)])
    row |= _three("rank_correlation", rank_correlation(found))
    if within := within_threats(found):
        row |= {"within_threats": fmean(within), "settings": len(within)}
    rate = _coverage(found)
    return row | _percent("coverage", (rate.value, rate.low, rate.high)) | {"width": _width(found)}


def _covers(found: Sequence[Foretold], missing: str) -> Claim:
    text = f"The planted estimate's interval covers the true removal in at least {100 * LEAST_COVERAGE:g} % of cells."
    if not found:
        return Claim(text, f"nothing to compare{missing}", None)
    rate = _coverage(found)
    verdict = True if rate.low >= LEAST_COVERAGE else False if rate.high < LEAST_COVERAGE else None
    return Claim(
        text,
        f"{rate.hits} of {rate.n}: {rate}, mean width {_width(found):.0f} points{missing}",
        None if missing else verdict,
    )


def _ranks(found: Sequence[Foretold], missing: str) -> Claim:
    text = "The planted estimate ranks cells by their true removal: its rank correlation is above 0."
    if not found:
        return Claim(text, f"nothing to compare{missing}", None)
    value, low, high = rank_correlation(found)
    count = f"cells: {len(found)}, settings: {len({one.repair.setting.name for one in found})}"
    if value is None:
        return Claim(text, f"no correlation, estimate or truth is the same in all cells; {count}{missing}", None)
    said, verdict = f"Spearman {decimals(value)} (one setting, no interval)", None
    if low is not None and high is not None:
        said = f"Spearman {decimals(value)} (95 % interval {decimals(low)} to {decimals(high)})"
        verdict = True if low > 0 else False if high <= 0 else None
    if within := within_threats(found):
        said += f", across the remedies of a setting {decimals(fmean(within))}, mean over {len(within)}"
    return Claim(text, f"{said}; {count}{missing}", None if missing else verdict)


def _coverage(found: Sequence[Foretold]) -> Rate:
    return Rate(sum(one.covered for one in found), len(found))


def _width(found: Sequence[Foretold]) -> float:
    """Return the mean width of the intervals, in points."""
    return fmean([100 * (one.estimate[2] - one.estimate[1]) for one in found if one.estimate is not None])


def _pairs(found: Sequence[Foretold]) -> tuple[list[float], list[float]]:
    """Return estimates and truths."""
    return [one.estimate[0] for one in found if one.estimate is not None], [one.truth[0] for one in found]


def _spearman(found: Sequence[Foretold]) -> float | None:
    value = float(rank_correlations(*_pairs(found), np.ones((1, len(found))))[0])
    return None if np.isnan(value) else value


def _rate(entry: report.RateEntry | None) -> Rate:
    assert entry is not None  # the grid measures every model with a trigger
    return Rate.from_json({"value": entry.value, "n": entry.n})


def _percent(name: str, share: Share) -> Row:
    return _three(name, (100 * share[0], 100 * share[1], 100 * share[2]))


def _three(name: str, values: Sequence[float | None]) -> Row:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
