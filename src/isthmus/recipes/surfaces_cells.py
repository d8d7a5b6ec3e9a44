"""The cells of the study `surfaces`: models, patches between them, what is measured, as much training otherwise."""

from dataclasses import dataclass

from isthmus.recipes.cells import Cell, output
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.ensemble_members import EnsembleRecipe
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.train import TrainRecipe
from isthmus.training.plan import Plan
from isthmus.training.staged import Stages

CORNERS = 4
LATE = (8 / 11, 9 / 11, 10 / 11)  # of one run, and its end: epochs 160, 180, 200 and 220 of Ren et al. 2025, figure 6
SWA = (0.6, 0.7, 0.8, 0.9)  # and the end: what is averaged, of the half at a quarter of the first rate
MODEL, BRIDGE = "model.safetensors", "bridge.safetensors"


@dataclass(frozen=True)
class Patch:
    """A surface over the square between four models. same_run: they are snapshots of one training, else four trainings."""

    name: str
    geometry: str
    stages: Stages = "together"
    same_run: bool = False
    in_training_mode: bool = False


BILINEAR, SURFACE, STAGED, SAME_RUN = "bilinear", "surface", "staged", "same-run"
PATCHES = (
    Patch(BILINEAR, "surface:1x1", in_training_mode=True),
    Patch(SURFACE, "surface:2x2", in_training_mode=True),
    Patch(STAGED, "surface:2x2", "edges-first"),
    Patch(SAME_RUN, "surface:1x1", same_run=True),
)
NINE, ALL = "nine", "all"
ENSEMBLES = ((SURFACE, NINE), (SURFACE, ALL), (SAME_RUN, NINE))
"""Which connection's points are averaged, and which points.

What is no patch (a complex of simplexes: SPRO, ESPRO, Benton et al. 2021) takes its place here: its connection among those of `_cells`, its
points here, and a line in :func:`isthmus.recipes.surfaces_standing.standing`, where it stands beside what took as many gradients."""


@dataclass(frozen=True)
class Block:
    """One architecture. plan: of a model; surface: of the patch between four; batchnorm: whether it has running statistics."""

    name: str
    arch: str
    width: int
    plan: Plan
    surface: Plan
    batchnorm: bool = True

    @property
    def gradients(self) -> int:
        """Return the gradients of whole batches that four models and one trained patch take together."""
        return CORNERS * self.plan.evaluations + self.surface.evaluations


@dataclass(frozen=True)
class Size:
    """How large the study is. n, train_n, validation, settle_n: test, training, validation images and those that BatchNorm is set by.

    grid: of the scans and the largest ensemble; batch_grid: of those in training mode, whose points are some of these; batch_size: theirs.
    """

    data: str
    blocks: tuple[Block, ...]
    n: int | None
    train_n: int
    validation: int
    settle_n: int
    grid: str
    batch_grid: str
    batch_size: int = 128
    augment: str = "auto"


_FAST = Plan(steps=1560, learning_rate=0.2, schedule="triangular", warmup=0.1, precision="bf16-mixed")
_BETWEEN = _FAST.model_copy(update={"learning_rate": 0.1})
_VIT = Plan(steps=3120, optimizer="adamw", learning_rate=3e-3, weight_decay=0.05, decay="points", warmup=0.1)
_VIT_BETWEEN = _VIT.model_copy(update={"weight_decay": 0.0})
_LONG = Plan(steps=62_400, learning_rate=0.1, schedule="multistep", milestones=(0.5, 0.75), precision="bf16-mixed")
_LONG_BETWEEN = Plan(steps=78_000, learning_rate=0.03, precision="bf16-mixed")
_LONG_VIT = _VIT.model_copy(update={"steps": 62_400, "learning_rate": 1e-3, "precision": "bf16-mixed"})
_LONG_VIT_BETWEEN = _LONG_VIT.model_copy(update={"steps": 78_000, "weight_decay": 0.0})

SIZES = {
    "smoke": Size(
        data="digits",
        blocks=(Block("cnn", "cnn", 4, Plan(steps=40, batch_size=50), Plan(steps=24, batch_size=50)),),
        n=100,
        train_n=100,
        validation=100,
        settle_n=100,
        grid="5x5",
        batch_grid="3x3",
        batch_size=50,
        augment="none",
    ),
    "small": Size(
        data="cifar10",
        blocks=(
            Block("resnet18", "resnet18", 8, _FAST, _BETWEEN),
            Block("vgg16", "vgg16-bn", 16, _FAST.model_copy(update={"learning_rate": 0.1}), _BETWEEN),
            Block("vit", "vit:depth=4,patch=8", 48, _VIT, _VIT_BETWEEN, batchnorm=False),
        ),
        n=2000,
        train_n=1000,
        validation=1000,
        settle_n=500,
        grid="11x11",
        batch_grid="6x6",
    ),
    "paper": Size(
        data="cifar10",
        blocks=(
            Block("resnet18", "resnet18", 64, _LONG, _LONG_BETWEEN),
            Block("vgg16", "vgg16-bn", 64, _LONG.model_copy(update={"learning_rate": 0.05}), _LONG_BETWEEN),
            Block("vit", "vit", 192, _LONG_VIT, _LONG_VIT_BETWEEN, batchnorm=False),
        ),
        n=None,
        train_n=5000,
        validation=2000,
        settle_n=5000,
        grid="11x11",
        batch_grid="11x11",
    ),
}
ABOUT = {
    "smoke": "digits, a small network, 40 gradients for each model: does it run? Its numbers mean nothing",
    "small": "CIFAR-10; resnet18 of width 8, vgg16 with BatchNorm of width 16, four epochs for each model and for each surface; vit of "
    "width 48, depth 4 and patches of 8, eight epochs; about two hours with two jobs",
    "paper": "CIFAR-10; resnet18 and vgg16 with BatchNorm of width 64, vit of width 192; 160 epochs for each model and 200 for each "
    "surface; for a GPU",
}
SEEDS = {"smoke": 1, "small": 1, "paper": 3}


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: trainings; patches and the averaged run; scans and ensembles; what was trained as long, beside each other."""
    size = SIZES[scale]
    sets = [(block, seed) for seed in range(seeds) for block in size.blocks]
    waves: tuple[list[Cell], ...] = ([], [], [], [])
    for block, seed in sets:
        for wave, found in zip(waves, _cells(size, block, seed), strict=True):
            wave += found
    return tuple(tuple(wave) for wave in waves)


def cell(kind: str, block: Block, seed: int) -> str:
    """Return the name of a cell."""
    return f"{kind}-{block.name}-{seed}"


def corner(block: Block, seed: int, place: int) -> str:
    """Return the name of the training of one corner."""
    return f"{cell('corner', block, seed)}-{place}"


def points(size: Size, which: str) -> str:
    """Return the points of an ensemble: corners, middles of the edges and of the patch, or the whole grid."""
    return "3x3" if which == NINE else size.grid


def ensemble(name: str, which: str) -> str:
    """Return the kind of the cell of an ensemble."""
    return f"ensemble-{which}-{name}"


def _cells(size: Size, block: Block, seed: int) -> tuple[list[Cell], ...]:
    """Return the four waves of one architecture and seed."""

    def named(kind: str, recipe: TrainRecipe | ConnectRecipe | EnsembleRecipe | ScanRecipe) -> Cell:
        return Cell(cell(kind, block, seed), recipe)

    trainings = [Cell(corner(block, seed, k), _corner(size, block, seed, k)) for k in range(CORNERS)]
    trainings += [named("longer", _longer(size, block, seed)), named("swa", _swa(size, block, seed))]
    joined = [named(patch.name, _patch(size, block, seed, patch)) for patch in PATCHES]
    measured: list[Cell] = [named("alone", _alone(size, block, seed))]
    for patch in PATCHES:
        bridge = output(cell(patch.name, block, seed), BRIDGE)
        measured.append(named(f"scan-{patch.name}", _scan(size, bridge, size.grid)))
        if patch.in_training_mode and block.batchnorm:
            measured.append(named(f"batch-{patch.name}", _by_batch(size, bridge)))
    for name, which in ENSEMBLES:
        bridge = output(cell(name, block, seed), BRIDGE)
        measured.append(named(ensemble(name, which), _ensemble(size, (bridge,), points(size, which))))
    last = named("scan-alone", _scan(size, output(cell("alone", block, seed), BRIDGE), "2"))
    return trainings, [*joined, named("soup", _soup(size, block, seed))], measured, [last]


def _train(size: Size, block: Block, plan: Plan, seed: int) -> TrainRecipe:
    return TrainRecipe(
        arch=block.arch,
        data=size.data,
        width=block.width,
        validation=size.validation,
        augment=size.augment,
        plan=plan,
        seed=seed,
    )


def _corner(size: Size, block: Block, seed: int, place: int) -> TrainRecipe:
    """Return the training of one corner; the first also leaves the corners of the patch within one run, which changes nothing of it."""
    late = {"resets": LATE, "restart_rate": False} if place == 0 else {}
    return _train(size, block, block.plan.model_copy(update=late), 100 * seed + place)


def _longer(size: Size, block: Block, seed: int) -> TrainRecipe:
    """Return one training of as many gradients as the four corners and a surface."""
    return _train(size, block, block.plan.model_copy(update={"steps": block.gradients}), 100 * seed + 50)


def _swa(size: Size, block: Block, seed: int) -> TrainRecipe:
    """Return a training of as many gradients whose later weights are to be averaged (Izmailov et al. 2018, with a constant rate)."""
    settings = {
        "steps": block.gradients,
        "schedule": "multistep",
        "milestones": (0.5,),
        "gamma": 0.25,
        "resets": SWA,
        "restart_rate": False,
    }
    return _train(size, block, block.plan.model_copy(update=settings), 100 * seed + 51)


def _patch(size: Size, block: Block, seed: int, patch: Patch) -> ConnectRecipe:
    models = [output(corner(block, seed, k), MODEL) for k in range(CORNERS)]
    if patch.same_run:
        models = [output(corner(block, seed, 0), f"snapshot-{k + 1}.safetensors") for k in range(CORNERS)]
    return ConnectRecipe(
        models=tuple(models),
        arch=block.arch,
        data=size.data,
        geometry=patch.geometry,
        validation=size.validation,
        width=block.width,
        augment=size.augment,
        plan=block.surface,
        stages=patch.stages,
        seed=seed,
    )


def _soup(size: Size, block: Block, seed: int) -> EnsembleRecipe:
    folder = cell("swa", block, seed)
    return _ensemble(size, tuple(output(folder, f"snapshot-{k + 1}.safetensors") for k in range(len(SWA) + 1)), None)


def _alone(size: Size, block: Block, seed: int) -> ConnectRecipe:
    """Return the line from the longer training to the averaged one: its two ends are then measured as all points are."""
    ends = (
        output(cell("longer", block, seed), MODEL),
        output(cell("soup", block, seed), "uniform-soup.safetensors"),
    )
    return ConnectRecipe(models=ends, arch=block.arch, data=size.data, geometry="line", width=block.width)


def _scan(size: Size, bridge: str, grid: str) -> ScanRecipe:
    return ScanRecipe(
        bridge=bridge,
        grid=grid,
        n=size.n,
        probes=("clean", "train", "distance"),
        train_n=size.train_n,
        validation=size.validation,
        settle_n=size.settle_n,
    )


def _by_batch(size: Size, bridge: str) -> ScanRecipe:
    return ScanRecipe(bridge=bridge, grid=size.batch_grid, n=size.n, settle="batch", batch_size=size.batch_size)


def _ensemble(size: Size, models: tuple[str, ...], at: str | None) -> EnsembleRecipe:
    return EnsembleRecipe(
        models=models,
        points=at,
        validation=size.validation,
        n=size.n,
        settle_n=size.settle_n,
        greedy=False,
        save=at is None,
    )
