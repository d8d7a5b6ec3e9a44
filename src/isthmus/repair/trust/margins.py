"""`class_margins`: how far a model can be pushed towards each class from noise. A detector that sees no sample at all."""

from copy import deepcopy
from dataclasses import dataclass
from math import inf

import torch
from torch import nn

from isthmus._check import require
from isthmus.evaluate import checked_forward
from isthmus.layout import arranged, placement
from isthmus.losses import margin
from isthmus.randomness import stream


@dataclass(frozen=True)
class MarginSearch:
    """Settings of the maximum margin statistic: gradient ascent from `images` uniform random images per class (Wang et al. 2024).

    30 images, 300 steps, rate 0.01 and momentum 0.2 as published. One step is one gradient of a batch of classes x images.
    """

    images: int = 30
    steps: int = 300
    learning_rate: float = 0.01
    momentum: float = 0.2

    def __post_init__(self) -> None:
        require(self.images >= 1, "images", "be at least 1 for each class", self.images)
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.learning_rate > 0, "learning_rate", "be above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "be in [0, 1)", self.momentum)


@dataclass(frozen=True)
class Margins:
    """The largest margin reached for each class, in logits; the class of the largest of all; and its p-value, see :func:`outlier`.

    evaluations: gradients of a batch, each of `batch_size` images.
    """

    values: tuple[float, ...]
    p_value: float
    evaluations: int
    batch_size: int

    @property
    def suspect(self) -> int:
        """Return the class with the largest margin."""
        return max(range(len(self.values)), key=lambda k: self.values[k])

    @property
    def statistic(self) -> float:
        """Return 1 - p, in [0, 1]: larger where one class stands farther above the others."""
        return 1 - self.p_value


def class_margins(
    model: nn.Module, input_shape: tuple[int, ...], num_classes: int, search: MarginSearch | None = None, *, seed: int
) -> Margins:
    """Return for each class the largest z_k - max over j != k of z_j that gradient ascent over images in [0, 1] reaches (MM-BD).

    A backdoor makes its target's margin large (Wang et al., IEEE S&P 2024). Published as a test without data; it is weak where many
    classes are targets, as in all-to-all. Raises InputError for inputs that are not images (C, H, W) and for fewer than 3 classes.
    """
    search = search or MarginSearch()
    require(len(input_shape) == 3, "input_shape", "be that of images (C, H, W), whose box is [0, 1]", input_shape)
    require(num_classes >= 3, "num_classes", "be at least 3, or there is nothing to stand out from", num_classes)
    own = deepcopy(model).eval().requires_grad_(False)
    device, dtype = placement(own)
    count = num_classes * search.images
    x = torch.rand(count, *input_shape, generator=stream(seed, "margins")).to(device, dtype)
    order = arranged(own, x[:1])
    checked_forward(own, x[:1].contiguous(memory_format=order), num_classes)
    x = x.contiguous(memory_format=order)
    labels = torch.arange(num_classes, device=device).repeat_interleave(search.images)
    velocity = torch.zeros_like(x)
    for _ in range(search.steps):
        free = x.requires_grad_()
        gradient = torch.autograd.grad(margin(own(free).float(), labels).sum(), free)[0]
        velocity = search.momentum * velocity + gradient
        x = (free.detach() - search.learning_rate * velocity).clamp(0, 1)
    with torch.no_grad():
        reached = -margin(own(x).float(), labels)
    values = reached.view(num_classes, search.images).amax(1).double().tolist()
    return Margins(tuple(values), outlier(values), search.steps, count)


def outlier(values: list[float]) -> float:
    """Return p = 1 - F(max)^K, F the gamma distribution fitted to the K - 1 others: how likely a largest of K reaches that far.

    The gamma distribution starts at 0; the authors' code fits its start too, a third number from K - 1 margins. Margins at or below 0
    count as the smallest positive one. 1 where the others are all equal and the largest is too; 0 where it alone is larger.
    """
    top = max(values)
    rest = sorted(values)[:-1]
    least = min((value for value in rest if value > 0), default=inf)
    if not least < inf:
        return float(top <= 0)
    rest = [max(value, least) for value in rest]
    if rest[-1] - rest[0] <= 1e-12 * rest[-1]:
        return float(top <= rest[-1])
    from scipy.stats import gamma  # half a second to import

    shape, _, scale = gamma.fit(rest, floc=0)
    return float(-torch.expm1(len(values) * torch.tensor(gamma.logcdf(top, shape, scale=scale), dtype=torch.float64)))
