"""Numbers of a report that carry their uncertainty: a share with its count, an estimate with its interval."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from isthmus.rates import Rate

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class RateEntry(BaseModel, frozen=True, extra="forbid"):
    """A share of `n` images as a fraction in [0, 1], with its Wilson 95 % interval."""

    value: Fraction
    n: Annotated[int, Field(ge=1)]
    low: Fraction
    high: Fraction

    @classmethod
    def of(cls, rate: Rate) -> Self:
        """Return the entry for a counted rate."""
        return cls(value=rate.value, n=rate.n, low=rate.low, high=rate.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        # Wilson bounds are computed in floating point: at 0 hits the lower one may miss the value by a rounding error.
        slack = 1e-9
        if not self.low - slack <= self.value <= self.high + slack:
            raise ValueError(f"`low <= value <= high` should hold. Found {self.low}, {self.value}, {self.high}.")
        return self


class Estimate(BaseModel, frozen=True, extra="forbid"):
    """A number with its interval, both bounds or none. Unlike a share it may be negative: accuracy can rise, success can grow."""

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"`low` and `high` should both be given, or neither. Found {self.low}, {self.high}.")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"`low <= value <= high` should hold. Found {self.low}, {self.value}, {self.high}.")
        return self


class Bin(BaseModel, frozen=True, extra="forbid"):
    """The images whose largest probability lies in one bin: how many, its mean, and the share answered rightly; null for none."""

    n: Count
    confidence: Fraction | None = None
    accuracy: Fraction | None = None


class Calibration(BaseModel, frozen=True, extra="forbid"):
    """How far confidence is from accuracy: the expected calibration error over bins of equal width of the largest probability.

    error = sum over bins of (n_b / n) |accuracy_b - confidence_b|. by_chance: what a perfectly calibrated model with these confidences
    would show on `n` samples, since a finite sample never gives 0. confidence: the mean largest probability. by_bin: the bins
    ((b - 1) / bins, b / bins] from the lowest on, from which the error is found again; none in documents that were written without.
    """

    error: Fraction
    by_chance: Fraction
    confidence: Fraction
    bins: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    by_bin: tuple[Bin, ...] = ()


class Change(BaseModel, frozen=True, extra="forbid"):
    """The change of accuracy on the same `n` images, this model minus `against`, as a fraction in [-1, 1] with its paired 95 % interval.

    lost, won: images right only before, only after. p_value: McNemar's exact two-sided test that both are equally frequent.
    """

    against: str
    n: Annotated[int, Field(ge=1)]
    lost: Count
    won: Count
    value: float
    low: float
    high: float
    p_value: Fraction
