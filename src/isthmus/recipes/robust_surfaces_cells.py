"""The cells of the study `robust-surfaces`: two regular and two robust models, patches between them, what is measured under attack."""

from dataclasses import dataclass

from isthmus.recipes.cells import Cell, output
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.ensemble_members import EnsembleRecipe
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.train import TrainRecipe
from isthmus.training.adversary import Adversary
from isthmus.training.plan import Plan

REGULAR, ROBUST = "regular", "robust"
CORNERS = ((REGULAR, 0), (REGULAR, 1), (ROBUST, 0), (ROBUST, 1))
"""At (u, v) = (0, 0), (0, 1), (1, 0), (1, 1): u = 0 joins the regular models, u = 1 the robust ones, v = 0 and v = 1 one of each."""

STANDARD, UNDER_ATTACK, FLAT = "standard", "robust", "bilinear"
PATCHES = {FLAT: "surface:1x1", STANDARD: "surface:2x2", UNDER_ATTACK: "surface:2x2"}
"""Bilinear; trained on the standard loss; trained on the loss under attack, crafted on the model drawn (as a curve in Wang et al. 2023)."""

POINTS = "3x3"  # of the ensemble: corners, middles of edges and patch


@dataclass(frozen=True)
class Size:
    """How large the study is. plan: of a model; surface: of a patch. n: test images; hessian_n: of them; attack_steps: of PGD in scans.

    strong_steps: of PGD over the nine points, a check of the scans' attack.
    """

    data: str
    arch: str
    width: int
    eps: float
    plan: Plan
    surface: Plan
    adversary: Adversary
    grid: str
    n: int | None
    hessian_n: int
    validation: int
    settle_n: int
    attack_steps: int = 10
    strong_steps: int = 40
    augment: str = "auto"


_SMALL = Plan(steps=1560, learning_rate=0.2, schedule="triangular", warmup=0.1, precision="bf16-mixed")
_LONG = Plan(steps=78_000, learning_rate=0.05, schedule="multistep", milestones=(0.5, 0.75), precision="bf16-mixed")
SIZES = {
    "smoke": Size(
        data="digits",
        arch="cnn",
        width=4,
        eps=0.1,
        plan=Plan(steps=60, batch_size=50),
        surface=Plan(steps=30, batch_size=50),
        adversary=Adversary(method="n-fgsm", eps=(0.1,)),
        grid="3x3",
        n=60,
        hessian_n=20,
        validation=50,
        settle_n=100,
        attack_steps=2,
        strong_steps=4,
        augment="none",
    ),
    "small": Size(
        data="cifar10",
        arch="resnet18",
        width=8,
        eps=8 / 255,
        plan=_SMALL,
        surface=_SMALL.model_copy(update={"learning_rate": 0.4}),
        adversary=Adversary(method="n-fgsm", eps=(8 / 255,)),
        grid="7x7",
        n=500,
        hessian_n=50,
        validation=500,
        settle_n=500,
    ),
    "paper": Size(
        data="cifar10",
        arch="resnet18",
        width=64,
        eps=8 / 255,
        plan=_LONG,
        surface=_LONG,
        adversary=Adversary(method="pgd", eps=(8 / 255,)),
        grid="11x11",
        n=None,
        hessian_n=1000,
        validation=2000,
        settle_n=5000,
        attack_steps=20,
    ),
}
ABOUT = {
    "smoke": "digits, a small network, 60 gradients for each model: does it run? Its numbers mean nothing",
    "small": "CIFAR-10, resnet18 of width 8, four epochs for each model and each surface, single-step adversarial training, PGD-10 on "
    "500 test images",
    "paper": "CIFAR-10, resnet18 of width 64, 200 epochs, PGD adversarial training, all test images; for a GPU",
}
SEEDS = {"smoke": 1, "small": 1, "paper": 3}


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: four models, the patches between them, a scan of each and an attacked ensemble over each trained one."""
    size = SIZES[scale]
    models = [Cell(corner(seed, *each), _model(size, seed, *each)) for seed in range(seeds) for each in CORNERS]
    pairs = [(seed, patch) for seed in range(seeds) for patch in PATCHES]
    joined = [Cell(f"{patch}-{seed}", _patch(size, seed, patch)) for seed, patch in pairs]
    measured = [Cell(f"scan-{patch}-{seed}", _scan(size, seed, patch)) for seed, patch in pairs]
    trained = [(seed, patch) for seed, patch in pairs if patch != FLAT]
    measured += [Cell(f"ensemble-{patch}-{seed}", _ensemble(size, seed, patch)) for seed, patch in trained]
    return tuple(models), tuple(joined), tuple(measured)


def corner(seed: int, kind: str, k: int) -> str:
    """Return the name of the training of a corner."""
    return f"corner-{kind}-{seed}-{k}"


def _model(size: Size, seed: int, kind: str, k: int) -> TrainRecipe:
    return TrainRecipe(
        arch=size.arch,
        data=size.data,
        width=size.width,
        validation=size.validation,
        augment=size.augment,
        adversary=size.adversary if kind == ROBUST else None,
        plan=size.plan,
        # No two corners share their first weights: a pair that does is joined by less of a surface.
        seed=100 * seed + 10 * (kind == ROBUST) + k,
    )


def _patch(size: Size, seed: int, patch: str) -> ConnectRecipe:
    return ConnectRecipe(
        models=tuple(output(corner(seed, *each), "model.safetensors") for each in CORNERS),
        arch=size.arch,
        data=size.data,
        geometry=PATCHES[patch],
        validation=size.validation,
        width=size.width,
        augment=size.augment,
        adversary=size.adversary if patch == UNDER_ATTACK else None,
        plan=size.surface,
        seed=seed,
    )


def _scan(size: Size, seed: int, patch: str) -> ScanRecipe:
    return ScanRecipe(
        bridge=output(f"{patch}-{seed}", "bridge.safetensors"),
        grid=size.grid,
        n=size.n,
        probes=("clean", "robust", "input-hessian"),
        eps=size.eps,
        attack_steps=size.attack_steps,
        hessian_n=size.hessian_n,
        settle_n=size.settle_n,
        validation=size.validation,
        choose_by="robustness",
        seed=seed,
    )


def _ensemble(size: Size, seed: int, patch: str) -> EnsembleRecipe:
    return EnsembleRecipe(
        models=(output(f"{patch}-{seed}", "bridge.safetensors"),),
        points=POINTS,
        validation=size.validation,
        n=size.n,
        eps=size.eps,
        attack_steps=size.strong_steps,
        settle_n=size.settle_n,
        greedy=False,
        seed=seed,
    )
