"""`scatter`: how fast perturbations turn as the weights of a model move along directions, or along a saved bridge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Norm, Threat
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import top_eigenpairs
from isthmus.data import Samples, Splits, load_data
from isthmus.files import atomic, sha256
from isthmus.layout import Layout
from isthmus.probes.scattering import Place, Watch, random_direction, scattering, scattering_along
from isthmus.probes.similarity import Crafting, Similarity
from isthmus.randomness import stream
from isthmus.recipes.scan import bridge_file
from isthmus.recipes.task import data_for, task_for
from isthmus.runs import Run
from isthmus.settle import recalibration
from isthmus.store import load_bridge, read_header
from isthmus.table import Split, Table
from isthmus.training.adversarial import Adversarial
from isthmus.training.adversary import Radius
from isthmus.training.budget import Budget
from isthmus.training.posing import posing
from isthmus.training.session import Monitor

RESULT, CSV, IMAGES, VECTORS = "scattering.json", "table.csv", "images.safetensors", "eigenvectors.safetensors"


class CraftingPlan(BaseModel):
    """Which images are perturbed and how: PGD within a ball, its last iterate.

    eps: radius in units of the input. steps: of the attack; step, start: its step and its random start, in radii. n: at most so many images
    of the `split`, a stratified choice; None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm = "linf"
    eps: Radius = 8 / 255
    steps: int = Field(default=10, ge=1)
    step: float = Field(default=0.25, gt=0)
    start: float = Field(default=1.0, ge=0)
    split: Split = "test"
    n: int | None = Field(default=1000, ge=1)
    batch_size: int = Field(default=250, ge=1)

    @property
    def attack(self) -> PGD:
        """Return the attack."""
        return PGD(self.steps, self.step, self.start)

    @property
    def threat(self) -> Threat:
        """Return the threat."""
        return Threat(self.norm, self.eps)

    def crafting(self, splits: Splits, *, seed: int) -> Crafting:
        """Return the perturbations to make. Raises InputError for the validation split, which no data set has stored."""
        require(self.split != "validation", "split", "be train or test", self.split)
        samples = splits.train if self.split == "train" else splits.test
        if self.n is not None and self.n < len(samples):
            samples = samples.subset(self.n, generator=stream(seed, self.split))
        return Crafting(samples, self.threat, self.attack, self.split, self.batch_size, seed)


class ScatterRecipe(BaseModel):
    """What to move, along what, how far, and which perturbations to compare.

    vectors: a safetensors file with a tensor `vectors` (k, D), as `isthmus curvature` writes; None for the top eigenvectors of the Hessian
    of the loss on `hessian_n` training images under the same attack, which are then found here. eigen, random: how many of these and
    of random directions. amounts: lengths a of the moves, to both sides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    vectors: str | None = None
    eigen: int = Field(default=1, ge=0)
    random: int = Field(default=1, ge=0)
    amounts: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0)
    hessian_n: int = Field(default=1000, ge=1)
    crafting: CraftingPlan = Field(default_factory=CraftingPlan)
    seed: int = 0


class ScatterAlongRecipe(BaseModel):
    """Which curve, at how many evenly spaced points, and how far apart the two models of each; None for half the spacing.

    settle_n: at most so many training images on which BatchNorm statistics are recomputed at every point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bridge: str
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    points: int = Field(default=11, ge=2)
    step: float | None = Field(default=None, gt=0)
    settle_n: int = Field(default=2000, ge=2)
    crafting: CraftingPlan = Field(default_factory=CraftingPlan)
    seed: int = 0


@dataclass(frozen=True)
class Scattered:
    """The table, and the files written."""

    table: Table
    files: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, object]:
        """Return rows, columns and meta as JSON values."""
        return {"status": "done", **self.table.to_json(), "files": self.files}


def run_scatter(recipe: ScatterRecipe, run: Run | None = None, *, monitor: Monitor | None = None) -> Scattered:
    """Return the similarities along directions; with a run also written as `scattering.json`, `table.csv` and `images.safetensors`.

    A resumed run takes over what was measured, and then gives the table of an uninterrupted one. Raises InputError for vectors that
    do not fit the model, and where there is no direction at all.
    """
    began = perf_counter()
    require(
        recipe.eigen + recipe.random > 0, "eigen", "be at least 1 where there are no random directions", recipe.eigen
    )
    splits = load_data(data_for(recipe.data, (recipe.model,)), size=recipe.size)
    model, report = task_for(splits, arch=recipe.arch, width=recipe.width, files=(recipe.model,)).load(recipe.model)
    crafting = recipe.crafting.crafting(splits, seed=recipe.seed)
    if run is not None:
        run.read(recipe.model, report.sha256)
    directions, known = _directions(recipe, model, splits.train, run)
    total = 1 + len(directions) * sum(amount > 0 for amount in recipe.amounts)
    keeper = _Keeper(run, total, monitor)
    found = scattering(model, directions, recipe.amounts, crafting, watch=Watch(keeper, keeper.done()))
    meta = {"model": recipe.model, "data": splits.name, **known, "seconds": perf_counter() - began}
    return _written(found, meta, run)


def run_scatter_along(
    recipe: ScatterAlongRecipe, run: Run | None = None, *, monitor: Monitor | None = None
) -> Scattered:
    """Return the similarities along a bridge, written as :func:`run_scatter` does."""
    began = perf_counter()
    path = bridge_file(recipe.bridge)
    header = read_header(path)
    splits = load_data(data_for(recipe.data, (path,), header.card), size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=(path,), card=header.card)
    bridge = load_bridge(path, task.build())
    crafting = recipe.crafting.crafting(splits, seed=recipe.seed)
    if run is not None:
        run.read(path, sha256(path))
    begin, end = bridge.basis.breaks[0][0], bridge.basis.breaks[0][-1]
    ts = torch.linspace(begin, end, recipe.points, dtype=torch.float64).tolist()
    step = (ts[1] - ts[0]) / 2 if recipe.step is None else recipe.step
    keeper = _Keeper(run, 3 * len(ts) - 1, monitor)
    watch = Watch(keeper, keeper.done())
    settle = recalibration(bridge.template, splits.train, recipe.settle_n, generator=stream(recipe.seed, "settle"))
    found = scattering_along(bridge, ts, step, crafting, settle=settle, watch=watch)
    return _written(found, {"bridge": str(path), "data": splits.name, "seconds": perf_counter() - began}, run)


def _directions(
    recipe: ScatterRecipe, model: nn.Module, train: Samples, run: Run | None
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the directions by name, eigenvectors first, and what is known of these."""
    found, known = dict[str, Tensor](), dict[str, object]()
    if recipe.eigen:
        vectors, known = _eigenvectors(recipe, model, train, run)
        found = {f"eigenvector {k + 1}": vector for k, vector in enumerate(vectors)}
    for k in range(recipe.random):
        draw = stream(recipe.seed, "direction", k)
        found[f"random {k + 1}"] = random_direction(Layout.of(model).size, generator=draw)
    return found, known


def _eigenvectors(
    recipe: ScatterRecipe, model: nn.Module, train: Samples, run: Run | None
) -> tuple[Tensor, dict[str, object]]:
    """Return the first (eigen, D) vectors of the file, or else the eigenvectors of largest eigenvalue, kept for a resumed run."""
    if recipe.vectors is not None:
        if run is not None:
            run.read(recipe.vectors)
        return read_vectors(recipe.vectors, recipe.eigen), {"vectors": recipe.vectors}
    kept = None if run is None or not run.resumed else run.folder / VECTORS
    if kept is not None and kept.is_file():
        held = load_file(kept)
        return held["vectors"], {"eigenvalues": held["eigenvalues"].tolist(), "hessian_n": recipe.hessian_n}
    part = train.subset(min(recipe.hessian_n, len(train)), generator=stream(recipe.seed, "hessian"))
    plan = recipe.crafting
    objective = Adversarial(plan.attack, (plan.threat,), Budget(target=1.0))
    loss = LossAt(model, posing(objective, part, batch_size=plan.batch_size, seed=recipe.seed))
    spectrum = top_eigenpairs(hessian(loss), recipe.eigen, generator=stream(recipe.seed, "eigen"))
    if run is not None:
        run.save(VECTORS, partial(_save, {"vectors": spectrum.vectors, "eigenvalues": spectrum.values}))
    return spectrum.vectors, {"eigenvalues": spectrum.values.tolist(), "hessian_n": len(part)}


def read_vectors(path: str, count: int) -> Tensor:
    """Return the first `count` rows of the tensor `vectors` (k, D) in a safetensors file. Raises InputError where there are none."""
    requirement = "be a safetensors file with a tensor `vectors` (k, D)"
    try:
        held: Mapping[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"`vectors` should {requirement}. Found: {error} ({path!r}).") from error
    there = "vectors" in held and held["vectors"].ndim == 2
    require(there, "vectors", requirement, f"{', '.join(sorted(held)) or 'no tensor'} in {path!r}")
    vectors = held["vectors"]
    require(len(vectors) >= count, "eigen", f"be at most the {len(vectors)} vectors in {path!r}", count)
    return vectors[:count]


@dataclass(eq=False)
class _Keeper:
    """Writes the cosines of every image as they arrive, and tells the monitor."""

    run: Run | None
    total: int
    monitor: Monitor | None
    held: dict[Place, Similarity] = field(default_factory=dict[Place, Similarity])

    def done(self) -> dict[Place, Similarity]:
        """Return what an interrupted run in the same folder had measured."""
        if self.run is not None and self.run.resumed and (self.run.folder / IMAGES).is_file():
            for name, values in load_file(self.run.folder / IMAGES).items():
                what, _, amount = name.rpartition("@")
                self.held[what, float(amount)] = Similarity.unpacked(values)
        return dict(self.held)

    def __call__(self, place: Place, found: Similarity) -> None:
        self.held[place] = found
        if self.run is not None:
            named = {f"{what}@{amount!r}": value.packed() for (what, amount), value in self.held.items()}
            self.run.save(IMAGES, partial(_save, named))
        if self.monitor is not None:
            self.monitor(len(self.held), self.total, {"robust_error": found.error()})


def _written(table: Table, meta: dict[str, object], run: Run | None) -> Scattered:
    table = Table(table.frame, table.columns, {**table.meta, **meta})
    if run is None:
        return Scattered(table)
    files = {"table": str(run.save(RESULT, table.save)), "csv": str(run.save(CSV, partial(_save_csv, table)))}
    return Scattered(table, files | {"images": str(run.folder / IMAGES)})


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    with atomic(path) as temporary:
        mode = temporary.stat().st_mode
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        temporary.chmod(mode)  # safetensors puts a file of its own there, readable by its owner only


def _save_csv(table: Table, path: Path) -> None:
    with atomic(path) as temporary:
        table.frame.to_csv(temporary, index=False)
