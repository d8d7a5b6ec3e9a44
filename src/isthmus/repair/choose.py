"""Where along a path to stop, from validation columns alone."""

from dataclasses import dataclass

from isthmus._check import require
from isthmus.rates import Rate
from isthmus.repair.strength import bar
from isthmus.table import Table


@dataclass(frozen=True)
class Choice:
    """The chosen point. accuracy and bar are validation accuracies in [0, 1]; candidates: how many points met the bar."""

    t: float
    accuracy: Rate
    best: Rate
    bar: float
    candidates: int
    rule: str
    explanation: str


def farthest_within(table: Table, *, margin: float, errors: float = 1.0) -> Choice:
    """Return the interior point farthest from both ends whose validation accuracy is near enough to the best interior one.

    Near enough: at least :func:`isthmus.repair.strength.bar` of the best accuracy on the n validation images. Among those points the
    one that maximises min(t, 1 - t) wins: what an end brought with it fades with distance, and validation cannot see it. Ties go to the
    higher accuracy, then to the lower t. Reads only columns marked `validation`.

    margin: in accuracy, such as 0.02. Raises InputError without an interior point.
    """
    column = table.column("validation_error")
    require(
        column.split == "validation",
        "table",
        "have a column validation_error measured on validation data",
        str(column.split),
    )
    n = column.n
    require(n is not None, "table", "say on how many samples validation_error was measured", "no n")
    assert n is not None
    rows = [(float(r["t"]), 1 - float(r["validation_error"]) / 100) for r in table.rows()]  # type: ignore[arg-type]
    inside = [(t, accuracy) for t, accuracy in rows if 0 < t < 1]
    require(bool(inside), "table", "have at least one point strictly between the ends", f"{len(rows)} rows")
    best = max(accuracy for _, accuracy in inside)
    top = Rate(round(best * n), n)
    least = bar(top, margin=margin, errors=errors)
    within = [(t, accuracy) for t, accuracy in inside if accuracy >= least - 1e-12]
    t, accuracy = min(within, key=lambda row: (-round(min(row[0], 1 - row[0]), 12), -row[1], row[0]))
    rule = (
        "farthest from both ends among interior points whose validation accuracy is within "
        f"{100 * (top.value - least):.1f} points of the best interior point (the larger of {100 * margin:.1f} points and {errors:g} "
        f"standard error(s), n = {n:,})"
    )
    found = Rate(round(accuracy * n), n)
    explanation = (
        f"t = {t:g}: validation accuracy {found}; best interior point {top}; bar {100 * least:.1f} %; "
        f"{len(within)} of {len(inside)} interior points met it."
    )
    return Choice(t, found, top, least, len(within), rule, explanation)
