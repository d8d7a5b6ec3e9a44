"""`load_data`: labelled data by name or path."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch

from isthmus._check import InputError, nearest, require, unknown
from isthmus.data.augment import POLICIES, Augment
from isthmus.data.folder import load_folder
from isthmus.data.held_out import cut
from isthmus.data.hub import Columns, fetch, load_hub
from isthmus.data.images import resized, shape_text
from isthmus.data.npz import load_npz
from isthmus.data.samples import Samples, Splits, require_inputs


@dataclass(frozen=True)
class Source:
    """What is known of a named data set.

    shape: (C, H, W). counts: images for training and for test. hub: where `isthmus data get` finds it; None for the embedded one.
    """

    name: str
    num_classes: int
    shape: tuple[int, int, int]
    counts: tuple[int, int]
    licence: str
    cite: str
    hub: Columns | None = None

    @property
    def augment(self) -> Augment:
        """Return the augmentation used in training unless another is asked for."""
        return POLICIES[self.name].augment

    @property
    def files(self) -> tuple[str, ...]:
        """Return the file names under which it is found."""
        return tuple(dict.fromkeys((f"{self.name}.npz", f"{self.name.replace('-', '_')}.npz")))

    @property
    def arrays(self) -> str:
        """Return, in words, the arrays its file holds."""
        channels, height, width = self.shape
        axes = f"{height}, {width}" + (f", {channels}" if channels > 1 else "")
        train, test = self.counts
        return (
            f"uint8 arrays x_train ({train}, {axes}), x_test ({test}, {axes}) and integer labels "
            f"0..{self.num_classes - 1} in y_train ({train},), y_test ({test},)"
        )


_SOURCES = (
    Source("digits", 10, (1, 8, 8), (1200, 597), "CC BY 4.0", "Alpaydin and Kaynak 1998, in scikit-learn"),
    Source(
        "mnist", 10, (1, 28, 28), (60000, 10000), "CC BY-SA 3.0", "LeCun, Cortes and Burges 1998",
        Columns("ylecun/mnist", "image", "label"),
    ),
    Source(
        "fashion-mnist", 10, (1, 28, 28), (60000, 10000), "MIT", "Xiao, Rasul and Vollgraf 2017",
        Columns("zalando-datasets/fashion_mnist", "image", "label"),
    ),
    Source(
        "cifar10", 10, (3, 32, 32), (50000, 10000), "research use", "Krizhevsky 2009",
        Columns("uoft-cs/cifar10", "img", "label"),
    ),
    Source(
        "cifar100", 100, (3, 32, 32), (50000, 10000), "research use", "Krizhevsky 2009",
        Columns("uoft-cs/cifar100", "img", "fine_label"),
    ),
    Source(
        "svhn", 10, (3, 32, 32), (73257, 26032), "non-commercial use", "Netzer et al. 2011",
        Columns("ufldl-stanford/svhn", "image", "label", config="cropped_digits"),
    ),
    Source(
        "tiny-imagenet", 200, (3, 64, 64), (100000, 10000), "research use (ImageNet terms)", "Le and Yang 2015",
        Columns("zh-plus/tiny-imagenet", "image", "label", test="valid"),
    ),
)  # fmt: skip
DATASETS: Mapping[str, Source] = MappingProxyType({source.name: source for source in _SOURCES})


def load_data(spec: str, *, size: int | None = None) -> Splits:
    """Return training and test samples by name or path.

    spec: a name in `DATASETS`; `path/to/file.npz` (:func:`isthmus.data.npz.load_npz`); a folder of class folders
        (:func:`isthmus.data.folder.load_folder`); or `hf:NAME[:CONFIGURATION]`, a data set of the Hugging Face hub (extra `hub`).
        A name wins over a folder of the same name: write `./name` for the folder.
    size: scales every image to size x size.

    `digits` comes with scikit-learn: 1,797 real images, of which 597, evenly spaced through each class in stored order, are test,
    whatever the seed. Other names are looked up in `$ISTHMUS_DATA`, then in the user's cache. Nothing is ever downloaded but by `hf:`
    and :func:`isthmus.data.get_data`. Raises InputError for everything that is not there or cannot be used.
    """
    require(size is None or size > 0, "size", "be positive", size)
    if spec.startswith("hf:"):
        return load_hub(spec.removeprefix("hf:"), size=size)
    source = DATASETS.get(spec.lower().replace("_", "-"))
    path = Path(spec).expanduser()
    if source is None and path.is_dir():
        return load_folder(path, size=size)
    if source is not None:
        splits = _digits(source) if source.hub is None else _named(source)
    elif path.suffix.lower() == ".npz" or path.is_file():
        splits = load_npz(path)
    elif len(path.parts) > 1 or path.suffix:
        raise InputError(f"`data` should be an existing .npz file or folder of class folders. Found no {spec!r}.")
    else:
        known = sorted(DATASETS)
        raise InputError(
            f"`data` should be one of {', '.join(known)}, an .npz file, a folder of class folders, or hf:NAME. "
            f"Found {spec!r}.{nearest(spec, known)}"
        )
    return splits if size is None else _scaled(splits, size)


def data_folders() -> tuple[Path, ...]:
    """Return the folders in which named data sets are looked up, in order: `$ISTHMUS_DATA` where set, then the user's cache."""
    own = os.environ.get("ISTHMUS_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus"
    return (Path(own).expanduser(), cache) if own else (cache,)


def locate(source: Source) -> Path | None:
    """Return the file of a named data set, or None where there is none."""
    places = (folder / file for folder in data_folders() for file in source.files)
    return next((place for place in places if place.is_file()), None)


def get_data(name: str) -> Path:
    """Return the file of a named data set, downloaded (extra `hub`) where there is none yet, and then written whole or not at all.

    It goes to the first of :func:`data_folders`. What the hub offers may differ from the original files in image order.
    """
    source = DATASETS.get(name.lower().replace("_", "-"))
    if source is None:
        raise unknown("name", name, DATASETS)
    if source.hub is None:
        raise InputError(
            f"`name` should be a data set to download. Found {name!r}, which comes with scikit-learn: use it as it is."
        )
    path = locate(source)
    if path is None:
        path = data_folders()[0] / source.files[0]
        fetch(source.hub, path)
    return path


def _named(source: Source) -> Splits:
    path = locate(source)
    if path is None:
        own = "" if os.environ.get("ISTHMUS_DATA") else " ($ISTHMUS_DATA is not set)"
        raise InputError(
            f"`data` should find {source.files[0]} in {' or '.join(map(str, data_folders()))}{own}. Found no such file. "
            f"Put one there with {source.arrays}; or run `isthmus data get {source.name}` (needs pip install 'isthmus[hub]')."
        )
    splits = load_npz(path, name=source.name, num_classes=source.num_classes)
    require_inputs(splits.train, source.shape, f"the name {source.name!r}")
    return splits


def _digits(source: Source) -> Splits:
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]

    values, labels = cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))  # (N, 64) in 0..16
    pixels = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, *source.shape)
    whole = Samples(torch.as_tensor(pixels), torch.as_tensor(labels), source.num_classes, source.name)
    return cut(whole, source.counts[1], source.name)


def _scaled(splits: Splits, size: int) -> Splits:
    train, test = (replace(part, x=resized(part.x, size, part.name)) for part in (splits.train, splits.test))
    return Splits(train, test, splits.name)


def describe(source: Source) -> str:
    """Return one line about a named data set: images, classes, terms."""
    train, test = source.counts
    return (
        f"{train:,} + {test:,} images of {shape_text(source.shape)}, {source.num_classes} classes; "
        f"{source.cite}; {source.licence}"
    )
