"""`Layout`: the parameters of any module as one flat vector and back."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isthmus._check import InputError


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of a module's floating-point parameters <-> one flat vector of length `size`.

    Tied weights appear once. `dtype` is the widest dtype among the parameters, so that flattening loses no bit.
    With `channels_last`, 4-D parameters are stored in (O, H, W, I) order inside the vector.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    channels_last: bool = False

    @classmethod
    def of(cls, module: nn.Module, *, channels_last: bool = False) -> "Layout":
        """Return the layout of `module`. Raises InputError where there is nothing to move or a parameter is not materialised."""
        found = [(name, p) for name, p in module.named_parameters() if p.is_floating_point()]
        if not found:
            raise InputError(f"`module` should have floating-point parameters. Found none in {type(module).__name__}.")
        for name, parameter in module.named_parameters():
            if parameter.is_complex():
                raise InputError(f"`module` should have real parameters. Found {name!r} of {parameter.dtype}.")
            if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta:
                raise InputError(
                    f"`module` should have initialised parameters. Found {name!r} without data. Run one forward pass first."
                )
        return cls(
            tuple(name for name, _ in found),
            tuple(tuple(p.shape) for _, p in found),
            tuple(p.dtype for _, p in found),
            channels_last,
        )

    @property
    def size(self) -> int:
        """Return D, the number of scalars."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the flat vector: every parameter dtype converts to it exactly."""
        return reduce(torch.promote_types, self.dtypes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return the place of each parameter in the vector."""
        ends = list(accumulate(prod(shape) for shape in self.shapes))
        return tuple(slice(end - prod(shape), end) for end, shape in zip(ends, self.shapes, strict=True))

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the (D,) vector of the tensors named in `state`; other entries are ignored.

        Raises InputError naming the first tensor that is missing or of another shape.
        """
        vector: Tensor | None = None
        for name, shape, place in zip(self.names, self.shapes, self.slices, strict=True):
            if name not in state:
                raise InputError(f"`state` should have a tensor {name!r} of shape {shape}. Found no such name.")
            tensor = state[name].detach()
            if tuple(tensor.shape) != shape:
                raise InputError(f"`state` should have {name!r} of shape {shape}. Found {tuple(tensor.shape)}.")
            if vector is None:
                vector = torch.empty(self.size, dtype=self.dtype, device=tensor.device)
            self._view(vector[place], shape).copy_(tensor)
        assert vector is not None
        return vector

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return name -> tensor views of a (D,) vector, in the vector's dtype."""
        return {
            name: self._view(vector[place], shape)
            for name, shape, place in zip(self.names, self.shapes, self.slices, strict=True)
        }

    def _view(self, flat: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.channels_last and len(shape) == 4:
            outer, inner, height, width = shape
            return flat.view(outer, height, width, inner).permute(0, 3, 1, 2)
        return flat.view(shape)

    def reordered(self, vector: Tensor, other: "Layout") -> Tensor:
        """Return `vector` of this layout in the element order of `other` (same names and shapes)."""
        if self.channels_last == other.channels_last:
            return vector.clone()
        return other.flatten(self.unflatten(vector))


class Bound:
    """A private working copy of a module whose parameters are views of one flat buffer.

    Mixing control points writes `buffer`; after an ordinary forward and backward `collect` fills `gradient`. The caller's module is
    never touched. Parameters narrower than the layout's dtype cannot be views of it: they are copied in, the rest costs nothing.
    Parameters that the module's owner froze keep a zero gradient.
    """

    def __init__(self, module: nn.Module, layout: Layout, device: torch.device | str | None = None):
        self.layout = layout
        self.module = deepcopy(module)
        if device is not None:
            self.module.to(device)
        own = dict(self.module.named_parameters())
        where = next(iter(own.values())).device
        self.buffer = torch.empty(layout.size, dtype=layout.dtype, device=where)
        self.gradient = torch.zeros_like(self.buffer)
        self._frozen: list[Tensor] = []
        self._narrow: list[tuple[nn.Parameter, Tensor]] = []
        self._trained: list[tuple[nn.Parameter, Tensor]] = []
        values, gradients = layout.unflatten(self.buffer), layout.unflatten(self.gradient)
        for name in layout.names:
            parameter = own[name]
            values[name].copy_(parameter.detach())
            if parameter.requires_grad:
                self._trained.append((parameter, gradients[name]))
            else:
                self._frozen.append(gradients[name])
            if parameter.dtype == layout.dtype:
                parameter.data = values[name]
            else:
                self._narrow.append((parameter, values[name]))

    def publish(self) -> None:
        """Carry the buffer into the parameters that are not views of it."""
        for parameter, value in self._narrow:
            parameter.data.copy_(value)

    def forget_gradient(self) -> None:
        """Drop what was run backward so far."""
        for parameter, _ in self._trained:
            parameter.grad = None

    def collect(self) -> Tensor:
        """Return `gradient`, filled with what was run backward since `forget_gradient`.

        One copy at the end costs half of what zeroing and adding would: autograd hands over each first gradient as it is.
        """
        for parameter, view in self._trained:
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        return self.gradient

    def silence_frozen(self) -> None:
        """Zero the gradient of parameters that the module's owner froze (decay may have written there)."""
        for gradient in self._frozen:
            gradient.zero_()


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of everything in the module's state that a layout does not hold: buffers and integer parameters."""
    held = dict(module.named_buffers())
    held |= {name: p for name, p in module.named_parameters() if not p.is_floating_point()}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def load_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Write `buffers` (from :func:`buffers_of`) into `module` in place."""
    own = dict(module.named_buffers()) | dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in buffers.items():
            own[name].copy_(tensor)


def require_same_architecture(
    first: nn.Module, second: nn.Module, names: tuple[str, str] = ("first", "second")
) -> None:
    """Raise InputError naming the first parameter or buffer in which two modules differ."""
    one = dict(first.named_parameters()) | dict(first.named_buffers())
    two = dict(second.named_parameters()) | dict(second.named_buffers())
    for name in [*one, *(n for n in two if n not in one)]:
        if name not in one or name not in two:
            owner, other = (names[0], names[1]) if name in one else (names[1], names[0])
            raise InputError(f"`{other}` should have the tensors of `{owner}`. Found no tensor {name!r}.")
        if one[name].shape != two[name].shape or one[name].dtype != two[name].dtype:
            raise InputError(
                f"`{names[1]}` should have {name!r} like `{names[0]}`: {tuple(one[name].shape)} {one[name].dtype}. "
                f"Found {tuple(two[name].shape)} {two[name].dtype}."
            )


def placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype in which `module` expects its inputs.

    They are those of its floating-point parameters (buffers where it has none); float32 where the dtypes differ.
    """
    held = [p for p in module.parameters() if p.is_floating_point()] or [
        b for b in module.buffers() if b.is_floating_point()
    ]
    kinds = {tensor.dtype for tensor in held}
    return (held[0].device if held else torch.device("cpu")), (kinds.pop() if len(kinds) == 1 else torch.float32)


def memory_format_for(module: nn.Module, x: Tensor) -> torch.memory_format:
    """Return channels_last where `module` has convolutions and takes such an input, else the contiguous format.

    Convolutions on CPU and GPU are faster in it, but a module whose forward uses `view` may refuse it: tried on `x`, in eval mode, with
    the weights in that order as well, because inputs of one channel take the order of the weights.
    """
    kernels = {name: p for name, p in module.named_parameters() if p.ndim == 4}
    if x.ndim != 4 or not kernels:
        return torch.contiguous_format
    weights = {name: p.detach().clone(memory_format=torch.channels_last) for name, p in kernels.items()}
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            functional_call(module.eval(), weights, (x[:1].contiguous(memory_format=torch.channels_last),))
    except RuntimeError:
        return torch.contiguous_format
    finally:
        for m, mode in modes.items():
            m.training = mode
    return torch.channels_last


def arranged(module: nn.Module, x: Tensor) -> torch.memory_format:
    """Return :func:`memory_format_for` and put the module's own weights into that order, in place.

    Inputs of one channel say nothing about their order, and a convolution then goes by its weights: without this the whole network runs
    in the slow one.
    """
    order = memory_format_for(module, x)
    if order == torch.channels_last:
        module.to(memory_format=order)  # pyright: ignore[reportCallIssue]
    return order
