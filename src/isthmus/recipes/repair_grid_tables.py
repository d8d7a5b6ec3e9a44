"""What the repairs of the grid came to: means over the same cells for every remedy, and which cells are no evidence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from isthmus import report
from isthmus.recipes.repair_grid_cells import UNTAMPERED, Repair, Setting
from isthmus.recipes.study import mean_and_sd
from isthmus.table import Better, Cell, Column, Table

LEAST_ATTACK = 50.0  # %: where a trigger works less often, nobody can tell a repair from none
Row = dict[str, Cell]
Recorded = Mapping[str, float | int]
T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Rates:
    """What was measured of one model, in %; attack and recovery are None without a trigger."""

    accuracy: float
    attack: float | None = None
    recovery: float | None = None

    @classmethod
    def of(cls, entry: report.Entry) -> "Rates":
        """Return the rates of a report's entry."""
        found = [entry.clean_accuracy, entry.attack_success, entry.recovery_accuracy]
        accuracy, attack, recovery = (None if rate is None else 100 * rate.value for rate in found)
        assert accuracy is not None
        return cls(accuracy, attack, recovery)

    @classmethod
    def recorded(cls, accuracy: Recorded, attack: Recorded | None, recovery: Recorded | None) -> "Rates":
        """Return the rates that the record of a training holds."""
        found = [None if rate is None else 100 * float(rate["value"]) for rate in (attack, recovery)]
        return cls(100 * float(accuracy["value"]), *found)


@dataclass(frozen=True)
class Model:
    """A model as it was trained, before any repair."""

    setting: Setting
    rates: Rates


@dataclass(frozen=True)
class Result:
    """One repair. before: the suspects, in the order in which the remedy got them. effectiveness: least DER, in %.

    floor: attack success (%) of the same trigger on untampered models, None while it is not known.
    """

    repair: Repair
    before: tuple[Rates, ...]
    after: Rates
    effectiveness: float | None
    seconds: float
    evaluations: int
    floor: float | None = None

    @classmethod
    def read(cls, repair: Repair, document: report.Document, floor: float | None = None) -> "Result":
        """Return what a report says."""
        after = document.repaired
        return cls(
            repair=repair,
            before=tuple(Rates.of(entry) for entry in document.suspects),
            after=Rates.of(after),
            effectiveness=None if after.effectiveness is None else 100 * after.effectiveness,
            seconds=after.seconds or 0.0,
            evaluations=after.gradient_evaluations or 0,
            floor=floor,
        )

    @property
    def drop(self) -> float:
        """Return the fall of accuracy from the better suspect, in points."""
        return max(rates.accuracy for rates in self.before) - self.after.accuracy

    @property
    def attack(self) -> float:
        """Return the attack success after the repair, in %."""
        return self.after.attack or 0.0

    @property
    def case(self) -> tuple[str, int]:
        """Return what all remedies have in common: setting and seed."""
        return self.repair.setting.name, self.repair.seed

    @property
    def tampered(self) -> bool:
        """Return whether there was anything to remove."""
        return self.repair.setting.threat is not None

    @property
    def counts(self) -> bool:
        """Return whether it is evidence: the first suspect, which most remedies repair, works and so does its trigger."""
        first = self.before[0]
        return (first.attack or 0.0) >= LEAST_ATTACK and first.accuracy >= self.repair.setting.block.least


def _spread(name: str, unit: str, better: Better | None, about: str) -> tuple[Column, Column]:
    spread = Column(f"{name}_sd", unit, None, "test", None, "standard deviation over cells")
    return Column(name, unit, better, "test", None, f"{about}, mean over cells"), spread


_FALL = (
    *_spread("drop", "points", "lower", "fall of accuracy from the better suspect"),
    Column("drop_worst", "points", "lower", "test", None, "largest of a cell"),
)
REMEDIES = (
    Column("budget", about="clean images"),
    Column("remedy"),
    Column("cells", about="the same for all remedies of a budget"),
    *_spread("attack_success", "%", "lower", "attack success after the repair"),
    Column("attack_success_worst", "%", "lower", "test", None, "largest of a cell"),
    Column(
        "above_floor",
        "points",
        "lower",
        "test",
        None,
        "attack success less that of the trigger on untampered models, mean",
    ),
    *_spread("recovery_accuracy", "%", "higher", "triggered images classified as labelled"),
    *_spread("clean_accuracy", "%", "higher", "accuracy after the repair"),
    *_FALL,
    Column("effectiveness", "%", "higher", "test", None, "least DER over the suspects, mean over cells"),
    Column("seconds", "s", "lower", None, None, "mean over cells"),
    Column("evaluations", about="gradients of one batch, mean over cells"),
)
CONTROL = (
    Column("budget", about="clean images"),
    Column("remedy"),
    Column("cells"),
    *_spread("clean_accuracy", "%", "higher", "accuracy after the repair"),
    *_FALL,
    Column(
        "false_target_before",
        "%",
        None,
        "test",
        None,
        "images with a trigger nobody planted sent to its class, first suspect",
    ),
    Column("false_target", "%", None, "test", None, "the same after the repair: what attack success cannot fall below"),
)
SUSPECTS = (
    Column("data"),
    Column("threat"),
    Column("rate", about="of all training images"),
    Column("models"),
    *_spread("clean_accuracy", "%", "higher", "accuracy"),
    Column("attack_success", "%", None, "test", None, "mean over models"),
    Column("attack_success_least", "%", None, "test", None, "of a model"),
    Column("recovery_accuracy", "%", "higher", "test", None, "mean over models"),
    Column(
        "untampered",
        "%",
        None,
        "test",
        None,
        "attack success of the same trigger on models that were not tampered with: the floor",
    ),
)


def compared(results: Iterable[Result]) -> list[Result]:
    """Return the repairs of cells that, at their budget, every remedy finished: means over different cells do not compare.

    A remedy that finished less than half as many cells as the median remedy is left out, not the cells.
    """
    kept: list[Result] = []
    for found in grouped(results, lambda one: one.repair.budget).values():
        cases = {remedy: {one.case for one in held} for remedy, held in grouped(found, _remedy).items()}
        usual = median(len(one) for one in cases.values())
        common = {remedy: held for remedy, held in cases.items() if 2 * len(held) >= usual}
        shared = set[tuple[str, int]].intersection(*common.values())
        kept += [one for one in found if _remedy(one) in common and one.case in shared]
    return kept


def remedies(results: Sequence[Result]) -> Table:
    """Return means, spreads and worst cells of each remedy at each budget."""
    rows: list[Row] = []
    for (budget, remedy), held in grouped(results, lambda one: (one.repair.budget, _remedy(one))).items():
        attacks, drops = [one.attack for one in held], [one.drop for one in held]
        recovered = [one.after.recovery for one in held if one.after.recovery is not None]
        row: Row = {"budget": budget, "remedy": remedy, "cells": len(held)}
        row |= _means("attack_success", attacks) | {"attack_success_worst": max(attacks)}
        above = [one.attack - one.floor for one in held if one.floor is not None]
        row["above_floor"] = mean_and_sd(above)[0]
        row |= _means("recovery_accuracy", recovered)
        row |= _means("clean_accuracy", [one.after.accuracy for one in held])
        row |= _means("drop", drops) | {"drop_worst": max(drops)}
        rated = [one.effectiveness for one in held if one.effectiveness is not None]
        row["effectiveness"] = mean_and_sd(rated)[0]
        row["seconds"] = mean_and_sd([one.seconds for one in held])[0]
        row["evaluations"] = mean_and_sd([float(one.evaluations) for one in held])[0]
        rows.append(row)
    return Table.of(rows, REMEDIES)


def by_threat(results: Sequence[Result], value: Callable[[Result], float], unit: str) -> Table:
    """Return a row for each remedy with the mean of `value` for each threat and rate, over data sets and seeds."""
    return crossed(results, ("remedy", _remedy), _kind, value, unit)


def crossed(
    results: Sequence[Result],
    rows: tuple[str, Callable[[Result], str]],
    columns: Callable[[Result], str],
    value: Callable[[Result], float],
    unit: str,
) -> Table:
    """Return the mean of `value`, over all cells of a kind. rows: title and name of a row; columns: name of a column."""
    title, down = rows
    kinds = list(dict.fromkeys(map(columns, results)))
    described = [Column(title), *(Column(kind, unit, "lower", "test", None, "mean over cells") for kind in kinds)]
    found: list[Row] = []
    for name, held in grouped(results, down).items():
        by_kind = grouped(held, columns)
        means = {kind: mean_and_sd([value(one) for one in some])[0] for kind, some in by_kind.items()}
        found.append({title: name, **means})
    return Table.of(found, described)


def unused(results: Sequence[Result], kept: Sequence[Result]) -> list[str]:
    """Return a sentence about the results that are no evidence, and one about those that are not compared. kept: those that are."""
    found: list[str] = []
    weak = {one.case: one.before[0] for one in results if one.tampered and not one.counts}
    if weak:
        lines = [
            f"{setting}, seed {seed} (attack success {rates.attack or 0:.1f} %, accuracy {rates.accuracy:.1f} %)"
            for (setting, seed), rates in weak.items()
        ]
        found.append(f"Dropped, because the first suspect is no evidence: {'; '.join(lines)}.")
    used = {one.repair.name for one in kept}
    spare = [one for one in results if one.tampered and one.counts and one.repair.name not in used]
    if spare:
        lines = [f"{remedy} {len(held)}" for remedy, held in grouped(spare, _remedy).items()]
        found.append(f"Finished, but of cells that other remedies have not finished: {', '.join(lines)}.")
    return found


def control(results: Sequence[Result]) -> Table:
    """Return what each remedy costs where there was nothing to remove."""
    rows: list[Row] = []
    for (budget, remedy), held in grouped(results, lambda one: (one.repair.budget, _remedy(one))).items():
        drops = [one.drop for one in held]
        row: Row = {"budget": budget, "remedy": remedy, "cells": len(held)}
        row |= _means("clean_accuracy", [one.after.accuracy for one in held])
        row |= _means("drop", drops) | {"drop_worst": max(drops)}
        row["false_target_before"] = mean_and_sd([one.before[0].attack or 0.0 for one in held])[0]
        row["false_target"] = mean_and_sd([one.attack for one in held])[0]
        rows.append(row)
    return Table.of(rows, CONTROL)


def suspects(models: Sequence[Model], floors: Mapping[tuple[str, str, str], float]) -> Table:
    """Return what was trained. floors: `Setting.floor` -> attack success (%) on untampered models."""
    rows: list[Row] = []
    for setting, held in grouped(models, lambda one: one.setting).items():
        rates = [one.rates for one in held]
        attacks = [one.attack for one in rates if one.attack is not None]
        threat = UNTAMPERED if setting.threat is None else setting.threat.name
        row: Row = {"data": setting.block.name, "threat": threat, "models": len(held)}
        row |= _means("clean_accuracy", [one.accuracy for one in rates])
        row["recovery_accuracy"] = mean_and_sd([one.recovery for one in rates if one.recovery is not None])[0]
        row |= {"attack_success": mean_and_sd(attacks)[0], "attack_success_least": min(attacks, default=None)}
        row |= {"rate": setting.rate, "untampered": floors.get(setting.floor)}
        rows.append(row)
    return Table.of(rows, SUSPECTS)


def grouped(held: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the members of each group, groups and members in the order in which they come."""
    found: dict[K, list[T]] = {}
    for one in held:
        found.setdefault(key(one), []).append(one)
    return found


def _remedy(result: Result) -> str:
    return result.repair.remedy


def _kind(result: Result) -> str:
    setting = result.repair.setting
    return UNTAMPERED if setting.threat is None else f"{setting.threat.name}-{setting.rate:g}"


def _means(name: str, values: Sequence[float]) -> Row:
    mean, deviation = mean_and_sd(values)
    return {name: mean, f"{name}_sd": deviation}
