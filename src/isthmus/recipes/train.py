"""`train`: one classifier on one data set, on request tampered with or against an adversary."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import nn

from isthmus._check import require
from isthmus.data import Samples, Splits, load_data
from isthmus.files import write_json
from isthmus.probes import Clean
from isthmus.randomness import stream
from isthmus.rates import Rate, hits_of
from isthmus.recipes.adversarial import Standing, candidates, dead_layers_of, follow_for, standings, warnings_of
from isthmus.recipes.poisoning import Planted, surrogate_for, tampered
from isthmus.recipes.reserve import kept_apart, reserve
from isthmus.recipes.task import Task, plan_for, task_for
from isthmus.recipes.train_recipe import TrainRecipe
from isthmus.runs import Run
from isthmus.store import Card, save_model
from isthmus.training.fit import fit_module
from isthmus.training.session import Fitted, Session


class Trained(BaseModel):
    """The record of a training: rates on all test images as fractions with their Wilson bounds, seconds, files.

    backdoors: what each trigger does, in their order; attack_success and recovery_accuracy are those of the first. poisoned_n: of all.
    standings: of each set of weights left by a training against an adversary, on the first `attack_n` test images. dead_layers: layers
    of the kept weights that no image passes, with the consequence, where there was an adversary. warnings: what went wrong meanwhile.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["done"] = "done"
    arch: str
    data: str
    train_n: int
    poisoned_n: int = 0
    clean_accuracy: dict[str, float | int]
    attack_success: dict[str, float | int] | None = None
    recovery_accuracy: dict[str, float | int] | None = None
    backdoors: tuple[Planted, ...] = ()
    loss: float
    seconds: float
    gradient_evaluations: int
    standings: dict[str, Standing] = Field(default_factory=dict)
    dead_layers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: dict[str, str]


def run_train(recipe: TrainRecipe, run: Run, *, session: Session | None = None) -> Trained | None:
    """Return the record after training and writing `model.safetensors`, `metrics.json`, `history.json` (and `poison.json`).

    None in every process but the first, where several share the work. Resumes from `checkpoint.pt` in the run's folder.
    """
    session = session or Session()
    splits = load_data(recipe.data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=())
    plan = plan_for(recipe.plan, recipe.augment, splits)
    _require_kept(recipe)
    model = task.build(recipe.seed)  # before anything is written: the architecture may be wrong
    samples, validation = _training_samples(recipe, splits)
    surrogate = surrogate_for(recipe, task, run, session, n=len(samples))
    tampering = tampered(recipe, samples, splits.test, surrogate)
    if surrogate is not None:
        session.tell("training")
    samples = samples if tampering is None else tampering.poisoned.samples
    if recipe.epochs is not None:
        steps = max(1, round(recipe.epochs * len(samples) / plan.batch_size))
        plan = plan.model_copy(update={"steps": steps})
    adversary = recipe.adversary
    objective = None if adversary is None else adversary.objective(plan.cycle_starts)
    follow = follow_for(adversary, plan, samples, validation, seed=recipe.seed)
    session = replace(session, checkpoint=run.file("checkpoint.pt"), follow=follow)
    _, fitted = fit_module(model, samples, plan, seed=recipe.seed, objective=objective, session=session)
    if not run.primary:
        return None
    left = candidates(fitted)
    files = _save(recipe, task, (fitted, left), run)
    if tampering is not None:
        record = tampering.to_json()
        run.save("poison.json", lambda place: write_json(place, record))
    accuracy, loss = measure(left[recipe.keep], splits.test)
    backdoors = () if tampering is None else tampering.measured(left[recipe.keep])
    result = Trained(
        arch=recipe.arch,
        data=splits.name,
        train_n=len(samples),
        poisoned_n=0 if tampering is None else tampering.count,
        clean_accuracy=accuracy,
        attack_success=backdoors[0].attack_success if backdoors else None,
        recovery_accuracy=backdoors[0].recovery_accuracy if backdoors else None,
        backdoors=backdoors,
        loss=loss,
        seconds=fitted.seconds,
        gradient_evaluations=fitted.evaluations,
        standings=standings(left, splits.test, adversary, n=recipe.attack_n, seed=recipe.seed),
        dead_layers=dead_layers_of(left[recipe.keep], follow),
        warnings=warnings_of(fitted, follow),
        files=files,
    )
    run.save("metrics.json", lambda place: write_json(place, result.model_dump(mode="json")))
    return result


def _save(recipe: TrainRecipe, task: Task, result: tuple[Fitted, Mapping[str, nn.Module]], run: Run) -> dict[str, str]:
    """Return the files written: the kept weights, the others under their names, the history and the measurements."""
    held = recipe.model_dump(mode="json")
    notes: dict[str, JsonValue] = {name: held[name] for name in ("seed", "tamper_trigger", "target")}
    card = task.card(recipe.data).model_copy(update={"notes": notes})
    fitted, left = result
    models = {name: model for name, model in left.items() if name != "snapshots"}
    models |= {f"snapshot-{i + 1}": bridge.at(()) for i, bridge in enumerate(fitted.snapshots)}
    names = {name: "model" if name == recipe.keep else name for name in models}
    files: dict[str, str] = {}
    for name, model in models.items():
        place = run.save(f"{names[name]}.safetensors", partial(_write, model, card))
        files[names[name]] = str(place)
    files["history"] = str(run.save("history.json", fitted.history.save))
    if fitted.measured is not None:
        files["measured"] = str(run.save("measured.json", fitted.measured.save))
    return files | {"metrics": str(run.file("metrics.json"))}


def _write(model: nn.Module, card: Card, place: Path) -> None:
    save_model(model, place, card)


def _require_kept(recipe: TrainRecipe) -> None:
    needs = {
        "best": (recipe.validation is not None and recipe.adversary is not None, "an adversary and --validation N"),
        "averaged": (recipe.plan.average is not None, "--average DECAY"),
    }
    if recipe.keep in needs:
        there, what = needs[recipe.keep]
        require(there, "keep", f"be last without {what}", recipe.keep)


def _training_samples(recipe: TrainRecipe, splits: Splits) -> tuple[Samples, Samples | None]:
    """Return the samples to train on, before any tampering, and those to choose by where asked for."""
    samples = splits.train
    if recipe.hold_out is not None:
        samples = reserve(splits, recipe.hold_out, seed=recipe.hold_out_seed)[1]
    validation = None
    if recipe.validation is not None:
        validation, samples = kept_apart(samples, recipe.validation, test=splits.test)
    if recipe.train_n is not None and recipe.train_n < len(samples):
        samples = samples.subset(recipe.train_n, generator=stream(0, "train_n"))
    return samples, validation


def measure(model: nn.Module, test: Samples) -> tuple[dict[str, float | int], float]:
    """Return the accuracy of a model on `test`, as JSON, and its mean loss (nat)."""
    found, n = Clean(test)(model), len(test)
    return Rate(n - hits_of(found["test_error"] / 100, n), n).to_json(), found["test_loss"]
