"""What an adversary adds to a training: what is followed meanwhile, which weights are kept, how robust each is."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from isthmus.attacks.pgd import PGD
from isthmus.data import Samples
from isthmus.ensemble import Ensemble
from isthmus.probes import Clean, DeadLayers, Robust
from isthmus.probes.protocol import Probe
from isthmus.randomness import stream
from isthmus.rates import Rate, hits_of
from isthmus.training.adversary import Adversary
from isthmus.training.follow import Follow
from isthmus.training.overfitting import catastrophic, stuck
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted

Kept = Literal["last", "best", "averaged"]
WATCHED = 256  # images watched while training, where none are set aside for validation
EVALUATION = PGD(steps=20, step=0.125)


class Standing(BaseModel):
    """How one set of weights fares on test images, at the adversary's full budget: fractions with their Wilson bounds."""

    model_config = ConfigDict(frozen=True)

    clean_accuracy: dict[str, float | int]
    robust_accuracy: dict[str, float | int]
    robust_loss: float


def follow_for(
    adversary: Adversary | None, plan: Plan, train: Samples, validation: Samples | None, *, seed: int
) -> Follow | None:
    """Return what is measured while training against `adversary`, some twenty times: robust loss and error by PGD-10 at the full budget on
    the validation images, by which the best weights are kept, or else on a part of the training images; dead layers.

    A fall of robust accuracy by more than 20 points becomes a warning. Of several norms the first is measured. Without an adversary
    nothing is followed.
    """
    if adversary is None:
        return None
    watched = train.subset(min(WATCHED, len(train)), generator=stream(seed, "watched"))
    split: Literal["validation", "train"] = "train" if validation is None else "validation"
    threat = adversary.threats()[0]
    robust = Robust(watched if validation is None else validation, threat, PGD(), split=split)
    column = robust.columns[1].name
    probes: Sequence[Probe] = (robust, DeadLayers(watched))
    climbs = adversary.budget(plan.cycle_starts).climbs
    exempt = tuple((start * plan.steps, end * plan.steps) for start, end in climbs)
    alarm = partial(catastrophic, column=column, exempt=exempt)
    best = column if validation is not None else None
    return Follow(probes, every=max(1, plan.steps // 20), keep_best=best, alarms=(alarm,))


def warnings_of(fitted: Fitted, follow: Follow | None) -> tuple[str, ...]:
    """Return what the alarms said, and whether the training ended in a constant classifier."""
    if follow is None or fitted.measured is None:
        return fitted.warnings
    robust = next(probe for probe in follow.probes if isinstance(probe, Robust))
    ended = stuck(fitted.measured, robust.samples.y, column=robust.columns[1].name)
    return fitted.warnings if ended is None else (*fitted.warnings, ended)


def dead_layers_of(model: nn.Module, follow: Follow | None) -> tuple[str, ...]:
    """Return the layers of `model` that no watched image passes, each with what follows from it; none where nothing was followed."""
    found = [
        layer
        for probe in (follow.probes if follow else ())
        if isinstance(probe, DeadLayers)
        for layer in probe.find(model)
    ]
    return tuple(f"{layer.name}: {layer.consequence}" for layer in found)


def candidates(fitted: Fitted) -> dict[str, nn.Module]:
    """Return the weights that a training leaves: the last, and the best by validation, the averaged and the ensemble of the snapshots,
    where there are such."""
    found: dict[str, nn.Module] = {"last": fitted.bridge.at(())}
    if fitted.best is not None:
        found["best"] = fitted.best.at(())
    if fitted.averaged is not None:
        found["averaged"] = fitted.averaged.at(())
    if len(fitted.snapshots) > 1:
        found["snapshots"] = Ensemble([bridge.at(()) for bridge in fitted.snapshots])
    return found


def standings(
    models: Mapping[str, nn.Module], test: Samples, adversary: Adversary | None, *, n: int, seed: int
) -> dict[str, Standing]:
    """Return the standing of each model on the first `n` test images, under PGD-20 at the full budget; the ensemble as a whole.

    Of several norms the first is measured. Empty without an adversary.
    """
    if adversary is None:
        return {}
    part = test.take(torch.arange(min(n, len(test))))
    robust = Robust(part, adversary.threats()[0], EVALUATION)
    found: dict[str, Standing] = {}
    for name, model in models.items():
        clean = Clean(part)(model)["test_error"]
        measured = robust(model, generator=stream(seed, "standing"))
        rates = [
            Rate(len(part) - hits_of(error / 100, len(part)), len(part)).to_json()
            for error in (clean, measured["robust_error"])
        ]
        loss = measured["robust_loss"]
        found[name] = Standing(clean_accuracy=rates[0], robust_accuracy=rates[1], robust_loss=loss)
    return found
