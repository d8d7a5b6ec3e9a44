"""How often the triage calls a model suspicious: where nothing was planted, and where something was."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from isthmus.rates import Rate
from isthmus.recipes.repair_grid_cells import UNTAMPERED, Setting
from isthmus.recipes.repair_grid_tables import Row, grouped
from isthmus.recipes.study import Claim
from isthmus.repair.trust.triage import Detection, Null, joint_p_value
from isthmus.report.inspection import InspectDocument
from isthmus.table import Column, Table

LEVEL = 0.05
TRIAGE = (
    Column("data"),
    Column("threat"),
    Column("rate", about="of all training images"),
    Column("models", about="inspected"),
    Column("suspicious", "%", None, None, None, "called so by published thresholds alone"),
    Column("suspicious_low", "%", about="lower Wilson 95 % bound"),
    Column("suspicious_high", "%", about="upper Wilson 95 % bound"),
    Column("inconclusive", "%", about="detectors that disagree, or without a number"),
    Column("calibrated", "%", about=f"p <= {LEVEL:g} against the untampered models, one of them against the others"),
    Column("calibrated_low", "%", about="lower Wilson 95 % bound"),
    Column("calibrated_high", "%", about="upper Wilson 95 % bound"),
)


@dataclass(frozen=True)
class Inspected:
    """What the search for triggers said of one model."""

    setting: Setting
    verdict: str
    detections: tuple[Detection, ...]

    @classmethod
    def read(cls, setting: Setting, document: InspectDocument) -> "Inspected":
        """Return what an inspection says; a detector without a number has NaN."""
        found = document.candidates
        if found is None:
            return cls(setting, "not applicable", ())
        lines = tuple(
            Detection(one.detector, nan if one.statistic is None else one.statistic, one.target, one.flagged)
            for one in found.detections
        )
        return cls(setting, found.verdict, lines)

    @property
    def whole(self) -> bool:
        """Return whether every detector gave a number."""
        return bool(self.detections) and all(one.statistic == one.statistic for one in self.detections)


def triage(inspected: Sequence[Inspected]) -> Table:
    """Return the shares of models called suspicious, by threat and rate; those without tampering are false alarms."""
    rows: list[Row] = []
    for setting, held in grouped(inspected, lambda one: one.setting).items():
        verdicts = [one.verdict for one in held]
        row: Row = {"data": setting.block.name, "rate": setting.rate, "models": len(held)}
        row["threat"] = UNTAMPERED if setting.threat is None else setting.threat.name
        row |= _rate("suspicious", [verdict == "suspicious" for verdict in verdicts])
        row["inconclusive"] = 100 * sum(verdict == "inconclusive" for verdict in verdicts) / len(held)
        known = [p for one in held if (p := p_value(one, inspected)) is not None]
        if known:
            row |= _rate("calibrated", [p <= LEVEL for p in known])
        rows.append(row)
    return Table.of(rows, TRIAGE)


def p_value(one: Inspected, inspected: Sequence[Inspected]) -> float | None:
    """Return the p-value of a model against the untampered ones of its data set but itself; None where none are or a number lacks."""
    block = one.setting.block.name
    others = [
        other
        for other in inspected
        if other is not one and other.setting.threat is None and other.setting.block.name == block and other.whole
    ]
    if not others or not one.whole:
        return None
    names = [found.detector for found in one.detections]
    null = {
        name: tuple(found.statistic for other in others for found in other.detections if found.detector == name)
        for name in names
    }
    return joint_p_value(one.detections, Null(null, f"{len(others)} of {block}"))


def false_alarms(inspected: Sequence[Inspected]) -> Claim | None:
    """Return what the triage by published thresholds says of models that hold nothing; None where none was inspected."""
    held = [one for one in inspected if one.setting.threat is None]
    if not held:
        return None
    rate = Rate(sum(one.verdict == "suspicious" for one in held), len(held))
    text = f"The triage calls at most {100 * LEVEL:g} % of untampered models suspicious."
    verdict = True if rate.high <= LEVEL else False if rate.low > LEVEL else None
    return Claim(text, f"{rate.hits} of {rate.n}: {rate}", verdict)


def _rate(name: str, found: Sequence[bool]) -> Row:
    rate = Rate(sum(found), len(found))
    return {name: 100 * rate.value, f"{name}_low": 100 * rate.low, f"{name}_high": 100 * rate.high}
