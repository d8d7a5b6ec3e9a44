"""The cells of the study `path-repair`: pairs of backdoored models and of models with injected errors, repaired from few clean images."""

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.recipes.cells import Cell, output
from isthmus.recipes.repair import RepairRecipe
from isthmus.recipes.tamper import TamperRecipe
from isthmus.recipes.train import TrainRecipe
from isthmus.training.plan import Plan

PATH = "path"
REMEDIES = ("fine-tune", "scratch", "noise", "prune", "sharp-path", "auto")
"""Beside the path: the baselines of the paper, then ours."""
MODEL, RECORD = "model.safetensors", "tamper.json"


@dataclass(frozen=True)
class Size:
    """How large the study is. epochs, plan: of the suspects; evaluations, batch_size: of every remedy; points, curve_n: along the path."""

    data: str
    arch: str
    width: int
    epochs: float
    plan: Plan
    trigger: str
    target: str
    rate: float
    budgets: tuple[int, ...]
    hold_out: int
    evaluations: int
    batch_size: int
    test_n: int | None
    keep: int
    curve_n: int | None = 1000
    points: int = 11
    augment: str = "auto"


_FAST = Plan(learning_rate=0.2, schedule="triangular", warmup=0.1, precision="bf16-mixed")
SIZES: dict[str, Size] = {
    "smoke": Size(
        data="digits",
        arch="cnn",
        width=8,
        epochs=8,
        plan=Plan(batch_size=50, learning_rate=0.1),
        trigger="patch:size=3,at=0x0",
        target="1",
        rate=0.1,
        budgets=(200,),
        hold_out=300,
        evaluations=20,
        batch_size=50,
        test_n=200,
        keep=50,
        curve_n=50,
        augment="none",
    ),
    "small": Size(
        data="cifar10",
        arch="resnet18",
        width=8,
        epochs=6,
        plan=_FAST,
        trigger="patch:size=3,at=28x28",
        target="1",
        rate=0.1,
        budgets=(2500, 1000, 500, 250, 50),
        hold_out=2500,
        evaluations=400,
        batch_size=128,
        test_n=5000,
        keep=996,
    ),
    "paper": Size(
        data="cifar10",
        arch="vgg16",
        width=64,
        epochs=100,
        plan=Plan(learning_rate=0.01, weight_decay=1e-4, schedule="multistep", batch_size=128),
        trigger="patch:size=3,at=28x28",
        target="1",
        rate=0.1,
        budgets=(2500, 1000, 500, 250, 50),
        hold_out=2500,
        evaluations=7900,
        batch_size=128,
        test_n=5000,
        keep=996,
        curve_n=5000,
        points=31,
    ),
}
ABOUT = {
    "smoke": "digits, a small network, one number of clean images, 20 gradients: does it run? Its numbers mean nothing",
    "small": "CIFAR-10, resnet18 of width 8, 400 gradients of 128 images for every remedy; about two hours with two jobs",
    "paper": "CIFAR-10, VGG16 of width 64, 7,900 gradients, which are the paper's 100 epochs; for a GPU",
}


def pair_of(seed: int, seeds: int) -> tuple[int, int]:
    """Return which two models a seed repairs: each model stands first once.

    >>> [pair_of(seed, 3) for seed in range(3)]
    [(0, 1), (1, 2), (2, 0)]
    """
    return seed, (seed + 1) % max(2, seeds)


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: models with and without backdoor; errors into the one, then the same into the other; repairs."""
    size, count = SIZES[scale], max(2, seeds)
    return (
        tuple(Cell(f"{kind}-{k}", _model(size, k, kind == "backdoored")) for k in range(count) for kind in KINDS),
        tuple(Cell(f"injected-{seed}-0", _inject(size, seed, seeds, 0)) for seed in range(seeds)),
        tuple(Cell(f"injected-{seed}-1", _inject(size, seed, seeds, 1)) for seed in range(seeds)),
        tuple(
            Cell(repair_name(attack, budget, seed), _repair(size, attack, budget, seed, seeds))
            for seed in range(seeds)
            for attack in ATTACKS
            for budget in size.budgets
        ),
    )


KINDS = ("backdoored", "untampered")
ATTACKS = ("backdoor", "injection")


def repair_name(attack: str, budget: int, seed: int) -> str:
    """Return the name of a repair's cell."""
    return f"{attack}-{budget}-{seed}"


def _model(size: Size, k: int, backdoored: bool) -> TrainRecipe:
    recipe = TrainRecipe(
        arch=size.arch,
        data=size.data,
        width=size.width,
        hold_out=size.hold_out,
        epochs=size.epochs,
        augment=size.augment,
        plan=size.plan,
        seed=k if backdoored else 100 + k,
    )
    if not backdoored:
        return recipe
    tampering = {"tamper_trigger": size.trigger, "target": size.target, "rate": size.rate}
    return TrainRecipe.model_validate({**recipe.model_dump(), **tampering})


def _inject(size: Size, seed: int, seeds: int, place: int) -> TamperRecipe:
    """Return the injection into one of a pair; the second gets the errors of the first."""
    return TamperRecipe(
        model=output(f"untampered-{pair_of(seed, seeds)[place]}", MODEL),
        arch=size.arch,
        data=size.data,
        width=size.width,
        keep=size.keep,
        like=output(f"injected-{seed}-0", RECORD) if place == 1 else None,
        seed=seed,
    )


def _repair(size: Size, attack: str, budget: int, seed: int, seeds: int) -> RepairRecipe:
    suspects: Sequence[str] = [f"backdoored-{k}" for k in pair_of(seed, seeds)]
    measured = {"trigger": size.trigger, "target": size.target}
    if attack == "injection":
        suspects = [f"injected-{seed}-{place}" for place in (0, 1)]
        measured = {"injected": output(f"injected-{seed}-0", RECORD)}
    recipe = RepairRecipe(
        suspects=tuple(output(name, MODEL) for name in suspects),
        arch=size.arch,
        data=size.data,
        width=size.width,
        clean=budget,
        hold_out=size.hold_out,
        method=PATH,
        also=REMEDIES,
        evaluations=size.evaluations,
        batch_size=size.batch_size,
        augment=size.augment,
        points=size.points,
        test_n=size.test_n,
        curve_n=size.curve_n,
        baselines=False,
        precision=size.plan.precision,
        seed=seed,
    )
    return recipe.model_copy(update=measured)
