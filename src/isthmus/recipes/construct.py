"""How the free points of each geometry are trained: all at once, in stages, or one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.simplexes import Complex
from isthmus.training.adversary import Adversary
from isthmus.training.fit import fit
from isthmus.training.grow import grow, volume_weights
from isthmus.training.guide import Guide, Guided
from isthmus.training.objective import Supervised
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session
from isthmus.training.staged import Stages, fit_staged

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
    def volume(self) -> float:
        """Return the weight of the volume."""
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


def constructed(case: Case, settings: Settings, session: Session) -> Fitted | None:
    """Return the trained bridge, None where there is nothing to train.

    A vertex that is grown takes five draws a step, where the plan does not say otherwise.
    """
    bridge, plan, seed = case.bridge, case.plan, settings.seed
    if bridge.free.shape[0] == 0 and settings.stages == "together":
        return None

    def train(part: Bridge, own: Plan, seed: int, work: Session, guide: Guide | None = None) -> Fitted:
        adversary = settings.adversary
        objective = Supervised() if adversary is None else adversary.objective(own.cycle_starts)
        guided = objective if guide is None else Guided(objective, guide)
        return fit(part, case.samples, own, seed=seed, objective=guided, session=work)

    kind = settings.geometry.partition(":")[0]
    if isinstance(bridge.basis, Complex) and kind != "star" and settings.stages == "together":
        weights = volume_weights(settings.volume, bridge.basis, case.build)
        plan = plan if "num_points" in plan.model_fields_set else plan.model_copy(update={"num_points": DRAWS})
        return grow(bridge, plan, train, weights=weights, seed=seed, session=session)
    return fit_staged(bridge, plan, train, stages=settings.stages, seed=seed, session=session)
