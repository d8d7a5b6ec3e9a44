"""The recipe of Ren et al. 2025 for a surface of 3 x 3 control points, written anew from what it does; `surface_steps.py` runs it.

Their published code as of May 2025: SGD with momentum 0.9, a constant rate of 0.005 and a weight decay of 4e-4 on each trained control
point; batches of 128, for each 20 draws of (u, v), and an optimiser step after every draw, with no average over them. Stage 1, 6 epochs,
trains the two curves over the control points (0, j) and (2, j) in v by the mean of their losses: two gradients a step, while the middles of
the other two edges and of the surface stay where they are. Stage 2, 20 epochs, trains all five free points by the loss at S(u, v). One
optimiser serves both here. Their evaluation is left out: it is in training mode, where BatchNorm statistics and dropout go by the batch.
So is one image in ten turned grey: both recipes are to see the same images.

Nothing of the library's training is used: points are blended by the formula and called with `torch.func.functional_call`.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from isthmus.data import Augment, Samples
from isthmus.geometry.bridge import Bridge
from isthmus.layout import Layout, memory_format_for
from isthmus.randomness import stream

SIDE = 3
EPOCHS = (6, 20)
"""Of stage 1 and stage 2."""


@dataclass(frozen=True)
class Settings:
    """What the recipe is run with. draws: of (u, v) for one batch. mixed: whether the networks run in bfloat16."""

    batch: int = 128
    draws: int = 20
    learning_rate: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 4e-4
    augment: Augment = field(default_factory=Augment)
    mixed: bool = False


def whole(images: int) -> tuple[int, int]:
    """Return the optimiser steps of the whole recipe on so many images, and the gradients, of which a step of stage 1 takes two.

    >>> whole(50_000)
    (203320, 250240)
    """
    each = -(-images // Settings.batch) * Settings.draws
    return each * sum(EPOCHS), each * (2 * EPOCHS[0] + EPOCHS[1])


def bernstein(t: float) -> tuple[float, float, float]:
    """Return (1 - t)^2, 2 t (1 - t), t^2."""
    return (1 - t) ** 2, 2 * t * (1 - t), t**2


def surface_weights(u: float, v: float) -> list[float]:
    """Return the weight of each control point at S(u, v); point (i, j) is number 3 i + j."""
    return [a * b for a in bernstein(u) for b in bernstein(v)]


def edge_weights(i: int, v: float) -> list[float]:
    """Return the weight of each control point on the curve over the points (i, j) at v: S(0, v) for i = 0, S(1, v) for i = 2."""
    return [b if row == i else 0.0 for row in range(SIDE) for b in bernstein(v)]


def blend(points: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_k weights_k points_k, without the points whose weight is zero: those get no gradient."""
    return torch.stack([weight * point for point, weight in zip(points, weights, strict=True) if weight != 0.0]).sum(0)


class Official:
    """A surface in training. `step` counts optimiser steps, `points` are the nine control points, leaves where they are free."""

    def __init__(self, bridge: Bridge, samples: Samples, settings: Settings, seed: int):
        self.start, self.samples, self.settings, self.seed = bridge, samples, settings, seed
        self.module = deepcopy(bridge.template).train()
        probe = samples.inputs(torch.arange(1)).to(bridge.layout.dtype)
        self.format = memory_format_for(self.module, probe)
        self.layout = Layout.of(self.module, channels_last=self.format == torch.channels_last)
        self.points = [bridge.layout.reordered(point, self.layout) for point in bridge.points]
        self.free = [self.points[k].requires_grad_() for k in bridge.free_index]
        self.optimizer = torch.optim.SGD(
            self.free, settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
        self.step = 0

    def loss(self, weights: Sequence[float], x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy at the blend of the control points."""
        parts = blend(self.points, weights).split([prod(shape) for shape in self.layout.shapes])
        values: dict[str, Tensor] = {}
        for name, part, shape in zip(self.layout.names, parts, self.layout.shapes, strict=True):
            whole = self.layout.channels_last and len(shape) == 4
            values[name] = part.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2) if whole else part.view(shape)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.mixed):
            logits = functional_call(self.module, values, (x,))
        return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y)

    def edge_loss(self, v: float, x: Tensor, y: Tensor) -> Tensor:
        """Return what stage 1 minimises: the mean of the losses on two opposite edges at v."""
        return (self.loss(edge_weights(0, v), x, y) + self.loss(edge_weights(SIDE - 1, v), x, y)) / 2

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the images and labels of this step, the same for `draws` steps."""
        settings, number = self.settings, self.step // self.settings.draws
        each = len(self.samples) // settings.batch
        order = torch.randperm(len(self.samples), generator=stream(self.seed, "order", number // each))
        index = order[(number % each) * settings.batch :][: settings.batch]
        x = self.samples.inputs(index).to(self.layout.dtype)
        drawn = settings.augment(x, generator=stream(self.seed, "augment", number))
        return drawn.contiguous(memory_format=self.format), self.samples.y[index]

    def train(self, steps: int, *, edges: bool) -> None:
        """Take so many steps of stage 1 (`edges`) or of stage 2."""
        for k in range(steps):
            if self.step % self.settings.draws == 0 or k == 0:
                x, y = self.batch()
            u, v = torch.rand(2, generator=stream(self.seed, "uv", self.step), dtype=torch.float64).tolist()
            self.optimizer.zero_grad()
            loss = self.edge_loss(v, x, y) if edges else self.loss(surface_weights(u, v), x, y)
            loss.backward()
            self.optimizer.step()
            self.step += 1

    def bridge(self) -> Bridge:
        """Return the surface as a bridge of the library."""
        return self.start.with_free(
            torch.stack([self.layout.reordered(point.detach(), self.start.layout) for point in self.free])
        )

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on from here."""
        free = [point.detach().clone() for point in self.free]
        return {"step": self.step, "free": free, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step = state["step"]
        for point, value in zip(self.free, state["free"], strict=True):
            point.data.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
