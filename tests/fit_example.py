"""A training step written once more, through autograd and `functional_call`: what `fit` is compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from contracts.modules import seeded
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.randomness import stream
from isthmus.training.plan import Plan


def toy(n: int = 24, *, shape: tuple[int, ...] = (3, 8, 8), classes: int = 5, noise: int = 256) -> Samples:
    """Random images; with little noise all of a class look alike, so that they are quickly learned."""
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(n) % classes
    faces = torch.randint(257 - noise, (classes, *shape), generator=generator)
    x = faces[y] + torch.randint(noise, (n, *shape), generator=generator)
    return Samples(x.byte(), y, classes, "toy/train")


def small(seed: int, dtype: torch.dtype = torch.float64, *, norm: bool = False) -> nn.Module:
    """A convolution and two linear layers for `toy()`, with BatchNorm on request."""
    with seeded(seed):
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 6), nn.Tanh()]
        layers.insert(1, nn.BatchNorm2d(4) if norm else nn.Identity())
        return nn.Sequential(*layers, nn.Linear(6, 5)).to(dtype)


def gradient_plan(**changes: object) -> Plan:
    """One plain step of rate 1: what the weights lose is the gradient."""
    plain = {"steps": 1, "batch_size": 8, "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    return Plan.model_validate({**plain, "schedule": "constant", **changes})


def inputs(samples: Samples, index: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return samples.x[index].to(dtype) / 255


def batches(samples: Samples, plan: Plan, seed: int) -> Tensor:
    """The (steps, batch_size) positions: permutations end to end, cut into batches."""
    n, needed = len(samples), plan.steps * plan.batch_size
    epochs = [torch.randperm(n, generator=stream(seed, "order", epoch)) for epoch in range(needed // n + 1)]
    return torch.cat(epochs)[:needed].view(plan.steps, plan.batch_size)


def named(module: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """The parameters of `module` with the values of a flat vector, differentiable in it."""
    sizes = [p.numel() for p in module.parameters()]
    pieces = vector.split(sizes)
    return {name: piece.view_as(p) for (name, p), piece in zip(module.named_parameters(), pieces, strict=True)}


def mean_loss(module: nn.Module, vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(functional_call(module, named(module, vector), (x,)), y)


def mixing_gradient(
    bridge: Bridge, micro: Sequence[tuple[Tensor, Tensor]], draws: Tensor, module: nn.Module | None = None
) -> Tensor:
    """The gradient at the free points: autograd through basis(u) @ points, mean over micro-batches and coordinates of each."""
    module = (module or bridge.at(bridge.basis.corners[0][0])).train()
    points = bridge.points.clone().requires_grad_()
    total = torch.zeros((), dtype=points.dtype)
    samples = sum(len(y) for _, y in micro)
    for (x, y), own in zip(micro, draws.view(len(micro), -1, bridge.basis.dim), strict=True):
        for u in own:
            theta = bridge.basis(u).to(points.dtype) @ points
            total = total + mean_loss(module, theta, x, y) * len(y) / samples / len(own)
    total.backward()
    assert points.grad is not None
    return points.grad[list(bridge.free_index)]
