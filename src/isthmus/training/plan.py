"""`Plan`: how to train, as plain validated values."""

from math import cos, pi
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isthmus.data import Augment


class Plan(BaseModel):
    """Settings of one training run; the same for a single model and for a bridge.

    decay: where `weight_decay` acts. "theta" adds weight_decay * theta(u) to the gradient at the point (Garipov et al. 2018);
    "points" shrinks the control points themselves (Ren et al. 2025). For a single model trained by SGD both are the same.
    num_points: coordinates u drawn per micro-batch, each a forward and backward pass over it, gradients averaged. accumulate:
    micro-batches per step. sharpness: radius rho of the adaptive ascent step (Kwon et al. 2021) taken on theta(u) before the gradient;
    None for the plain gradient. clip: largest gradient norm at a point. milestones: shares of the steps. channels_last: None tries it.
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
    sampling: Literal["uniform", "stratified"] = "uniform"
    accumulate: int = Field(default=1, ge=1)
    sharpness: float | None = Field(default=None, gt=0)
    clip: float | None = Field(default=None, gt=0)
    augment: Augment = Augment()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool | None = None

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` should come with a momentum above 0. Found 0.0.")
        return self

    @property
    def evaluations(self) -> int:
        """Return how many gradients of a whole batch the plan takes: the unit in which remedies are compared."""
        return self.steps * self.num_points * (1 if self.sharpness is None else 2)


def learning_rate(plan: Plan, step: int) -> float:
    """Return the learning rate at `step`, from 0 to plan.steps - 1.

    cosine: (1 + cos(pi s)) / 2 (Loshchilov and Hutter 2017); multistep: gamma for every milestone passed; triangular: a straight rise over
    `warmup` of the steps and a straight fall to zero. `warmup` makes every schedule rise linearly over its first part.

    >>> learning_rate(Plan(steps=4, learning_rate=1.0, schedule="multistep", milestones=(0.5,)), 2)
    0.1
    """
    done = step / plan.steps
    if done < plan.warmup:
        return plan.learning_rate * min(1.0, (step + 1) / (plan.warmup * plan.steps))
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
