"""`connect`: a bridge between trained models, its free points trained on clean images."""

from dataclasses import replace
from math import isfinite
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from isthmus._check import require
from isthmus.data import Samples, Splits, load_data
from isthmus.files import write_json
from isthmus.geometry import gram
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, parse_geometry
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.volume import log_volume, volume
from isthmus.recipes.construct import Case, Highest, constructed, highest
from isthmus.recipes.reserve import kept_apart, reserve
from isthmus.recipes.task import data_for, load_all, plan_for, task_for
from isthmus.runs import Run
from isthmus.store import save_bridge
from isthmus.training.adversary import Adversary
from isthmus.training.layerwise import Walk
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session
from isthmus.training.staged import Stages

REMATCHED = "corners compute what the given models do, with hidden units in other places: they were matched to the centre of the star"


class ConnectRecipe(BaseModel):
    """Which models to join, by what geometry, on which images.

    models: weight files, in the order of the geometry's corners. arch, data: taken from the files where they say it. clean: so many
    images of the training split (the reserve of seed 0, see :func:`isthmus.recipes.reserve.reserve`); None for all of it.
    validation: so many training images are left out, those that `isthmus train --validation` keeps apart, to choose a point by.
    stages: how a surface is trained (:func:`isthmus.training.staged.fit_staged`). volume: how much a vertex that is grown gains by a larger
    simplex (:func:`isthmus.training.grow.volume_weights`). rematch: of a star, match the hidden units of its models to its centre again
    after each epoch (:func:`isthmus.training.rematch.fit_rematched`). walk: the way of `llpf` (:func:`isthmus.training.layerwise.walk`).
    adversary: minimise the loss under attack, crafted on the interpolated model (Zhao et al. 2020; several norms: RMC, Wang et al. 2023).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    arch: str | None = None
    data: str | None = None
    geometry: str = "bezier:2"
    clean: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    augment: str = "auto"
    adversary: Adversary | None = None
    plan: Plan = Field(default_factory=Plan)
    stages: Stages = "together"
    walk: Walk = "across"
    volume: float = Field(default=1e-6, ge=0)
    rematch: bool = False
    seed: int = 0


class Training(BaseModel):
    """How the free points were trained: mean loss (nat) and error (%) over the last interval of the history, and the cost."""

    model_config = ConfigDict(frozen=True)

    loss: float
    error: float
    seconds: float
    gradient_evaluations: int


class Connected(BaseModel):
    """The record of a connection. geometry: length, chord and their ratio for a curve, the area for a surface, the volume beyond.

    highest: the highest training loss on a path by `neb` or `llpf`.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["done"] = "done"
    models: tuple[str, ...]
    arch: str
    data: str
    basis: str
    train_n: int
    free_points: int
    geometry: dict[str, float | None]
    training: Training | None = None
    highest: Highest | None = None
    notes: tuple[str, ...] = ()
    files: dict[str, str]


def run_connect(recipe: ConnectRecipe, run: Run, *, session: Session | None = None) -> Connected | None:
    """Return the record after training and writing `bridge.safetensors`, `connect.json` and `history.json`.

    None in every process but the first, where several share the work. Geometries without free points (line, flat simplex, plane)
    are written as they are. Resumes from `checkpoint.pt` in the run's folder.
    """
    data = data_for(recipe.data, recipe.models)
    splits = load_data(data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=recipe.models)
    basis = parse_geometry(recipe.geometry, len(recipe.models))
    loaded, notes = load_all(recipe.models, task, run)
    bridge = connect([one.module for one in loaded], basis, names=recipe.models)
    notes += duplicates(bridge)
    notes += [REMATCHED] if recipe.rematch else []
    samples = _samples(recipe, splits)
    case = Case(bridge, samples, plan_for(recipe.plan, recipe.augment, splits), task.build)
    session = replace(session or Session(), checkpoint=run.file("checkpoint.pt"))
    fitted = constructed(case, recipe, session)
    if not run.primary:
        return None
    bridge = bridge if fitted is None else fitted.bridge
    card = task.card(data)
    files = {"bridge": str(run.save("bridge.safetensors", lambda place: save_bridge(bridge, place, meta=card)))}
    if fitted is not None:
        files["history"] = str(run.save("history.json", fitted.history.save))
    result = Connected(
        models=recipe.models,
        arch=task.arch,
        data=splits.name,
        basis=recipe.geometry,
        train_n=len(samples),
        free_points=bridge.free.shape[0],
        geometry=shape_of(bridge),
        notes=tuple(notes),
        files=files,
        training=None if fitted is None else _training(fitted),
        highest=highest(case, recipe, bridge),
    )
    run.discard("checkpoint-*.pt")  # of the stages before the last
    run.save("connect.json", lambda place: write_json(place, result.model_dump(mode="json")))
    return result


def _samples(recipe: ConnectRecipe, splits: Splits) -> Samples:
    """Return the images to train on."""
    if recipe.clean is None:
        whole = splits.train
        return whole if recipe.validation is None else kept_apart(whole, recipe.validation, test=splits.test)[1]
    fix = "--clean takes so many images itself, those that train --hold-out set aside."
    require(recipe.validation is None, "validation", "be left out with --clean", recipe.validation, fix)
    return reserve(splits, recipe.clean)[0]


def duplicates(bridge: Bridge) -> list[str]:
    """Return a warning for each model that has the weights of one before it, and for a surface without area, empty where there are none."""
    found: list[str] = []
    for place, weights in enumerate(bridge.fixed):
        same = next((k for k in range(place) if torch.equal(bridge.fixed[k], weights)), None)
        if same is not None:
            found.append(
                f"warning: {bridge.names[place]}: the same weights as {bridge.names[same]}, a duplicate corner"
            )
    spread = float(gram.gram(bridge).diagonal().max())  # squared: an area is zero but for rounding beside it
    area = shape_of(bridge).get("area") if found else None
    if area is not None and area <= 1e-6 * spread:
        found.append("warning: the flat surface between these corners has zero area: it is a curve, or a point")
    return found


def shape_of(bridge: Bridge) -> dict[str, float | None]:
    """Return what a bridge measures in weight space.

    Of a curve length, chord and ratio between its ends (the ratio of equal ends is None); of a surface the area; of a complex the sum over
    its simplexes, of three dimensions or more as `volume`, with its logarithm (None where it has none, or is beyond numbers).
    """
    basis = bridge.basis
    if isinstance(basis, Complex):
        found, logarithm = volume(bridge), log_volume(bridge)
        name = {1: "length", 2: "area"}.get(basis.connectors, "volume")
        return {name: found if isfinite(found) else None, "log_volume": logarithm if isfinite(logarithm) else None}
    if basis.dim == 1:
        length, chord = gram.length(bridge), gram.distance(bridge, 0.0, 1.0)
        return {"length": length, "chord": chord, "ratio": length / chord if chord > 0 else None}
    return {"area": gram.area(bridge)} if basis.dim == 2 else {}


def _training(fitted: Fitted) -> Training:
    last = fitted.history.frame.iloc[-1]
    return Training(
        loss=float(last["loss"]),
        error=float(last["error"]),
        seconds=fitted.seconds,
        gradient_evaluations=fitted.evaluations,
    )
