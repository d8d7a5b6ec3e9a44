"""The page of ensembles: its figures and tables are those of `ensemble.json`, and a choice is told from hindsight."""

import json
import re

import plotly.graph_objects as go
import pytest

from cli_example import call, model_file
from isthmus._check import InputError
from isthmus.cli.app import main
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
    (figure,) = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', code)]
    rows = table(folder).rows()
    clean, robust = figure["data"]
    assert clean["x"] == [row["test_accuracy"] for row in rows]
    assert robust["x"] == [row["robust_accuracy"] for row in rows]
    names = figure["layout"]["yaxis"]["ticktext"]
    assert names[3:5] == ["<b>chosen on validation</b>", "best on test, in hindsight"]
    (band,) = figure["layout"]["shapes"]
    assert (band["y0"], band["y1"]) == (2.55, 3.45)
    go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(figure))))


def test_page_is_whole_and_asks_nobody(folder):
    write_ensemble(folder)
    code = (folder / "ensemble.html").read_text(encoding="utf-8")
    reader = read(code)
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == ["accuracy", "quality", "chosen", "diversity", "cost", "members", "measured", "provenance", "limits"]
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
