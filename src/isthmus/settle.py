"""BatchNorm policies: running statistics belong to neither end of a bridge, so a point between them gets its own."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.evaluate import running_layers
from isthmus.layout import memory_format_for, placement


@dataclass(frozen=True, eq=False)
class Recalibrate:
    """Policy: recompute running statistics as the cumulative average over one pass of `samples`, in place; other layers stay in eval mode.

    Batches differ by at most one in size and count alike (what PyTorch accumulates with momentum=None): the mean is exact where the
    sizes are equal, the variance is the mean of the batches' unbiased variances. Inputs take the dtype of the parameters.
    """

    samples: Samples
    batch_size: int = 500

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, "batch_size", "be at least 2, so that a batch has a variance", self.batch_size)
        require(len(self.samples) >= 2, "samples", "hold at least 2 images to recalibrate BatchNorm", len(self.samples))

    def __call__(self, module: nn.Module) -> None:
        """Recalibrate `module` in place; modes and momenta are as before afterwards."""
        if not running_layers(module):
            return
        device, dtype = placement(module)
        layout = memory_format_for(module, self.samples.inputs(torch.arange(1)).to(device, dtype))
        # No batch of one: it has no variance.
        parts = min(-(-len(self.samples) // self.batch_size), len(self.samples) // 2)
        with _cumulative(module), torch.no_grad():
            for index in torch.arange(len(self.samples)).tensor_split(parts):
                module(self.samples.inputs(index).to(device, dtype).contiguous(memory_format=layout))


class Keep:
    """Policy: leave the statistics that the point has, those of its heaviest corner. Right only where they do not matter."""

    def __call__(self, module: nn.Module) -> None:
        """Change nothing."""


class BatchStatistics:
    """Policy: every layer with running statistics normalises each batch by that batch's own mean and variance, in any mode, in place.

    This is what a module left in training mode does at such layers; dropout stays off in evaluation. An answer then depends on the other
    images of the batch, which no single image in use has with it, and on how many they are: figures measured so compare with published
    ones that were (Ren et al. 2025, whose code never leaves training mode), not with others. Asked for at a given model too, whose own
    statistics it takes away: a published grid has no row measured otherwise.
    """

    everywhere = True

    def __call__(self, module: nn.Module) -> None:
        """Take the running statistics away from `module`."""
        for layer in running_layers(module):
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(layer, name, None)
            layer.track_running_stats = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


Statistics = Literal["recalibrate", "keep", "batch"]
"""Where BatchNorm statistics come from, as commands are asked for it: :class:`Recalibrate`, :class:`Keep`, :class:`BatchStatistics`."""


def recalibration(module: nn.Module, samples: Samples, n: int, *, generator: torch.Generator) -> Recalibrate | None:
    """Return the policy that recomputes statistics on at most n samples, a stratified choice; None for a module without any."""
    if not running_layers(module):
        return None
    return Recalibrate(samples.subset(min(n, len(samples)), generator=generator))


def policy_of(
    how: Statistics, module: nn.Module, samples: Samples, n: int, *, generator: torch.Generator
) -> Recalibrate | Keep | BatchStatistics | None:
    """Return the policy of that name, `recalibrate` on at most n samples; None for a module without running statistics."""
    if how == "recalibrate" or not running_layers(module):
        return recalibration(module, samples, n, generator=generator)
    return Keep() if how == "keep" else BatchStatistics()


def require_policy(module: nn.Module, settle: object | None) -> None:
    """Raise an error that names the choices where `module` has running statistics and no policy was given."""
    if settle is None and (layers := running_layers(module)):
        raise InputError(
            f"`settle` should be given for a module with running statistics: between the ends they belong to neither. Found None and "
            f"{len(layers)} such layers. Pass Recalibrate(samples) to recompute them at every point, or Keep()."
        )


@contextmanager
def _cumulative(module: nn.Module) -> Generator[None]:
    layers = running_layers(module)
    modes = {m: m.training for m in module.modules()}
    momenta = {m: m.momentum for m in layers}
    try:
        module.eval()
        for layer in layers:
            layer.reset_running_stats()  # pyright: ignore[reportCallIssue]
            layer.momentum = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            layer.train()
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode
        for layer, momentum in momenta.items():
            layer.momentum = momentum
