"""The page of an alignment: its figures and tables are those of `align.json` and `lines.json`."""

import json
import re

import plotly.graph_objects as go
import pytest

from cli_example import call, model_file
from isthmus._check import InputError
from isthmus.cli.app import main
from isthmus.report import write_align
from isthmus.report.align_figure import line_figure
from page_reader import own, read

WAYS = ["as they came, as is", "as they came, REPAIR", "units matched, as is", "units matched, REPAIR"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("align")
    paths = [model_file(place / f"m{i}.safetensors", seed=i, arch="mlp:depth=2") for i in range(3)]
    out = place / "aligned"
    assert main([str(w) for w in ("align", *paths, "--points", "3", "--n", "50", "--test-n", "60", "--out", out)]) == 0
    return out


def record(folder):
    return json.loads((folder / "align.json").read_text(encoding="utf-8"))


def text_of(folder):
    return " ".join(read((folder / "align.html").read_text(encoding="utf-8")).text).replace("\xa0", " ")


def test_page_shows_the_record(capsys, folder):
    done = call(capsys, "report", folder)
    held, text = record(folder), None
    assert done.code == 0, done.err
    text = text_of(folder)
    for row in held["midpoints"]["rows"]:
        assert f"{row['test_accuracy']:.1f} %" in text
        assert f"{row['test_accuracy_low']:.1f}" in text
        assert f"{row['error_rise']:+.1f} points" in text
    shown = [b for b in held["barriers"] if b["name"] in ("frankle", "git_re_basin", "entezari", "draxler_rise")]
    assert {b["name"] for b in shown} <= set(text.split())
    for group in held["groups"]:
        assert group["name"] in text
    assert all(layer in text for layer in (*held["repair"]["corrected"], *held["repair"]["left"]))
    lines = done.out.splitlines()
    first, last = held["midpoints"]["rows"][0], held["midpoints"]["rows"][3]
    assert f"in the middle of the line {first['test_accuracy']:.1f} % → {last['test_accuracy']:.1f} %" in lines[0]
    assert lines[-1] == f"written: {folder / 'align.html'}"
    assert call(capsys, "report", folder, "--json").json["groups"] == held["groups"]


def test_figures_are_the_tables(folder):
    alignment = write_align(folder)
    code = own((folder / "align.html").read_text(encoding="utf-8"))
    found = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', code)]
    assert len(found) == 4  # two models: the middle and the line of each
    for figure, model in zip(found[:2], (m.model for m in alignment.document.models), strict=True):
        rows = alignment.rows(model)
        (dots,) = figure["data"]
        assert dots["x"] == [row["test_accuracy"] for row in rows]
        assert figure["layout"]["yaxis"]["ticktext"] == WAYS
        assert figure["layout"]["shapes"] == []
    model = alignment.document.models[1].model
    figure, legend = line_figure(alignment.lines, model)
    rows = [row for row in alignment.lines.rows() if row["model"] == model and row["weights"] == "permuted"]
    matched = [trace for trace in figure["data"] if trace["legendgroup"] == "permuted-as-is"]
    assert [trace["y"] for trace in matched] == [[row[name] for row in rows] for name in ("test_error", "test_loss")]
    assert [line[1] for line in legend] == ["as it came", "units matched"]
    assert line_figure(alignment.lines, "another") is None
    for figure in found:
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(figure))))


def test_page_is_whole_and_asks_nobody(folder):
    write_align(folder)
    code = (folder / "align.html").read_text(encoding="utf-8")
    reader = read(code)
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == ["middle", "lines", "barriers", "units", "repair", "provenance", "limits"]
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert not re.search(r"https?://|@import|url\(", own(code))


def test_names_are_escaped_and_a_gap_is_no_number(tmp_path, folder):
    evil = "<script>alert(1)</script>"
    held = json.loads(json.dumps(record(folder)).replace("m1.safetensors", evil))
    held["notes"], held["unpermuted"] = [evil], [f"{evil}: {i}" for i in range(20)]
    held["midpoints"]["rows"][0] |= dict.fromkeys(("test_accuracy", "test_accuracy_low", "test_accuracy_high"))
    (tmp_path / "align.json").write_text(json.dumps(held))
    alignment = write_align(tmp_path)
    assert alignment.lines is None
    code = (tmp_path / "align.html").read_text(encoding="utf-8")
    assert "<script>alert" not in own(code)
    text = text_of(tmp_path)
    assert "alert(1)" in text
    assert "20 axes" in text
    assert "not a number" in text
    assert "Along the line" not in text


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"align\.json"):
        write_align(tmp_path)
    (tmp_path / "align.json").write_text('{"reference": 3}')
    with pytest.raises(InputError, match=r"should be an align\.json of Isthmus. Found in reference: Input should be"):
        write_align(tmp_path)
