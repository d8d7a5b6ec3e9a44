"""`align.json` and `lines.json` as a document, and the sentences about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from pydantic import BaseModel, Field, FiniteFloat, JsonValue

from isthmus.report.text import number
from isthmus.table import Cell, Table

LIMITS = (
    "Matching finds one order of the hidden units, not the best one: another method or another start may find a nearer one.",
    "REPAIR is measured at the middle of the line alone, because it depends on the weights there.",
    "The highest values are those of the measured points: more points can only raise them.",
    "Intervals (Wilson, 95 %) cover the sampling of test images only, not the choice of models, seeds or data.",
)
WEIGHTS = {"plain": "as they came", "permuted": "units matched"}


class UnitsEntry(BaseModel, frozen=True, extra="ignore"):
    """A group of hidden units that change places together."""

    name: str
    size: int


class AlignedEntry(BaseModel, frozen=True, extra="ignore"):
    """One aligned model: likeness and distance to the reference before and after, and how far its outputs changed."""

    model: str
    likeness_before: FiniteFloat
    likeness_after: FiniteFloat
    distance_before: FiniteFloat
    distance_after: FiniteFloat
    output_change: FiniteFloat


class BarrierEntry(BaseModel, frozen=True, extra="ignore"):
    """A barrier of the line to one model, of a column, under a definition."""

    model: str
    weights: str
    statistics: str
    of: str
    name: str
    value: float
    t: float | None
    unit: str
    definition: str
    citation: str


class RepairEntry(BaseModel, frozen=True, extra="ignore"):
    """The layers that REPAIR corrected, those whose BatchNorm was recomputed, and those left."""

    corrected: tuple[str, ...] = ()
    normalised: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class AlignDocument(BaseModel, frozen=True, extra="ignore"):
    """What `isthmus align` found, as far as the page shows it. midpoints: a table as JSON values."""

    reference: str
    by: str
    arch: str
    data: str
    n: int
    groups: tuple[UnitsEntry, ...]
    unpermuted: tuple[str, ...]
    models: tuple[AlignedEntry, ...] = Field(min_length=1)
    midpoints: dict[str, JsonValue]
    barriers: tuple[BarrierEntry, ...]
    repair: RepairEntry
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return what was aligned to what."""
        return f"{', '.join(entry.model for entry in self.models)} aligned to {self.reference}"


@dataclass(frozen=True, eq=False)
class Alignment:
    """An alignment: its document, the table of the middles, and that of all points of the lines."""

    document: AlignDocument
    midpoints: Table
    lines: Table | None = None

    def rows(self, model: str) -> list[dict[str, Cell]]:
        """Return what was measured in the middle of the line to a model, a row for each way of it."""
        return [row for row in self.midpoints.rows() if row["model"] == model]


def way(row: dict[str, Cell]) -> str:
    """Return in words what was done to a row's models: `units matched, REPAIR`."""
    return f"{WEIGHTS.get(str(row['weights']), str(row['weights']))}, {row['statistics']}"


def align_sentences(alignment: Alignment) -> list[str]:
    """Return for each model its accuracy in the middle of the line before and after, its likeness and its distance."""
    said: list[str] = []
    for entry in alignment.document.models:
        rows = alignment.rows(entry.model)
        first = next((row for row in rows if row["weights"] == "plain"), None)
        last = next((row for row in reversed(rows) if row["weights"] == "permuted"), None)
        middle = ""
        if first is not None and last is not None:
            middle = f": test accuracy in the middle of the line {_percent(first)} → {_percent(last)} ({way(last)})"
        moved = f"distance to {alignment.document.reference} {number(entry.distance_before)} → {number(entry.distance_after)}"
        said.append(
            f"{entry.model}{middle}; {moved}, likeness {entry.likeness_before:.3g} → {entry.likeness_after:.3g}."
        )
    return said


def units_sentences(document: AlignDocument) -> list[str]:
    """Return how many hidden units may change places, and that the models compute what they did."""
    units, groups = sum(group.size for group in document.groups), len(document.groups)
    change = max(entry.output_change for entry in document.models)
    return [
        f"{units:,} hidden units of {document.arch} in {groups} group{'s' if groups != 1 else ''} may change places; they were matched by "
        f"{document.by} on {document.n:,} training images of {document.data} at most.",
        f"After that the models compute what they did: the largest change of an output is {change:.1e} of the largest output.",
    ]


def _percent(row: dict[str, Cell]) -> str:
    value = row["test_accuracy"]
    return f"{value:.1f} %" if isinstance(value, int | float) and isfinite(value) else "not a number"


def layers(names: Sequence[str]) -> str:
    """Return names in one line, `none` without any."""
    return ", ".join(names) or "none"
