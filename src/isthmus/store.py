"""Models and bridges as safetensors files that say what they hold. Nothing here ever unpickles."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from isthmus import __version__
from isthmus._check import InputError, require, require_finite
from isthmus.files import atomic
from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.text import describe, from_description
from isthmus.layout import Layout, buffers_of

MODEL_FORMAT = "isthmus-model"
BRIDGE_FORMAT = "isthmus-bridge"
FORMAT_VERSION = "1"
KEY = "isthmus"  # the one entry of the safetensors metadata, a JSON text


class Card(BaseModel):
    """What a file says of the models in it: enough to build them again. `arch` is the specification as it was given.

    All fields may be missing, because a file can be written from a module of unknown origin. `notes`: anything else, as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    arch: str | None = None
    width: int | None = None
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    data: str | None = None
    notes: dict[str, JsonValue] = {}


class LayoutCard(BaseModel):
    """The layout of the control points: one entry per parameter, in the order in which the flat vector holds them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    channels_last: bool

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Return the description of a layout."""
        kinds = tuple(str(dtype).removeprefix("torch.") for dtype in layout.dtypes)
        return cls(names=layout.names, shapes=layout.shapes, dtypes=kinds, channels_last=layout.channels_last)


class Header(BaseModel):
    """The header of a bridge file. `points`: rows of the tensors `fixed` and `free` together are the basis's control points."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    basis: dict[str, JsonValue]
    layout: LayoutCard
    fixed_index: tuple[int, ...]
    names: tuple[str, ...]
    card: Card = Card()

    def make_basis(self) -> Basis:
        """Return the basis that the header describes."""
        return from_description(dict(self.basis))


def save_model(module: nn.Module, path: str | Path, meta: Card | None = None) -> None:
    """Write everything in `module.state_dict()`, bit for bit, and `meta` as a safetensors file, atomically.

    Tied weights are written under each of their names, so that the file loads into any copy of the architecture, tied or not.
    """
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    _write(state, path, {"format": MODEL_FORMAT, "card": (meta or Card()).model_dump(mode="json")})


def read_card(path: str | Path) -> Card:
    """Return what a model or bridge file says of its models; an empty card for weight files of other origin."""
    try:
        text = _metadata(Path(path))
        holder = text.get("header") if text.get("format") == BRIDGE_FORMAT else text
        return Card.model_validate(holder["card"]) if isinstance(holder, dict) and "card" in holder else Card()
    except (InputError, ValidationError):
        return Card()


def save_bridge(bridge: Bridge, path: str | Path, *, meta: Card | None = None) -> None:
    """Write a bridge as a safetensors file, atomically: control points `fixed` (k, D) and `free` (m, D), buffers `state.INDEX.NAME`.

    The template's code is not in the file: `load_bridge` asks for a module of the same architecture. Raises InputError for a basis
    that is not the library's own.
    """
    header = Header(
        basis=describe(bridge.basis),  # pyright: ignore[reportArgumentType]
        layout=LayoutCard.of(bridge.layout),
        fixed_index=bridge.fixed_index,
        names=bridge.names,
        card=meta or Card(),
    )
    tensors = {"fixed": bridge.fixed, "free": bridge.free}
    tensors |= {f"state.{i}.{name}": value for i, state in bridge.states.items() for name, value in state.items()}
    states: list[JsonValue] = [*sorted(bridge.states)]
    _write(tensors, path, {"format": BRIDGE_FORMAT, "header": header.model_dump(mode="json"), "states": states})


def read_header(path: str | Path) -> Header:
    """Return the header of a bridge file, reading no tensor.

    Raises InputError for a file that is missing, is no safetensors file, no bridge, or of another format version.
    """
    return _header(_metadata(Path(path)), path)


def load_bridge(path: str | Path, template: nn.Module) -> Bridge:
    """Return the bridge in a file, over copies of `template`, a module of the architecture the bridge was made of.

    Every tensor is as it was saved, bit for bit. Raises InputError as :func:`read_header`, for a bridge of another model (the first
    tensor that differs is named), for NaN or infinite numbers, and for a file whose header and tensors disagree.
    """
    text = _metadata(Path(path))
    header = _header(text, path)
    layout = Layout.of(template, channels_last=header.layout.channels_last)
    _require_same_layout(header.layout, LayoutCard.of(layout), path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        kept = TypeAdapter(list[int]).validate_python(text.get("states"))
    except (SafetensorError, OSError, ValidationError) as error:
        raise _damaged(path, error) from error
    states = {i: _state(tensors, i) for i in kept}
    for i, state in states.items():
        _require_same_buffers(state, buffers_of(template), path)
        # Buffers that are not part of a model's saved state may be infinite by design (attention masks).
        lasting = {f"state.{i}.{name}": value for name, value in state.items() if name in template.state_dict()}
        require_finite(lasting, str(path))
    fixed, free = (_points(tensors, name, layout, path) for name in ("fixed", "free"))
    require_finite({"fixed": fixed, "free": free}, str(path))
    return Bridge(
        deepcopy(template), layout, header.make_basis(), fixed, free, header.fixed_index, states, header.names
    )


def _write(tensors: Mapping[str, Tensor], path: str | Path, about: dict[str, JsonValue]) -> None:
    # Safetensors refuses tensors that share memory (tied weights, rows of one buffer): each gets its own.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # One entry: the format does not keep the order of several, and equal contents should have equal digests.
    text = json.dumps(
        {**about, "format_version": FORMAT_VERSION, "isthmus": __version__}, sort_keys=True, ensure_ascii=False
    )
    with atomic(path) as partial:
        mode = partial.stat().st_mode
        try:
            save_file(own, partial, metadata={KEY: text})
            partial.chmod(mode)  # safetensors puts a file of its own there, readable by its owner only
        except (ValueError, KeyError) as error:
            raise InputError(
                f"`{path}` should hold tensors of types that safetensors knows. Found: {error}."
            ) from error


def _metadata(path: Path) -> dict[str, JsonValue]:
    """Return what a file of ours says of itself, nothing for one of other origin."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise InputError(f"`path` should be a file written by this library. Found {what} at {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY, "{}")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"`{path}` should be a safetensors file. Found another kind, or a damaged one: {error}."
        ) from error
    try:
        return TypeAdapter(dict[str, JsonValue]).validate_json(text)
    except ValidationError as error:
        raise _damaged(path, error) from error


def _header(text: Mapping[str, JsonValue], path: str | Path) -> Header:
    kind = text.get("format")
    found = "the weights of a single model" if kind == MODEL_FORMAT else "tensors of another origin"
    if kind != BRIDGE_FORMAT:
        raise InputError(f"`{path}` should be a bridge, as `isthmus connect` writes it. Found {found}.")
    held = text.get("format_version")
    fix = "Read it with the version of Isthmus that wrote it."
    require(held == FORMAT_VERSION, str(path), f"have bridge format version {FORMAT_VERSION!r}", held, fix)
    try:
        return Header.model_validate(text.get("header"))
    except ValidationError as error:
        raise _damaged(path, error) from error


def _require_same_layout(saved: LayoutCard, own: LayoutCard, path: str | Path) -> None:
    """Raise an error naming the first tensor in which the file's models and the template differ."""
    here = dict(zip(own.names, zip(own.shapes, own.dtypes, strict=True), strict=True))
    there = dict(zip(saved.names, zip(saved.shapes, saved.dtypes, strict=False), strict=False))
    for name in [*there, *(name for name in here if name not in there)]:
        if name not in here or name not in there:
            owner, other = ("the bridge", "the model given") if name in there else ("the model given", "the bridge")
            raise InputError(
                f"`{path}` should be a bridge of the model given. Found {name!r} in {owner} only, not in {other}."
            )
        if here[name] != there[name]:
            (shape, kind), (mine, own_kind) = there[name], here[name]
            raise InputError(
                f"`{path}` should be a bridge of the model given, which has {name!r} of shape {mine} {own_kind}. Found {shape} {kind}."
            )
    require(saved.names == own.names, str(path), "hold its tensors in the order of the model given", "another order")


def _require_same_buffers(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path) -> None:
    for name in [*own, *(name for name in state if name not in own)]:
        if name not in own or name not in state:
            owner = "the model given" if name in own else "the bridge"
            raise InputError(
                f"`{path}` should be a bridge of the model given. Found the buffer {name!r} in {owner} only."
            )
        one, two = ((tuple(t.shape), t.dtype) for t in (own[name], state[name]))
        require(one == two, str(path), f"be a bridge of the model given, which has the buffer {name!r} {one}", two)


def _state(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    prefix = f"state.{index}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _points(tensors: Mapping[str, Tensor], name: str, layout: Layout, path: str | Path) -> Tensor:
    points = tensors.get(name)
    fits = points is not None and points.ndim == 2 and points.shape[1] == layout.size and points.dtype == layout.dtype
    shown = "nothing" if points is None else f"{tuple(points.shape)} {points.dtype}"
    require(fits, str(path), f"hold {name!r} of shape (rows, {layout.size}) {layout.dtype}", shown)
    assert points is not None
    return points


def _damaged(path: str | Path, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return InputError(f"`{path}` should be a whole bridge file. Found a damaged one: {reason}.")
