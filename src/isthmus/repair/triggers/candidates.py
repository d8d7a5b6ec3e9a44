"""What a search for triggers returns: `Stamp` and `Shift`, which are triggers, the `Candidate` of a class, the `Inversion` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isnan, nan
from statistics import median

from torch import Tensor

from isthmus._check import require
from isthmus.rates import Rate
from isthmus.tampering import Trigger
from isthmus.tampering.triggers import require_images

MAD_TO_DEVIATION = 1.4826
"""Standard deviations per median absolute deviation of a normal distribution."""


@dataclass(frozen=True, eq=False)
class Stamp:
    """Trigger (1 - m) x + m p: a mask m (H, W) and a pattern p (C, H, W), both in [0, 1] (Wang et al. 2019, eq. 2)."""

    mask: Tensor
    pattern: Tensor

    @property
    def spec(self) -> str:
        """Return a name made from the content; there is no text to read it back from."""
        return f"inverted-stamp:sha256={mark(self.mask, self.pattern)}"

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the images (B, C, H, W) with the pattern in the mask's share of each pixel."""
        _require_shape(x, self.pattern)
        mask, pattern = self.mask.to(x), self.pattern.to(x)
        return ((1 - mask) * x + mask * pattern).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Shift:
    """Trigger clip(x + d) with one change d (C, H, W) for all images."""

    change: Tensor

    @property
    def spec(self) -> str:
        """Return a name made from the content; there is no text to read it back from."""
        return f"inverted-shift:sha256={mark(self.change)}"

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the images (B, C, H, W), changed and clipped to [0, 1]."""
        _require_shape(x, self.change)
        return (x + self.change.to(x)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trigger found for one class. size: what was made small, pixels of the mask or nats of the loss; success: on held-out images.

    reached: whether the search met its own aim for the class; where it did not, size is that of the last try.
    """

    target: int
    trigger: Trigger
    size: float
    success: Rate
    reached: bool


@dataclass(frozen=True)
class Inversion:
    """The candidates of one search, by class. index: see :func:`anomaly`. evaluations: gradients of a batch."""

    method: str
    candidates: tuple[Candidate, ...]
    index: tuple[float, ...]
    evaluations: int

    @property
    def suspect(self) -> Candidate:
        """Return the candidate with the largest index, the smallest one where there is no index."""
        places = range(len(self.candidates))
        return self.candidates[
            max(places, key=lambda k: -self.candidates[k].size if isnan(self.index[k]) else self.index[k])
        ]

    @property
    def statistic(self) -> float:
        """Return the largest index: one number for the model, larger where one class is easier to reach than the others."""
        return max(self.index)


def anomaly(sizes: Sequence[float]) -> tuple[float, ...]:
    """Return (median - size) / (1.4826 MAD) for each class: how many deviations it lies below the others (Wang et al. 2019).

    MAD is the median absolute deviation. With fewer than 3 classes nothing is far from the rest: NaN. Where half of the sizes are equal
    (MAD 0) the mean absolute deviation takes its place, times 1.2533, and 0 where all are equal (Iglewicz and Hoaglin 1993).

    >>> [round(index, 2) for index in anomaly([1.0, 4.0, 5.0, 6.0, 7.0])]
    [2.7, 0.67, 0.0, -0.67, -1.35]
    """
    if len(sizes) < 3:
        return (nan,) * len(sizes)
    middle = median(sizes)
    away = [abs(size - middle) for size in sizes]
    scale = MAD_TO_DEVIATION * median(away) or 1.2533 * sum(away) / len(away)
    return tuple((middle - size) / scale if scale > 0 else 0.0 for size in sizes)


def mark(*tensors: Tensor) -> str:
    """Return twelve letters that tell the contents of tensors apart."""
    found = sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _require_shape(x: Tensor, like: Tensor) -> None:
    require_images(x, "an inverted trigger")
    require(x.shape[1:] == like.shape, "x", f"be images {tuple(like.shape)} like those it was found on", tuple(x.shape))
