"""`isthmus scan`: the printed numbers are those measured on the models themselves; interrupted scans go on."""

import json

import pytest
import torch

from cli_example import call, model_file, tree
from isthmus._check import InputError
from isthmus.data import load_data
from isthmus.evaluate import correct, logits
from isthmus.geometry.build import connect, parse_geometry
from isthmus.models import load_model
from isthmus.probes import Clean
from isthmus.randomness import stream
from isthmus.recipes import scan as recipe_scan
from isthmus.recipes import scan_limits
from isthmus.recipes.reserve import kept_apart
from isthmus.recipes.scan_limits import Pace
from isthmus.store import Card, save_bridge
from isthmus.table import Table
from isthmus.tampering import Patch


def loaded(path, arch="mlp:depth=1"):
    return load_model(arch, path, num_classes=10, input_shape=(1, 8, 8), width=8)[0]


def bridge_at(folder, geometry="bezier:2", count=2, arch="mlp:depth=1"):
    paths = [model_file(folder / f"m{i}.safetensors", seed=i, arch=arch) for i in range(count)]
    models = [loaded(path, arch) for path in paths]
    bridge = connect(models, parse_geometry(geometry, count))
    card = Card(arch=arch, width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bridge, folder / "bridge.safetensors", meta=card)
    return models


def test_every_row_is_the_model_at_that_point(capsys, tmp_path):
    models = bridge_at(tmp_path)
    probes = ("--probe", "clean", "--probe", "distance", "--probe", "backdoor")
    more = ("--test-trigger", "patch:size=2,at=0x0", "--target", "3")
    done = call(capsys, "scan", tmp_path, "--points", "3", *probes, *more, "--json")
    assert done.code == 0, done.err
    rows, test = done.json["rows"], load_data("digits").test
    assert [row["t"] for row in rows] == [0.0, 0.5, 1.0]
    for row, model in ((rows[0], models[0]), (rows[2], models[1])):
        wrong = ~correct(logits(model, test), test.y)
        assert row["test_error"] == pytest.approx(100 * float(wrong.double().mean()))
        assert row["test_error_low"] < row["test_error"] < row["test_error_high"]
        others = test.take(test.y != 3)
        sent = logits(model, others, transform=Patch(2, at=(0, 0))).argmax(1) == 3
        assert row["attack_success"] == pytest.approx(100 * float(sent.double().mean()))
    flat = [torch.cat([p.detach().flatten() for p in model.parameters()]).double() for model in models]
    apart = float((flat[0] - flat[1]).norm())
    assert rows[0]["distance_model_0"] == 0.0
    assert rows[2]["distance_model_0"] == pytest.approx(apart, rel=1e-6)
    assert rows[1]["distance_model_1"] == pytest.approx(apart / 2, rel=1e-5)
    assert rows[1]["speed"] == pytest.approx(apart, rel=1e-5)  # a flat bridge runs at one speed
    columns = {column["name"]: column for column in done.json["columns"]}
    assert columns["test_error"]["n"] == 597
    assert columns["attack_success"]["n"] == len(others)
    losses = [row["test_loss"] for row in rows]
    found = done.json["barriers"]["test_loss"]["git_re_basin"]
    assert found["value"] == pytest.approx(max(losses) - (losses[0] + losses[2]) / 2)
    assert list(tree(tmp_path)) == ["bridge.safetensors", "m0.safetensors", "m1.safetensors"]  # nothing written


def test_surfaces_have_grids(capsys, tmp_path):
    bridge_at(tmp_path, "surface:2x2", 4)
    done = call(capsys, "scan", tmp_path / "bridge.safetensors", "--grid", "2x3", "--n", "50", "--json")
    assert [(row["u"], row["v"]) for row in done.json["rows"]] == [(u, v) for u in (0.0, 1.0) for v in (0.0, 0.5, 1.0)]
    assert {column["n"] for column in done.json["columns"] if column["name"] == "test_loss"} == {50}
    losses = {(row["u"], row["v"]): row["test_loss"] for row in done.json["rows"]}
    corners = [losses[u, v] for u in (0.0, 1.0) for v in (0.0, 1.0)]
    found = done.json["barriers"]["test_loss"]["git_re_basin"]
    assert found["value"] == pytest.approx(max(losses.values()) - sum(corners) / 4)
    assert tuple(found["u"]) == max(losses, key=lambda at: losses[at])
    assert [corner["at"] for corner in done.json["meta"]["corners"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert done.json["meta"]["basis"]["basis"] == "product"


def test_a_simplex_is_measured_inside_only(capsys, tmp_path):
    bridge_at(tmp_path, "simplex", 3)
    done = call(capsys, "scan", tmp_path, "--grid", "3x3", "--n", "50", "--json")
    places = [(row["u"], row["v"]) for row in done.json["rows"]]
    assert places == [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 0.0), (0.5, 0.5), (1.0, 0.0)]
    assert done.json["meta"]["basis"] == {"basis": "barycentric", "points": 3}
    assert set(done.json["barriers"]["test_loss"]) >= {"git_re_basin", "entezari"}


def test_a_point_is_chosen_on_validation_images(capsys, tmp_path):
    bridge_at(tmp_path, "surface:2x2", 4)
    words = ("scan", tmp_path, "--grid", "3x3", "--n", "50", "--validation", "60")
    done = call(capsys, *words, "--json")
    rows = done.json["rows"]
    best = min(rows, key=lambda row: (row["validation_error"], row["validation_loss"]))
    chosen = done.json["meta"]["chosen"]
    assert chosen["u"] == [best["u"], best["v"]]
    assert chosen["candidates"] == 9
    assert {column["n"] for column in done.json["columns"] if column["name"] == "validation_error"} == {60}
    assert "highest accuracy on 60 validation images" in chosen["rule"]
    assert "Chosen: (u, v) = (" in call(capsys, *words).out
    held = call(capsys, *words, "--hold-out", "100", "--json").json["rows"]
    assert [row["validation_loss"] for row in held] != [row["validation_loss"] for row in rows]
    assert [row["test_loss"] for row in held] == [row["test_loss"] for row in rows]
    alone = call(capsys, "scan", tmp_path, "--grid", "3x3", "--hold-out", "100")
    assert "`hold_out` should come with validation, how many of them choose. Found 100." in alone.err


def test_batchnorm_statistics_are_recomputed_on_training_images(capsys, tmp_path):
    bridge_at(tmp_path, arch="cnn")
    values = [
        call(capsys, "scan", tmp_path, "--points", "3", "--n", "100", "--settle-n", n, "--json").json["rows"]
        for n in (20, 1200, 5000)
    ]
    assert values[0][1]["test_loss"] != values[1][1]["test_loss"]
    assert values[1] == values[2]  # there are 1,200
    assert values[0][0] == values[1][0]  # an end keeps its own


def test_a_table_is_written_for_people_and_programs(capsys, tmp_path):
    bridge_at(tmp_path)
    done = call(capsys, "scan", tmp_path, "--points", "3", "--n", "60", "--out", tmp_path / "s")
    assert done.out.startswith("| t | test_loss (nat) | test_error (%) |")
    assert "test_error, frankle: " in done.out
    assert sorted(tree(tmp_path / "s")) == ["manifest.json", "recipe.json", "table.csv", "table.json"]
    table = Table.load(tmp_path / "s" / "table.json")
    header, *lines = (tmp_path / "s" / "table.csv").read_text().splitlines()
    assert tuple(header.split(",")) == table.names
    assert [float(line.split(",")[1]) for line in lines] == table.values("test_loss")


def test_an_interrupted_scan_goes_on_where_it_was(capsys, tmp_path, monkeypatch):
    bridge_at(tmp_path)
    words = ("scan", tmp_path, "--points", "5", "--n", "60")
    whole = call(capsys, *words, "--json").json["rows"]
    measured = []

    class Stopping(Clean):
        def __call__(self, model, *, generator=None):
            if len(measured) == 3:
                raise KeyboardInterrupt
            measured.append(0)
            return super().__call__(model, generator=generator)

    monkeypatch.setattr(recipe_scan, "Clean", Stopping)
    monkeypatch.setattr(recipe_scan, "EVERY_SECONDS", 0.0)
    done = call(capsys, *words, "--out", tmp_path / "s")
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith(
        f"Go on with: isthmus {' '.join(map(str, words))} --out {tmp_path / 's'} --resume"
    )
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["status"] == "interrupted"
    assert len(Table.load(tmp_path / "s" / "table.json")) == 3
    monkeypatch.setattr(recipe_scan, "Clean", Clean)
    counted = []
    original = Clean.__call__
    monkeypatch.setattr(Clean, "__call__", lambda self, model, **kw: counted.append(0) or original(self, model, **kw))
    done = call(capsys, *words, "--out", tmp_path / "s", "--resume", "--json")
    assert done.json["rows"] == whole
    assert len(counted) == 2
    assert call(capsys, *words, "--out", tmp_path / "s", "--resume", "--json").json["rows"] == whole
    assert len(counted) == 2  # a finished table is taken over whole


def test_more_points_than_rows_need_not_agree(capsys, tmp_path):
    bridge_at(tmp_path)
    assert call(capsys, "scan", tmp_path, "--points", "3", "--n", "60", "--out", tmp_path / "s").code == 0
    done = call(capsys, "scan", tmp_path, "--points", "5", "--n", "60", "--out", tmp_path / "s", "--resume")
    assert done.code == 2
    assert '`grid` should be "3" to resume' in done.err


def test_robustness_along_a_path_with_its_page(tmp_path, capsys):
    """The probes, the barriers, the correlation, and the page made from the folder."""
    bridge_at(tmp_path)
    out = tmp_path / "scan"
    words = ("--probe", "clean", "--probe", "robust", "--probe", "input-hessian", "--eps", "0.1", "--points", "5")
    few = ("--n", "30", "--hessian-n", "10", "--attack-steps", "2", "--warm-start")
    done = call(capsys, "scan", tmp_path, *words, *few, "--out", out, "--json").json
    names = {column["name"] for column in done["columns"]}
    assert {"robust_loss", "robust_error", "evasion_success", "input_eigenvalue", "input_cosine"} <= names
    assert set(done["barriers"]) == {"test_loss", "test_error", "robust_loss", "robust_error"}
    assert done["association"]["n"] == 5
    for row in done["rows"]:
        assert row["robust_loss"] >= row["test_loss"] - 1e-6
        assert row["robust_error"] >= row["test_error"]
    assert "scan.html" in call(capsys, "report", out).out
    assert "under attack" in (out / "scan.html").read_text()


def test_a_loss_without_end_on_a_surface_has_no_barriers(capsys, tmp_path, monkeypatch):
    bridge_at(tmp_path, "surface:1x1", 4)
    measured, plain = [], Clean.__call__

    def endless(probe, model, *, generator=None):
        measured.append(0)
        found = dict(plain(probe, model, generator=generator))
        return found | ({"test_loss": float("inf")} if len(measured) == 5 else {})  # of nine points the middle

    monkeypatch.setattr(Clean, "__call__", endless)
    done = call(capsys, "scan", tmp_path, "--grid", "3x3", "--n", "50", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"][4]["test_loss"] == "Infinity"
    assert set(done.json["barriers"]) == {"test_error"}


def test_a_point_is_chosen_by_its_robustness(capsys, tmp_path):
    bridge_at(tmp_path, "surface:2x2", 4)
    attack = ("--probe", "clean", "--probe", "robust", "--eps", "0.2", "--attack-steps", "2")
    words = ("scan", tmp_path, "--grid", "3x3", "--n", "50", "--validation", "60", *attack)
    plain = call(capsys, *words, "--json").json
    done = call(capsys, *words, "--choose-by", "robustness", "--json").json
    best = min(done["rows"], key=lambda row: (row["validation_robust_error"], row["validation_robust_loss"]))
    assert done["meta"]["chosen"]["u"] == [best["u"], best["v"]]
    assert "highest accuracy under attack on 60 validation images" in done["meta"]["chosen"]["rule"]
    assert all(row["validation_robust_loss"] >= row["validation_loss"] for row in done["rows"])
    assert "validation_robust_error" not in plain["rows"][0]
    assert [row["robust_error"] for row in plain["rows"]] == [row["robust_error"] for row in done["rows"]]
    said = call(capsys, *words, "--choose-by", "robustness").out
    regret = best["robust_error"] - min(row["robust_error"] for row in done["rows"])
    assert f"Its test error under attack is {best['robust_error']:.1f} %" in said
    assert f"regret {regret:.1f}" in said
    for missing in (("--probe", "clean", "--validation", "60"), ("--probe", "robust")):
        wrong = call(capsys, "scan", tmp_path, "--grid", "3x3", *missing, "--choose-by", "robustness")
        assert wrong.code == 2
        assert (
            "`choose_by` should be accuracy without validation images or the probe robust. Found robustness."
            in wrong.err
        )
    typo = call(capsys, *words, "--choose-by", "robustnes")
    assert (typo.code, "choose_by" in typo.err) == (2, True)


def test_training_and_validation_images_have_probes_of_their_own(capsys, tmp_path):
    models, splits = bridge_at(tmp_path), load_data("digits")
    common = ("scan", tmp_path, "--points", "2", "--probe", "train", "--json")
    done = call(capsys, *common, "--validation", "200", "--train-n", "5000")
    row = done.json["rows"][0]
    apart, train = kept_apart(splits.train, 200, test=splits.test)
    for split, samples in (("validation", apart), ("train", train)):
        wrong = ~correct(logits(models[0], samples), samples.y)
        assert row[f"{split}_error"] == pytest.approx(100 * float(wrong.double().mean()))
    assert len(apart) == 200
    sizes = {column["name"]: column["n"] for column in done.json["columns"]}
    assert (sizes["validation_error"], sizes["train_error"]) == (200, len(train))
    few = call(capsys, *common, "--validation", "200", "--train-n", "50").json["rows"][0]
    assert few["train_loss"] != row["train_loss"]
    assert few["validation_loss"] == row["validation_loss"]


def test_statistics_of_each_batch_are_those_of_training_mode(capsys, tmp_path):
    models = bridge_at(tmp_path, arch="cnn")
    common = ("scan", tmp_path, "--points", "3", "--n", "100", "--json")
    found = {how: call(capsys, *common, "--settle", how).json["rows"] for how in ("recalibrate", "keep", "batch")}
    assert found["keep"][0] == found["recalibrate"][0]
    assert found["keep"][1]["test_loss"] != found["recalibrate"][1]["test_loss"]
    test = load_data("digits").test.subset(100, generator=stream(0, "test"))
    with torch.no_grad():
        scores = models[0].train()(test.inputs())  # no dropout in it: the module left in training mode
    loss = torch.nn.functional.cross_entropy(scores.double(), test.y)
    assert found["batch"][0]["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    halves = call(capsys, *common, "--settle", "batch", "--batch-size", "50").json["rows"]
    assert halves[0]["test_loss"] != found["batch"][0]["test_loss"]
    wrong = call(capsys, *common, "--settle", "bach")
    assert (wrong.code, "Did you mean 'batch'?" in wrong.err) == (2, True)


def test_a_grid_that_does_not_fit_is_refused_before_it_is_made(capsys, tmp_path):
    bridge_at(tmp_path, "surface:1x1", 4)
    done = call(capsys, "scan", tmp_path, "--grid", "1000000x1000000")
    assert done.code == 2
    assert "`grid` should fit into" in done.err
    assert "Found 1000000x1000000, 1,000,000,000,000 points, which take about" in done.err
    assert "Take at most " in done.err


def test_a_scan_that_takes_too_long_stops_at_its_first_points(capsys, tmp_path):
    bridge_at(tmp_path, "surface:1x1", 4)
    words = ("scan", tmp_path, "--grid", "50x50", "--n", "20", "--out", tmp_path / "s")
    done = call(capsys, *words, "--max-hours", "0.000001")
    assert done.code == 2
    assert "`grid` should take at most 1e-06 hours here. Found 2,500 points, which take about" in done.err
    assert "or --max-hours " in done.err
    small = ("scan", tmp_path, "--grid", "2x2", "--n", "20", "--out", tmp_path / "t")
    assert call(capsys, *small, "--max-hours", "0.0000000001").code == 2
    assert call(capsys, *small, "--max-hours", "1", "--resume").code == 0


def test_the_estimate_is_the_pace_of_the_second_row(monkeypatch):
    clock = iter([5.0, 15.0])
    monkeypatch.setattr(scan_limits, "perf_counter", lambda: next(clock))
    taken = []
    pace = Pace(taken.append, 362, 0.9, last=0.0)
    pace({"t": 0.0})
    with pytest.raises(
        InputError, match=r"Found 362 points, which take about 1\. Take at most 326 points.*--max-hours 1\.2 "
    ):
        pace({"t": 0.5})
    assert len(taken) == 2  # the rows are kept all the same
