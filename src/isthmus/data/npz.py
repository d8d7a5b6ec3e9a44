"""An `.npz` file as `Splits`. Never unpickles."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from isthmus._check import InputError, require
from isthmus.data.held_out import held_out
from isthmus.data.images import from_array
from isthmus.data.samples import Samples, Splits

PAIRS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "all": ("x", "y")}


def load_npz(path: Path, *, name: str | None = None, num_classes: int | None = None) -> Splits:
    """Return the splits in an `.npz` with `x_train`, `y_train`, `x_test`, `y_test`, or with `x`, `y` only.

    x: uint8 or [0, 1] images (N, H, W[, C]), or floating-point features (N, F). y: integer labels (N,) or (N, 1).
    Without a test pair a fixed stratified third is held out. The number of classes is `num_classes`, else the array
    `num_classes` of the file, else the largest training label + 1. Object arrays are refused.
    """
    name = path.name if name is None else name
    arrays = _arrays(path)
    if num_classes is None and "num_classes" in arrays:
        stated = arrays["num_classes"]
        whole = stated.ndim == 0 and np.issubdtype(stated.dtype, np.integer)
        require(
            whole, "num_classes", f"be one whole number in {str(path)!r}", f"{stated.dtype} of shape {stated.shape}"
        )
        num_classes = int(stated)
    first = "train" if PAIRS["train"][0] in arrays else "all"
    needed = [*PAIRS[first], *(PAIRS["test"] if any(key in arrays for key in PAIRS["test"]) else ())]
    if any(key not in arrays for key in needed):
        raise InputError(
            f"`{path}` should hold the arrays x_train, y_train, x_test, y_test, or x and y. "
            f"Found {', '.join(sorted(arrays)) or 'none of these'}."
        )
    train = _samples(arrays, first, num_classes, f"{name}/train")
    if PAIRS["test"][0] not in arrays:
        return held_out(train, name)
    return Splits(train, _samples(arrays, "test", train.num_classes, f"{name}/test"), name)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file that have a meaning here."""
    known = {key for pair in PAIRS.values() for key in pair} | {"num_classes"}
    require(path.is_file(), "data", "be an existing .npz file", f"no file {str(path)!r}")
    require(zipfile.is_zipfile(path), "data", "be an .npz file (numpy.savez)", f"another kind of file in {str(path)!r}")
    arrays: dict[str, np.ndarray] = {}
    key = ""
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in sorted(known & set(stored.files)):
                arrays[key] = np.asarray(stored[key])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"`{key}` should be an array of numbers. Found an object array in {str(path)!r}; pickled objects are never loaded."
            ) from error
        raise InputError(
            f"`data` should be a whole .npz file. Found {str(path)!r}, which is damaged at {key!r}: {error}"
        ) from error
    return arrays


def _samples(arrays: dict[str, np.ndarray], split: str, num_classes: int | None, name: str) -> Samples:
    """Return the checked samples of one split."""
    x, y = (arrays[key] for key in PAIRS[split])
    require(x.ndim > 0 and len(x) > 0, name, "hold at least one sample", f"shape {x.shape}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    require(np.issubdtype(y.dtype, np.integer), name, "have integer labels", f"dtype {y.dtype}")
    require(
        y.shape == x.shape[:1], name, f"have one label for each of its {len(x):,} samples", f"labels of shape {y.shape}"
    )
    labels = torch.as_tensor(y.astype(np.int64))
    if num_classes is None:
        num_classes = int(labels.max()) + 1
        require(
            num_classes <= len(x),
            name,
            f"have labels below the number of its samples, {len(x):,}",
            f"{num_classes - 1}",
            "Where that is right, add an array num_classes.",
        )
    return Samples(from_array(x, name), labels, num_classes, name)
