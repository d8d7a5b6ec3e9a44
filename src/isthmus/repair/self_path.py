"""Second endpoints made from the suspect itself: its fine-tuned copy, a point beyond that, and its permuted copy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter

import torch
from torch import nn

from isthmus._check import InputError, require
from isthmus.geometry.bases import Bernstein
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, connect
from isthmus.geometry.flat import Affine
from isthmus.geometry.matching import Goal, Matched, match_activations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.geometry.units import Symmetry
from isthmus.probes import Clean as CleanProbe
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate
from isthmus.repair.choose import Choice, named
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.strength import bar, strongest_within
from isthmus.scan import scan
from isthmus.settle import Recalibrate
from isthmus.table import Table
from isthmus.training.fit import fit, fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session

_NAMES = ("suspect 0", "fine-tuned")


@dataclass(frozen=True)
class SelfPath:
    """Fine-tune a copy of the first suspect and join the two by a quadratic Bezier curve trained on the clean samples.

    What later papers call mode connectivity repair. Both ends come from one basin, and what was planted fades from the suspect's end
    to the other: t is the largest of `points` in [0, 1] whose validation accuracy is within `margin` of the best, see
    :func:`isthmus.repair.strength.strongest_within`. t = 0 is the suspect, t = 1 the fine-tuned copy. The curve ends there: it bends
    away from the suspect and back, and its polynomial goes on bending back. tune, curve: plans of the two trainings.
    """

    tune: Plan
    curve: Plan
    name: str = "self-path"
    points: int = 31
    margin: float = 0.08

    def __post_init__(self) -> None:
        require(self.points >= 2, "points", "be at least 2", self.points)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model at the chosen point of the curve, its statistics recomputed on the clean samples."""
        began = perf_counter()
        tuned, first = _tuned(suspects[0], clean, self.tune, seed=seed, session=session)
        start = connect((suspects[0], tuned), Bernstein(2), names=_NAMES)
        own = session.part("path")
        fitted = fit(start, clean.train, self.curve, seed=seed_of(seed, "path"), session=own)
        found = _farthest(self, fitted.bridge, 1.0, clean, seed)
        evaluations = first.evaluations + fitted.evaluations
        note = f"{found.note} of the bezier:2 curve from the suspect (0) to its fine-tuned copy (1)"
        seconds = perf_counter() - began
        return replace(found, seconds=seconds, evaluations=evaluations, note=note, history=fitted.history)


@dataclass(frozen=True)
class Extrapolate:
    """Fine-tune a copy of the first suspect and go on past it in a straight line: theta(t) = theta_0 + t (theta_tuned - theta_0).

    Plain fine-tuning can stay where the planted behaviour has low loss; beyond t = 1 that loss rises while the clean loss hardly moves
    (observed by Wei et al. 2025). t is chosen from [0, reach] as in [0, 1] by :class:`SelfPath`; nothing is trained on the way.
    reach: at least 1.
    """

    tune: Plan
    name: str = "extrapolate"
    reach: float = 1.5
    points: int = 31
    margin: float = 0.08

    def __post_init__(self) -> None:
        require(isfinite(self.reach) and self.reach >= 1, "reach", "be at least 1, the fine-tuned copy", self.reach)
        require(self.points >= 2, "points", "be at least 2", self.points)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the model at the chosen point of the line, its statistics recomputed on the clean samples."""
        began = perf_counter()
        tuned, fitted = _tuned(suspects[0], clean, self.tune, seed=seed, session=session)
        line = connect((suspects[0], tuned), Affine(2), names=_NAMES)
        found = _farthest(self, line, self.reach, clean, seed)
        note = f"{found.note} of the line through the suspect (0) and its fine-tuned copy (1)"
        seconds = perf_counter() - began
        return replace(found, seconds=seconds, evaluations=fitted.evaluations, note=note, history=fitted.history)


@dataclass(frozen=True)
class PermutedPath:
    """TSC, two-stage symmetry connectivity (Peng et al. 2025): curves between a model and permuted copies of itself, in rounds.

    Amplify: permute a copy so that its units behave least like the model's on the clean samples, train a quadratic Bezier curve between
    the two and take its point t. Recover: permute the model to behave most like that point, train a second curve from there to the point
    and take its point t, which begins the next round. Units are matched by the correlation of what later layers read, on at most
    `matched` training images.

    plan: of one curve; there are two a round. Published: 3 rounds, t = 0.4, learning rate 0.02, batches of 256, 200 epochs a curve. Where
    the authors' code differs from ours: its learning rate rises again to its largest at the end, a penalty on the weights comes on top of
    their decay, and between rounds the model is trained for ten epochs at 1e-4. Their groups are written down for three architectures and
    ours found by :func:`isthmus.geometry.symmetry.symmetry_of`.
    """

    plan: Plan
    name: str = "permuted-path"
    rounds: int = 3
    t: float = 0.4
    matched: int = 500

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", "be at least 1", self.rounds)
        require(0 < self.t < 1, "t", "be strictly between 0 and 1", self.t)
        require(self.matched >= 2, "matched", "be at least 2 images", self.matched)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the point of the last curve, its statistics recomputed. Raises InputError where no units may be permuted."""
        began = perf_counter()
        course = _Course(self, suspects[0], clean, seed, session)
        model, fitted, told = suspects[0], list[Fitted](), list[str]()
        for k in range(self.rounds):
            far = course.matched(model, model, "misalign")
            amplified, first = course.point(model, far.module, f"amplify-{k}")
            near = course.matched(amplified, model, "align")
            model, second = course.point(near.module, amplified, f"recover-{k}")
            fitted += [first, second]
            told.append(f"{far.before:.2f} to {far.after:.2f}, {near.before:.2f} to {near.after:.2f}")
        groups = course.symmetry.groups
        note = f"t = {self.t:g} of {len(fitted)} curves, {len(groups)} groups permuted; correlation of units {'; '.join(told)}"
        return Repaired(
            name=self.name,
            module=model,
            seconds=perf_counter() - began,
            evaluations=sum(one.evaluations for one in fitted),
            note=note,
            bridge=fitted[-1].bridge,
            history=fitted[-1].history,
            warnings=tuple(f"left unpermuted: {axis}" for axis in course.symmetry.unpermuted),
        )


@dataclass(eq=False)
class _Course:
    """What the rounds have in common."""

    remedy: PermutedPath
    suspect: nn.Module
    clean: Clean
    seed: int
    session: Session

    def __post_init__(self) -> None:
        self.symmetry = _symmetry(self.suspect, self.clean, self.seed)
        train, count = self.clean.train, min(self.remedy.matched, len(self.clean.train))
        self.compared = train.subset(count, generator=stream(self.seed, "matched"))

    def matched(self, reference: nn.Module, model: nn.Module, goal: Goal) -> Matched:
        """Return the copy of `model` whose units are least or most like those of `reference`."""
        return match_activations(reference, model, self.symmetry, self.compared, goal=goal)

    def point(self, start: nn.Module, end: nn.Module, stage: str) -> tuple[nn.Module, Fitted]:
        """Return the point t of the curve trained between two models, and the curve."""
        fitted = fit(
            bezier((start, end)),
            self.clean.train,
            self.remedy.plan,
            seed=seed_of(self.seed, stage),
            session=self.session.part(stage),
        )
        return fitted.bridge.at(self.remedy.t, settle=Recalibrate(self.clean.train)), fitted


def _symmetry(module: nn.Module, clean: Clean, seed: int) -> Symmetry:
    symmetry = symmetry_of(module, clean.train.inputs(torch.arange(2)), generator=stream(seed, "symmetry"))
    if not symmetry.groups:
        shown = "; ".join(symmetry.unpermuted[:3]) or "no hidden units"
        raise InputError(
            f"`model` should have hidden units that may be permuted. Found none ({shown}). Use a remedy that permutes nothing."
        )
    return symmetry


def _tuned(module: nn.Module, clean: Clean, plan: Plan, *, seed: int, session: Session) -> tuple[nn.Module, Fitted]:
    """Return the fine-tuned copy, its statistics recomputed on the same samples."""
    tuned, fitted = fit_module(module, clean.train, plan, seed=seed_of(seed, "tune"), session=session.part("tune"))
    Recalibrate(clean.train)(tuned)
    return tuned, fitted


def _farthest(remedy: SelfPath | Extrapolate, bridge: Bridge, reach: float, clean: Clean, seed: int) -> Repaired:
    """Return the model at the largest t that validation accuracy allows, without the cost of getting there."""
    settle = Recalibrate(clean.train)
    places = torch.linspace(0, reach, remedy.points, dtype=torch.float64)
    table = scan(bridge, places, [CleanProbe(clean.validation, split="validation")], settle=settle, seed=seed)
    choice = _strongest(table, len(clean.validation), remedy.margin)
    module = bridge.at(choice.u, settle=settle)
    return Repaired(remedy.name, module, 0.0, 0, named(choice.u), bridge=bridge, table=table, choice=choice)


def _strongest(table: Table, n: int, margin: float) -> Choice:
    """Return the largest t whose validation accuracy is within the margin of the best."""
    places = [float(t) for t in table.frame["t"]]
    rates = [Rate(round((1 - error / 100) * n), n) for error in table.frame["validation_error"].astype(float)]
    chosen = strongest_within(places, rates, margin=margin)
    best = max(rates, key=lambda rate: rate.value)
    least = bar(best, margin=margin)
    inside = sum(rate.value >= least - 1e-12 for rate in rates)
    rule = (
        f"largest t whose validation accuracy is within {100 * (best.value - least):.1f} points of the best (the larger of "
        f"{100 * margin:.1f} points and 1 standard error, n = {n:,})"
    )
    explanation = (
        f"t = {places[chosen]:g}: validation accuracy {rates[chosen]}; best {best}; bar {100 * least:.1f} %; "
        f"{inside} of {len(rates)} points met it."
    )
    return Choice((places[chosen],), rates[chosen], best, least, inside, rule, explanation)
