"""`attack`: the accuracy that a suite of attacks leaves of a model, or of the ensemble of several."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from isthmus._check import require
from isthmus.attacks.cascade import Settings, Watch, robustness
from isthmus.attacks.outcome import Progress, Robustness
from isthmus.attacks.suites import parse_attacks
from isthmus.attacks.threat import parse_threat
from isthmus.data import Samples, load_data
from isthmus.files import atomic, read_json, write_json
from isthmus.models.weights import LoadReport
from isthmus.recipes.task import data_for, task_for
from isthmus.runs import Run
from isthmus.table import Table
from isthmus.training.checkpoint import Checkpoint

RESULT, TABLE, STATE, POINTS = "attack.json", "table.json", "progress.pt", "adversarial.safetensors"
EVERY_SECONDS = 5.0  # how often the state is written for --resume


class AttackRecipe(BaseModel):
    """What to attack, how, on which images.

    models: weight files; several are attacked as their softmax ensemble. attack: a text for :func:`parse_attacks`. eps: the radius, in
    units of inputs in [0, 1], as a number or a fraction such as 8/255. n: the first so many test images; None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    eps: str
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    attack: str = "standard"
    norm: str = "linf"
    n: int | None = Field(default=1000, ge=1)
    batch_size: int = Field(default=250, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = 0


@dataclass(frozen=True)
class AttackResult:
    """What an attack found: the JSON document, the table of attacks, the files written."""

    document: dict[str, object]
    table: Table
    files: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, object]:
        """Return the document with the paths of the files."""
        return {**self.document, "files": self.files}


def run_attack(
    recipe: AttackRecipe, run: Run | None = None, *, tell: Callable[[Progress], None] | None = None, device: str = "cpu"
) -> AttackResult:
    """Return the robust accuracy; with a run also written as `attack.json`, `table.json` and `adversarial.safetensors`.

    A resumed run takes up the last batch that was saved, and then gives the result of an uninterrupted one. `tell` follows
    along. Raises InputError for models, data, attacks or a radius that cannot be used, before anything is written.
    """
    model, samples, reports = _case(recipe)
    threat = parse_threat(recipe.norm, recipe.eps)
    parse_attacks(recipe.attack, num_classes=max(samples.num_classes, 2), norm=threat.norm)
    if run is not None:
        for path, report in zip(recipe.models, reports, strict=True):
            run.read(path, report.sha256)
        if run.resumed and (run.folder / RESULT).is_file():  # written last: everything is there
            document = cast(dict[str, object], read_json(run.folder / RESULT))
            return AttackResult(document, Table.load(run.folder / TABLE), _files(run))
    began = perf_counter()
    with _Keeper.of(run, recipe, samples, tell) as keeper:
        settings = Settings(
            recipe.seed, recipe.batch_size, recipe.precision, watch=Watch(keeper, keeper.begun(samples))
        )
        found = robustness(model.to(device), samples, recipe.attack, threat, settings=settings)
    document: dict[str, object] = {
        "status": "done",
        "suite": recipe.attack,
        "models": list(recipe.models),
        "data": samples.name,
        "seed": recipe.seed,
        **found.to_json(),
        "notes": [
            f"{path}: {note}" for path, report in zip(recipe.models, reports, strict=True) for note in report.notes
        ],
        "seconds": perf_counter() - began,
    }
    if run is not None:
        _write(run, found, samples, document)
    return AttackResult(document, found.table, {} if run is None else _files(run))


def _case(recipe: AttackRecipe) -> tuple[nn.Module, Samples, list[LoadReport]]:
    """Return the model, the images and how the weights were loaded."""
    paths = list(recipe.models)
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    require(twice is None, "models", "be different files", f"{twice!r} twice")
    splits = load_data(data_for(recipe.data, paths), size=recipe.size)
    task = task_for(splits, arch=recipe.arch, width=recipe.width, files=paths)
    loaded = [task.load(path) for path in paths]
    test = splits.test
    count = len(test) if recipe.n is None else min(recipe.n, len(test))
    return _joined([model for model, _ in loaded]), test.take(torch.arange(count)), [report for _, report in loaded]


def _joined(models: list[nn.Module]) -> nn.Module:
    if len(models) == 1:
        return models[0]
    from isthmus.ensemble import Ensemble

    return Ensemble(models)


@dataclass(eq=False)
class _Keeper:
    """Saves the progress at most every few seconds and at the end of the block, whatever ends it, and tells the caller."""

    checkpoint: Checkpoint | None
    run: Run | None
    tell: Callable[[Progress], None] | None
    latest: Progress | None = None
    written: float = field(default_factory=perf_counter)

    @classmethod
    def of(
        cls, run: Run | None, recipe: AttackRecipe, samples: Samples, tell: Callable[[Progress], None] | None
    ) -> "_Keeper":
        if run is None:
            return cls(None, None, tell)
        mark = sha256(f"{recipe.model_dump_json()} {samples.digest()}".encode()).hexdigest()
        return cls(Checkpoint(run.folder / STATE, mark), run, tell)

    def begun(self, samples: Samples) -> Progress | None:
        """Return what an interrupted run in the same folder had done."""
        if self.checkpoint is None or self.run is None or not self.run.resumed:
            return None
        state = self.checkpoint.load()
        return None if state is None else Progress.resumed(state, samples.inputs())

    def __call__(self, progress: Progress) -> None:
        self.latest = progress
        if self.tell is not None:
            self.tell(progress)
        if perf_counter() - self.written >= EVERY_SECONDS:
            self._save()

    def _save(self) -> None:
        if self.run is not None and self.checkpoint is not None and self.latest is not None:
            state, checkpoint = self.latest.state(), self.checkpoint
            self.run.save(STATE, lambda _: checkpoint.save(state))
            self.latest, self.written = None, perf_counter()

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._save()


def _files(run: Run) -> dict[str, str]:
    return {"attack": str(run.folder / RESULT), "table": str(run.folder / TABLE), "points": str(run.folder / POINTS)}


def _write(run: Run, found: Robustness, samples: Samples, document: dict[str, object]) -> None:
    """Write the outputs, the one that says that all are there last."""
    by = found.by.to(torch.int64)
    tensors = {"points": found.points, "labels": samples.y, "fooled": found.fooled, "by": by, "correct": found.correct}
    run.save(TABLE, found.table.save)
    run.save(POINTS, lambda path: _save_tensors(path, tensors))
    run.save(RESULT, lambda path: write_json(path, document))
    run.discard(STATE)


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic(path) as partial:
        mode = partial.stat().st_mode
        save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, partial)
        partial.chmod(mode)  # safetensors puts a file of its own there, readable by its owner only
