"""`Samples`: labelled samples in memory, checked once, with the place each came from."""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from isthmus._check import InputError, require, require_finite
from isthmus.data import strata
from isthmus.data.images import from_array, picture, shape_text

if TYPE_CHECKING:
    from PIL import Image


def _unset() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """N labelled samples.

    x: (N, ...) uint8 in 0..255 or floating point; four axes are images (N, C, H, W), which as floats lie in [0, 1].
    y: (N,) labels in [0, num_classes), stored as int64.
    name: the source and split, such as `"cifar10/train"`.
    index: (N,) position of each sample in that split; 0..N-1 unless given. It survives `take` of `take`.

    Raises InputError for no samples, lengths that differ, labels that are not whole numbers or out of range, NaN or infinity,
    and float images outside [0, 1].
    """

    x: Tensor
    y: Tensor
    num_classes: int
    name: str = "samples"
    index: Tensor = field(default_factory=_unset)

    def __post_init__(self) -> None:
        require(
            len(self.x.shape) > 1 and len(self.x) > 0,
            self.name,
            "hold at least one sample",
            f"shape {tuple(self.x.shape)}",
        )
        require(
            self.x.dtype == torch.uint8 or self.x.is_floating_point(),
            self.name,
            "hold uint8 or floating-point samples",
            str(self.x.dtype),
        )
        self._check_labels()
        index = torch.arange(len(self.x)) if len(self.index) == 0 else self.index
        require(tuple(index.shape) == (len(self.x),), "index", f"have shape ({len(self.x)},)", str(tuple(index.shape)))
        require_finite({"x": self.x}, self.name)
        if self.x.ndim == 4 and self.x.is_floating_point():
            low, high = (float(bound) for bound in torch.aminmax(self.x))
            require(
                low >= 0 and high <= 1,
                self.name,
                "hold float images in [0, 1]",
                f"values from {low:g} to {high:g}",
                "Keep images as uint8, and mean and standard deviation inside the model.",
            )
        for name, tensor in (("x", self.x), ("y", self.y.long()), ("index", index.long())):
            object.__setattr__(self, name, tensor.detach().contiguous())

    def _check_labels(self) -> None:
        require(
            tuple(self.y.shape) == (len(self.x),),
            self.name,
            f"have one label for each of its {len(self.x):,} samples",
            f"labels of shape {tuple(self.y.shape)}",
        )
        whole = not self.y.is_floating_point() and not self.y.is_complex() and self.y.dtype != torch.bool
        require(whole, self.name, "have integer labels", f"dtype {self.y.dtype}")
        bad = ((self.y < 0) | (self.y.long() >= self.num_classes)).nonzero()
        if len(bad):
            raise InputError(
                f"`{self.name}` should have labels from 0 to {self.num_classes - 1}. "
                f"Found {int(self.y[bad[0]])} at position {int(bad[0])} ({len(bad):,} such labels)."
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = str(self.x.dtype).removeprefix("torch.")
        return (
            f"Samples({self.name!r}, {len(self):,} x {shape_text(self.input_shape)} {kind}, {self.num_classes} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample, (C, H, W) for images."""
        return tuple(self.x.shape[1:])

    @property
    def is_images(self) -> bool:
        """Return whether the samples are images (C, H, W)."""
        return self.x.ndim == 4

    def inputs(self, index: Tensor | None = None) -> Tensor:
        """Return the samples (at `index`) as float32, uint8 divided by 255. May share memory with `x`: do not write into it."""
        x = self.x if index is None else self.x.index_select(0, index)
        return x.float().div_(255) if x.dtype == torch.uint8 else x.float()

    def take(self, index: Tensor) -> "Samples":
        """Return the samples at the positions `index` (K,), or where a mask (N,) is true. `.index` still tells the source position."""
        if index.dtype == torch.bool:
            require(
                tuple(index.shape) == (len(self),),
                "index",
                f"be a mask of shape ({len(self)},)",
                str(tuple(index.shape)),
            )
            index = index.nonzero().flatten()
        require(len(index) > 0, "index", f"take at least one of the {len(self):,} samples of {self.name!r}", "none")
        low, high = (int(bound) for bound in torch.aminmax(index))
        require(low >= 0 and high < len(self), "index", f"lie in 0..{len(self) - 1}", f"{low if low < 0 else high}")
        index = index.to(self.x.device)
        return replace(self, x=self.x.index_select(0, index), y=self.y[index], index=self.index[index])

    def subset(self, n: int, *, generator: torch.Generator) -> "Samples":
        """Return `n` samples in the class shares of these (largest remainder), drawn from `generator`, in stored order.

        Where `n` allows, every class that occurs keeps at least one.
        """
        require(1 <= n <= len(self), "n", f"be between 1 and the {len(self):,} samples of {self.name!r}", n)
        counts = strata.class_counts(self.y, self.num_classes)
        least = counts.clamp(max=1) if n >= int((counts > 0).sum()) else torch.zeros_like(counts)
        shares = strata.apportion(counts, n, lower=least, upper=counts)
        members = strata.shuffled_by_class(self.y, self.num_classes, generator)
        return self.take(
            strata.gathered([part[:share] for part, share in zip(members, strata.numbers(shares), strict=True)])
        )

    def replaced(self, *, x: Tensor | None = None, y: Tensor | None = None) -> "Samples":
        """Return the same samples with other inputs or labels, checked again; name and index stay."""
        return replace(self, x=self.x if x is None else x, y=self.y if y is None else y)

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of shape, dtype, inputs and labels; name and index do not enter."""
        found = sha256(f"{tuple(self.x.shape)} {self.x.dtype}".encode())
        found.update(_bytes(self.x).data)
        found.update(_bytes(self.y).data)
        return found.hexdigest()

    def contents(self) -> list[bytes]:
        """Return a 16-byte hash of each sample's input: equal hashes are equal samples, whatever their labels."""
        rows = _bytes(self.x).reshape(len(self), -1)
        return [blake2b(rows[i].data, digest_size=16).digest() for i in range(len(rows))]

    @classmethod
    def of(cls, dataset: Dataset[object], *, num_classes: int | None = None, name: str = "dataset") -> "Samples":
        """Return everything in a torch `Dataset` of `(input, label)` items, read once.

        Inputs: tensors (images (C, H, W)); PIL pictures; uint8 arrays (H, W[, C]); other arrays as they are. `num_classes` is the
        dataset's `classes` where it lists them, else the largest label + 1.
        """
        size = len(dataset) if isinstance(dataset, Sized) else None
        items = cast(Iterable[object], dataset) if size is None else (dataset[i] for i in range(size))
        pairs = [_pair(item, position, name) for position, item in enumerate(items)]
        require(len(pairs) > 0, name, "hold at least one item", "none")
        first = pairs[0][0]
        for position, (x, _) in enumerate(pairs):
            require(
                x.shape == first.shape and x.dtype == first.dtype,
                name,
                f"hold items of one shape and dtype: {tuple(first.shape)} {first.dtype}, as item 0",
                f"{tuple(x.shape)} {x.dtype} in item {position}",
            )
        y = torch.tensor([label for _, label in pairs])
        if num_classes is None:
            classes = getattr(dataset, "classes", None)
            num_classes = len(cast("Sequence[object]", classes)) if isinstance(classes, Sequence) else int(y.max()) + 1
        return cls(torch.stack([x for x, _ in pairs]), y, num_classes, name)


@dataclass(frozen=True, eq=False)
class Splits:
    """The training and test samples of one source: equal input shapes and classes."""

    train: Samples
    test: Samples
    name: str

    def __post_init__(self) -> None:
        require_inputs(self.test, self.train.input_shape, self.train.name)
        require(
            self.test.num_classes == self.train.num_classes,
            self.test.name,
            f"have {self.train.num_classes} classes, as {self.train.name!r}",
            self.test.num_classes,
        )

    @property
    def num_classes(self) -> int:
        """Return the number of classes, whether or not each occurs."""
        return self.train.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample, (C, H, W) for images."""
        return self.train.input_shape


def require_inputs(samples: Samples, input_shape: tuple[int, ...], owner: str) -> None:
    """Raise InputError unless every sample has `input_shape`, which is what `owner` (a model, another data set) takes."""
    found = samples.input_shape
    if found == tuple(input_shape):
        return
    fix = ""
    if len(found) == len(input_shape) == 3 and found[0] != input_shape[0]:
        kinds = {1: "grayscale", 3: "colour"}
        fix = f" {kinds.get(found[0], 'Other').capitalize()} images do not fit {kinds.get(input_shape[0], 'these')} inputs."
    elif len(found) == len(input_shape) == 3:
        fix = " Give a size to scale the images to, or build the model for this input shape."
    raise InputError(
        f"`data` should hold {shape_text(input_shape)} {'images' if len(input_shape) == 3 else 'inputs'}, as {owner} takes. "
        f"Found {shape_text(found)} in {samples.name!r}.{fix}"
    )


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().contiguous().view(torch.uint8).numpy()


def _pair(item: object, position: int, name: str) -> tuple[Tensor, int]:
    """Return the input tensor and the label of one item of a user's dataset."""
    pair = cast("Sequence[object]", item) if isinstance(item, tuple | list) else ()
    if len(pair) < 2:
        raise InputError(
            f"`{name}` should hold (input, label) items. Found {type(cast(object, item)).__name__} as item {position}."
        )
    x, label = pair[0], pair[1]
    if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = cast(object, label.item())
    if isinstance(label, bool) or not isinstance(label, int):
        raise InputError(f"`{name}` should have integer labels. Found {label!r} in item {position}.")
    if isinstance(x, Tensor):
        return x, label
    if isinstance(x, np.ndarray):
        own: np.ndarray = np.array(cast(object, x))  # a copy: the caller's may be read-only
        is_picture = own.dtype == np.uint8 and own.ndim > 1
        return from_array(own[None], name)[0] if is_picture else torch.as_tensor(own), label
    if hasattr(x, "convert") and hasattr(x, "mode"):
        return picture(cast("Image.Image", x), size=None, where=f"item {position} of {name}"), label
    raise InputError(
        f"`{name}` should hold tensors, arrays or PIL pictures. Found {type(x).__name__} in item {position}. "
        "Give the dataset a transform that returns a tensor."
    )
