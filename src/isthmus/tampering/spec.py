"""Triggers from text: `patch:size=3,at=28x28`, `path/to/file.py:function`, `package.module:function`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from isthmus._check import InputError, nearest, unknown
from isthmus.models.own import import_object, names_object
from isthmus.tampering.triggers import Patch, Trigger

_KEYS = ("at", "colour", "margin", "pattern", "size")
_FORMS = "'patch:size=3,at=28x28', 'file.py:function' or 'package.module:function'"


@dataclass(frozen=True)
class UserTrigger:
    """A function of the user's, with the text it was found by."""

    spec: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return `function(x)`."""
        return self.function(x)


def parse_trigger(spec: str) -> Trigger:
    """Return the trigger a text names. A function must be `(B, C, H, W) in [0, 1] -> the same`, its input untouched.

    `patch:` takes size=S|HxW, at=ROWxCOLUMN or a corner's name, pattern=solid|checker, colour=V or V:V:V, margin=M.
    Naming a function runs the code of its file. Raises InputError with the nearest known name for an unknown one.

    >>> parse_trigger("patch:size=3,at=28x28") == Patch(3, at=(28, 28))
    True
    """
    text = spec.strip()
    kind, _, settings = text.partition(":")
    if kind == "patch":
        return _patch(settings)
    if not names_object(text):
        raise InputError(f"`trigger` should be like {_FORMS}. Found {spec!r}.{nearest(kind, ['patch'])}")
    function = import_object(text, name="trigger")
    if not callable(function):
        raise InputError(f"`trigger` should name a function. Found {type(function).__name__} at {spec!r}.")
    return UserTrigger(text, cast(Callable[[Tensor], Tensor], function))


def _patch(settings: str) -> Patch:
    given: dict[str, str] = {}
    for item in filter(None, settings.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in _KEYS:
            raise unknown("trigger", key, _KEYS)
        if not equals or not value or key in given:
            raise InputError(f"`trigger` should give {key} once, as {key}=VALUE. Found {settings!r}.")
        given[key] = value
    default = Patch()
    try:
        return Patch(
            size=_size(given["size"]) if "size" in given else default.size,
            at=_at(given["at"]) if "at" in given else default.at,
            pattern=given.get("pattern", default.pattern),  # type: ignore[arg-type]  # checked by Patch
            colour=_colour(given["colour"]) if "colour" in given else default.colour,
            margin=int(given.get("margin", default.margin)),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"`trigger` should have numbers, as in 'patch:size=3,at=28x28,colour=1:0:0'. Found: {error}."
        ) from error


def _size(text: str) -> int | tuple[int, int]:
    return _pair(text, "size") if "x" in text else int(text)


def _at(text: str) -> tuple[int, int] | str:
    return _pair(text, "at") if text[0].isdigit() else text


def _pair(text: str, key: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2:
        raise InputError(f"`trigger` should have {key} as two numbers like 28x28. Found {text!r}.")
    return int(parts[0]), int(parts[1])


def _colour(text: str) -> float | tuple[float, ...]:
    values = tuple(float(part) for part in text.split(":"))
    return values[0] if len(values) == 1 else values
