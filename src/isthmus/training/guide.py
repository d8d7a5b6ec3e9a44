"""Guides: what acts on control points directly, beside the loss at the points of the bridge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus.geometry.bridge import Bridge
from isthmus.geometry.volume import log_volume_gradient
from isthmus.problem import Problem
from isthmus.training.objective import Objective


class Guide(Protocol):
    """Depends on the control points alone: on no sample and no coordinate."""

    def steer(self, bridge: Bridge, gradient: Tensor) -> None:
        """Change the gradient (m, D) at the free points in place, once a step, before the optimizer."""
        ...

    def place(self, bridge: Bridge) -> None:
        """Move the free points (m, D) in place, once a step, after the optimizer."""
        ...


@dataclass(frozen=True)
class Guided:
    """An objective minimised at the points of a bridge whose control points have a guide; of one within another the inner acts first."""

    objective: Objective
    guide: Guide

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return the problem that the objective poses."""
        return self.objective(model, x, y, generator=generator, progress=progress)

    @property
    def crafting(self) -> int:
        """Return that of the objective."""
        return self.objective.crafting

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return those of the objective."""
        return self.objective.settings(progress)


def guides_of(objective: Objective) -> tuple[Guide, ...]:
    """Return the guides that an objective carries, the innermost first."""
    return (*guides_of(objective.objective), objective.guide) if isinstance(objective, Guided) else ()


Project = Callable[[Mapping[str, Tensor]], None]
"""Moves weights, by name, to the nearest ones allowed, in place."""


@dataclass(frozen=True)
class Projected:
    """Keeps the control points among the weights that `project` leaves as they are: projected gradient descent.

    After every step of the optimizer each free control point is projected, and its momentum is left as it is. Between the points of a
    bridge nothing is projected: mixtures of allowed weights are allowed where those form a convex set, such as weights held at zero.
    """

    project: Project

    def steer(self, bridge: Bridge, gradient: Tensor) -> None:
        """Leave the gradient as it is."""

    def place(self, bridge: Bridge) -> None:
        """Project every free point."""
        for row in bridge.free:
            self.project(bridge.layout.unflatten(row))


@dataclass(frozen=True)
class LogVolume:
    """Adds -weight log V to the objective, V the volume of a simplex or complex (Benton et al. 2021, section 4): vertices move apart.

    Where a simplex is flat, as one is whose new vertex starts at the mean of the others, the term has no gradient and waits for the loss to
    move the vertex out.
    """

    weight: float

    def steer(self, bridge: Bridge, gradient: Tensor) -> None:
        """Subtract weight times the gradient of log V."""
        if self.weight != 0:
            gradient.sub_(log_volume_gradient(bridge), alpha=self.weight)

    def place(self, bridge: Bridge) -> None:
        """Leave the points where they are."""
