"""Triggers `x -> x` on images in [0, 1]: their contract, the BadNets patch, any function of the user's, and their text form."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Integral
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.data import Samples
from isthmus.models.own import where

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
PATTERNS = ("solid", "checker")
# Blending in float32 leaves the box by rounding; that much is clipped, more is an error.
_ROUNDING = 1e-6


class Trigger(Protocol):
    """Return (B, C, H, W) images in [0, 1] with the trigger in them; the input stays untouched."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return images of the same shape, dtype and device."""
        ...


@dataclass(frozen=True)
class Patch:
    """A rectangle written over the image (BadNets, Gu et al. 2017).

    size: side, or (height, width), in pixels.
    at: (row, column) of its upper-left pixel, counted from 0, or a corner such as "bottom-right".
    pattern: "solid", or "checker": pixels with row + column even (inside the patch) have the colour, the others are 0.
    colour: in [0, 1], for all channels or one value per channel.
    margin: pixels between the patch and both edges of its corner; only with a corner's name.

    `Patch(3, at=(28, 28))` is the trigger of Zhao et al. 2020 on 32 x 32 images, `Patch(3)` that of BackdoorBench.
    """

    size: int | tuple[int, int] = 3
    at: tuple[int, int] | str = "bottom-right"
    pattern: Literal["solid", "checker"] = "solid"
    colour: float | tuple[float, ...] = 1.0
    margin: int = 0

    def __post_init__(self) -> None:
        require(min(self.shape) >= 1, "size", "be at least 1 pixel", self.size)
        if isinstance(self.at, str):
            if self.at not in CORNERS:
                raise unknown("at", self.at, CORNERS)
        else:
            require(min(self.at) >= 0, "at", "be (row, column) counted from 0", self.at)
            require(self.margin == 0, "margin", "be 0 where the place is given as row and column", self.margin)
        if self.pattern not in PATTERNS:
            raise unknown("pattern", self.pattern, PATTERNS)
        require(self.margin >= 0, "margin", "be at least 0 pixels", self.margin)
        colours = self.colour if isinstance(self.colour, tuple) else (self.colour,)
        inside = bool(colours) and all(isfinite(value) and 0 <= value <= 1 for value in colours)
        require(inside, "colour", "be in [0, 1], for all channels or for each", self.colour)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def place(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of the patch in an image. Raises InputError where it does not fit."""
        tall, wide = self.shape
        if isinstance(self.at, str):
            row = self.margin if self.at.startswith("top") else height - tall - self.margin
            column = self.margin if self.at.endswith("left") else width - wide - self.margin
        else:
            row, column = self.at
        fits = row >= 0 and column >= 0 and row + tall <= height and column + wide <= width
        found = f"rows {row}-{row + tall - 1} and columns {column}-{column + wide - 1}"
        require(fits, "trigger", f"lie inside the {height} x {width} images", found)
        return slice(row, row + tall), slice(column, column + wide)

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return a copy of the images (B, C, H, W) with the patch written over them."""
        require_images(x, "a patch")
        channels = x.shape[1]
        colour = torch.tensor(self.colour, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        if len(colour) not in (1, channels):
            raise InputError(f"`colour` should have 1 or {channels} values, one for each channel. Found {len(colour)}.")
        block = colour.expand(channels, *self.shape)
        if self.pattern == "checker":
            rows, columns = (torch.arange(count, device=x.device) for count in self.shape)
            block = block * ((rows[:, None] + columns[None, :]) % 2 == 0).to(x.dtype)
        rows, columns = self.place(x.shape[2], x.shape[3])
        out = x.clone()
        out[:, :, rows, columns] = block
        return out


def require_images(x: Tensor, what: str) -> None:
    """Raise InputError unless `x` is a batch of images (B, C, H, W)."""
    require(x.ndim == 4, "x", f"be images (B, C, H, W) for {what}", tuple(x.shape))


def require_image_samples(samples: Samples, purpose: str) -> None:
    """Raise InputError unless the samples are images (C, H, W)."""
    require(
        samples.is_images,
        "samples",
        f"be images (C, H, W) to {purpose}: triggers are changes of images",
        f"inputs of shape {samples.input_shape}",
    )


def spec_of(kind: str, trigger: Trigger) -> str:
    """Return the text form of a trigger that is a dataclass of numbers: `kind:name=value,name=value`, read by `parse_trigger`."""
    values = ((f.name, getattr(trigger, f.name)) for f in fields(cast("DataclassInstance", trigger)))
    return f"{kind}:" + ",".join(f"{name}={_number(value)}" for name, value in values)


def _number(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # By way of Python's own numbers: those of NumPy show their type.
    return str(int(value)) if isinstance(value, Integral) else repr(float(cast("float", value))).removesuffix(".0")


def apply_trigger(trigger: Trigger, x: Tensor) -> Tensor:
    """Return `trigger(x)` for inputs (B, ...) in [0, 1] once it has kept its contract.

    Raises InputError where it fails, writes into its input, changes shape, dtype or device, or leaves [0, 1] by more than rounding.
    """
    return applied(trigger, x, name="trigger", owner=describe(trigger))


def applied(function: Callable[[Tensor], object], x: Tensor, *, name: str, owner: str) -> Tensor:
    """Return `function(x)` once it has kept the contract of a trigger; errors speak of it as `name`, and say whose it is."""
    low, high = _range(x)
    require(low >= 0 and high <= 1, "samples", f"be in [0, 1] for a {name}", f"values from {low:g} to {high:g}")
    before = x.clone()
    try:
        out = function(x)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"`{name}` should take inputs {tuple(x.shape)}. Found {where(error)} from {owner}.") from error
    require(
        torch.equal(x, before), name, "leave its input untouched", f"{owner} writes into it", "Work on `x.clone()`."
    )
    if not isinstance(out, Tensor):
        raise InputError(f"`{name}` should return a tensor. Found {type(out).__name__} from {owner}.")
    same = out.shape == x.shape and out.dtype == x.dtype and out.device == x.device
    wanted, found = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (x, out))
    require(same, name, f"keep shape, dtype and device: {wanted}", f"{found} from {owner}")
    low, high = _range(out)
    inside = low >= -_ROUNDING and high <= 1 + _ROUNDING
    require(inside, name, "stay in [0, 1]", f"values from {low:g} to {high:g} from {owner}", "Pixels are x / 255.")
    return out.detach().clamp(0, 1)


def _range(x: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(x)
    return float(low), float(high)


def describe(trigger: object) -> str:
    """Return the text form of a trigger, or of another function; one that `parse_trigger` read or knows is read back equal.

    >>> describe(Patch(3, at=(28, 28)))
    'patch:size=3,at=28x28,pattern=solid,colour=1'
    """
    if isinstance(trigger, Patch):
        size = str(trigger.size) if isinstance(trigger.size, int) else "x".join(map(str, trigger.size))
        at = trigger.at if isinstance(trigger.at, str) else "x".join(map(str, trigger.at))
        colours = trigger.colour if isinstance(trigger.colour, tuple) else (trigger.colour,)
        colour = ":".join(repr(float(value)).removesuffix(".0") for value in colours)
        margin = f",margin={trigger.margin}" if trigger.margin else ""
        return f"patch:size={size},at={at},pattern={trigger.pattern},colour={colour}{margin}"
    spec = getattr(trigger, "spec", None)
    if isinstance(spec, str):
        return spec
    name = getattr(trigger, "__qualname__", None)
    if isinstance(name, str):
        return f"{trigger.__module__}:{name}"
    text = repr(trigger)
    # An object's default text holds its address, a module's many lines: neither belongs in a record.
    kind = type(trigger)
    return f"{kind.__module__}:{kind.__qualname__}" if " at 0x" in text or "\n" in text else text
