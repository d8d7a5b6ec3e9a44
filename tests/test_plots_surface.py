"""Figures of surfaces: levels at the table's values, marks where the models are, ternary axes, no text on another."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.text import Text
from matplotlib.tri import TriContourSet

from isthmus._check import InputError
from isthmus.plots import COLUMN, PAGE, save_figure
from isthmus.plots.surface import edges_figure, surface_figure
from isthmus.report.landscape import Scale
from isthmus.report.surface import Surface
from isthmus.report.ternary import TOP
from surface_example import loss, surface, table


def marks(axis, gid):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.get_lines() if line.get_gid() == gid]


def test_maps_have_the_levels_of_their_column():
    held = surface(count=9)
    figure = surface_figure(held, columns=["test_loss", "test_error"])
    assert [axis.get_title() for axis in figure.axes[:4:2]] == ["loss, test", "error, test"]
    assert figure.axes[1].get_ylabel() == "loss, test (nat)"
    lines = [part for part in figure.axes[0].get_children() if isinstance(part, QuadContourSet)][1]
    scale = Scale.of([held.panel], "test_loss")
    assert list(lines.levels) == scale.levels()
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for u, v in path.vertices:
            assert held.panel.at((u, v), "test_loss") == pytest.approx(level, rel=0.05)
    assert marks(figure.axes[0], "corner") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert marks(figure.axes[0], "chosen") == [(0.5, 0.25)]
    assert {"A a", "B b", "C c", "D d"} <= {text.get_text() for text in figure.axes[0].texts}


def test_columns_kind_and_scale_can_be_asked_for():
    held = surface()
    usual = surface_figure(held)
    assert [axis.get_title() for axis in usual.axes if axis.get_title()] == [
        "loss, test",
        "error, test",
        "error, attacked",
    ]
    both = surface_figure(held, columns=["test_loss"], kind="both")
    assert [axis.name for axis in both.axes[:2]] == ["rectilinear", "3d"]
    assert surface_figure(held, columns=["test_loss"], kind="space").axes[0].name == "3d"
    scale = Scale.of([held.panel], "test_loss")
    log = surface_figure(held, columns=["test_loss"], log=True)
    lines = [part for part in log.axes[0].get_children() if isinstance(part, QuadContourSet)][1]
    assert list(lines.levels) == scale.log_levels()
    one = surface_figure(Surface.of(table(drop=("test_loss", "test_error", "robust_error"))))
    assert one.axes[0].get_title() == "error, validation"
    assert surface_figure(held, width=COLUMN).get_figwidth() == COLUMN


def test_a_triangle_is_a_ternary_plot():
    held = surface(triangle=True, count=9)
    axis = surface_figure(held, columns=["test_loss"]).axes[0]
    filled, lines = (part for part in axis.get_children() if isinstance(part, TriContourSet))
    assert list(lines.levels) == Scale.of([held.panel], "test_loss").levels()
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for x, y in path.vertices:
            v = y / TOP
            assert loss(x - v / 2, v) == pytest.approx(level, abs=0.06)
    assert filled.norm.vmax == pytest.approx(max(row["test_loss"] for row in held.table.rows()))
    assert marks(axis, "corner") == [(0, 0), (1, 0), (0.5, TOP)]
    said = [text.get_text() for text in surface_figure(held, columns=["test_error"]).axes[0].texts]
    assert said.count("0.2") == said.count("0.8") == 3
    assert {"share of A", "share of B", "share of C"} <= set(said)
    space = surface_figure(held, columns=["test_loss"], kind="space").axes[0]
    assert len(space.collections[0].get_facecolor()) == 64


def test_edges_stand_one_after_the_other():
    held = surface()
    figure = edges_figure(held, panels=[["test_loss"], ["test_error", "robust_error"]])
    (line, *_) = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [i / 4 for i in range(17)]
    assert list(line.get_ydata()) == held.border().values("test_loss")
    assert [text.get_text().split("\n")[0] for text in figure.axes[-1].get_xticklabels()] == ["A", "B", "D", "C", "A"]
    assert len(edges_figure(held).axes) == 2
    assert edges_figure(held, width=PAGE).get_figwidth() == PAGE


@pytest.mark.parametrize("triangle", [False, True])
@pytest.mark.parametrize(("width", "columns"), [(COLUMN, ["test_loss"]), (PAGE, None)])
def test_no_text_lies_on_another_or_outside(monkeypatch, width, columns, triangle):
    figure = surface_figure(surface(triangle=triangle), columns=columns, width=width)
    figure.canvas.draw()  # settles the layout
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    levels = [
        text
        for axis in figure.axes
        for part in axis.get_children()
        if isinstance(part, QuadContourSet | TriContourSet)
        for text in part.labelTexts
    ]
    held = [text for text in drawn if text.get_visible() and text.get_text() and text not in levels]
    boxes = [(text.get_text(), text.get_window_extent()) for text in held if text.get_rotation() in (0, 90)]
    assert len(boxes) > 8
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (one, other)


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_saved_twice_is_the_same_file(tmp_path, suffix):
    before = dict(mpl.rcParams)
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        save_figure(surface_figure(surface(triangle=True), columns=["test_loss"], kind="both", width=COLUMN), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("triangle", [False, True])
def test_points_that_are_not_finite_are_gaps(triangle):
    held = surface(triangle=triangle, lose={(0.25, 0.25): np.nan, (0.0, 0.0): np.inf}.items())
    surface_figure(held, columns=["test_loss"], kind="both").draw_without_rendering()


def test_wrong_figures_are_refused():
    with pytest.raises(InputError, match=r"`kind` should be one of both, maps, space. Found 'map'"):
        surface_figure(surface(), kind="map")
    with pytest.raises(InputError, match=r"`columns` should be one of .*test_loss.*. Found 'loss'"):
        surface_figure(surface(), columns=["loss"])
    with pytest.raises(InputError, match=r"`columns` should name at least one column. Found none"):
        surface_figure(surface(), columns=[])
    with pytest.raises(InputError, match=r"`surface` should have recorded corners and measured edges. Found 0 corner"):
        edges_figure(surface(record=False))
