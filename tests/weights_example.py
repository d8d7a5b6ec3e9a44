"""A small trained-looking model of the digits in a file, and its dense Hessian by functional calls: what `curvature` is compared with."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional

from cli_example import DIGITS
from isthmus.data import Samples, load_data
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier
from isthmus.models import build_model
from isthmus.randomness import stream
from isthmus.store import Card, save_bridge, save_model

ARCH, WIDTH = "mlp:depth=1", 4


def model(seed: int = 0, scale: float = 2.0) -> nn.Module:
    """304 weights or so, larger than at the start, so that the loss is not flat."""
    module = build_model(ARCH, num_classes=10, input_shape=DIGITS, width=WIDTH, seed=seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    return module


def file(path: Path, module: nn.Module | None = None) -> Path:
    """Write a model that says what it is."""
    card = Card(arch=ARCH, width=WIDTH, num_classes=10, input_shape=DIGITS, data="digits")
    save_model(model() if module is None else module, path, card)
    return path


def images(n: int | None = 60, split: str = "test", seed: int = 0) -> Samples:
    """The images of which the command takes its share."""
    whole = getattr(load_data("digits"), split)
    return whole if n is None else whole.subset(n, generator=stream(seed, split))


def mean_loss(module: nn.Module, x: Tensor, y: Tensor):
    """The mean cross-entropy as a function of the flat weights, in float64."""
    held = {name: parameter.detach().double() for name, parameter in module.named_parameters()}

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split([value.numel() for value in held.values()])
        values = {name: piece.view_as(held[name]) for name, piece in zip(held, pieces, strict=True)}
        return functional.cross_entropy(functional_call(module, values, (x.double(),)), y)

    return loss, torch.cat([value.flatten() for value in held.values()])


def dense_hessian(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(D, D) float64."""
    loss, theta = mean_loss(module, x, y)
    return hessian(loss, theta)


def descending(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).flip(0)


def bridge_file(folder: Path) -> tuple[str, Bridge]:
    """Write a curve between two models, and return its folder and the curve."""
    ends = [model(seed) for seed in (0, 1)]
    bridge = bezier(ends)
    with torch.no_grad():
        bridge.free.add_(0.3 * torch.randn(bridge.free.shape, generator=torch.Generator().manual_seed(2)))
    card = Card(arch=ARCH, width=WIDTH, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bridge, folder / "bridge.safetensors", meta=card)
    return str(folder), bridge
