"""`Adversary`: how to train against an attacker, as plain validated values."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Norm, Threat, parse_radius
from isthmus.training.adversarial import Adversarial, Trades
from isthmus.training.budget import Budget, Kind
from isthmus.training.objective import Objective


def _radius(value: object) -> object:
    return parse_radius(value) if isinstance(value, str) else value


Radius = Annotated[float, BeforeValidator(_radius), Field(gt=0)]
Method = Literal["pgd", "fgsm-rs", "n-fgsm", "trades"]
DEFAULTS: dict[Method, tuple[int, float, float]] = {
    "pgd": (10, 0.25, 1.0),
    "fgsm-rs": (1, 1.25, 1.0),
    "n-fgsm": (1, 1.0, 2.0),
    "trades": (10, 0.25, 0.03),
}
"""steps, then step and start in radii. pgd: 2/255 of 8/255 (Madry et al. 2018). fgsm-rs: Wong et al. 2020. n-fgsm: de Jorge et al. 2022,
noise of two radii. trades: Zhang et al. 2019, a start of 0.001 at 0.031."""


class Adversary(BaseModel):
    """Which attacker to train against, and how large its budget is at which time.

    eps: the radius for each of `norms`, in units of the input; `8/255` is accepted as text. steps, step, start: of the attack, the last
    two in radii; None for the method's own. schedule: of the budget, see :class:`Budget`; minimum and overshoot are shares of eps.
    resets: where a cycle starts anew, None for those of the plan. epochs: the budget changes once in an epoch of so many; None: at every
    step. clean_weight: the share of the plain loss in the mix. combine: how several norms are joined. beta: of TRADES.
    mode: statistics that BatchNorm uses while crafting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "pgd"
    norms: tuple[Norm, ...] = Field(default=("linf",), min_length=1)
    eps: tuple[Radius, ...] = Field(default=(8 / 255,), min_length=1)
    steps: int | None = Field(default=None, ge=1)
    step: float | None = Field(default=None, gt=0)
    start: float | None = Field(default=None, ge=0)
    schedule: Kind = "constant"
    minimum: float = Field(default=0.0, ge=0, le=1)
    overshoot: float | None = Field(default=None, ge=1)
    warmup: float = Field(default=0.2, gt=0, le=1)
    resets: tuple[float, ...] | None = None
    epochs: int | None = Field(default=None, ge=1)
    clean_weight: float = Field(default=0.0, ge=0, lt=1)
    combine: Literal["max", "mean"] = "max"
    beta: float = Field(default=6.0, gt=0)
    mode: Literal["eval", "train"] = "eval"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.norms) != len(self.eps):
            raise ValueError(
                f"`eps` should have one radius for each of {len(self.norms)} norms. Found {len(self.eps)}."
            )
        if self.method == "trades" and (len(self.norms) > 1 or self.clean_weight > 0):
            raise ValueError("`method` should be pgd for several norms or a clean weight. Found 'trades'.")
        for norm, eps in zip(self.norms, self.eps, strict=True):
            if norm == "linf" and eps > 1:
                raise ValueError(
                    f"`eps` should be at most 1, in units of inputs in [0, 1]. Found {eps:g}. Say {eps:g}/255?"
                )
        self.budget()  # which has requirements of its own
        return self

    @property
    def attack(self) -> PGD:
        """Return the attack that crafts the training inputs."""
        steps, step, start = DEFAULTS[self.method]
        return PGD(
            steps=self.steps or steps,
            step=self.step or step,
            start=start if self.start is None else self.start,
            confine=self.method != "n-fgsm",
        )

    def threats(self, low: float = 0.0, high: float = 1.0) -> tuple[Threat, ...]:
        """Return one threat for each norm, at its full radius."""
        return tuple(Threat(norm, eps, low, high) for norm, eps in zip(self.norms, self.eps, strict=True))

    def budget(self, resets: tuple[float, ...] = ()) -> Budget:
        """Return the schedule of the budget, as a share of eps; `resets` are the plan's."""
        return Budget(
            kind=self.schedule,
            target=1.0,
            minimum=self.minimum,
            overshoot=self.overshoot,
            warmup=self.warmup,
            resets=resets if self.resets is None else self.resets,
            epochs=self.epochs,
        )

    def objective(self, resets: tuple[float, ...] = ()) -> Objective:
        """Return what is minimised."""
        budget = self.budget(resets)
        if self.method == "trades":
            return Trades(self.attack, self.threats()[0], budget, self.beta, self.mode)
        return Adversarial(self.attack, self.threats(), budget, self.combine, self.clean_weight, self.mode)
