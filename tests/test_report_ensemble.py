"""The page of ensembles: its figures and tables are those of `ensemble.json`, and a choice is told from hindsight."""

import json
import re

import plotly.graph_objects as go
import pytest

from cli_example import call, model_file
from isthmus._check import InputError
from isthmus.cli.app import main
from isthmus.plots import reliability_figure
from isthmus.rates import wilson
from isthmus.report import write_ensemble
from isthmus.report.ensemble import ensemble_sentences
from isthmus.table import Column, Table
from page_reader import own, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ensemble")
    paths = [model_file(place / f"m{i}.safetensors", seed=i) for i in range(3)]
    out = place / "ensemble"
    words = ("ensemble", *paths, "--n", "60", "--validation", "40", "--eps", "0.1", "--attack-steps", "1", "--out", out)
    assert main([str(word) for word in words]) == 0
    return out


def table(folder):
    return Table.load(folder / "ensemble.json")


def text_of(folder):
    return " ".join(read((folder / "ensemble.html").read_text(encoding="utf-8")).text).replace("\xa0", " ")


def test_page_shows_the_record(capsys, folder):
    done = call(capsys, "report", folder)
    assert done.code == 0, done.err
    held, text = table(folder), text_of(folder)
    for row in held.rows():
        assert f"{row['test_accuracy']:.1f} %" in text
        assert f"{row['robust_accuracy']:.1f} %" in text
        assert f"{row['test_nll']:.3g}" in text
        assert f"{row['test_ece']:.1f} %" in text
        assert f"{row['test_brier']:.3g}" in text
        if row["gain"] is not None:
            assert f"{row['gain']:+.1f} points" in text
    soft = next(row for row in held.rows() if row["name"] == "softmax ensemble")
    assert f"{soft['disagreement']:.1f} %" in text
    assert f"{soft['ambiguity']:.3g}" in text
    assert f"regret {100 * held.meta['regret']:.4g} %" in text
    assert f"{soft['weight_bytes'] / 1e6:.3g}" in text
    said = ensemble_sentences(held)
    assert done.out.splitlines()[: len(said)] == said
    assert done.out.splitlines()[-1] == f"written: {folder / 'ensemble.html'}"
    assert call(capsys, "report", folder, "--json").json == held.to_json()


def test_figure_is_the_table_and_marks_the_choice(folder):
    write_ensemble(folder)
    code = own((folder / "ensemble.html").read_text(encoding="utf-8"))
    figure, *_ = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', code)]
    rows = table(folder).rows()
    clean, robust = figure["data"]
    assert clean["x"] == [row["test_accuracy"] for row in rows]
    assert robust["x"] == [row["robust_accuracy"] for row in rows]
    names = figure["layout"]["yaxis"]["ticktext"]
    assert names[3:5] == ["<b>chosen on validation</b>", "best on test, in hindsight"]
    (band,) = figure["layout"]["shapes"]
    assert (band["y0"], band["y1"]) == (2.55, 3.45)
    go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(figure))))


def recomputed(held):
    """The calibration error from published bins: sum over bins of (n_b / n) |accuracy_b - confidence_b|."""
    filled = [part for part in held["by_bin"] if part["n"]]
    return sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in filled) / held["n"]


def test_reliability_diagrams_are_the_published_bins_and_those_give_the_error(folder):
    write_ensemble(folder)
    held = table(folder)
    rows = {row["name"]: row for row in held.rows()}
    found = held.meta["reliability"]
    assert [one["name"] for one in found] == [name for name, row in rows.items() if row["kind"] != "hindsight"]
    code = own((folder / "ensemble.html").read_text(encoding="utf-8"))
    _, *figures = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', code)]
    for one, figure in zip(found, figures, strict=True):
        own_bins = one["calibration"]
        assert 100 * recomputed(own_bins) == pytest.approx(rows[one["name"]]["test_ece"], abs=1e-10)
        assert recomputed(own_bins) == pytest.approx(own_bins["error"], abs=1e-12)
        assert (len(own_bins["by_bin"]), sum(part["n"] for part in own_bins["by_bin"])) == (15, 60)
        hits = sum(part["n"] * (part["accuracy"] or 0) for part in own_bins["by_bin"])
        assert hits / 60 == pytest.approx(rows[one["name"]]["test_accuracy"] / 100)
        bars, _, dots = figure["data"]
        assert [count for *_, count in bars["customdata"]] == [part["n"] for part in own_bins["by_bin"]]
        filled = [part for part in own_bins["by_bin"] if part["n"]]
        assert dots["x"] == pytest.approx([100 * part["confidence"] for part in filled])
        assert dots["y"] == pytest.approx([100 * part["accuracy"] for part in filled])
        ends = [wilson(part["accuracy"], part["n"]) for part in filled]
        arms = zip(dots["y"], dots["error_y"]["arrayminus"], strict=True)
        assert [value - arm for value, arm in arms] == pytest.approx([100 * low for low, _ in ends])
        assert f"ECE {rows[one['name']]['test_ece']:.1f} % (15 bins, n = 60)" in text_of(folder)
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(figure))))


def test_reliability_of_many_given_models_is_drawn_for_four(tmp_path, folder):
    held = table(folder)
    one = held.meta["reliability"][0]
    more = [{**one, "name": f"m{i}"} for i in range(9)]
    Table(held.frame, held.columns, {**held.meta, "reliability": more}).save(tmp_path / "ensemble.json")
    write_ensemble(tmp_path)
    assert "Of 9 given models the first 4 are drawn" in text_of(tmp_path)
    assert own((tmp_path / "ensemble.html").read_text(encoding="utf-8")).count('-data">') == 5
    Table(held.frame, held.columns, {**held.meta, "reliability": []}).save(tmp_path / "ensemble.json")
    write_ensemble(tmp_path)
    assert "Confidence against accuracy" not in text_of(tmp_path)


def test_reliability_figure_for_papers(folder):
    held = table(folder)
    figure = reliability_figure(held)
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert len(titles) == len(held.meta["reliability"])
    soft = next(one for one in held.meta["reliability"] if one["name"] == "softmax ensemble")
    (axis,) = reliability_figure(held, names=["softmax ensemble"], width=3.0).axes
    assert axis.get_title() == f"softmax ensemble\nECE {100 * soft['calibration']['error']:.1f} %"
    bins = soft["calibration"]["by_bin"]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([100 * part["n"] / 60 for part in bins])
    dots = next(line for line in axis.get_lines() if line.get_marker() == "o")
    assert list(dots.get_ydata()) == pytest.approx([100 * part["accuracy"] for part in bins if part["n"]])
    assert axis.figure.get_figwidth() == 3.0
    with pytest.raises(InputError, match=r"`names` should be .* Found 'best'"):
        reliability_figure(held, names=["best"])
    empty = Table(held.frame, held.columns, {**held.meta, "reliability": []})
    with pytest.raises(InputError, match=r"`table` should have bins of confidence, as `isthmus ensemble` writes them"):
        reliability_figure(empty)


def test_page_is_whole_and_asks_nobody(folder):
    write_ensemble(folder)
    code = (folder / "ensemble.html").read_text(encoding="utf-8")
    reader = read(code)
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == [
        *("accuracy", "quality", "reliability", "chosen", "diversity", "cost", "members", "measured", "provenance"),
        "limits",
    ]
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert not re.search(r"https?://|@import|url\(", own(code))
    assert "through the whole combination" in text_of(folder)


def test_many_members_are_folded_away_and_what_was_not_measured_is_not_there(tmp_path, folder):
    held = table(folder)
    evil = "<script>alert(1)</script>"
    more = [{**held.rows()[0], "name": f"{evil}{i}"} for i in range(9)]
    meta = {**held.meta, "members": [row["name"] for row in more], "models": [evil], "notes": [evil], "attack": None}
    kept = [column for column in held.columns if not column.name.startswith("robust")]
    names = [column.name for column in kept]
    rows = [{name: row[name] for name in names} for row in (*more, *held.rows()[3:])]
    rows[0]["test_ece"] = None
    Table.of(rows, kept, meta).save(tmp_path / "ensemble.json")
    write_ensemble(tmp_path)
    code = (tmp_path / "ensemble.html").read_text(encoding="utf-8")
    assert "<script>alert" not in own(code)
    text = text_of(tmp_path)
    assert "9 members" in text
    assert f"{evil}8" in text
    assert "ttack" not in text
    assert "Warnings" in text
    assert len(re.findall("The members stand in a table below", text)) == 1


def test_other_tables_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"ensemble\.json"):
        write_ensemble(tmp_path)
    Table.of([{"t": 0.0}], [Column("t")]).save(tmp_path / "ensemble.json")
    with pytest.raises(
        InputError, match=r"`table` should be of ensembles, as `isthmus ensemble` writes it\. Found no column name"
    ):
        write_ensemble(tmp_path)
    held = table(folder)
    Table(held.frame, held.columns, {"models": ["a"]}).save(tmp_path / "ensemble.json")
    with pytest.raises(InputError, match=r"Found in its meta no usable 'data'"):
        write_ensemble(tmp_path)
