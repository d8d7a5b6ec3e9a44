"""The page of a scanned surface: figures are the table's, paths its measured points, barriers those of the closed form."""

import json
import re
from math import inf, nan

import numpy as np
import plotly.graph_objects as go
import pytest

from isthmus._check import InputError
from isthmus.barrier import barriers
from isthmus.report import write_scan
from isthmus.report.blocks import resource, switch
from isthmus.report.scan_page import ScanReport, scan_page
from isthmus.report.scan_record import short_names
from isthmus.report.scan_text import chosen_sentences, scan_barriers, scan_verdict
from isthmus.report.surface import Surface
from isthmus.report.surface_maps import map_figure
from isthmus.report.surface_page import ticked
from isthmus.report.surface_space import space_figure
from isthmus.table import Column, Table
from page_reader import own, read
from surface_example import NAMES, loss, surface, table

SECTIONS = ["surface", "maps", "edges", "diagonals", "values", "barriers", "measured", "limits"]


def traces(figure, kind):
    return [trace for trace in figure["data"] if trace["type"] == kind]


def test_corners_are_lettered_in_the_order_of_the_files():
    held = surface()
    assert [corner.name for corner in held.corners.values()] == list(NAMES)
    assert held.names == {"A": "a", "B": "b", "C": "c", "D": "d"}
    assert held.walk == ["A", "B", "D", "C", "A"]
    assert held.diagonals == [("A", "D"), ("B", "C")]
    assert surface(triangle=True).walk == ["A", "B", "C", "A"]
    assert surface(triangle=True).diagonals == []
    assert surface(record=False).walk == []
    assert Surface.of(table(record=False), names=NAMES).walk == held.walk
    assert held.fields == ["test_loss", "test_error", "robust_error", "validation_error"]


def test_short_names_say_where_paths_differ():
    assert short_names(["x/a/m.pt", "x/b/m.pt", "x/b/n.pt"]) == ["a/m.pt", "b/m.pt", "b/n.pt"]
    assert short_names([]) == []
    long = [f"runs/cifar10-resnet18-{kind}-seed-0/m.pt" for kind in ("patch", "low-frequency")]
    assert short_names(long) == ["patch", "low-frequency"]
    assert short_names(["same", "same"]) == ["same", "same"]


def test_paths_hold_the_measured_points_on_them():
    held = surface()
    path = held.path("B", "C")  # from (0, 1) to (1, 0)
    assert path.values("t") == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert path.values("test_loss") == pytest.approx([loss(t, 1 - t) for t in (0, 0.25, 0.5, 0.75, 1)])
    border = held.border()
    assert border.values("t") == [i / 4 for i in range(17)]
    assert border.values("test_loss")[:5] == pytest.approx([loss(0, v / 4) for v in range(5)])  # A to B: u = 0
    assert border.values("test_loss")[8:13] == pytest.approx([loss(1, 1 - v / 4) for v in range(5)])  # D to C: u = 1
    assert border.values("test_loss")[0] == border.values("test_loss")[-1]
    side = surface(triangle=True).path("B", "C")
    assert side.values("test_loss") == pytest.approx([loss(1 - t, t) for t in (0, 0.25, 0.5, 0.75, 1)])
    assert surface(count=2).border() is None  # nothing between the corners
    whole = table(count=5)
    part = Table(whole.frame.iloc[:-3], whole.columns, whole.meta)  # without D
    assert Surface.of(part).path("A", "D") is None
    assert Surface.of(part).border() is None


def test_barriers_of_edges_are_those_of_the_paths():
    held = surface()
    found = held.edge_barriers("test_loss")
    assert set(found) == {*held.edges, *held.diagonals}
    assert found["A", "B"]["git_re_basin"].value == pytest.approx(0.05)  # a straight line from 0.1 to 0.2
    assert found["A", "B"]["entezari"].value == pytest.approx(0)
    assert found["A", "D"]["entezari"].value == pytest.approx(1)  # the hill alone
    assert found["A", "D"] == barriers(held.path("A", "D"), value="test_loss")


def test_headline_and_table_are_the_closed_form():
    held = table()
    found, missing = scan_barriers(held)
    assert missing == ""
    assert found["test_loss"]["entezari"].value == pytest.approx(1)
    assert found["test_loss"]["draxler_rise"].value == pytest.approx(0.25 + 1 - 0.4)
    assert "Above the worst corner of the surface, test loss rises by 0.85 nat at (u, v) = (0.5, 0.5)" in scan_verdict(
        held, found
    )
    text = " ".join(read(scan_page(ScanReport(held))).text).replace("\xa0", " ")
    assert "1.25 nat" in text  # worst
    assert f"{np.mean([loss(u / 4, v / 4) for u in range(5) for v in range(5)]):.3g} nat" in text
    assert "0.25 nat" in text  # mean corner
    assert "above the line 1 nat at 0.5" in text  # of a diagonal


def test_chosen_point_says_its_rule_and_its_regret():
    said = chosen_sentences(table())
    assert said[0] == "Chosen: (u, v) = (0.5, 0.25), out of 25 points. Rule: highest accuracy on 100 validation images."
    own_error, best = round(10 + 20 * loss(0.5, 0.25)), 12
    assert said[1].endswith(f"regret {own_error - best:.1f} points.")
    assert chosen_sentences(table(chosen=False)) == []


@pytest.mark.parametrize("name", ["test_loss", "test_error"])
def test_the_surface_in_space_is_the_table(name):
    held = surface()
    figure, legend = space_figure(held, name)
    (sheet,) = traces(figure, "surface")
    assert (sheet["x"], sheet["y"]) == ([0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1])
    for i, row in enumerate(sheet["z"]):  # rows over v
        assert row == [held.value((u, held.panel.grid[1][i]), name) for u in held.panel.grid[0]]
    assert [line[0] for line in legend] == ["edges", "diagonals", "corners", "chosen"]
    assert [trace["legendgroup"] for trace in traces(figure, "scatter3d")] == [
        "edges",
        "diagonals",
        "corners",
        "chosen",
    ]
    edges, diagonals, corners, chosen = traces(figure, "scatter3d")
    assert edges["x"].count(None) == 4
    assert (diagonals["x"][2], diagonals["y"][2]) == (0.5, 0.5)
    assert (corners["x"], corners["y"]) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert [text.split()[0] for text in corners["text"]] == ["A", "B", "C", "D"]
    assert (chosen["x"], chosen["y"]) == ([0.5], [0.25])
    low, high = (f([v for row in sheet["z"] for v in row]) for f in (min, max))
    assert 0 < chosen["z"][0] - held.value((0.5, 0.25), name) < 0.02 * (high - low)


def test_losses_of_many_sizes_get_a_logarithmic_height():
    steep = table(lose={(0.5, 0.5): 100.0}.items())
    scene = space_figure(Surface.of(steep), "test_loss")[0]["layout"]["scene"]
    assert scene["zaxis"]["type"] == "log"
    assert space_figure(Surface.of(steep), "test_error")[0]["layout"]["scene"]["zaxis"]["type"] == "linear"


def test_a_map_is_the_table_with_its_marks():
    held = surface()
    figure = map_figure(held, "test_error")
    (contour,) = traces(figure, "contour")
    assert contour["z"] == [[held.value((u, v), "test_error") for u in held.panel.grid[0]] for v in held.panel.grid[1]]
    marks = [trace for trace in traces(figure, "scatter") if trace["mode"] == "markers"]
    assert [(list(m["x"]), list(m["y"])) for m in marks] == [([0, 0, 1, 1], [0, 1, 0, 1]), ([0.5], [0.25])]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["A a", "B b", "C c", "D d"]
    three = map_figure(surface(triangle=True), "test_error")
    points = next(trace for trace in traces(three, "scatter") if "customdata" in trace)
    assert len(points["x"]) == 15
    assert points["customdata"][0] == ["A 1, B 0, C 0", 12.0]
    said = [note["text"] for note in three["layout"]["annotations"]]
    assert {"share of B →", "← share of C", "← share of A", "A a", "B b", "C c"} <= set(said)


def test_edges_have_their_corners_as_ticks():
    held = surface()
    figure = ticked({"data": [], "layout": {"xaxis": {"anchor": "y"}}}, held.walk, held)
    axis = figure["layout"]["xaxis"]
    assert axis["tickvals"] == [0, 1, 2, 3, 4]
    assert axis["ticktext"] == ["A a", "B b", "D d", "C c", "A a"]
    assert axis["anchor"] == "y"


@pytest.mark.parametrize("triangle", [False, True])
def test_page_is_whole_asks_nobody_and_its_figures_can_be_drawn(triangle):
    code = scan_page(ScanReport(table(triangle=triangle)))
    reader = read(code)
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == [name for name in SECTIONS if name != "diagonals" or not triangle]
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert not re.search(r"https?://|@import|url\(", own(code))
    found = re.findall(r'<script type="application/json" id="(plot-\d+)-data">(.*?)</script>', own(code))
    assert len(found) == 4 + 4 + 1 + (0 if triangle else 2)
    palette = resource("page.css").split("prefers-color-scheme: dark")
    for place, data in found:
        assert f'id="{place}"' in own(code)
        for colour in set(re.findall(r"var:([a-z-]+)", data)):
            assert all(f"--{colour}:" in part for part in palette), colour
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", data)))
    shown = [attributes for tag, attributes in reader.tags if tag == "div" and attributes.get("class") == "panel"]
    assert ["hidden" in attributes for attributes in shown] == [False, True, True, True]
    plots = [attributes for tag, attributes in reader.tags if attributes.get("class") == "plot"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)


def test_a_switch_has_a_button_for_each_panel():
    code = switch("s", "What <is> shown", [("one", "<p>1</p>"), ("<two>", "<p>2</p>")])
    assert code.count('type="radio"') == 2
    assert "&lt;two&gt;" in code
    assert "What &lt;is&gt; shown" in code
    assert '<div class="panel" id="s-1" hidden><p>2</p></div>' in code
    assert switch("s", "x", [("one", "<p>1</p>")]) == "<p>1</p>"


def test_every_text_is_escaped():
    evil = "<script>alert(1)</script>"
    held = table(names=tuple(f"{evil}{i}" for i in range(4)))
    more = {**held.meta, "bridge": evil, "chosen": {"u": [0.5, 0.25], "rule": evil, "candidates": 25}}
    columns = [Column(c.name, c.unit, c.better, c.split, c.n, evil) for c in held.columns]
    code = scan_page(ScanReport(Table(held.frame, tuple(columns), more), evil, evil, (evil,)))
    assert "<script>alert" not in own(code)
    assert "alert(1)" in "".join(read(code).text)


def test_values_that_are_not_finite_are_gaps_and_counted():
    held = table(lose={(0.5, 0.5): nan, (0.25, 0.5): inf}.items())
    (sheet,) = traces(space_figure(Surface.of(held), "test_loss")[0], "surface")
    assert (sheet["z"][2][2], sheet["z"][2][1]) == (None, None)
    text = " ".join(read(scan_page(ScanReport(held))).text).replace("\xa0", " ")
    assert "2 of 25" in text
    assert "No barriers: `test_loss` should have a value at every point. Found NaN at (u, v) = (0.5, 0.5)" in text
    lost = table(lose={(0.0, 0.0): nan}.items())
    corners = traces(space_figure(Surface.of(lost), "test_loss")[0], "scatter3d")[2]
    assert len(corners["x"]) == 3
    nothing = table(lose={(u / 4, v / 4): nan for u in range(5) for v in range(5)}.items())
    assert "test_loss" not in Surface.of(nothing).fields
    bare = table(
        drop=("test_error", "robust_error", "validation_error"),
        lose=dict.fromkeys([(u / 4, v / 4) for u in range(5) for v in range(5)], nan).items(),
    )
    assert Surface.of(bare).fields == []
    ids = [attributes["id"] for tag, attributes in read(scan_page(ScanReport(bare))).tags if tag == "section"]
    assert ids == ["measured", "limits"]


def test_what_is_no_surface_is_refused(tmp_path):
    path = Table.of([{"t": 0.0}, {"t": 1.0}], [Column("t")])
    with pytest.raises(InputError, match=r"`table` should have the columns u and v of a surface\. Found t"):
        Surface.of(path)
    held = table()
    line = Table(held.frame[held.frame["u"] == 0], held.columns, held.meta)
    with pytest.raises(InputError, match=r"`table` should have a grid of at least 2 x 2 points\. Found 5 point"):
        Surface.of(line)
    words = Table.of([{"u": "x", "v": 0.0}], [Column("u"), Column("v")])
    with pytest.raises(InputError, match=r"`table` should have numbers in the columns u and v\. Found 'x'"):
        Surface.of(words)
    for key, value, text in (
        (
            "corners",
            [{"name": "a"}],
            r"`corners` should be names and coordinates\. Found in the table's meta no usable '0\.at'",
        ),
        (
            "chosen",
            {"u": [0.5]},
            r"`chosen` should be a point of the scan\. Found in the table's meta no usable 'rule'",
        ),
    ):
        with pytest.raises(InputError, match=text):
            Surface.of(Table(held.frame, held.columns, {**held.meta, key: value}))
    with pytest.raises(InputError, match=r"table\.json"):
        write_scan(tmp_path)


def test_an_unfinished_scan_is_drawn_as_far_as_it_is():
    held = table()
    first = Table(held.frame.iloc[:3], held.columns, {**held.meta, "complete": False})
    text = " ".join(read(scan_page(ScanReport(first))).text)
    assert "The scan was not finished" in text
    assert "No barriers: `table` should have a row for each corner" in text
    half = Table(held.frame.iloc[:12], held.columns, {**held.meta, "complete": False, "chosen": None})
    ids = [attributes.get("id") for tag, attributes in read(scan_page(ScanReport(half))).tags if tag == "section"]
    assert "maps" in ids
    assert "edges" not in ids
