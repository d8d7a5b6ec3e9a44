"""Simplexes and complexes grown vertex by vertex: SPRO and ESPRO of Benton et al. 2021."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.volume import log_volume
from isthmus.randomness import seed_of
from isthmus.training.fit import fit
from isthmus.training.guide import Guide, Guided, LogVolume
from isthmus.training.objective import Objective, Supervised
from isthmus.training.plan import Plan
from isthmus.training.record import joined
from isthmus.training.session import Fitted, Session


class GuidedTrain(Protocol):
    """:func:`isthmus.training.fit.fit` with samples and objective settled, and the guide to be given."""

    def __call__(
        self, bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None
    ) -> Fitted:
        """Return the trained bridge."""
        ...


def plain(_plan: Plan) -> Objective:
    """Return the loss on the labels, whatever the plan."""
    return Supervised()


def trainer(samples: Samples, objective: Callable[[Plan], Objective] = plain) -> GuidedTrain:
    """Return :func:`isthmus.training.fit.fit` on `samples`, with the objective of each plan, guided where a guide is given."""

    def train(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        own = objective(plan)
        guided = own if guide is None else Guided(own, guide)
        return fit(bridge, samples, plan, seed=seed, objective=guided, session=session)

    return train


def grow(
    bridge: Bridge,
    plan: Plan,
    train: GuidedTrain,
    *,
    weights: Sequence[float],
    seed: int,
    session: Session | None = None,
) -> Fitted:
    """Return a complex whose connectors are trained one after the other, by the steps of one plan in equal parts.

    The j-th connector starts at the mean of all vertices before it, which stay as they are, and minimises

        E_u mean loss(theta(u)) - weights_j log V,

    u uniform over the complex so far, `plan.num_points` draws a step, averaged, V its volume (Benton et al. 2021, section 4.1). Over one
    model this is ESPRO's simplex, over several their mode-connecting complex. The history counts the steps through.

    Raises InputError for another basis, and for another number of weights than connectors.
    """
    basis, session = bridge.basis, session or Session()
    if not isinstance(basis, Complex):
        raise InputError(f"`bridge` should be a complex, whose connectors are grown. Found {basis}.")
    count = basis.connectors
    require(len(weights) == count, "weights", f"hold one value for each connector, {count}", len(weights))
    require(plan.steps >= count, "steps", f"be at least 1 for each of {count} vertices", plan.steps)
    parts = [plan.steps // count + (j < plan.steps % count) for j in range(count)]
    fits: list[Fitted] = []
    free = bridge.free[:0]
    for j, (steps, weight) in enumerate(zip(parts, weights, strict=True)):
        session.tell(f"growing vertex {basis.models + j + 1} of {basis.num_points}")
        own = plan.model_copy(update={"steps": steps, "resets": ()})
        work = session if j == count - 1 else session.part(f"vertex-{j + 1}")
        fits.append(train(_next(bridge, free), own, seed_of(seed, "vertex", j), work, LogVolume(weight)))
        free = torch.cat([free, fits[-1].bridge.free.to(free)])
    return replace(
        fits[-1],
        bridge=bridge.with_free(free),
        history=joined([one.history for one in fits], plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        averaged=None,
        snapshots=(),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


def _next(bridge: Bridge, grown: torch.Tensor) -> Bridge:
    """Return the complex with one more vertex than has been grown, at the mean of all, the others fixed."""
    fixed = torch.cat([bridge.fixed, grown])
    basis = Complex(bridge.fixed.shape[0], len(grown) + 1)
    start = fixed.mean(0, keepdim=True)
    return replace(bridge, basis=basis, fixed=fixed, free=start, fixed_index=tuple(range(len(fixed))))


def volume_weights(strength: float, basis: Complex, build: Callable[[int], nn.Module]) -> tuple[float, ...]:
    """Return the weight of the volume for each connector: strength / log V, V of a complex of as many untrained models.

    Benton et al. 2021 (section 4.1) scale the term so. Where log V is below 1, as for small models, 1 takes its place: the weight is never
    above `strength`. build: seed -> an untrained model.
    """
    vertices = [build(seed) for seed in range(basis.num_points)]
    weights: list[float] = []
    for j in range(basis.connectors):
        part = Complex(basis.models, j + 1)
        bridge = connect(vertices[: basis.models], part)
        own = bridge.layout
        others = [own.flatten(dict(model.named_parameters())) for model in vertices[basis.models : part.num_points]]
        weights.append(strength / max(1.0, log_volume(bridge.with_free(torch.stack(others)))))
    return tuple(weights)
