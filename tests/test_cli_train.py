"""`isthmus train`: the weights it writes are those it reports, tampered or not, and a resumed run ends the same."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cli_example import call, tree
from isthmus.cli.options import plan_settings
from isthmus.data import load_data
from isthmus.evaluate import correct, logits
from isthmus.models import load_model
from isthmus.recipes.reserve import reserve
from isthmus.store import read_card
from isthmus.table import Table
from isthmus.tampering import Patch
from isthmus.training.plan import Plan

ARCH = ("--arch", "mlp:depth=1", "--width", "16", "--data", "digits")


def test_the_weights_are_the_reported_ones(capsys, tmp_path):
    more = ("--steps", "200", "--learning-rate", "0.2", "--augment", "none")
    done = call(capsys, "train", *ARCH, *more, "--out", tmp_path / "a", "--json")
    assert done.code == 0
    assert sorted(tree(tmp_path / "a")) == [
        "checkpoint.pt", "history.json", "manifest.json", "metrics.json", "model.safetensors", "recipe.json",
    ]  # fmt: skip
    result = done.json
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == result
    assert result["attack_success"] is None
    assert result["gradient_evaluations"] == 200
    test = load_data("digits").test
    model, _ = load_model(
        "mlp:depth=1", tmp_path / "a" / "model.safetensors", num_classes=10, input_shape=(1, 8, 8), width=16
    )
    right = correct(logits(model, test), test.y)
    assert result["clean_accuracy"]["value"] == int(right.sum()) / 597
    assert result["clean_accuracy"]["n"] == 597
    assert result["clean_accuracy"]["value"] > 0.8
    history = Table.load(tmp_path / "a" / "history.json")
    assert history.values("step")[-1] == 200
    assert history.values("error")[-1] < history.values("error")[0]
    card = read_card(tmp_path / "a" / "model.safetensors")
    assert (card.arch, card.width, card.num_classes, card.input_shape, card.data) == (
        "mlp:depth=1",
        16,
        10,
        (1, 8, 8),
        "digits",
    )


def test_a_tampered_model_and_images_it_never_saw(capsys, tmp_path):
    tampering = ("--tamper-trigger", "patch:size=2,at=0x0", "--target", "3", "--hold-out", "300")
    words = (
        *ARCH,
        "--steps",
        "300",
        "--learning-rate",
        "0.2",
        "--augment",
        "none",
        *tampering,
        "--out",
        tmp_path / "a",
    )
    done = call(capsys, "train", *words)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert result["train_n"] == 900
    assert result["poisoned_n"] == 90
    assert result["attack_success"]["n"] == int((load_data("digits").test.y != 3).sum())
    assert result["attack_success"]["value"] > 0.8
    assert "attack success: " in done.out
    assert "Wilson 95 %" in done.out
    splits = load_data("digits")
    rest = reserve(splits, 300)[1]
    record = json.loads((tmp_path / "a" / "poison.json").read_text())
    assert record["trigger"].startswith("patch:size=2,at=0x0")
    assert rest.y[record["index"]].tolist() == record["original_labels"]
    model, _ = load_model(
        "mlp:depth=1", tmp_path / "a" / "model.safetensors", num_classes=10, input_shape=(1, 8, 8), width=16
    )
    others = splits.test.take(splits.test.y != 3)
    sent = logits(model, others, transform=Patch(2, at=(0, 0))).argmax(1) == 3
    assert result["attack_success"]["value"] == pytest.approx(float(sent.double().mean()), abs=1e-12)


def test_settings_reach_the_training(capsys, tmp_path):
    results = {}
    for name, more in {
        "same": (),
        "again": (),
        "seed": ("--seed", "1"),
        "augment": ("--augment", "none"),
        "shift": ("--augment", "shift=2,flip"),
        "set": ("--set", "num_points=2"),
        "momentum": ("--set", "plan.momentum=0.5"),
        "optimizer": ("--optimizer", "adamw", "--learning-rate", "0.001"),
        "sharpness": ("--sharpness", "0.5"),
        "held": ("--hold-out", "500"),
        "other": ("--hold-out", "500", "--hold-out-seed", "1"),
    }.items():
        assert call(capsys, "train", *ARCH, "--steps", "5", *more, "--out", tmp_path / name).code == 0
        results[name] = load_file(tmp_path / name / "model.safetensors")["1.weight"]
    assert torch.equal(results.pop("again"), results["same"])
    # One network: drawing u twice at a single point is two equal passes, the mean of which is the first up to rounding.
    assert torch.allclose(results.pop("set"), results["same"], atol=1e-6)
    names = list(results)
    for i, one in enumerate(names):
        for two in names[:i]:
            assert not torch.equal(results[one], results[two]), (one, two)
    settings = json.loads((tmp_path / "momentum" / "recipe.json").read_text())["settings"]
    assert settings["plan"]["momentum"] == 0.5


def test_a_resumed_training_ends_the_same(capsys, tmp_path):
    words = ("train", *ARCH, "--steps", "10", "--out", tmp_path / "a")
    assert call(capsys, *words).code == 0
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert call(capsys, *words).code == 2
    done = call(capsys, *words, "--resume", "--json")
    assert done.code == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["resumed"] is True


def test_progress_is_one_line_where_nobody_watches(capsys, tmp_path):
    done = call(capsys, "train", *ARCH, "--steps", "10", "--out", tmp_path / "a", "--json")
    lines = done.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("training: 10 of 10 in ")
    assert "loss " in lines[0]
    assert done.json["status"] == "done"  # stdout is one document


def test_metrics_are_tracked(capsys, tmp_path):
    assert call(capsys, "train", *ARCH, "--steps", "10", "--track", "csv", "--out", tmp_path / "a").code == 0
    (path,) = (tmp_path / "a" / "track").rglob("metrics.csv")
    header, *rows = path.read_text().splitlines()
    assert set(header.split(",")) == {"step", "loss", "error", "learning_rate", "gradient_norm", "distance"}
    assert len(rows) == 10


def test_help_states_the_defaults_of_the_plan(capsys):
    plan = Plan()
    shown = " ".join(call(capsys, "train", "--help").out.replace("│", " ").split())
    for text in (
        f"Optimizer steps. Default {plan.steps}.",
        f"Images per step. Default {plan.batch_size}.",
        f"Highest rate. Default {plan.learning_rate}.",
        f"Default {plan.optimizer} with momentum {plan.momentum}.",
        f"Default {plan.weight_decay}.",
        f"Default {plan.schedule}.",
        f"Default {plan.precision}.",
    ):
        assert text in shown


def test_further_settings_are_json_or_text():
    found = plan_settings(
        {"steps": 3, "clip": None}, ["clip=2.5", "decay=points", "milestones=[0.1]", "plan.num-points=4"]
    )
    assert found == {"steps": 3, "clip": 2.5, "decay": "points", "milestones": [0.1], "num_points": 4}


def test_training_against_an_adversary(capsys, tmp_path):
    """Every set of weights that is left is saved and stands on its own; the budget follows its schedule."""
    out = tmp_path / "robust"
    words = ("--arch", "mlp:depth=1", "--width", "16", "--data", "digits", "--steps", "40", "--batch-size", "32")
    against = ("--adversary", "pgd", "--eps", "0.1", "--attack-steps", "2", "--schedule", "periodic-linear")
    more = (
        "--resets",
        "0.5",
        "--average",
        "0.9",
        "--validation",
        "60",
        "--train-n",
        "300",
        "--keep",
        "best",
        "--log-every",
        "4",
    )
    done = call(capsys, "train", *words, *against, *more, "--out", out, "--json").json
    assert done["train_n"] == 300
    assert done["gradient_evaluations"] == 40 * 3
    assert set(done["standings"]) == {"last", "best", "averaged", "snapshots"}
    for held in done["standings"].values():
        assert held["robust_accuracy"]["value"] <= held["clean_accuracy"]["value"]
    assert {"model", "last", "averaged", "snapshot-1", "snapshot-2", "measured"} <= set(done["files"])
    history = Table.load(out / "history.json")
    assert history.values("step") == list(range(4, 41, 4))
    share = [((step - 1) / 40 * 2) % 1 for step in range(4, 41, 4)]
    assert history.values("radius") == pytest.approx([min(1.0, 2 * p) * 0.1 for p in share])
    measured = Table.load(out / "measured.json")
    assert {"validation_robust_error", "dead_layers", "dead_units"} <= set(measured.names)
    best = load_model("mlp:depth=1", out / "model.safetensors", num_classes=10, input_shape=(1, 8, 8), width=16)[0]
    test = load_data("digits").test
    right = correct(logits(best, test), test.y).double().mean().item()
    assert done["clean_accuracy"]["value"] == pytest.approx(right)
    assert done["standings"]["best"]["clean_accuracy"]["value"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--adversary", "pgd"), "`eps` should be given with --adversary, such as --eps 8/255. Found none."),
        (("--eps", "8/255"), "`eps` should come with --adversary. Found none."),
        (
            ("--schedule", "cosine"),
            "`schedule` should come with --adversary. Found none. The learning rate's schedule is --lr-schedule.",
        ),
        (("--adversary-set", "beta=2"), "`adversary-set` should come with --adversary. Found none."),
        (("--adversary", "pgd", "--eps", "8"), "Say 8/255?"),
        (("--adversary", "pgd", "--eps", "0"), "`radius` should be"),
        (("--adversary", "pdg", "--eps", "0.1"), "pgd"),
        (("--adversary", "pgd", "--eps", "0.1", "--schedule", "period-cosine"), "periodic-cosine"),
        (("--resets", "half"), "`resets` should be numbers such as 0.5,0.75. Found 'half'."),
        (
            ("--awp", "0.01", "--sharpness", "1"),
            "`awp` should be given without --sharpness: both move the weights uphill. Found 1.",
        ),
        (("--keep", "best"), "`keep` should be last without an adversary and --validation N. Found best."),
        (("--keep", "averaged"), "`keep` should be last without --average DECAY. Found averaged."),
        (("--keep", "snapshots"), "averaged"),
    ],
)
def test_an_adversary_that_cannot_be(capsys, tmp_path, words, message):
    done = call(capsys, "train", "--arch", "mlp:depth=1", "--data", "digits", *words, "--out", tmp_path / "run")
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_a_layer_that_died_is_named_with_what_follows(capsys, tmp_path):
    """Far too high a rate kills the hidden layer: nothing passes it, and the classifier is constant."""
    words = ("--arch", "mlp:depth=1", "--width", "8", "--data", "digits", "--steps", "60", "--optimizer", "adamw")
    against = (
        "--learning-rate",
        "30",
        "--adversary",
        "pgd",
        "--eps",
        "0.4",
        "--attack-steps",
        "2",
        "--set",
        "clip=1.0",
    )
    done = call(capsys, "train", *words, *against, "--out", tmp_path / "a", "--json").json
    (layer,) = done["dead_layers"]
    assert "constant" in layer
    (last,) = Table.load(tmp_path / "a" / "measured.json").values("dead_layers")[-1:]
    assert last == 1.0
