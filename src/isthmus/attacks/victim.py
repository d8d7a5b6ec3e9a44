"""`Victim`: a model as an attack sees it: frozen, in evaluation mode, with every query and gradient pass counted."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.evaluate import checked_forward
from isthmus.folding import Fold, folded, folds_of
from isthmus.layout import buffers_of, load_buffers, memory_format_for, placement

Score = Callable[[Tensor], Tensor]
"""(B, C) logits -> (B,) what is made large, one number for each image."""


@dataclass(eq=False)
class Look:
    """What one forward pass showed, ready to be differentiated once."""

    logits: Tensor
    """(B, C) float32 (float64 for a float64 model), detached; the mean over the passes of a randomised model."""
    _victim: "Victim"
    _leaf: Tensor
    _passes: list[Tensor]

    def gradient(self, score: Score) -> Tensor:
        """Return d score_i / d x_i for each image, in the shape of x; the mean over the passes of a randomised model.

        Raises InputError where the logits were computed without a graph.
        """
        graphs = all(out.requires_grad for out in self._passes)
        fix = "Take `torch.no_grad()`, `.detach()` and `.data` out of its forward."
        require(graphs, "model", "be differentiable by its inputs", "logits without a gradient", fix)
        with torch.enable_grad():  # the caller may have switched gradients off
            total = torch.stack([score(out).sum() for out in self._passes]).sum() / len(self._passes)
        self._victim.gradients += len(self._leaf) * len(self._passes)
        (found,) = torch.autograd.grad(total, self._leaf)
        return found


@dataclass(eq=False)
class Victim:
    """A model under attack. Make one with :func:`attacked`, which sets it up and puts everything back.

    queries, gradients: images passed forward, and of those also backward, so far. passes: forward passes averaged for one look, above
    1 only against a randomised model (expectation over transformation, Athalye et al. 2018). folds: BatchNorm layers computed as an
    affine map; none for a victim that judges.
    """

    model: nn.Module
    num_classes: int = 2
    passes: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    queries: int = 0
    gradients: int = 0
    folds: Sequence[Fold] = field(default=(), repr=False)
    _format: torch.memory_format | None = field(default=None, repr=False)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, C) without gradient."""
        with torch.no_grad():
            return (
                torch.stack([self._forward(x) for _ in range(self.passes)]).mean(0)
                if self.passes > 1
                else self._forward(x)
            )

    def look(self, x: Tensor) -> Look:
        """Return the logits at x together with the means to differentiate them by x."""
        with torch.enable_grad():
            leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            passes = [self._forward(leaf) for _ in range(self.passes)]
        shown = passes[0].detach() if self.passes == 1 else torch.stack(passes).detach().mean(0)
        return Look(shown, self, leaf, passes)

    def format(self, x: Tensor) -> torch.memory_format:
        """Return the order in which the model is asked, decided at the first question. Who keeps x in it saves a copy each time."""
        if self._format is None:
            device, dtype = placement(self.model)
            self._format = memory_format_for(self.model, x[:1].detach().to(device, dtype))
        return self._format

    def _forward(self, x: Tensor) -> Tensor:
        device, dtype = placement(self.model)
        layout = self.format(x)
        self.queries += len(x)
        low = self.precision == "bf16-mixed"
        with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
            moved = x.to(device, dtype).contiguous(memory_format=layout)
            with folded(self.folds):
                out = checked_forward(self.model, moved, self.num_classes)
        return out.to(x.device, torch.promote_types(out.dtype, torch.float32))


@contextmanager
def attacked(
    model: nn.Module,
    *,
    num_classes: int = 2,
    passes: int = 1,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    mode: Literal["eval", "train"] = "eval",
    memory_format: torch.memory_format | None = None,
) -> Generator[Victim]:
    """Return a context with `model` as a victim: parameters frozen, so that a backward pass computes input gradients alone.

    Afterwards every `requires_grad`, mode and buffer is as it was, and so is the global random state, which a model with noise of its
    own draws from. mode: "train" leaves every layer in the mode it has, so that BatchNorm normalises by the batch (Rice et al. 2020
    craft so while they train). memory_format: None tries whether the model takes the channels-last order.
    Raises InputError for passes below 1.
    """
    require(passes >= 1, "passes", "be at least 1", passes)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    buffers = buffers_of(model)
    device = placement(model)[0]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            if mode == "eval":
                model.eval()
            folds = folds_of(model)  # crafting may round otherwise; what is found is tested again on the model itself
            yield Victim(model, num_classes, passes, precision, folds=folds, _format=memory_format)
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for module, training in modes:
                module.training = training  # not `.train(training)`: owners override it
            load_buffers(model, buffers if mode == "train" else _changed(model, buffers))


def _changed(model: nn.Module, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `buffers` that the model no longer holds. The others are not written: a graph of the caller's may need them."""
    own = dict(model.named_buffers()) | dict(model.named_parameters())
    return {name: tensor for name, tensor in buffers.items() if not torch.equal(own[name], tensor)}
