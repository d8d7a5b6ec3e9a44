"""Whether a scan fits: its grid into memory, found before it is made, and its work into time, found after the first rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from isthmus._check import InputError, require
from isthmus.curvature.memory import free_memory, in_words
from isthmus.geometry.bases import Basis
from isthmus.recipes.ensemble_points import count_of
from isthmus.scan import Row

SHARE = 0.5  # of the free memory that the rows may take
CELL = 300  # bytes of one value: measured 145 in a table, its bounds and its rows, which are held twice
FIRST = 2  # rows by which the time is estimated: the first point is a given model, which is not settled


def require_room(basis: Basis, grid: str, columns: int) -> None:
    """Raise InputError where the table of a grid takes more than its share of the free memory, with the points that would fit."""
    count, free = count_of(basis, grid), free_memory(torch.device("cpu"))
    if count is None or free is None:
        return
    budget = int(SHARE * free)
    each = CELL * columns
    found = f"{grid}, {count:,} points, which take about {in_words(count * each)}"
    fix = f"Take at most {budget // each:,} points, or fewer probes."
    require(count * each <= budget, "grid", f"fit into {in_words(budget)}, half of the free memory", found, fix)


@dataclass(eq=False)
class Pace:
    """Passes new rows on to `then`, and stops a scan whose rows will take more than `limit` hours, None for no limit.

    total: rows to be measured. The estimate is the time of the second new row, all probes included, times the rows that are left.
    """

    then: Callable[[Row], None]
    total: int
    limit: float | None
    seen: int = 0
    last: float = field(default_factory=perf_counter)

    def __call__(self, row: Row) -> None:
        """Take one more row. Raises InputError where the scan is estimated to take too long."""
        self.then(row)
        self.seen += 1
        now = perf_counter()
        if self.seen == FIRST and self.limit is not None:
            hours = (now - self.last) * (self.total - FIRST) / 3600
            if hours > self.limit:
                fits = FIRST + int(self.limit * 3600 / (now - self.last))
                fix = f"Take at most {fits:,} points, a smaller --n or --settle-n, fewer probes, or --max-hours {_above(hours)}"
                raise InputError(
                    f"`grid` should take at most {self.limit:g} hours here. Found {self.total:,} points, which take about {hours:,.3g}. "
                    f"{fix} (with --resume where there is --out)."
                )
        self.last = now


def _above(hours: float) -> str:
    """Return a round number of hours, a tenth above the estimate at least."""
    return f"{float(f'{1.2 * hours:.2g}'):g}"
