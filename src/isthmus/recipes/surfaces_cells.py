"""The cells of the study `surfaces`: models, patches between them, what is measured, as much training otherwise."""

from dataclasses import dataclass
from typing import Literal

from isthmus.recipes.align import AlignRecipe
from isthmus.recipes.cells import Cell, output
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.ensemble_members import EnsembleRecipe
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.surfaces_scales import CORNERS, SIZES, Block, Size
from isthmus.recipes.train import TrainRecipe
from isthmus.training.plan import Plan
from isthmus.training.staged import Stages

LATE = (8 / 11, 9 / 11, 10 / 11)  # of one run, and its end: epochs 160, 180, 200 and 220 of Ren et al. 2025, figure 6
SWA = (0.6, 0.7, 0.8, 0.9)  # and the end: what is averaged, of the half at a quarter of the first rate
MODEL, BRIDGE = "model.safetensors", "bridge.safetensors"


@dataclass(frozen=True)
class Patch:
    """A surface over the square between four models: of four trainings, those with their units matched, or snapshots of one training."""

    name: str
    geometry: str
    stages: Stages = "together"
    corners: Literal["independent", "matched", "same-run"] = "independent"
    in_training_mode: bool = False


BILINEAR, SURFACE, STAGED, MATCHED, SAME_RUN = "bilinear", "surface", "staged", "matched", "same-run"
PATCHES = (
    Patch(BILINEAR, "surface:1x1", in_training_mode=True),
    Patch(SURFACE, "surface:2x2", in_training_mode=True),
    Patch(STAGED, "surface:2x2", "edges-first"),
    Patch(MATCHED, "surface:2x2", corners="matched"),
    Patch(SAME_RUN, "surface:1x1", corners="same-run"),
)
ESPRO, SPRO = "espro", "spro"  # Benton et al. 2021
VERTICES, CONNECTORS = 3, 3  # of the simplex grown from each corner; of the complex that joins them all
NINE, ALL, DRAWN = "nine", "all", "drawn"
ENSEMBLES = ((SURFACE, NINE), (SURFACE, ALL), (SAME_RUN, NINE), (ESPRO, DRAWN), (SPRO, DRAWN))
"""Which connection's points are averaged, and which points."""


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: trainings; units matched and weights averaged; patches, simplexes and the rest that joins; scans and ensembles."""
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
    """Return the points of an ensemble: corners, middles of edges and patch; the whole grid; or 25 draws (Benton et al. 2021)."""
    return {NINE: "3x3", ALL: size.grid, DRAWN: "random:25"}[which]


def ensemble(name: str, which: str) -> str:
    """Return the kind of the cell of an ensemble."""
    return f"ensemble-{which}-{name}"


def _cells(size: Size, block: Block, seed: int) -> tuple[list[Cell], ...]:
    """Return the four waves of one architecture and seed."""

    def named(kind: str, recipe: TrainRecipe | ConnectRecipe | AlignRecipe | EnsembleRecipe | ScanRecipe) -> Cell:
        return Cell(cell(kind, block, seed), recipe)

    trainings = [Cell(corner(block, seed, k), _corner(size, block, seed, k)) for k in range(CORNERS)]
    trainings += [named("longer", _longer(size, block, seed)), named("swa", _swa(size, block, seed))]
    prepared = [named("match", _match(size, block, seed)), named("soup", _soup(size, block, seed))]
    joined = [named(patch.name, _patch(size, block, seed, patch)) for patch in PATCHES]
    joined += [named(f"{ESPRO}-{k}", _grown(size, block, seed, (k,))) for k in range(CORNERS)]
    joined.append(named(SPRO, _grown(size, block, seed, tuple(range(CORNERS)))))
    joined.append(named("alone", _alone(size, block, seed)))
    measured = [named("scan-alone", _scan(size, output(cell("alone", block, seed), BRIDGE), "2"))]
    for patch in PATCHES:
        bridge = output(cell(patch.name, block, seed), BRIDGE)
        measured.append(named(f"scan-{patch.name}", _scan(size, bridge, size.grid)))
        if patch.in_training_mode and block.batchnorm:
            measured.append(named(f"batch-{patch.name}", _by_batch(size, bridge)))
    for name, which in ENSEMBLES:
        kinds = [f"{ESPRO}-{k}" for k in range(CORNERS)] if name == ESPRO else [name]
        bridges = tuple(output(cell(kind, block, seed), BRIDGE) for kind in kinds)
        measured.append(named(ensemble(name, which), _ensemble(size, bridges, points(size, which))))
    return trainings, prepared, joined, measured


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


def _match(size: Size, block: Block, seed: int) -> AlignRecipe:
    models = tuple(output(corner(block, seed, k), MODEL) for k in range(CORNERS))
    return AlignRecipe(
        models=models,
        data=size.data,
        arch=block.arch,
        width=block.width,
        n=size.settle_n,
        points=3,
        test_n=size.n,
        seed=seed,
    )


def _patch(size: Size, block: Block, seed: int, patch: Patch) -> ConnectRecipe:
    own = tuple(output(corner(block, seed, k), MODEL) for k in range(CORNERS))
    matched = tuple(output(cell("match", block, seed), f"aligned-{k}.safetensors") for k in range(1, CORNERS))
    late = tuple(output(corner(block, seed, 0), f"snapshot-{k}.safetensors") for k in range(1, CORNERS + 1))
    models = {"independent": own, "matched": (own[0], *matched), "same-run": late}[patch.corners]
    return _joined(size, block, seed, models, patch.geometry).model_copy(update={"stages": patch.stages})


def _grown(size: Size, block: Block, seed: int, corners: tuple[int, ...]) -> ConnectRecipe:
    """Return a simplex of one corner or a complex of several; one complex or four simplexes take as many gradients as a surface."""
    alone = len(corners) == 1
    steps = block.surface.evaluations // (CORNERS if alone else 1)
    plan = block.surface.model_copy(update={"steps": steps, "num_points": 1})
    models = tuple(output(corner(block, seed, k), MODEL) for k in corners)
    geometry = f"simplex:{VERTICES}" if alone else f"complex:{CONNECTORS}"
    return _joined(size, block, seed, models, geometry).model_copy(update={"plan": plan})


def _joined(size: Size, block: Block, seed: int, models: tuple[str, ...], geometry: str) -> ConnectRecipe:
    return ConnectRecipe(
        models=models,
        arch=block.arch,
        data=size.data,
        geometry=geometry,
        validation=size.validation,
        width=block.width,
        augment=size.augment,
        plan=block.surface,
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
