"""Two ways in which adversarial training fails, recognised from what was measured: catastrophic overfitting and a constant classifier.

Both read rows with a column `step`, a :class:`Table` or plain mappings, and return a sentence where something is wrong, so with their
further arguments bound they are alarms of :class:`Follow`. The sentence stays the same while its cause lasts.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.table import Cell, Table

Rows = Table | Sequence[Mapping[str, Cell]]


def catastrophic(
    rows: Rows,
    column: str,
    *,
    drop: float = 20.0,
    trained: str | None = None,
    exempt: Sequence[tuple[float, float]] = (),
) -> str | None:
    """Return the first fall of robust accuracy by more than `drop` points from one check to the next, in words, or None.

    Wong et al. 2020 stop training there: the model has learned to withstand the single step it was trained with and nothing else.
    A later recovery does not undo the fall. Check about once an epoch: more frequent checks may spread one fall over several.

    column: robust error in % under an attack of many steps on a probe batch (in a table a column whose better direction is "higher" is an
    accuracy). trained: the error in % under the attack trained with; where it fell together with the other, the whole model failed, and
    the sentence says so. exempt: pairs of steps (from, to) within which a fall is expected, as from a reset of the budget until it is
    full again (`Budget.climbs`). Rows without a value are passed over. Raises InputError for an unknown column, for values that are no
    share in %, and for `drop` outside (0, 100).
    """
    require(0 < drop < 100, "drop", "be points of accuracy between 0 and 100", drop)
    accuracy = _accuracy(rows, column)
    for (first, before), (last, after) in pairwise(accuracy):
        if before - after <= drop or any(start < last and first < end for start, end in exempt):
            continue
        fell = f"fell from {before:.1f} % at step {first:g} to {after:.1f} % at step {last:g}"
        if trained is not None and _fell(_accuracy(rows, trained), (first, last), drop):
            return f"Collapse: robust accuracy ({column}) {fell}, and so did accuracy under the attack trained with ({trained})."
        return (
            f"Catastrophic overfitting: robust accuracy ({column}) {fell}. The weights from before are the ones to keep; "
            "train with more attack steps or more noise."
        )
    return None


def stuck(
    rows: Rows, labels: Tensor | Sequence[int], *, column: str = "error", last: int = 3, within: float = 0.5
) -> str | None:
    """Return that the model answers one class for everything, where its robust error says so, or None.

    The signature (Liu et al. 2020): robust error equal to one minus the share of the largest class, here to `within` points in each of
    the `last` rows. A model that is merely bad is seldom so exactly as bad.

    column: robust error in %, counted on the samples with these `labels`, such as a probe's on a fixed part of the training set. Rows of
    a history average over few batches and scatter more: raise `within`, or log more rarely. Rows without a value are passed over.
    Raises InputError for an unknown column, no labels, `last` below 1 and `within` not above 0.
    """
    require(last >= 1, "last", "be at least 1", last)
    require(within > 0, "within", "be above 0 points", within)
    classes, counts = torch.as_tensor(labels).flatten().unique(return_counts=True)
    require(len(classes) > 0, "labels", "hold at least one label", "none")
    largest = int(counts.argmax())
    constant = 100 * (1 - counts[largest].item() / counts.sum().item())
    found = [(step, 100 - accuracy) for step, accuracy in _accuracy(rows, column)]
    near = [abs(error - constant) <= within for _, error in found]
    if len(found) < last or not all(near[-last:]):
        return None
    since = len(near) - near[::-1].index(False) if False in near else 0
    return (
        f"Constant classifier: {column} has been {constant:.2f} % to within {within:g} points since step {found[since][0]:g}, "
        f"the error of always answering class {int(classes[largest])}. Start from a smaller radius or learning rate."
    )


def _accuracy(rows: Rows, column: str) -> list[tuple[float, float]]:
    """Return (step, accuracy in %) of each row that has the column, from an error or an accuracy."""
    if isinstance(rows, Table):
        higher = rows.column(column).better == "higher"
        steps, values = rows.values("step"), rows.values(column)
    else:
        for name in ("step", column):
            if rows and not any(name in row for row in rows):
                raise unknown("column", name, {known for row in rows for known in row})
        higher = False
        steps, values = [row.get("step") for row in rows], [row.get(column) for row in rows]
    held: list[tuple[float, float]] = []
    for step, value in zip(steps, values, strict=True):
        if value is None or value != value:  # NaN differs from itself
            continue
        for name, cell in (("step", step), (column, value)):
            if isinstance(cell, bool) or not isinstance(cell, int | float):
                raise InputError(f"`{name}` should be a number in every row. Found {cell!r}.")
        share = float(cast(float, value))
        require(0 <= share <= 100, column, "be a share in %, from 0 to 100", share)
        held.append((float(cast(float, step)), share if higher else 100 - share))
    return held


def _fell(accuracy: Sequence[tuple[float, float]], steps: tuple[float, float], drop: float) -> bool:
    """Return whether `accuracy` too fell by more than `drop` points between two steps."""
    at = dict(accuracy)
    return all(step in at for step in steps) and at[steps[0]] - at[steps[1]] > drop
