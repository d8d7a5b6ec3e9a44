"""The figure of what planted tamperings foretell: points, bars and the line on which both are equal."""

from pathlib import Path

import pytest

from isthmus._check import InputError
from isthmus.plots.removal import removal_figure
from isthmus.plots.save import save_figure
from isthmus.table import Column, Table

NAMES = ("removed", "removed_low", "removed_high", "estimate", "estimate_low", "estimate_high")
ROWS = [
    ("auto", 98.0, 97.0, 99.0, 90.0, 70.0, 100.0),
    ("auto", 50.0, 45.0, 55.0, 80.0, 75.0, 85.0),
    ("average", -20.0, -25.0, -15.0, 5.0, -40.0, 30.0),
]


def table(*dropped: str, **changes: object) -> Table:
    rows = [dict(zip(("remedy", *NAMES), row, strict=True)) | changes for row in ROWS]
    columns = [Column("remedy"), *(Column(name, "%") for name in NAMES)]
    kept = [column for column in columns if column.name not in dropped]
    return Table.of([{k: v for k, v in row.items() if k not in dropped} for row in rows], kept)


def test_a_point_per_repair_with_its_bars() -> None:
    figure = removal_figure(table())
    (axis,) = figure.axes
    drawn = {line.get_gid(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}
    assert drawn["auto"] == ([90.0, 80.0], [98.0, 50.0])
    assert drawn["average"] == ([5.0], [-20.0])
    ends = [segment.tolist() for held in axis.collections for segment in held.get_segments()]
    assert [[70.0, 98.0], [100.0, 98.0]] in ends
    assert [[80.0, 45.0], [80.0, 55.0]] in ends
    assert (axis.get_xlabel(), axis.get_ylabel()) == (
        "removed of planted tamperings (%)",
        "removed of the real one (%)",
    )
    assert axis.get_xlim() == axis.get_ylim()
    assert axis.get_xlim()[0] < -40 < 100 < axis.get_xlim()[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["auto", "average"]


def test_without_bounds_there_are_no_bars_and_width_counts() -> None:
    figure = removal_figure(table("removed_low", "removed_high", "estimate_low", "estimate_high"), width=5.0)
    ends = [segment for held in figure.axes[0].collections for segment in held.get_segments()]
    assert all((segment[0] == segment[1]).all() for segment in ends)
    assert figure.get_figwidth() == 5.0


def test_the_same_figure_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save_figure(removal_figure(table()), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"`table` should have a column 'estimate'\. Found remedy, removed"):
        removal_figure(table("estimate", "estimate_low", "estimate_high"))
    with pytest.raises(InputError, match=r"`table` should have a row with both shares\. Found 3 rows without"):
        removal_figure(table(estimate=None))
