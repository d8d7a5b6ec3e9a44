"""Heat maps of surfaces: every cell is the table's, one scale for all, marks where they belong, nothing on top of anything else."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text

from isthmus._check import InputError
from isthmus.plots import COLUMN, PAGE, PatchPanel, patches_figure, save_figure
from isthmus.table import Table
from surfaces_example import dome, scanned

HIGH, LOW = scanned(dome(60.0), points=11), scanned(dome(1.0), points=11)


def panels() -> list[PatchPanel]:
    return [PatchPanel("bilinear patch", HIGH, (0.0, 0.1)), PatchPanel("trained surface", LOW)]


def drawn(axis: Axes) -> np.ndarray:
    return np.asarray(axis.get_images()[0].get_array())


def marks(axis: Axes, name: str) -> list[Line2D]:
    return [line for line in axis.get_lines() if line.get_gid() == name]


def test_every_cell_is_the_tables_on_one_scale() -> None:
    figure = patches_figure(panels())
    for axis, panel in zip(figure.axes, panels(), strict=False):
        z = drawn(axis)
        for row in panel.table.rows():
            i, j = round(10 * float(row["u"])), round(10 * float(row["v"]))
            assert z[j, i] == row["test_error"]
        assert axis.get_images()[0].get_extent() == pytest.approx([-0.05, 1.05, -0.05, 1.05])
        assert axis.get_images()[0].origin == "lower"
    scales = [axis.get_images()[0].get_clim() for axis in figure.axes[:2]]
    assert scales[0] == scales[1] == (10.0, 73.0)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["bilinear patch", "trained surface"]
    assert figure.axes[2].get_ylabel() == "test error (%)"
    loss = patches_figure(panels(), column="train_loss")
    assert loss.axes[0].get_images()[0].get_clim() == pytest.approx((0.5, 3.65))
    assert loss.axes[2].get_ylabel() == "train loss (nat)"


def test_corners_and_the_chosen_point_are_marked() -> None:
    first, second, _ = patches_figure(panels()).axes
    for axis in (first, second):
        rim, corners = marks(axis, "corners")
        assert (rim.get_markeredgecolor(), corners.get_markeredgecolor()) == ("white", "black")
        for line in (rim, corners):
            assert sorted(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks(first, "chosen")] == [(0.0, 0.1)] * 2
    assert marks(second, "chosen") == []


def test_few_cells_tell_their_values_and_what_is_missing_stays_blank() -> None:
    few = scanned(dome(60.0), points=3)
    axis = patches_figure([PatchPanel("a", few)]).axes[0]
    told = [text.get_text() for text in axis.texts]
    assert told == ["10", "12", "14", "11", "73", "15", "12", "14", "16"]  # row by row from below
    assert len(patches_figure(panels()).axes[0].texts) == 0
    frame = HIGH.frame.copy()
    frame.loc[60, "test_error"] = np.inf
    holed = Table(frame, HIGH.columns)
    axis = patches_figure([PatchPanel("a", holed)]).axes[0]
    assert np.isnan(np.ma.filled(drawn(axis), np.nan)).sum() == 1
    assert axis.get_images()[0].get_clim()[1] < 73


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_no_text_lies_on_another_or_outside(monkeypatch, width: float) -> None:
    shown = panels() if width == PAGE else [PatchPanel("bilinear patch", scanned(dome(60.0)), (0.25, 0.5))]
    figure = patches_figure(shown, width=width)
    assert figure.get_size_inches()[0] == width
    figure.canvas.draw()
    held, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (held.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in held if text.get_visible() and text.get_text()]
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not first.overlaps(second), (one, other)


def test_a_figure_drawn_again_is_the_same_file(tmp_path) -> None:
    for place in (0, 1):
        save_figure(patches_figure(panels()), tmp_path / f"{place}.svg")
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes()


def test_errors() -> None:
    with pytest.raises(InputError, match=r"`panels` should hold at least one surface\. Found none\."):
        patches_figure([])
    whole = LOW.frame
    broken = Table(whole.iloc[1:], LOW.columns)
    with pytest.raises(
        InputError, match=r"`table` should have each point of a grid over \(u, v\) once\. Found 120 points in 'a'\."
    ):
        patches_figure([PatchPanel("a", broken)])
    uneven = Table(whole.replace({"u": {0.1: 0.15}}), LOW.columns)
    with pytest.raises(InputError, match=r"`table` should have evenly spaced values of u\. Found \[0\.0, 0\.15, 0\.2"):
        patches_figure([PatchPanel("a", uneven)])
    with pytest.raises(InputError, match=r"Found 'test_eror'\. Did you mean 'test_error'\?"):
        patches_figure(panels(), column="test_eror")
    empty = Table(whole.assign(test_error=np.nan), LOW.columns)
    with pytest.raises(InputError, match=r"`panels` should have a finite value of test_error\. Found none\."):
        patches_figure([PatchPanel("a", empty)])
