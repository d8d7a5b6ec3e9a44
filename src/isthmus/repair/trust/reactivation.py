"""`reactivation`: how little it takes to bring a backdoor back. A model that ignores a trigger may still be close to one that obeys it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean
from isthmus.repair.triggers.inverted import ChangeSearch, universal_changes
from isthmus.settle import Recalibrate
from isthmus.tampering import Trigger, apply_trigger, require_target
from isthmus.tampering.triggers import require_image_samples
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.posing import triggered
from isthmus.training.session import Session

_PLAN = Plan(steps=20, batch_size=64, learning_rate=0.01)


@dataclass(frozen=True)
class Stress:
    """How hard a model is pushed.

    samples: triggered images with the attacker's label that re-tuning sees (5, Min et al. 2024); plan: of the re-tuning; share: of the
    images it draws that are those few, in (0, 1), the others being clean. change: the search for a change of the trigger, of l-inf norm
    0.05 as in Zhu et al. 2024.
    """

    samples: int = 5
    plan: Plan = _PLAN
    share: float = 0.2
    change: ChangeSearch = ChangeSearch(steps=50, batch_size=64)  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        require(self.samples >= 1, "samples", "be at least 1 triggered image", self.samples)
        require(0 < self.share < 1, "share", "be in (0, 1), of the images drawn", self.share)


@dataclass(frozen=True)
class Reactivation:
    """Success on held-out images of other classes than the target, before and after two ways of bringing a backdoor back.

    before: by the trigger. retuned: by the trigger after re-tuning; accuracy, retuned_accuracy: on held-out clean images. changed: by the
    trigger with the best small change of it; alone: by the best such change without the trigger, which succeeds to some degree on any
    model: only what `changed` has beyond `alone` and `before` speaks of a backdoor. evaluations: gradients of a batch.
    """

    before: Rate
    retuned: Rate
    accuracy: Rate
    retuned_accuracy: Rate
    changed: Rate
    alone: Rate
    evaluations: int


def reactivation(
    module: nn.Module,
    clean: Clean,
    trigger: Trigger,
    target: int,
    stress: Stress | None = None,
    *,
    seed: int,
) -> Reactivation:
    """Return what re-tuning on a few triggered images, and a small change of the trigger, make of a candidate backdoor.

    The trigger is a planted or an inverted one; both are made from the suspects and clean samples, so nothing of an attack that the user
    does not know enters. Training images are re-tuned on and searched with, validation images measured on. Any model learns a trigger
    from enough images: measure one trained from scratch beside it. Raises InputError for a target that is no class, other inputs than
    images, and fewer training images of other classes than `stress.samples`.
    """
    stress = stress or Stress()
    require_image_samples(clean.validation, "re-activate a trigger")
    require(isinstance(target, int), "target", "be a class: re-activation aims at one", target)
    require_target(target, clean.validation.num_classes)
    attacked = triggered(clean.validation, trigger, target)
    tuned, _ = fit_module(
        module,
        _mixed(clean.train, trigger, target, stress, seed),
        stress.plan,
        seed=seed_of(seed, "re-tune"),
        session=Session(),
    )
    Recalibrate(clean.train)(tuned)
    shown = tuple(_shown(part, trigger, target) for part in (clean.train, clean.validation))
    changed, alone = (
        universal_changes(module, train, held_out, stress.change, seed=seed_of(seed, "change"), classes=(target,))
        for train, held_out in (shown, (clean.train, clean.validation))
    )
    return Reactivation(
        before=_rate(module, attacked),
        retuned=_rate(tuned, attacked),
        accuracy=_rate(module, clean.validation),
        retuned_accuracy=_rate(tuned, clean.validation),
        changed=changed.candidates[0].success,
        alone=alone.candidates[0].success,
        evaluations=stress.plan.evaluations + changed.evaluations + alone.evaluations,
    )


def _mixed(train: Samples, trigger: Trigger, target: int, stress: Stress, seed: int) -> Samples:
    """Return the clean training images and the few triggered ones, repeated until they are about `share` of all."""
    few = triggered(train, trigger, target)
    require(
        stress.samples <= len(few),
        "samples",
        f"be at most the {len(few)} training images of other classes",
        stress.samples,
    )
    few = few.take(torch.randperm(len(few), generator=stream(seed, "re-tune"))[: stress.samples])
    times = max(1, round(stress.share / (1 - stress.share) * len(train) / len(few)))
    x = torch.cat([train.inputs(), few.inputs().repeat(times, *[1] * (few.x.ndim - 1))])
    return Samples(x, torch.cat([train.y, few.y.repeat(times)]), train.num_classes, train.name)


def _shown(samples: Samples, trigger: Trigger, target: int) -> Samples:
    """Return the images of other classes than the target with the trigger and their true labels."""
    kept = samples.take(samples.y != target)
    parts: list[Tensor] = [apply_trigger(trigger, kept.inputs(i)) for i in torch.arange(len(kept)).split(1000)]
    return kept.replaced(x=torch.cat(parts))


def _rate(module: nn.Module, samples: Samples) -> Rate:
    return Rate.of(correct(logits(module, samples), samples.y))
