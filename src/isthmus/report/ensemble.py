"""`ensemble.json` as a document, and the sentences about it. The page and the command line say the same thing because both take it here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, JsonValue, ValidationError

from isthmus._check import InputError, require
from isthmus.report.document import Count, RateEntry
from isthmus.report.quantities import Calibration
from isthmus.table import Cell, Table

LIMITS = (
    "What is chosen is chosen on validation images. The best on the test images is known only afterwards and is no method.",
    "Intervals (Wilson, 95 %) and the paired tests cover the sampling of test images only, not the choice of models, seeds or data.",
    "The calibration error is estimated from few images: beside it stands what a perfectly calibrated model would show on as many.",
    "Cost counts forward passes and weights to be held, not time.",
)
ATTACKED = "Accuracy under attack is that of the attack that was run, through the whole combination. A stronger one can only lower it."
COLUMNS = ("name", "kind", "test_accuracy", "test_nll", "test_ece", "test_brier", "members", "passes")


class Named(BaseModel, frozen=True, extra="ignore"):
    """A member and its test accuracy."""

    name: str
    test_accuracy: RateEntry


class Tried(BaseModel, frozen=True, extra="ignore"):
    """A member that the greedy soup tried, in this order, with the validation accuracy of the soup with it."""

    name: str
    validation_accuracy: RateEntry
    kept: bool


class Reliable(BaseModel, frozen=True, extra="ignore"):
    """The calibration, with its bins, of a row of the table."""

    name: str
    kind: str
    calibration: Calibration


class ValidationEntry(BaseModel, frozen=True, extra="ignore"):
    """How many validation images there were, and of how many held out."""

    n: Count
    hold_out: Count | None = None


class EnsembleMeta(BaseModel, frozen=True, extra="ignore"):
    """What the table of `isthmus ensemble` says of itself. regret: a fraction; seconds: of the whole."""

    models: tuple[str, ...] = Field(min_length=1)
    data: str
    members: tuple[str, ...]
    validation: ValidationEntry
    chosen: Named
    hindsight: Named
    regret: FiniteFloat
    greedy: tuple[Tried, ...] = ()
    reliability: tuple[Reliable, ...] = ()
    attack: dict[str, JsonValue] | None = None
    notes: tuple[str, ...] = ()
    points: str | None = None
    settle: str | None = None
    settle_n: Count | None = None
    parameters: Count | None = None
    seed: int | None = None
    seconds: FiniteFloat | None = None


@dataclass(frozen=True, eq=False)
class Combined:
    """The table of `isthmus ensemble`. Raises InputError for a table that is none."""

    table: Table
    meta: EnsembleMeta = field(init=False)

    def __post_init__(self) -> None:
        lost = [name for name in COLUMNS if name not in self.table.names]
        require(not lost, "table", "be of ensembles, as `isthmus ensemble` writes it", f"no column {', '.join(lost)}")
        try:
            meta = EnsembleMeta.model_validate(self.table.meta)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InputError(
                f"`table` should be of ensembles, as `isthmus ensemble` writes it. Found in its meta no usable {where!r}."
            ) from error
        object.__setattr__(self, "meta", meta)

    @property
    def title(self) -> str:
        """Return whose answers and weights were averaged."""
        return f"Ensembles and averages of {', '.join(self.meta.models)}"

    def rows(self, *kinds: str) -> list[dict[str, Cell]]:
        """Return the rows of these kinds, in their order."""
        return [row for row in self.table.rows() if row["kind"] in kinds]


def ensemble_sentences(table: Table) -> list[str]:
    """Return what was chosen, the regret, the greedy soup and the paired tests."""
    meta, rows = Combined(table).meta, table.rows()
    kept = [one.name for one in meta.greedy if one.kept]
    lines = [
        f"chosen on {meta.validation.n:,} validation images: {meta.chosen.name}; on the test images {meta.hindsight.name} is best, which "
        f"is known only afterwards: regret {100 * meta.regret:.4g} %",
    ]
    if kept:
        lines.append(f"greedy soup: {len(kept)} of {len(meta.greedy)} members ({'; '.join(kept)})")
    return lines + [said for row in rows if (said := _gain(row))]


def _gain(row: Mapping[str, Any]) -> str:
    gain, p = row.get("gain"), row.get("gain_p")
    if gain is None or p is None:
        return ""
    return f"{row['name']} less the chosen: {float(gain):+.4g} % (McNemar's exact test: p = {float(p):.3g})"


def warned(table: Table) -> list[str]:
    """Return the warnings about members and combinations."""
    return [f"warning: {note}" for note in Combined(table).meta.notes]
