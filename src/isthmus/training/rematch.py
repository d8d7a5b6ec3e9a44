"""Stars whose models are matched to the centre again after each epoch: Sonthalia et al. 2024."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.matching import match_weights
from isthmus.geometry.permute import TOLERANCE, output_change
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.units import Symmetry
from isthmus.layout import buffers_of
from isthmus.randomness import seed_of, stream
from isthmus.training.grow import GuidedTrain
from isthmus.training.plan import Plan, learning_rate
from isthmus.training.record import joined
from isthmus.training.session import Fitted, Session


@dataclass(frozen=True, eq=False)
class Rematch:
    """Which hidden units may change places, the images on which that must not change a model, and how many steps an epoch has."""

    symmetry: Symmetry
    samples: Samples
    every: int


def fit_rematched(
    bridge: Bridge, plan: Plan, train: GuidedTrain, rematch: Rematch, *, seed: int, session: Session | None = None
) -> Fitted:
    """Return a star trained epoch by epoch, with the hidden units of its models matched to those of the centre before each.

    Before the first the models are matched to the first of them, and the centre starts at their mean; before each further epoch every
    model pi_n(theta_n) is matched to the centre theta by its weights (Sonthalia et al. 2024; the start is ours),

        pi_n = argmax <theta, pi(theta_n)>,        a local optimum (:func:`isthmus.geometry.matching.match_weights`).

    The corners of the result are the models as they were matched last: they compute what the given ones do, with units in other places.
    An epoch keeps the learning rate that the plan has in its middle, and its momentum begins anew. The history counts the steps through.

    Raises InputError for anything but a star of at least two models, for steps of an epoch below 1, for a symmetry without groups, and
    where a permuted model would compute something else.
    """
    session, basis = session or Session(), bridge.basis
    if not isinstance(basis, Complex) or basis.connectors != 1 or basis.models < 2:
        raise InputError(f"`bridge` should be a star of at least 2 models to match them to its centre. Found {basis}.")
    require(rematch.every >= 1, "every", "be at least 1 step", rematch.every)
    given = [bridge.at(u) for u, _ in basis.corners]
    models = _matched(given[0], given[1:], given[1:], rematch, seed_of(seed, "match", 0))
    current = _with_models(bridge, [given[0], *models])
    current = current.with_free(current.fixed.mean(0, keepdim=True))
    starts = range(0, plan.steps, rematch.every)
    parts = [min(rematch.every, plan.steps - start) for start in starts]
    fits: list[Fitted] = []
    for k, (start, steps) in enumerate(zip(starts, parts, strict=True)):
        if k > 0:
            held = [current.at(u) for u, _ in basis.corners]
            centre = current.at(basis.sites[-1])
            current = _with_models(current, _matched(centre, held, given, rematch, seed_of(seed, "match", k)))
        session.tell(f"epoch {k + 1} of {len(parts)}")
        rate = learning_rate(plan, start + steps // 2)
        change = {"steps": steps, "learning_rate": rate, "schedule": "constant", "warmup": 0.0, "resets": ()}
        work = session if k == len(parts) - 1 else session.part(f"epoch-{k + 1}")
        fits.append(train(current, plan.model_copy(update=change), seed_of(seed, "epoch", k), work))
        current = fits[-1].bridge
    return replace(
        fits[-1],
        history=joined([one.history for one in fits], plan),
        seconds=sum(one.seconds for one in fits),
        evaluations=sum(one.evaluations for one in fits),
        averaged=None,
        snapshots=(),
        warnings=tuple(warning for one in fits for warning in one.warnings),
    )


def _matched(
    centre: nn.Module, held: Sequence[nn.Module], given: Sequence[nn.Module], rematch: Rematch, seed: int
) -> list[nn.Module]:
    """Return models matched to the centre from where they are. Raises InputError where one no longer computes what the given one does."""
    found: list[nn.Module] = []
    for k, (model, origin) in enumerate(zip(held, given, strict=True)):
        match = match_weights(centre, model, rematch.symmetry, generator=stream(seed, "order", k))
        change = output_change(origin, match.module, rematch.samples, enough=TOLERANCE)
        require(
            change <= TOLERANCE,
            "models",
            f"compute the same after their units changed places, to {TOLERANCE:g} of the largest output",
            f"a change of {change:.2g} in model {k}",
            "What a model does must not depend on anything but its inputs and its tensors.",
        )
        found.append(match.module)
    return found


def _with_models(bridge: Bridge, models: Sequence[nn.Module]) -> Bridge:
    """Return the star with other models at its corners."""
    layout = bridge.layout
    fixed = torch.stack([layout.flatten(dict(model.named_parameters())) for model in models])
    return replace(bridge, fixed=fixed, states={k: buffers_of(model) for k, model in enumerate(models)})
