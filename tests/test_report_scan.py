"""The page of a scan: the figures are the table's, the barriers those of the barrier module, and no more is said than was measured."""

import json
import math
import re
import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

from isthmus._check import InputError
from isthmus.association import associate_columns
from isthmus.barrier import barriers
from isthmus.report import write_scan
from isthmus.report.blocks import resource
from isthmus.report.document import Curve
from isthmus.report.figures import line_of
from isthmus.report.scan_figure import panels, scan_figure
from isthmus.report.scan_page import ScanReport, scan_page
from isthmus.report.scan_text import amount, association_sentences, scan_barriers, scan_limits, scan_verdict
from isthmus.table import Column, Table, with_bounds
from page_reader import own, read

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("robust_example.py"))))
EIGENVALUES = ("input_eigenvalue", "input_eigenvalue_median", "input_eigenvalue_q90")
ROBUST = ("robust_loss", "robust_error", "evasion_success")


@pytest.fixture(scope="module")
def table() -> Table:
    return example.table()


def surface() -> Table:
    columns = [
        Column("u"),
        Column("v"),
        Column("test_error", "%", "lower", "test", 100),
        Column("robust_error", "%", "lower", "test", 100),
    ]
    rows = [
        {"u": u, "v": v, "test_error": 10.0, "robust_error": 50.0 + 10 * u}
        for u in (0.0, 0.5, 1.0)
        for v in (0.0, 0.5, 1.0)
    ]
    return with_bounds(Table.of(rows, columns))


def lines_of(figure: dict[str, object]) -> dict[str, dict[str, object]]:
    return {trace["legendgroup"]: trace for trace in figure["data"] if "name" in trace}


def test_lines_and_bands_are_the_table(table: Table) -> None:
    figure, legend = scan_figure(Curve.of(table))
    lines = lines_of(figure)
    assert set(lines) == {
        "test_loss",
        "robust_loss",
        "test_error",
        "robust_error",
        "evasion_success",
        "input_eigenvalue",
    }
    assert [line[0] for line in legend] == list(lines)
    for name, line in lines.items():
        assert line["x"] == table.values("t")
        assert line["y"] == table.values(name)
    axes = [lines[name]["yaxis"] for name in lines]
    assert axes == ["y", "y", "y2", "y2", "y3", "y4"]
    bands = {trace["legendgroup"]: trace for trace in figure["data"] if "fill" in trace}
    assert set(bands) == {"test_error", "robust_error", "input_eigenvalue"}
    high, low = table.values("input_eigenvalue_q90"), table.values("input_eigenvalue_median")
    assert bands["input_eigenvalue"]["y"] == [*high, *reversed(low)]
    assert bands["robust_error"]["y"] == [
        *table.values("robust_error_high"),
        *reversed(table.values("robust_error_low")),
    ]
    assert "nat/input²" in lines["input_eigenvalue"]["hovertemplate"]
    assert "–" not in lines["evasion_success"]["hovertemplate"]  # no interval, no bounds


def test_each_panel_has_its_unit_and_place(table: Table) -> None:
    layout = scan_figure(Curve.of(table))[0]["layout"]
    axes = [layout[name] for name in ("yaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert [axis["title"]["text"] for axis in axes] == [
        "loss (nat)",
        "error (%)",
        "evasion success (%)",
        "largest input<br>eigenvalue (nat/input²)",
    ]
    domains = [axis["domain"] for axis in axes]
    assert domains[0][1] == 1
    assert domains[-1][0] == pytest.approx(0)
    assert all(lower[1] < upper[0] for upper, lower in pairwise(domains))
    assert [axis.get("type") for axis in axes] == ["log", None, None, "log"]
    low, high = axes[0]["range"]
    assert 10**low < min(table.values("test_loss"))
    assert 10**high > max(table.values("robust_loss"))


def test_a_quantile_of_zero_stays_on_a_logarithmic_axis(table: Table) -> None:
    rows = [row | {"input_eigenvalue_median": 0.0} for row in table.rows()]
    figure, _ = scan_figure(Curve.of(Table.of(rows, table.columns)))
    band = next(trace for trace in figure["data"] if "fill" in trace and trace["legendgroup"] == "input_eigenvalue")
    assert min(band["y"]) > 0


def test_columns_of_other_splits_and_threats_find_their_panel() -> None:
    names = ("train_loss", "validation_robust_loss", "robust_error_l2", "distance_model_0", "speed", "attack_success")
    columns = [Column("t"), *(Column(name, "%" if "err" in name or "succ" in name else "1") for name in names)]
    rows = [{"t": t} | dict.fromkeys(names, 1.0 + t) for t in (0.0, 1.0)]
    found = panels(Curve.of(Table.of(rows, columns)))
    assert found == [
        ("loss", ["train_loss", "validation_robust_loss"]),
        ("error", ["robust_error_l2"]),
        ("triggered images", ["attack_success"]),
        ("distance of the weights", ["distance_model_0"]),
    ]
    assert line_of("validation_robust_loss") == ("validation robust loss", "attack", "dash")
    assert line_of("<b>") == ("&lt;b&gt;", "validation", "dash")


def test_verdict_states_the_rises_of_the_barrier_module(table: Table) -> None:
    found, missing = scan_barriers(table)
    assert list(found) == ["test_loss", "robust_loss", "test_error", "robust_error"]
    assert missing == ""
    assert all(held == barriers(table, value=name) for name, held in found.items())
    rise = found["robust_loss"]["draxler_rise"]
    said = scan_verdict(table, found)
    assert f"loss under attack rises by {rise.value:.3g} nat at t = {rise.t:.3g}" in said
    assert f"error under attack rises by {found['robust_error']['draxler_rise'].value:.1f} points at t" in said
    assert "test error does not rise" in said
    assert said.startswith("Above the worse end of the path, test loss rises by 0.00")


def test_amounts_carry_their_unit() -> None:
    assert [amount(1.2345, "nat"), amount(12.345, "%"), amount(2.0, "1")] == ["1.23 nat", "12.3 %", "2"]
    assert amount(12.345, "%", "points") == "12.3 points"


def test_barriers_stand_in_one_table(table: Table) -> None:
    page = read(scan_page(ScanReport(table)))
    text = " ".join(page.text)
    found, _ = scan_barriers(table)
    for held in found.values():
        for barrier in held.values():
            shown = amount(barrier.value, barrier.unit).replace(" %", "\xa0%")
            assert shown in text
            assert barrier.citation in text
    for head in ("Test loss", "Loss under attack", "Test error", "Error under attack"):
        assert head in page.text


def test_correlation_is_that_of_the_association_module(table: Table) -> None:
    found = associate_columns(table, "robust_loss", "input_eigenvalue")
    sentences = association_sentences(table)
    assert str(found) in sentences[0]
    assert sentences[0] in " ".join(read(scan_page(ScanReport(table))).text).replace("\xa0", " ")
    assert association_sentences(example.table(drop=EIGENVALUES)) == []
    assert association_sentences(surface()) == []
    assert "fewer than four points" in association_sentences(example.table(points=3))[0]


def test_order_of_the_page_and_nothing_about_what_was_not_measured(table: Table) -> None:
    def sections(page: str) -> list[str]:
        return [attributes["id"] for tag, attributes in read(page).tags if tag == "section"]

    whole = scan_page(ScanReport(table, "2026-11-21T09:30:00+00:00", "0.1.0", ("isthmus", "scan")))
    assert sections(whole) == ["path", "association", "barriers", "measured", "provenance", "limits"]
    plain = example.table(drop=(*EIGENVALUES, *ROBUST))
    page = scan_page(ScanReport(plain))
    assert sections(page) == ["path", "barriers", "measured", "limits"]
    text = " ".join(read(page).text)
    for word in ("attack", "eigenvalue", "Evasion", "robust"):
        assert word not in text
    assert "lower bounds on the worst case" in " ".join(scan_limits(table))


@pytest.mark.parametrize("name", ["robust", "surface", "distance"])
def test_page_is_whole_asks_nobody_and_its_figures_can_be_drawn(name: str, table: Table) -> None:
    distance = Table.of([{"t": t, "distance_a": t} for t in (0.0, 1.0)], [Column("t"), Column("distance_a")])
    code = scan_page(ScanReport({"robust": table, "surface": surface(), "distance": distance}[name]))
    reader = read(code)
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert not re.search(r"https?://|@import|url\(", own(code))
    found = re.findall(r'<script type="application/json" id="(plot-\d+)-data">(.*?)</script>', own(code))
    assert len(found) == {"surface": 4}.get(name, 1)
    palette = resource("page.css").split("prefers-color-scheme: dark")
    for place, data in found:
        assert f'id="{place}"' in own(code)
        for colour in set(re.findall(r"var:([a-z-]+)", data)):
            assert all(f"--{colour}:" in part for part in palette), colour
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", data)))


def test_surface_without_a_record_of_its_corners_is_drawn_as_it_is() -> None:
    reader = read(scan_page(ScanReport(surface())))
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == ["surface", "maps", "values", "measured", "limits"]
    assert "9 points of a surface were measured." in reader.text
    assert scan_figure(Curve.of(surface())) is None


def test_unfinished_and_infinite_scans_say_so() -> None:
    half = example.table(points=5)
    part = Table(half.frame.iloc[:3], half.columns, {"complete": False})
    text = " ".join(read(scan_page(ScanReport(part))).text)
    assert "The scan was not finished" in text
    assert "No barriers: `t` should run from 0 to 1" in text
    assert "3 points along a path were measured." in text
    rows = [row | {"robust_loss": math.inf if row["t"] == 0 else row["robust_loss"]} for row in half.rows()]
    assert "`robust_loss` should be finite at the ends" in scan_barriers(Table.of(rows, half.columns))[1]


def test_every_text_is_escaped(table: Table) -> None:
    evil = "<script>alert(1)</script>"
    columns = [Column(c.name, c.unit, c.better, c.split, c.n, evil) for c in table.columns]
    held = Table(table.frame, tuple(columns), {"bridge": evil, "data": evil, "settle": evil})
    code = scan_page(ScanReport(held, evil, evil, (evil,)))
    assert "<script>alert" not in own(code)
    assert "alert(1)" in "".join(read(code).text)


def test_a_folder_gets_its_page(tmp_path: Path, table: Table) -> None:
    table.save(tmp_path / "table.json")
    assert write_scan(tmp_path).values("robust_loss") == table.values("robust_loss")
    assert "To do it again" not in (tmp_path / "scan.html").read_text(encoding="utf-8")
    manifest = {
        "updated": "2026-11-21T09:30:00+00:00",
        "command": ["isthmus", "scan", "a b"],
        "environment": {"isthmus": "9.9"},
        "x": 1,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_scan(tmp_path)
    text = "".join(read((tmp_path / "scan.html").read_text(encoding="utf-8")).text)
    assert "isthmus scan 'a b'" in text
    assert "Isthmus 9.9, 2026-11-21 09:30 UTC" in text


def test_a_folder_without_a_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"table\.json"):
        write_scan(tmp_path)
    example.table(points=3).save(tmp_path / "table.json")
    (tmp_path / "manifest.json").write_text('{"command": 3}')
    with pytest.raises(InputError, match=r"should be a manifest\.json of Isthmus. Found in command: Input should be"):
        write_scan(tmp_path)
