"""The page and the card: whole, escaped, without a request to any network, and with figures that plotly accepts."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

from isthmus.report import Choice, summarise
from isthmus.report.blocks import resource
from isthmus.report.card import card, escape, markdown_table, summary_card
from isthmus.report.dots import comparison_figure
from isthmus.report.figures import label, labels, path_figure
from isthmus.report.html import compact, cost_rows, page
from isthmus.report.summary_page import summary_page
from page_reader import own, read

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_example.py"))))
document, entry = example.document, example.entry
EVIL = "<script>alert(1)</script>"


def surface_document() -> object:
    choice = Choice(u=(0.5, 0.25), rule="r", explanation="e", candidates=25)
    return document(curve=example.surface(), choice=choice, status="inconclusive", reasons=("380 images would do.",))


def bare_document() -> object:
    more = {
        "curve": None,
        "choice": None,
        "geometry": None,
        "baselines": {},
        "warnings": (),
        "command": (),
        "seeds": {},
        "files": {},
    }
    return document(False, suspects=(entry("only", (90.0, None, None)),), **more)


def summary(trigger: bool = True) -> object:
    held = {seed: document(trigger) for seed in range(2)}
    return summarise(held, title=f"demo {EVIL}", status="done", reports={0: 'a "b"', 1: "javascript:alert(1)"})


PAGES = {
    "trigger": lambda: page(document()),
    "no trigger": lambda: page(document(False)),
    "surface": lambda: page(surface_document()),
    "bare": lambda: page(bare_document()),
    "summary": lambda: summary_page(summary()),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_and_asks_nobody(name: str) -> None:
    code = PAGES[name]()
    reader = read(code)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        assert "src" not in attributes
        target = attributes.get("href")
        if target is not None:
            assert tag == "a"
            assert target.startswith("./") or target.removeprefix("#") in ids
    assert not re.search(r"https?://|@import|url\(", own(code))
    assert "default-src 'none'" in code
    assert "$" not in "".join(reader.text)


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_json_that_plotly_accepts(name: str) -> None:
    code = own(PAGES[name]())
    found = re.findall(r'<script type="application/json" id="(plot-\d+)-data">(.*?)</script>', code)
    assert len(found) == {"trigger": 3, "surface": 4, "bare": 1, "summary": 1}.get(name, 2)
    palette = resource("page.css").split("prefers-color-scheme: dark")
    for place, data in found:
        assert f'<div class="plot" id="{place}"' in code
        for colour in set(re.findall(r"var:([a-z-]+)", data)):
            assert all(f"--{colour}:" in part for part in palette), colour
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", data)))


def test_order_of_the_page() -> None:
    reader = read(page(document()))
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == ["done", "path", "comparison", "chosen", "data", "cost", "provenance", "warnings", "limits"]
    assert "path" not in [attributes.get("id") for _, attributes in read(page(bare_document())).tags]


def test_every_text_is_escaped() -> None:
    fields = {
        "title": EVIL,
        "created": EVIL,
        "command": (EVIL,),
        "status": "criteria_not_met",
        "reasons": (EVIL,),
        "suspects": (
            entry(EVIL, (84.0, 90.0, 1.0), path=EVIL, sha256=EVIL, note=EVIL),
            entry(EVIL * 3, (84.0, 9.0, 1.0)),
        ),
        "repaired": entry(EVIL, (80.0, 1.0, 79.0), note=EVIL),
        "baselines": {EVIL: entry(EVIL, (80.0, 1.0, 79.0))},
        "seeds": {EVIL: 0},
        "files": {EVIL: EVIL},
        "warnings": (EVIL,),
        "choice": Choice(u=(0.3,), rule=EVIL, explanation=EVIL, candidates=1),
        "trigger": {"spec": EVIL, "target": EVIL},
    }
    base = document().model_dump()
    nested = {
        "method": {"name": EVIL, "description": EVIL, "rule": EVIL, "settings": {EVIL: [EVIL, {EVIL: EVIL}]}},
        "data": base["data"] | {"name": EVIL, "digests": {EVIL: EVIL}, "augment": EVIL},
        "environment": base["environment"] | {"platform": EVIL, "device": EVIL, "isthmus": EVIL},
        "cost": {"seconds": {EVIL: 1.0}, "gradient_evaluations": {EVIL: 1}},
        "isthmus": EVIL,
    }
    held = document(**fields, **nested)
    for code in (page(held), summary_page(summarise({0: held}, title=EVIL, status="done", reasons=(EVIL,)))):
        assert "<script>alert" not in own(code)
        assert "alert(1)" in "".join(read(code).text)
    for code in (card(held), summary_card(summarise({0: held}, title=EVIL, status="done", reasons=(EVIL,)))):
        assert "<script" not in re.sub(r"^    .*$", "", code, flags=re.MULTILINE)  # a code block shows what it holds


def test_links_of_the_summary_stay_in_its_folder() -> None:
    links = [attributes["href"] for tag, attributes in read(summary_page(summary())).tags if tag == "a"]
    assert links == ["./a%20%22b%22/report.html", "./javascript%3Aalert%281%29/report.html"]


@pytest.mark.parametrize("trigger", [True, False])
def test_no_model_is_called_clean(trigger: bool) -> None:
    texts = [" ".join(read(page(document(trigger))).text), card(document(trigger)), summary_card(summary(trigger))]
    texts.append(" ".join(read(summary_page(summary(trigger))).text))
    for text in texts:
        without_command = text.replace("--clean 250", "")
        assert not re.search(r"\bclean", without_command, re.IGNORECASE)
        assert "never a certificate" in text
        assert "Re-activation was not tested" in text


def test_curve_figure_holds_the_figures() -> None:
    figure = path_figure(document())
    lines = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
    rows = example.path().rows
    assert set(lines) == {"error, validation", "error, test", "attack success", "recovery accuracy"}
    assert lines["attack success"]["x"] == example.T
    assert lines["attack success"]["y"] == [row["attack_success"] for row in rows]
    bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
    assert bands[1]["y"] == [row["test_error_high"] for row in rows] + [row["test_error_low"] for row in reversed(rows)]
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [0.3]
    marks = [
        (trace["x"][0], round(trace["y"][0], 1), trace["marker"]["symbol"])
        for trace in figure["data"]
        if "error_y" in trace
    ]
    assert (0.3, 19.5, "diamond") in marks
    assert (0.0, 97.1, "square") in marks
    assert (1.0, 96.0, "square") in marks
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    assert titles == ["net_a.pth", "net_b.pth", "<b>chosen, t = 0.3</b>"]


def test_curve_without_trigger_has_one_panel_and_shares_become_percent() -> None:
    curve = document(False).curve
    columns = [column.model_copy(update={"unit": "1"}) for column in curve.columns]
    rows = [{name: value if name == "t" else value / 100 for name, value in row.items()} for row in curve.rows]
    figure = path_figure(
        document(False, curve=curve.model_copy(update={"columns": tuple(columns), "rows": tuple(rows)}))
    )
    assert "yaxis2" not in figure["layout"]
    line = next(trace for trace in figure["data"] if trace.get("name") == "error, test")
    assert line["y"] == pytest.approx([row["test_error"] for row in curve.rows])


def test_points_not_measured_are_left_out() -> None:
    curve = example.path()
    rows = ({**curve.rows[0], "attack_success": None}, *curve.rows[1:])
    figure = path_figure(document(curve=curve.model_copy(update={"rows": rows})))
    line = next(trace for trace in figure["data"] if trace.get("name") == "attack success")
    assert line["x"] == example.T[1:]


def test_surface_is_drawn_as_maps() -> None:
    whole = page(surface_document())
    code, reader = own(whole), read(whole)
    assert {"Error, test", "Attack success"} <= set(reader.text)
    drawn = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', code)]
    error, attack = (figure["data"] for figure in drawn if figure["data"][0]["type"] == "contour")
    assert (attack[0]["x"], attack[0]["y"]) == ([0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1])
    row = next(row for row in example.surface().rows if (row["u"], row["v"]) == (0.25, 0.0))
    assert attack[0]["z"][0][1] == row["attack_success"]
    assert error[0]["z"][0][1] == row["test_error"]
    assert (attack[-1]["x"], attack[-1]["y"]) == ([0.5], [0.25])  # the chosen point
    assert path_figure(surface_document()) is None


def test_comparison_figure_has_bounds() -> None:
    figure = comparison_figure(document())
    attack = next(trace for trace in figure["data"] if trace["name"] == "attack success")
    assert attack["x"][2] == pytest.approx(1.1944, abs=1e-3)
    low, high = attack["customdata"][2][1:]
    assert attack["error_x"]["array"][2] == pytest.approx(high - attack["x"][2])
    assert attack["error_x"]["arrayminus"][2] == pytest.approx(attack["x"][2] - low)
    assert figure["layout"]["yaxis"]["ticktext"][2] == "<b>repaired</b>"
    assert [trace["name"] for trace in comparison_figure(document(False))["data"]] == ["accuracy"]


def test_card_says_what_the_page_says() -> None:
    text = card(document())
    for said in (
        "fell from 96.0–97.1 % to 1.2 % (Wilson 95 %: 0.9–1.6 %, n = 3,600)",
        "t = 0.3",
        "ab" * 32,
        "torch 2.13.0",
    ):
        assert said in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1


def test_markdown_table_lines_up_and_drops_empty_columns() -> None:
    table = markdown_table(("Name", "None", "n"), [("a|b", "", "1"), ("c\nd", "", "100")], numeric=(False, True, True))
    assert table.splitlines() == ["| Name |   n |", "| ---- | --: |", "| a\\|b |   1 |", "| c d  | 100 |"]
    assert escape("a & <b> *c* [d] `e` \\") == "a &amp; &lt;b> \\*c\\* \\[d] \\`e\\` \\\\"


def test_small_texts() -> None:
    assert compact({"shift": 4, "flip": True, "at": [1, 2.5], "none": None, "off": False}) == (
        "shift = 4, flip = yes, at = 1, 2.5, none = none, off = no"
    )
    assert label("a" * 40) == "a" * 11 + "…" + "a" * 10
    assert label("<b>") == "&lt;b&gt;"
    assert label("a/long/folder/with/many/parts/net.pth") == "net.pth"
    assert labels(["x" * 30 + "1", "repaired", "x" * 30 + "1"], 12) == ["xxxx…xx1 (1)", "repaired", "xxxx…xx1 (2)"]
    assert cost_rows(document())[-1] == ("total", "2 min 28 s")
    assert cost_rows(bare_document().model_copy(update={"cost": type(document().cost)()})) == []
