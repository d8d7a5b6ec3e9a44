"""`align`: models whose hidden units change places, so that they come near the first of them in weight space and compute what they did."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Samples, Splits, load_data
from isthmus.files import write_json
from isthmus.geometry.matching import Matched, match_activations, match_weights
from isthmus.geometry.permute import TOLERANCE, output_change
from isthmus.geometry.symmetry import symmetry_of
from isthmus.geometry.units import Symmetry
from isthmus.layout import Layout
from isthmus.randomness import stream
from isthmus.recipes.align_lines import LINES, Keeper, Measured, Pair, flat_distance, measure
from isthmus.recipes.reserve import reserve
from isthmus.recipes.task import Loaded, data_for, load_all, task_for
from isthmus.runs import Run
from isthmus.store import Card, read_card, save_model
from isthmus.training.session import Monitor

RESULT = "align.json"


class AlignRecipe(BaseModel):
    """Which models to align to the first of them, by what, and how it is measured.

    by: what units are matched by, their weights or their activations on images. n: at most so many training images for activations,
    BatchNorm statistics and REPAIR, a stratified choice. clean: from so many images that `train --hold-out` sets aside (the reserve of
    seed 0, see :func:`isthmus.recipes.reserve.reserve`); None for the whole split. points: evenly spaced along each line, its middle
    besides. test_n: at most so many test images, a stratified choice. None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...]
    by: Literal["weights", "activations"] = "weights"
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    clean: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=2000, ge=2)
    points: int = Field(default=11, ge=3)
    test_n: int | None = Field(default=1000, ge=1)
    seed: int = 0


class Units(BaseModel):
    """A group of hidden units that change places together: the tensor axis it is called by, and how many."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int


class AlignedModel(BaseModel):
    """One aligned model. likeness: to the reference, in [-1, 1], the cosine of the weights or the mean correlation of units, as `by` says.

    distance: of the weights to those of the reference. output_change: largest change of an output, as a share of the largest output,
    in float64 where it is above the tolerance otherwise.
    sweeps: passes over all groups; 1 for activations.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    sha256: str
    file: str
    likeness_before: float
    likeness_after: float
    distance_before: float
    distance_after: float
    sweeps: int
    output_change: float


class Repaired(BaseModel):
    """The layers that REPAIR corrected, those whose BatchNorm was recomputed instead, and those left, with the reason."""

    model_config = ConfigDict(frozen=True)

    corrected: tuple[str, ...]
    normalised: tuple[str, ...]
    left: tuple[str, ...]


class Aligned(BaseModel):
    """The record of an alignment. unpermuted: tensor axes left as they are, with the reason. midpoints: a table as JSON values."""

    model_config = ConfigDict(frozen=True)

    status: Literal["done"] = "done"
    reference: str
    reference_sha256: str
    by: str
    arch: str
    data: str
    n: int
    groups: tuple[Units, ...]
    unpermuted: tuple[str, ...]
    models: tuple[AlignedModel, ...]
    midpoints: dict[str, JsonValue]
    barriers: tuple[dict[str, JsonValue], ...]
    repair: Repaired
    notes: tuple[str, ...] = ()
    files: dict[str, str]


def run_align(recipe: AlignRecipe, run: Run, *, monitor: Monitor | None = None) -> Aligned:
    """Return the record after writing `aligned-1.safetensors`, ... for the second model and on, `align.json` and `lines.json`.

    A resumed run matches anew, takes over what was measured along the lines, and ends as an uninterrupted one.
    Raises InputError for fewer than two models, for models of different architectures, where no hidden unit may change places, and
    where a permuted model would compute something else.
    """
    require(len(recipe.models) >= 2, "models", "be at least 2, the reference first", f"{len(recipe.models)}")
    data = data_for(recipe.data, recipe.models)
    splits = load_data(data, size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=recipe.models)
    samples, test = _samples(recipe, splits)
    (reference, *others), notes = load_all(recipe.models, task, run)
    symmetry = _symmetry(reference, samples, recipe.seed)
    found = [_matched(recipe, reference.module, one, symmetry, samples) for one in others]
    changes = [_change(one, match.module, samples) for one, match in zip(others, found, strict=True)]
    card = task.card(data)
    written = [
        _write(recipe.by, card, run, k, (reference, one), match)
        for k, (one, match) in enumerate(zip(others, found, strict=True), 1)
    ]
    records = [
        _record(reference, one, match, change, file)
        for one, match, change, file in zip(others, found, changes, written, strict=True)
    ]
    pairs = [Pair(one.path, one.module, match.module) for one, match in zip(others, found, strict=True)]
    measured = measure(reference.module, pairs, samples, test, recipe.points, Keeper(run, monitor))
    made = measured.repaired
    result = Aligned(
        reference=reference.path,
        reference_sha256=reference.sha256,
        by=recipe.by,
        arch=task.arch,
        data=splits.name,
        n=len(samples),
        groups=tuple(Units(name=group.name, size=group.size) for group in symmetry.groups),
        unpermuted=symmetry.unpermuted,
        models=tuple(records),
        midpoints=measured.midpoints.to_json(),  # pyright: ignore[reportArgumentType]  JSON values
        barriers=tuple(measured.barriers),  # pyright: ignore[reportArgumentType]
        repair=Repaired(corrected=made.corrected, normalised=made.normalised, left=made.left),
        notes=(*notes, *_same(reference, others, records)),
        files=_saved(run, written, measured),
    )
    run.save(RESULT, lambda place: write_json(place, result.model_dump(mode="json")))
    return result


def _samples(recipe: AlignRecipe, splits: Splits) -> tuple[Samples, Samples]:
    """Return the images for statistics and those for the test."""
    pool = splits.train if recipe.clean is None else reserve(splits, recipe.clean)[0]
    count = len(pool) if recipe.n is None else min(recipe.n, len(pool))
    test = splits.test
    if recipe.test_n is not None and recipe.test_n < len(test):
        test = test.subset(recipe.test_n, generator=stream(recipe.seed, "test"))
    return pool.subset(count, generator=stream(recipe.seed, "match")), test


def _symmetry(reference: Loaded, samples: Samples, seed: int) -> Symmetry:
    found = symmetry_of(reference.module, samples.inputs(torch.arange(2)), generator=stream(seed, "symmetry"))
    if not found.groups:
        reasons = "; ".join(found.unpermuted[:3]) or "no layer of hidden units"
        raise InputError(
            f"`models` should have hidden units that may change places without a change of what is computed. Found none in "
            f"{reference.path!r} ({reasons})."
        )
    return found


def _matched(recipe: AlignRecipe, reference: nn.Module, one: Loaded, symmetry: Symmetry, samples: Samples) -> Matched:
    if recipe.by == "activations":
        return match_activations(reference, one.module, symmetry, samples)
    return match_weights(reference, one.module, symmetry, generator=stream(recipe.seed, "order", one.sha256))


def _change(one: Loaded, permuted: nn.Module, samples: Samples) -> float:
    """Return max |f'(x) - f(x)| / max |f(x)|, in float64 where float32 says too much. Raises InputError where it is more than rounding."""
    change = output_change(one.module, permuted, samples, enough=TOLERANCE)
    require(
        change <= TOLERANCE,
        "models",
        f"compute the same after their units changed places, to {TOLERANCE:g} of the largest output",
        f"a change of {change:.2g} in {one.path!r}",
        "What a model does must not depend on anything but its inputs and its tensors.",
    )
    return change


def _write(by: str, card: Card, run: Run, k: int, ends: tuple[Loaded, Loaded], match: Matched) -> str:
    to, of = (_origin(end) for end in ends)
    about: dict[str, JsonValue] = {"to": to, "of": of, "by": by}
    card = card.model_copy(update={"notes": {**read_card(ends[1].path).notes, "aligned": about}})
    return str(run.save(f"aligned-{k}.safetensors", partial(save_model, match.module, meta=card)))


def _origin(one: Loaded) -> dict[str, JsonValue]:
    return {"path": one.path, "sha256": one.sha256}


def _record(reference: Loaded, one: Loaded, match: Matched, change: float, file: str) -> AlignedModel:
    layout = Layout.of(reference.module)
    centre, before, after = (
        layout.flatten(dict(m.named_parameters())) for m in (reference.module, one.module, match.module)
    )
    return AlignedModel(
        model=one.path,
        sha256=one.sha256,
        file=file,
        likeness_before=match.before,
        likeness_after=match.after,
        distance_before=flat_distance(centre, before),
        distance_after=flat_distance(centre, after),
        sweeps=match.sweeps,
        output_change=change,
    )


def _same(reference: Loaded, others: Sequence[Loaded], records: Sequence[AlignedModel]) -> list[str]:
    """Return a warning for each model that is the reference itself, or nothing but a permutation of it."""
    size = float(Layout.of(reference.module).flatten(dict(reference.module.named_parameters())).double().norm())
    told: list[str] = []
    for one, record in zip(others, records, strict=True):
        if record.distance_before == 0:
            told.append(f"{one.path}: warning: has the same weights as {reference.path}")
        elif record.distance_after <= 1e-6 * size:
            told.append(f"{one.path}: warning: is {reference.path} with its hidden units in other places")
    return told


def _saved(run: Run, written: Sequence[str], measured: Measured) -> dict[str, str]:
    files = {f"aligned-{k + 1}": file for k, file in enumerate(written)}
    return {**files, "lines": str(run.save(LINES, measured.lines.save))}
