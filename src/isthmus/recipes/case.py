"""`Case`: what a repair works on, loaded and checked before anything is written."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isthmus import report
from isthmus._check import require, unknown
from isthmus.data import Samples, Splits, load_data, require_disjoint, require_inputs, split_roles
from isthmus.evaluate import correct, logits
from isthmus.losses import cross_entropy
from isthmus.probes import Backdoor
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate, hits_of
from isthmus.recipes.quality import calibration
from isthmus.recipes.reserve import reserve
from isthmus.recipes.tamper_record import Record, read_record
from isthmus.recipes.task import Task, task_for
from isthmus.repair.methods import METHODS
from isthmus.repair.protocol import Clean
from isthmus.runs import Run
from isthmus.tampering import parse_target, parse_trigger


class RepairRecipe(BaseModel):
    """What to repair, with which clean images, and how it is judged.

    clean: images taken from the training split (from the reserve of `hold_out` images where given), of which the share `validation`
    chooses and the rest trains; clean_data: trusted images of the user's own instead. evaluations: gradients every remedy may take.
    trigger, target: only ever measure. injected: the `tamper.json` of errors injected into the suspects, which only measures too, in place
    of a trigger; its images are never among the clean ones. test_n, curve_n: at most so many test images for the final figures and for
    those along the path, where 0 leaves them out.
    baselines: compare with averaging, fine-tuning, FT-SAM and training from scratch; also: further methods to compare with.
    max_attack_success, max_drop: the criteria, as fractions. trust: how much evidence is gathered that needs no trigger, see
    :func:`isthmus.recipes.trust.trust_of`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suspects: tuple[str, ...] = Field(min_length=1)
    arch: str | None = None
    data: str
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    clean: int = Field(default=250, ge=1)
    hold_out: int | None = Field(default=None, ge=1)
    clean_data: str | None = None
    validation: float = Field(default=0.2, gt=0, lt=1)
    method: str = "auto"
    evaluations: int = Field(default=800, ge=2)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    sharpness: float | None = Field(default=None, gt=0)
    augment: str = "auto"
    points: int = Field(default=31, ge=3)
    margin: float = Field(default=0.08, ge=0, le=1)
    trigger: str | None = None
    target: str | None = None
    test_n: int | None = Field(default=None, ge=1)
    curve_n: int | None = Field(default=1000, ge=0)
    baselines: bool = True
    also: tuple[str, ...] = ()
    max_attack_success: float = Field(default=0.05, gt=0, lt=1)
    max_drop: float = Field(default=0.1, gt=0, lt=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    trust: Literal["none", "planted", "quick", "full"] = "none"
    injected: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """Everything a repair works on, loaded and checked."""

    recipe: RepairRecipe
    task: Task
    splits: Splits
    suspects: tuple[nn.Module, ...]
    clean: Clean
    test: Samples
    measure: "Measure"
    warnings: tuple[str, ...]


ATTACK = ("attack_success", "recovery_accuracy", "attack_success_all")


@dataclass(frozen=True)
class Measure:
    """Measures models on test images that were used for nothing else."""

    test: Samples
    backdoor: Backdoor | None
    injected: Record | None = None

    def _attack(self, module: nn.Module) -> tuple[Rate, ...]:
        """Return how often the attack succeeds, how often the true class is found in spite of it, and the first as published.

        The last where the trigger's target is a class; none of them where no attack is known.
        """
        if self.injected is not None:
            n, found = len(self.injected.samples), list(self.injected.probe()(module).values())[:2]
        elif self.backdoor is not None:
            n, found = len(self.backdoor.subject), list(self.backdoor(module, generator=stream(0, "measure")).values())
        else:
            return ()
        return tuple(
            Rate(hits_of(value / 100, size), size) for value, size in zip(found, (n, n, len(self.test)), strict=False)
        )

    def entry(self, name: str, module: nn.Module) -> tuple[report.Entry, Tensor]:
        """Return the model's rates, and which test images it gets right."""
        scores = logits(module, self.test)
        right = correct(scores, self.test.y)
        rates = dict(zip(ATTACK, map(report.RateEntry.of, self._attack(module)), strict=False))
        entry = report.Entry(
            name=name,
            clean_accuracy=report.RateEntry.of(Rate(int(right.sum()), len(right))),
            attack_success=rates.get("attack_success"),
            recovery_accuracy=rates.get("recovery_accuracy"),
            attack_success_all=rates.get("attack_success_all"),
            loss=float(cross_entropy(scores.double(), self.test.y).mean()),
            calibration=calibration(scores, self.test.y),
        )
        return entry, right


def load_case(recipe: RepairRecipe, run: Run) -> Case:
    """Return what the recipe names. Raises InputError for suspects, data or settings that cannot be used; writes nothing."""
    for name in (recipe.method, *recipe.also):
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    need = METHODS[recipe.method].suspects
    require(
        len(recipe.suspects) >= need, "suspects", f"be {need} for the method {recipe.method!r}", len(recipe.suspects)
    )
    require(
        (recipe.trigger is None) == (recipe.target is None),
        "trigger",
        "be given together with a target",
        "only one of them",
    )
    known = recipe.injected is None or recipe.trigger is None
    require(known, "injected", "be given without a trigger: one attack is measured at a time", recipe.injected)
    splits = load_data(recipe.data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=recipe.suspects)
    notes: list[str] = []
    suspects: list[nn.Module] = []
    for path in recipe.suspects:
        module, loaded = task.load(path)
        run.read(path, loaded.sha256)
        notes += [f"{path}: {note}" for note in loaded.notes]
        suspects.append(module.eval())
    injected = None
    if recipe.injected is not None:
        injected = read_record(recipe.injected)
        run.read(recipe.injected)
    clean = _clean(recipe, splits, injected)
    test = splits.test
    if recipe.test_n is not None and recipe.test_n < len(test):
        test = test.subset(recipe.test_n, generator=stream(0, "test"))
    backdoor = None
    if recipe.trigger is not None and recipe.target is not None:
        backdoor = Backdoor(test, parse_trigger(recipe.trigger), parse_target(recipe.target), own=True)
    return Case(recipe, task, splits, tuple(suspects), clean, test, Measure(test, backdoor, injected), tuple(notes))


def _clean(recipe: RepairRecipe, splits: Splits, injected: Record | None = None) -> Clean:
    """Return the clean samples in their two roles, which share no image with each other or with the test images."""
    if recipe.clean_data is not None:
        given = load_data(recipe.clean_data, size=recipe.size)
        pool = given.train
        require_inputs(pool, splits.input_shape, splits.name)
        require_disjoint(pool, splits.test, ("clean_data", "test"))
    elif recipe.hold_out is not None:
        require(
            recipe.clean <= recipe.hold_out, "clean", f"be at most the {recipe.hold_out} images held out", recipe.clean
        )
        pool = reserve(splits, recipe.hold_out)[0]
    else:
        pool = splits.train
    if injected is not None and injected.split == "train":  # those of the test split are avoided below
        pool = split_roles(pool, {"train": None}, seed=0, avoid=injected.errors.images)["train"]
    n = min(recipe.clean, len(pool)) if recipe.clean_data is not None else recipe.clean
    classes = len(torch.unique(pool.y))
    validation = max(classes, round(recipe.validation * n))
    require(
        n - validation >= classes,
        "clean",
        f"be at least {2 * classes} images: one of each class to train on and one to choose by",
        n,
    )
    sizes = {"train": n - validation, "validation": validation}
    roles = split_roles(pool, sizes, seed=seed_of(recipe.seed, "clean"), avoid=splits.test)
    return Clean(roles["train"], roles["validation"])
