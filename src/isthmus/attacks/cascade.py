"""`robustness`: attacks one after the other, each on what is still classified correctly, every result re-tested by one evaluator."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus._check import require, unknown
from isthmus.attacks import doubts
from isthmus.attacks.outcome import NOBODY, Progress, Robustness, Stage
from isthmus.attacks.protocol import Attack, Attacked, Keep
from isthmus.attacks.suites import Suite, suite_of
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim, attacked
from isthmus.data.samples import Samples
from isthmus.evaluate import correct
from isthmus.layout import placement
from isthmus.randomness import seed_of, stream

Precision = Literal["32-true", "bf16-mixed"]
CHECKED = 50  # so many images serve the self-checks, which take about ten passes over them


@dataclass(frozen=True)
class Watch:
    """Follows an evaluation: `on_progress` is told how far it is at the begin of every attack and after every batch.

    begun: the progress of an interrupted evaluation with the same settings, which is taken up.
    """

    on_progress: Callable[[Progress], None]
    begun: Progress | None = None


@dataclass(frozen=True)
class Settings:
    """How an evaluation is run. seed: names every draw, with the attack and the batch. batch_size: images attacked at once.

    precision: "bf16-mixed" finds adversarial images in bfloat16; the re-test is in full precision either way. passes: forward passes
    over which logits are averaged, None for what the suite says.
    """

    seed: int = 0
    batch_size: int = 250
    precision: Precision = "32-true"
    passes: int | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)
        require(self.passes is None or self.passes >= 1, "passes", "be at least 1", self.passes)
        if self.precision not in ("32-true", "bf16-mixed"):
            raise unknown("precision", str(self.precision), ("32-true", "bf16-mixed"))


def robustness(
    model: nn.Module,
    samples: Samples,
    attacks: str | Suite | Sequence[Attack],
    threat: Threat,
    *,
    settings: Settings | None = None,
) -> Robustness:
    """Return the accuracy that `attacks` leave of a model, and the adversarial images.

    An image counts as fooled where the model, in evaluation mode and full precision, misclassifies a point inside ball and box; the
    attack's own word is not taken. Where the re-test contradicts an attack (rounding, bfloat16), it tries those images once more in
    full precision. Images that the model gets wrong as they are count as not robust and are not attacked.

    attacks: a text for :func:`parse_attacks`, a suite, or attacks. The model is as before afterwards, and so is the global random
    state, which a randomised model draws from: each batch gives it a state of its own. An attack sees batches of what is left over, so
    for one seed and batch size the result is the same bit for bit on a CPU, also when it was interrupted.
    Raises InputError for inputs outside the box, and for a model that does not return logits of the samples' classes.
    """
    settings = settings or Settings()
    x, y = samples.inputs(), samples.y
    threat.require_inputs(x)
    frozen = attacked(model, num_classes=samples.num_classes, precision=settings.precision)
    with torch.enable_grad(), frozen as crafting:  # attacks need gradients, also where the caller has switched them off
        return _Evaluation(crafting, x, y, threat, settings).run(attacks)


class _Evaluation:
    """One evaluation: `crafting` is the victim that attacks see, `judge` the one that re-tests them."""

    def __init__(self, crafting: Victim, x: Tensor, y: Tensor, threat: Threat, settings: Settings):
        self.crafting, self.x, self.y, self.threat, self.settings = crafting, x, y, threat, settings
        self.device = placement(crafting.model)[0]
        self.exact = self._victim()
        self.judge = self._victim()
        self.randomised = False

    def _victim(self) -> Victim:
        return Victim(self.crafting.model, self.crafting.num_classes)

    def run(self, attacks: str | Suite | Sequence[Attack]) -> Robustness:
        """Return the result of all attacks."""
        with self._chance("first"):
            classes = self.judge.logits(self.x[:CHECKED].to(self.device)).shape[1]
        suite = suite_of(attacks, num_classes=classes, norm=self.threat.norm)
        suite = suite if self.settings.passes is None else replace(suite, passes=self.settings.passes)
        found = self._checks(suite)
        for victim in (self.crafting, self.exact, self.judge):
            victim.passes = suite.passes
        good = self._clean()
        watch = self.settings.watch
        progress = watch.begun if watch and watch.begun else Progress(torch.full_like(self.y, NOBODY), self.x.clone())
        known = tuple(stage.name for stage in progress.stages)
        require(
            known == suite.keys[: len(known)], "state", f"be of the attacks {', '.join(suite.keys)}", ", ".join(known)
        )
        for place in range(max(len(known) - 1, 0), len(suite.attacks)):
            progress = self._stage(suite, place, good, progress)
        found += [*suite.doubts, *doubts.after(progress.stages, len(self.x))]
        return Robustness(self.threat, good, progress.by, progress.points, progress.stages, tuple(found), suite.passes)

    def _checks(self, suite: Suite) -> list[doubts.Doubt]:
        """Return what the self-checks find on the first images. Against averaged passes a randomised model is no surprise."""
        x, y = (part[:CHECKED].to(self.device) for part in (self.x, self.y))
        threat = self.threat.take(torch.arange(len(x)))
        with self._chance("checks"):
            found = doubts.before(
                self._victim(), threat, x, y, generator=stream(self.settings.seed, "attack", "checks")
            )
        self.randomised = any(doubt.kind == "randomised" for doubt in found)
        return [doubt for doubt in found if not (doubt.kind == "randomised" and suite.passes > 1)]

    def _clean(self) -> Tensor:
        """Return (N,) whether each image is classified correctly as it is."""
        parts: list[Tensor] = []
        for k, index in enumerate(torch.arange(len(self.x)).split(self.settings.batch_size)):
            with self._chance("clean", k):
                logits = self.judge.logits(self.x[index].to(self.device))
            parts.append(correct(logits, self.y[index]).to(self.x.device))
        return torch.cat(parts)

    def _stage(self, suite: Suite, place: int, good: Tensor, progress: Progress) -> Progress:
        """Return the progress after one attack, begun or not."""
        attack, key = suite.attacks[place], suite.keys[place]
        # What the attack has fooled already belongs to it as well: an interrupted stage has the batches it began with.
        subjects = (good & ((progress.by == NOBODY) | (progress.by == place))).nonzero().flatten()
        batches = subjects.split(self.settings.batch_size) if len(subjects) else ()
        if len(progress.stages) == place:
            stages = (*progress.stages, Stage(key, len(subjects)))
            progress = self._told(replace(progress, stages=stages, batch=0, batches=len(batches)))
        for k in range(progress.batch, len(batches)):
            progress = self._told(self._batch(attack, (key, k), batches[k], progress))
        return progress

    def _told(self, progress: Progress) -> Progress:
        if self.settings.watch is not None:
            self.settings.watch.on_progress(progress)
        return progress

    def _batch(self, attack: Attack, names: tuple[str, int], index: Tensor, progress: Progress) -> Progress:
        """Return the progress after attacking the images at `index` (B,)."""
        began = perf_counter()
        before = [(victim.queries, victim.gradients) for victim in (self.crafting, self.exact)]
        x, y, threat = self.x[index].to(self.device), self.y[index].to(self.device), self.threat.take(index)
        x = x.contiguous(memory_format=self.crafting.format(x))
        with self._chance(*names):
            fooled, points, claimed, out = self._attacked(attack, names, (x, y, threat))
        stage, place = progress.stages[-1], len(progress.stages) - 1
        after = [(victim.queries, victim.gradients) for victim in (self.crafting, self.exact)]
        queries, gradients = (sum(a[i] - b[i] for a, b in zip(after, before, strict=True)) for i in range(2))
        by, won = progress.by.clone(), index[fooled.to(index.device)]
        progress.points[won] = points[fooled].to(progress.points)  # in place: without `by` the points do not count
        by[won] = place
        stage = replace(
            stage,
            fooled=stage.fooled + int(fooled.sum()),
            queries=stage.queries + queries,
            gradients=stage.gradients + gradients,
            seconds=stage.seconds + perf_counter() - began,
            unconfirmed=stage.unconfirmed + int((claimed & ~fooled & ~out).sum()),
            outside=stage.outside + int(out.sum()),
        )
        return replace(progress, by=by, stages=(*progress.stages[:-1], stage), batch=progress.batch + 1)

    def _attacked(
        self, attack: Attack, names: tuple[str, int], case: tuple[Tensor, Tensor, Threat]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for each image whether the re-test finds it fooled, the point, whether the attack said so, whether it went outside."""
        x, y, threat = case
        found = self._call(attack, self.crafting, case, names, "verdict")
        points = found.points
        inside, wrong = self._retest(threat, x, y, points)
        fooled = inside & wrong
        lost = found.fooled & inside & ~wrong
        if lost.any() and not (self.randomised and self.judge.passes == 1):
            part = (x[lost], y[lost], threat.take(lost))
            again = self._call(attack, self.exact, part, (*names, "again"), "loss")
            for candidate in (again.worst, again.first):
                into, missed = self._retest(part[2], part[0], part[1], candidate)
                better = lost.clone()
                better[lost] = into & missed
                points = points.clone()
                points[better] = candidate[better[lost]]
                fooled = fooled | better
        return fooled, points, found.fooled, ~inside

    def _call(
        self, attack: Attack, victim: Victim, case: tuple[Tensor, Tensor, Threat], names: tuple[object, ...], keep: Keep
    ) -> Attacked:
        x, y, threat = case
        found = attack(victim, threat, x, y, generator=stream(self.settings.seed, "attack", *names), keep=keep)
        shape = tuple(found.points.shape)
        require(shape == tuple(x.shape), attack.name, f"return points of shape {tuple(x.shape)}", shape)
        return found

    def _retest(self, threat: Threat, x: Tensor, y: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each point whether it lies inside ball and box, and whether the model misclassifies it in full precision."""
        return threat.inside(x, points), ~correct(self.judge.logits(points.to(x)), y)

    @contextmanager
    def _chance(self, *names: object) -> Generator[None]:
        """Return a context in which whatever a model draws comes from a state named after the seed and `names`."""
        seed = seed_of(self.settings.seed, "model", *names)
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):  # pyright: ignore[reportUnknownMemberType]
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield
