"""The page of landscapes: its fields are the table's, its scale is shared, and no more is said than was measured."""

import json
import re
from itertools import pairwise
from math import inf

import plotly.graph_objects as go
import pytest

from isthmus._check import InputError
from isthmus.report import write_landscapes
from isthmus.report.blocks import resource
from isthmus.report.landscape import ATTACKED, FROZEN, PROJECTED, Landscape, Scale, rung
from isthmus.report.landscape_figure import contour_figure, lines_figure
from isthmus.report.landscape_page import LandscapeReport, landscape_page
from isthmus.report.landscape_space import surface_figure
from isthmus.table import Column, Table
from landscape_example import MODELS, bowl, landscape
from page_reader import own, read


def page(*panels, **more):
    return landscape_page([LandscapeReport(panel, **more) for panel in panels])


def words(code):
    return " ".join(read(code).text).replace("\xa0", " ")


def traces(figure, kind):
    return [trace for trace in figure["data"] if trace["type"] == kind]


def test_fields_are_rows_over_b_of_values_along_a():
    panel = landscape(count=3)
    assert panel.grid == ([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    values = panel.values("test_loss")
    assert values[2][0] == pytest.approx(bowl(-1.0, 1.0))
    assert values[0][2] == pytest.approx(bowl(1.0, -1.0))
    assert panel.fields() == ["robust_loss", "test_loss", "test_error"]


def test_values_between_points_are_bilinear():
    panel = landscape(count=3)
    corner = [bowl(a, b) for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = 0.75 * (0.5 * corner[0] + 0.5 * corner[2]) + 0.25 * (0.5 * corner[1] + 0.5 * corner[3])
    assert panel.at((0.25, 0.5), "test_loss") == pytest.approx(expected)
    assert panel.at((0.0, 1.0), "test_loss") == pytest.approx(corner[2])
    assert panel.at((1.5, 0.0), "test_loss") is None
    holed = landscape(count=3, gap=(1.0, 1.0))
    assert holed.at((0.25, 0.5), "test_loss") is None
    assert holed.at((0.0, 0.5), "test_loss") is not None
    assert landscape(dim=1, count=3).at((0.5,), "test_loss") == pytest.approx((bowl(0, 0) + bowl(1, 0)) / 2)


def test_contours_are_the_table_on_the_shared_scale():
    panels = [landscape("a"), landscape("b", factor=10.0)]
    scale = Scale.of(panels, "test_loss")
    held = [value for panel in panels for value in panel.known("test_loss")]
    assert (scale.low, scale.high) == (min(held), max(held))
    for panel in panels:
        figure, legend = contour_figure(panel, "test_loss", scale)
        contour = traces(figure, "contour")[0]
        assert contour["customdata"] == panel.values("test_loss")
        assert (contour["x"], contour["y"]) == panel.grid
        assert [line[0] for line in legend] == ["centre"]
        assert figure["layout"]["xaxis"]["title"]["text"] == "a, along eigenvector 1 (unit length)"
        assert contour["colorbar"]["title"]["text"] == "nat"
    one, two = (contour_figure(panel, "test_loss", scale)[0]["data"][0] for panel in panels)
    for key in ("zmin", "zmax", "contours", "colorbar"):
        assert one[key] == two[key]


def test_both_scales_are_offered_for_losses_alone():
    panel = landscape(factor=30.0)
    scale = Scale.of([panel], "test_loss")
    assert scale.log
    figure, _ = contour_figure(panel, "test_loss", scale)
    (menu,) = figure["layout"]["updatemenus"]
    assert [button["label"] for button in menu["buttons"]] == ["linear", "logarithmic"]
    assert menu["active"] == 1
    change = menu["buttons"][0]["args"][0]
    assert change["z"][0] == panel.values("test_loss")
    assert change["contours.showlabels"] == [True, True]
    assert figure["data"][0]["contours"]["showlabels"] is False
    texts = figure["data"][1]
    assert texts["visible"] is True
    for x, y, text in zip(texts["x"], texts["y"], texts["text"], strict=True):
        assert panel.at((x, y), "test_loss") == pytest.approx(float(text), rel=1e-6)
    errors, _ = contour_figure(panel, "test_error", Scale.of([panel], "test_error"))
    assert errors["layout"]["updatemenus"] == []
    assert not Scale.of([landscape(factor=1.0)], "test_error").log


def test_levels_are_round_numbers_inside_the_range():
    scale = Scale(0.013, 4.7, 0.013, "nat")
    assert scale.levels() == [1.0, 2.0, 3.0, 4.0]
    assert scale.log_levels() == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    wide = Scale(0.0, 2e5, 1e-3, "nat")
    assert wide.log_levels() == [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 1e4, 1e5]
    assert Scale(0.0, 1.0, 0.5, "nat").levels() == [0.2, 0.4, 0.6, 0.8]
    rungs = [rung(10 ** (i / 7)) for i in range(-30, 30)]
    assert all(one < two for one, two in pairwise(rungs))
    flat = Scale.of([landscape(error=True, factor=0.0)], "test_loss")
    assert flat.high > flat.low
    assert not flat.can_log


def test_surface_has_the_same_heights_and_colours_in_all_panels():
    panels = [landscape("a"), landscape("b", factor=10.0)]
    scale = Scale.of(panels, "robust_loss")
    one, two = (surface_figure(panel, "robust_loss", scale) for panel in panels)
    assert one["layout"]["scene"]["zaxis"] == two["layout"]["scene"]["zaxis"]
    assert one["data"][0]["cmin"] == two["data"][0]["cmin"]
    assert one["layout"]["scene"]["zaxis"]["title"]["text"] == "loss (nat)"
    mark = traces(one, "scatter3d")[0]
    assert mark["z"] == [pytest.approx(3 * bowl(0.0, 0.0))]
    assert two["data"][0]["z"] == panels[1].values("robust_loss")


def test_marks_tell_models_from_the_trajectory_and_say_what_is_off():
    panel = landscape(anchors=MODELS)
    figure, legend = contour_figure(panel, "test_loss", Scale.of([panel], "test_loss"))
    marks = {trace["legendgroup"]: trace for trace in figure["data"] if "legendgroup" in trace}
    assert marks["model"]["x"] == [0.0, 0.75]  # the third is outside
    assert marks["model"]["text"] == ["1", "2"]
    assert marks["trajectory"]["mode"] == "lines+markers"
    assert marks["trajectory"]["customdata"] == ["s1, 0.7 off the slice", "s2, 0.3 off the slice"]
    assert marks["model"]["customdata"] == ["one", "two"]  # rounding is no distance
    assert [line[:2] for line in legend] == [("model", "models"), ("trajectory", "trajectory")]
    text = words(page(panel))
    assert "outside" in text
    assert "model 3" in text
    assert PROJECTED in text
    assert PROJECTED not in words(page(landscape()))


def test_captions_say_which_examples_and_images():
    text = words(page(landscape()))
    said = "Loss under attack, examples crafted anew at each point (pgd-5, linf 0.1), 50 test images of digits."
    assert said in text
    assert ATTACKED in text
    assert FROZEN not in text
    rows = [
        {"a": a, "b": b, "frozen_loss": 1.0 + a * a, "test_loss": 1.0 + a * a} for a in (0.0, 1.0) for b in (0.0, 1.0)
    ]
    columns = [Column("a"), Column("b"), Column("frozen_loss", "nat"), Column("test_loss", "nat")]
    meta = {**landscape().table.meta, "examples": "crafted once at the centre and frozen (pgd-5, linf 0.1)"}
    frozen = words(page(Landscape("f", Table.of(rows, columns, meta))))
    assert FROZEN in frozen
    assert "crafted once at the centre and frozen (pgd-5, linf 0.1)" in frozen


def test_findings_are_the_numbers_of_the_table():
    panel = landscape(count=5)
    held = panel.known("test_loss")
    said = panel.finding("test_loss")
    assert said == f"Loss: {bowl(0, 0):.3g} nat at the centre, {min(held):.3g} nat to {max(held):.3g} nat in the slice."
    assert "at model 1" in landscape(directions="plane").finding("test_loss")
    assert landscape(gap=(1.0, 1.0)).finding("test_loss").endswith("in the slice; not finite at 1 of 25 points.")
    assert landscape().sentences()[0] == "5 x 5 points of a plane in weight space."


def test_lines_of_a_slice_with_one_axis():
    panels = [landscape("a", dim=1), landscape("b", dim=1, factor=2.0)]
    figure, legend = lines_figure(panels[:1], ["robust_loss", "test_loss"], ["a"])
    assert [trace["y"] for trace in figure["data"]] == [panels[0].values(n)[0] for n in ("robust_loss", "test_loss")]
    assert figure["layout"]["yaxis"]["title"]["text"] == "loss (nat)"
    both, legend = lines_figure(panels, ["test_loss"], ["a", "b"])
    assert [line[1] for line in legend] == ["a: loss", "b: loss"]
    assert [trace["line"]["dash"] for trace in both["data"]] == ["solid", "dash"]
    text = words(page(*panels))
    assert "Along the line" in text
    assert "2 loss landscapes on one scale" in text


def test_order_of_the_page():
    def sections(code):
        return [attributes["id"] for tag, attributes in read(code).tags if tag == "section"]

    alone = page(landscape(), created="2026-11-21T09:30:00+00:00", isthmus="0.1", command=("isthmus", "landscape"))
    assert sections(alone) == ["field-1", "field-2", "slice-1", "provenance", "limits"]
    both = page(landscape("a"), landscape("b", attacked=False))
    assert sections(both) == ["field-1", "field-2", "slice-1", "slice-2", "limits"]  # the fields that both have
    assert "Colours, contours and heights are the same in all panels." in words(both)


@pytest.mark.parametrize("dim", [1, 2])
def test_page_is_whole_asks_nobody_and_its_figures_can_be_drawn(dim):
    code = page(landscape("a", dim=dim), landscape("b", dim=dim, factor=3.0, gap=(1.0, 0.0)))
    reader = read(code)
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert not re.search(r"https?://|@import|url\(", own(code))
    found = re.findall(r'<script type="application/json" id="(plot-\d+)-data">(.*?)</script>', own(code))
    assert len(found) == (2 if dim == 1 else 8)
    palette = resource("page.css").split("prefers-color-scheme: dark")
    for place, data in found:
        assert f'id="{place}"' in own(code)
        for colour in set(re.findall(r"var:([a-z-]+)", data)):
            assert all(f"--{colour}:" in part for part in palette), colour
        figure = json.loads(re.sub(r"var:[a-z-]+", "#123456", data))
        go.Figure(figure)
        for menu in figure["layout"].get("updatemenus", []):
            for button in menu["buttons"]:
                _require_known(figure, button["args"][0])


def _require_known(figure, change):
    """Plotly ignores names that it does not know: each is set on a figure of the same kind."""
    kind = figure["data"][0]["type"]
    trace = {"contour": go.Contour, "surface": go.Surface}[kind]()
    for key, values in change.items():
        trace[key] = values[0]


def test_every_text_is_escaped():
    evil = "<script>alert(1)</script>"
    panel = landscape(evil, anchors=[{"name": evil, "role": "centre", "at": [0.0, 0.0], "off": 0.0}])
    meta = {**panel.table.meta, "data": evil, "examples": evil, "policy": evil}
    held = Landscape(evil, Table(panel.table.frame, panel.table.columns, meta))
    for code in (page(held), page(held, landscape("b"))):
        assert "<script>alert" not in own(code)
        assert "alert(1)" in "".join(read(code).text)


def test_folders_get_one_page(tmp_path):
    for name, factor in (("x", 1.0), ("y", 2.0)):
        (tmp_path / name).mkdir()
        landscape(factor=factor).table.save(tmp_path / name / "landscape.json")
    assert [one.title for one in write_landscapes([tmp_path / "x"])] == [str(tmp_path / "x")]
    assert (tmp_path / "x" / "landscape.html").is_file()
    write_landscapes([tmp_path / "y", tmp_path / "x"])
    assert (tmp_path / "y" / "landscapes.html").is_file()
    with pytest.raises(InputError, match=r"landscape\.json"):
        write_landscapes([tmp_path])


def test_what_is_no_landscape_is_refused():
    plain = Table.of([{"a": 0.0, "test_loss": 1.0}], [Column("a"), Column("test_loss", "nat")])
    with pytest.raises(InputError, match=r"`table` should be a landscape, .* Found in its meta no usable 'kind'"):
        Landscape("x", plain)
    meta = landscape(dim=2).table.meta
    with pytest.raises(InputError, match=r"`table` should have a column for each axis. Found a, test_loss"):
        Landscape("x", Table(plain.frame, plain.columns, meta))
    with pytest.raises(InputError, match=r"`folders` should hold at least one landscape. Found none"):
        landscape_page([])
    with pytest.raises(
        InputError, match=r"`folders` should hold landscapes with the same number of axes. Found \[1, 2"
    ):
        page(landscape(dim=1), landscape())
    one = Landscape("x", Table(plain.frame, plain.columns, landscape(dim=1).table.meta))
    other = Table.of([{"a": 0.0, "test_error": 1.0}], [Column("a"), Column("test_error", "%")])
    with pytest.raises(
        InputError, match=r"`folders` should hold landscapes with a loss or error in common. Found test"
    ):
        page(one, Landscape("y", Table(other.frame, other.columns, one.table.meta)))
    lost = Table.of([{"a": 0.0, "test_loss": inf}], [Column("a"), Column("test_loss", "nat")])
    with pytest.raises(InputError, match=r"`test_loss` should have a finite value somewhere in the slice. Found none"):
        Landscape("x", Table(lost.frame, lost.columns, one.table.meta)).known("test_loss")
