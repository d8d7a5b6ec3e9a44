"""`isthmus ensemble`: the printed numbers are those of the models themselves, what is chosen is chosen on validation images."""

import json
import math
from copy import deepcopy

import pytest
import torch

from cli_example import call, model_file, tree
from isthmus._check import InputError
from isthmus.attacks.cascade import Settings, robustness
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.data import load_data, split_roles
from isthmus.ensemble import Ensemble
from isthmus.evaluate import correct, logits
from isthmus.geometry.build import connect, parse_geometry
from isthmus.geometry.flat import Affine
from isthmus.geometry.sampling import sample
from isthmus.losses import cross_entropy
from isthmus.models import load_model
from isthmus.randomness import stream
from isthmus.rates import mcnemar
from isthmus.recipes import ensemble_bench, ensemble_members
from isthmus.recipes.ensemble_points import points_of
from isthmus.recipes.reserve import chosen_on, reserve
from isthmus.settle import Keep, Recalibrate, running_layers
from isthmus.soup import uniform_soup
from isthmus.store import Card, save_bridge, save_model

FEW = ("--n", "40", "--validation", "30")
TINY = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
"""


def loaded(path, arch="mlp:depth=1", width=8):
    return load_model(arch, path, num_classes=10, input_shape=(1, 8, 8), width=width)[0]


def files(folder, count, **more):
    return [model_file(folder / f"m{i}.safetensors", seed=i, **more) for i in range(count)]


def bridge_at(folder, geometry="bezier:2", count=2):
    models = [loaded(path) for path in files(folder, count)]
    bridge = connect(models, parse_geometry(geometry, count))
    card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bridge, folder / "bridge.safetensors", meta=card)
    return models, bridge


def images():
    data = load_data("digits")
    test = data.test.subset(40, generator=ensemble_members.stream(0, "test"))
    validation = split_roles(data.train, {"validation": 30, "train": None}, seed=0, avoid=data.test)["validation"]
    return test, validation


def rows_of(done):
    assert done.code == 0, done.err
    return {row["name"]: row for row in done.json["rows"]}


def accuracy(model, samples):
    return 100 * float(correct(logits(model, samples), samples.y).double().mean())


def test_every_row_is_what_its_name_says(capsys, tmp_path):
    models, bridge = bridge_at(tmp_path)
    done = call(capsys, "ensemble", tmp_path, "--points", "0,0.5,1", *FEW, "--json")
    rows, (test, validation) = rows_of(done), images()
    members = [models[0], bridge.at(0.5), models[1]]
    for name, model in zip(("t = 0", "t = 0.5", "t = 1"), members, strict=True):
        assert rows[name]["test_accuracy"] == pytest.approx(accuracy(model, test))
        assert rows[name]["validation_accuracy"] == pytest.approx(accuracy(model, validation))
        assert rows[name]["test_accuracy_low"] < rows[name]["test_accuracy"] < rows[name]["test_accuracy_high"]
    for name, model in (
        ("softmax ensemble", Ensemble(members)),
        ("logit ensemble", Ensemble(members, "logits")),
        ("uniform soup", uniform_soup(members, settle=None)),
        ("corner ensemble", Ensemble(models)),
        ("centroid of the corners", uniform_soup(models, settle=None)),
    ):
        scores = logits(model, test).double()
        assert rows[name]["test_accuracy"] == pytest.approx(accuracy(model, test))
        assert rows[name]["test_nll"] == pytest.approx(float(cross_entropy(scores, test.y).mean()), rel=1e-5)
        assert rows[name]["members"] == (2 if "corner" in name else 3)
    assert rows["softmax ensemble"]["passes"] == 3
    assert rows["uniform soup"]["passes"] == 1
    assert rows["softmax ensemble"]["weight_bytes"] == 3 * rows["uniform soup"]["weight_bytes"]
    loss = sum(rows[f"t = {t}"]["test_nll"] for t in ("0", "0.5", "1")) / 3
    assert rows["softmax ensemble"]["ambiguity"] == pytest.approx(loss - rows["softmax ensemble"]["test_nll"], abs=1e-6)
    assert list(tree(tmp_path)) == ["bridge.safetensors", "m0.safetensors", "m1.safetensors"]  # nothing written


def test_what_is_chosen_is_chosen_on_validation_images(capsys, tmp_path):
    bridge_at(tmp_path)
    done = call(capsys, "ensemble", tmp_path, "--points", "7", *FEW, "--json")
    rows, meta = rows_of(done), done.json["meta"]
    members = [rows[name] for name in meta["members"]]
    chosen, best = rows[meta["chosen"]["name"]], rows[meta["hindsight"]["name"]]
    assert chosen["validation_accuracy"] == max(row["validation_accuracy"] for row in members)
    assert best["test_accuracy"] == max(row["test_accuracy"] for row in members)
    row = rows["chosen on validation: " + meta["chosen"]["name"]]
    assert row["regret"] == pytest.approx(best["test_accuracy"] - chosen["test_accuracy"])
    assert row["regret"] >= 0
    assert meta["regret"] == pytest.approx(row["regret"] / 100)
    assert rows["greedy soup"]["validation_accuracy"] >= chosen["validation_accuracy"]
    for name in ("softmax ensemble", "greedy soup"):
        assert rows[name]["gain"] == pytest.approx(rows[name]["test_accuracy"] - chosen["test_accuracy"])
        assert 0 < rows[name]["gain_p"] <= 1


def test_the_attack_goes_through_the_whole_ensemble(capsys, tmp_path):
    models, _ = bridge_at(tmp_path)
    attack = ("--eps", "0.1", "--norm", "l2", "--attack-steps", "2")
    rows = rows_of(call(capsys, "ensemble", tmp_path, "--points", "corners", *FEW, *attack, "--json"))
    test, _ = images()
    for name, model in (("t = 0", models[0]), ("softmax ensemble", Ensemble(models))):
        found = robustness(model, test, [PGD(2)], Threat("l2", 0.1), settings=Settings(0, 250)).robust
        assert rows[name]["robust_accuracy"] == pytest.approx(100 * found.value)
    assert rows["corner ensemble"]["robust_accuracy"] == rows["softmax ensemble"]["robust_accuracy"]


def test_a_surface_by_grid_and_by_coordinates(capsys, tmp_path):
    bridge_at(tmp_path, "surface:1x1", 4)
    grid = call(capsys, "ensemble", tmp_path, "--points", "2x3", *FEW, "--json")
    assert len(grid.json["meta"]["members"]) == 6
    named = rows_of(call(capsys, "ensemble", tmp_path, "--points", "0.5,0.5;0,1", *FEW, "--json"))
    assert [row["name"] for row in named.values() if row["kind"] == "corner"] == [
        "u = 0, v = 0",
        "u = 1, v = 0",
        "u = 1, v = 1",
    ]
    centre, soup = named["u = 0.5, v = 0.5"], named["centroid of the corners"]
    assert centre["test_nll"] == pytest.approx(soup["test_nll"], rel=1e-5)


def test_an_architecture_of_ones_own_from_files(capsys, tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    arch, data = f"{tmp_path / 'tiny.py'}:net", load_data("digits")
    held = {}
    exec(TINY, held)
    models = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = held["net"]()
        Recalibrate(data.train)(model)
        save_model(model, tmp_path / f"{seed}.safetensors")
        models.append(model.eval())
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    words = ("--arch", arch, "--data", "digits", *FEW, "--settle-n", "50", "--save", "--out", tmp_path / "out")
    rows = rows_of(call(capsys, "ensemble", *paths, *words, "--json"))
    test, _ = images()
    assert rows["softmax ensemble"]["test_accuracy"] == pytest.approx(accuracy(Ensemble(models), test))
    assert "corner ensemble" not in rows
    assert "robust_accuracy" not in rows["greedy soup"]
    for name, file in (("uniform soup", "uniform-soup"), ("greedy soup", "greedy-soup")):
        again = loaded(tmp_path / "out" / f"{file}.safetensors", arch, None)
        assert running_layers(again)
        assert accuracy(again, test) == pytest.approx(rows[name]["test_accuracy"])
        assert rows[name]["kind"] == "soup"


def test_an_interrupted_run_ends_as_if_it_had_not_been(capsys, tmp_path, monkeypatch):
    bridge_at(tmp_path)
    words = ("ensemble", tmp_path, "--points", "corners", *FEW, "--eps", "0.1", "--attack-steps", "1")
    whole = rows_of(call(capsys, *words, "--out", tmp_path / "whole", "--json"))
    real, calls = ensemble_bench.robustness, []

    def stopping(*args, **more):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(ensemble_bench, "robustness", stopping)
    monkeypatch.setattr(ensemble_bench, "EVERY_SECONDS", 0.0)
    stopped = call(capsys, *words, "--out", tmp_path / "out")
    assert stopped.code == 130
    assert "--resume" in stopped.err
    assert {"logits.safetensors", "robust.json"} <= set(tree(tmp_path / "out"))
    assert rows_of(call(capsys, *words, "--out", tmp_path / "out", "--resume", "--json")) == whole
    assert 3 < len(calls) <= 3 + 4  # six different rows are attacked, of which two were done
    before = tree(tmp_path / "out")
    assert "robust.json" not in before
    assert rows_of(call(capsys, *words, "--out", tmp_path / "out", "--resume", "--json")) == whole  # nothing left to do
    assert json.loads(before["ensemble.json"])["rows"] == list(whole.values())
    assert before["table.csv"].startswith(b"name,kind,test_accuracy,")


def test_people_read_what_was_chosen_and_what_is_doubtful(capsys, tmp_path):
    path = files(tmp_path, 1)[0]
    copy = model_file(tmp_path / "copy.safetensors")
    done = call(capsys, "ensemble", path, copy, path, *FEW)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("| name | test_accuracy (%) | test_accuracy_low (%) |")
    assert any(line.startswith("chosen on 30 validation images: ") and line.endswith("regret 0 %") for line in lines)
    assert f"warning: {copy}: the same model as {path}, counted once more" in lines
    assert sum(line.startswith("warning: ") for line in lines) == 2
    assert done.err.startswith("measuring models: 3 of 3 in ")
    bridge_at(tmp_path)
    twice = call(capsys, "ensemble", tmp_path / "bridge.safetensors", "--points", "0.5,0.5", *FEW)
    assert "warning: t = 0.5: named again, counted once more" in twice.out


def test_a_plane_has_no_border():
    assert points_of(Affine(3), "2,-1;0,0", generator=torch.Generator()).tolist() == [[2.0, -1.0], [0.0, 0.0]]
    with pytest.raises(InputError, match=r"`points` should lie on the bridge, a plane with any finite coordinates"):
        points_of(Affine(3), "inf,0", generator=torch.Generator())


def test_validation_images_are_those_that_no_training_saw():
    splits = load_data("digits")
    validation, rest = chosen_on(splits, 40, 100)
    first, others = reserve(splits, 60)
    assert len(validation) == 40
    assert not torch.isin(validation.index, first.index).any()  # what `connect --clean 60` trains on
    assert not torch.isin(validation.index, rest.index).any()
    assert torch.isin(validation.index, others.index).all()
    whole, _ = chosen_on(splits, 100, 100)
    assert torch.equal(whole.index, reserve(splits, 100)[0].index)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--points", "0,1.5"), "`points` should lie on the bridge, each coordinate in [0, 1]. Found 1.5."),
        (("--points", "0,nan"), "`points` should lie on the bridge, each coordinate in [0, 1]. Found nan."),
        (("--points", "1"), "`points` should name at least 2 points for each of 1 coordinate(s). Found 1."),
        (("--points", "3x3"), "`points` should name at least 2 points for each of 1 coordinate(s). Found 3x3."),
        (("--points", "all"), "`points` should be `corners`, a grid such as 5 or 3x3, random:25, or coordinates"),
        (("--points", "99999999999"), "`points` should fit into "),
        (
            ("--validation", "5000"),
            "`validation` should be between 10 and 1,190 of the images of digits/train. Found 5000.",
        ),
        (("--validation", "9"), "`validation` should be between 10 and 1,190 of the images of digits/train. Found 9."),
        (("--hold-out", "35"), "`validation` should be 35, all that is held out, or at most 25 of them. Found 30."),
        (("--validation", "0"), "Invalid value for '--validation'"),
        (("--norm", "l2"), "`norm` should come with --eps, the radius of the attack. Found l2 alone."),
        (("--eps", "0.1", "--norm", "l3"), "`norm` should be 'linf', 'l2' or 'l1'. Found 'l3'."),
        (("--eps", "20"), "`radius` should be at most 1, the width of the box in this norm. Found 20.0."),
        (("--eps", "none"), "`radius` should be a fraction or a decimal"),
        (("--resume",), "`resume` should come with --out, the folder to continue in. Found none."),
        (("--save",), "`save` should come with --out, where the soups go. Found none."),
    ],
)
def test_wrong_words_are_one_line(capsys, tmp_path, words, text):
    bridge_at(tmp_path)
    before = tree(tmp_path)
    out = () if words[0] in ("--resume", "--save") else ("--out", tmp_path / "out")
    done = call(capsys, "ensemble", tmp_path, *FEW, *words, *out)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert text in done.err
    assert tree(tmp_path) == before


def test_wrong_files_are_one_line(capsys, tmp_path):
    bridge_at(tmp_path)
    one, two = tmp_path / "m0.safetensors", tmp_path / "m1.safetensors"
    other = model_file(tmp_path / "wide.safetensors", width=12)
    (tmp_path / "text.safetensors").write_text("no tensors")
    bridge_at_surface = tmp_path / "s"
    bridge_at_surface.mkdir()
    bridge_at(bridge_at_surface, "simplex", 3)
    for words, text in (
        ((one,), "Found the weights of a single model. An ensemble is of a bridge, or of at least two models."),
        ((tmp_path / "nothing",), "An ensemble is of a bridge, or of at least two models."),
        ((tmp_path / "text.safetensors",), "should be a safetensors file"),
        ((one, other), "should be a model of one architecture with the others"),
        ((one, other, "--arch", "mlp:depth=1", "--width", "8"), "of shape (12, 64) where the model has (8, 64)"),
        ((one, tmp_path / "gone.safetensors"), "gone.safetensors"),
        ((one, tmp_path), f"`models` should be weight files or bridges, not both. Found '{tmp_path}' beside '{one}'."),
        ((tmp_path / "bridge.safetensors", one), "`models` should be weight files or bridges, not both."),
        ((one, two, "--points", "3"), "`points` should come with a bridge. Found 3 with 2 models."),
        ((bridge_at_surface, "--points", "0.6,0.6"), "at least 0 with a sum of at most 1. Found 0.6,0.6."),
        ((bridge_at_surface, "--points", "0.5;0.2"), "`points` should have 2 coordinate(s) each. Found 0.5."),
    ):
        done = call(capsys, "ensemble", *words, *FEW)
        assert (done.code, done.out) == (2, ""), words
        assert len(done.err.splitlines()) == 1
        assert text in done.err


def test_what_does_not_fit_is_refused_before_it_is_made(capsys, tmp_path, monkeypatch):
    bridge_at(tmp_path)
    monkeypatch.setattr(ensemble_members, "free_memory", lambda _: 300_000)
    clean = call(capsys, "ensemble", tmp_path, "--points", "9", *FEW)
    assert (clean.code, clean.out) == (2, "")
    assert "`points` should fit into 0.1 MiB, half of the free memory. Found 11, which take about 0.2 MiB." in clean.err
    assert "Take at most " in clean.err
    monkeypatch.setattr(ensemble_members, "free_memory", lambda _: 1000)
    many = call(capsys, "ensemble", tmp_path / "m0.safetensors", tmp_path / "m1.safetensors", *FEW, "--eps", "0.1")
    assert "`models` should fit into 0.0 MiB, half of the free memory. Found 2" in many.err
    assert "Not one of them fits." in many.err
    monkeypatch.setattr(ensemble_members, "free_memory", lambda _: None)
    assert call(capsys, "ensemble", tmp_path, "--points", "2", *FEW).code == 0


def test_every_ensemble_stands_beside_that_of_the_corners(capsys, tmp_path):
    models, bridge = bridge_at(tmp_path)
    words = ("ensemble", tmp_path, "--points", "0,0.5,1", *FEW)
    rows, (test, _) = rows_of(call(capsys, *words, "--json")), images()
    right = [
        correct(logits(Ensemble(members), test), test.y) for members in (models, [models[0], bridge.at(0.5), models[1]])
    ]
    pairs = mcnemar(*right)
    assert rows["softmax ensemble"]["over_corners"] == pytest.approx(100 * pairs.change)
    assert rows["softmax ensemble"]["over_corners_p"] == pytest.approx(min(1.0, pairs.p_value))
    assert (rows["corner ensemble"]["over_corners"], rows["corner ensemble"]["over_corners_p"]) == (0.0, 1.0)
    assert rows["t = 0"]["over_corners"] is None
    plain = rows_of(call(capsys, *words, "--no-greedy", "--json"))
    assert "greedy soup" in rows
    assert "greedy soup" not in plain
    assert {name: row for name, row in rows.items() if name != "greedy soup"} == plain
    assert "greedy soup" not in call(capsys, *words, "--no-greedy").out


def test_random_points_are_uniform_draws_of_the_seed(capsys, tmp_path):
    drawn = points_of(parse_geometry("complex:2", 3), "random:6", generator=stream(1, "points"))
    assert torch.equal(drawn, sample(parse_geometry("complex:2", 3), 6, generator=stream(1, "points")))
    bridge_at(tmp_path)
    names = [
        [
            row["name"]
            for row in call(capsys, "ensemble", tmp_path, "--points", "random:3", "--seed", k, *FEW, "--json").json[
                "rows"
            ]
        ][:3]
        for k in (1, 2)
    ]
    expected = points_of(parse_geometry("line", 2), "random:3", generator=stream(1, "points"))
    assert names[0] == [f"t = {float(t):.6g}" for t in expected]
    assert names[0] != names[1]


def test_several_bridges_are_one_ensemble_with_draws_of_their_own(capsys, tmp_path):
    pairs = []
    for name, seed in (("a", 0), ("b", 2)):
        (tmp_path / name).mkdir()
        models = [loaded(model_file(tmp_path / name / f"m{k}.safetensors", seed=seed + k)) for k in range(2)]
        bridge = connect(models, parse_geometry("line", 2))
        card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
        save_bridge(bridge, tmp_path / name / "bridge.safetensors", meta=card)
        pairs.append((models, bridge))
    folders = (tmp_path / "a", tmp_path / "b" / "bridge.safetensors")
    rows, (test, _) = rows_of(call(capsys, "ensemble", *folders, "--points", "random:2", *FEW, "--json")), images()
    generator = stream(0, "points")
    places = [sample(bridge.basis, 2, generator=generator) for _, bridge in pairs]
    names = [f"{folder}: t = {float(t):.6g}" for folder, drawn in zip(folders, places, strict=True) for t in drawn]
    assert list(rows)[:4] == names
    assert len(set(names)) == 4
    members = [bridge.at(t) for (_, bridge), drawn in zip(pairs, places, strict=True) for t in drawn]
    right = 100 * float(correct(logits(Ensemble(members), test), test.y).float().mean())
    assert rows["softmax ensemble"]["test_accuracy"] == pytest.approx(right)
    corners = [model for models, _ in pairs for model in models]
    right = 100 * float(correct(logits(Ensemble(corners), test), test.y).float().mean())
    assert rows["corner ensemble"]["test_accuracy"] == pytest.approx(right)
    assert (rows["corner ensemble"]["members"], rows["softmax ensemble"]["members"]) == (4, 4)


def batchnorm_bridge(folder):
    """A segment between two models with BatchNorm whose running statistics fit."""
    (folder / "tiny.py").write_text(TINY)
    held = {}
    exec(TINY, held)
    models, data = [], load_data("digits")
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(held["net"]())
        Recalibrate(data.train.subset(200, generator=stream(0, "x")))(models[-1])
        save_model(models[-1].eval(), folder / f"m{seed}.safetensors")
    bridge = connect(models, parse_geometry("line", 2))
    arch = f"{folder / 'tiny.py'}:net"
    save_bridge(
        bridge,
        folder / "bridge.safetensors",
        meta=Card(arch=arch, num_classes=10, input_shape=(1, 8, 8), data="digits"),
    )
    return models, bridge, ("--arch", arch, "--data", "digits", *FEW)


def in_training_mode(module, samples, size):
    """Logits of a copy left in training mode, batch by batch, as the published code measures them."""
    copy = deepcopy(module).train()
    parts = torch.arange(len(samples)).split(size)
    with torch.no_grad():
        return torch.cat([copy(samples.inputs(index)) for index in parts])


def test_statistics_of_each_batch_are_those_of_training_mode(capsys, tmp_path):
    models, bridge, words = batchnorm_bridge(tmp_path)
    test, _ = images()
    common = ("ensemble", tmp_path, "--points", "3", *words, "--batch-size", "20", "--json")
    done = call(capsys, *common, "--settle", "batch")
    rows = rows_of(done)
    members = [models[0], bridge.at(0.5), models[1]]
    scores = [in_training_mode(model, test, 20) for model in members]
    for name, found in zip(("t = 0", "t = 0.5", "t = 1"), scores, strict=True):
        assert rows[name]["test_nll"] == pytest.approx(float(cross_entropy(found, test.y).mean()), rel=1e-5)
    whole = torch.stack(scores).log_softmax(2).logsumexp(0) - math.log(3)
    assert rows["softmax ensemble"]["test_nll"] == pytest.approx(float(cross_entropy(whole, test.y).mean()), rel=1e-5)
    soup = in_training_mode(uniform_soup(members, settle=Keep()), test, 20)
    assert rows["uniform soup"]["test_nll"] == pytest.approx(float(cross_entropy(soup, test.y).mean()), rel=1e-5)
    kept = rows["greedy soup"]["validation_accuracy"]
    assert kept >= max(rows[name]["validation_accuracy"] for name in ("t = 0", "t = 0.5", "t = 1"))
    assert (done.json["meta"]["settle"], done.json["meta"]["settle_n"]) == ("BatchStatistics", None)
    assert any("those of each batch of 20 images" in note for note in done.json["meta"]["notes"])
    files = ("ensemble", *(tmp_path / f"m{k}.safetensors" for k in (0, 1)), *words, "--batch-size", "20", "--json")
    assert rows_of(call(capsys, *files, "--settle", "batch"))[str(tmp_path / "m0.safetensors")][
        "test_nll"
    ] == pytest.approx(rows["t = 0"]["test_nll"])


def test_kept_statistics_are_those_of_the_heaviest_corner(capsys, tmp_path):
    _, bridge, words = batchnorm_bridge(tmp_path)
    test, _ = images()
    common = ("ensemble", tmp_path, "--points", "0,0.4,1", *words, "--json")
    found = {how: rows_of(call(capsys, *common, "--settle", how)) for how in ("keep", "recalibrate")}
    expected = logits(bridge.at(0.4, settle=Keep()), test)
    assert found["keep"]["t = 0.4"]["test_nll"] == pytest.approx(
        float(cross_entropy(expected, test.y).mean()), rel=1e-5
    )
    assert found["recalibrate"]["t = 0.4"]["test_nll"] != found["keep"]["t = 0.4"]["test_nll"]
    assert found["recalibrate"]["t = 0"] == found["keep"]["t = 0"]
    assert rows_of(call(capsys, *common)) == found["recalibrate"]
    for more, said in (
        (("--eps", "0.1"), "Found batch with eps."),
        (("--save", "--out", tmp_path / "o"), "Found batch with save."),
    ):
        refused = call(capsys, *common[:-1], "--settle", "batch", *more)
        assert refused.code == 2
        assert f"`settle` should be recalibrate or keep to save soups and to attack. {said}" in refused.err
    assert "Did you mean 'batch'?" in call(capsys, *common, "--settle", "batches").err
