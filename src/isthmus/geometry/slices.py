"""Slices: planes and lines through a model in weight space. A slice is a bridge over `Affine`, so measuring it is a scan."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require, require_finite, unknown
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Affine
from isthmus.layout import Layout, buffers_of, require_same_architecture

Normalise = Literal["filter", "layer", "global"]
PARALLEL = 1e-6  # the sine of an angle below which two directions span no plane


def slice_bridge(model: nn.Module, directions: Tensor) -> Bridge:
    """Return the flat bridge theta(a, b) = theta + a d_1 + b d_2 through `model`, over `Affine(k + 1)`.

    directions: (k, D), k = 1 or 2, in the order of `Layout.of(model)`; coordinates are in units of their lengths. At (0, 0) it is
    bitwise the model, and everywhere the buffers are the model's. Control points are kept in float64 whatever the model's precision:
    theta + d rounded to float32 would lose what a small a moves. Raises InputError for directions of another size, zero, parallel or
    not finite.
    """
    layout, theta = flat(model)
    directions = directions.detach().double().cpu()
    fits = directions.ndim == 2 and len(directions) in (1, 2) and directions.shape[1] == layout.size
    require(fits, "directions", f"have shape (1 or 2, {layout.size}), the model's weights", tuple(directions.shape))
    require_independent(directions)
    points = torch.cat([theta[None], theta + directions])
    states = {0: buffers_of(model)}
    return Bridge(deepcopy(model), layout, Affine(len(points)), points, points[:0], tuple(range(len(points))), states)


def flat(model: nn.Module, name: str = "model") -> tuple[Layout, Tensor]:
    """Return the layout of `model` and its weights (D,) in float64. Raises InputError for weights that are not finite."""
    layout = Layout.of(model)
    held = {key: value.detach() for key, value in model.named_parameters()}
    require_finite(held, name)
    return layout, layout.flatten(held).double().cpu()


def require_independent(directions: Tensor, name: str = "directions") -> None:
    """Raise InputError where a row of `directions` (k, D) is zero or not finite, or two are parallel."""
    require_finite({name: directions}, name)
    lengths = directions.norm(dim=1)
    require(bool((lengths > 0).all()), name, "be no zero vectors", f"lengths {[float(f'{x:.3g}') for x in lengths]}")
    for (first, one), (second, two) in pairwise(zip(directions, lengths, strict=True)):
        apart = second / two - (first / one) * ((first / one) @ (second / two))
        sine = float(apart.norm())
        require(sine > PARALLEL, name, "span a plane", f"two that are parallel (sine of their angle {sine:.2g})")


def random_directions(
    model: nn.Module,
    count: int,
    *,
    generator: torch.Generator,
    normalise: Normalise = "filter",
    orthogonal: bool = False,
) -> Tensor:
    """Return (count, D) float64 directions drawn from a Gaussian and scaled to the model.

    filter: each filter (the weights into one output channel or unit) gets the norm of the model's own filter, and biases and BatchNorm
    parameters, tensors of one axis, are zero (Li et al. 2018, section 4). The code of Liu et al. 2020 gives those entries a random sign
    and the model's own size instead. layer: the same with whole tensors. global: one Gaussian vector over its norm, length 1, biases
    included (Liu et al. 2020, perturbation similarity). Parameters that the owner froze do not move.

    orthogonal: each direction is made orthogonal to those before it, filter by filter, so that lengths stay the model's. A filter of a
    single weight then moves along the first direction only. Raises InputError for an unknown `normalise` and a count below 1.
    """
    require(count >= 1, "count", "be at least 1", count)
    if normalise not in get_args(Normalise):
        raise unknown("normalise", normalise, get_args(Normalise))
    layout, theta = flat(model)
    drawn = torch.randn(count, layout.size, generator=generator, dtype=torch.float64)
    own = dict(model.named_parameters())
    frozen = [place for name, place in zip(layout.names, layout.slices, strict=True) if not own[name].requires_grad]
    for place in frozen:
        drawn[:, place] = 0.0
    found = torch.zeros_like(drawn)
    for place, rows in _blocks(layout, normalise):
        shape = (rows, -1)
        goal = theta[place].view(shape).norm(dim=1) if normalise != "global" else torch.ones(1, dtype=torch.float64)
        block = drawn[:, place].reshape(count, *theta[place].view(shape).shape)
        if orthogonal:
            block = _orthogonal(block)
        length = block.norm(dim=2)
        scale = torch.where(length > 0, goal / length.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        found[:, place] = (block * scale[:, :, None]).reshape(count, -1)
    moved = bool((found.norm(dim=1) > 0).all())
    require(moved, "model", f"have weights for {count} direction(s) to move", "none that are not zero or frozen")
    return found


def _blocks(layout: Layout, normalise: Normalise) -> Iterator[tuple[slice, int]]:
    """Yield the places in the vector that are scaled, each with the number of equal parts that are scaled apart."""
    if normalise == "global":
        yield slice(0, layout.size), 1
        return
    for place, shape in zip(layout.slices, layout.shapes, strict=True):
        if len(shape) > 1 and place.stop > place.start:
            yield place, shape[0] if normalise == "filter" else 1


def _orthogonal(block: Tensor) -> Tensor:
    """Return (count, parts, size) with every part orthogonal to that of each direction before (Gram-Schmidt); rounding alone is 0."""
    kept: list[Tensor] = []
    for direction in block:
        rest = direction.clone()
        for _ in range(2):  # once more: the first pass leaves what rounding left
            for before in kept:
                size = (before * before).sum(1, keepdim=True)
                share = (before * rest).sum(1, keepdim=True) / torch.where(size > 0, size, 1.0)
                rest = rest - share * before
        gone = rest.norm(dim=1) <= PARALLEL * direction.norm(dim=1)
        kept.append(torch.where(gone[:, None], 0.0, rest))
    return torch.stack(kept)


@dataclass(frozen=True)
class Axes:
    """Orthonormal directions (2, D), and the coordinates (m, 2) of the given models on them, in weight units."""

    directions: Tensor
    coordinates: Tensor


def plane_directions(models: Sequence[nn.Module], *, names: Sequence[str] = ()) -> Axes:
    """Return the axes of the plane through three models: from the first towards the second, and across towards the third.

    u = theta_2 - theta_1, v = theta_3 - theta_1 less its part along u, both over their norms (Garipov et al. 2018, figure 1); the first
    model is the origin. Raises InputError for another number of models, architectures that differ, and models on one line.
    """
    require(len(models) == 3, "models", "be three to span a plane", len(models))
    labels = tuple(names) or ("model 1", "model 2", "model 3")
    for label, model in zip(labels, models, strict=True):
        require_same_architecture(models[0], model, (labels[0], label))
    thetas = [flat(model, label)[1] for label, model in zip(labels, models, strict=True)]
    raw = torch.stack([thetas[1] - thetas[0], thetas[2] - thetas[0]])
    lengths = raw.norm(dim=1)
    for label, length in zip(labels[1:], lengths.tolist(), strict=True):
        require(length > 0, label, f"differ from {labels[0]} to span a plane", "the same weights")
    directions = _orthogonal(raw[:, None])[:, 0]
    height = float(directions[1].norm())
    on_line = f"{labels[0]}, {labels[1]} and {labels[2]} on one line"
    # Of models close to each other, what leaves the line may be nothing but the rounding of their weights.
    rounding = torch.finfo(Layout.of(models[0]).dtype).eps * float(thetas[0].norm())
    apart = height > max(PARALLEL * float(lengths.max()), rounding)
    require(apart, "models", "span a plane", on_line, "Give another model, or scan the line.")
    directions = directions / directions.norm(dim=1, keepdim=True)
    return Axes(directions, torch.cat([torch.zeros(1, 2, dtype=torch.float64), raw @ directions.T]))


def tangent_directions(bridge: Bridge, u: float | Sequence[float] | Tensor) -> Tensor:
    """Return (d, D) float64 orthonormal directions of the tangent of a curve (d = 1) or surface (d = 2) at `u`.

    The first is d theta / d u_1 over its norm, the second d theta / d u_2 less its part along the first. Raises InputError for more
    coordinates, and where the derivatives vanish or are parallel.
    """
    dim = bridge.basis.dim
    require(dim in (1, 2), "bridge", "be a curve or a surface to have a tangent line or plane", f"{dim} coordinates")
    derivative = bridge.basis.derivative(bridge.coordinates(u)).double()
    points = bridge.points.detach().cpu().double()
    raw = derivative @ (points - points[:1])  # rows sum to 0: taken from the first point nothing large cancels
    require_independent(raw, "tangent")
    return _orthonormal(raw)


def _orthonormal(rows: Tensor) -> Tensor:
    """Return the rows made orthonormal, each along its own part that those before it leave."""
    found = _orthogonal(rows[:, None])[:, 0]
    return found / found.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Projection:
    """Nearest points of a slice. coordinates: (m, k). residual: (m,) distance of each from the slice, in weight units."""

    coordinates: Tensor
    residual: Tensor


def project(bridge: Bridge, thetas: Tensor) -> Projection:
    """Return where flat weights `thetas` (m, D) fall in the slice `bridge`: the least-squares coordinates and the distance out of it.

    Raises InputError for a bridge that is not flat and for weights of another size.
    """
    if not isinstance(bridge.basis, Affine):
        raise InputError(f"`bridge` should be a slice, as `slice_bridge` makes it. Found {bridge.basis}.")
    size = bridge.layout.size
    fits = thetas.ndim == 2 and thetas.shape[1] == size
    require(fits, "thetas", f"have shape (m, {size})", tuple(thetas.shape))
    points = bridge.points.double()
    apart = thetas.detach().double().cpu() - points[0]
    axes = (points[1:] - points[0]).T
    coordinates = torch.linalg.lstsq(axes, apart.T).solution.T
    return Projection(coordinates, (apart - coordinates @ axes.T).norm(dim=1))


@dataclass(frozen=True)
class Principal:
    """Principal directions (k, D) of a trajectory, orthonormal, and the share of its variation that each holds."""

    directions: Tensor
    shares: tuple[float, ...]


def principal_directions(model: nn.Module, thetas: Tensor, count: int = 2) -> Principal:
    """Return the `count` principal components of theta_i - theta over the weights `thetas` (m, D) of a trajectory that ends at `model`.

    Li et al. 2018, section 7: the differences are not centred. By the singular values s, the share of a direction is s_i^2 / sum s^2.
    Raises InputError where the trajectory spans fewer directions.
    """
    layout, end = flat(model)
    fits = thetas.ndim == 2 and thetas.shape[1] == layout.size
    require(fits, "thetas", f"have shape (m, {layout.size})", tuple(thetas.shape))
    apart = thetas.detach().double().cpu() - end
    _, values, rows = torch.linalg.svd(apart, full_matrices=False)
    spanned = int((values > PARALLEL * values.max()).sum()) if bool(values.any()) else 0
    fix = "Give the weights of more epochs."
    require(spanned >= count, "trajectory", f"span {count} direction(s) from the model", f"{spanned}", fix)
    shares = (values**2 / (values**2).sum())[:count].tolist()
    return Principal(rows[:count].clone(), tuple(shares))
