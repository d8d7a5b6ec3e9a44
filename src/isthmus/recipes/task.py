"""`Task`: which architecture for which data, from what the user says and from what the files say of themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Augment, Splits, default_augment, require_inputs
from isthmus.models import MODELS, build_model, load_model
from isthmus.models.weights import LoadReport, existing
from isthmus.runs import Run
from isthmus.store import Card, read_card
from isthmus.training.plan import Plan


@dataclass(frozen=True)
class Task:
    """An architecture, the number of classes and the input shape it is built for."""

    arch: str
    num_classes: int
    input_shape: tuple[int, ...]
    width: int | None = None

    def build(self, seed: int = 0) -> nn.Module:
        """Return a fresh model with weights drawn from `seed`."""
        return build_model(
            self.arch, num_classes=self.num_classes, input_shape=self.input_shape, width=self.width, seed=seed
        )

    def load(self, path: str) -> tuple[nn.Module, LoadReport]:
        """Return the model in a weight file, and what had to be done to load it; errors name the file."""
        return load_model(
            self.arch, path, num_classes=self.num_classes, input_shape=self.input_shape, width=self.width, name=path
        )

    def card(self, data: str) -> Card:
        """Return what a file written for this task says of itself."""
        return Card(
            arch=self.arch, width=self.width, num_classes=self.num_classes, input_shape=self.input_shape, data=data
        )


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, where it came from, and the SHA-256 of the file."""

    path: str
    sha256: str
    module: nn.Module


def load_all(paths: Sequence[str], task: Task, run: Run) -> tuple[list[Loaded], list[str]]:
    """Return the models in weight files, recorded as read in the run, and what was done to load them.

    Raises InputError for a single file named twice; beside others a connection warns of its duplicate corners.
    """
    require(len(paths) < 2 or len(set(paths)) > 1, "models", "be different files", f"{paths[0]!r} twice")
    loaded, notes = list[Loaded](), list[str]()
    for path in paths:
        model, report = task.load(path)
        run.read(path, report.sha256)
        loaded.append(Loaded(path, report.sha256, model))
        notes += [f"{path}: {note}" for note in report.notes]
    return loaded, notes


def task_for(
    splits: Splits, *, arch: str | None, width: int | None, files: Sequence[str | Path], card: Card | None = None
) -> Task:
    """Return the task for `splits`; what is not given is taken from the cards of `files` (or from `card`).

    From a file only names of the library's own models are taken: other specifications run code, which a file may not ask for.
    Raises InputError where the architecture is not known, where files disagree, and for data of another shape than the files' models.
    """
    cards = [(str(path), card or read_card(path)) for path in files]
    known = [(path, held) for path, held in cards if held.arch is not None or held.input_shape is not None]
    for path, held in known:
        if held.input_shape is not None:
            require_inputs(splits.train, held.input_shape, path)
        first = known[0][1]
        same = arch is not None or (held.arch, held.width) == (first.arch, first.width)
        shown = f"{held.arch} (width {held.width})"
        require(
            same, path, f"be a model of one architecture with the others, {first.arch} (width {first.width})", shown
        )
    classes = next((held.num_classes for _, held in known if held.num_classes is not None), splits.num_classes)
    require(
        classes >= splits.num_classes, "data", f"have at most the {classes} classes of the models", splits.num_classes
    )
    if arch is not None:
        return Task(arch, classes, splits.input_shape, width)
    return Task(
        _own_name(known, [] if card else files),
        classes,
        splits.input_shape,
        known[0][1].width if width is None else width,
    )


def _own_name(known: Sequence[tuple[str, Card]], files: Sequence[str | Path]) -> str:
    arch = known[0][1].arch if known else None
    if arch is None:
        for path in files:
            existing(Path(path), str(path))  # a mistyped name is the likelier fault
        raise InputError(
            "`arch` should name the architecture of these files, which do not say it themselves. Found none. "
            "Give --arch NAME or --arch file.py:function."
        )
    if arch.partition(":")[0] not in MODELS:
        raise InputError(
            f"`arch` should be given, because what the file names is not one of the library's models. Found {arch!r} in {known[0][0]}. "
            "If you trust that code, name it with --arch."
        )
    return arch


def plan_for(plan: Plan, text: str, splits: Splits) -> Plan:
    """Return `plan` with the augmentation that `text` names (see :func:`augment_for`), unless it has one of its own."""
    return plan if plan.augment != Augment() else plan.model_copy(update={"augment": augment_for(text, splits)})


def augment_for(text: str, splits: Splits) -> Augment:
    """Return the augmentation that `auto` (the data set's own), `none` or `shift=2,flip` names."""
    if text == "auto":
        return default_augment(splits.name, splits.input_shape)
    if text == "none":
        return Augment()
    shift, flip = 0, False
    for part in text.split(","):
        key, _, value = part.partition("=")
        good = (key == "flip" and not value) or (key == "shift" and value.isdecimal())
        require(good, "augment", "be auto, none, or like shift=4,flip", text)
        shift, flip = (int(value), flip) if key == "shift" else (shift, True)
    return Augment(shift, flip)


def data_for(data: str | None, files: Sequence[str | Path], card: Card | None = None) -> str:
    """Return the data set `data`, or else the one that the first of `files` (or `card`) names. Raises InputError where none does."""
    named = data or next((held.data for path in files if (held := card or read_card(path)).data is not None), None)
    if named is None:
        for path in () if card is not None else files:
            existing(Path(path), str(path))  # a mistyped name is the likelier fault
        raise InputError("`data` should name the images. Found none, and none in the files. Give --data NAME.")
    return named
