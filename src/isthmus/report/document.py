"""`report.json`: the document a repair writes, one strict model for each of its parts."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, Field, JsonValue, model_validator

from isthmus.report.quantities import Calibration, Change, Count, Fraction, RateEntry
from isthmus.report.trust import Candidate, Trust
from isthmus.table import Column, Table

# 2: entries have accuracy by class, calibration, change and DER; the document criteria, sample sizes, candidates and trust. All of
# that is optional, so a document of version 1 is one of version 2 that lacks it.
SCHEMA_VERSION = "2"
READABLE = ("1", SCHEMA_VERSION)

Status = Literal["done", "criteria_not_met", "inconclusive"]
Cell = int | float | str | bool | None

MEASURES: Mapping[str, tuple[str, Literal["higher", "lower"]]] = {
    "clean_accuracy": ("test images classified as labelled", "higher"),
    "attack_success": ("triggered images sent to the attacker's class", "lower"),
    "recovery_accuracy": ("triggered images classified as labelled", "higher"),
}


def upgraded(held: object) -> object:
    """Return what a document of version 1 says as one of this version; anything else as it is."""
    fields = cast(dict[str, object], held) if isinstance(held, dict) else {}
    return {**fields, "schema_version": SCHEMA_VERSION} if fields.get("schema_version") == "1" else held


class Entry(BaseModel, frozen=True, extra="forbid"):
    """One model in the report. `attack_success` and `recovery_accuracy` are null where no trigger is known.

    attack_success_all: of all triggered test images, those of the target class included, as published figures count; null in all-to-all.
    per_class: accuracy on the test images of each class, null for a class without any. change: of accuracy, from the best suspect's.
    effectiveness: the defence effectiveness rating [max(0, fall of attack success) - max(0, fall of accuracy) + 1] / 2; 1 is best, 0.5
    is nothing done; the smallest over the suspects in which the trigger works. format: of the weight file, by its content.
    """

    name: str
    path: str | None = None
    sha256: str | None = None
    clean_accuracy: RateEntry
    attack_success: RateEntry | None = None
    recovery_accuracy: RateEntry | None = None
    attack_success_all: RateEntry | None = None
    loss: float | None = None
    seconds: float | None = None
    gradient_evaluations: Count | None = None
    note: str = ""
    per_class: tuple[RateEntry | None, ...] = ()
    calibration: Calibration | None = None
    change: Change | None = None
    effectiveness: Fraction | None = None
    format: str | None = None

    def rate(self, measure: str) -> RateEntry | None:
        """Return the rate under its name in :data:`MEASURES`, None where it was not measured."""
        rates = (self.clean_accuracy, self.attack_success, self.recovery_accuracy)
        return dict(zip(MEASURES, rates, strict=True))[measure]


class Method(BaseModel, frozen=True, extra="forbid"):
    """What was done, in words and settings."""

    name: str
    description: str
    rule: str
    settings: dict[str, JsonValue] = {}


class Data(BaseModel, frozen=True, extra="forbid"):
    """Which images played which role. `clean_n` counts all that the repair was given: training and validation."""

    name: str
    num_classes: Count
    input_shape: tuple[int, ...]
    clean_n: Count
    train_n: Count
    validation_n: Count
    test_n: Count
    digests: dict[str, str] = {}
    augment: JsonValue = None


class TriggerEntry(BaseModel, frozen=True, extra="forbid"):
    """The trigger that only measured, and the class it sends images to."""

    spec: str
    target: int | str


class ColumnEntry(BaseModel, frozen=True, extra="forbid"):
    """A column of the curve, see :class:`isthmus.table.Column`."""

    name: str
    unit: str
    better: str | None = None
    split: str | None = None
    n: int | None = None
    about: str = ""


class Curve(BaseModel, frozen=True, extra="forbid"):
    """The measurements along a path (rows with `t`) or over a surface (rows with `u` and `v`)."""

    rows: tuple[dict[str, Cell], ...]
    columns: tuple[ColumnEntry, ...]
    meta: dict[str, JsonValue] = {}

    @classmethod
    def of(cls, table: Table) -> Self:
        """Return the curve that holds a table."""
        return cls.model_validate(table.to_json())

    def table(self) -> Table:
        """Return the curve as a table, for plotting and joining."""
        return Table.from_json(self.model_dump())


class Choice(BaseModel, frozen=True, extra="forbid"):
    """The chosen coordinates, the rule that chose them and out of how many candidates."""

    u: tuple[float, ...]
    rule: str
    explanation: str
    candidates: Count


class Geometry(BaseModel, frozen=True, extra="forbid"):
    """Length of the path, distance of its ends, and their ratio (at least 1; null for equal ends)."""

    length: float
    chord: float
    ratio: float | None = None


class Criterion(BaseModel, frozen=True, extra="forbid"):
    """One criterion: what was measured with its 95 % interval, and on which side of the limit the whole of it lies. Fractions.

    value: the attack success, or the fall of accuracy, which is negative where it rose.
    """

    name: Literal["attack_success", "accuracy_drop"]
    status: Status
    limit: Fraction
    value: float
    low: float
    high: float
    n: Annotated[int, Field(ge=1)]


class SampleSize(BaseModel, frozen=True, extra="forbid"):
    """How many images a tighter claim takes: `half` suffice in half of all cases where the rate is as seen, `most` in 80 %.

    Both are null where what was seen contradicts the claim. have: images that there were.
    """

    claim: str
    images: Literal["test images", "triggered test images"]
    have: Count
    half: Count | None = None
    most: Count | None = None


class Cost(BaseModel, frozen=True, extra="forbid"):
    """Seconds and gradient evaluations by stage."""

    seconds: dict[str, float] = {}
    gradient_evaluations: dict[str, int] = {}


class Environment(BaseModel, frozen=True, extra="forbid"):
    """Versions and machine."""

    python: str
    torch: str
    isthmus: str
    platform: str
    threads: int | None = None
    device: str = "cpu"


class Document(BaseModel, frozen=True, extra="forbid"):
    """Everything a repair reports. Rates are fractions in [0, 1]; the curve's columns name their own units."""

    schema_version: Literal["2"] = SCHEMA_VERSION
    title: str
    created: str
    isthmus: str
    command: tuple[str, ...] = ()
    status: Status
    reasons: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    sample_sizes: tuple[SampleSize, ...] = ()
    method: Method
    data: Data
    trigger: TriggerEntry | None = None
    suspects: Annotated[tuple[Entry, ...], Field(min_length=1)]
    repaired: Entry
    baselines: dict[str, Entry] = {}
    curve: Curve | None = None
    choice: Choice | None = None
    candidates: tuple[Candidate, ...] = ()
    trust: Trust | None = None
    geometry: Geometry | None = None
    cost: Cost = Cost()
    environment: Environment
    seeds: dict[str, int] = {}
    files: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, held: object) -> object:
        return upgraded(held)

    def entries(self) -> tuple[tuple[str, Entry], ...]:
        """Return (role, entry) in the order of reading: suspects, repaired, baselines."""
        suspects = [("suspect", entry) for entry in self.suspects]
        return (*suspects, ("repaired", self.repaired), *(("baseline", entry) for entry in self.baselines.values()))


def json_schema() -> dict[str, JsonValue]:
    """Return the JSON Schema (draft 2020-12) of `report.json`, for other programs that read or check it."""
    return Document.model_json_schema()


def comparison_table(document: Document) -> Table:
    """Return one row per model: name, role and each measure in % with its Wilson bounds. Figures for papers are drawn from it."""
    rows: list[dict[str, Cell]] = []
    for role, entry in document.entries():
        row: dict[str, Cell] = {"name": entry.name, "role": role}
        for measure in MEASURES:
            rate = entry.rate(measure)
            if rate is not None:
                bounds = {"": rate.value, "_low": rate.low, "_high": rate.high}
                row |= {measure + suffix: 100 * value for suffix, value in bounds.items()}
        rows.append(row)
    columns = [Column("name", about="model"), Column("role", about="suspect, repaired or baseline")]
    for measure, (about, better) in MEASURES.items():
        counts = [rate.n for _, entry in document.entries() if (rate := entry.rate(measure)) is not None]
        if counts:
            n = counts[0] if len(set(counts)) == 1 else None
            for suffix, bound in (
                ("", ""),
                ("_low", ", Wilson 95 % lower bound"),
                ("_high", ", Wilson 95 % upper bound"),
            ):
                columns.append(Column(measure + suffix, "%", better, "test", n, about + bound))
    return Table.of(rows, columns, {"title": document.title})
