"""Tables say what their columns are and come back from JSON to the bit."""

import json
from math import inf, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from isthmus._check import InputError
from isthmus.table import Column, Table, with_bounds

COLUMNS = (
    Column("t", about="place"),
    Column("test_loss", "nat", "lower", "test", 1000, "cross-entropy"),
    Column("steps", "1"),
    Column("note", ""),
    Column("chosen", ""),
)
ROWS = [
    {"t": 0.0, "test_loss": 0.1 + 0.2, "steps": 3, "note": "first|model", "chosen": True},
    {"t": 1 / 3, "test_loss": nan, "steps": 4, "note": None, "chosen": False},
    {"t": 1e-300, "test_loss": inf, "steps": 5, "note": "", "chosen": False},
]


def table() -> Table:
    return Table.of(ROWS, COLUMNS, {"seed": 3, "probe": {"name": "clean", "n": [1, None]}})


def test_json_round_trip_is_exact(tmp_path: Path) -> None:
    first = table()
    text = json.dumps(first.to_json(), allow_nan=False)
    path = tmp_path / "table.json"
    first.save(path)
    for second in (Table.from_json(json.loads(text)), Table.load(path)):
        pd.testing.assert_frame_equal(second.frame, first.frame, check_exact=True)
        assert second.columns == first.columns
        assert second.meta == first.meta
        assert second.to_json() == first.to_json()


def test_json_form() -> None:
    document = table().to_json()
    assert list(document) == ["rows", "columns", "meta"]
    rows = document["rows"]
    assert isinstance(rows, list)
    assert rows[0] == ROWS[0]
    assert rows[1]["test_loss"] is None
    assert rows[2]["test_loss"] == "Infinity"


def test_columns_keep_their_kind() -> None:
    kinds = [str(kind) for kind in table().frame.dtypes]
    assert kinds == ["float64", "float64", "int64", "object", "bool"]
    sparse = Table.of([{"a": 1}, {}], [Column("a")])
    assert sparse.values("a") == [1.0, None]
    empty = Table.of([], [Column("a")])
    assert len(empty) == 0
    assert Table.from_json(empty.to_json()).names == ("a",)


def test_numbers_of_numpy_and_torch_become_plain() -> None:
    found = Table.of([{"a": np.float32(0.5)}, {"a": torch.tensor(2.0)}], [Column("a")])  # type: ignore[dict-item]
    assert found.values("a") == [0.5, 2.0]
    assert all(type(value) is float for value in found.values("a"))


def test_a_finished_table_does_not_follow_its_frame() -> None:
    frame = pd.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0]}, index=[7, 8])
    made = Table(frame, (Column("a"), Column("b")))
    frame.loc[7, "a"] = -1.0
    assert made.rows() == [{"a": 3.0, "b": 1.0}, {"a": 4.0, "b": 2.0}]
    assert list(made.frame.index) == [0, 1]


def test_markdown() -> None:
    assert table().to_markdown(digits=3) == (
        "| t | test_loss (nat) | steps | note | chosen |\n"
        "| ---: | ---: | ---: | --- | ---: |\n"
        "| 0 | 0.3 | 3 | first\\|model | True |\n"
        "| 0.333 | - | 4 | - | False |\n"
        "| 1e-300 | inf | 5 |  | False |\n"
    )


def test_join_matches_rows_by_key() -> None:
    left = Table.of([{"t": 0.0, "a": 1.0}, {"t": 1 / 3, "a": 2.0}], [Column("t"), Column("a")], {"seed": 1})
    added = Column("b", "%", "lower", "test", 50)
    right = Table.of([{"t": 1 / 3, "b": 20.0}, {"t": 0.0, "b": 10.0}], [Column("t"), added], {"seed": 2, "more": 3})
    found = left.join(right, on="t")
    assert found.rows() == [{"t": 0.0, "a": 1.0, "b": 10.0}, {"t": 1 / 3, "a": 2.0, "b": 20.0}]
    assert found.column("b") == added
    assert found.meta == {"seed": 1, "more": 3}


def test_join_refuses_what_does_not_match() -> None:
    columns = [Column("t"), Column("a")]
    left = Table.of([{"t": 0.0, "a": 1.0}, {"t": 1.0, "a": 2.0}], columns)
    with pytest.raises(InputError, match=r"`other` should add columns beyond t\. Found a in both"):
        left.join(left, on="t")
    with pytest.raises(InputError, match=r"`on` should name at least one column\. Found none"):
        left.join(left, on=[])
    with pytest.raises(InputError, match=r"`column` should be one of a, t\. Found 's'"):
        left.join(left, on="s")
    other = [Column("t"), Column("b")]
    short = Table.of([{"t": 0.0, "b": 1.0}], other)
    long = Table.of([{"t": 0.0, "b": 1.0}, {"t": 1.0, "b": 1.0}, {"t": 0.5, "b": 1.0}], other)
    twice = Table.of([{"t": 0.0, "b": 1.0}, {"t": 0.0, "b": 1.0}], other)
    with pytest.raises(
        InputError, match=r"`other` should have the same rows in t\. Found no partner for \[\(1\.0,\)\]"
    ):
        left.join(short, on="t")
    with pytest.raises(
        InputError, match=r"`other` should have the same rows in t\. Found no partner for \[\(0\.5,\)\]"
    ):
        left.join(long, on="t")
    with pytest.raises(InputError, match=r"`other` should have each t once\. Found repeated rows"):
        left.join(twice, on="t")


def test_undescribed_and_missing_columns_are_refused() -> None:
    frame = pd.DataFrame({"a": [1.0]})
    with pytest.raises(
        InputError, match=r"`columns` should describe every column of the frame\. Found no description of 'a'"
    ):
        Table(frame, ())
    with pytest.raises(InputError, match=r"`frame` should have every described column\. Found no 'b'"):
        Table(frame, (Column("a"), Column("b")))
    with pytest.raises(InputError, match=r"`columns` should have unique names\. Found 'a' twice"):
        Table(frame, (Column("a"), Column("a")))
    with pytest.raises(InputError, match=r"`frame` should have unique column names\. Found 'a' twice"):
        Table(pd.concat([frame, frame], axis=1), (Column("a"),))
    with pytest.raises(
        InputError, match=r"`columns` should describe every value of the rows\. Found no description of 'b'"
    ):
        Table.of([{"a": 1.0, "b": 2.0}], [Column("a")])
    with pytest.raises(InputError, match=r"`column` should be one of a\. Found 'aa'\. Did you mean 'a'\?"):
        Table(frame, (Column("a"),)).column("aa")


def test_values_that_json_or_a_column_cannot_hold_are_refused() -> None:
    with pytest.raises(InputError, match=r"`rows` should hold numbers, text or None\. Found list"):
        Table.of([{"a": [1, 2]}], [Column("a")])  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"`rows` should have values of one kind in column 'a'\. Found \[1, 'x'\]"):
        Table.of([{"a": 1}, {"a": "x"}], [Column("a")])
    for meta in ({"a": nan}, {"a": object()}):
        with pytest.raises(InputError, match=r"`meta` should hold only JSON values, no NaN or infinity\. Found: "):
            Table.of([], [Column("a")], meta)


def test_bad_descriptions_are_refused() -> None:
    with pytest.raises(InputError, match=r"`better` should be None or one of higher, lower\. Found more"):
        Column("a", better="more")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`split` should be None or one of train, validation, test\. Found dev"):
        Column("a", split="dev")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`n` should be at least 1 in column 'a'\. Found 0"):
        Column("a", n=0)
    with pytest.raises(InputError, match=r"`name` should be a column's name\. Found "):
        Column("")


def test_documents_that_are_no_table_are_refused(tmp_path: Path) -> None:
    for document in ([], {"rows": [], "meta": {}}):
        with pytest.raises(InputError, match=r"`document` should be a table with 'rows', 'columns' and 'meta'\."):
            Table.from_json(document)
    with pytest.raises(InputError, match=r"`columns` should hold name, unit, .* Found: .*'colour'"):
        Table.from_json({"rows": [], "columns": [{"name": "a", "colour": 1}], "meta": {}})
    with pytest.raises(InputError, match="should be a file that can be read"):
        Table.load(tmp_path / "none.json")


def rates() -> Table:
    columns = [
        Column("t"),
        Column("test_loss", "nat", "lower", "test", 250),
        Column("test_error", "%", "lower", "test", 250),
        Column("share", "%"),
    ]
    rows = [
        {"t": 0.0, "test_loss": 0.5, "test_error": 100 * 20 / 250, "share": 33.3},
        {"t": 1.0, "test_loss": 0.4, "test_error": None, "share": 50.0},
    ]
    return Table.of(rows, columns, {"seed": 1})


def test_bounds_follow_their_column() -> None:
    found = with_bounds(rates())
    assert found.names == ("t", "test_loss", "test_error", "test_error_low", "test_error_high", "share")
    expected = binomtest(20, 250).proportion_ci(method="wilson")
    assert found.rows()[0]["test_error_low"] == pytest.approx(100 * expected.low)
    assert found.rows()[0]["test_error_high"] == pytest.approx(100 * expected.high)
    assert found.rows()[1]["test_error_low"] is None
    low = found.column("test_error_low")
    assert (low.unit, low.better, low.split, low.n) == ("%", "lower", "test", None)
    assert found.meta == {"seed": 1}
    assert with_bounds(found).to_json() == found.to_json()


@pytest.mark.parametrize("value", [8.1, 120.0, -4.0, inf, "8"])
def test_bounds_of_what_is_no_share_are_refused(value: float | str) -> None:
    bad = Table.of([{"test_error": value}], [Column("test_error", "%", "lower", "test", 250)])
    with pytest.raises(InputError, match=r"`test_error` should be a share of its n = 250 samples, in %\. Found "):
        with_bounds(bad)
