"""Surfaces trained in stages: their four edges, each alone, then the patch between them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from isthmus._check import InputError, require, unknown
from isthmus.geometry.bases import Bernstein, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.edit import edges
from isthmus.geometry.patch import patch
from isthmus.randomness import seed_of
from isthmus.table import Table
from isthmus.training.plan import Plan
from isthmus.training.record import joined
from isthmus.training.session import Fitted, Session

Stages = Literal["together", "edges-first", "edges-kept"]
"""How a surface is trained: all free points at once; its edges first and then all of them; or the edges, which then stay."""
Train = Callable[[Bridge, Plan, int, Session], Fitted]
"""Bridge, plan, seed and session -> the trained bridge."""


def fit_staged(
    bridge: Bridge, plan: Plan, train: Train, *, stages: Stages = "together", seed: int, session: Session | None = None
) -> Fitted:
    """Return `bridge` trained in stages by the steps of one plan: half of them for the edges, an eighth each, the rest for the surface.

    Each edge is a Bezier curve between two corners, trained alone (E_t mean loss(phi(t))) on the schedule of the whole plan; the inner
    points then start on the Coons patch between the trained edges (:func:`isthmus.geometry.patch.patch`). `edges-first` goes on with all
    free points, after the stages of Ren et al. 2025 (section 4), who train two of the edges in pairs; `edges-kept` with the inner ones
    alone, so that an edge of the surface is bitwise the curve trained on its own. Straight edges have nothing to train and leave
    their steps to the surface. `together` trains all at once.
    train: :func:`isthmus.training.fit.fit` with samples and objective settled.

    The history counts the steps through. Raises InputError for stages of anything but a Bezier surface, and for fewer than 8 steps.
    """
    if stages not in get_args(Stages):
        raise unknown("stages", str(stages), get_args(Stages))
    session = session or Session()
    if stages == "together":
        return train(bridge, plan, seed, session)
    _require_staged(bridge, plan)
    curves, parts, fits = edges(bridge), list[int](), list[Fitted]()
    for name, curve in curves.items():
        if curve.free.shape[0] == 0:
            continue
        session.tell(f"training the edge {name}")
        own = plan.model_copy(update={"steps": plan.steps // 8, "resets": ()})
        drawn = seed_of(seed, "edge", name)
        fits.append(train(curve, own, drawn, session.part(f"edge-{name}")))
        parts.append(own.steps)
        curves[name] = fits[-1].bridge
    start = _start(bridge, patch(curves), stages)
    rest = plan.model_copy(update={"steps": plan.steps - sum(parts)})
    if start.free.shape[0] > 0:
        session.tell("training the surface")
        fits.append(train(start, rest, seed_of(seed, "surface"), session))
        parts.append(rest.steps)
    last, histories = fits[-1], list[Table](one.history for one in fits)
    return replace(
        last,
        bridge=last.bridge if start.free.shape[0] > 0 else start,
        history=joined(histories, plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


def _start(bridge: Bridge, made: Bridge, stages: Stages) -> Bridge:
    """Return the surface between trained edges, the edges free to train on, or kept."""
    return made if stages == "edges-kept" else bridge.with_free(made.points[list(bridge.free_index)])


def _require_staged(bridge: Bridge, plan: Plan) -> None:
    basis = bridge.basis
    bezier = isinstance(basis, Product) and isinstance(basis.first, Bernstein) and isinstance(basis.second, Bernstein)
    if not bezier:
        raise InputError(f"`stages` should be together for anything but a Bezier surface. Found stages for {basis}.")
    require(bridge.free.shape[0] > 0, "bridge", "have at least one free control point", 0, "A bilinear patch has none.")
    require(plan.steps >= 8, "steps", "be at least 8, of which each edge takes an eighth", plan.steps)
