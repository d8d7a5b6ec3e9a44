"""`mlp`: fully connected layers on the flattened input."""

from itertools import pairwise
from math import prod

from torch import nn

from isthmus.models.shapes import Shape, require_size, require_task


def mlp(num_classes: int, input_shape: Shape, *, width: int = 512, depth: int = 3) -> nn.Module:
    """Return `depth` hidden ReLU layers of `width` units on the flattened input, then a linear layer to the logits.

    The defaults are the MNIST network of Ainsworth et al. 2023 (Git Re-Basin). Any input shape will do.

    >>> sum(p.numel() for p in mlp(10, (1, 28, 28)).parameters()) == 785 * 512 + 2 * 513 * 512 + 513 * 10
    True
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    require_size("depth", depth)
    sizes = [prod(input_shape), *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for inside, outside in pairwise(sizes):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
