"""`train`: one classifier on one data set, tampered with on request."""

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import nn

from isthmus._check import require
from isthmus.data import Samples, Splits, load_data
from isthmus.files import write_json
from isthmus.probes import Backdoor, Clean
from isthmus.randomness import stream
from isthmus.rates import Rate, hits_of
from isthmus.recipes.reserve import reserve
from isthmus.recipes.task import plan_for, task_for
from isthmus.runs import Run
from isthmus.store import save_model
from isthmus.tampering import parse_target, parse_trigger, poison
from isthmus.tampering.poison import Poisoned
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Session


class TrainRecipe(BaseModel):
    """What to train, on what. tamper_trigger, target, rate: a backdoor put into the training images (BadNets, Gu et al. 2017).

    hold_out: so many training images are never used, the reserve of `hold_out_seed`, so that they can be a repair's clean images.
    size: scales the images. augment: auto, none, or like shift=4,flip; used unless `plan.augment` is set.
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
    augment: str = "auto"
    plan: Plan = Field(default_factory=Plan)
    seed: int = 0


class Trained(BaseModel):
    """The record of a training: rates on all test images as fractions with their Wilson bounds, seconds, files."""

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
    files: dict[str, str]


def run_train(recipe: TrainRecipe, run: Run, *, session: Session | None = None) -> Trained | None:
    """Return the record after training and writing `model.safetensors`, `metrics.json`, `history.json` (and `poison.json`).

    None in every process but the first, where several share the work. Resumes from `checkpoint.pt` in the run's folder.
    """
    splits = load_data(recipe.data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=())
    samples, poisoned = _training_samples(recipe, splits)
    model = task.build(recipe.seed)
    plan = plan_for(recipe.plan, recipe.augment, splits)
    session = replace(session or Session(), checkpoint=run.file("checkpoint.pt"))
    trained, fitted = fit_module(model, samples, plan, seed=recipe.seed, session=session)
    if not run.primary:
        return None
    rates, loss = measure(trained, splits.test, recipe.tamper_trigger, recipe.target)
    notes: dict[str, JsonValue] = {
        "seed": recipe.seed,
        "tamper_trigger": recipe.tamper_trigger,
        "target": recipe.target,
    }
    card = task.card(recipe.data).model_copy(update={"notes": notes})
    path = run.save("model.safetensors", lambda place: save_model(trained, place, card))
    run.save("history.json", fitted.history.save)
    if poisoned is not None:
        record = poisoned.to_json()
        run.save("poison.json", lambda place: write_json(place, record))
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
        files={"model": str(path), "history": str(run.file("history.json")), "metrics": str(run.file("metrics.json"))},
    )
    run.save("metrics.json", lambda place: write_json(place, result.model_dump(mode="json")))
    return result


def _training_samples(recipe: TrainRecipe, splits: Splits) -> tuple[Samples, Poisoned | None]:
    """Return the samples to train on and, where they are poisoned, the record of it."""
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
    if recipe.tamper_trigger is None or recipe.target is None:
        return samples, None
    trigger, target = parse_trigger(recipe.tamper_trigger), parse_target(recipe.target)
    generator = stream(recipe.seed, "poison")
    done = poison(samples, trigger, target=target, rate=recipe.rate, generator=generator)
    Backdoor(splits.test, trigger, target)  # a trigger that cannot be measured is found out before the training
    return done.samples, done


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
