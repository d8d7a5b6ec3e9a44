"""The demonstration at a hundredth of its size: what it trains, what it averages, what it resumes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from isthmus.recipes import demo as demo_module
from isthmus.recipes.demo import MAX_ATTACK, MIN_ACCURACY, DemoRecipe, run_demo
from isthmus.recipes.repair import BASELINES, RepairRecipe
from isthmus.recipes.train import TrainRecipe
from isthmus.report import Document, Summary
from isthmus.runs import Run
from isthmus.training.plan import Plan
from isthmus.training.session import Session


def small_train(**settings: Any) -> TrainRecipe:
    return TrainRecipe(**{**settings, "width": 8, "plan": Plan(steps=60, batch_size=64)})


def small_repair(**settings: Any) -> RepairRecipe:
    return RepairRecipe(**{**settings, "evaluations": 4, "points": 3, "test_n": 60, "curve_n": 20})


@pytest.fixture(scope="module")
def shrunk() -> Any:
    """The demo with small models and hardly any training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "TrainRecipe", small_train)
        patch.setattr(demo_module, "RepairRecipe", small_repair)
        yield partial(run_demo)


@pytest.fixture(scope="module")
def done(shrunk: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path, list[str]]:
    folder, told = tmp_path_factory.mktemp("demo") / "out", []
    recipe = DemoRecipe(seeds=2, clean=60, method="path")
    with Run.open(folder, recipe, command=("isthmus", "demo")) as run:
        summary = shrunk(recipe, run, session=Session(stage=told.append))
    return summary, folder, told


def test_each_seed_has_its_own_suspects_and_report(done: tuple[Summary, Path, list[str]]) -> None:
    summary, folder, told = done
    assert [run.seed for run in summary.runs] == [0, 1]
    digests = [entry.sha256 for run in summary.runs for entry in run.suspects]
    assert len(set(digests)) == 4
    for seed in range(2):
        held = json.loads((folder / f"seed-{seed}" / "report.json").read_text())
        assert held["repaired"]["sha256"] == summary.runs[seed].repaired.sha256
        assert (held["data"]["clean_n"], held["method"]["name"], held["seeds"]["seed"]) == (60, "path", seed)
        assert held["trigger"] == {"spec": "patch:size=2,at=6x6", "target": 1}
        assert "may have been trained on them" not in " ".join(held["warnings"])  # the reserve was held out
        recipes = [Path(entry["path"]).parent / "recipe.json" for entry in held["suspects"]]
        seeds = [json.loads(path.read_text())["settings"] for path in recipes]
        assert [s["seed"] for s in seeds] == [2 * seed, 2 * seed + 1]
        assert {s["hold_out"] for s in seeds} == {300}
    starts = [
        f"seed {seed}: {what}"
        for seed in range(2)
        for what in ("training suspect 0", "training suspect 1", "repairing by path", "comparing with sharp-path")
    ]
    found = iter(told)
    assert all(any(line.startswith(start) for line in found) for start in starts)  # in this order, others between


def test_the_criteria_are_those_of_the_means(done: tuple[Summary, Path, list[str]]) -> None:
    summary, folder, _ = done
    accuracy = sum(run.repaired.clean_accuracy.value for run in summary.runs) / 2
    attack = sum(run.repaired.attack_success.value for run in summary.runs) / 2
    assert summary.status == ("done" if accuracy >= MIN_ACCURACY and attack <= MAX_ATTACK else "criteria_not_met")
    assert summary.reasons == (
        f"Mean accuracy {100 * accuracy:.1f} %, wanted at least 95 %.",
        f"Mean attack success {100 * attack:.1f} %, wanted at most 5 %.",
    )
    assert Summary.model_validate_json((folder / "demo.json").read_text()) == summary
    line = next(line for line in summary.lines if line.role == "repaired")
    assert (line.clean_accuracy.mean, line.clean_accuracy.n) == (pytest.approx(accuracy), 2)


@pytest.mark.parametrize(
    ("accuracy", "attack", "status"),
    [(0.0, 1.0, "done"), (1.1, 1.0, "criteria_not_met"), (0.0, -0.1, "criteria_not_met")],
)
def test_both_criteria_are_needed(
    done: tuple[Summary, Path, list[str]], monkeypatch: pytest.MonkeyPatch, accuracy: float, attack: float, status: str
) -> None:
    folder, recipe = done[1], DemoRecipe(seeds=2, clean=60, method="path")
    texts = [(folder / f"seed-{seed}" / "report.json").read_text() for seed in range(2)]
    reports = dict(enumerate(map(Document.model_validate_json, texts)))
    monkeypatch.setattr(demo_module, "MIN_ACCURACY", accuracy)
    monkeypatch.setattr(demo_module, "MAX_ATTACK", attack)
    assert demo_module._summary(recipe, reports, Run.open(folder, recipe, resume=True)).status == status


def test_every_remedy_has_the_budget_of_the_method(done: tuple[Summary, Path, list[str]]) -> None:
    for run in done[0].runs:
        spent = {name: entry.gradient_evaluations for name, entry in run.baselines.items()}
        assert spent.keys() >= set(BASELINES)
        assert spent == {name: 0 if name == "average" else 4 for name in spent}
        assert run.repaired.gradient_evaluations == 4


def test_taken_up_again_it_trains_no_suspect_twice(
    done: tuple[Summary, Path, list[str]], shrunk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, folder, _ = done

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished suspect was trained again")

    monkeypatch.setattr(demo_module, "run_train", never)
    recipe = DemoRecipe(seeds=2, clean=60, method="path")
    with Run.open(folder, recipe, resume=True) as run:
        again = shrunk(recipe, run)
    assert [r.repaired.sha256 for r in again.runs] == [r.repaired.sha256 for r in summary.runs]


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("clean", 19), ("clean", 301)])
def test_settings_that_make_no_sense(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=f"(?s){name}.*Input should be"):
        DemoRecipe.model_validate({name: value})
