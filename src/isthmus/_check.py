"""The one error a caller's input can raise, and the checks that raise it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor


class InputError(ValueError):
    """Input that cannot be used. The command line prints it as one line and exits with code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the choice nearest to `name`, or an empty string."""
    found = get_close_matches(name.lower(), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown(what: str, name: str, choices: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the nearest known one."""
    known = sorted(choices)
    return InputError(f"`{what}` should be one of {', '.join(known)}. Found {name!r}.{nearest(name, known)}")


def require(condition: bool, name: str, requirement: str, found: object, fix: str = "") -> None:
    """Raise :class:`InputError` in the project's one template unless `condition` holds."""
    if not condition:
        shown = found if isinstance(found, str) else repr(found)
        raise InputError(f"`{name}` should {requirement}. Found {shown}.{' ' + fix if fix else ''}")


def require_finite(tensors: Mapping[str, Tensor], owner: str) -> None:
    """Raise an error that names the first tensor with a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"`{owner}` should hold finite numbers. Found {bad} NaN or infinite values of {tensor.numel()} in tensor {name!r}."
            )
