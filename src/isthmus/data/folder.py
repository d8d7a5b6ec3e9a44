"""A folder of class folders as `Splits`."""

from pathlib import Path

import torch

from isthmus._check import InputError, require
from isthmus.data.held_out import held_out
from isthmus.data.images import open_image, picture, stack_pictures
from isthmus.data.samples import Samples, Splits

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TEST_NAMES = ("test", "val", "valid", "validation")


def load_folder(folder: Path, *, size: int | None = None) -> Splits:
    """Return the images of `folder`, one sub-folder for each class, classes in alphabetical order.

    With sub-folders `train` and `test` (or `val`, `valid`, `validation`) the class folders lie in those; without a test folder a
    fixed stratified third is held out as test. `size` scales every image to size x size (the aspect ratio is not kept); without
    it all must have one size. Where some images are in colour, grayscale ones get three channels.
    """
    name = folder.resolve().name
    train = folder / "train" if (folder / "train").is_dir() else folder
    classes = _class_names(train)
    require(
        len(classes) > 1,
        str(train),
        "hold one folder of images for each of two or more classes",
        f"{classes or 'none'}",
    )
    test = next((folder / t for t in TEST_NAMES if (folder / t).is_dir()), None) if train != folder else None
    first = _read(train, classes, size, f"{name}/train")
    if test is None:
        return held_out(first, name)
    for found in _class_names(test):
        require(found in classes, str(test), f"hold class folders that {str(train)!r} has", repr(found))
    return Splits(first, _read(test, classes, size, f"{name}/test"), name)


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _read(folder: Path, classes: list[str], size: int | None, name: str) -> Samples:
    """Return the images of the class folders in `folder`; a class without a folder there has none."""
    files = [(path, label) for label, kind in enumerate(classes) for path in _files(folder / kind)]
    if not files:
        raise InputError(f"`{folder}` should hold images ({', '.join(SUFFIXES)}) in its class folders. Found none.")
    pictures = [picture(open_image(path), size=size, where=str(path)) for path, _ in files]
    x = stack_pictures(pictures, [str(path) for path, _ in files])
    return Samples(x, torch.tensor([label for _, label in files]), len(classes), name)
