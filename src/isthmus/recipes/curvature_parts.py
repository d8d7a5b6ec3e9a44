"""What `curvature` measures: a model or a point of a bridge, its images, its loss, and stages that survive an interruption."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.curvature.subspace import orthonormal_rows
from isthmus.data import Samples, Splits, load_data
from isthmus.files import sha256
from isthmus.geometry.bridge import Bridge
from isthmus.layout import Layout
from isthmus.randomness import stream
from isthmus.recipes.task import data_for, task_for
from isthmus.runs import Run
from isthmus.settle import recalibration
from isthmus.store import load_bridge, read_header
from isthmus.tampering import describe, parse_target, parse_trigger
from isthmus.training.adversary import Adversary
from isthmus.training.checkpoint import Checkpoint
from isthmus.training.objective import Objective, Supervised
from isthmus.training.posing import triggered
from isthmus.training.session import Monitor

BRIDGE = "bridge.safetensors"
STATE = "progress-{}.pt"
EVERY_SECONDS = 30.0  # how often the state of the running stage is written for --resume


class CurvatureRecipe(BaseModel):
    """The curvature of which loss, of which model, on which images, and how exactly.

    model: a weight file, or a bridge file or folder with the coordinates `at`. n: at most so many images of `split`, a stratified choice;
    None for all. top: eigenvalues of the upper end; None for 20, or all where there are fewer; negative: also of the lower end.
    max_products: for each end. density, probes, steps: stochastic Lanczos quadrature. trace, trace_products, trace_method: its estimate.
    loss: clean, or that of a backdoor (test_trigger, target). adversary: inputs moved by it, crafted once and kept. recraft: differences
    of gradients with inputs crafted anew, at the distances recraft_steps. subspace: of a bridge. tolerance: of a residual, relative.
    memory: GiB that may be used. settle_n: images for BatchNorm statistics at a point of a bridge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    split: Literal["test", "train"] = "test"
    n: int | None = Field(default=1000, ge=1)
    top: int | None = Field(default=None, ge=1)
    negative: bool = False
    max_products: int = Field(default=200, ge=1)
    density: bool = False
    probes: int = Field(default=10, ge=2)
    steps: int = Field(default=80, ge=2)
    trace: bool = False
    trace_products: int = Field(default=100, ge=6)
    trace_method: Literal["hutchinson", "hutch++"] = "hutchinson"
    gauss_newton: bool = False
    loss: Literal["clean", "backdoor"] = "clean"
    test_trigger: str | None = None
    target: str | None = None
    adversary: Adversary | None = None
    recraft: bool = False
    recraft_steps: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1), min_length=1)
    at: tuple[float, ...] | None = None
    subspace: Literal["all", "tangent", "normal"] = "all"
    tolerance: float = Field(default=1e-3, gt=0, lt=1)
    precision: Literal["32-true", "64-true"] = "32-true"
    batch_size: int = Field(default=500, ge=1)
    memory: float | None = Field(default=None, gt=0)
    settle_n: int = Field(default=2000, ge=2)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """What is measured: a model, images, an objective and its words; tangent: orthonormal rows (d, D), for a subspace only."""

    model: nn.Module
    samples: Samples
    objective: Objective
    about: str
    tangent: Tensor | None = None
    notes: tuple[str, ...] = ()


def load_case(recipe: CurvatureRecipe, run: Run | None) -> Case:
    """Return what the recipe names, loaded and checked. Raises InputError for what cannot be used; writes nothing."""
    _require_consistent(recipe)
    path = bridge_path(recipe.model)
    card = None if path is None else read_header(path).card
    files = [recipe.model if path is None else path]
    splits = load_data(data_for(recipe.data, files, card), size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=files, card=card)
    objective, samples, about = _posed(recipe, splits)
    if path is None:
        require(recipe.at is None, "at", "come with a bridge", f"{recipe.at} for the model {recipe.model!r}")
        require(recipe.subspace == "all", "subspace", "be all without a bridge", recipe.subspace, "Name a bridge.")
        model, report = task.load(recipe.model)
        if run is not None:
            run.read(recipe.model, report.sha256)
        return Case(model, samples, objective, about, None, tuple(report.notes))
    bridge = load_bridge(path, task.build())
    if run is not None:
        run.read(path, sha256(path))
    at = recipe.at
    if at is None:
        raise InputError("`at` should be given for a bridge: the coordinates of a point, such as --at 0.5. Found none.")
    drawn = stream(recipe.seed, "settle")  # as in a scan: the same training images of the same seed
    settle = recalibration(bridge.template, splits.train, recipe.settle_n, generator=drawn)
    model = bridge.at(at, settle=settle)
    tangent = None if recipe.subspace == "all" else tangent_rows(bridge, at, Layout.of(model))
    return Case(model, samples, objective, about, tangent)


def _require_consistent(recipe: CurvatureRecipe) -> None:
    backdoor = recipe.loss == "backdoor"
    for name, value in (("test_trigger", recipe.test_trigger), ("target", recipe.target)):
        fix = "Give --test-trigger and --target." if backdoor else "Say --loss backdoor."
        require(
            (value is not None) == backdoor,
            name,
            f"be given {'for' if backdoor else 'only with'} the loss 'backdoor'",
            "none" if value is None else value,
            fix,
        )
    if recipe.adversary is None:
        require(not recipe.recraft, "recraft", "come with --adversary, whose examples are crafted anew", "none")
    require(not (backdoor and recipe.adversary), "loss", "be clean with an adversary", recipe.loss)
    good = all(0 < step < float("inf") for step in recipe.recraft_steps)
    require(good, "recraft_steps", "be above 0 and finite", recipe.recraft_steps)


def bridge_path(model: str) -> Path | None:
    """Return the bridge file that `model` is or that lies in the folder `model`; None for a file that is no bridge."""
    place = Path(model)
    if place.is_dir():
        inside = place / BRIDGE
        requirement = f"be a weight file, a bridge file, or a folder with a {BRIDGE}"
        require(inside.is_file(), "model", requirement, f"no such file in {model!r}")
        return inside
    with suppress(InputError):
        read_header(place)
        return place
    return None


def _posed(recipe: CurvatureRecipe, splits: Splits) -> tuple[Objective, Samples, str]:
    """Return the objective, the samples it is posed on and the words for both."""
    samples = splits.test if recipe.split == "test" else splits.train
    if recipe.n is not None and recipe.n < len(samples):
        samples = samples.subset(recipe.n, generator=stream(recipe.seed, recipe.split))
    if recipe.test_trigger is not None and recipe.target is not None:
        trigger = parse_trigger(recipe.test_trigger)
        found = triggered(samples, trigger, parse_target(recipe.target))
        sent = "the next class" if recipe.target == "all-to-all" else f"class {recipe.target}"
        return Supervised(), found, f"backdoor loss, {describe(trigger)} sent to {sent}"
    if recipe.adversary is None:
        return Supervised(), samples, "clean loss"
    return recipe.adversary.objective(), samples, _adversarial(recipe.adversary)


def _adversarial(adversary: Adversary) -> str:
    threats = " and ".join(f"{norm} {eps:.4g}" for norm, eps in zip(adversary.norms, adversary.eps, strict=True))
    kind = f"TRADES loss (beta {adversary.beta:g})" if adversary.method == "trades" else "adversarial loss"
    mix = f", {adversary.clean_weight:g} of it clean" if adversary.clean_weight else ""
    return f"{kind} under {adversary.method} ({adversary.attack.steps} steps, {threats}{mix}) at frozen examples"


def tangent_rows(bridge: Bridge, at: Sequence[float], layout: Layout) -> Tensor:
    """Return orthonormal rows (d, D) of the bridge's tangent space at coordinates `at`, in the order of `layout`."""
    derivative = bridge.basis.derivative(bridge.coordinates(at)).double()
    points = bridge.points.detach().cpu().double()
    rows = derivative @ (points - points[:1])  # the derivatives of the weights sum to 0: nothing large cancels
    return orthonormal_rows(torch.stack([bridge.layout.reordered(row, layout) for row in rows]))


State = Mapping[str, Tensor]


@dataclass(eq=False)
class Follow:
    """Follows one stage: counts its products, tells the monitor, and writes the state every so often."""

    save: Callable[[dict[str, Any]], None]
    monitor: Monitor | None
    total: int
    begun: dict[str, Tensor] | None = None
    count: int = 0
    latest: State | None = None
    written: float = field(default_factory=perf_counter)

    def __call__(self, state: State) -> None:
        """Take the state after one more product."""
        self.count, self.latest = self.count + 1, state
        if self.monitor is not None:
            self.monitor(min(self.count, self.total), self.total, {})
        if perf_counter() - self.written >= EVERY_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write what there is."""
        if self.latest is not None:
            self.save({"done": False, "count": self.count, "held": dict(self.latest)})
            self.latest, self.written = None, perf_counter()


@dataclass(eq=False)
class Stages:
    """The parts of a measurement, each done once: what is finished, and how far the running one is, are files of the run."""

    run: Run | None
    mark: str
    monitor: Monitor | None = None
    tell: Callable[[str], None] | None = None

    def __call__(self, name: str, total: int, work: Callable[[Follow], dict[str, Any]]) -> dict[str, Any]:
        """Return what `work` returns (tensors, numbers, text), or returned before the run was resumed."""
        run = self.run
        place = None if run is None else Checkpoint(run.folder / STATE.format(name), self.mark)
        held = place.load() if place is not None and run is not None and run.resumed else None
        if held is not None and held["done"]:
            return dict(held["held"])
        if self.tell is not None:
            self.tell(name.replace("-", " "))

        def save(state: dict[str, Any]) -> None:
            if run is not None and (checkpoint := place) is not None:
                run.save(checkpoint.path.name, lambda _: checkpoint.save(state))

        begun = (None, 0) if held is None else (dict(held["held"]), int(held["count"]))
        follow = Follow(save, self.monitor, total, *begun)
        try:
            found = work(follow)
        except KeyboardInterrupt:
            follow.keep()
            raise
        save({"done": True, "count": follow.count, "held": found})
        return found
