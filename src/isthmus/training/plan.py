"""`Plan`: how to train, as plain validated values."""

from math import cos, pi
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isthmus.data import Augment


class Plan(BaseModel):
    """Settings of one training run; the same for a single model and for a bridge.

    decay: where `weight_decay` acts. "theta" adds weight_decay * theta(u) to the gradient at the point (Garipov et al. 2018);
    "points" shrinks the control points themselves (Ren et al. 2025). For a single model trained by SGD both are the same.
    num_points: coordinates u drawn per micro-batch, each a forward and backward pass over it, gradients averaged. sampling: u uniform,
    stratified, or uniform over the length or area that the bridge has at that step; the gradient of that density is left out, as it is
    where u is uniform; "points": the coordinates of the free control points, in turn. accumulate: micro-batches per step.
    sharpness: radius rho of an ascent step taken on theta(u) before the gradient; None for the plain gradient.
    ascent: "adaptive" (Kwon et al. 2021), or "layerwise", in which rho is a share of each layer's norm (adversarial weight perturbation,
    Wu et al. 2020, eq. 9). clip: largest gradient norm at a point. resets: shares of the steps at which a cycle ends: the learning rate
    starts anew where `restart_rate`, and the point is kept as a snapshot. milestones: shares of a cycle. average: decay of an exponential
    average of the free points, None for none. log_every: steps between rows of the history, None for a hundredth of the steps.
    until: training ends before `steps` with a row of the history whose loss is below this (nat), None for no such end.
    channels_last: None tries it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=800, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)
    decay: Literal["theta", "points"] = "theta"
    schedule: Literal["cosine", "multistep", "triangular", "constant"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    num_points: int = Field(default=1, ge=1)
    sampling: Literal["uniform", "stratified", "area", "points"] = "uniform"
    accumulate: int = Field(default=1, ge=1)
    sharpness: float | None = Field(default=None, gt=0)
    ascent: Literal["adaptive", "layerwise"] = "adaptive"
    clip: float | None = Field(default=None, gt=0)
    resets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    restart_rate: bool = True
    average: float | None = Field(default=None, gt=0, lt=1)
    log_every: int | None = Field(default=None, ge=1)
    until: float | None = Field(default=None, gt=0)
    augment: Augment = Augment()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool | None = None

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` should come with a momentum above 0. Found 0.0.")
        return self

    @model_validator(mode="after")
    def _resets_rise(self) -> Self:
        if list(self.resets) != sorted(set(self.resets)):
            raise ValueError(f"`resets` should rise. Found {self.resets}.")
        return self

    @property
    def evaluations(self) -> int:
        """Return how many gradients of a whole batch the plan takes: the unit in which remedies are compared."""
        return self.evaluations_with(0)

    def evaluations_with(self, crafting: int) -> int:
        """Return the same for an objective that takes `crafting` further gradient passes to pose a batch."""
        return self.steps * self.num_points * (crafting + (1 if self.sharpness is None else 2))

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """Return the numbers of steps after which a cycle ends, the last one included."""
        return (*(round(reset * self.steps) for reset in self.resets), self.steps)

    @property
    def cycle_starts(self) -> tuple[float, ...]:
        """Return `resets` as the shares of the steps at which cycles really begin, which are whole steps."""
        return tuple(end / self.steps for end in self.cycle_ends[:-1])


def learning_rate(plan: Plan, step: int) -> float:
    """Return the learning rate at `step`, from 0 to plan.steps - 1.

    cosine: (1 + cos(pi s)) / 2 (Loshchilov and Hutter 2017); multistep: gamma for every milestone passed; triangular: a straight rise over
    `warmup` of the steps and a straight fall to zero. `warmup` makes every schedule rise linearly over its first part. With resets each
    cycle is such a schedule (Loshchilov and Hutter 2017, warm restarts).

    >>> learning_rate(Plan(steps=4, learning_rate=1.0, schedule="multistep", milestones=(0.5,)), 2)
    0.1
    """
    start, end = 0, plan.steps
    if plan.restart_rate:
        start = max((first for first in plan.cycle_ends if first <= step), default=0)
        end = min(last for last in plan.cycle_ends if last > step)
    done = (step - start) / (end - start)
    if done < plan.warmup:
        return plan.learning_rate * min(1.0, (step - start + 1) / (plan.warmup * (end - start)))
    rest = (done - plan.warmup) / (1 - plan.warmup)
    match plan.schedule:
        case "cosine":
            factor = (1 + cos(pi * rest)) / 2
        case "multistep":
            factor = plan.gamma ** sum(done >= milestone for milestone in plan.milestones)
        case "triangular":
            factor = 1 - rest
        case "constant":
            factor = 1.0
    return plan.learning_rate * factor
