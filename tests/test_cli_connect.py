"""`isthmus connect`: bridges of every geometry on disk, and a killed training that ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from cli_example import call, model_file
from isthmus.data import load_data
from isthmus.evaluate import logits
from isthmus.geometry.bases import Chain
from isthmus.losses import cross_entropy
from isthmus.models import build_model
from isthmus.randomness import stream
from isthmus.recipes.reserve import kept_apart, reserve
from isthmus.store import Card, load_bridge, read_header, save_model


@pytest.fixture
def models(tmp_path):
    return [model_file(tmp_path / f"{name}.safetensors", seed=i) for i, name in enumerate("abcd")]


def template():
    return build_model("mlp:depth=1", num_classes=10, input_shape=(1, 8, 8), width=8, seed=5)


def test_a_curve_between_two_files(capsys, tmp_path, models):
    done = call(capsys, "connect", *models[:2], "--steps", "30", "--clean", "200", "--out", tmp_path / "ab", "--json")
    assert done.code == 0, done.err
    result = done.json
    assert result["train_n"] == 200
    assert result["free_points"] == 1
    assert result["geometry"]["ratio"] > 1
    assert result["training"]["gradient_evaluations"] == 30
    bridge = load_bridge(tmp_path / "ab" / "bridge.safetensors", template())
    for end, path in ((0.0, models[0]), (1.0, models[1])):
        given = load_file(path)
        for name, tensor in bridge.at(end).state_dict().items():
            assert torch.equal(tensor, given[name])
    assert bridge.names == (str(models[0]), str(models[1]))
    middle = (bridge.fixed[0] + bridge.fixed[1]) / 2
    assert not torch.allclose(bridge.free[0], middle)
    assert read_header(tmp_path / "ab" / "bridge.safetensors").card.arch == "mlp:depth=1"
    manifest = json.loads((tmp_path / "ab" / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {str(models[0]), str(models[1])}
    assert "bridge.safetensors" in manifest["outputs"]


@pytest.mark.parametrize(
    ("geometry", "count", "free", "shape"),
    [
        ("line", 2, 0, {"length", "chord", "ratio"}),
        ("chain:2", 2, 2, {"length", "chord", "ratio"}),
        ("surface:2x2", 4, 5, {"area"}),
        ("simplex", 3, 0, {"area"}),
        ("simplex", 4, 0, set()),
        ("triangle:3", 3, 7, {"area"}),
        ("star", 3, 1, {"length", "log_volume"}),
        ("simplex:3", 1, 2, {"area", "log_volume"}),
        ("complex:3", 2, 3, {"volume", "log_volume"}),
    ],
)
def test_every_geometry(capsys, tmp_path, models, geometry, count, free, shape):
    done = call(
        capsys, "connect", *models[:count], "--geometry", geometry, "--steps", "3", "--out", tmp_path / "g", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["free_points"] == free
    assert set(done.json["geometry"]) == shape
    assert (done.json["training"] is None) == (free == 0)
    assert load_file(tmp_path / "g" / "bridge.safetensors")["fixed"].shape[0] == count


def test_a_grown_simplex_depends_on_its_volume_and_draws(capsys, tmp_path, models):
    def grown(*more):
        folder = tmp_path / str(len(list(tmp_path.glob("g*")))).join(("g", ""))
        words = ("connect", models[0], "--geometry", "simplex:3", "--steps", "6", *more, "--out", folder, "--json")
        done = call(capsys, *words)
        assert done.code == 0, done.err
        return done.json, load_file(folder / "bridge.safetensors")["free"]

    plain, points = grown()
    assert plain["training"]["gradient_evaluations"] == 6 * 5
    assert torch.equal(grown("--set", "num_points=5", "--volume", "1e-6")[1], points)
    wide, far = grown("--volume", "0.1")
    assert wide["geometry"]["log_volume"] > plain["geometry"]["log_volume"]
    assert not torch.equal(far, points)
    assert grown("--set", "num_points=2")[0]["training"]["gradient_evaluations"] == 12
    refused = call(
        capsys, "connect", *models[:2], "--geometry", "complex:2", "--stages", "edges-kept", "--out", tmp_path / "x"
    )
    assert (refused.code, "anything but a Bezier surface" in refused.err) == (2, True)
    one = call(capsys, "connect", models[0], "--out", tmp_path / "y")
    assert (one.code, "'bezier:2' joins 2. Found 1." in one.err) == (2, True)
    assert (
        "simplex:3 through 1 model of"
        in call(capsys, "connect", models[0], "--geometry", "simplex:3", "--steps", "2", "--out", tmp_path / "z").out
    )


@pytest.mark.parametrize("geometry", ["neb:2", "llpf:4"])
def test_walked_paths_tell_their_highest_loss(capsys, tmp_path, models, geometry):
    words = ("connect", *models[:2], "--geometry", geometry, "--steps", "32", "--clean", "100", "--out", tmp_path / "g")
    done = call(capsys, *words, "--json")
    assert done.code == 0, done.err
    bridge = load_bridge(tmp_path / "g" / "bridge.safetensors", template())
    assert isinstance(bridge.basis, Chain)
    assert done.json["free_points"] == bridge.free.shape[0]
    assert geometry == "llpf:4" or bridge.free.shape[0] >= 2  # between untrained ends llpf needs no point
    part = reserve(load_data("digits"), 100)[0].subset(100, generator=stream(0, "looked at"))
    top = done.json["highest"]
    found = cross_entropy(logits(bridge.at(top["t"]), part), part.y).mean()
    assert top == {"loss": pytest.approx(float(found), rel=1e-5), "t": top["t"], "n": 100}
    ends = [float(cross_entropy(logits(bridge.at(t), part), part.y).mean()) for t in (0.0, 0.5, 1.0)]
    assert top["loss"] >= max(ends) - 1e-6
    again = call(capsys, *words, "--resume")
    assert "highest training loss on the path" in again.out
    assert not list((tmp_path / "g").glob("checkpoint-*.pt"))
    assert call(capsys, *words[:3], "--geometry", geometry, "--stages", "edges-kept", "--out", tmp_path / "x").code == 2


def test_how_llpf_walks(capsys, tmp_path, models):
    def walked(name, *more):
        words = ("connect", *models[:2], "--geometry", "llpf:4", "--steps", "9", "--clean", "100", *more)
        return call(capsys, *words, "--out", tmp_path / name, "--json")

    assert walked("a").json["training"]["gradient_evaluations"] == 9
    ended = walked("b", "--set", "until=100", "--set", "log_every=1")  # any loss is below that: a step a tick
    assert ended.json["training"]["gradient_evaluations"] == 3
    recipe = tmp_path / "c" / "recipe.json"
    assert walked("c", "--walk", "inward-first", "--set", "until=100").code == 0
    assert json.loads(recipe.read_text())["settings"]["walk"] == "inward-first"
    curve = call(capsys, "connect", *models[:2], "--walk", "inward-first", "--steps", "2", "--out", tmp_path / "d")
    assert curve.code == 2
    assert "`walk` should be across for all but llpf. Found inward-first." in curve.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("geometry", "count", "points"), [("simplex:3", 1, 6), ("complex:2", 2, 9), ("star", 3, 7), ("triangle:2", 3, 6)]
)
def test_grids_and_ensembles_of_every_geometry(capsys, tmp_path, models, geometry, count, points):
    words = ("connect", *models[:count], "--geometry", geometry, "--steps", "3", "--out", tmp_path / "g")
    assert call(capsys, *words).code == 0
    done = call(capsys, "scan", tmp_path / "g", "--grid", "3", "--n", "50", "--out", tmp_path / "scan", "--json")
    assert done.code == 0, done.err
    assert len(done.json["rows"]) == points
    assert call(capsys, "report", tmp_path / "scan").code == 0
    few = ("--n", "50", "--validation", "30", "--json")
    for text, members in (("3", points), ("random:4", 4), ("corners", count)):
        done = call(capsys, "ensemble", tmp_path / "g", "--points", text, *few)
        assert done.code == 0, done.err
        assert len([row for row in done.json["rows"] if row["kind"] == "member"]) == members, text
    refused = call(
        capsys, "ensemble", tmp_path / "g", "--points", ",".join(["0.9"] * (2 if geometry != "star" else 3)), *few
    )
    assert refused.code == 2


def test_a_surface_in_stages_keeps_its_edges(capsys, tmp_path, models):
    common = ("connect", *models[:4], "--geometry", "surface:2x2", "--steps", "8", "--set", "sampling=area")
    done = call(capsys, *common, "--stages", "edges-kept", "--out", tmp_path / "g", "--json")
    assert done.code == 0, done.err
    assert done.json["free_points"] == 1
    assert done.json["training"]["gradient_evaluations"] == 8
    assert not list((tmp_path / "g").glob("checkpoint-edge-*"))
    assert load_file(tmp_path / "g" / "bridge.safetensors")["fixed"].shape[0] == 8
    wrong = call(capsys, *common, "--stages", "edges", "--out", tmp_path / "h")
    assert (wrong.code, "stages" in wrong.err) == (2, True)
    line = call(capsys, "connect", *models[:2], "--stages", "edges-kept", "--out", tmp_path / "i")
    assert (line.code, "anything but a Bezier surface" in line.err) == (2, True)


def test_a_straight_line_is_as_long_as_its_chord(capsys, tmp_path, models):
    done = call(capsys, "connect", *models[:2], "--geometry", "line", "--out", tmp_path / "g", "--json")
    one, two = (torch.cat([t.flatten() for t in load_file(path).values()]) for path in models[:2])
    assert done.json["geometry"]["length"] == pytest.approx(float((one - two).double().norm()), rel=1e-6)
    assert done.json["geometry"]["ratio"] == pytest.approx(1.0)


def test_duplicate_corners_are_told(capsys, tmp_path, models):
    copies = [model_file(tmp_path / f"{name}.safetensors", seed=i) for i, name in enumerate(("a2", "b2"))]
    words = ("--geometry", "surface:1x1")
    done = call(capsys, "connect", *models[:2], *copies, *words, "--out", tmp_path / "g")
    assert done.code == 0
    assert f"warning: {copies[0]}: the same weights as {models[0]}, a duplicate corner" in done.out
    assert f"warning: {copies[1]}: the same weights as {models[1]}, a duplicate corner" in done.out
    assert "warning: the flat surface between these corners has zero area: it is a curve, or a point" in done.out
    some = call(capsys, "connect", *models[:3], copies[0], *words, "--out", tmp_path / "h", "--json").json
    assert [note for note in some["notes"] if "warning" in note] == [
        f"warning: {copies[0]}: the same weights as {models[0]}, a duplicate corner"
    ]
    assert some["geometry"]["area"] > 0
    same = call(capsys, "connect", models[0], models[1], models[0], models[1], *words, "--out", tmp_path / "s")
    assert same.code == 0
    assert f"warning: {models[1]}: the same weights as {models[1]}, a duplicate corner" in same.out
    once = call(capsys, "connect", *[models[0]] * 4, *words, "--out", tmp_path / "o")
    assert (once.code, "`models` should be different files. Found" in once.err) == (2, True)
    few = call(capsys, "connect", *models[:3], "--geometry", "surface:2x2", "--out", tmp_path / "i")
    assert few.code == 2
    assert "`geometry` should fit the number of models: 'surface:2x2' joins 4. Found 3." in few.err


def test_validation_images_are_left_out(capsys, tmp_path, models):
    common = ("connect", *models[:2], "--steps", "3", "--seed", "1", "--json")
    found = {
        n: call(capsys, *common, *(("--validation", n) if n else ()), "--out", tmp_path / f"v{n}").json
        for n in (0, 200)
    }
    assert found[0]["train_n"] == 1200
    splits = load_data("digits")
    assert found[200]["train_n"] == len(kept_apart(splits.train, 200, test=splits.test)[1])
    assert found[0]["training"]["loss"] != found[200]["training"]["loss"]
    both = call(capsys, *common, "--validation", "200", "--clean", "100", "--out", tmp_path / "both")
    assert both.code == 2
    assert "`validation` should be left out with --clean. Found 200." in both.err


def test_the_result_in_words(capsys, tmp_path, models):
    done = call(capsys, "connect", *models[:2], "--steps", "2", "--out", tmp_path / "ab")
    assert "bezier:2 through 2 models of mlp:depth=1, 1 points trained" in done.out
    assert "images of digits" in done.out
    assert "ratio: " in done.out


def test_files_that_say_nothing_of_themselves(capsys, tmp_path):
    for i, name in enumerate("ab"):
        module = build_model("mlp:depth=1", num_classes=10, input_shape=(1, 8, 8), width=8, seed=i)
        torch.save({"state_dict": module.state_dict()}, tmp_path / f"{name}.pth")
    words = ("connect", tmp_path / "a.pth", tmp_path / "b.pth", "--steps", "2", "--out", tmp_path / "ab")
    done = call(capsys, *words)
    assert done.code == 2
    assert "`data` should name the images" in done.err
    done = call(capsys, *words, "--data", "digits")
    assert "`arch` should name the architecture of these files" in done.err
    done = call(capsys, *words, "--data", "digits", "--arch", "mlp:depth=1", "--width", "8")
    assert done.code == 0
    assert "took the entry 'state_dict' of the file" in done.out


def test_code_named_by_a_file_is_not_run(capsys, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    for name in "ab":
        module = build_model("mlp:depth=1", num_classes=10, input_shape=(1, 8, 8), width=8)
        save_model(module, tmp_path / f"{name}.safetensors", Card(arch=f"{tmp_path}/evil.py:net", data="digits"))
    done = call(capsys, "connect", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--out", tmp_path / "ab")
    assert done.code == 2
    assert "what the file names is not one of the library's models" in done.err
    assert not (tmp_path / "ab").exists()


def test_the_users_own_architecture(capsys, tmp_path):
    layers = "nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10)"
    (tmp_path / "arch.py").write_text(f"from torch import nn\n\n\ndef net():\n    return nn.Sequential({layers})\n")
    spec = f"{tmp_path / 'arch.py'}:net"
    for i, name in enumerate("ab"):
        module = build_model(spec, num_classes=10, input_shape=(1, 8, 8), seed=i)
        torch.save(module.state_dict(), tmp_path / f"{name}.pth")
    words = (tmp_path / "a.pth", tmp_path / "b.pth", "--arch", spec, "--data", "digits", "--out", tmp_path / "ab")
    assert call(capsys, "connect", *words, "--steps", "3").code == 0
    done = call(capsys, "scan", tmp_path / "ab", "--arch", spec, "--points", "3", "--n", "100", "--json")
    assert done.code == 0, done.err
    assert len(done.json["rows"]) == 3


def test_the_reserve_is_what_a_connection_trains_on(capsys, tmp_path, models, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "isthmus.recipes.connect.reserve", lambda splits, n: seen.append((splits, n)) or reserve(splits, n)
    )
    assert call(capsys, "connect", *models[:2], "--steps", "2", "--clean", "50", "--out", tmp_path / "ab").code == 0
    assert [n for _, n in seen] == [50]


def test_killed_and_resumed_ends_bitwise_the_same(capsys, tmp_path, models):
    words = ["connect", *map(str, models[:2]), "--steps", "3000", "--batch-size", "32"]
    assert call(capsys, *words, "--out", tmp_path / "whole").code == 0
    killed = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "isthmus",
        *words,
        "--checkpoint-every",
        "0",
        "--threads",
        "1",
        "--out",
        str(killed),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        deadline = time.monotonic() + 120
        while not (killed / "checkpoint.pt").exists():
            assert process.poll() is None, "ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    step = torch.load(killed / "checkpoint.pt", weights_only=True)["engine"]["step"]
    assert 0 < step < 3000
    assert not (killed / "bridge.safetensors").exists()
    assert json.loads((killed / "manifest.json").read_text())["status"] == "running"
    done = call(capsys, *words, "--out", killed, "--resume", "--json")
    assert done.code == 0, done.err
    one, two = (load_file(folder / "bridge.safetensors") for folder in (tmp_path / "whole", killed))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    histories = [json.loads((folder / "history.json").read_text()) for folder in (tmp_path / "whole", killed)]
    assert histories[0]["rows"] == histories[1]["rows"]
    manifest = json.loads((killed / "manifest.json").read_text())
    assert (manifest["status"], manifest["resumed"]) == ("done", True)


@pytest.mark.slow
def test_two_processes_share_a_connection(tmp_path, models):
    words = ["connect", *map(str, models[:2]), "--steps", "5", "--devices", "2", "--accelerator", "cpu", "--json"]
    command = [sys.executable, "-m", "isthmus", *words, "--out", str(tmp_path / "ab")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["training"]["gradient_evaluations"] == 5
    )  # one document, from the first process alone
    assert json.loads((tmp_path / "ab" / "manifest.json").read_text())["status"] == "done"


def test_models_of_a_star_are_matched_to_its_centre(capsys, tmp_path, models):
    words = ("connect", *models[:3], "--geometry", "star", "--steps", "12", "--clean", "256", "--batch-size", "32")
    plain = call(capsys, *words, "--out", tmp_path / "plain", "--json")
    done = call(capsys, *words, "--rematch", "--out", tmp_path / "star", "--json")
    assert (plain.code, done.code) == (0, 0), done.err
    assert not any("matched" in note for note in plain.json["notes"])
    assert any("corners compute what the given models do" in note for note in done.json["notes"])
    assert "epoch 1 of 2" in done.err  # 256 images in batches of 32: 8 steps
    bridge, test = load_bridge(tmp_path / "star" / "bridge.safetensors", template()), load_data("digits").test
    for (u, _), path in zip(bridge.basis.corners, models, strict=False):
        given = template()
        given.load_state_dict(load_file(path))
        torch.testing.assert_close(logits(bridge.at(u), test), logits(given, test), rtol=1e-4, atol=1e-5)
    assert done.json["geometry"]["length"] < plain.json["geometry"]["length"]
    assert sorted(path.name for path in (tmp_path / "star").glob("checkpoint-*")) == []
    refused = call(capsys, "connect", *models[:2], "--rematch", "--steps", "3", "--out", tmp_path / "curve")
    assert refused.code == 2
    assert "`rematch` should come with the geometry star. Found bezier:2." in refused.err
