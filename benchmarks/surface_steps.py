"""Optimiser steps for a surface between four models, here and by Ren et al. 2025: `python benchmarks/surface_steps.py --out DIR`.

Both train the same 3 x 3 control points between the same four models. The library does so by the plan of the study `surfaces`, whose rate
falls to zero at the end of its steps: every number of steps is a training of its own, all points together or the edges first. The recipe
of Ren et al. (`official_surface.py`) has a constant rate and 203,320 steps; here it runs from its start, which is all stage 1, with both
stages in their proportions within a number of steps, and with its second stage alone. Every surface is measured alike: loss and error at
every point of a grid, on training images without augmentation and on test images, in evaluation mode, BatchNorm statistics recomputed.

`--corners` takes four trained models, else they are trained as in the study. `--out FOLDER` keeps what is done, and goes on from there;
`--seeds N` repeats the surfaces with other batches and draws, the models staying; `--only PATTERN` makes some of the surfaces; `--table
FILE` writes what is there as Markdown, and its figure beside it. The scale `smoke` takes the embedded digits, `small` needs ISTHMUS_DATA
with cifar10.npz.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from official_surface import Official, Settings
from surface_steps_page import EDGES_FIRST, FLAT, PATCH, SCALED, TOGETHER, TRUNCATED, About, Result, stages, write
from torch import nn

from isthmus._check import require
from isthmus.data import Samples, Splits, load_data
from isthmus.files import atomic
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, parse_geometry
from isthmus.models import build_model, load_weights
from isthmus.probes import Clean
from isthmus.randomness import seed_of, stream
from isthmus.recipes.cells import chosen, output, run_cells
from isthmus.recipes.reserve import kept_apart
from isthmus.recipes.surfaces_cells import MODEL, cells, corner
from isthmus.recipes.surfaces_scales import CORNERS, SIZES, Block, Size
from isthmus.recipes.task import plan_for
from isthmus.scan import grid, scan
from isthmus.settle import Recalibrate
from isthmus.store import load_bridge, save_bridge
from isthmus.table import Table
from isthmus.training.fit import fit
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session
from isthmus.training.staged import Stages, fit_staged

OWN: dict[str, Stages] = {TOGETHER: "together", EDGES_FIRST: "edges-first"}
SAVE_EVERY = 1000  # steps


@dataclass(frozen=True)
class Scale:
    """Numbers of steps by recipe; size: of the study `surfaces`, of whose first block the models are; n: test images."""

    size: Size
    n: int
    grid: str
    counts: dict[str, tuple[int, ...]]

    @property
    def block(self) -> Block:
        """Return the architecture and its plans."""
        return self.size.blocks[0]


SCALES = {
    "smoke": Scale(
        SIZES["smoke"],
        100,
        "3x3",
        {TOGETHER: (8, 24), EDGES_FIRST: (8,), PATCH: (8, 24), SCALED: (13, 26), TRUNCATED: (8,)},
    ),
    "small": Scale(
        SIZES["small"],
        1000,
        "5x5",
        {
            TOGETHER: (195, 390, 780, 1560, 3120, 6240, 12480),
            EDGES_FIRST: (390, 1560),
            PATCH: (390, 780, 1560, 3120),
            SCALED: (780,),
            TRUNCATED: (390,),
        },
    ),
}


@dataclass(frozen=True)
class Job:
    """A surface to train and measure."""

    recipe: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Return what its files are called."""
        return f"{self.recipe}-{self.steps}-{self.seed}"


@dataclass(frozen=True)
class Bench:
    """What all cells share. train: what surfaces are trained on; seen, held: training and test images that they are measured on."""

    scale: Scale
    out: Path
    flat: Bridge
    plan: Plan
    train: Samples
    settle: Samples
    seen: Samples
    held: Samples


def prepare(scale: Scale, out: Path, corners: Sequence[Path]) -> Bench:
    """Return what all cells share, after training the corners where they are not given."""
    if not corners:
        corners = train_corners(scale, out)
    splits = load_data(scale.size.data)
    train = kept_apart(splits.train, scale.size.validation, test=splits.test)[1]
    draw = {
        "settle": (train, scale.size.settle_n),
        "train": (train, scale.size.train_n),
        "test": (splits.test, scale.n),
    }
    settle, seen, held = (held.subset(n, generator=stream(0, name)) for name, (held, n) in draw.items())
    models = [model_of(scale, splits, path) for path in corners]
    flat = connect(models, parse_geometry("surface:2x2", CORNERS), names=[path.parent.name for path in corners])
    for folder in ("bridges", "states", "scans"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    keep_flat(flat, out / "bridges" / "flat.safetensors")
    plan = plan_for(scale.block.surface, scale.size.augment, splits)
    return Bench(scale, out, flat, plan, train, settle, seen, held)


def keep_flat(flat: Bridge, place: Path) -> None:
    """Write the bilinear patch into the folder of the results. Raises InputError where that is of other models."""
    if not place.exists():
        save_bridge(flat, place)
    same = torch.equal(load_bridge(place, flat.template).fixed, flat.fixed)
    require(same, "out", "hold results between these models", "results between others")


def train_corners(scale: Scale, out: Path) -> list[Path]:
    """Return the four models, trained as the study trains them, where they are not in `out` yet."""
    names = [corner(scale.block, 0, k) for k in range(CORNERS)]
    name = next(name for name, size in SIZES.items() if size is scale.size)
    run_cells(chosen(cells(name, 1), names), out, tell=partial(print, flush=True))
    return [out / output(name, MODEL) for name in names]


def model_of(scale: Scale, splits: Splits, path: Path) -> nn.Module:
    """Return a model of the scale's architecture with the weights in a file."""
    block = scale.block
    module = build_model(
        block.arch, num_classes=splits.num_classes, input_shape=splits.input_shape, width=block.width, seed=0
    )
    load_weights(module, path)
    return module.eval()


def surface(bench: Bench, job: Job) -> Bridge:
    """Return the trained surface, kept in `out`."""
    if job.recipe == FLAT:
        return bench.flat
    place = bench.out / "bridges" / f"{job.name}.safetensors"
    if not place.exists():
        save_bridge(own(bench, job) if job.recipe in OWN else theirs(bench, job), place)
    return load_bridge(place, bench.flat.template)


def own(bench: Bench, job: Job) -> Bridge:
    """Return the surface by the library's own training."""
    session = Session(checkpoint=bench.out / "states" / f"{job.name}.pt")

    def train(bridge: Bridge, plan: Plan, seed: int, session: Session) -> Fitted:
        return fit(bridge, bench.train, plan, seed=seed, session=session)

    plan = bench.plan.model_copy(update={"steps": job.steps})
    return fit_staged(bench.flat, plan, train, stages=OWN[job.recipe], seed=job.seed, session=session).bridge


def theirs(bench: Bench, job: Job) -> Bridge:
    """Return the surface by the recipe of Ren et al., which goes on from the longest part of its steps that `out` holds."""
    plan, goal = bench.plan, stages(job.recipe, job.steps)
    settings = Settings(batch=plan.batch_size, augment=plan.augment, mixed=plan.precision == "bf16-mixed")
    trainer = Official(bench.flat, bench.train, settings, seed_of(job.seed, "official"))

    def place(done: tuple[int, int]) -> Path:
        return bench.out / "states" / f"official-{done[0]}-{done[1]}-{job.seed}.pt"

    names = [path.stem.split("-") for path in (bench.out / "states").glob(f"official-*-{job.seed}.pt")]
    held = [(int(first), int(second)) for _, first, second, _ in names]
    parts = [(a, b) for a, b in held if (a == goal[0] and b <= goal[1]) or (a < goal[0] and b == 0)]
    done = max(parts, key=sum, default=(0, 0))
    if parts:
        trainer.restore(torch.load(place(done), weights_only=True))
    while done != goal:
        edges = done[0] < goal[0]
        taken = min(SAVE_EVERY, goal[0] - done[0] if edges else goal[1] - done[1])
        trainer.train(taken, edges=edges)
        done = (done[0] + taken, 0) if edges else (done[0], done[1] + taken)
        with atomic(place(done)) as partial:
            torch.save(trainer.state(), partial)
    return trainer.bridge()


def measured(bench: Bench, job: Job) -> Result:
    """Return what a surface was measured to be, from `out` where it is there."""
    place = scan_of(bench, job)
    if not place.exists():
        bridge = surface(bench, job)
        probes = [Clean(bench.seen, "train"), Clean(bench.held)]
        scan(bridge, grid(bridge.basis, bench.scale.grid), probes, settle=Recalibrate(bench.settle)).save(place)
    return Result.of(job.recipe, job.steps, job.seed, Table.load(place))


def scan_of(bench: Bench, job: Job) -> Path:
    """Return where the measurements of a surface are kept."""
    return bench.out / "scans" / f"{job.name}.json"


def jobs(scale: Scale, seeds: int) -> list[Job]:
    """Return everything to do, in order."""
    each = [(recipe, steps) for recipe, counts in scale.counts.items() for steps in counts]
    return [Job(FLAT, 0, 0), *(Job(recipe, steps, seed) for seed in range(seeds) for recipe, steps in each)]


def main() -> None:
    """Run what is not there yet, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--corners", type=Path, nargs=CORNERS, default=(), help="model files, else they are trained")
    parser.add_argument("--seeds", type=int, default=1, help="repeats with other batches and draws of (u, v)")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="surfaces to make, as 'together-*-0'; the page has all"
    )
    parser.add_argument("--table", type=Path, help="write the Markdown page here, and its figure beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = prepare(SCALES[given.scale], given.out, given.corners)
    found: list[Result] = []
    for job in jobs(bench.scale, given.seeds):
        wanted = fnmatch(job.name, given.only)
        if wanted:
            print(job.name, flush=True)
        if wanted or scan_of(bench, job).exists():
            found.append(measured(bench, job))
    block, size = bench.scale.block, bench.scale.size
    arch = f"{block.arch} of width {block.width}"
    about = About(
        given.scale, size.data, arch, block.plan, bench.plan, len(bench.seen), len(bench.held), bench.scale.grid
    )
    write(about, found, given.table)


if __name__ == "__main__":
    main()
