"""How the free points of each geometry are trained: all at once, in stages, or one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import logits
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.symmetry import symmetry_of
from isthmus.losses import cross_entropy
from isthmus.randomness import stream
from isthmus.settle import Recalibrate, running_layers
from isthmus.training.adversary import Adversary
from isthmus.training.band import Losses, relax
from isthmus.training.grow import grow, trainer, volume_weights
from isthmus.training.layerwise import INSIDE, Route, Walk, flow_order, looked_at, walk
from isthmus.training.objective import Objective, Supervised
from isthmus.training.plan import Plan
from isthmus.training.rematch import Rematch, fit_rematched
from isthmus.training.session import Fitted, Session
from isthmus.training.staged import Stages, fit_staged

WALKED = ("neb", "llpf")
TICKS = 40  # of llpf, where none are named
LOOKED_AT = 512  # training images on which losses along a path are compared
DRAWS = 5  # a step, of a vertex that is grown (Benton et al. 2021, section 4.1)


class Settings(Protocol):
    """What of a connection decides how it is trained."""

    @property
    def geometry(self) -> str:
        """Return the geometry as it was given."""
        ...

    @property
    def stages(self) -> Stages:
        """Return how a surface is trained."""
        ...

    @property
    def walk(self) -> Walk:
        """Return the way that `llpf` takes."""
        ...

    @property
    def volume(self) -> float:
        """Return the weight of the volume."""
        ...

    @property
    def rematch(self) -> bool:
        """Return whether the models of a star are matched to its centre again after each epoch."""
        ...

    @property
    def adversary(self) -> Adversary | None:
        """Return the adversary trained against."""
        ...

    @property
    def seed(self) -> int:
        """Return the seed."""
        ...


@dataclass(frozen=True, eq=False)
class Case:
    """The flat bridge, the training images, the plan, and seed -> an untrained model of the architecture."""

    bridge: Bridge
    samples: Samples
    plan: Plan
    build: Callable[[int], nn.Module]

    def losses(self, seed: int) -> Losses:
        """Return what the training loss (nat) is at points of a bridge: on at most 512 images, BatchNorm statistics recomputed there."""
        part = self.samples.subset(min(LOOKED_AT, len(self.samples)), generator=stream(seed, "looked at"))
        settle = Recalibrate(part) if running_layers(self.bridge.template) else None

        def losses(bridge: Bridge, t: Tensor) -> Tensor:
            values = [cross_entropy(logits(bridge.at(u, settle=settle), part), part.y).mean() for u in t[:, None]]
            return torch.stack(values)

        return losses


class Highest(BaseModel):
    """The highest training loss (nat) found on a path, where, and on how many images. 61 points or more are looked at."""

    model_config = ConfigDict(frozen=True)

    loss: float
    t: float
    n: int


def highest(case: Case, settings: Settings, bridge: Bridge) -> Highest | None:
    """Return the highest training loss on a path that was walked or relaxed, None for other geometries."""
    if settings.geometry.partition(":")[0] not in WALKED:
        return None
    t = looked_at(bridge, max(INSIDE, 60 // (bridge.basis.num_points - 1)))
    values = case.losses(settings.seed)(bridge, t)
    top = int(values.argmax())
    return Highest(loss=float(values[top]), t=float(t[top]), n=min(LOOKED_AT, len(case.samples)))


def constructed(case: Case, settings: Settings, session: Session) -> Fitted | None:
    """Return the trained bridge, None where there is nothing to train.

    A vertex that is grown takes five draws a step, where the plan does not say otherwise. Raises InputError for `rematch` without a star,
    and for a walk inward where nothing is walked.
    """
    bridge, plan, seed = case.bridge, case.plan, settings.seed
    kind, _, argument = settings.geometry.partition(":")
    require(kind == "star" or not settings.rematch, "rematch", "come with the geometry star", settings.geometry)
    walked = kind in WALKED and settings.stages == "together"
    require(kind == "llpf" or settings.walk == "across", "walk", "be across for all but llpf", settings.walk)
    if bridge.free.shape[0] == 0 and settings.stages == "together" and not walked:
        return None

    def objective(own: Plan) -> Objective:
        return Supervised() if settings.adversary is None else settings.adversary.objective(own.cycle_starts)

    train = trainer(case.samples, objective)
    if walked and kind == "neb":
        return relax(bridge, plan, train, case.losses(seed), seed=seed, session=session)
    if walked:
        layers = flow_order(bridge.template, case.samples.inputs(torch.arange(1)))
        route = Route(int(argument or TICKS), layers, case.losses(seed), settings.walk)
        return walk(bridge, plan, train, route, seed=seed, session=session)
    if settings.rematch and settings.stages == "together":
        return fit_rematched(bridge, plan, train, _rematch(case, seed), seed=seed, session=session)
    if isinstance(bridge.basis, Complex) and kind != "star" and settings.stages == "together":
        weights = volume_weights(settings.volume, bridge.basis, case.build)
        plan = plan if "num_points" in plan.model_fields_set else plan.model_copy(update={"num_points": DRAWS})
        return grow(bridge, plan, train, weights=weights, seed=seed, session=session)
    return fit_staged(bridge, plan, train, stages=settings.stages, seed=seed, session=session)


def _rematch(case: Case, seed: int) -> Rematch:
    """Return which units of a star's models may change places, checked on at most 512 images, once in an epoch of the plan."""
    symmetry = symmetry_of(
        case.bridge.template, case.samples.inputs(torch.arange(2)), generator=stream(seed, "symmetry")
    )
    part = case.samples.subset(min(LOOKED_AT, len(case.samples)), generator=stream(seed, "looked at"))
    return Rematch(symmetry, part, ceil(len(case.samples) / case.plan.batch_size))
