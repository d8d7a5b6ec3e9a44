"""`Table`: a data frame in which every column says its name, unit, direction, split and sample count."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from math import isinf, isnan, nan
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.files import read_json, write_json
from isthmus.rates import hits_of, wilson

Cell = float | int | str | bool | None
Better = Literal["higher", "lower"]
Split = Literal["train", "validation", "test"]
_INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class Column:
    """What a column is: unit ("%", "nat", "1", "s", ...), which direction is better, the split it was measured on, and on how many."""

    name: str
    unit: str = "1"
    better: Better | None = None
    split: Split | None = None
    n: int | None = None
    about: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", "be a column's name", self.name)
        for name, allowed in (("better", get_args(Better)), ("split", get_args(Split))):
            value = getattr(self, name)
            require(value is None or value in allowed, name, f"be None or one of {', '.join(allowed)}", value)
        require(self.n is None or self.n >= 1, "n", f"be at least 1 in column {self.name!r}", self.n)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows and their described columns, in the order of `columns`; `meta` holds JSON values about the whole."""

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    meta: dict[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        require(twice is None, "columns", "have unique names", f"{twice!r} twice")
        present = [str(name) for name in self.frame.columns]
        for name in present:
            require(name in names, "columns", "describe every column of the frame", f"no description of {name!r}")
            require(present.count(name) == 1, "frame", "have unique column names", f"{name!r} twice")
        for name in names:
            require(name in present, "frame", "have every described column", f"no {name!r}")
        try:
            json.dumps(self.meta, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"`meta` should hold only JSON values, no NaN or infinity. Found: {error}.") from error
        # A copy: later changes of the caller's frame do not reach a finished table.
        object.__setattr__(self, "frame", self.frame[names].reset_index(drop=True).copy())

    @classmethod
    def of(
        cls, rows: Sequence[Mapping[str, Cell]], columns: Sequence[Column], meta: Mapping[str, object] | None = None
    ) -> "Table":
        """Return the table of `rows`; a value that a row lacks is missing (NaN). Raises InputError for an undescribed value."""
        names = [column.name for column in columns]
        for row in rows:
            for name in row:
                require(name in names, "columns", "describe every value of the rows", f"no description of {name!r}")
        series = {name: _series([row.get(name) for row in rows], name) for name in names}
        return cls(pd.DataFrame(series, columns=pd.Index(names)), tuple(columns), dict(meta or {}))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.frame)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the column names in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the description of a column. Raises InputError naming the nearest for an unknown one."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown("column", name, self.names)

    def values(self, name: str) -> list[Cell]:
        """Return the values of a column as Python numbers and text; missing ones are None."""
        self.column(name)
        return [_cell(value) for value in self.frame[name].tolist()]

    def rows(self) -> list[dict[str, Cell]]:
        """Return the rows as dictionaries; missing values are None."""
        held = {name: self.values(name) for name in self.names}
        return [{name: held[name][i] for name in self.names} for i in range(len(self))]

    def join(self, other: "Table", *, on: str | Sequence[str]) -> "Table":
        """Return this table with the further columns of `other`, row by row where the columns `on` agree exactly.

        The order is this table's, and so is `meta` where both have a key. Raises InputError where keys repeat, where a row has no
        partner, and where both have a column of one name beyond `on`.
        """
        keys = [on] if isinstance(on, str) else list(on)
        require(bool(keys), "on", "name at least one column", "none")
        for table, name in product((self, other), keys):
            table.column(name)
        shared = [name for name in other.names if name in self.names and name not in keys]
        require(not shared, "other", f"add columns beyond {', '.join(keys)}", f"{', '.join(shared)} in both")
        mine, theirs = (list(zip(*(table.values(name) for name in keys), strict=True)) for table in (self, other))
        place, known = ({key: i for i, key in enumerate(found)} for found in (theirs, mine))
        for label, found, unique in (("self", mine, known), ("other", theirs, place)):
            require(len(unique) == len(found), label, f"have each {', '.join(keys)} once", "repeated rows")
        lost = [key for key in mine if key not in place] + [key for key in theirs if key not in known]
        require(not lost, "other", f"have the same rows in {', '.join(keys)}", f"no partner for {lost[:1]}")
        added = [column for column in other.columns if column.name not in keys]
        right = other.frame[[column.name for column in added]].iloc[[place[key] for key in mine]].reset_index(drop=True)
        return Table(pd.concat([self.frame, right], axis=1), (*self.columns, *added), {**other.meta, **self.meta})

    def to_json(self) -> dict[str, object]:
        """Return `{"rows", "columns", "meta"}`: missing values are null, infinities the text "Infinity" or "-Infinity"."""
        rows = [{name: _finite(value) for name, value in row.items()} for row in self.rows()]
        return {"rows": rows, "columns": [asdict(column) for column in self.columns], "meta": self.meta}

    @classmethod
    def from_json(cls, document: object) -> "Table":
        """Return the table written by :meth:`to_json`, every float to the bit."""
        keys = ("rows", "columns", "meta")
        if not isinstance(document, dict) or any(key not in document for key in keys):
            raise InputError("`document` should be a table with 'rows', 'columns' and 'meta'. Found something else.")
        held = cast(dict[str, object], document)
        try:
            columns = [Column(**entry) for entry in cast(list[dict[str, object]], held["columns"])]  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(
                f"`columns` should hold {', '.join(Column.__dataclass_fields__)}. Found: {error}."
            ) from error
        return cls.of(cast(list[dict[str, Cell]], held["rows"]), columns, cast(dict[str, object], held["meta"]))

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Table":
        """Return the table in a JSON file. Raises InputError where there is none."""
        return cls.from_json(read_json(path))

    def to_markdown(self, *, digits: int = 4) -> str:
        """Return a Markdown table with units in the header and `digits` significant digits; missing values are a dash."""
        heads = [f"{c.name} ({c.unit})" if c.unit not in ("1", "") else c.name for c in self.columns]
        text = [self.values(name) for name in self.names]
        numeric = [all(not isinstance(value, str) for value in column) for column in text]
        lines = [_line(heads), _line(["---:" if right else "---" for right in numeric])]
        lines += [_line([_shown(value, digits) for value in row]) for row in zip(*text, strict=True)]
        return "\n".join(lines) + "\n"


def with_bounds(table: Table) -> Table:
    """Return the table with Wilson 95 % bounds `NAME_low`, `NAME_high` (%) right after each column in % that says its n.

    Columns that have their bounds already are left alone; a missing value has missing bounds. Raises InputError where a value is not
    a share of n samples.
    """
    frame, columns = table.frame.copy(), list[Column]()
    for column in table.columns:
        columns.append(column)
        low, high = f"{column.name}_low", f"{column.name}_high"
        if column.unit != "%" or column.n is None or low in table.names or high in table.names:
            continue
        bounds = [_bounds(value, column.name, column.n) for value in table.values(column.name)]
        for i, (name, side) in enumerate(((low, "lower"), (high, "upper"))):
            frame[name] = pd.Series([pair[i] for pair in bounds], dtype="float64")
            about = f"{side} Wilson 95 % bound of {column.name}, n = {column.n:,}"
            columns.append(Column(name, "%", column.better, column.split, None, about))
    return Table(frame, tuple(columns), table.meta)


def _bounds(value: object, name: str, n: int) -> tuple[float, float]:
    if value is None:
        return nan, nan
    try:
        low, high = wilson(hits_of(cast(float, value) / 100, n) / n, n)
    except (InputError, TypeError) as error:
        raise InputError(f"`{name}` should be a share of its n = {n} samples, in %. Found {value!r}.") from error
    return 100 * low, 100 * high


def _series(values: list[Cell], name: str) -> "pd.Series[float]":
    """Return a column of one kind: booleans, integers, floats (missing = NaN), or text."""
    cells = [_cell(value) for value in values]
    plain = [_INFINITE.get(value, value) if isinstance(value, str) else value for value in cells]
    held = [value for value in plain if value is not None]
    if held and all(isinstance(value, bool) for value in held) and len(held) == len(plain):
        return pd.Series(plain, dtype="bool")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in held):
        whole = bool(held) and len(held) == len(plain) and all(isinstance(value, int) for value in held)
        return pd.Series(plain, dtype="int64" if whole else "float64")
    require(
        all(isinstance(v, str) for v in held), "rows", f"have values of one kind in column {name!r}", repr(held[:3])
    )
    return pd.Series(cells, dtype="object")


def _cell(value: object) -> Cell:
    """Return a plain Python value for one of NumPy or torch; NaN and pandas' missing value become None."""
    plain = cast(object, cast(Tensor, value).item()) if isinstance(value, np.generic | Tensor) else value
    if plain is None or plain is pd.NA or (isinstance(plain, float) and isnan(plain)):
        return None
    require(isinstance(plain, float | int | str), "rows", "hold numbers, text or None", type(plain).__name__)
    return cast(Cell, plain)


def _finite(value: Cell) -> Cell:
    if isinstance(value, float) and isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Cell, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
