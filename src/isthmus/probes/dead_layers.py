"""`DeadLayers`: layers that an activation has shut for every image, found in any module, however it is coded."""

from bisect import bisect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from isthmus._check import require
from isthmus.data.samples import Samples
from isthmus.evaluate import checked_forward, evaluating
from isthmus.layout import placement
from isthmus.randomness import stream
from isthmus.table import Column, Split

BATCH = 128
_PLAIN = ("weight", "bias", "running_mean", "running_var")
_FLOORS = {"clamp": "min", "clamp_min": "min", "hardtanh": "min_val", "threshold": "threshold"}
_BY_CHANNEL = ("convolution", "batch_norm", "group_norm", "instance_norm")
_BY_FEATURE = ("addmm", "mm", "bmm", "baddbmm", "matmul", "linear", "native_layer_norm")


@dataclass(frozen=True)
class DeadLayer:
    """A layer all of whose pre-activations are zero or negative on every image, so that its output is one constant.

    name: where the pre-activations come from, as the model names it (`conv2`, `layer1.0.bn2`, `add in layer1.0`).
    after: the layer with an activation before it in the forward pass, None for the first. consequence: in words.
    """

    name: str
    after: str | None
    consequence: str


@dataclass(frozen=True, eq=False)
class DeadLayers:
    """Number of dead layers, and the share of units (%) that no image switches on.

    A unit is a channel of a convolution or a feature of a linear layer, in front of an activation that is zero below zero: relu, relu6,
    clamp and hardtanh from 0, threshold at 0, maximum with 0. Measured on `count` images of `samples`, always the same ones, every class
    by its share. Both values are NaN for a model without such an activation. A dead layer passes no gradient back and one constant on;
    with no connection round it the model is a constant classifier (Liu et al. 2020, in adversarial training). `find` names the layers.
    """

    samples: Samples
    count: int = 256
    split: Split = "train"
    _x: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.count >= 2, "count", "be at least 2 images", self.count)
        held = self.samples
        if self.count < len(held):
            held = held.subset(self.count, generator=stream(0, "dead layers"))
        object.__setattr__(self, "_x", _checked(held.inputs()))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the two columns."""
        prefix, of = "" if self.split == "train" else f"{self.split}_", f"{len(self._x)} images of {self.samples.name}"
        return (
            Column(f"{prefix}dead_layers", "1", "lower", self.split, len(self._x), f"layers that are zero on all {of}"),
            Column(f"{prefix}dead_units", "%", "lower", self.split, None, f"units that are zero on all {of}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return both; draws nothing."""
        seen = list(_survey(model, self._x).layers.values())
        dead, units = sum(int(layer.sum()) for layer in seen), sum(len(layer) for layer in seen)
        shut = float(sum(bool(layer.all()) for layer in seen))
        values = (shut, 100 * dead / units) if units else (nan, nan)
        return {column.name: value for column, value in zip(self.columns, values, strict=True)}

    def find(self, model: nn.Module) -> tuple[DeadLayer, ...]:
        """Return the dead layers by name, see :func:`find_dead`."""
        return find_dead(model, self._x)


def find_dead(model: nn.Module, x: Tensor) -> tuple[DeadLayer, ...]:
    """Return the layers of `model` that are dead on all inputs x (B, ...), in the order of the forward pass, with what follows from it.

    Every operation of the forward pass in evaluation mode is watched, so functions count like modules. A layer stands in the way of
    everything where all paths from x to the logits lead through it; the logits are then found equal for all inputs.
    Raises InputError for fewer than two different inputs, and where the model does not return logits.
    """
    survey = _survey(model, _checked(x))
    names = list(survey.layers)
    return tuple(
        DeadLayer(name, names[place - 1] if place else None, _consequence(name, survey, len(x)))
        for place, (name, layer) in enumerate(survey.layers.items())
        if bool(layer.all())
    )


def _checked(x: Tensor) -> Tensor:
    require(
        len(x) >= 2 and bool((x != x[:1]).any()), "x", "hold at least two different inputs", f"{len(x)} that are equal"
    )
    return x


def _consequence(name: str, survey: "_Survey", count: int) -> str:
    zero = f"`{name}` is zero or negative before its activation on all {count} images."
    if survey.constant is None or name not in survey.gates:
        return f"{zero} It adds the same to every image and gets no gradient; other connections lead round it."
    return (
        f"{zero} Every path to the logits leads through it, so all later layers see a constant and the model answers class "
        f"{survey.constant} for every image; neither `{name}` nor any layer before it gets a gradient."
    )


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from: the layer that made it (None for the input), whether data went in, the unit axis, and the layers with an
    activation through which all paths from the input lead."""

    layer: str | None
    data: bool
    axis: int = 1
    gates: frozenset[str] = frozenset()


@dataclass
class _Survey:
    layers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """By name, (units,) boolean: not above zero for any input so far."""
    gates: frozenset[str] = frozenset()
    constant: int | None = None
    """The one class of logits that are equal for all inputs."""


def _survey(model: nn.Module, x: Tensor) -> _Survey:
    """Return what the activations of `model` do on x, batch by batch."""
    device, dtype = placement(model)
    survey, scores, gates = _Survey(), list[Tensor](), list[frozenset[str]]()
    tensors = _tensors(model)
    with evaluating(model), torch.no_grad(), _paths(model) as path:
        for part in x.split(BATCH):
            # A copy: a model may write into its input.
            held = part.to(device=device, dtype=dtype, copy=True)
            watch = _Watch(tensors, path, survey.layers)
            watch.mark(held, _Origin(None, data=True))
            with watch:
                out = checked_forward(model, held, 1)
            origin = watch.origin(out)
            gates.append(frozenset() if origin is None else origin.gates)
            scores.append(out.to(torch.promote_types(out.dtype, torch.float32)))
    survey.gates = frozenset.intersection(*gates)
    logits = torch.cat(scores)
    spread, size = (logits - logits[0]).abs().max(), logits.abs().max()
    if bool(spread <= 64 * torch.finfo(dtype).eps * size):  # rounding differs with the place in a batch
        survey.constant = int(logits[0].argmax())
    return survey


@contextmanager
def _paths(model: nn.Module) -> Generator[list[str]]:
    """Return a context that keeps the names of the submodules now being evaluated, the innermost last."""
    path: list[str] = []
    handles: list[RemovableHandle] = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; its operations are seen all the same
                continue
            # Hooks also keep torch from its fused transformer layers, whose activations nobody could watch.
            handles.append(module.register_forward_pre_hook(partial(_enter, path, name)))
            handles.append(module.register_forward_hook(partial(_leave, path), always_call=True))
        yield path
    finally:
        for handle in handles:
            handle.remove()


def _enter(path: list[str], name: str, *_: object) -> None:
    path.append(name)


def _leave(path: list[str], *_: object) -> None:
    del path[-1:]


def _tensors(model: nn.Module) -> list[tuple[int, int, str]]:
    """Return (first address, address past the end, layer) of each parameter and buffer, ascending."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return sorted(
        (t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), _layer(name)) for name, t in held if t.numel()
    )


def _layer(tensor: str) -> str:
    """Return the layer that a parameter or buffer belongs to: `conv2` of `conv2.weight`, `w1` of `w1`."""
    name = tensor.partition(".parametrizations.")[0]
    owner, _, last = name.rpartition(".")
    return owner if owner and last in _PLAIN else name


class _Watch(TorchDispatchMode):
    """Follows one forward pass operation by operation: which tensor comes from where, and what goes into each activation."""

    def __init__(self, tensors: Sequence[tuple[int, int, str]], path: list[str], layers: dict[str, Tensor]):
        super().__init__()
        self.tensors, self.path, self.layers = tensors, path, layers
        # By storage, so that views share an origin. The weak reference keeps an address from being given to another storage.
        self.origins: dict[StorageWeakRef, _Origin | None] = {}
        self.uses: dict[str, int] = {}

    def origin(self, tensor: Tensor) -> _Origin | None:
        """Return where `tensor` comes from, None for a constant."""
        address = tensor.data_ptr()
        place = bisect(self.tensors, (address, inf, "")) - 1
        if place >= 0 and address < self.tensors[place][1]:  # by address: parameters may be views of one storage
            return _Origin(self.tensors[place][2], data=False)
        return self.origins.get(StorageWeakRef(tensor.untyped_storage()))

    def mark(self, tensor: Tensor, origin: _Origin | None) -> None:
        """Note where `tensor` comes from."""
        self.origins[StorageWeakRef(tensor.untyped_storage())] = origin

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Return what the operation returns, after noting its input where it is an activation, and its output's origin."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").partition(".")[0]
        inputs = _strided((args, kwargs))
        known = [found for found in map(self.origin, inputs) if found is not None]
        gated = self._activation(name.rstrip("_"), args, kwargs)
        out = func(*args, **kwargs)
        origin = None if name.endswith("_like") or name.startswith("new_") else self._combined(name, known)
        for tensor in _strided(out):
            whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
            # A part of a storage stays open, or other views of it would seem shut too.
            shut = gated if gated is not None and whole else None
            self.mark(
                tensor, origin if origin is None or shut is None else replace(origin, gates=origin.gates | {shut})
            )
        return out

    def _combined(self, name: str, known: Sequence[_Origin]) -> _Origin | None:
        """Return where the result of operation `name` comes from."""
        data, own = [o for o in known if o.data], [o.layer for o in known if not o.data]
        if not data:
            return _Origin(own[0], data=False) if own else None
        layers = list(dict.fromkeys(o.layer for o in data))
        layer = own[0] if own else layers[0]
        if not own and len(layers) > 1:
            layer = f"{name.strip('_')} in {(self.path and self.path[-1]) or 'the model'}"
        axis = 1 if any(kind in name for kind in _BY_CHANNEL) else -1 if name in _BY_FEATURE else data[0].axis
        return _Origin(layer, True, axis, frozenset.intersection(*(o.gates for o in data)))

    def _activation(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the name of the layer whose pre-activations go into this operation, after noting which units are dead; None for others."""
        found = self._rectified(name, args, kwargs)
        origin = None if found is None else self.origin(found[0])
        if found is None or origin is None or not origin.data or origin.layer is None or not found[0].numel():
            return None
        x, strict = found
        use = self.uses[origin.layer] = self.uses.get(origin.layer, 0) + 1
        layer = origin.layer if use == 1 else f"{origin.layer} #{use}"
        highest = x.movedim(origin.axis if x.ndim > 1 else 0, 0).flatten(1).amax(1)
        dead = highest < 0 if strict else highest <= 0  # NaN is neither
        self.layers[layer] = self.layers[layer] & dead if layer in self.layers else dead
        return layer

    def _rectified(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, bool] | None:
        """Return the input of an activation that is zero below zero, and whether it passes a gradient at zero; None for others."""
        if name == "relu":
            return args[0], False
        if name in _FLOORS:
            x, *rest = args
            floor = rest[0] if rest else kwargs.get(_FLOORS[name])
            return (x, name.startswith("clamp")) if self._zero(floor) else None
        if name in ("maximum", "fmax"):
            first, second = args
            return (first, True) if self._zero(second) else (second, True) if self._zero(first) else None
        return None

    def _zero(self, value: object) -> bool:
        if isinstance(value, Tensor):
            origin = self.origin(value)
            return (origin is None or not origin.data) and not bool(value.any())
        return isinstance(value, int | float) and value == 0


def _strided(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]
