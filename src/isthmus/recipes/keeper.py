"""`Keeper`: the rows of a scan, written while they are made and taken over when an interrupted one is resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from time import perf_counter

from isthmus.runs import Run
from isthmus.scan import Row
from isthmus.table import Column, Table
from isthmus.training.session import Monitor


@dataclass(eq=False)
class Keeper:
    """Writes the rows so far as they arrive, at most once in `every` seconds, and tells the monitor.

    columns: of the rows, coordinates first. file: the table's name in the run's folder. names: what the table calls a column of the
    scan, where that differs. meta: of the unfinished table.
    """

    run: Run | None
    total: int
    columns: Sequence[Column]
    monitor: Monitor | None
    file: str
    every: float = 1.0
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    meta: Mapping[str, object] = field(default_factory=dict[str, object])
    rows: list[Row] = field(default_factory=list[Row])
    written: float = 0.0

    def done(self) -> list[Row]:
        """Return the rows of an interrupted scan in the same folder."""
        if self.run is None or not self.run.resumed or not (self.run.folder / self.file).is_file():
            return []
        held = Table.load(self.run.folder / self.file).rows()
        names = [(column.name, self.names.get(column.name, column.name)) for column in self.columns]
        self.rows = [
            {own: nan if (v := row[theirs]) is None else float(v) for own, theirs in names}  # type: ignore[arg-type]
            for row in held
        ]
        return list(self.rows)

    def __call__(self, row: Row) -> None:
        """Take one more row."""
        self.rows.append(row)
        if self.monitor is not None:
            self.monitor(len(self.rows), self.total, row)
        if self.run is not None and perf_counter() - self.written >= self.every:
            table = Table.of(self.rows, self.columns, {**self.meta, "complete": False})
            self.run.save(self.file, renamed(table, self.names).save)
            self.written = perf_counter()


def renamed(table: Table, names: Mapping[str, str]) -> Table:
    """Return the table with columns called as `names` says, the others as they are."""
    columns = tuple(replace(column, name=names.get(column.name, column.name)) for column in table.columns)
    return Table(table.frame.rename(columns=dict(names)), columns, table.meta)
