"""The figure of landscapes: contours at the table's values, one scale, marks where the models are, no text on another."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.text import Text

from isthmus._check import InputError
from isthmus.plots import COLUMN, PAGE, save_figure
from isthmus.plots.landscape import landscape_figure
from isthmus.report.landscape import Scale
from landscape_example import MODELS, landscape


def contours(axis) -> tuple[QuadContourSet, QuadContourSet]:
    filled, lines = (held for held in axis.get_children() if isinstance(held, QuadContourSet))
    return filled, lines


def test_contours_of_all_panels_are_the_levels_of_one_scale():
    panels = [landscape("one"), landscape("two", factor=3.0)]
    figure = landscape_figure(panels)
    scale = Scale.of(panels, "robust_loss")
    assert [axis.get_title() for axis in figure.axes[:2]] == ["one", "two"]
    for axis, panel in zip(figure.axes[:2], panels, strict=True):
        filled, lines = contours(axis)
        assert list(lines.levels) == scale.log_levels()
        assert (filled.norm.vmin, filled.norm.vmax) == (scale.floor, scale.high)
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            for x, y in path.vertices:
                if abs(x) <= 1 and abs(y) <= 1:
                    # Between the points, contours are those of straight lines along the sides of a cell.
                    assert panel.at((x, y), "robust_loss") == pytest.approx(level, rel=0.02)
    assert len(figure.axes) == 3  # one colour bar
    assert figure.axes[2].get_ylabel() == "loss under attack (nat)"
    assert figure.axes[0].get_xlabel() == "a, along eigenvector 1\n(unit length)"


def test_each_its_own_scale_where_not_shared():
    panels = [landscape("one"), landscape("two", factor=3.0)]
    figure = landscape_figure(panels, shared=False, column="test_loss")
    assert len(figure.axes) == 4
    ends = [contours(axis)[0].norm.vmax for axis in figure.axes[:2]]
    assert ends == [max(panel.known("test_loss")) for panel in panels]


def test_column_kind_and_scale_can_be_asked_for():
    panels = [landscape()]
    error = landscape_figure(panels, column="test_error")
    assert error.axes[-1].get_ylabel() == "error (%)"
    linear = landscape_figure(panels, log=False)
    scale = Scale.of(panels, "robust_loss")
    assert list(contours(linear.axes[0])[1].levels) == scale.levels()
    space = landscape_figure(panels, kind="surface")
    assert space.axes[0].name == "3d"
    assert space.axes[0].get_zlim() == pytest.approx((np.log10(scale.floor), np.log10(scale.high)))
    assert next(text.get_text() for text in space.axes[0].get_zticklabels()) == f"{scale.log_levels()[0]:g}"
    plain = landscape_figure(panels, kind="surface", log=False)
    assert plain.axes[0].get_zlim() == pytest.approx((scale.low, scale.high))
    assert [axis.name for axis in landscape_figure(panels, kind="both").axes[:2]] == ["rectilinear", "3d"]


def test_models_are_numbered_and_the_trajectory_drawn():
    axis = landscape_figure([landscape(anchors=MODELS)]).axes[0]
    marks = [line for line in axis.get_lines() if line.get_gid() == "model"]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.0, 0.75]
    assert {"1", "2"} <= {text.get_text() for text in axis.texts}
    (path,) = [line for line in axis.get_lines() if line.get_gid() == "trajectory"]
    assert list(path.get_xdata()) == [-0.5, -0.25]
    assert landscape_figure([landscape(directions="trajectory")]).axes[0].get_aspect() == "auto"


def test_lines_along_one_axis():
    panels = [landscape("one", dim=1), landscape("two", dim=1, factor=2.0)]
    (axis,) = landscape_figure(panels, column="test_loss").axes
    lines = [line for line in axis.get_lines() if line.get_label() in ("one", "two")]
    for line, panel in zip(lines, panels, strict=True):
        assert list(line.get_xdata()) == panel.grid[0]
        assert list(line.get_ydata()) == panel.values("test_loss")[0]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert axis.get_ylabel() == "loss (nat)"


@pytest.mark.parametrize(("width", "count"), [(COLUMN, 1), (PAGE, 1), (PAGE, 3)])
@pytest.mark.parametrize("dim", [1, 2])
def test_no_text_lies_on_another_or_outside(monkeypatch, width, count, dim):
    figure = landscape_figure([landscape(f"budget {i}", dim=dim) for i in range(count)], width=width)
    figure.canvas.draw()  # settles the layout
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    held = [text for text in drawn if text.get_visible() and text.get_text() and text.get_rotation() in (0, 90)]
    boxes = [(text.get_text(), text.get_window_extent()) for text in held]
    assert len(boxes) > 8
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (one, other)


def test_points_that_are_not_finite_are_gaps():
    for kind in ("contours", "surface"):
        figure = landscape_figure([landscape(gap=(1.0, 1.0))], kind=kind)
        figure.draw_without_rendering()


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_saved_twice_is_the_same_file(tmp_path, suffix):
    before = dict(mpl.rcParams)
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        save_figure(landscape_figure([landscape()], kind="both", width=COLUMN), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert dict(mpl.rcParams) == before


def test_wrong_panels_are_refused():
    with pytest.raises(InputError, match=r"`panels` should hold at least one landscape. Found none"):
        landscape_figure([])
    with pytest.raises(InputError, match=r"`kind` should be one of both, contours, surface. Found 'contour'"):
        landscape_figure([landscape()], kind="contour")
    with pytest.raises(InputError, match=r"`panels` should have the same number of axes. Found \[1, 2\]"):
        landscape_figure([landscape(dim=1), landscape()])
    with pytest.raises(InputError, match=r"`column` should be one of robust_loss, test_error, test_loss. Found 'loss'"):
        landscape_figure([landscape()], column="loss")
    with pytest.raises(InputError, match=r"`log` should be used for a loss. Found test_error"):
        landscape_figure([landscape()], column="test_error", log=True)
    with pytest.raises(InputError, match=r"`width` should be a positive number of inches. Found 0"):
        landscape_figure([landscape()], width=0)
