"""The cells of the study `sharpening`: what is trained for each budget, and what is measured of it."""

from dataclasses import dataclass

from isthmus.recipes.cells import Cell, output
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.curvature_parts import CurvatureRecipe
from isthmus.recipes.landscape_recipe import LandscapeRecipe
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.scattering import CraftingPlan, ScatterRecipe
from isthmus.recipes.train import TrainRecipe
from isthmus.training.adversary import Adversary
from isthmus.training.plan import Plan


@dataclass(frozen=True)
class Block:
    """One data set of the study: what is trained on it for each budget, and what is measured of it.

    budgets: radii, the first is 0, no adversary. plan: of the minima. curve: of the Bezier curves with five control points between minima
    of one budget. points: of their scans. n: test images of every measurement, None for all; hessian_n: training images of the spectra.
    amounts: of the moves whose perturbations are compared. extent, grid: half width of the landscapes, in weight units, and their points
    along each axis.
    """

    data: str
    arch: str
    width: int | None
    augment: str
    budgets: tuple[float, ...]
    adversary: Adversary
    plan: Plan
    curve: Plan
    points: int
    n: int | None
    hessian_n: int
    amounts: tuple[float, ...]
    extent: float
    grid: int

    def against(self, eps: float) -> Adversary | None:
        """Return the adversary of budget `eps`, None for 0."""
        return None if eps == 0 else self.adversary.model_copy(update={"eps": (eps,)})


_LENET = Plan(steps=3000, batch_size=64, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, warmup=0.05)
_RESNET = Plan(steps=2000, batch_size=64, learning_rate=0.1, weight_decay=5e-4, schedule="triangular", warmup=0.3)
_CURVE = Plan(steps=1000, batch_size=64, learning_rate=0.05, weight_decay=1e-6, warmup=0.05)

_LONG = Plan(
    steps=78_200, batch_size=128, learning_rate=0.1, weight_decay=1e-6, schedule="multistep", milestones=(0.5, 0.75)
)

BLOCKS: dict[str, tuple[Block, ...]] = {
    "smoke": (
        Block(
            data="digits",
            arch="cnn",
            width=4,
            augment="none",
            budgets=(0.0, 0.1),
            adversary=Adversary(method="pgd", eps=(0.1,), steps=3, step=0.5),
            plan=Plan(steps=60, batch_size=50),
            curve=Plan(steps=30, batch_size=50),
            points=5,
            n=100,
            hessian_n=100,
            amounts=(0.0, 0.1),
            extent=0.5,
            grid=5,
        ),
    ),
    "small": (
        Block(
            data="mnist",
            arch="lenet",
            width=4,
            augment="none",
            budgets=(0.0, 0.1, 0.2, 0.3, 0.4),
            adversary=Adversary(method="pgd", eps=(0.1,), steps=7, step=0.25, schedule="periodic-linear"),
            plan=_LENET,
            curve=_CURVE,
            points=21,
            n=500,
            hessian_n=1000,
            amounts=(0.0, 0.01, 0.03, 0.05, 0.1),
            extent=0.5,
            grid=11,
        ),
        Block(
            data="cifar10",
            arch="resnet18",
            width=8,
            augment="auto",
            budgets=(0.0, 2 / 255, 4 / 255, 8 / 255),
            adversary=Adversary(method="n-fgsm", eps=(8 / 255,)),
            plan=_RESNET,
            curve=_CURVE,
            points=21,
            n=300,
            hessian_n=500,
            amounts=(0.0, 0.1, 0.3, 0.5, 1.0),
            extent=1.0,
            grid=11,
        ),
    ),
    "paper": (
        Block(
            data="mnist",
            arch="lenet",
            width=16,
            augment="none",
            budgets=(0.0, 0.1, 0.2, 0.3, 0.4),
            adversary=Adversary(method="pgd", eps=(0.1,), steps=50, step=0.025),
            plan=Plan(
                steps=46_900,
                batch_size=128,
                optimizer="adamw",
                learning_rate=1e-4,
                weight_decay=0.0,
                schedule="constant",
            ),
            curve=_LONG,
            points=51,
            n=None,
            hessian_n=60_000,
            amounts=(0.0, 0.01, 0.03, 0.05, 0.1),
            extent=0.5,
            grid=41,
        ),
        Block(
            data="cifar10",
            arch="resnet18",
            width=64,
            augment="auto",
            budgets=(0.0, 2 / 255, 4 / 255, 8 / 255),
            adversary=Adversary(method="pgd", eps=(8 / 255,)),
            plan=_LONG.model_copy(update={"weight_decay": 1e-3}),
            curve=_LONG,
            points=51,
            n=None,
            hessian_n=50_000,
            amounts=(0.0, 0.1, 0.3, 0.5, 1.0),
            extent=1.0,
            grid=41,
        ),
    ),
}
ABOUT = {
    "smoke": "digits, a small network: does it run? A minute or two, its numbers mean nothing",
    "small": "MNIST, LeNet of width 4, PGD-7; CIFAR-10, resnet18 of width 8, single-step adversarial training",
    "paper": "MNIST, LeNet of width 16, 100 epochs; CIFAR-10, resnet18 of width 64, 200 epochs, PGD-10; all images; for a GPU",
}
SEEDS = {"smoke": 2, "small": 3, "paper": 3}
GEOMETRIES = ("line", "bezier:4")
MinimumKey = tuple[Block, float, int]
PathKey = tuple[Block, float, tuple[int, int], str]


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: minima; curves between those of one budget and spectra; scans, perturbations and landscapes."""
    minima, paths = minima_of(scale, seeds), paths_of(scale, seeds)
    first = [(block, eps, seed) for block, eps, seed in minima if seed == 0]
    return (
        tuple(Cell(name(*key), _minimum(*key)) for key in minima),
        (
            *(Cell(f"spectrum-{name(*key)}", _spectrum(*key)) for key in minima),
            *(Cell(path(*key), _path(*key)) for key in paths),
        ),
        (
            *(Cell(f"scan-{path(*key)}", _scan(*key)) for key in paths),
            *(Cell(f"scatter-{name(*key)}", _scatter(*key)) for key in minima if key[1] > 0),
            *(Cell(f"landscape-{name(*key)}", _landscape(*key)) for key in first),
        ),
    )


def minima_of(scale: str, seeds: int) -> list[MinimumKey]:
    """Return what is trained."""
    return [(block, eps, seed) for seed in range(seeds) for block in BLOCKS[scale] for eps in block.budgets]


def paths_of(scale: str, seeds: int) -> list[PathKey]:
    """Return the paths between seeds 0 and 1, 2 and 3, ...: pairs that share a minimum would not be independent."""
    pairs = [(seed, seed + 1) for seed in range(0, seeds - 1, 2)]
    return [(b, eps, pair, kind) for pair in pairs for b in BLOCKS[scale] for eps in b.budgets for kind in GEOMETRIES]


def name(block: Block, eps: float, seed: int) -> str:
    """Return the name of the training against budget `eps`."""
    return f"{block.data}-{eps:.4g}-{seed}"


def path(block: Block, eps: float, pair: tuple[int, int], geometry: str) -> str:
    """Return the name of the connection between the minima of two seeds."""
    return f"{geometry.replace(':', '')}-{block.data}-{eps:.4g}-{pair[0]}-{pair[1]}"


def _minimum(block: Block, eps: float, seed: int) -> TrainRecipe:
    return TrainRecipe(
        arch=block.arch,
        data=block.data,
        width=block.width,
        adversary=block.against(eps),
        augment=block.augment,
        plan=block.plan,
        attack_n=500,
        seed=seed,
    )


def _model(block: Block, eps: float, seed: int) -> str:
    return output(name(block, eps, seed), "model.safetensors")


def _vectors(block: Block, eps: float, seed: int) -> str:
    return output(f"spectrum-{name(block, eps, seed)}", "eigenvectors.safetensors")


def _spectrum(block: Block, eps: float, seed: int) -> CurvatureRecipe:
    """Return the curvature of the training loss at its minimum, examples frozen as in the paper, and crafted anew beside it."""
    return CurvatureRecipe(
        model=_model(block, eps, seed),
        split="train",
        n=block.hessian_n,
        top=20,
        trace=True,
        trace_products=30,
        adversary=None if eps == 0 else Adversary(method="pgd", eps=(eps,)),
        recraft=eps > 0,
    )


def _scatter(block: Block, eps: float, seed: int) -> ScatterRecipe:
    """Return the comparison of perturbations, whose random start reaches one step as in the code of Liu et al. 2020."""
    return ScatterRecipe(
        model=_model(block, eps, seed),
        vectors=_vectors(block, eps, seed),
        amounts=block.amounts,
        crafting=CraftingPlan(eps=eps, start=0.25, n=block.n),
    )


def _landscape(block: Block, eps: float, seed: int) -> LandscapeRecipe:
    return LandscapeRecipe(
        models=(_model(block, eps, seed),),
        directions="eigen",
        vectors=_vectors(block, eps, seed),
        grid=str(block.grid),
        range=block.extent,
        adversary="none" if eps == 0 else "pgd",
        eps=eps or 8 / 255,
        n=100 if block.n is not None else None,
    )


def _path(block: Block, eps: float, pair: tuple[int, int], geometry: str) -> ConnectRecipe:
    return ConnectRecipe(
        models=tuple(_model(block, eps, seed) for seed in pair),
        arch=block.arch,
        data=block.data,
        geometry=geometry,
        width=block.width,
        augment=block.augment,
        adversary=block.against(eps),
        plan=block.curve,
    )


def _scan(block: Block, eps: float, pair: tuple[int, int], geometry: str) -> ScanRecipe:
    return ScanRecipe(
        bridge=output(path(block, eps, pair, geometry), "bridge.safetensors"),
        grid=str(block.points),
        n=block.n,
        probes=("clean",) if eps == 0 else ("clean", "robust"),
        eps=eps or 8 / 255,
    )
