"""`train`: one classifier on one data set, on request tampered with or against an adversary."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import nn

from isthmus._check import require
from isthmus.data import Samples, Splits, load_data, split_roles
from isthmus.files import write_json
from isthmus.probes import Backdoor, Clean
from isthmus.randomness import stream
from isthmus.rates import Rate, hits_of
from isthmus.recipes.adversarial import Kept, Standing, candidates, dead_layers_of, follow_for, standings, warnings_of
from isthmus.recipes.reserve import reserve
from isthmus.recipes.task import Task, plan_for, task_for
from isthmus.runs import Run
from isthmus.store import Card, save_model
from isthmus.tampering import parse_target, parse_trigger, poison
from isthmus.tampering.poison import Poisoned
from isthmus.training.adversary import Adversary
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session


class TrainRecipe(BaseModel):
    """What to train, on what. tamper_trigger, target, rate: a backdoor put into the training images (BadNets, Gu et al. 2017).

    hold_out: so many training images are never used, the reserve of `hold_out_seed`, so that they can be a repair's clean images.
    validation: so many of the others are set aside to choose the best weights by; train_n: at most so many are trained on.
    adversary: train against it. keep: which weights become `model.safetensors`; the others are saved beside it. epochs: in place
    of `plan.steps`. attack_n: test images on which robust accuracy is measured. size: scales the images. augment: auto, none, or like
    shift=4,flip; used unless `plan.augment` is set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    data: str
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    tamper_trigger: str | None = None
    target: str | None = None
    rate: float = Field(default=0.1, gt=0, le=1)
    hold_out: int | None = Field(default=None, ge=1)
    hold_out_seed: int = 0
    validation: int | None = Field(default=None, ge=1)
    train_n: int | None = Field(default=None, ge=1)
    adversary: Adversary | None = None
    keep: Kept = "last"
    epochs: float | None = Field(default=None, gt=0)
    attack_n: int = Field(default=1000, ge=1)
    augment: str = "auto"
    plan: Plan = Field(default_factory=Plan)
    seed: int = 0


class Trained(BaseModel):
    """The record of a training: rates on all test images as fractions with their Wilson bounds, seconds, files.

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
    splits = load_data(recipe.data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=())
    samples, validation, poisoned = _training_samples(recipe, splits)
    plan = plan_for(recipe.plan, recipe.augment, splits)
    if recipe.epochs is not None:
        steps = max(1, round(recipe.epochs * len(samples) / plan.batch_size))
        plan = plan.model_copy(update={"steps": steps})
    _require_kept(recipe)
    adversary = recipe.adversary
    objective = None if adversary is None else adversary.objective(plan.cycle_starts)
    follow = follow_for(adversary, plan, samples, validation, seed=recipe.seed)
    model = task.build(recipe.seed)  # before anything is written: the architecture may be wrong
    session = replace(session or Session(), checkpoint=run.file("checkpoint.pt"), follow=follow)
    _, fitted = fit_module(model, samples, plan, seed=recipe.seed, objective=objective, session=session)
    if not run.primary:
        return None
    left = candidates(fitted)
    files = _save(recipe, task, (fitted, left), run)
    if poisoned is not None:
        record = poisoned.to_json()
        run.save("poison.json", lambda place: write_json(place, record))
    rates, loss = measure(left[recipe.keep], splits.test, recipe.tamper_trigger, recipe.target)
    result = Trained(
        arch=recipe.arch,
        data=splits.name,
        train_n=len(samples),
        poisoned_n=0 if poisoned is None else len(poisoned.index),
        clean_accuracy=rates["clean_accuracy"],
        attack_success=rates.get("attack_success"),
        recovery_accuracy=rates.get("recovery_accuracy"),
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
    notes: dict[str, JsonValue] = {
        "seed": recipe.seed,
        "tamper_trigger": recipe.tamper_trigger,
        "target": recipe.target,
    }
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


def _training_samples(recipe: TrainRecipe, splits: Splits) -> tuple[Samples, Samples | None, Poisoned | None]:
    """Return the samples to train on, those to choose by where asked for, and the record of the poisoning where there is one."""
    both = (recipe.tamper_trigger is None) == (recipe.target is None)
    given = "tamper_trigger" if recipe.target is None else "target"
    require(
        both,
        "tamper_trigger",
        "be given together with a target",
        f"only `{given}`",
        "Give --tamper-trigger and --target.",
    )
    samples = splits.train
    if recipe.hold_out is not None:
        samples = reserve(splits, recipe.hold_out, seed=recipe.hold_out_seed)[1]
    validation = None
    if recipe.validation is not None:
        parts = split_roles(samples, {"validation": recipe.validation, "train": None}, seed=0, avoid=splits.test)
        samples, validation = parts["train"], parts["validation"]
    if recipe.train_n is not None and recipe.train_n < len(samples):
        samples = samples.subset(recipe.train_n, generator=stream(0, "train_n"))
    if recipe.tamper_trigger is None or recipe.target is None:
        return samples, validation, None
    trigger, target = parse_trigger(recipe.tamper_trigger), parse_target(recipe.target)
    generator = stream(recipe.seed, "poison")
    done = poison(samples, trigger, target=target, rate=recipe.rate, generator=generator)
    Backdoor(splits.test, trigger, target)  # a trigger that cannot be measured is found out before the training
    return done.samples, validation, done


def measure(
    model: nn.Module, test: Samples, trigger: str | None, target: str | None
) -> tuple[dict[str, dict[str, float | int]], float]:
    """Return the rates of a model on `test`, as JSON by name, and its mean loss (nat). Backdoor rates only with a trigger."""
    clean = Clean(test)
    found = clean(model)
    n = len(test)
    rates = {"clean_accuracy": Rate(n - hits_of(found["test_error"] / 100, n), n).to_json()}
    if trigger is not None and target is not None:
        probe = Backdoor(test, parse_trigger(trigger), parse_target(target))
        many = len(probe.subject)
        rates |= {name: Rate(hits_of(value / 100, many), many).to_json() for name, value in probe(model).items()}
    return rates, found["test_loss"]
