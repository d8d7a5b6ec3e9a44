"""`Budget`: the adversary's radius over the course of a training."""

from itertools import pairwise
from math import acos, ceil, cos, floor, pi
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isthmus._check import require

Kind = Literal["constant", "warm-up", "periodic-cosine", "periodic-linear"]
PEAKS: dict[Kind, float] = {"periodic-cosine": 1.5, "periodic-linear": 2.0}
"""Where a cycle would end, over the target, were it not clipped there: Liu et al. 2020 on MNIST. On CIFAR-10 they took 2 for both."""
_ROUNDING = 1e-9  # 29 / 100 * 100 is a little below 29, and is epoch 29


class Budget(BaseModel):
    """Radius of the adversary by progress, in units of the input; periodic kinds after Liu et al. 2020, eq. 13.

    With p the share of the cycle that is done, min the `minimum` and max the `overshoot`:
    periodic-cosine: (1 - cos(pi p)) / 2 (max - min) + min; periodic-linear: p (max - min) + min; both clipped at `target` from above.
    warm-up: from `minimum` straight to `target` over the share `warmup` of the training, once, then constant. constant: `target`.

    overshoot: where a cycle would end unclipped, in units of the input; None for 1.5 (cosine) or 2 (linear) times the target.
    resets: shares of the training at which a cycle starts anew, for the periodic kinds; () is one cycle.
    epochs: the radius changes only at the start of each of so many epochs, as in the paper; None changes it at every step.

    >>> mnist = Budget(kind="periodic-linear", target=0.4, epochs=100)
    >>> [round(mnist.at(share), 3) for share in (0.0, 0.25, 0.5, 0.75)]
    [0.0, 0.2, 0.4, 0.4]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind = "constant"
    target: float = Field(gt=0)
    minimum: float = Field(default=0.0, ge=0)
    overshoot: float | None = Field(default=None, gt=0)
    warmup: float = Field(default=0.2, gt=0, le=1)
    resets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    epochs: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _heights_rise(self) -> Self:
        if self.minimum > self.target:
            raise ValueError(f"`minimum` should be at most the target {self.target:g}. Found {self.minimum:g}.")
        if self.kind == "constant" and self.minimum > 0:
            raise ValueError(f"`minimum` should be 0 for a constant budget, which has no rise. Found {self.minimum:g}.")
        if self.overshoot is not None and self.kind not in PEAKS:
            raise ValueError(
                f"`overshoot` should be None for a {self.kind} budget, which has no peak. Found {self.overshoot:g}."
            )
        if self.overshoot is not None and self.overshoot < self.target:
            raise ValueError(
                f"`overshoot` should be at least the target {self.target:g}, or it is never reached. Found {self.overshoot:g}."
            )
        return self

    @model_validator(mode="after")
    def _resets_rise(self) -> Self:
        if list(self.resets) != sorted(set(self.resets)):
            raise ValueError(f"`resets` should rise. Found {self.resets}.")
        return self

    @property
    def peak(self) -> float:
        """Return the radius towards which a cycle rises, before it is clipped."""
        return PEAKS.get(self.kind, 1.0) * self.target if self.overshoot is None else self.overshoot

    @property
    def full(self) -> float:
        """Return the share of a cycle after which the target is in force (of the training, for a warm-up).

        >>> round(Budget(kind="periodic-cosine", target=0.4, overshoot=0.6).full, 3)
        0.608
        """
        height = (self.target - self.minimum) / (self.peak - self.minimum) if self.peak > self.minimum else 0.0
        match self.kind:
            case "constant":
                return 0.0
            case "warm-up":
                return self.warmup
            case "periodic-linear":
                return height
            case "periodic-cosine":
                return acos(1 - 2 * height) / pi

    @property
    def climbs(self) -> tuple[tuple[float, float], ...]:
        """Return (reset, back at the target) for each cycle after the first, as shares of the training.

        Between the two the budget is below the target, and a model may lose robustness it had.

        >>> Budget(kind="periodic-linear", target=1.0, resets=(0.5,)).climbs
        ((0.5, 0.75),)
        """
        if self.kind not in PEAKS:
            return ()
        found: list[tuple[float, float]] = []
        for start, end in pairwise((*self.resets, 1.0)):
            back = start + self.full * (end - start)
            if self.epochs is not None:  # the next epoch brings it
                back = min(end, ceil(back * self.epochs - _ROUNDING) / self.epochs)
            found.append((start, back))
        return tuple(found)

    def at(self, progress: float) -> float:
        """Return the radius at `progress`, the share of the training already done, in [0, 1). It may be 0: the image itself.

        Raises InputError where `progress` is outside.
        """
        require(0 <= progress < 1, "progress", "be a share of the training in [0, 1)", progress)
        if self.kind == "constant":
            return self.target
        done = progress if self.epochs is None else floor(progress * self.epochs + _ROUNDING) / self.epochs
        if self.kind == "warm-up":
            share = min(1.0, done / self.warmup)
            return min(self.target, share * (self.target - self.minimum) + self.minimum)
        start = max((reset for reset in self.resets if reset <= done), default=0.0)
        end = min((reset for reset in self.resets if reset > done), default=1.0)
        p = (done - start) / (end - start)
        height = (1 - cos(pi * p)) / 2 if self.kind == "periodic-cosine" else p
        return min(self.target, height * (self.peak - self.minimum) + self.minimum)
