"""Repair by path or surface: join suspects by low-loss weights trained on clean samples, take a point of them (Zhao et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import nn

from isthmus._check import require
from isthmus.geometry.build import connect, parse_geometry
from isthmus.probes import Clean as CleanProbe
from isthmus.randomness import seed_of
from isthmus.repair.choose import farthest_within, named
from isthmus.repair.protocol import Clean, Repaired
from isthmus.scan import grid, scan
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit, fit_module
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.session import Session


@dataclass(frozen=True)
class PathRepair:
    """Connect, train, scan, choose; with `polish`, train the chosen point further on the same samples.

    With `plan.sharpness` the curve is trained for flat points instead of low ones. points: how many t are scanned on the validation
    samples. margin: see :func:`isthmus.repair.choose.farthest_within`. What a suspect brought with it fades with the distance from it,
    and so does accuracy. A polish lets the choice go far out, where the first is gone, and wins the second back: further training
    on clean samples lowers the loss where it stands and has no reason to go back to an end.

    joins: how many models the geometry joins, two for a curve, four for a surface (Ren et al. 2025), of which every point mixes all;
    a surface is scanned at points x points places. With `tune` fewer suspects will do, two at least: their copies, fine-tuned by this
    plan in turn, take the corners that are left.
    """

    plan: Plan
    name: str = "path"
    geometry: str = "bezier:2"
    joins: int = 2
    tune: Plan | None = None
    points: int = 31
    margin: float = 0.02
    polish: Plan | None = None
    objective: Objective | None = None

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model at the chosen point between the suspects, polished where asked."""
        began = perf_counter()
        plain = self.geometry.partition(":")[0] in ("bezier", "chain", "surface")
        require(plain, "geometry", "name a curve or surface whose points are trained at once", self.geometry)
        models, names, spent = self._corners(suspects, clean, seed, session)
        start = connect(models, parse_geometry(self.geometry, self.joins), names=names)
        fitted = fit(start, clean.train, self.plan, seed=seed, objective=self.objective, session=session)
        settle = Recalibrate(clean.train)
        probe = CleanProbe(clean.validation, split="validation")
        table = scan(fitted.bridge, grid(start.basis, self.points), [probe], settle=settle, seed=seed)
        choice = farthest_within(table, margin=self.margin)
        module = fitted.bridge.at(choice.u, settle=settle)
        kind = "curve" if len(choice.u) == 1 else "patch"
        evaluations, note = spent + fitted.evaluations, f"{named(choice.u)} of a {self.geometry} {kind}"
        if self.polish is not None:
            module, polished = fit_module(
                module,
                clean.train,
                self.polish,
                seed=seed_of(seed, "polish"),
                objective=self.objective,
                session=session.part("polish"),
            )
            settle(module)
            evaluations, note = evaluations + polished.evaluations, note + ", trained further"
        return Repaired(
            name=self.name,
            module=module,
            seconds=perf_counter() - began,
            evaluations=evaluations,
            note=note,
            bridge=fitted.bridge,
            table=table,
            choice=choice,
            history=fitted.history,
        )

    def _corners(
        self, suspects: Sequence[nn.Module], clean: Clean, seed: int, session: Session
    ) -> tuple[list[nn.Module], list[str], int]:
        """Return models and names of the corners, fine-tuned copies where suspects are too few, and the gradients these took."""
        least, few = (self.joins if self.tune is None else 2), len(suspects)
        count = f"{least}" if least == self.joins else f"{least} to {self.joins}"
        require(least <= few <= self.joins, "suspects", f"be {count} models for {self.geometry}", few)
        models, names, spent = list(suspects), [f"suspect {k}" for k in range(few)], 0
        for k in range(self.joins - few):
            assert self.tune is not None  # or there are as many suspects as corners
            session.tell(f"fine-tuning a copy of suspect {k}")
            own = session.part(f"tune-{k}")
            tuned, fitted = fit_module(models[k], clean.train, self.tune, seed=seed_of(seed, "tune", k), session=own)
            models.append(tuned)
            names.append(f"suspect {k}, fine-tuned")
            spent += fitted.evaluations
        return models, names, spent
