"""The slice that a landscape measures: directions, coordinates, and which models are marked where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.memory import plan_memory
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import Search, top_eigenpairs
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.slices import (
    flat,
    plane_directions,
    principal_directions,
    project,
    random_directions,
    slice_bridge,
    tangent_directions,
)
from isthmus.layout import Layout
from isthmus.randomness import stream
from isthmus.recipes.landscape_recipe import MARGINS, LandscapeRecipe
from isthmus.store import KEY, LayoutCard
from isthmus.training.adversary import Adversary
from isthmus.training.objective import Objective, Supervised
from isthmus.training.posing import posing

AXES = ("a", "b")
VECTORS = "vectors"  # the tensor of directions in a safetensors file


@dataclass(frozen=True, eq=False)
class Given:
    """What the files of a landscape hold: the models by name (the first is the centre), the trajectory's, and the bridge of a tangent."""

    models: Mapping[str, nn.Module]
    trajectory: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    bridge: Bridge | None = None

    @property
    def centre(self) -> nn.Module:
        """Return the model at (0, 0)."""
        return next(iter(self.models.values()))

    @property
    def thetas(self) -> Tensor:
        """Return the weights (m, D) of the trajectory in float64."""
        return torch.stack([flat(model, name)[1] for name, model in self.trajectory.items()])


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions (k, D), what each is and in which unit its coordinate is, and what is known of it beyond."""

    vectors: Tensor
    labels: Sequence[str]
    unit: str
    about: Mapping[str, Sequence[object]] = field(default_factory=dict[str, Sequence[object]])


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as a bridge, its grid of coordinates (N, k), its axes and its anchors (marked models) as JSON values."""

    bridge: Bridge
    points: Tensor
    axes: list[dict[str, object]]
    anchors: list[dict[str, object]]


def find_directions(recipe: LandscapeRecipe, given: Given, samples: Samples) -> Directions:
    """Return the directions that a recipe asks for. samples: for eigenvectors, the images of their loss."""
    dim = 2 if recipe.dim is None else recipe.dim
    match recipe.directions:
        case "eigen":
            return _eigen(recipe, given.centre, samples, dim)
        case "random":
            return _random(recipe, given.centre, dim)
        case "plane":
            require(dim == 2, "dim", "be 2 for a plane", dim)
            names = list(given.models)
            axes = plane_directions(list(given.models.values()), names=names)
            labels = ["from model 1 towards model 2", "at a right angle, towards model 3"]
            return Directions(axes.directions, labels, "weight units")
        case "tangent":
            return _tangent(recipe, given)
        case _:
            found = principal_directions(given.centre, given.thetas, dim)
            shares: list[object] = [100 * share for share in found.shares]
            labels = [f"principal component {i + 1} of the trajectory" for i in range(dim)]
            return Directions(found.directions, labels, "weight units", {"share_percent": shares})


def _random(recipe: LandscapeRecipe, centre: nn.Module, dim: int) -> Directions:
    generator = stream(recipe.seed, "directions")
    found = random_directions(
        centre, dim, generator=generator, normalise=recipe.normalise, orthogonal=recipe.orthogonal
    )
    unit = {"filter": "filter-normalised", "layer": "layer-normalised", "global": "unit length"}[recipe.normalise]
    return Directions(found, [f"along random direction {i + 1}" for i in range(dim)], unit)


def _tangent(recipe: LandscapeRecipe, given: Given) -> Directions:
    if given.bridge is None or recipe.at is None:
        raise InputError(
            "`models` should be a bridge to have a tangent. Found a model. Give the folder of a connection and --at."
        )
    tangent = tangent_directions(given.bridge, recipe.at)
    dim = len(tangent) if recipe.dim is None else recipe.dim
    require(dim <= len(tangent), "dim", "be 1 for the tangent of a curve", dim)
    names = ("t",) if len(tangent) == 1 else ("u", "v")
    labels = [f"tangent of the bridge along {name}" for name in names[:dim]]
    return Directions(tangent[:dim], labels, "weight units")


def _eigen(recipe: LandscapeRecipe, centre: nn.Module, samples: Samples, dim: int) -> Directions:
    labels = [f"along eigenvector {i + 1}" for i in range(dim)]
    if recipe.vectors is not None:
        found = read_vectors(recipe.vectors, Layout.of(centre), dim)
        return Directions(found / found.norm(dim=1, keepdim=True), labels, "unit length")
    part = samples.subset(min(recipe.hessian_n, len(samples)), generator=stream(recipe.seed, "hessian"))
    loss = LossAt(centre, posing(objective_of(recipe), part, batch_size=250, seed=recipe.seed))
    loss.check()
    search = Search(steps=min(200, loss.size))
    pairs = top_eigenpairs(
        hessian(loss, plan=plan_memory(loss, steps=search.steps)),
        dim,
        generator=stream(recipe.seed, "eigen"),
        search=search,
    )
    about: dict[str, Sequence[object]] = {
        "eigenvalue": pairs.values.tolist(),
        "residual": pairs.residuals.tolist(),
        "converged": pairs.converged.tolist(),
        "images": [len(part)] * dim,
    }
    return Directions(pairs.vectors, labels, "unit length", about)


def objective_of(recipe: LandscapeRecipe) -> Objective:
    """Return the loss whose eigenvectors are taken: the plain one, or the one under attack."""
    if recipe.adversary == "none":
        return Supervised()
    kind = Adversary(norms=(recipe.norm,), eps=(recipe.eps,), steps=recipe.attack_steps, step=recipe.attack_step)
    return kind.objective()


def read_vectors(path: str, layout: Layout, count: int) -> Tensor:
    """Return the first `count` of the directions (k, D) in a safetensors file, in float64.

    Raises InputError for another kind of file, for one without a tensor `vectors`, and for directions of another model: of another size,
    or, where the file says which weights they are of, with other names or shapes.
    """
    require(Path(path).is_file(), "vectors", "be a file of eigenvectors", f"nothing at {path!r}")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            vectors = file.get_tensor(VECTORS) if VECTORS in names else None
            text = (file.metadata() or {}).get(KEY, "{}")
        said = _Header.model_validate_json(text).layout
    except (SafetensorError, OSError, ValidationError) as error:
        raise InputError(
            f"`vectors` should be a safetensors file. Found another kind, or a damaged one: {path!r}."
        ) from error
    if vectors is None:
        raise InputError(f"`vectors` should hold a tensor {VECTORS!r}. Found {', '.join(names) or 'none'} in {path!r}.")
    fits = vectors.ndim == 2 and vectors.shape[1] == layout.size
    require(fits, "vectors", f"be directions of this model, (k, {layout.size})", f"{tuple(vectors.shape)} in {path!r}")
    if said is not None:
        own = list(zip(layout.names, layout.shapes, strict=True))
        other = next((pair for pair in zip(said.names, said.shapes, strict=True) if pair not in own), None)
        require(other is None, "vectors", "be directions of this model", f"weights {other} in {path!r}")
    require(len(vectors) >= count, "vectors", f"hold at least {count}", f"{len(vectors)} in {path!r}")
    return vectors[:count].double()


class _Header(BaseModel, frozen=True, extra="ignore"):
    """What a file of directions says of itself."""

    layout: LayoutCard | None = None


def kept_directions(path: Path, axes: object, layout: Layout) -> Directions:
    """Return the directions that an interrupted run saved, with what the meta of its table says of each."""
    rows = cast(list[dict[str, object]], axes)
    about = {key: [row[key] for row in rows] for key in rows[0] if key not in ("name", "label", "unit", "norm")}
    vectors = read_vectors(str(path), layout, len(rows))
    return Directions(vectors, [str(row["label"]) for row in rows], str(rows[0]["unit"]), about)


def make_slice(recipe: LandscapeRecipe, given: Given, directions: Directions) -> Slice:
    """Return the slice along `directions`, with its grid and its marks."""
    bridge = slice_bridge(given.centre, directions.vectors)
    dim = len(directions.vectors)
    lengths = directions.vectors.norm(dim=1).tolist()
    axes: list[dict[str, object]] = [
        {
            "name": AXES[i],
            "label": directions.labels[i],
            "unit": directions.unit,
            "norm": lengths[i],
            **{name: values[i] for name, values in directions.about.items()},
        }
        for i in range(dim)
    ]
    anchors = _anchors(given, bridge)
    counts = recipe.counts(dim)
    if recipe.directions in MARGINS:
        shown = torch.tensor([anchor["at"] for anchor in anchors], dtype=torch.float64)
        low, high = shown.amin(0), shown.amax(0)
        margin = recipe.extent * (high - low)
        ends = list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    else:
        ends = [(-recipe.extent, recipe.extent)] * dim
    lines = [_evenly(low, high, count) for (low, high), count in zip(ends, counts, strict=True)]
    return Slice(bridge, torch.tensor(list(product(*lines)), dtype=torch.float64), axes, anchors)


def _evenly(low: float, high: float, count: int) -> list[float]:
    """Return evenly spaced numbers, ends included; those of a symmetric range are symmetric to the bit, with 0 in the middle."""
    half = (count - 1) / 2
    middle, reach = (low + high) / 2, (high - low) / 2
    return [middle + reach * ((i - half) / half) for i in range(count)]


def _anchors(given: Given, bridge: Bridge) -> list[dict[str, object]]:
    """Return the marked models: the centre, the other models (of a bridge its corners) and the trajectory, with their distance."""
    rows: list[tuple[str, str, Tensor]] = []
    for i, (name, model) in enumerate(given.models.items()):
        rows.append((name, "model" if i or len(given.models) > 1 else "centre", flat(model, name)[1]))
    if given.bridge is not None:
        corners = [index for _, index in given.bridge.basis.corners]
        names = given.bridge.names or tuple(f"model {i}" for i in range(len(corners)))
        rows += [
            (name, "model", given.bridge.row(index).double().cpu()) for name, index in zip(names, corners, strict=False)
        ]
    rows += [(name, "trajectory", theta) for name, theta in zip(given.trajectory, _thetas(given), strict=True)]
    found = project(bridge, torch.stack([theta for _, _, theta in rows]))
    places = zip(rows, found.coordinates.tolist(), found.residual.tolist(), strict=True)
    anchors: list[dict[str, object]] = [
        {"name": name, "role": role, "at": at, "off": off} for (name, role, _), at, off in places
    ]
    anchors[0] |= {"at": [0.0] * bridge.basis.dim, "off": 0.0}  # exactly, by construction
    return anchors


def _thetas(given: Given) -> Sequence[Tensor]:
    return list(given.thetas) if given.trajectory else []
