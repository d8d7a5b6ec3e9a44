"""Is a model piecewise linear in its input? Read off the autograd graph of one forward pass."""

import re
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from isthmus._check import require
from isthmus.evaluate import checked_forward, evaluating
from isthmus.folding import folded, folds_of
from isthmus.layout import memory_format_for, placement

# What autograd calls the operations that are (piecewise) linear in all their differentiable arguments together. Whatever is not
# here counts as smooth, which costs time and never correctness.
_LINEAR = frozenset(
    """
    Abs AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D Add Alias Amax Amin AsStrided AvgPool2D AvgPool3D
    Cat Chunk Clamp ClampMax ClampMin Clone Col2Im ConstantPadNd Copy Cumsum Diagonal Expand Flip Gather Hardshrink Hardtanh Im2Col
    Index IndexSelect LeakyRelu MaskedFill Max MaxPool2DWithIndices MaxPool3DWithIndices Maximum Mean Min Minimum Neg Permute
    PixelShuffle PixelUnshuffle ReflectionPad1D ReflectionPad2D ReflectionPad3D Relu Repeat ReplicationPad1D ReplicationPad2D
    ReplicationPad3D Reshape ReshapeAlias Roll Rsub Select Slice Softshrink Sort Split SplitWithSizes Squeeze Stack Sub Sum T
    Threshold ToCopy Topk Transpose Tril Triu Unbind Unfold UnsafeSplit UnsafeView Unsqueeze UpsampleBicubic2D UpsampleBilinear2D
    UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleTrilinear3D View Where
    """.split()
)
# Products: the places of the factors among the arguments. Linear while at most one factor depends on the input.
_PRODUCTS = {
    "Addbmm": (1, 2),
    "Addcmul": (1, 2),
    "Addmm": (1, 2),
    "Addmv": (1, 2),
    "Baddbmm": (1, 2),
    "Bmm": (0, 1),
    "Convolution": (0, 1),
    "Dot": (0, 1),
    "Linear": (0, 1),
    "Mm": (0, 1),
    "Mul": (0, 1),
    "Mv": (0, 1),
    "PreluKernel": (0, 1),
}
# Batch normalisation by running statistics: (input, weight, bias).
_NORMS = ("CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm")


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """Return a context with `model` in evaluation mode and its parameters frozen, without autocast: only inputs are differentiated.

    BatchNorm is the affine map of :mod:`isthmus.folding`. Afterwards every mode, `requires_grad` and forward is as it was.
    """
    device, dtype = placement(model)
    fits = dtype in (torch.float32, torch.float64)
    require(fits, "model", "compute in float32 or float64 to have its curvature measured", str(dtype), "Use .float().")
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with (
            evaluating(model),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            folded(folds_of(model)),
        ):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def leaf_like(model: nn.Module, x: Tensor, order: torch.memory_format | None = None) -> Tensor:
    """Return a copy of x that can be differentiated, with the device, dtype and memory order that suit `model`.

    order: None tries whether the model takes the channels-last order.
    """
    device, dtype = placement(model)
    moved = x.detach().to(device, dtype, copy=True)
    order = memory_format_for(model, moved[:1]) if order is None else order
    return moved.contiguous(memory_format=order).requires_grad_()


def piecewise_linear(model: nn.Module, x: Tensor) -> tuple[bool, str]:
    """Return whether `model` is piecewise linear in its input, and the reason.

    One forward pass in evaluation mode on the first image of x (B, ...), with the parameters frozen, records exactly the operations
    that depend on the input. ReLU and its kin, convolutions, pooling, BatchNorm by running statistics, sums, views and products with
    one factor that depends on the input are piecewise linear; a product of two that do (attention, gates), softmax, GELU, LayerNorm
    and whatever is not known here is taken for smooth, and named. Parts hidden from autograd (`detach`, `no_grad`) count as constants,
    as they do in every gradient. Raises InputError where the model does not return logits (B, C).
    """
    with frozen(model):
        return linear_graph(checked_forward(model, leaf_like(model, x[:1]), 1))


def linear_graph(logits: Tensor) -> tuple[bool, str]:
    """Return the same for logits that carry the autograd graph of a frozen model."""
    kinds: set[str] = set()
    for node in graph_nodes(logits):
        obstacle = _obstacle(node)
        if obstacle:
            return False, obstacle
        kinds.add(_words(_kind(node)))
    named = ", ".join(sorted(kinds - {"input"}))
    return True, f"only piecewise linear operations: {named}" if named else "the logits do not vary with the input"


def graph_nodes(tensor: Tensor) -> Generator[Node]:
    """Return the recorded operations behind a tensor, each once, the last one first."""
    waiting = deque([tensor.grad_fn] if tensor.grad_fn is not None else [])
    seen: set[Node] = set(waiting)
    while waiting:
        node = waiting.popleft()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def _obstacle(node: Node) -> str:
    """Return why an operation is not piecewise linear, or nothing."""
    kind = _kind(node)
    depends = [following is not None for following, _ in node.next_functions]
    if kind in _LINEAR or kind == "Input":
        return ""
    if kind in _PRODUCTS:
        both = all(depends[place] for place in _PRODUCTS[kind])
        return f"`{_words(kind)}` multiplies two tensors that depend on the input" if both else ""
    if kind == "Div":
        return "`div` divides by a tensor that depends on the input" if depends[1] else ""
    if kind in _NORMS:
        by_batch = getattr(node, "_saved_training", True)
        return f"`{_words(kind)}` normalises by the batch itself" if by_batch or any(depends[1:]) else ""
    return f"`{_words(kind)}` is not known to be piecewise linear"


def _kind(node: Node) -> str:
    """Return the operation's name without autograd's suffix: `Relu` for ReluBackward0, `Input` for the leaf."""
    name = node.name()
    if name.endswith("AccumulateGrad"):
        return "Input"
    found = re.fullmatch(r"(\w+?)Backward\d*", name)
    return found[1] if found else name


def _words(kind: str) -> str:
    """Return the name as torch's functions are written: `native_layer_norm` for NativeLayerNorm."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
