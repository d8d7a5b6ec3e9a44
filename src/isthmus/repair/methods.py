"""The remedies by name, at one budget of gradients and with one policy of settings for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from isthmus._check import unknown
from isthmus.data import Augment
from isthmus.repair.auto import Auto
from isthmus.repair.baselines import Average, FineTune, FromScratch
from isthmus.repair.heads import DistanceDriven, FeatureShift
from isthmus.repair.ibau import IBAU, Universal
from isthmus.repair.masks.anp import ANP
from isthmus.repair.masks.clp import CLP
from isthmus.repair.masks.pruning import FilterPruning, FinePruning
from isthmus.repair.masks.rnp import RNP
from isthmus.repair.noise import Noise
from isthmus.repair.path import PathRepair
from isthmus.repair.protocol import Repair
from isthmus.repair.purify import Purify, split
from isthmus.repair.sau import SAU, Ball
from isthmus.repair.self_path import Extrapolate, PermutedPath, SelfPath
from isthmus.repair.switching import ModuleSwitch
from isthmus.repair.unlearning import Unlearning, adam, rate_for
from isthmus.training.plan import Plan


@dataclass(frozen=True)
class Budget:
    """What every remedy may spend, and what the user said about how. evaluations: gradients of one batch each.

    margin: validation accuracy a path may give up to get away from its ends. Along a path attack success falls off a cliff that clean
    accuracy does not show: with 3 points the choice stopped on the cliff in two of three pairs (docs/results), hence 8.
    build: makes a fresh model from a seed, for training from scratch. classes, suspects: how many there are.
    learning_rate, sharpness: None for the method's own.
    """

    build: Callable[[int], nn.Module]
    classes: int = 10
    suspects: int = 1
    evaluations: int = 800
    batch_size: int = 128
    augment: Augment = field(default_factory=Augment)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    points: int = 31
    margin: float = 0.08
    learning_rate: float | None = None
    sharpness: float | None = None

    def plan(self, *, learning_rate: float, sharpness: float | None = None, share: float = 1.0) -> Plan:
        """Return the plan that spends a share of the budget: a sharpness-aware step takes two gradients, so there are half as many."""
        radius = None if sharpness is None else self.sharpness or sharpness
        return Plan(
            steps=max(1, int(share * self.evaluations) // (1 if radius is None else 2)),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or learning_rate,
            sharpness=radius,
            augment=self.augment,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Method:
    """A remedy by name: one line about it, how many suspects it takes, and how it is made from a budget."""

    about: str
    suspects: int
    make: Callable[[Budget], Repair]


def _path(budget: Budget) -> Repair:
    return PathRepair(budget.plan(learning_rate=0.02), "path", points=budget.points, margin=budget.margin)


def _sharp_path(budget: Budget) -> Repair:
    plan = budget.plan(learning_rate=0.1, sharpness=1.0)
    return PathRepair(plan, "sharp-path", points=budget.points, margin=budget.margin)


def _polished_path(budget: Budget) -> Repair:
    path = budget.plan(learning_rate=0.1, sharpness=1.0, share=0.5)
    polish = budget.plan(learning_rate=0.02, sharpness=2.0, share=0.5)
    return PathRepair(path, "polished-path", points=budget.points, margin=budget.margin, polish=polish)


def _surface(budget: Budget) -> Repair:
    share = 1 / 8  # of the gradients for each corner that no suspect takes
    plan = budget.plan(learning_rate=0.1, sharpness=1.0, share=1 - share * (4 - min(4, max(2, budget.suspects))))
    tune = budget.plan(learning_rate=0.05, share=share)
    points = max(3, round(budget.points / 3))
    return PathRepair(plan, "surface", "surface:2x2", 4, tune, points=points, margin=budget.margin)


def _masks(budget: Budget, steps: int) -> Plan:
    """Return the plan by which masks are trained, as published: rate 0.2, constant, no decay."""
    plan = budget.plan(learning_rate=0.2)
    return plan.model_copy(update={"steps": max(1, steps), "schedule": "constant", "weight_decay": 0.0})


def _anp(budget: Budget) -> Repair:
    return ANP(_masks(budget, budget.evaluations // 3), margin=budget.margin)  # three gradients a step


def _rnp(budget: Budget) -> Repair:
    half = budget.evaluations // 2
    forget = {"steps": max(1, half), "schedule": "multistep", "milestones": (0.5,), "clip": 20.0}
    unlearning = budget.plan(learning_rate=0.01).model_copy(update=forget)
    return RNP(unlearning, _masks(budget, budget.evaluations - half), margin=budget.margin)


def _prune(budget: Budget) -> Repair:
    plan = budget.plan(learning_rate=0.001).model_copy(update={"weight_decay": 1e-4, "schedule": "constant"})
    return FilterPruning(plan, margin=budget.margin)


def _undecayed(budget: Budget, rate: float) -> Plan:
    return budget.plan(learning_rate=rate).model_copy(update={"weight_decay": 0.0})


def _self_path(budget: Budget) -> Repair:
    tune, curve = budget.plan(learning_rate=0.05, share=0.5), budget.plan(learning_rate=0.02, share=0.5)
    return SelfPath(tune, curve, points=budget.points, margin=budget.margin)


def _extrapolate(budget: Budget) -> Repair:
    return Extrapolate(budget.plan(learning_rate=0.01), points=budget.points, margin=budget.margin)


def _unlearning(budget: Budget, cost: int) -> Unlearning:
    """Return the plan of a method whose steps take `cost` gradients each; its rate grows as its steps become few."""
    rate = rate_for(max(1, budget.evaluations // cost))
    return Unlearning(adam(budget.plan(learning_rate=rate), cost), margin=budget.margin)


def _purify(budget: Budget, models: int) -> Purify:
    steps, search = split(
        budget.evaluations,
        classes=budget.classes,
        batch_size=budget.batch_size,
        precision=budget.precision,
        models=models,
    )
    plan = budget.plan(learning_rate=0.02).model_copy(update={"steps": steps})
    return Purify(plan, search)


def _auto(budget: Budget) -> Repair:
    return Auto(_purify(budget, budget.suspects), _polished_path(budget), METHODS["ft-sam"].make(budget))


METHODS: Mapping[str, Method] = {
    "auto": Method("choose the suspect by clean evidence and purify it, ours; the default", 1, _auto),
    "purify": Method(
        "seek the smallest triggers and unlearn them by self-distillation, ours", 1, lambda b: _purify(b, 1)
    ),
    "path": Method("Bezier curve between two suspects trained on the clean samples (Zhao et al. 2020)", 2, _path),
    "sharp-path": Method(
        "Bezier curve between two suspects trained by adaptive sharpness-aware steps, ours", 2, _sharp_path
    ),
    "polished-path": Method(
        "sharp-path with half the gradients; the other half trains its point further, ours", 2, _polished_path
    ),
    "surface": Method(
        "Bezier surface through four suspects, or fine-tuned copies, trained as sharp-path (after Ren et al. 2025), ours",
        2,
        _surface,
    ),
    "fine-tune": Method(
        "train the first suspect further on the clean samples", 1, lambda b: FineTune(b.plan(learning_rate=0.05))
    ),
    "ft-sam": Method(
        "fine-tuning by adaptive sharpness-aware steps, rate 0.01 and radius 2 as published (Zhu et al. 2023)",
        1,
        lambda b: FineTune(b.plan(learning_rate=0.01, sharpness=2.0), "ft-sam"),
    ),
    "fst": Method(
        "a fresh head held away from the old one, all weights trained (Min et al. 2023)",
        1,
        lambda b: FeatureShift(_undecayed(b, 0.01)),
    ),
    "d3": Method(
        "a random head of the old norm moved away from the old one, all weights trained (Wei et al. 2025)",
        1,
        lambda b: DistanceDriven(_undecayed(b, 0.01)),
    ),
    "prune": Method("filters of least L1 norm at zero, the rest trained (Li et al. 2017)", 1, _prune),
    "fine-prune": Method(
        "channels silent on clean samples at zero, the rest trained (Liu et al. 2018)",
        1,
        lambda b: FinePruning(b.plan(learning_rate=0.01), margin=b.margin),
    ),
    "anp": Method(
        "close channels that give way to perturbed weights, masks at rate 0.2, radius 0.4 (Wu and Wang 2021)", 1, _anp
    ),
    "rnp": Method("unlearn the clean samples, win them back by masks, close what stays low (Li et al. 2023)", 1, _rnp),
    "clp": Method(
        "close channels with outlying Lipschitz bounds, nothing trained (Zheng et al. 2022)",
        1,
        lambda b: CLP(margin=b.margin),
    ),
    "sau": Method(
        "unlearn adversarial examples shared with the suspect (Wei et al. 2023)",
        1,
        lambda b: SAU(_unlearning(b, Ball().cost)),
    ),
    "i-bau": Method(
        "unlearn a universal perturbation by implicit hyper-gradients (Zeng et al. 2022)",
        1,
        lambda b: IBAU(_unlearning(b, Universal().cost)),
    ),
    "self-path": Method("Bezier curve between the first suspect and its own fine-tuned copy", 1, _self_path),
    "extrapolate": Method(
        "straight on past the fine-tuned copy of the first suspect (after Wei et al. 2025)", 1, _extrapolate
    ),
    "permuted-path": Method(
        "curves between the first suspect and permuted copies of itself (TSC, Peng et al. 2025)",
        1,
        lambda b: PermutedPath(b.plan(learning_rate=0.02, share=1 / 6)),
    ),
    "module-switch": Method(
        "whole layers of the other suspects, aligned, where clean accuracy allows; nothing trained",
        2,
        lambda b: ModuleSwitch(margin=b.margin),
    ),
    "noise": Method(
        "Gaussian noise on the weights, the best draw, nothing trained (Zhao et al. 2020)",
        1,
        lambda b: Noise(margin=b.margin),
    ),
    "scratch": Method(
        "a new model trained on the clean samples alone", 1, lambda b: FromScratch(b.plan(learning_rate=0.05), b.build)
    ),
    "average": Method("the mean of the suspects' weights, nothing trained", 2, lambda b: Average()),  # noqa: ARG005
}


def make(name: str, budget: Budget) -> Repair:
    """Return the remedy called `name`. Raises InputError with the nearest known name for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name].make(budget)
