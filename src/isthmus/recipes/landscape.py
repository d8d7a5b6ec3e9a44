"""`landscape`: losses and errors over a line or a plane through models in weight space."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from torch import nn

from isthmus._check import InputError, require
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.data import Samples, Splits, load_data
from isthmus.files import atomic, sha256
from isthmus.geometry.bridge import Settle
from isthmus.layout import Layout
from isthmus.probes import Clean, Probe, Robust
from isthmus.probes.frozen import Frozen, freeze
from isthmus.randomness import stream
from isthmus.recipes.curvature import save_directions
from isthmus.recipes.keeper import Keeper, renamed
from isthmus.recipes.landscape_recipe import LandscapeRecipe
from isthmus.recipes.landscape_slice import AXES, Directions, Given, find_directions, kept_directions, make_slice
from isthmus.recipes.scan import bridge_file
from isthmus.recipes.task import data_for, task_for
from isthmus.runs import Run
from isthmus.scan import Watch, coordinate_names, scan
from isthmus.settle import Keep, Recalibrate, running_layers
from isthmus.store import load_bridge, read_header
from isthmus.table import Column, Table
from isthmus.training.session import Monitor

RESULT, DIRECTIONS_FILE = "landscape.json", "directions.safetensors"
EVERY_SECONDS = 1.0  # how often the rows so far are written


@dataclass(frozen=True)
class Landscaped:
    """What was measured over a slice: a table with coordinates `a` and `b`, and in its meta the axes and the marked models."""

    table: Table
    files: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, object]:
        """Return rows, columns and meta as JSON values."""
        return {"status": "done", **self.table.to_json(), "files": self.files}


def run_landscape(recipe: LandscapeRecipe, run: Run | None = None, *, monitor: Monitor | None = None) -> Landscaped:
    """Return the landscape; with a run also written as `landscape.json` and `.csv`, row by row while it is made.

    The directions are written as `directions.safetensors`. A resumed run takes over the rows that are there, and then gives the same
    table as an uninterrupted one. Raises InputError for settings that do not fit each other, before anything is read.
    """
    recipe.require_usable()
    dim = 2 if recipe.dim is None else recipe.dim
    if recipe.directions != "tangent":
        recipe.counts(dim)
    given, splits = _given(recipe, run)
    samples = _images(recipe, splits.train if recipe.split == "train" else splits.test, recipe.n)
    found = _directions(recipe, given, splits, run)
    piece = make_slice(recipe, given, found)
    probes = make_probes(recipe, given.centre, samples, len(piece.axes))
    settle, policy = _settle(recipe, given.centre, splits.train)
    bridge = replace(piece.bridge, states={}) if isinstance(settle, Recalibrate) else piece.bridge
    meta: dict[str, object] = {
        "kind": "landscape",
        "directions": recipe.directions,
        "axes": piece.axes,
        "anchors": piece.anchors,
        "examples": _examples(recipe),
        "models": list(recipe.models),
        "data": splits.name,
        "split": recipe.split,
        "n": len(samples),
        "policy": policy,
        "seed": recipe.seed,
    }
    own = coordinate_names(len(piece.axes))
    names = dict(zip(own, AXES, strict=False))
    columns = [Column(name) for name in own] + [c for p in probes for c in p.columns]
    keeper = Keeper(run, len(piece.points), columns, monitor, RESULT, EVERY_SECONDS, names, meta)
    began = perf_counter()
    watch = Watch(keeper, keeper.done())
    table = scan(bridge, piece.points, probes, settle=settle, seed=recipe.seed, watch=watch)
    table = renamed(Table(table.frame, table.columns, {**meta, "seconds": perf_counter() - began}), names)
    table = _described(table, piece.axes)
    return Landscaped(table, {} if run is None else _write(run, table))


def _described(table: Table, axes: list[dict[str, object]]) -> Table:
    """Return the table whose coordinates say what they are."""
    about = {str(axis["name"]): f"{axis['label']} ({axis['unit']})" for axis in axes}
    columns = tuple(replace(c, about=about.get(c.name, c.about)) for c in table.columns)
    return Table(table.frame, columns, table.meta)


def _given(recipe: LandscapeRecipe, run: Run | None) -> tuple[Given, Splits]:
    """Return the models and the data of a recipe; the files read are recorded in the run."""
    bridge = _bridge_path(recipe)
    steps = [file for path in recipe.trajectory for file in snapshots(path)]
    paths = [*([bridge] if bridge else recipe.models), *steps]
    card = None if bridge is None else read_header(bridge).card
    splits = load_data(data_for(recipe.data, paths, card), size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=paths, card=card)
    if run is not None:
        for path in paths:
            run.read(path, sha256(path))
    trajectory = {path: task.load(path)[0] for path in steps}
    if bridge is None:
        twice = next((path for i, path in enumerate(recipe.models) if path in recipe.models[:i]), None)
        require(twice is None, "models", "be different files", f"{twice!r} twice")
        return Given({path: task.load(path)[0] for path in recipe.models}, trajectory), splits
    held = load_bridge(bridge, task.build())
    assert recipe.at is not None
    settle = _recalibrate(recipe, splits.train) if running_layers(held.template) else None
    model = held.at(recipe.at, settle=settle)
    place = ", ".join(f"{value:g}" for value in recipe.at)
    name = f"{recipe.models[0]} at {'t' if held.basis.dim == 1 else 'u'} = {place}"
    return Given({name: model}, trajectory, held), splits


def snapshots(path: str) -> list[str]:
    """Return the weight file that `path` is, or the snapshots of a training's folder in their order.

    Raises InputError for a folder without any.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    files = sorted(folder.glob("snapshot-*.safetensors"), key=lambda file: (len(file.name), file.name))
    fix = "Train with --resets, each of which leaves one."
    require(bool(files), "trajectory", "be weight files, or a folder with snapshots", f"none in {path!r}", fix)
    return [str(file) for file in files]


def _bridge_path(recipe: LandscapeRecipe) -> str | None:
    """Return the bridge file that the recipe names, None for weight files. Raises InputError where `at` does not fit."""
    first = recipe.models[0]
    fix = "Give --at, such as --at 0.5."
    if Path(first).is_dir():
        found = str(bridge_file(first))
    else:
        try:
            read_header(first)
        except InputError:
            extra = "only with a bridge, the folder of a connection"
            require(recipe.at is None, "at", f"be given {extra}", f"the weights of a model, {first!r}")
            return None
        found = first
    if recipe.at is None:
        raise InputError(f"`at` should be the coordinates of a model on the bridge {first!r}. Found none. {fix}")
    return found


def _images(recipe: LandscapeRecipe, samples: Samples, n: int | None) -> Samples:
    if n is None or n >= len(samples):
        return samples
    return samples.subset(n, generator=stream(recipe.seed, recipe.split))


def _directions(recipe: LandscapeRecipe, given: Given, splits: Splits, run: Run | None) -> Directions:
    """Return the directions, saved in the run; those that an interrupted run had found are taken over."""
    samples = splits.train if recipe.split == "train" else splits.test
    if run is None:
        return find_directions(recipe, given, samples)
    layout = Layout.of(given.centre)
    if run.resumed and all((run.folder / name).is_file() for name in (RESULT, DIRECTIONS_FILE)):
        return kept_directions(run.folder / DIRECTIONS_FILE, Table.load(run.folder / RESULT).meta["axes"], layout)
    found = find_directions(recipe, given, samples)
    run.save(DIRECTIONS_FILE, lambda path: save_directions(found.vectors, layout, path))
    return found


def make_probes(recipe: LandscapeRecipe, centre: nn.Module, samples: Samples, dim: int) -> list[Probe]:
    """Return what is measured at each point: loss and error of the images, and under attack where an adversary is named."""
    probes: list[Probe] = [Clean(samples, recipe.split)]
    if recipe.adversary == "none":
        return probes
    threat, attack = Threat(recipe.norm, recipe.eps), PGD(recipe.attack_steps, recipe.attack_step)
    if not recipe.frozen:
        return [*probes, Robust(samples, threat, attack, recipe.split)]
    # The draws of `Robust` at the centre: there the two agree.
    generator = stream(recipe.seed, "scan", Robust.__name__, *([0.0] * dim))
    crafted = freeze(centre, samples, threat, attack, generator=generator)
    return [*probes, Frozen(crafted, f"crafted at the centre, {_attack(recipe)}", recipe.split)]


def _attack(recipe: LandscapeRecipe) -> str:
    return f"{PGD(recipe.attack_steps, recipe.attack_step).name}, {recipe.norm} {recipe.eps:.4g}"


def _examples(recipe: LandscapeRecipe) -> str:
    """Return which adversarial examples are meant, in words; empty without an adversary."""
    if recipe.adversary == "none":
        return ""
    first = "model 1" if recipe.directions == "plane" else "the centre"
    where = f"once at {first} and frozen" if recipe.frozen else "anew at each point"
    return f"crafted {where} ({_attack(recipe)})"


def _recalibrate(recipe: LandscapeRecipe, train: Samples) -> Recalibrate:
    count = min(recipe.settle_n, len(train))
    return Recalibrate(train.subset(count, generator=stream(recipe.seed, "settle")))


def _settle(recipe: LandscapeRecipe, centre: nn.Module, train: Samples) -> tuple[Settle | None, str | None]:
    """Return the BatchNorm policy and its words; none for a model without running statistics."""
    if not running_layers(centre):
        return None, None
    if not recipe.recalibrates:
        return Keep(), "those of the centre at every point"
    policy = _recalibrate(recipe, train)
    return policy, f"recomputed at every point on {len(policy.samples):,} training images"


def _write(run: Run, table: Table) -> dict[str, str]:
    def csv(path: Path) -> None:
        with atomic(path) as partial:
            table.frame.to_csv(partial, index=False)

    return {
        "landscape": str(run.save(RESULT, table.save)),
        "csv": str(run.save("landscape.csv", csv)),
        "directions": str(run.folder / DIRECTIONS_FILE),
    }
