"""Repair by path: join two suspects by a curve trained on clean samples and take a point of it (Zhao et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import nn

from isthmus._check import require
from isthmus.geometry.build import connect, parse_geometry
from isthmus.probes import Clean as CleanProbe
from isthmus.randomness import seed_of
from isthmus.repair.choose import farthest_within
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
    """

    plan: Plan
    name: str = "path"
    geometry: str = "bezier:2"
    points: int = 31
    margin: float = 0.02
    polish: Plan | None = None
    objective: Objective | None = None

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model at the chosen point of the trained curve between the two suspects, polished where asked."""
        require(len(suspects) == 2, "suspects", "be two models for a path", len(suspects))
        began = perf_counter()
        basis = parse_geometry(self.geometry, 2)
        plain = basis.dim == 1 and self.geometry.partition(":")[0] not in ("neb", "llpf")
        require(plain, "geometry", "name a curve whose points are trained at once", self.geometry)
        start = connect(suspects, basis, names=("suspect 0", "suspect 1"))
        fitted = fit(start, clean.train, self.plan, seed=seed, objective=self.objective, session=session)
        settle = Recalibrate(clean.train)
        probe = CleanProbe(clean.validation, split="validation")
        table = scan(fitted.bridge, grid(start.basis, self.points), [probe], settle=settle, seed=seed)
        choice = farthest_within(table, margin=self.margin)
        module = fitted.bridge.at(choice.t, settle=settle)
        evaluations, note = fitted.evaluations, f"t = {choice.t:.3g} of a {self.geometry} curve"
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
