"""Which point of a scan its validation images choose."""

from collections.abc import Mapping, Sequence
from math import inf

from isthmus.table import Cell, Table


def chosen(table: Table, names: Sequence[str], by: str = "accuracy") -> dict[str, object]:
    """Return where the point of highest validation accuracy is, among equals that of lowest validation loss, among equals the first.

    by: accuracy, or robustness: accuracy and loss under attack. As JSON values: its coordinates `u`, those of the columns `names`, the
    `rule` and the number of `candidates`; NaN loses to every number.
    """
    of, under = ("validation_robust", " under attack") if by == "robustness" else ("validation", "")

    def rank(row: Mapping[str, Cell]) -> tuple[float, float]:
        error, loss = row[f"{of}_error"], row[f"{of}_loss"]
        return tuple(inf if value is None else float(value) for value in (error, loss))  # type: ignore[return-value]

    best = min(table.rows(), key=rank)
    n = table.column("validation_error").n
    rule = f"highest accuracy{under} on {n:,} validation images, among equals the lowest loss there"
    return {"u": [best[name] for name in names], "rule": rule, "candidates": len(table)}
