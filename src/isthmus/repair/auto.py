"""`Auto`: which suspect to start from and what to do with it, from clean validation evidence alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from time import perf_counter

import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.evaluate import correct, logits
from isthmus.randomness import seed_of
from isthmus.rates import Rate, mcnemar
from isthmus.repair.protocol import Clean, Repair, Repaired
from isthmus.repair.purify import Purify, told
from isthmus.repair.strength import bar
from isthmus.repair.triggers.hunt import Found
from isthmus.repair.triggers.smallest import Survey, anomalous
from isthmus.training.session import Session

_TOO_MUCH = "the time before cost too much accuracy"
CONSPICUOUS, ANY = 0.3, 0.75
"""A trigger above this share of its family's median size does not stand out: the search cannot say what to unlearn. One towards any wrong
class counts so many times its share: untampered networks have class triggers about as small, but none towards any class."""


@dataclass(frozen=True)
class Auto:
    """The remedy that holds over attacks, rates and clean budgets, and the suspect to apply it to.

    Images: the smallest triggers of every suspect are sought for one round. Of the suspects whose validation accuracy is within the larger
    of `margin` and one standard error of the best one's, that with the least conspicuous smallest trigger (the largest ratio to its
    family's median) is searched to the end and purified (:class:`isthmus.repair.purify.Purify`). Where nothing stands out in any suspect
    it is done `gently`, with triggers on that share of the images, in one part and at `faster` times the rate: what is small for a class of
    itself is unlearned at a cost in accuracy that grows with that share and hardly with the rate, and a backdoor that is no smaller than it
    goes sooner at the higher rate. Where validation accuracy falls by more than the larger of `cost` and two standard errors of a paired
    difference, the purification is made again, weaker, for half a budget more: an architecture may not bear the first rate. So it is, up
    to twice, where the loss does not stay finite. Other inputs than images have no triggers that could be sought: `away` for two
    suspects, `otherwise` for others.

    Each remedy is made for the whole budget. What was chosen is in the note, why in the reason, what a reader should doubt in the warnings.
    """

    purify: Purify
    away: Repair
    otherwise: Repair
    margin: float = 0.02
    gently: float = 0.1
    faster: float = 2.5
    cost: float = 0.05
    name: str = "auto"

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return what the chosen remedy makes of the chosen suspect."""
        if not clean.train.is_images:
            remedy = self.away if len(suspects) == 2 else self.otherwise
            done = remedy(suspects, clean, seed=seed, session=session)
            return self._named(done, remedy, "triggers are sought in images only")
        began, search, batch = perf_counter(), self.purify.search, self.purify.plan.batch_size
        surveys = [Survey.begun(m, clean.train, search, seed=seed_of(seed, "search")) for m in suspects]
        before = [_right(module, clean) for module in suspects]
        rates = [Rate.of(right) for right in before]
        chosen = _choice(rates, [_least(survey.found) for survey in surveys], self.margin)
        found, base = surveys[chosen].finished(), rates[chosen]
        own, spent = (round(n / batch) for n in (surveys[chosen].images, sum(one.images for one in surveys)))
        least = min(_least(one) for one in (found, *(survey.found for survey in surveys)))
        remedy, case = self._remedy(least), _Case(suspects[chosen], found, clean, before[chosen], own)
        note, reason = f"suspect {chosen}, purified", _chosen(chosen, len(suspects))
        if remedy is not self.purify:
            note, reason = f"{note} gently", f"{reason}, gently, because nothing stands out"
        done, why = self._taught(remedy, case, seed=seed, session=session)
        note += ("", ", twice", ", three times")[len(why)]
        reason += "".join(
            f", again at a quarter of the rate and with half as many triggers, because {one}" for one in why
        )
        after = Rate.of(_right(done.module, clean))
        return replace(
            done,
            name=self.name,
            seconds=perf_counter() - began,
            evaluations=done.evaluations - own + spent,
            note=note,
            reason=f"{reason}; {_evidence(rates, surveys)}; validation accuracy after: {100 * after.value:.1f} %",
            warnings=(*done.warnings, *_doubts(base, after, least)),
        )

    def _remedy(self, least: float) -> Purify:
        """Return the remedy; where nothing stands out it shows few triggers, because those found belong to the classes themselves."""
        if least <= CONSPICUOUS:
            return self.purify
        plan = self.purify.plan.model_copy(update={"learning_rate": self.faster * self.purify.plan.learning_rate})
        return replace(self.purify, plan=plan, doubt=replace(self.purify.doubt, share=self.gently, rounds=1))

    def _taught(self, remedy: Purify, case: "_Case", *, seed: int, session: Session) -> tuple[Repaired, list[str]]:
        """Return what the remedy makes of the case, and why it had to be made again, more weakly each time.

        The search of the case counts once, the gradients of every attempt as well.
        """
        wasted, why = 0, list[str]()
        while True:
            work = session.part(f"again-{len(why)}") if why else session
            try:
                done = remedy.taught(case.suspect, case.found, case.clean, seed=seed, session=work)
            except InputError:  # the loss is no longer finite; whatever else it is comes up again
                if len(why) == 2:
                    raise
                wasted += remedy.plan.evaluations
                why.append("training did not stay finite")
            else:
                if _TOO_MUCH in why or len(why) == 2 or not self._costs(case, done):
                    return replace(done, evaluations=done.evaluations + wasted), why
                wasted += done.evaluations - case.own
                why.append(_TOO_MUCH)
            remedy = _gentler(remedy)

    def _costs(self, case: "_Case", done: Repaired) -> bool:
        return _costly(case.right, _right(done.module, case.clean), self.cost)

    def _named(self, done: Repaired, remedy: Repair, why: str) -> Repaired:
        return replace(done, name=self.name, note=f"{remedy.name}: {done.note}", reason=f"{remedy.name}, because {why}")


@dataclass(frozen=True, eq=False)
class _Case:
    """The chosen suspect, its triggers, the samples, which validation samples it gets right (N,), and the gradients of its search."""

    suspect: nn.Module
    found: Sequence[Found]
    clean: Clean
    right: Tensor
    own: int


def _right(module: nn.Module, clean: Clean) -> Tensor:
    """Return which of the validation samples are classified as labelled, (N,)."""
    return correct(logits(module, clean.validation), clean.validation.y).cpu()


def _costly(before: Tensor, after: Tensor, cost: float) -> bool:
    """Return whether accuracy fell by more than `cost` and by more than two standard errors of the paired difference.

    >>> fallen = torch.arange(100) < 88
    >>> (
    ...     _costly(torch.ones(100, dtype=torch.bool), fallen, 0.05),
    ...     _costly(torch.ones(10, dtype=torch.bool), fallen[80:90], 0.05),
    ... )
    (True, False)
    """
    pairs = mcnemar(before.to(torch.bool), after.to(torch.bool))
    fall, either = pairs.only_first - pairs.only_second, pairs.only_first + pairs.only_second
    return fall > max(cost * pairs.n, 2 * sqrt(either))


def _least(found: Sequence[Found]) -> float:
    """Return how conspicuous the most conspicuous trigger is: its share of its family's median size."""
    pairs = ((ratio, target) for one in found for ratio, target in zip(one.ratio.tolist(), one.targets, strict=True))
    return min(ratio * (ANY if target is None else 1) for ratio, target in pairs)


def _choice(rates: Sequence[Rate], ratios: Sequence[float], margin: float) -> int:
    """Return the position of the suspect to start from."""
    least = bar(max(rates, key=lambda rate: rate.value), margin=margin)
    return max((i for i, rate in enumerate(rates) if rate.value >= least - 1e-12), key=lambda i: ratios[i])


def _gentler(remedy: Purify) -> Purify:
    plan = remedy.plan.model_copy(update={"learning_rate": remedy.plan.learning_rate / 4})
    return replace(remedy, plan=plan, doubt=replace(remedy.doubt, share=remedy.doubt.share / 2))


def _chosen(chosen: int, count: int) -> str:
    why = "" if count == 1 else ", of those accurate enough the one whose smallest trigger is the least conspicuous"
    return f"purified suspect {chosen}{why}"


def _evidence(rates: Sequence[Rate], surveys: Sequence[Survey]) -> str:
    told_of = (
        f"suspect {i}: validation accuracy {100 * rate.value:.1f} %, {told(anomalous(survey.found, 1)[0])}"
        for i, (rate, survey) in enumerate(zip(rates, surveys, strict=True))
    )
    return "; ".join(told_of)


def _doubts(before: Rate, after: Rate, least: float) -> tuple[str, ...]:
    """Return what a reader should doubt."""
    doubts: list[str] = []
    if least > CONSPICUOUS:
        told_of = f"the smallest has {least:.2f} of its family's median size" if isfinite(least) else "none worked"
        doubts.append(
            f"No trigger stood out: {told_of}. A backdoor that needs a large change, or another one for each image, would not be found, "
            "nor removed on purpose."
        )
    if after.high < before.low:
        doubts.append(
            f"The repair cost accuracy on the validation images: {before} before, {after} after. More clean images would cost less."
        )
    if after.n < 100:
        doubts.append(
            f"Only {after.n} validation images stand behind these accuracies: within about {_half(after):.0f} points."
        )
    return tuple(doubts)


def _half(rate: Rate) -> float:
    return 50 * (rate.high - rate.low)
