"""The figure of several pairs: every line is its table's, every title its correlation, and no text lies on another."""

import runpy
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from isthmus._check import InputError
from isthmus.association import associate_columns
from isthmus.plots import COLUMN, PAGE, Panel, evasion_figure, path_figure, save_figure
from isthmus.table import Column, Table

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("robust_example.py"))))
BARRIERS = {"standard": 0.6, "robust": 0.15}


def panels(pairs=tuple(example.PAIRS), paths=("standard", "robust"), **more) -> list[Panel]:
    return [Panel(pair, path, example.table(pair, barrier=BARRIERS[path], **more)) for pair in pairs for path in paths]


@pytest.fixture(scope="module")
def whole() -> tuple[list[Panel], Figure]:
    held = panels()
    return held, evasion_figure(held)


def test_every_line_and_band_is_its_table(whole: tuple[list[Panel], Figure]) -> None:
    held, axes = whole[0], whole[1].axes
    assert len(axes) == 12
    rows = [("test_loss", "robust_loss"), ("test_error", "robust_error"), ("evasion_success",), ("input_eigenvalue",)]
    for row, names in enumerate(rows):
        for column, pair in enumerate(example.PAIRS):
            axis = axes[3 * row + column]
            lines = {line.get_gid(): line for line in axis.get_lines() if line.get_gid()}
            of_pair = [panel for panel in held if panel.title == pair]
            assert set(lines) == {f"{name}, {panel.path} path" for name in names for panel in of_pair}
            for panel in of_pair:
                for name in names:
                    line = lines[f"{name}, {panel.path} path"]
                    assert list(line.get_xdata()) == panel.table.values("t")
                    assert list(line.get_ydata()) == panel.table.values(name)
                    assert line.get_linestyle() == {"standard": "-", "robust": "--"}[panel.path]
    error = axes[3].collections[1].get_paths()[0].vertices[:, 1]
    assert error.max() == pytest.approx(max(held[0].table.values("robust_error_high")))
    quantiles = axes[9].collections[0].get_paths()[0].vertices[:, 1]
    assert quantiles.min() == pytest.approx(min(held[0].table.values("input_eigenvalue_median")))
    assert quantiles.max() == pytest.approx(max(held[0].table.values("input_eigenvalue_q90")))


def test_clean_and_attacked_are_told_apart_without_colour() -> None:
    clean, attacked = evasion_figure(panels(("regular–robust",), ("standard",), points=5)).axes[0].get_lines()
    assert clean.get_marker() == "None"
    assert attacked.get_marker() == "D"
    assert clean.get_color() != attacked.get_color()


def test_titles_hold_the_correlations_of_their_path(whole: tuple[list[Panel], Figure]) -> None:
    held, figure = whole
    for axis, pair in zip(figure.axes[:3], example.PAIRS, strict=True):
        lines = axis.get_title().split("\n")
        assert lines[0] == pair
        for panel, name, said in zip([p for p in held if p.title == pair], lines[1::2], lines[2::2], strict=True):
            found = associate_columns(panel.table, "robust_loss", "input_eigenvalue")
            assert name == f"{panel.path} path:"
            numbers = [
                float(part)
                for part in said.replace("−", "-").replace("(", "").replace("),", "").split()
                if part[-1].isdigit()
            ]
            expected = [found.pearson.value, found.pearson.low, found.pearson.high, found.spearman.value]
            assert numbers == pytest.approx(expected, abs=0.0051)
            assert max(numbers) < 1  # 0.998 is not rounded to a whole one


def test_each_row_has_one_scale_and_every_axis_its_unit(whole: tuple[list[Panel], Figure]) -> None:
    figure = whole[1]
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == [
        "loss (nat)",
        "error (%)",
        "attack success (%)",
        "largest input\neigenvalue\n(nat/input²)",
    ]
    assert [axis.get_yscale() for axis in figure.axes[::3]] == ["log", "linear", "linear", "log"]
    assert all("$t$" in axis.get_xlabel() for axis in figure.axes[-3:])
    for start in (0, 3, 6, 9):
        assert len({axis.get_ylim() for axis in figure.axes[start : start + 3]}) == 1
    narrow = evasion_figure(panels(pairs=("robust–robust",), paths=("robust",)))
    assert narrow.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("width", "pairs"), [(COLUMN, tuple(example.PAIRS)), (PAGE, tuple(example.PAIRS)), (COLUMN, ("regular–robust",))]
)
def test_no_text_lies_on_another_or_outside(
    monkeypatch: pytest.MonkeyPatch, width: float, pairs: tuple[str, ...]
) -> None:
    figure = evasion_figure(panels(pairs=pairs, points=5), width=width)
    figure.canvas.draw()  # settles the layout
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_visible() and text.get_text()]
    assert len(boxes) > 15
    assert figure.get_size_inches()[0] == width
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (one, other)


def test_rows_without_a_column_are_left_out() -> None:
    figure = evasion_figure(panels(drop=("input_eigenvalue", "input_eigenvalue_median", "input_eigenvalue_q90")))
    assert len(figure.axes) == 9
    assert [axis.get_title() for axis in figure.axes[:3]] == list(example.PAIRS)
    only = evasion_figure(panels(drop=("input_eigenvalue_median", "input_eigenvalue_q90")))
    assert len(only.axes[9].get_lines()) == 2


def test_a_path_without_correlation_says_so() -> None:
    rows = [{"t": t, "robust_loss": 2.0, "input_eigenvalue": 1.0 + t} for t in (0.0, 0.3, 0.6, 1.0)]
    table = Table.of(rows, [Column("t"), Column("robust_loss", "nat"), Column("input_eigenvalue", "nat")])
    assert (
        evasion_figure([Panel("a $b", "robust", table)]).axes[0].get_title() == "a \\$b\nrobust path:\nno correlation"
    )


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_saved_twice_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    few = [Panel("a", "robust", example.table(points=5, drop=("test_loss", "robust_loss", "evasion_success")))]
    for file in files:
        save_figure(evasion_figure(few, width=COLUMN), file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_figure_of_one_path_has_the_robust_panels_too() -> None:
    axes = path_figure(example.table(points=5)).axes
    assert [axis.get_ylabel() for axis in axes] == [
        "loss (nat)",
        "error (%)",
        "evasion success (%)",
        "input eigenvalue (nat/input²)",
    ]
    assert [line.get_label() for line in axes[0].get_lines()] == ["loss, test", "loss, attacked"]


def test_wrong_panels_are_refused() -> None:
    table = example.table(points=5)
    with pytest.raises(InputError, match=r"`panels` should hold at least one path. Found none"):
        evasion_figure([])
    with pytest.raises(
        InputError, match=r"`path` should be one of robust, standard. Found 'robus'. Did you mean 'robust'"
    ):
        Panel("a", "robus", table)
    with pytest.raises(
        InputError, match=r"`panels` should have each kind of path once for a pair. Found \('a', 'robust'\) twice"
    ):
        evasion_figure([Panel("a", "robust", table), Panel("a", "robust", table)])
    with pytest.raises(InputError, match=r"`table` should have a column 't'. Found u"):
        Panel("a", "robust", Table.of([{"u": 0.0}], [Column("u")]))
    with pytest.raises(InputError, match=r"`table` should have one of test_loss, .*input_eigenvalue. Found t"):
        Panel("a", "robust", Table.of([{"t": 0.0}], [Column("t")]))
    with pytest.raises(InputError, match=r"`width` should be a positive number of inches. Found 0"):
        evasion_figure(panels(points=5), width=0)
    other = Table.of([{"t": 0.0, "robust_loss": 1.0}], [Column("t"), Column("robust_loss", "bit")])
    with pytest.raises(
        InputError, match=r"`panels` should share one unit of test_loss and robust_loss. Found nat, bit"
    ):
        evasion_figure([Panel("a", "robust", table), Panel("b", "robust", other)])
