"""Self-checks: reasons why an evaluation by attacks may be wrong. Each returns a :class:`Doubt`, or None where all is well.

The first five kinds follow the checks of AutoAttack (Croce and Hein 2020); what they mean is in the documentation's page on attacks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.attacks.outcome import Doubt, Stage
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.losses import cross_entropy, margin

DRIFT = 1e-4
GAIN = 0.002
DEAD_SHARE = 0.5


def before(victim: Victim, threat: Threat, x: Tensor, y: Tensor, *, generator: torch.Generator) -> list[Doubt]:
    """Return what is suspicious about a model, from images x (B, ...) with labels y (B,). `victim` should average no passes."""
    logits = victim.logits(x)
    found = [
        no_parameters(victim.model),
        training_layers(victim.model),
        not_finite(logits),
        probabilities(logits),
        randomised(victim, x),
        zero_gradients(victim, x, y),
        blind(victim, threat, x, generator=generator),
    ]
    return [doubt for doubt in found if doubt is not None]


def after(stages: Sequence[Stage], n: int) -> list[Doubt]:
    """Return what is suspicious about the outcome of attacks on n images."""
    found = [black_box_gain(stages, n), *(outside(stage) for stage in stages), *(unconfirmed(s) for s in stages)]
    return [doubt for doubt in found if doubt is not None]


def randomised(victim: Victim, x: Tensor, *, passes: int = 5) -> Doubt | None:
    """Doubt where `passes` forward passes of the same images differ: max_k |z_k - z_1| > 1e-4 max |z_1| for some image."""
    first = victim.logits(x)
    scale = first.abs().amax(1).clamp_min(1e-30)
    drift = torch.zeros_like(scale)
    for _ in range(passes - 1):
        drift = torch.maximum(drift, (victim.logits(x) - first).abs().amax(1) / scale)
    worst = float(drift.nan_to_num(0.0).max())
    if worst <= DRIFT:
        return None
    return Doubt(
        "randomised",
        f"the model is randomised: the logits of one image differ by up to {worst:.2g} of their size between {passes} passes. "
        "Attacks follow a direction that is gone at the next pass, so the robust accuracy is no certificate. "
        "Run the suite `random`, which averages over passes, or attack the model with its randomness off.",
    )


def probabilities(logits: Tensor) -> Doubt | None:
    """Doubt where every row of the output (B, C) lies in [0, 1] and sums to 1."""
    within = bool((logits > -1e-5).all() and (logits < 1 + 1e-5).all())
    if not within or bool(((logits.sum(1) - 1).abs() > 1e-4).any()):
        return None
    return Doubt(
        "probabilities",
        "the model returns probabilities, not logits: every row lies in [0, 1] and sums to 1. Losses of logits saturate on them and "
        "their gradients vanish, so attacks look weaker than they are. Leave out the last softmax, or return its logarithm.",
    )


def not_finite(logits: Tensor) -> Doubt | None:
    """Doubt where an image has NaN or infinite logits."""
    bad = int((~logits.isfinite()).any(1).sum())
    if bad == 0:
        return None
    return Doubt(
        "not-finite",
        f"the model returns NaN or infinite logits for {bad} of {len(logits)} images before any attack. NaN counts as misclassified, "
        "and no loss has a direction there. Find out where they come from first.",
    )


def zero_gradients(victim: Victim, x: Tensor, y: Tensor) -> Doubt | None:
    """Doubt where the cross-entropy of some images has a gradient of exactly zero; says whether the margin has one as well."""
    try:
        share = _flat(victim.look(x).gradient(lambda out: cross_entropy(out, y)))
    except InputError as error:
        text = "Attacks with gradients cannot run, and one without them is no substitute."
        return Doubt("no-gradient", f"the model has no gradient by its input ({error}). {text}")
    if share == 0:
        return None
    own = _flat(victim.look(x).gradient(lambda out: margin(out, y)))
    reason = (
        f"and so has the margin for {own:.0%}: something in the model cuts the gradient off, such as rounding, a threshold or a dead layer"
        if own > 0
        else "while the margin still has one: the softmax is saturated, and attacks on the margin (apgd-dlr, apgd-t, fab-t) go on"
    )
    return Doubt(
        "zero-gradients",
        f"the cross-entropy has a gradient of exactly zero for {share:.0%} of {len(x)} images, {reason}. "
        "Gradient attacks stand still there. Compare with `square`, which needs no gradient.",
        voids=own > 0,
    )


def blind(victim: Victim, threat: Threat, x: Tensor, *, generator: torch.Generator) -> Doubt | None:
    """Doubt where random changes of a hundredth of the radius leave all logits of most images as they are, to the last bit."""
    still = victim.logits(x)
    steps = torch.rand(x.shape, generator=generator).to(x).mul_(2).sub_(1).sign_() * threat.radii(x)
    near, far = ((victim.logits((x + f * steps).clamp(threat.low, threat.high)) == still).all(1) for f in (0.01, 1.0))
    share = float(near.float().mean())
    if share < DEAD_SHARE:
        return None
    reason = (
        "nor do changes of the whole radius: the model ignores its input, or a layer is dead"
        if bool(far[near].all())
        else "while changes of the radius do: the model rounds its input, so true gradients are zero and gradients it reports are stand-ins"
    )
    return Doubt(
        "blind",
        f"changes of a hundredth of the radius do not move the logits of {share:.0%} of {len(x)} images at all, {reason}. "
        "Run `square` with more queries, or attack the model without its first step.",
    )


def training_layers(model: nn.Module) -> Doubt | None:
    """Doubt where layers stay in training mode; `model` should have been put into evaluation mode."""
    names = [name or type(module).__name__ for name, module in model.named_modules() if module.training]
    if not names:
        return None
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return Doubt(
        "training-layers",
        f"{len(names)} layers stay in training mode after eval(): {shown}. With BatchNorm or dropout among them, an image's logits "
        "depend on its neighbours or on chance. Let train() and eval() reach every layer.",
    )


def no_parameters(model: nn.Module) -> Doubt | None:
    """Doubt where a model has no parameters, so that what it really calls was neither frozen nor put into evaluation mode."""
    if next(model.parameters(), None) is not None:
        return None
    return Doubt(
        "no-parameters",
        "the model has no parameters: if it calls another network, that one was neither frozen nor put into evaluation mode. "
        "Register the network as a submodule.",
        voids=False,
    )


def black_box_gain(stages: Sequence[Stage], n: int) -> Doubt | None:
    """Doubt where an attack without gradients lowers the robust accuracy on n images by more than 0.2 points after attacks with them."""
    white = False
    for stage in stages:
        if white and stage.gradients == 0 and stage.fooled > GAIN * n:
            return Doubt(
                "black-box-gain",
                f"{stage.name}, which uses no gradient, fooled {stage.fooled} images that withstood the attacks with gradients "
                f"({100 * stage.fooled / n:.2g} points): the gradients mislead, and the true robust accuracy is likely lower. "
                "Run it with more queries, or write an attack for this model.",
            )
        white = white or stage.gradients > 0
    return None


def outside(stage: Stage) -> Doubt | None:
    """Doubt where an attack handed in points outside ball or box."""
    if stage.outside == 0:
        return None
    return Doubt(
        "outside",
        f"{stage.name} handed in {stage.outside} points outside ball or box. They do not count, and its search may be wrong elsewhere.",
    )


def unconfirmed(stage: Stage) -> Doubt | None:
    """Doubt where an attack said it had fooled images that the re-test finds classified correctly."""
    if stage.unconfirmed == 0:
        return None
    return Doubt(
        "unconfirmed",
        f"{stage.name} said it had fooled {stage.unconfirmed} images that the re-test finds correct. They do not count. "
        "Points on the boundary itself do this through rounding; many of them point to a model that is randomised or looks at its batch.",
        voids=False,
    )


def _flat(gradient: Tensor) -> float:
    """Return the share of images whose gradient is exactly zero."""
    return float((gradient.flatten(1) == 0).all(1).float().mean())
