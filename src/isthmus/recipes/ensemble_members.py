"""The members of an ensemble: points of saved bridges, or models of their own; and the images they are chosen and settled on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.attacks.threat import Norm, Threat
from isthmus.curvature.memory import free_memory, in_words, saved_bytes
from isthmus.data import Samples, load_data
from isthmus.evaluate import evaluating
from isthmus.files import digest, sha256
from isthmus.geometry.bridge import Bridge, Settle
from isthmus.layout import placement
from isthmus.randomness import stream
from isthmus.recipes.ensemble_points import count_of, points_of
from isthmus.recipes.reserve import chosen_on
from isthmus.recipes.scan import bridge_file
from isthmus.recipes.task import Task, data_for, task_for
from isthmus.runs import Run
from isthmus.scan import coordinate_names
from isthmus.settle import BatchStatistics, Statistics, policy_of
from isthmus.store import load_bridge, read_header
from isthmus.training.adversary import Radius

POINTS = "5"  # along each coordinate, where none are named
OF_EACH_BATCH = "BatchNorm statistics are those of each batch of {} images, as in training mode: compare with figures measured so only"
SHARE = 0.5  # of the free memory that the members may take


class EnsembleRecipe(BaseModel):
    """Whose answers or weights to average, on which images to choose and to measure.

    models: bridge files or folders of connections, or at least two weight files, of one architecture. points: of each bridge, `corners`,
    a grid (`5`, `3x3`), coordinates (`0,0.5,1`; on a surface `0,0;0.5,1`) or `random:25`, so many drawn uniformly by the seed; None for
    five along each coordinate. validation: so many images of the training split choose the point and the greedy soup, those that
    `isthmus train --validation` keeps apart; with `hold_out` the last of so many reserved images. n: at most so many test images, a
    stratified choice; None for all. eps, norm, attack_steps, attack_step (in radii), restarts: of the PGD attack, none without eps.
    settle: BatchNorm statistics of points and soups. recalibrate: on at most settle_n training images, keep: those of the heaviest
    corner, of a soup those of its first model, batch: of each batch by itself, of all models (:class:`isthmus.settle.BatchStatistics`).
    greedy: also make a greedy soup, one more model to measure for each member. save: write the soups as model files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    points: str | None = None
    validation: int = Field(default=500, ge=1)
    hold_out: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=1000, ge=1)
    eps: Radius | None = None
    norm: Norm = "linf"
    attack_steps: int = Field(default=10, ge=1)
    attack_step: float = Field(default=0.25, gt=0)
    restarts: int = Field(default=1, ge=1)
    batch_size: int = Field(default=250, ge=1)
    settle_n: int = Field(default=2000, ge=2)
    settle: Statistics = "recalibrate"
    greedy: bool = True
    save: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Members:
    """Models by place: the first `count` are the members; `corners` are the places of the bridge's corners, some of them after those.

    make: builds the model at a place. settle: the BatchNorm policy of what has no statistics of its own.
    """

    names: tuple[str, ...]
    count: int
    corners: tuple[int, ...]
    make: Callable[[int], nn.Module]
    settle: Settle | None
    held: dict[int, nn.Module] = field(default_factory=dict[int, nn.Module])

    def model(self, place: int) -> nn.Module:
        """Return the model at a place, made once."""
        if place not in self.held:
            self.held[place] = self.make(place)
        return self.held[place]


@dataclass(frozen=True, eq=False)
class Case:
    """What an ensemble is measured on: its members, the images, the task and what there is to say."""

    members: Members
    task: Task
    test: Samples
    validation: Samples
    data: str
    notes: tuple[str, ...]


def case_of(recipe: EnsembleRecipe, run: Run | None) -> Case:
    """Return the members and the images of a recipe; the files read are recorded in the run.

    Raises InputError for a file that is neither, bridges among models, a model alone, models of different architectures, points
    off the bridge, more of them than fit into memory, a radius wider than the images, for validation images that there are not, and for
    soups to be saved or models to be attacked with the statistics of each batch.
    """
    _require_own_statistics(recipe)
    bridges = _bridge_paths(recipe)
    paths = list(bridges or recipe.models)
    card = read_header(bridges[0]).card if bridges else None
    spec = data_for(recipe.data, paths, card)
    splits = load_data(spec, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=paths, card=card)
    validation, train = chosen_on(splits, recipe.validation, recipe.hold_out)
    test = splits.test
    if recipe.n is not None and recipe.n < len(test):
        test = test.subset(recipe.n, generator=stream(recipe.seed, "test"))
    if recipe.eps is not None:
        Threat(recipe.norm, recipe.eps).require_inputs(test.inputs())  # before hours of measuring
    template = task.build()
    settle = policy_of(recipe.settle, template, train, recipe.settle_n, generator=stream(recipe.seed, "settle"))
    room = _Room(recipe, template, len(test) + len(validation), test)
    if bridges:
        members, notes = _points(recipe, [load_bridge(path, template) for path in bridges], settle, room)
    else:
        room.require_fits(len(paths), "models")
        members, notes = _files(recipe, task, settle, run)
    if run is not None:
        for path in bridges:
            run.read(path, sha256(path))
    notes += (OF_EACH_BATCH.format(recipe.batch_size),) if isinstance(settle, BatchStatistics) else ()
    return Case(members, task, test, validation, spec, notes)


def _require_own_statistics(recipe: EnsembleRecipe) -> None:
    """Raise InputError where statistics of each batch are to be saved, or attacked: a model then is one only together with its batch."""
    found = "batch with save" if recipe.save else "batch with eps" if recipe.eps is not None else ""
    if recipe.settle == "batch" and found:
        fix = "An answer depends on the other images of the batch: there is no model to save, and no image to attack by itself."
        require(False, "settle", "be recalibrate or keep to save soups and to attack", found, fix)


def _bridge_paths(recipe: EnsembleRecipe) -> tuple[str, ...]:
    """Return the bridge files that the recipe names, none for weight files."""
    several = len(recipe.models) > 1
    named = [path for path in recipe.models if Path(path).is_dir() or _is_bridge(path)]
    if several and named and len(named) < len(recipe.models):
        other = next(path for path in recipe.models if path not in named)
        require(False, "models", "be weight files or bridges, not both", f"{named[0]!r} beside {other!r}")
    if several and not named:
        require(
            recipe.points is None, "points", "come with a bridge", f"{recipe.points} with {len(recipe.models)} models"
        )
        return ()
    found = tuple(str(bridge_file(path)) for path in recipe.models)
    try:
        for path in found:
            read_header(path)
    except InputError as error:
        raise InputError(f"{error} An ensemble is of a bridge, or of at least two models.") from error
    return found


def _is_bridge(path: str) -> bool:
    try:
        read_header(path)
    except InputError:
        return False
    return True


def _files(
    recipe: EnsembleRecipe, task: Task, settle: Settle | None, run: Run | None
) -> tuple[Members, tuple[str, ...]]:
    """Return the models in weight files. Equal ones are kept, and told: they count as often as they are there."""
    held, notes, seen = dict[int, nn.Module](), list[str](), dict[str, str]()
    for place, path in enumerate(recipe.models):
        model, report = task.load(path)
        if run is not None:
            run.read(path, report.sha256)
        notes += [f"{path}: {note}" for note in report.notes]
        mark = digest({name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)})
        if mark in seen:
            notes.append(f"{path}: the same model as {seen[mark]}, counted once more")
        seen.setdefault(mark, path)
        if settle is not None and getattr(settle, "everywhere", False):
            settle(model)
        held[place] = model
    names = tuple(_unique(list(recipe.models)))
    return Members(names, len(names), (), held.__getitem__, settle, held), tuple(notes)


def _points(
    recipe: EnsembleRecipe, bridges: list[Bridge], settle: Settle | None, room: "_Room"
) -> tuple[Members, tuple[str, ...]]:
    """Return the models at the points of each bridge, and after them the corners that are not among these."""
    text = POINTS if recipe.points is None else recipe.points
    extra = sum(len(bridge.basis.corners) for bridge in bridges)
    counts = [count_of(bridge.basis, text) for bridge in bridges]
    if None not in counts:  # before the coordinates themselves fill the memory
        room.require_fits(sum(filter(None, counts)) + extra, "points")
    generator = stream(recipe.seed, "points")  # one for all: each bridge has draws of its own
    points = [
        (k, tuple(row))
        for k, bridge in enumerate(bridges)
        for row in points_of(bridge.basis, text, generator=generator).tolist()
    ]
    room.require_fits(len(points) + extra, "points")
    corners = [(k, tuple(u)) for k, bridge in enumerate(bridges) for u, _ in bridge.basis.corners]
    every = points + [corner for corner in corners if corner not in points]
    names = [_name(recipe, bridges, place) for place in every]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    notes = tuple(f"{name}: named again, counted once more" for name in twice)
    places = tuple(every.index(corner) for corner in corners)

    def make(place: int) -> nn.Module:
        k, u = every[place]
        return bridges[k].at(u, settle=settle)

    return Members(tuple(_unique(names)), len(points), places, make, settle), notes


def _name(recipe: EnsembleRecipe, bridges: list[Bridge], place: tuple[int, tuple[float, ...]]) -> str:
    """Return what a point of a bridge is called, of several with the bridge before it."""
    k, u = place
    axes = coordinate_names(bridges[k].basis.dim)
    shown = ", ".join(f"{axis} = {value:.6g}" for axis, value in zip(axes, u, strict=True))
    return shown if len(bridges) == 1 else f"{recipe.models[k]}: {shown}"


def _unique(names: list[str]) -> list[str]:
    """Return the names, repeated ones with a number after them, so that a row has a name of its own."""
    return [
        name if (before := names[:place].count(name)) == 0 else f"{name} ({before + 1})"
        for place, name in enumerate(names)
    ]


@dataclass(frozen=True, eq=False)
class _Room:
    """What members take in memory: all their weights, their logits, and under attack the graph of a batch through all of them."""

    recipe: EnsembleRecipe
    template: nn.Module
    images: int
    test: Samples

    def require_fits(self, count: int, name: str) -> None:
        """Raise InputError where `count` models take more than their share of the free memory."""
        free = free_memory(torch.device("cpu"))
        if free is None:
            return
        each, budget = self._each(), int(SHARE * free)
        found = f"{count:,}, which take about {in_words(count * each)}"
        most = budget // each
        fix = f"Take at most {most:,}, a smaller --batch-size or a smaller --n." if most else "Not one of them fits."
        require(count * each <= budget, name, f"fit into {in_words(budget)}, half of the free memory", found, fix)

    def _each(self) -> int:
        """Return the bytes of one model: weights, logits (float32, and once more in float64 when they are compared), graph."""
        weights = weight_bytes(self.template)
        logits = 20 * self.images * max(self.test.num_classes, 1)
        if self.recipe.eps is None:
            return weights + logits
        device, dtype = placement(self.template)
        x = self.test.inputs(torch.arange(min(2, len(self.test)))).to(device, dtype).requires_grad_()
        with evaluating(self.template):
            graph = saved_bytes(lambda: self.template(x), list(self.template.parameters()))
        return weights + logits + graph * min(self.recipe.batch_size, len(self.test)) // len(x)


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, tied ones once."""
    held = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
