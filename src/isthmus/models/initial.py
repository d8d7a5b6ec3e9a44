"""Initial weights: drawn from a seed, with the caller's random state left as it was."""

from collections.abc import Generator
from contextlib import contextmanager
from math import sqrt

import torch
from torch import nn


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Return a context in which modules draw their weights from `seed`, on the CPU, whatever was drawn before it or after it.

    Only the CPU generator is seeded (`torch.manual_seed` would seed every device) and it is restored at the end.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)
        yield


def he_convolutions(module: nn.Module) -> None:
    """Draw each convolution of a fresh `module` from N(0, 2 / (kernel area x output channels)), biases zero.

    He et al. 2015, the fan-out form, as in the VGG and ResNet of Garipov et al. 2018: without it VGG16 without BatchNorm stays
    at chance.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            nn.init.normal_(layer.weight, std=sqrt(2 / (area * layer.out_channels)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
