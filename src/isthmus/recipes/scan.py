"""`scan`: what probes measure at the points of a saved bridge."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.association import Association, associate_columns
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Norm, Threat
from isthmus.barrier import SQUARE, TRIANGLE, Barrier, barriers, surface_barriers
from isthmus.data import Samples, Splits, load_data
from isthmus.files import atomic, sha256
from isthmus.geometry import gram
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.text import describe
from isthmus.probes import Backdoor, Clean, Distance, InputHessian, Probe, Robust, Sharpness, Trace
from isthmus.randomness import stream
from isthmus.recipes.keeper import Keeper
from isthmus.recipes.reserve import chosen_on
from isthmus.recipes.scan_choice import chosen
from isthmus.recipes.scan_limits import Pace, require_room
from isthmus.recipes.task import data_for, task_for
from isthmus.runs import Run
from isthmus.scan import Watch, coordinate_names, grid, scan
from isthmus.settle import Statistics, policy_of
from isthmus.store import load_bridge, read_header
from isthmus.table import Column, Split, Table
from isthmus.tampering import parse_target, parse_trigger
from isthmus.training.adversary import Radius
from isthmus.training.session import Monitor

PROBES = {
    "clean": "mean cross-entropy and error on test images",
    "train": "the same on training images; --train-n",
    "backdoor": "attack success and recovery accuracy on triggered test images; needs --test-trigger and --target",
    "distance": "distance of the weights to each model of the bridge",
    "robust": "largest loss, error and evasion success on test images under attack; --norm, --eps, --attack-steps",
    "input-hessian": "largest eigenvalue of the Hessian of the loss in each test image; exact for piecewise linear networks",
    "sharpness": "largest eigenvalue of the Hessian of the mean loss in the weights, on --hessian-n test images",
    "trace": "trace of that Hessian, with its 99 % interval",
}
TABLE = "table.json"
MEASURES = tuple(f"{of}_{what}" for of in ("test", "train", "validation", "robust") for what in ("loss", "error"))
"""Whose barriers are told."""
EVERY_SECONDS = 1.0  # how often the rows so far are written


class ScanRecipe(BaseModel):
    """What to measure, where, on which images.

    bridge: a bridge file, or a folder with a `bridge.safetensors`. grid: `31` points on a curve, `5x5` on a surface. n: at most so
    many test images, a stratified choice; None for all. settle: BatchNorm statistics of points that are no given model. recalibrate: on
    at most settle_n training images, keep: those of the heaviest corner, batch: of each batch by itself, as in training mode and at given
    models too (:class:`isthmus.settle.BatchStatistics`). train_n: at most so many training images of the probe `train`. test_trigger and
    target only measure. norm, eps, attack_steps, attack_step (in radii), restarts, warm: of the probe `robust`. hessian_n: of the images,
    so many for `input-hessian`, `sharpness` and `trace`. validation: so many training images on which every point is measured too and one
    is chosen, those that `isthmus train --validation` keeps apart; with hold_out from so many that `isthmus train --hold-out` set aside;
    None for no choice. choose_by: accuracy, or robustness, which attacks these images too, as `robust` does the test images. batch_size: of
    these, of `clean` and of `train`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bridge: str
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    grid: str = "31"
    n: int | None = Field(default=1000, ge=1)
    probes: tuple[str, ...] = Field(default=("clean",), min_length=1)
    test_trigger: str | None = None
    target: str | None = None
    norm: Norm = "linf"
    eps: Radius = 8 / 255
    attack_steps: int = Field(default=10, ge=1)
    attack_step: float = Field(default=0.25, gt=0)
    restarts: int = Field(default=1, ge=1)
    warm: bool = False
    hessian_n: int = Field(default=200, ge=1)
    settle_n: int = Field(default=2000, ge=2)
    settle: Statistics = "recalibrate"
    train_n: int = Field(default=1000, ge=1)
    validation: int | None = Field(default=None, ge=1)
    hold_out: int | None = Field(default=None, ge=1)
    choose_by: Literal["accuracy", "robustness"] = "accuracy"
    batch_size: int = Field(default=500, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class Scanned:
    """A scanned bridge: its table and, for a curve or surface, the barriers of each measured loss and error.

    association: of the robust loss with the largest input eigenvalue along a curve, where both were measured.
    """

    table: Table
    barriers: dict[str, dict[str, Barrier]]
    files: dict[str, str] = field(default_factory=dict[str, str])
    association: Association | None = None

    def to_json(self) -> dict[str, object]:
        """Return rows, columns, meta, barriers (column -> name -> barrier) and the association as JSON values."""
        found = {
            column: {name: asdict(barrier) for name, barrier in held.items()} for column, held in self.barriers.items()
        }
        related = None if self.association is None else asdict(self.association)
        return {
            "status": "done",
            **self.table.to_json(),
            "barriers": found,
            "association": related,
            "files": self.files,
        }


def run_scan(
    recipe: ScanRecipe, run: Run | None = None, *, monitor: Monitor | None = None, max_hours: float | None = None
) -> Scanned:
    """Return the measurements; with a run also written as `table.json` and `table.csv`, row by row while they are made.

    A resumed run takes over the rows that are there, and then gives the same table as an uninterrupted one. Raises InputError for a grid
    that does not fit into memory, and after the first rows for one that takes more than `max_hours`; None for no such limit.
    """
    path = bridge_file(recipe.bridge)
    header = read_header(path)
    splits = load_data(data_for(recipe.data, (path,), header.card), size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=(path,), card=header.card)
    bridge = load_bridge(path, task.build())
    validation, train = _roles(recipe, splits)
    probes = make_probes(recipe, bridge, replace(splits, train=train))
    probes += [] if validation is None else _choosing(recipe, validation)
    columns = [Column(name) for name in coordinate_names(bridge.basis.dim)] + [c for p in probes for c in p.columns]
    require_room(bridge.basis, recipe.grid, len(columns))
    points = grid(bridge.basis, recipe.grid)
    if run is not None:
        run.read(path, sha256(path))
    place = {"bridge": str(path), **where(bridge)}
    keeper = Keeper(run, len(points), columns, monitor, TABLE, EVERY_SECONDS, meta=place)
    done = keeper.done()
    pace = Pace(keeper, len(points) - len(done), max_hours)
    began = perf_counter()
    table = scan(
        bridge,
        points,
        probes,
        settle=policy_of(
            recipe.settle, bridge.template, train, recipe.settle_n, generator=stream(recipe.seed, "settle")
        ),
        seed=recipe.seed,
        watch=Watch(pace, done),
    )
    meta = {**table.meta, **place, "data": splits.name, "seconds": perf_counter() - began}
    if validation is not None:
        meta["chosen"] = chosen(table, coordinate_names(bridge.basis.dim), recipe.choose_by)
    table = _with_speed(Table(table.frame, table.columns, meta), bridge)
    found = _barriers(table, bridge)
    related = _association(table)
    if run is None:
        return Scanned(table, found, association=related)
    files = {
        "table": str(run.save(TABLE, table.save)),
        "csv": str(run.save("table.csv", lambda place: _write_csv(table, place))),
    }
    return Scanned(table, found, files, related)


def where(bridge: Bridge) -> dict[str, object]:
    """Return the basis and, by the names of their files, the corners of a bridge as JSON values: what a picture of a scan needs."""
    corners = bridge.basis.corners
    names = bridge.names if len(bridge.names) == len(corners) else [f"model {i}" for i in range(len(corners))]
    held = [{"name": name, "at": list(u)} for name, (u, _) in zip(names, corners, strict=True)]
    return {"basis": describe(bridge.basis), "corners": held}


def bridge_file(path: str) -> Path:
    """Return the bridge file that `path` is, or that lies in the folder `path`."""
    place = Path(path)
    if not place.is_dir():
        return place
    inside = place / "bridge.safetensors"
    require(
        inside.is_file(),
        "bridge",
        "be a bridge file or a folder with a bridge.safetensors",
        f"no such file in {path!r}",
    )
    return inside


def make_probes(recipe: ScanRecipe, bridge: Bridge, splits: Splits) -> list[Probe]:
    """Return the probes a recipe names. Raises InputError for an unknown name, and where one lacks the settings it needs."""
    test = splits.test
    if recipe.n is not None and recipe.n < len(test):
        test = test.subset(recipe.n, generator=stream(recipe.seed, "test"))
    probes: list[Probe] = []
    for name in dict.fromkeys(recipe.probes):
        match name:
            case "clean":
                probes.append(Clean(test, batch_size=recipe.batch_size))
            case "train":
                part = splits.train.subset(
                    min(recipe.train_n, len(splits.train)), generator=stream(recipe.seed, "train")
                )
                probes.append(Clean(part, "train", recipe.batch_size))
            case "backdoor":
                if recipe.test_trigger is None or recipe.target is None:
                    lacking = "test_trigger" if recipe.test_trigger is None else "target"
                    raise InputError(
                        f"`{lacking}` should be given for the probe 'backdoor'. Found none. Give --test-trigger and --target."
                    )
                probes.append(Backdoor(test, parse_trigger(recipe.test_trigger), parse_target(recipe.target)))
            case "distance":
                corners = [index for _, index in bridge.basis.corners]
                probes += [Distance(bridge.row(index), f"model_{place}") for place, index in enumerate(corners)]
            case "robust":
                probes.append(_robust(recipe, test, "test"))
            case "input-hessian" | "sharpness" | "trace":
                part = test.subset(min(recipe.hessian_n, len(test)), generator=stream(recipe.seed, "hessian"))
                probes.append({"input-hessian": InputHessian, "sharpness": Sharpness, "trace": Trace}[name](part))
            case _:
                raise unknown("probe", name, PROBES)
    return probes


def _robust(recipe: ScanRecipe, samples: Samples, split: Split) -> Robust:
    attack = PGD(recipe.attack_steps, recipe.attack_step, restarts=recipe.restarts)
    return Robust(samples, Threat(recipe.norm, recipe.eps), attack, split, warm=recipe.warm)


def _choosing(recipe: ScanRecipe, validation: Samples) -> list[Probe]:
    """Return the probes of the validation images."""
    clean = Clean(validation, "validation", recipe.batch_size)
    return [clean, _robust(recipe, validation, "validation")] if recipe.choose_by == "robustness" else [clean]


def _roles(recipe: ScanRecipe, splits: Splits) -> tuple[Samples | None, Samples]:
    """Return the validation images, if any, and the training images that statistics are recomputed on."""
    attacked = recipe.choose_by == "accuracy" or (recipe.validation is not None and "robust" in recipe.probes)
    require(attacked, "choose_by", "be accuracy without validation images or the probe robust", recipe.choose_by)
    if recipe.validation is not None:
        return chosen_on(splits, recipe.validation, recipe.hold_out)
    require(recipe.hold_out is None, "hold_out", "come with validation, how many of them choose", recipe.hold_out)
    return None, splits.train


def _with_speed(table: Table, bridge: Bridge) -> Table:
    """Return the table with the speed at each point of a curve, which weights averages by length."""
    if bridge.basis.dim != 1:
        return table
    t = torch.tensor([float(value) for value in table.frame["t"]], dtype=torch.float64)
    values: Tensor = gram.speed(bridge, t)
    column = Column("speed", "1", None, None, None, "length in weight space per unit of t")
    frame = table.frame.copy()
    frame["speed"] = values.numpy()
    return Table(frame, (*table.columns, column), table.meta)


def _barriers(table: Table, bridge: Bridge) -> dict[str, dict[str, Barrier]]:
    """Return the barriers of each loss and error, of a curve with both ends and a point between, or of a surface with its corners."""
    names = [name for name in MEASURES if name in table.names]
    if bridge.basis.dim == 1 and len(table) >= 3:
        return {name: barriers(table, value=name) for name in names}
    corners = [(u[0], u[1]) for u, _ in bridge.basis.corners] if bridge.basis.dim == 2 else []
    if set(corners) not in (SQUARE, TRIANGLE):
        return {}
    usable = [name for name in names if np.isfinite(table.frame[name].to_numpy(dtype=np.float64)).all()]
    return {name: surface_barriers(table, corners, value=name) for name in usable}


def _association(table: Table) -> Association | None:
    """Return how the robust loss goes with the input curvature along a curve (Zhao et al. 2020, proposition 1)."""
    pair = ("robust_loss", "input_eigenvalue")
    if "t" not in table.names or len(table) < 4 or not set(pair) <= set(table.names):
        return None
    return associate_columns(table, *pair, path=True)


def _write_csv(table: Table, path: Path) -> None:
    with atomic(path) as partial:
        table.frame.to_csv(partial, index=False)
