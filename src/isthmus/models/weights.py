"""Weights from files nobody vouches for: safetensors, or PyTorch files through the restricted loader; never any other way."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isthmus._check import InputError, nearest, require, require_finite
from isthmus.files import sha256
from isthmus.models.build import build_model
from isthmus.models.shapes import Shape
from isthmus.models.signature import SAFETENSORS, TORCH, kind_of

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "net", "model", "network", "module", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_DEEPEST = 4
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class LoadReport:
    """Where a model's weights came from: the file, its SHA-256, and what had to be done to make them fit."""

    path: str
    sha256: str
    notes: tuple[str, ...]


def read_state(path: str | Path, *, name: str = "weights") -> tuple[State, tuple[str, ...]]:
    """Return name -> tensor of a weight file, on the CPU, and notes on what was unwrapped.

    The format is told by content: safetensors, or a file of `torch.save` read with `weights_only=True` alone; where that loader
    refuses, so do we. Entries of :data:`WRAPPERS` are opened; prefixes that stand before every name and mean nothing (`module.`,
    `_orig_mod.`) are taken off. Raises InputError, speaking of the file as `name`, for a missing file, a folder, an empty file,
    another format, pickled objects, anything but named dense tensors, and NaN or infinite values (tensor named).
    """
    file = existing(Path(path), name)
    kind = kind_of(file)
    if kind not in (SAFETENSORS, TORCH):
        wanted = "be a safetensors file or a PyTorch file of tensors (.pt, .pth)"
        raise InputError(f"`{name}` should {wanted}. Found {kind}: {str(path)!r}.")
    state, notes = _unwrap(_safetensors(file, name) if kind == SAFETENSORS else _restricted(file, name), file, name)
    if kind == TORCH and file.suffix == ".safetensors":
        notes.append("the file is named .safetensors and is a PyTorch file; it was read as one, restricted to tensors")
    state = _plain(state, file, name)
    state = _without_prefixes(state, notes)
    require_finite(state, f"{name} ({file.name})")
    return state, tuple(notes)


def load_weights(model: nn.Module, path: str | Path, *, name: str = "weights") -> LoadReport:
    """Return a report after writing the weights of a file into `model`, in place.

    Names must be those of `model.state_dict()`, all of them, or become so by adding or removing one prefix (reported); then
    shapes must agree, and all of it is checked before anything is written. Two omissions are allowed: further names of a tied
    tensor, and BatchNorm's counter of batches, which files of PyTorch before 0.4.1 lack. Floating dtypes are converted (reported).
    Raises InputError as :func:`read_state`, and for the first tensor that differs.
    """
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        empty = is_lazy(tensor) or tensor.is_meta
        require(not empty, "model", "have initialised tensors", f"{key!r} without data", "Run one forward pass first.")
    state, read = read_state(path, name=name)
    notes, place = list(read), Path(path).name
    wanted: State = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    source = f"`{name}` should have the tensors of the model. Found in {place}"
    state = _completed(_matched(state, wanted, notes), wanted, notes)
    _require_same(state, wanted, source)
    state = _converted(state, wanted, source, notes)
    require_finite(state, f"{name} ({place}, in the dtypes of the model)")
    _require_ties(state, wanted, source)
    model.load_state_dict({**model.state_dict(), **state}, strict=True)
    return LoadReport(str(path), sha256(path), tuple(notes))


def load_model(
    spec: str,
    path: str | Path,
    *,
    num_classes: int,
    input_shape: Shape,
    width: int | None = None,
    name: str = "weights",
) -> tuple[nn.Module, LoadReport]:
    """Return the model that `spec` names (:func:`build_model`) with the weights of a file, and the report of loading it."""
    model = build_model(spec, num_classes=num_classes, input_shape=input_shape, width=width)
    return model, load_weights(model, path, name=name)


def existing(file: Path, name: str) -> Path:
    """Return `file`, found to be one that can be read. Raises InputError, with the nearest name beside it where there is none."""
    if file.is_dir():
        raise InputError(f"`{name}` should be a file of weights. Found a folder: {str(file)!r}.")
    if not file.exists():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise InputError(
            f"`{name}` should be a file that exists. Found nothing at {str(file)!r}.{nearest(file.name, beside)}"
        )
    require(file.is_file() and os.access(file, os.R_OK), name, "be a file that can be read", str(file))
    require(file.stat().st_size > 0, name, "be a file of weights", f"an empty file: {str(file)!r}")
    return file


def _safetensors(file: Path, name: str) -> State:
    try:
        return load_file(file, device="cpu")
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"`{name}` should be a whole safetensors file. Found {error} in {str(file)!r}.") from error


def _restricted(file: Path, name: str) -> object:
    """Return what the restricted loader makes of a file. Whoever wants a fallback here: the attacker wants it too."""
    try:
        # An open file, not a path: for a path the suffix would choose the loader.
        with file.open("rb") as handle:
            return torch.load(handle, map_location="cpu", weights_only=True)
    except Exception as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None and "weights_only" not in str(error):
            text = str(error).strip().split("\n")[0]
            raise InputError(
                f"`{name}` should be a whole PyTorch file. Found {text or type(error).__name__} in {str(file)!r}."
            ) from error
        found = f"the pickled object {culprit[1]}" if culprit else "a pickle that the restricted loader refuses"
        raise InputError(
            f"`{name}` should hold tensors only: unpickling objects can run any code. Found {found} in {str(file)!r}. If you trust it, "
            "convert it on an isolated machine: load it there with torch.load(..., weights_only=False), save model.state_dict() and "
            "bring that file."
        ) from error


def _unwrap(loaded: object, file: Path, name: str) -> tuple[Mapping[object, object], list[str]]:
    notes: list[str] = []
    while True:
        entries = _mapping(loaded)
        shown = f"{'an empty ' if entries == {} else ''}{type(loaded).__name__} in {file.name}"
        # The bound stops a file that holds itself.
        good = bool(entries) and len(notes) < _DEEPEST
        require(good, name, "hold a mapping of names to tensors", shown)
        assert entries is not None
        inner = [key for key in WRAPPERS if _mapping(entries.get(key)) is not None]
        if not inner:
            return entries, notes
        others = ", ".join(str(key) for key in entries if key != inner[0])
        notes.append(f"took the entry {inner[0]!r} of the file" + (f" (it also holds {others})" if others else ""))
        loaded = entries[inner[0]]


def _mapping(loaded: object) -> Mapping[object, object] | None:
    return cast(Mapping[object, object], loaded) if isinstance(loaded, Mapping) else None


def _plain(loaded: Mapping[object, object], file: Path, name: str) -> State:
    state: State = {}
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            found = f"{type(value).__name__} under {key!r} in {file.name}"
            raise InputError(f"`{name}` should hold a mapping of names to tensors. Found {found}.")
        dense = value.layout == torch.strided and not value.is_quantized and value.dtype in (*_DTYPES, *_COUNTS)
        kind = f"{key!r} of {value.dtype} and {value.layout} in {file.name}"
        require(dense, name, "hold dense tensors of 16, 32 or 64 bit floats, integers or bool", kind)
        state[key] = value.detach()
    return state


def _without_prefixes(state: State, notes: list[str]) -> State:
    found = True
    while found:
        found = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                notes.append(f"took the prefix {prefix!r} off every name")
                found = True
    return state


def _matched(state: State, wanted: State, notes: list[str]) -> State:
    """Return `state` under the names of `wanted` where one prefix, added or removed everywhere, achieves it; else as it is."""
    if _fits(state, wanted):
        return state
    first = next(iter(state))
    for key in wanted:
        if key.endswith("." + first):
            prefix = key.removesuffix(first)
            added = {prefix + own: value for own, value in state.items()}
            if _fits(added, wanted):
                notes.append(f"added the prefix {prefix!r} to every name")
                return added
    for prefix in sorted({first[: place + 1] for place, letter in enumerate(first) if letter == "."}, key=len):
        if all(key.startswith(prefix) for key in state):
            removed = {key.removeprefix(prefix): value for key, value in state.items()}
            if _fits(removed, wanted):
                notes.append(f"took the prefix {prefix!r} off every name")
                return removed
    return state


def _fits(state: State, wanted: State) -> bool:
    return all(key in wanted for key in state) and set(_completed(state, wanted, [])) == set(wanted)


def _completed(state: State, wanted: State, notes: list[str]) -> State:
    """Return `state` with the names that a file may leave out: those of tied tensors and of BatchNorm's counters."""
    held = {_memory(wanted[key]): key for key in state if key in wanted and wanted[key].numel() > 0}
    full: State = dict(state)
    tied: list[str] = []
    counters: list[str] = []
    for key, tensor in wanted.items():
        if key in state:
            continue
        if _memory(tensor) in held:
            full[key] = state[held[_memory(tensor)]]
            tied.append(key)
        elif key.split(".")[-1] == "num_batches_tracked" and tensor.ndim == 0:
            full[key] = tensor
            counters.append(key)
    if tied:
        notes.append(f"{', '.join(tied)}: not in the file, tied to a tensor that is")
    if counters:
        notes.append(
            f"{len(counters)} counters num_batches_tracked: not in the file (PyTorch before 0.4.1), left as they were"
        )
    return full


def _memory(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _require_same(state: State, wanted: State, source: str) -> None:
    """Raise InputError for the first name or shape that differs, in the order of the model, then for what is left over."""
    surplus = [key for key in state if key not in wanted]
    for key, tensor in wanted.items():
        if key not in state:
            like = nearest(key, surplus) or (f" The file has {surplus[0]!r} instead." if surplus else "")
            raise InputError(f"{source}: no tensor {key!r} (shape {tuple(tensor.shape)} in the model).{like}")
        if state[key].shape != tensor.shape:
            shapes = f"of shape {tuple(state[key].shape)} where the model has {tuple(tensor.shape)}"
            raise InputError(f"{source}: {key!r} {shapes}.")
    if surplus:
        shape = tuple(state[surplus[0]].shape)
        raise InputError(f"{source}: {surplus[0]!r} of shape {shape}, which the model does not have.")


def _converted(state: State, wanted: State, source: str, notes: list[str]) -> State:
    converted: State = {}
    counts: dict[tuple[torch.dtype, torch.dtype], int] = {}
    for key, tensor in wanted.items():
        old, new = state[key].dtype, tensor.dtype
        converted[key] = state[key].to(new)
        # Floats round to the model's precision; whole numbers and masks must arrive as they were.
        exact = old.is_floating_point or torch.equal(converted[key].to(old), state[key])
        if old.is_floating_point != new.is_floating_point or not exact:
            raise InputError(f"{source}: {key!r} of {old}, which the model's {new} does not hold.")
        if old != new:
            counts[old, new] = counts.get((old, new), 0) + 1
    notes.extend(f"converted {count} tensors from {old} to {new}" for (old, new), count in counts.items())
    return converted


def _require_ties(state: State, wanted: State, source: str) -> None:
    first: dict[tuple[object, ...], str] = {}
    for key, tensor in wanted.items():
        other = first.setdefault(_memory(tensor), key)
        if tensor.numel() > 0 and not torch.equal(state[other], state[key]):
            raise InputError(
                f"{source}: different values for {other!r} and {key!r}, which are one tensor in the model."
            )
