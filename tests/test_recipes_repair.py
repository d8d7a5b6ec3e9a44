"""The repair recipe on small digits: evidence that can be measured again, and a trigger that only ever measures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contracts.modules import assert_same_bits, tensors_of
from isthmus._check import InputError
from isthmus.data import load_data, require_disjoint
from isthmus.evaluate import logits
from isthmus.files import sha256
from isthmus.models import load_model
from isthmus.probes import Clean as CleanProbe
from isthmus.rates import wilson
from isthmus.recipes import repair as recipe_module
from isthmus.recipes.repair import BASELINES, RepairRecipe, run_repair
from isthmus.recipes.train import TrainRecipe, run_train
from isthmus.repair.methods import METHODS, make
from isthmus.repair.protocol import Clean
from isthmus.report import Document
from isthmus.runs import Run
from isthmus.settle import Recalibrate
from isthmus.store import load_bridge
from isthmus.tampering import parse_trigger
from isthmus.training.plan import Plan
from isthmus.training.session import Session

TRIGGER, TARGET = "patch:size=2,at=6x6", "1"
SECRET = """
import os

def trigger(x):
    assert os.environ.get("A_REMEDY_IS_AT_WORK") is None, "the trigger reached a remedy"
    x = x.clone()
    x[..., 6:8, 6:8] = 1.0
    return x
"""


@pytest.fixture(scope="module")
def suspects(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two tampered models of width 8, trained on digits without the reserve."""
    folder = tmp_path_factory.mktemp("suspects")
    for seed in range(2):
        plan = Plan(steps=150, batch_size=64)
        tampering = {"tamper_trigger": TRIGGER, "target": TARGET, "hold_out": 300}
        recipe = TrainRecipe(arch="cnn", data="digits", width=8, plan=plan, seed=seed, **tampering)
        with Run.open(folder / str(seed), recipe) as run:
            run_train(recipe, run)
    return str(folder / "0" / "model.safetensors"), str(folder / "1" / "model.safetensors")


def recipe_for(paths: Sequence[str], **changes: object) -> RepairRecipe:
    plain = {"data": "digits", "clean": 120, "hold_out": 300, "evaluations": 16, "batch_size": 32, "points": 5}
    return RepairRecipe.model_validate({**plain, "method": "path", "suspects": tuple(paths), **changes})


def loaded(path: str | Path) -> nn.Module:
    return load_model("cnn", str(path), num_classes=10, input_shape=(1, 8, 8), width=8)[0]


def repaired(recipe: RepairRecipe, folder: Path, **settings: Any) -> Document:
    with Run.open(folder, recipe, command=("isthmus", "repair"), **settings) as run:
        document = run_repair(recipe, run)
        run.finish(document.status, document.reasons)
    return document


@dataclass(frozen=True)
class Watched:
    """One repair with all remedies, and what each of them was given."""

    document: Document
    folder: Path
    given: dict[str, tuple[Sequence[nn.Module], Clean]]


@pytest.fixture(scope="module")
def watched(suspects: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The trigger is a function of the user's that fails while any remedy is at work."""
    folder = tmp_path_factory.mktemp("repair")
    (folder / "secret.py").write_text(SECRET)
    given: dict[str, tuple[Sequence[nn.Module], Clean]] = {}

    def watching(name: str, budget: Any) -> Any:
        remedy = make(name, budget)

        def run(models: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Any:
            given[name] = (models, clean)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("A_REMEDY_IS_AT_WORK", name)
                return remedy(models, clean, seed=seed, session=session)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module, "make", watching)
        recipe = recipe_for(suspects, trigger=f"{folder / 'secret.py'}:trigger", target=TARGET)
        document = repaired(recipe, folder / "out")
    return Watched(document, folder / "out", given)


def rates(model: nn.Module) -> dict[str, float]:
    """Hits over n, counted from the logits on all test images."""
    test = load_data("digits").test
    others = test.take(test.y != 1)
    sent = logits(model, others, transform=parse_trigger(TRIGGER)).argmax(1)
    return {
        "clean_accuracy": int((logits(model, test).argmax(1) == test.y).sum()) / len(test),
        "attack_success": int((sent == 1).sum()) / len(others),
        "recovery_accuracy": int((sent == others.y).sum()) / len(others),
    }


def test_the_trigger_reached_no_remedy(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {watched.document.method.name, *watched.document.baselines}
    assert set(watched.given) == names == {"path", *BASELINES}
    monkeypatch.setenv("A_REMEDY_IS_AT_WORK", "1")
    trigger = parse_trigger(watched.document.trigger.spec)
    with pytest.raises(AssertionError, match="the trigger reached a remedy"):  # the trap is armed
        trigger(torch.zeros(1, 1, 8, 8))


def test_remedies_see_the_same_suspects_as_given_and_the_same_images(
    watched: Watched, suspects: tuple[str, str]
) -> None:
    for path, module in zip(suspects, watched.given["path"][0], strict=True):
        assert_same_bits(tensors_of(module), tensors_of(loaded(path)))  # after all remedies had it
    assert len({id(clean) for _, clean in watched.given.values()}) == 1


def test_roles_share_no_image(watched: Watched) -> None:
    clean, splits = watched.given["path"][1], load_data("digits")
    data = watched.document.data
    assert (data.clean_n, data.train_n, data.validation_n, data.test_n) == (120, 96, 24, 597)
    assert (len(clean.train), len(clean.validation)) == (96, 24)
    require_disjoint(clean.train, clean.validation)
    require_disjoint(clean.train, splits.test)
    require_disjoint(clean.validation, splits.test)
    roles = {"train": clean.train, "validation": clean.validation, "test": splits.test}
    assert data.digests == {name: samples.digest() for name, samples in roles.items()}


def test_the_saved_weights_have_the_reported_numbers(watched: Watched) -> None:
    model = loaded(watched.folder / "model.safetensors")
    for name, value in rates(model).items():
        entry = getattr(watched.document.repaired, name)
        assert entry.value == value, name
        assert (entry.low, entry.high) == pytest.approx(wilson(value, entry.n))
    assert watched.document.repaired.loss == CleanProbe(load_data("digits").test)(model)["test_loss"]


def test_suspects_are_reported_as_measured_from_their_files(watched: Watched, suspects: tuple[str, str]) -> None:
    for path, entry in zip(suspects, watched.document.suspects, strict=True):
        model = loaded(path)
        assert {name: getattr(entry, name).value for name in rates(model)} == rates(model)
        assert (entry.path, entry.sha256) == (path, sha256(path))
        assert entry.attack_success.value > 0.5  # they are tampered with, or this file shows nothing


def test_the_saved_bridge_leads_to_the_saved_weights(watched: Watched) -> None:
    model = loaded(watched.folder / "model.safetensors")
    bridge = load_bridge(watched.folder / "bridge.safetensors", model)
    choice = watched.document.choice
    again = bridge.at(choice.u, settle=Recalibrate(watched.given["path"][1].train))
    assert_same_bits(tensors_of(again), tensors_of(model))
    assert watched.document.geometry.ratio >= 1


def test_the_curve_has_the_choice_and_the_suspects_on_it(watched: Watched) -> None:
    table = watched.document.curve.table()
    assert table.values("t") == [0.0, 0.25, 0.5, 0.75, 1.0]
    rows = {row["t"]: row for row in table.rows()}
    ends = [entry.clean_accuracy.value for entry in watched.document.suspects]
    assert [100 - rows[t]["test_error"] for t in (0.0, 1.0)] == pytest.approx([100 * value for value in ends])
    chosen = rows[watched.document.choice.u[0]]
    assert chosen["attack_success"] == pytest.approx(100 * watched.document.repaired.attack_success.value)
    assert {c.name: c.split for c in table.columns}["validation_error"] == "validation"


def test_the_report_is_complete(watched: Watched) -> None:
    held = json.loads((watched.folder / "report.json").read_text())
    assert Document.model_validate(held) == watched.document
    assert (held["schema_version"], held["command"]) == ("2", ["isthmus", "repair"])
    assert held["method"]["settings"]["plan"]["steps"] == 16
    assert held["choice"]["rule"] == held["method"]["rule"]
    spent = {name: 0 if name == "average" else 16 for name in ("path", *BASELINES)}
    assert held["cost"]["gradient_evaluations"] == spent
    assert {name: entry["gradient_evaluations"] for name, entry in held["baselines"].items()} == {
        name: spent[name] for name in BASELINES
    }
    assert all(seconds > 0 for seconds in held["cost"]["seconds"].values())
    assert held["trigger"]["target"] == 1
    assert set(held["files"]) == {"model.safetensors", "bridge.safetensors"}
    assert "Only 24 validation images" in held["warnings"][0]
    assert (held["data"]["augment"], held["seeds"]) == ({"shift": 1, "flip": False}, {"seed": 0})
    manifest = json.loads((watched.folder / "manifest.json").read_text())
    assert manifest["status"] == held["status"]


def test_without_a_trigger_attack_success_is_null(suspects: tuple[str, str], tmp_path: Path) -> None:
    recipe = recipe_for(suspects, baselines=False, test_n=100, curve_n=50)
    document = repaired(recipe, tmp_path / "out")
    held = json.loads((tmp_path / "out" / "report.json").read_text())
    assert held["trigger"] is None
    for entry in (held["repaired"], *held["suspects"]):
        assert entry["attack_success"] is None
        assert entry["recovery_accuracy"] is None
        assert entry["clean_accuracy"]["n"] == 100
    assert document.baselines == {}
    assert document.reasons[0].startswith("No trigger is known")
    assert {c.n for c in document.curve.columns if c.name == "test_error"} == {50}


def test_known_trigger_or_not_the_repair_is_the_same(
    watched: Watched, suspects: tuple[str, str], tmp_path: Path
) -> None:
    repaired(recipe_for(suspects, baselines=False), tmp_path / "out")
    both = [folder / "model.safetensors" for folder in (tmp_path / "out", watched.folder)]
    models = [loaded(path) for path in both]
    assert_same_bits(tensors_of(models[0]), tensors_of(models[1]))


CRITERIA = {
    "done": {"max_drop": 0.9},
    "inconclusive": {"max_drop": 0.02, "test_n": 12},
    "criteria_not_met": {"max_attack_success": 1e-3, "max_drop": 0.9, "trigger": TRIGGER, "target": TARGET},
}


@pytest.mark.parametrize("status", CRITERIA)
def test_the_criteria_are_the_recipes(suspects: tuple[str, str], tmp_path: Path, status: str) -> None:
    """Two gradients take no backdoor out and lose little accuracy."""
    recipe = recipe_for(suspects, method="fine-tune", evaluations=2, baselines=False, **CRITERIA[status])
    document = repaired(recipe, tmp_path / "out")
    assert document.status == status
    words = {"done": "limit 90: met", "inconclusive": "would decide", "criteria_not_met": "limit 0.1 %: not met"}
    assert words[status] in " ".join(document.reasons)
    assert (document.choice, document.curve, document.geometry) == (None, None, None)
    assert document.method.rule == "last step"


def test_resumed_is_uninterrupted(suspects: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_for(suspects, test_n=50)
    whole = repaired(recipe, tmp_path / "whole")

    def stopping(name: str, budget: Any) -> Any:
        if name == "scratch":
            raise KeyboardInterrupt
        return make(name, budget)

    with monkeypatch.context() as patch:
        patch.setattr(recipe_module, "make", stopping)
        with pytest.raises(KeyboardInterrupt):
            repaired(recipe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "interrupted"
    again = repaired(recipe, tmp_path / "out", resume=True)
    assert (again.repaired.sha256, again.curve, again.choice) == (whole.repaired.sha256, whole.curve, whole.choice)
    kept = [{n: e.model_copy(update={"seconds": None}) for n, e in d.baselines.items()} for d in (again, whole)]
    assert kept[0] == kept[1]


BAD = {
    "also": ({"also": ("fine-tun",)}, r"`method` should be one of .*Did you mean 'fine-tune'"),
    "method": ({"method": "sharp"}, r"`method` should be one of .*Did you mean 'sharp-path'"),
    "suspects": ({"suspects": 1}, r"`suspects` should be 2 for the method 'path'\. Found 1"),
    "target": ({"trigger": TRIGGER}, r"`trigger` should be given together with a target\. Found only one of them"),
    "clean": (
        {"clean": 15},
        r"`clean` should be at least 20 images: one of each class to train on and one to choose by",
    ),
    "hold_out": ({"clean": 301}, r"`clean` should be at most the 300 images held out\. Found 301"),
    "trigger": ({"trigger": "patch:size=2,at=7x7", "target": TARGET}, r"`trigger` should lie inside the 8 x 8 images"),
}


@pytest.mark.parametrize("name", BAD)
def test_input_that_cannot_be_used_writes_nothing(suspects: tuple[str, str], tmp_path: Path, name: str) -> None:
    changes, text = BAD[name]
    held = {**changes, "suspects": suspects[: changes.get("suspects", 2)]}
    with pytest.raises(InputError, match=text):
        repaired(recipe_for(suspects, **held), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_suspect_will_do_for_remedies_that_take_one(suspects: tuple[str, str], tmp_path: Path) -> None:
    recipe = recipe_for(suspects[:1], method="fine-tune", evaluations=2, test_n=50)
    document = repaired(recipe, tmp_path / "out")
    assert set(document.baselines) == {n for n in BASELINES if METHODS[n].suspects == 1} - {"fine-tune"}


def test_other_remedies_are_compared_on_request(suspects: tuple[str, str], tmp_path: Path) -> None:
    recipe = recipe_for(suspects, also=("fine-tune", "path", "sharp-path"), baselines=False, evaluations=2, test_n=50)
    assert list(repaired(recipe, tmp_path / "out").baselines) == ["fine-tune", "sharp-path"]


def test_a_comparison_that_diverges_is_left_out_and_a_method_that_does_is_an_error(
    suspects: tuple[str, str], tmp_path: Path
) -> None:
    common = {"baselines": False, "evaluations": 40, "test_n": 50, "learning_rate": 1e30}
    document = repaired(recipe_for(suspects, method="average", also=("fine-tune",), **common), tmp_path / "out")
    assert document.baselines == {}
    assert any(
        one.startswith("Not compared with fine-tune: `learning_rate` should keep the loss finite")
        for one in document.warnings
    )
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(InputError, match="`learning_rate` should keep the loss finite"):
        repaired(recipe_for(suspects, method="fine-tune", **common), tmp_path / "other")


def test_without_images_along_the_path_there_is_no_curve_and_the_same_repair(
    suspects: tuple[str, str], tmp_path: Path
) -> None:
    with_curve, without = (
        repaired(recipe_for(suspects, curve_n=n, baselines=False), tmp_path / str(n)) for n in (50, 0)
    )
    assert with_curve.curve is not None
    assert without.curve is None
    assert without.choice == with_curve.choice
    assert without.repaired.sha256 == with_curve.repaired.sha256
