"""Whether a repair met its criteria, judged on bounds: met, not met, or too few samples to say."""

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from isthmus.rates import Rate, mcnemar, samples_to_decide

Status = Literal["done", "criteria_not_met", "inconclusive"]
_Z = 1.959963984540054


def judge(
    attack: Rate | None, max_attack: float, before: Tensor, after: Tensor, max_drop: float
) -> tuple[Status, tuple[str, ...]]:
    """Return the verdict and its reasons, from the attack success and from which test images are right before and after.

    Each criterion is met where its whole 95 % interval lies on the good side of the limit, not met where it lies on the other side,
    else undecided. before, after: (n,) booleans on the same images; the drop's interval is the paired one,
    d +- z sqrt((b + c - (b - c)^2 / n)) / n over b and c discordant pairs. attack: None where no trigger is known.
    """
    states: list[Status] = []
    reasons: list[str] = []
    if attack is None:
        reasons.append("No trigger is known: attack success was not measured. The accuracy criterion alone was judged.")
    else:
        state: Status = (
            "done" if attack.high <= max_attack else "criteria_not_met" if attack.low > max_attack else "inconclusive"
        )
        text = f"Attack success {attack}, limit {100 * max_attack:g} %: {_WORDS[state]}."
        if state == "inconclusive" and attack.value != max_attack:
            text += f" About {samples_to_decide(attack.value, max_attack):,} triggered test images would decide."
        states.append(state)
        reasons.append(text)
    state, text = _drop(before, after, max_drop)
    states.append(state)
    reasons.append(text)
    worst: Status = (
        "criteria_not_met" if "criteria_not_met" in states else "inconclusive" if "inconclusive" in states else "done"
    )
    return worst, tuple(reasons)


_WORDS = {"done": "met", "criteria_not_met": "not met", "inconclusive": "undecided"}


def _drop(before: Tensor, after: Tensor, limit: float) -> tuple[Status, str]:
    pairs = mcnemar(before.to(torch.bool), after.to(torch.bool))
    n, b, c = pairs.n, pairs.only_first, pairs.only_second
    drop, variance = (b - c) / n, (b + c - (b - c) ** 2 / n)
    half = _Z * sqrt(max(variance, 1.0)) / n  # at least one discordant pair: no difference seen is not none there
    state: Status = "done" if drop + half <= limit else "criteria_not_met" if drop - half > limit else "inconclusive"
    text = (
        f"Accuracy fell by {100 * drop:.1f} points (paired 95 %: {100 * (drop - half):.1f} to {100 * (drop + half):.1f}, n = {n:,}), "
        f"limit {100 * limit:g}: {_WORDS[state]}."
    )
    if state == "inconclusive" and drop != limit:
        needed = int(max(variance, 1.0) / n * (_Z / (drop - limit)) ** 2) + 1
        text += f" About {needed:,} test images would decide."
    return state, text
