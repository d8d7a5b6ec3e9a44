"""Paper figures: what is drawn is what the table holds, and matplotlib's global state stays as it was."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

from isthmus._check import InputError
from isthmus.plots import comparison_figure, path_figure, save_figure
from isthmus.report import comparison_table
from isthmus.table import Column, Table

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_example.py"))))


@pytest.fixture(scope="module")
def table() -> Table:
    return example.path().table()


def losses(**more: list[float | None]) -> Table:
    columns = [Column("t"), Column("test_loss", "nat"), Column("validation_error", "%"), Column("note", "")]
    rows = [{"t": t, "test_loss": 1.0 + t, "validation_error": 10.0, "note": "x"} for t in (0.0, 0.5, 1.0)]
    for name, values in more.items():
        rows = [row | {name: value} for row, value in zip(rows, values, strict=True)]
    return Table.of(rows, columns)


def test_lines_and_bands_are_the_table(table: Table) -> None:
    figure = path_figure(table, chosen=0.3, ends=("a", "cost_$1"))
    error, attack = figure.axes
    lines = {line.get_label(): line for line in (*error.get_lines(), *attack.get_lines())}
    assert list(lines["error, test"].get_xdata()) == example.T
    assert list(lines["error, test"].get_ydata()) == table.values("test_error")
    assert list(lines["attack success"].get_ydata()) == table.values("attack_success")
    band = error.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(min(table.values("test_error_low")))
    assert band[:, 1].max() == pytest.approx(max(table.values("test_error_high")))
    for axis in figure.axes:
        assert any(list(line.get_xdata()) == [0.3, 0.3] for line in axis.get_lines())
    assert (error.get_ylabel(), attack.get_ylabel()) == ("error (%)", "triggered images (%)")
    assert "t" in attack.get_xlabel()
    assert [note.get_text() for note in attack.texts] == ["a", r"cost_\$1"]


def test_order_and_gaps_of_the_rows_do_not_matter() -> None:
    held = losses(t=[1.0, 0.0, 0.5], test_loss=[2.0, 1.0, None])
    line = path_figure(held, panels=[["test_loss"]]).axes[0].get_lines()[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.0, 1.0], [1.0, 2.0])


def test_losses_get_their_own_panel_and_unit() -> None:
    assert [axis.get_ylabel() for axis in path_figure(losses()).axes] == ["test loss (nat)", "validation error (%)"]


def test_an_unlisted_column_can_be_drawn() -> None:
    columns = [Column("t"), Column("sharp_ness", "1")]
    axis = path_figure(Table.of([{"t": 0.0, "sharp_ness": 2.0}], columns), panels=[["sharp_ness"]]).axes[0]
    assert (axis.get_lines()[0].get_label(), axis.get_ylabel()) == ("sharp ness", "sharp ness")


def test_width_is_in_inches(table: Table) -> None:
    assert path_figure(table, width=5.0).get_size_inches()[0] == 5.0
    assert comparison_figure(comparison_table(example.document()), width=6.0).get_size_inches()[0] == 6.0
    with pytest.raises(InputError, match=r"`width` should be a positive number of inches. Found -1"):
        path_figure(table, width=-1.0)


def test_comparison_draws_each_model_with_its_interval() -> None:
    held = comparison_table(example.document())
    axis = comparison_figure(held).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == held.values("name")
    attack = next(box for box in axis.containers if box.get_label() == "attack success")
    dots, _, bars = attack
    assert list(dots.get_xdata()) == held.values("attack_success")
    ends = [segment[:, 0].tolist() for segment in bars[0].get_segments()]
    assert ends[2] == pytest.approx([held.values("attack_success_low")[2], held.values("attack_success_high")[2]])
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row is on top
    plain = comparison_figure(comparison_table(example.document(False))).axes[0]
    assert [box.get_label() for box in plain.containers] == ["accuracy"]


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_saved_twice_is_the_same_file(tmp_path: Path, table: Table, suffix: str, start: bytes) -> None:
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        save_figure(path_figure(table, chosen=0.3), file)
    assert files[0].read_bytes().startswith(start)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in files]


def test_global_state_is_untouched(tmp_path: Path, table: Table) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(path_figure(table), tmp_path / "a.pdf")
    save_figure(comparison_figure(comparison_table(example.document())), tmp_path / "b.svg")
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from isthmus.plots import path_figure; from isthmus.table import Column, Table\n"
        "path_figure(Table.of([{'t': 0.0, 'test_error': 1.0}], [Column('t'), Column('test_error', '%')]))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_wrong_tables_are_refused(tmp_path: Path, table: Table) -> None:
    surface = example.surface().table()
    with pytest.raises(InputError, match=r"`table` should have a column 't'. Found u, v"):
        path_figure(surface)
    with pytest.raises(InputError, match=r"`column` should be one of .* Did you mean 'test_error'"):
        path_figure(table, panels=[["test_eror"]])
    with pytest.raises(InputError, match=r"`table` should have a column of loss, error or attack success. Found t"):
        path_figure(Table.of([{"t": 0.0}], [Column("t")]))
    with pytest.raises(InputError, match=r"`panels` should share one unit in each panel. Found nat, %"):
        path_figure(losses(), panels=[["test_loss", "validation_error"]])
    with pytest.raises(InputError, match=r"`table` should have numbers in column 'note'. Found 'x'"):
        path_figure(losses(), panels=[["note"]])
    with pytest.raises(InputError, match=r"`table` should have numbers in column 'test_loss'. Found none"):
        path_figure(losses(test_loss=[None, None, None]))
    with pytest.raises(InputError, match=r"`table` should have a column 'name'. Found t"):
        comparison_figure(table)
    with pytest.raises(InputError, match=r"`path` should be one of pdf, png, svg. Found 'jpg'"):
        save_figure(path_figure(table), tmp_path / "a.jpg")
