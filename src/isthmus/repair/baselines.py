"""What a path must beat: the same clean samples, the same number of gradients, no path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import nn

from isthmus.geometry.build import plane
from isthmus.repair.protocol import Clean, Repaired
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit_module
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session


@dataclass(frozen=True)
class FineTune:
    """Train the first suspect further on the clean samples. With `plan.sharpness`: FT-SAM (Zhu et al. 2023)."""

    plan: Plan
    name: str = "fine-tune"
    objective: Objective | None = None

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the fine-tuned copy of the first suspect, with its statistics recomputed on the same samples."""
        began = perf_counter()
        module, fitted = fit_module(
            suspects[0], clean.train, self.plan, seed=seed, objective=self.objective, session=session
        )
        return _settled(self.name, module, fitted, clean, began)


@dataclass(frozen=True)
class FromScratch:
    """Train a new model on the clean samples alone: no suspect, hence nothing of it, is used."""

    plan: Plan
    build: Callable[[int], nn.Module]
    name: str = "scratch"

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model that `build(seed)` makes, trained on the clean samples."""
        began = perf_counter()
        module, fitted = fit_module(self.build(seed).eval(), clean.train, self.plan, seed=seed, session=session)
        return _settled(self.name, module, fitted, clean, began)


@dataclass(frozen=True)
class Average:
    """The mean of the suspects' weights, statistics recomputed on the clean samples; nothing is trained."""

    name: str = "average"

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model with the mean weights."""
        began = perf_counter()
        share = 1 / len(suspects)
        module = plane(suspects).at([share] * (len(suspects) - 1), settle=Recalibrate(clean.train))
        return Repaired(self.name, module, perf_counter() - began, 0, "no training")


def _settled(name: str, module: nn.Module, fitted: Fitted, clean: Clean, began: float) -> Repaired:
    Recalibrate(clean.train)(module)
    return Repaired(name, module, perf_counter() - began, fitted.evaluations, "last step", history=fitted.history)
