"""`scheduling`: adversarial training with constant and with scheduled budgets (Liu et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from isthmus.data import load_data
from isthmus.files import read_json
from isthmus.recipes.cells import Cell
from isthmus.recipes.scheduling_tables import SCHEDULES, Result, Setting, summarise
from isthmus.recipes.study import Findings, Study, output_of
from isthmus.recipes.train import Trained, TrainRecipe
from isthmus.runs import Run
from isthmus.table import Table
from isthmus.training.adversary import Adversary
from isthmus.training.plan import Plan

CYCLES = 3


@dataclass(frozen=True)
class Sizes:
    """How large the study is.

    train_n: None for all images. validation: set aside to stop early by. budgets: the last is the one that is scheduled. rates: learning
    rates, ascending; the first is that of the runs that compare budgets. cycle_rate: that of the runs with several cycles. attack_steps,
    reach: of the attack trained against, and how far it can go in all, in radii; None for the paper's steps of 0.01 and 10 more than
    it takes to the radius. average: decay of the weight average.
    """

    data: str
    width: int
    train_n: int | None
    of: int
    validation: int
    attack_n: int
    batch_size: int
    epochs: int
    budgets: tuple[float, ...]
    rates: tuple[float, ...]
    cycle_rate: float
    attack_steps: int | None
    reach: float
    average: float

    @property
    def steps(self) -> int:
        """Return the optimizer steps of one training."""
        images = self.of - self.validation if self.train_n is None else self.train_n
        return ceil(images * self.epochs / self.batch_size)


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        data="digits",
        width=2,
        train_n=300,
        of=1200,
        validation=60,
        attack_n=200,
        batch_size=50,
        epochs=12,
        budgets=(0.0, 0.1, 0.2),
        rates=(3e-3, 1e-2),
        cycle_rate=3e-3,
        attack_steps=3,
        reach=1.25,
        average=0.9,
    ),
    "small": Sizes(
        data="mnist",
        width=4,
        train_n=4000,
        of=60_000,
        validation=300,
        attack_n=500,
        batch_size=32,
        epochs=12,
        budgets=(0.0, 0.2, 0.4),
        rates=(3e-4, 1e-3),
        cycle_rate=1e-3,
        attack_steps=10,
        reach=1.25,
        average=0.995,
    ),
    "paper": Sizes(
        data="mnist",
        width=16,
        train_n=None,
        of=60_000,
        validation=1000,
        attack_n=10_000,
        batch_size=128,
        epochs=100,
        budgets=(0.0, 0.1, 0.2, 0.3, 0.4),
        rates=(1e-4, 3e-4, 1e-3),
        cycle_rate=1e-4,
        attack_steps=None,
        reach=1.25,
        average=0.999,
    ),
}
ABOUT = {
    "smoke": "digits, a network of width 2: does it run? Seconds; its numbers mean nothing",
    "small": "MNIST, LeNet of width 4, 4,000 images, 12 epochs, 10 attack steps",
    "paper": "MNIST, LeNet of width 16, 59,000 images (1,000 choose when to stop), 100 epochs, 50 attack steps of 0.01; for a GPU",
}
SEEDS = {"smoke": 1, "small": 3, "paper": 3}


def settings(sizes: Sizes, seeds: int) -> tuple[Setting, ...]:
    """Return what is trained: schedules by learning rates, constant budgets at the lowest rate, several cycles; each for every seed."""
    target, low = sizes.budgets[-1], sizes.rates[0]
    found = [Setting(kind, rate, target, seed) for seed in range(seeds) for rate in sizes.rates for kind in SCHEDULES]
    found += [Setting("constant", low, eps, seed) for seed in range(seeds) for eps in sizes.budgets]
    kinds = ("constant", "periodic-cosine")
    found += [Setting(kind, sizes.cycle_rate, target, seed, CYCLES) for seed in range(seeds) for kind in kinds]
    return tuple(dict.fromkeys(found))


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return one wave with a training for each setting."""
    sizes = SIZES[scale]
    return (tuple(Cell(setting.name, recipe(setting, sizes)) for setting in settings(sizes, seeds)),)


def recipe(setting: Setting, sizes: Sizes) -> TrainRecipe:
    """Return the training of one setting.

    Adam with a constant rate (one that starts anew and falls to zero in each of several cycles) and no weight decay; a gradient norm is
    logged some 500 times. All trainings, the vanilla one too, set the same images aside and see the same others.
    """
    resets = tuple(k / setting.cycles for k in range(1, setting.cycles))
    plan = Plan(
        steps=sizes.steps,
        batch_size=sizes.batch_size,
        optimizer="adamw",
        learning_rate=setting.rate,
        weight_decay=0.0,
        schedule="cosine" if resets else "constant",
        resets=resets,
        average=sizes.average,
        log_every=max(1, sizes.steps // 500),
    )
    return TrainRecipe(
        arch="lenet",
        data=sizes.data,
        width=sizes.width,
        train_n=sizes.train_n,
        validation=sizes.validation,
        attack_n=sizes.attack_n,
        adversary=None if setting.eps == 0 else adversary(setting, sizes),
        augment="none",
        plan=plan,
        seed=setting.seed,
    )


def adversary(setting: Setting, sizes: Sizes) -> Adversary:
    """Return the attacker: uniform start within one step, budget changed at the start of each epoch, as in the code of Liu et al. 2020."""
    if sizes.attack_steps is None:
        steps, step = round(setting.eps / 0.01) + 10, 0.01 / setting.eps
    else:
        steps, step = sizes.attack_steps, sizes.reach / sizes.attack_steps
    periodic = setting.schedule != "constant"
    return Adversary(
        method="pgd",
        eps=(setting.eps,),
        steps=steps,
        step=step,
        start=step,
        schedule=setting.schedule,
        epochs=sizes.epochs if periodic else None,
    )


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished trainings say."""
    sizes = SIZES[scale]
    results = [result_of(run, setting) for setting in settings(sizes, seeds) if setting.name in done]
    found = summarise(
        results, seeds=seeds, cycle_rate=sizes.cycle_rate, shares=class_shares(sizes.data, sizes.attack_n)
    )
    return replace(found, notes=(f"The scale: {ABOUT[scale]}.", *found.notes))


def result_of(run: Run, setting: Setting) -> Result:
    """Return the record and the history of a finished training."""
    record = Trained.model_validate(read_json(output_of(run, setting.name, "metrics.json")))
    return Result(setting, record, Table.load(output_of(run, setting.name, "history.json")))


def class_shares(data: str, n: int) -> Sequence[float]:
    """Return the share of each class among the first `n` test images, those that robust accuracy is measured on."""
    test = load_data(data).test
    return (test.y[:n].bincount(minlength=test.num_classes).double() / min(n, len(test))).tolist()


SCHEDULING = Study(
    name="scheduling",
    title="Adversarial training with constant and scheduled budgets (Liu et al. 2020)",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
