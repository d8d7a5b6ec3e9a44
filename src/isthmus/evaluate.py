"""Logits of any classifier on labelled samples: evaluation mode, no gradient, the model left as it was."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data.samples import Samples
from isthmus.layout import memory_format_for, placement


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Return a context in which every submodule is in evaluation mode; afterwards each has the mode it had before."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            # Not `.train(training)`: owners override it, to keep a part frozen for instance.
            module.training = training


def running_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of `module` that keep running statistics (BatchNorm, InstanceNorm that tracks)."""
    return [
        m for m in module.modules() if isinstance(getattr(m, "running_mean", None), Tensor) and hasattr(m, "momentum")
    ]


def logits(
    model: nn.Module, samples: Samples, *, batch_size: int = 500, transform: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the model's logits (N, C) in float32 on the device of the samples, in evaluation mode and without gradient.

    `transform` is applied to each batch of inputs in [0, 1] before it moves to the device of the model's parameters. Inputs take the
    dtype of the parameters, and the channels-last order where the model takes it. Each submodule keeps its mode.
    Raises InputError where the model refuses inputs of this shape, or returns anything but a tensor (B, C), C >= `samples.num_classes`.
    """
    require(batch_size >= 1, "batch_size", "be at least 1", batch_size)
    device, dtype = placement(model)
    parts: list[Tensor] = []
    order: torch.memory_format | None = None
    with evaluating(model), torch.no_grad():
        for start in range(0, len(samples), batch_size):
            stop = min(start + batch_size, len(samples))
            x = samples.inputs(torch.arange(start, stop, device=samples.x.device))
            x = x if transform is None else transform(x)
            x = x.to(device=device, dtype=dtype)
            order = memory_format_for(model, x) if order is None else order
            x = x.contiguous(memory_format=order)
            out = checked_forward(model, x, samples.num_classes)
            parts.append(out.to(device=samples.y.device, dtype=torch.float32))
    return torch.cat(parts)


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """Return for logits (N, C) and labels (N,) the boolean (N,) of samples whose largest logit is the label's.

    A sample with a NaN among its logits has no largest one and is not correct; of equal logits the first counts.

    >>> correct(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), torch.tensor([1, 0])).tolist()
    [True, False]
    """
    require(scores.ndim == 2 and len(scores) == len(y), "scores", f"be logits ({len(y)}, C)", tuple(scores.shape))
    return (scores.argmax(1) == y.to(scores.device)) & ~scores.isnan().any(1)


def checked_forward(model: nn.Module, x: Tensor, num_classes: int) -> Tensor:
    """Return model(x), found to be logits (B, C) with C >= num_classes.

    Raises InputError where it is anything else, and where the model refuses x.
    """
    try:
        return _checked(model(x), len(x), num_classes)
    except (torch.OutOfMemoryError, InputError):
        raise
    except (RuntimeError, ValueError) as error:  # a BatchNorm layer that normalises by the batch raises ValueError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"`model` should take inputs of shape (B, {', '.join(map(str, x.shape[1:]))}). Found: {reason}"
        ) from error


def _checked(out: object, size: int, num_classes: int) -> Tensor:
    requirement = f"return logits (B, C) with C >= {num_classes}"
    if not isinstance(out, Tensor):
        raise InputError(
            f"`model` should {requirement}. Found {type(out).__name__}. Wrap it so that it returns the logits alone."
        )
    require(out.ndim == 2 and out.shape[0] == size, "model", requirement, f"shape {tuple(out.shape)} for B = {size}")
    require(out.shape[1] >= num_classes, "model", requirement, f"C = {out.shape[1]}")
    require(out.is_floating_point(), "model", requirement, str(out.dtype), "Return scores, not the predicted labels.")
    return out
