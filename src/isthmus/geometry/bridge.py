"""`Bridge`: a curve or surface of models, theta(u) = basis(u) @ control points."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.geometry.bases import Basis
from isthmus.layout import Layout, load_buffers

Settle = Callable[[nn.Module], None]
"""Brings a module's BatchNorm statistics in order, in place (see `isthmus.settle`)."""


@dataclass(frozen=True, eq=False)
class Bridge:
    """Control points, a basis and the template module they are weights of.

    fixed: (k, D) control points that never change, usually the corners; free: (m, D) those that are trained; k + m = n.
    fixed_index: which of the n control points the rows of `fixed` are. states: buffers (BatchNorm statistics and the like) of the
    control points that are models of their own. The template is private to the bridge: callers' modules are copied, never kept.
    """

    template: nn.Module
    layout: Layout
    basis: Basis
    fixed: Tensor
    free: Tensor
    fixed_index: tuple[int, ...]
    states: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict[int, Mapping[str, Tensor]])
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, rows = self.basis.num_points, self.fixed.shape[0] + self.free.shape[0]
        require(rows == n, "points", f"have one row per weight of the basis, {n}", rows)
        require(
            len(set(self.fixed_index)) == self.fixed.shape[0] and all(0 <= i < n for i in self.fixed_index),
            "fixed_index",
            f"name {self.fixed.shape[0]} different control points below {n}",
            self.fixed_index,
        )

    @property
    def free_index(self) -> tuple[int, ...]:
        """Return which control points the rows of `free` are."""
        return tuple(i for i in range(self.basis.num_points) if i not in self.fixed_index)

    @property
    def points(self) -> Tensor:
        """Return all control points in the basis's order, (n, D)."""
        points = self.fixed.new_empty(self.basis.num_points, self.layout.size)
        points[list(self.fixed_index)] = self.fixed
        points[list(self.free_index)] = self.free
        return points

    def row(self, index: int) -> Tensor:
        """Return control point `index`, a (D,) view."""
        if index in self.fixed_index:
            return self.fixed[self.fixed_index.index(index)]
        return self.free[self.free_index.index(index)]

    def coordinates(self, u: float | Sequence[float] | Tensor) -> Tensor:
        """Return `u` as a (d,) float64 tensor. Raises InputError on another number of coordinates or NaN.

        Coordinates outside the basis's domain extrapolate: t = 1.2 goes past the last end.
        """
        vector = torch.atleast_1d(torch.as_tensor(u, dtype=torch.float64)).detach().cpu()
        shown = vector.tolist()
        require(vector.shape == (self.basis.dim,), "u", f"have {self.basis.dim} coordinate(s)", shown)
        require(bool(torch.isfinite(vector).all()), "u", "be finite", shown)
        return vector

    def weights(self, u: float | Sequence[float] | Tensor) -> tuple[float, ...]:
        """Return basis(u): the weight of each control point, summing to 1."""
        return tuple(self.basis(self.coordinates(u)).tolist())

    def corner(self, u: float | Sequence[float] | Tensor) -> int | None:
        """Return the control point that u sits on exactly, or None."""
        weights = self.weights(u)
        return weights.index(1.0) if weights.count(0.0) == len(weights) - 1 and 1.0 in weights else None

    def theta(self, u: float | Sequence[float] | Tensor) -> Tensor:
        """Return the flat weights basis(u) @ points, (D,); at a corner bitwise the control point."""
        return mix(self, self.weights(u), torch.empty_like(self.fixed[0] if len(self.fixed) else self.free[0]))

    def at(self, u: float | Sequence[float] | Tensor, *, settle: Settle | None = None) -> nn.Module:
        """Return the model at `u`: an ordinary module, independent of the bridge and of every other point.

        At a corner it is bitwise the model given there, buffers included. Elsewhere BatchNorm statistics belong to neither end:
        `settle` (for instance `isthmus.settle.Recalibrate(samples)`) recomputes them; without it they are those of the heaviest
        corner, which is right for modules without running statistics and poor for the others.
        """
        module = deepcopy(self.template)
        write(self, module, u)
        if settle is not None and settles(self, u, settle):
            settle(module)
        return module

    def with_free(self, free: Tensor, states: Mapping[int, Mapping[str, Tensor]] | None = None) -> "Bridge":
        """Return the bridge with other free control points; the fixed ones are shared."""
        require(free.shape == self.free.shape, "free", f"have shape {tuple(self.free.shape)}", tuple(free.shape))
        return replace(self, free=free, states=self.states if states is None else states)


def settles(bridge: Bridge, u: float | Sequence[float] | Tensor, settle: Settle) -> bool:
    """Return whether `settle` is to be asked at `u`: not at a given model, unless the policy has `everywhere` set."""
    return getattr(settle, "everywhere", False) or bridge.corner(u) not in bridge.states


def mix(bridge: Bridge, weights: Sequence[float], out: Tensor) -> Tensor:
    """Return `out` holding sum_i weights_i * point_i. One pass per control point with a weight; a lone weight 1 copies bitwise.

    Weights of zero are skipped, so a point that has diverged cannot turn the others into NaN (0 * inf).
    """
    used = [(i, weight) for i, weight in enumerate(weights) if weight != 0.0]
    if len(used) == 1 and used[0][1] == 1.0:
        return out.copy_(bridge.row(used[0][0]))
    for position, (i, weight) in enumerate(used):
        if position == 0:
            torch.mul(bridge.row(i), weight, out=out)
        else:
            out.add_(bridge.row(i), alpha=weight)
    return out


def write(bridge: Bridge, module: nn.Module, u: float | Sequence[float] | Tensor) -> None:
    """Write the point at `u` into `module`, a copy of the template, in place: parameters and buffers."""
    weights = bridge.weights(u)
    values = bridge.layout.unflatten(bridge.theta(u))
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    if bridge.states:
        load_buffers(module, bridge.states[max(bridge.states, key=lambda i: weights[i])])
