"""Data sets of the Hugging Face hub (extra `hub`), only ever on an explicit request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch

from isthmus._check import InputError, require
from isthmus.data.held_out import held_out
from isthmus.data.images import picture, stack_pictures
from isthmus.data.samples import Samples, Splits

if TYPE_CHECKING:
    from PIL import Image

TEST_NAMES = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Columns:
    """Where a data set of the hub keeps what: repository, its image and label columns, its configuration and its test split."""

    repository: str
    image: str
    label: str
    config: str | None = None
    test: str = "test"


class HubSplit(Protocol):
    """One split as the `datasets` library gives it."""

    @property
    def features(self) -> Mapping[str, object]:
        """Return column -> type of its values."""
        ...

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Mapping[str, object]]: ...


def load_hub(spec: str, *, size: int | None = None) -> Splits:
    """Return the data set `NAME` or `NAME:CONFIGURATION` of the hub; its image and label columns are found by their types.

    Splits: `train` and one of `test`, `validation`, `valid`, `val`; without the latter a fixed stratified third is held out.
    """
    repository, _, config = spec.partition(":")
    found = _download(repository, config or None)
    require("train" in found, f"hf:{spec}", "have a split 'train'", ", ".join(found))
    image, label = find_columns(found["train"].features, f"hf:{spec}")
    columns = Columns(repository, image, label, config or None)
    name = f"hf:{spec}"
    test = next((split for split in TEST_NAMES if split in found), None)
    train = read_split(found["train"], columns, name=f"{name}/train", size=size)
    if test is None:
        return held_out(train, name)
    return Splits(train, read_split(found[test], columns, name=f"{name}/test", size=size), name)


def fetch(columns: Columns, path: Path) -> None:
    """Download a data set and write it to `path` as an `.npz`, whole or not at all."""
    from isthmus.files import atomic

    found = _download(columns.repository, columns.config)
    arrays: dict[str, np.ndarray] = {}
    for split, key in (("train", "train"), (columns.test, "test")):
        require(split in found, columns.repository, f"have a split {split!r}", ", ".join(found))
        samples = read_split(found[split], columns, name=f"{columns.repository}/{split}", size=None)
        pixels = samples.x.permute(0, 2, 3, 1).numpy()
        arrays[f"x_{key}"] = np.ascontiguousarray(pixels[..., 0] if pixels.shape[3] == 1 else pixels)
        arrays[f"y_{key}"] = samples.y.numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"`path` should be in a folder that can be made. Found {str(path.parent)!r}: {error.strerror}."
        ) from error
    with atomic(path) as partial, open(partial, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def find_columns(features: Mapping[str, object], name: str) -> tuple[str, str]:
    """Return the names of the image and of the label column. Raises InputError where there is not exactly one of each."""
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    listed = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [column for column in ("label", "labels") if column in kinds]
    labels = ["label"] if "label" in labels else labels
    require(len(images) == 1, name, "have exactly one image column", listed)
    require(len(labels) == 1, name, "have exactly one label column (ClassLabel)", listed)
    return images[0], labels[0]


def read_split(split: HubSplit, columns: Columns, *, name: str, size: int | None) -> Samples:
    """Return one split, every picture decoded."""
    require(len(split) > 0, name, "hold at least one sample", "none")
    pictures: list[torch.Tensor] = []
    labels: list[int] = []
    for position, row in enumerate(split):
        image, label = row[columns.image], row[columns.label]
        if isinstance(label, bool) or not isinstance(label, int):
            raise InputError(f"`{name}` should have integer labels. Found {label!r} in row {position}.")
        pictures.append(picture(cast("Image.Image", image), size=size, where=f"row {position} of {name}"))
        labels.append(label)
    classes = getattr(split.features[columns.label], "num_classes", None)
    num_classes = classes if isinstance(classes, int) else max(labels) + 1
    places = [f"row {position} of {name}" for position in range(len(pictures))]
    return Samples(stack_pictures(pictures, places), torch.tensor(labels), num_classes, name)


def _download(repository: str, config: str | None) -> Mapping[str, HubSplit]:
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"`data` should be fetched with the extra 'hub'. Found no package 'datasets' for {repository!r}. "
            "Run pip install 'isthmus[hub]'."
        ) from error
    try:
        found = library.load_dataset(repository, config)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"`data` should be a data set of the Hugging Face hub. Found no usable {repository!r}: {reason}"
        ) from error
    return cast(Mapping[str, HubSplit], found)
