"""Evidence that needs no trigger, gathered after a repair of small digits models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from isthmus.data import Samples, load_data
from isthmus.evaluate import logits
from isthmus.randomness import stream
from isthmus.recipes import trust as module
from isthmus.recipes.case import RepairRecipe
from isthmus.recipes.repair import run_repair
from isthmus.recipes.train import TrainRecipe, run_train
from isthmus.recipes.trust import trust_of
from isthmus.repair.triggers.candidates import Stamp
from isthmus.repair.triggers.inverted import MaskSearch
from isthmus.repair.trust.margins import MarginSearch
from isthmus.report import Document
from isthmus.runs import Run
from isthmus.training.plan import Plan
from isthmus.training.session import Session

TRIGGER, TARGET = "patch:size=2,at=6x6", "1"


@pytest.fixture(scope="module")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("suspect")
    tampering = {"tamper_trigger": TRIGGER, "target": TARGET, "hold_out": 300}
    recipe = TrainRecipe(arch="cnn", data="digits", width=8, plan=Plan(steps=150, batch_size=64), **tampering)
    with Run.open(folder / "0", recipe) as run:
        run_train(recipe, run)
    return str(folder / "0" / "model.safetensors")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches short enough for a test; what they find is not what is tested."""
    monkeypatch.setattr(module, "MaskSearch", lambda: MaskSearch(steps=30, batch_size=60, least=0.5))
    monkeypatch.setattr(module, "MarginSearch", lambda images: MarginSearch(images=min(images, 2), steps=5))


def repaired(path: str, folder: Path, **changes: Any) -> Document:
    plain = {"data": "digits", "clean": 120, "hold_out": 300, "evaluations": 16, "batch_size": 32, "baselines": False}
    recipe = RepairRecipe.model_validate({**plain, "method": "fine-tune", "suspects": (path,), **changes})
    with Run.open(folder, recipe) as run:
        document = run_repair(recipe, run)
        run.finish(document.status, document.reasons)
    return document


def test_without_asking_nothing_is_gathered(suspect: str, tmp_path: Path) -> None:
    assert repaired(suspect, tmp_path / "out").trust is None


def test_quick_evidence_names_every_class_and_measures_on_unseen_images(suspect: str, tmp_path: Path) -> None:
    trust = repaired(suspect, tmp_path / "out", trust="quick").trust
    assert trust is not None
    assert [one.label for one in trust.inverted] == list(range(10))
    assert {one.suspect for one in trust.inverted} == {"suspect 0"}
    assert (len(trust.triage), len(trust.disagreement), trust.planted, trust.reactivation) == (1, 1, (), ())
    assert trust.disagreement[0].differ.n == 500
    assert trust.notes == ("Measured on 500 test images that the repair has not seen.",)
    assert "Planted" not in (tmp_path / "out" / "report.html").read_text()


def test_quick_evidence_changes_nothing_of_the_repair(suspect: str, tmp_path: Path) -> None:
    plain, asked = (repaired(suspect, tmp_path / kind, trust=kind) for kind in ("none", "quick"))
    assert plain.repaired.sha256 == asked.repaired.sha256


def test_full_evidence_plants_and_tries_to_bring_back(suspect: str, tmp_path: Path) -> None:
    trust = repaired(suspect, tmp_path / "out", trust="full").trust
    assert trust is not None
    names = {one.name for one in trust.planted}
    assert names <= {"patch", "blend", "warp", "low-frequency", "errors"}
    skipped = [note for note in trust.notes if "took hold" in note or "take hold" in note]
    assert len(names) == 5 or skipped  # every plant is either reported or said not to have taken
    assert len(trust.reactivation) == 2 or any(note.startswith("Re-activation was not tested") for note in trust.notes)


def test_plants_can_be_had_alone(suspect: str, tmp_path: Path) -> None:
    plain, asked = (repaired(suspect, tmp_path / kind, trust=kind) for kind in ("none", "planted"))
    assert plain.repaired.sha256 == asked.repaired.sha256
    trust = asked.trust
    assert trust is not None
    assert (trust.inverted, trust.reactivation, trust.disagreement, trust.triage) == ((), (), (), ())
    names = sorted([one.name for one in trust.planted] + list(trust.skipped))
    assert names == ["blend", "errors", "low-frequency", "patch", "warp"]
    assert not any("test images" in note for note in trust.notes)  # measured on validation images
    whole = repaired(suspect, tmp_path / "whole", trust="full").trust
    assert whole is not None
    assert (whole.planted, whole.skipped) == (trust.planted, trust.skipped)


def test_success_after_is_counted_on_images_of_other_classes() -> None:
    test = load_data("digits").test.subset(40, generator=stream(0, "x"))
    stamp = Stamp(torch.full((8, 8), 0.5), torch.ones(1, 8, 8))

    class Bright(nn.Module):
        """Calls an image class 2 where its mean is above a half, else its first class."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            high = (x.mean((1, 2, 3)) > 0.5).float()
            return torch.nn.functional.one_hot((2 * high).long(), 10).float()

    model = Bright()
    found = module._success(SimpleNamespace(trigger=stamp, target=2), SimpleNamespace(module=model), test)  # type: ignore[arg-type]  # pyright: ignore[reportPrivateUsage]
    others = test.take(test.y != 2)
    hits = int((logits(model, others, transform=stamp).argmax(1) == 2).sum())
    assert (found.hits, found.n) == (hits, len(others))
    assert found.hits > 0


def test_inputs_without_triggers_are_said_not_to_have_been_tested() -> None:
    x, y = torch.rand(12, 4), torch.arange(12) % 3
    samples = Samples(x, y, num_classes=3, name="table")
    case = SimpleNamespace(
        clean=SimpleNamespace(train=samples),
        splits=SimpleNamespace(num_classes=3),
        recipe=SimpleNamespace(trust="quick"),
    )
    trust = trust_of(case, None, None, Session())  # type: ignore[arg-type]
    assert trust.inverted == ()
    assert "nothing of it was tested here" in trust.notes[0]
