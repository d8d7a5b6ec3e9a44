"""Pictures and arrays of pictures as tensors: (C, H, W) or (N, C, H, W)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import InputError, require

if TYPE_CHECKING:
    from PIL import Image

CHANNELS = (1, 3, 4)
GRAYSCALE = ("1", "L", "LA")
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it.

    >>> shape_text((3, 32, 32))
    '3x32x32'
    """
    return "x".join(str(side) for side in shape)


def open_image(path: Path) -> "Image.Image":
    """Return the decoded picture in a file. Raises InputError naming the file where it cannot be decoded."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            "`data` should be read with Pillow. Found no such package. Run `pip install pillow`."
        ) from error
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"`data` should hold readable images. Found {str(path)!r}, which cannot be decoded: {error}."
        ) from error


def picture(image: "Image.Image", *, size: int | None, where: str) -> Tensor:
    """Return a PIL picture as (1 or 3, H, W) uint8; with `size`, scaled to size x size (the aspect ratio is not kept)."""
    if image.mode not in GRAYSCALE + COLOUR:
        raise InputError(f"`data` should hold 8-bit grayscale or colour images. Found mode {image.mode!r} in {where}.")
    image = image.convert("L" if image.mode in GRAYSCALE else "RGB")
    if size is not None:
        from PIL import Image

        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return torch.as_tensor(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def stack_pictures(pictures: Sequence[Tensor], places: Sequence[str]) -> Tensor:
    """Return (N, C, H, W) uint8 of (C, H, W) pictures; where some are in colour, the grayscale ones are repeated to three channels.

    Raises InputError naming (from `places`) the first picture that differs in height or width.
    """
    first = pictures[0].shape[1:]
    for tensor, place in zip(pictures, places, strict=True):
        require(
            tensor.shape[1:] == first,
            "data",
            f"hold images of one size: {shape_text(first)}, as {places[0]}",
            f"{shape_text(tensor.shape[1:])} in {place}",
            "Give a size to scale them all to.",
        )
    channels = max(tensor.shape[0] for tensor in pictures)
    out = torch.empty((len(pictures), channels, *first), dtype=torch.uint8)
    for place, tensor in zip(out, pictures, strict=True):
        place.copy_(tensor.expand(channels, *first))
    return out


def from_array(array: np.ndarray, name: str) -> Tensor:
    """Return samples as a tensor: pictures (N, H, W[, C]) as (N, C, H, W), feature vectors (N, F) as they are.

    A 4-D array whose last axis is no number of channels (1, 3, 4) but whose second is, is taken to be (N, C, H, W) already.
    Raises InputError for other dtypes than uint8 and floating point and for other numbers of axes.
    """
    require(array.ndim in (2, 3, 4), name, "have shape (N, H, W), (N, H, W, C) or (N, F)", f"shape {array.shape}")
    require(
        array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating),
        name,
        "hold uint8 values 0..255 or floating-point numbers",
        f"dtype {array.dtype}",
        "Convert it with .astype(numpy.uint8).",
    )
    tensor = torch.as_tensor(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    if array.ndim == 3:
        return tensor[:, None]
    if array.ndim == 2 or (array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS):
        return tensor
    require(array.shape[3] in CHANNELS, name, "have 1, 3 or 4 channels in its last axis", f"shape {array.shape}")
    return tensor.permute(0, 3, 1, 2).contiguous()


def resized(x: Tensor, size: int, name: str) -> Tensor:
    """Return images (N, C, H, W) scaled to size x size, bilinear with antialiasing, in the dtype of `x`."""
    require(size > 0, "size", "be positive", size)
    require(x.ndim == 4, "size", f"be given for images only; {name!r} holds none", f"shape {tuple(x.shape)}")
    if tuple(x.shape[2:]) == (size, size):
        return x
    out = torch.empty((*x.shape[:2], size, size), dtype=x.dtype)
    for start in range(0, len(x), 1000):  # in parts: all of it as floats may not fit
        part = x[start : start + 1000].float()
        scaled = functional.interpolate(part, (size, size), mode="bilinear", align_corners=False, antialias=True)
        out[start : start + 1000] = scaled.round().clamp(0, 255) if x.dtype == torch.uint8 else scaled.clamp(0, 1)
    return out
