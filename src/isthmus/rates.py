"""`Rate`: a share of samples with its Wilson interval; spreads over seeds, paired tests and sample sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, fsum, isfinite, nan, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from isthmus._check import InputError, require

Z95 = NormalDist().inv_cdf(0.975)


def wilson(value: float, n: int) -> tuple[float, float]:
    """Return the two-sided 95 % interval (low, high) in [0, 1] of a share `value` in [0, 1] seen in `n` samples.

    centre +- half with centre = (p + z^2 / 2n) / (1 + z^2 / n), half = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    Wilson 1927. Without continuity correction. No hit gives low = 0 exactly, nothing but hits gives high = 1 exactly.

    >>> low, high = wilson(0.5, 4)
    >>> round(low + high, 12)
    1.0
    """
    require(n >= 1, "n", "be at least 1", n)
    require(0.0 <= value <= 1.0, "value", "be a share in [0, 1]", value)
    scale = 1 + Z95**2 / n
    centre = (value + Z95**2 / (2 * n)) / scale
    half = Z95 * sqrt(value * (1 - value) / n + Z95**2 / (4 * n**2)) / scale
    return (0.0 if value == 0.0 else max(0.0, centre - half)), (1.0 if value == 1.0 else min(1.0, centre + half))


@dataclass(frozen=True)
class Rate:
    """`hits` of `n` samples; `value`, `low` and `high` are shares in [0, 1], the bounds those of :func:`wilson`."""

    hits: int
    n: int

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", "be at least 1, because a rate of no samples says nothing", self.n)
        require(0 <= self.hits <= self.n, "hits", f"be in 0..{self.n}", self.hits)

    @classmethod
    def of(cls, outcomes: Tensor) -> "Rate":
        """Return the rate of True in a boolean tensor of shape (N,)."""
        require(outcomes.dtype == torch.bool, "outcomes", "be a boolean tensor", str(outcomes.dtype))
        return cls(int(outcomes.sum()), outcomes.numel())

    @property
    def value(self) -> float:
        """Return hits / n."""
        return self.hits / self.n

    @property
    def low(self) -> float:
        """Return the lower Wilson 95 % bound."""
        return wilson(self.value, self.n)[0]

    @property
    def high(self) -> float:
        """Return the upper Wilson 95 % bound."""
        return wilson(self.value, self.n)[1]

    def __str__(self) -> str:
        """Return for instance `1.2 % (0.8-1.7, n = 3,600)`; the bounds are the 95 % Wilson interval in %."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f}, n = {self.n:,})"

    def to_json(self) -> dict[str, float | int]:
        """Return `{"value", "n", "low", "high"}`, all shares as fractions."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, document: Mapping[str, float | int]) -> "Rate":
        """Return the rate written by :meth:`to_json`. Raises InputError where `value` is no share of `n` samples."""
        missing = [key for key in ("value", "n") if key not in document]
        require(not missing, "rate", "have 'value' and 'n'", f"no {', '.join(missing)}")
        return cls(hits_of(float(document["value"]), int(document["n"])), int(document["n"]))


def hits_of(value: float, n: int) -> int:
    """Return k for which `value` = k / n. Raises InputError where there is none."""
    require(isfinite(value), "value", "be a share in [0, 1]", value)
    hits = round(value * n)
    # Float32 percentages are off by some 1e-7 of themselves, never by a large part of one sample.
    if abs(value * n - hits) > min(0.25, 1e-3 + 1e-6 * n):
        raise InputError(f"`value` should be a whole number of samples over n = {n}. Found {value!r}.")
    return hits


def samples_needed(rate_value: float, half_width: float) -> int:
    """Return the smallest n at which the Wilson interval of a share `rate_value` is at most +-`half_width` wide (fractions).

    Solves half = z sqrt(p (1 - p) n + z^2 / 4) / (n + z^2), which falls with n, for n.

    >>> samples_needed(0.5, 0.05)
    381
    """
    require(0.0 <= rate_value <= 1.0, "rate_value", "be a share in [0, 1]", rate_value)
    require(0.0 < half_width < 0.5, "half_width", "be in (0, 0.5)", half_width)
    z2, variance = Z95**2, rate_value * (1 - rate_value)
    root = sqrt(z2**2 * variance**2 + 4 * half_width**2 * z2 * (z2 / 4 - variance * z2))
    return max(1, ceil((z2 * variance + root) / (2 * half_width**2) - z2 - 1e-9))


def samples_to_decide(rate_value: float, limit: float) -> int:
    """Return the smallest n at which a share `rate_value` has `limit` outside its Wilson interval: z^2 l (1 - l) / (p - l)^2.

    The Wilson interval is the inverted score test, hence the variance at `limit`.

    >>> samples_to_decide(0.0, 0.05)
    73
    """
    require(0.0 <= rate_value <= 1.0, "rate_value", "be a share in [0, 1]", rate_value)
    require(0.0 < limit < 1.0, "limit", "be in (0, 1)", limit)
    require(
        rate_value != limit, "rate_value", f"differ from the limit {limit}, or no number of samples decides", rate_value
    )
    return int(Z95**2 * limit * (1 - limit) / (rate_value - limit) ** 2) + 1


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, sample standard deviation with n - 1) of `values`; the deviation of a single value is NaN.

    >>> spread([1.0, 3.0]) == (2.0, 2**0.5)
    True
    """
    require(len(values) >= 1, "values", "hold at least one number", "none")
    mean = fsum(values) / len(values)
    if len(values) == 1:
        return mean, nan
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class Paired:
    """Outcome of McNemar's exact test: `only_first` and `only_second` are the discordant pairs of `n`."""

    only_first: int
    only_second: int
    n: int
    p_value: float

    @property
    def change(self) -> float:
        """Return (only_second - only_first) / n, the second rate minus the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.n


def mcnemar(first: Tensor, second: Tensor) -> Paired:
    """Return the exact two-sided test that two boolean outcomes (N,) on the same samples have one rate.

    Given b + c discordant pairs, b is Binomial(b + c, 1/2) under equality. McNemar 1947; no pair discordant gives p = 1.
    """
    require(
        first.dtype == torch.bool and second.dtype == torch.bool,
        "outcomes",
        "be boolean",
        f"{first.dtype}, {second.dtype}",
    )
    require(
        first.shape == second.shape, "second", f"have the shape {tuple(first.shape)} of `first`", tuple(second.shape)
    )
    require(first.numel() >= 1, "first", "hold at least one outcome", "none")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return Paired(0, 0, first.numel(), 1.0)
    from scipy.stats import binomtest  # half a second to import

    result = binomtest(only_first, only_first + only_second, 0.5)
    return Paired(only_first, only_second, first.numel(), float(result.pvalue))
