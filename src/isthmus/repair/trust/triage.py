"""`triage`: what two unlike detectors, taken together, say about one model. Never a verdict that it is clean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, log
from typing import Literal

from torch import nn

from isthmus._check import require
from isthmus.repair.protocol import Clean
from isthmus.repair.triggers.inverted import Inversion, MaskSearch, smallest_masks
from isthmus.repair.trust.margins import Margins, MarginSearch, class_margins

Verdict = Literal["suspicious", "no evidence found", "inconclusive", "not applicable"]


@dataclass(frozen=True)
class Detection:
    """What one detector says: a number that is larger where the model is more suspicious, the class it points at, and whether that is
    beyond the detector's published threshold."""

    detector: str
    statistic: float
    target: int
    flagged: bool


@dataclass(frozen=True)
class Null:
    """Statistics of models known to be untampered: by detector, one number for each model, in one order of models.

    about: which models, so that a reader can judge whether the model at hand is like them. A p-value means nothing for one that is not.
    """

    statistics: Mapping[str, tuple[float, ...]]
    about: str

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.statistics.values()}
        require(len(lengths) == 1, "null", "have one number per model from each detector", sorted(lengths))
        require(lengths != {0}, "null", "hold at least one untampered model", "none")
        finite = all(not isnan(value) for values in self.statistics.values() for value in values)
        require(finite, "null", "hold numbers", "NaN")

    @property
    def models(self) -> int:
        """Return the number of models."""
        return len(next(iter(self.statistics.values())))


@dataclass(frozen=True)
class Triage:
    """The verdict, why, and what it rests on.

    p_value: None without a null. calibrated: whether it holds that at most a share `level` of models like those of the null are called
    suspicious. target: the class that the detectors point at, None where they do not agree. evaluations: gradients of a batch.
    """

    verdict: Verdict
    reason: str
    p_value: float | None = None
    calibrated: bool = False
    target: int | None = None
    detections: tuple[Detection, ...] = ()
    evaluations: int = 0


@dataclass(frozen=True)
class Searches:
    """Settings of the two detectors."""

    masks: MaskSearch = MaskSearch()  # noqa: RUF009  # frozen
    margins: MarginSearch = MarginSearch(images=12)  # noqa: RUF009  # frozen


def examine(
    model: nn.Module,
    clean: Clean,
    searches: Searches | None = None,
    *,
    seed: int,
    null: Null | None = None,
    level: float = 0.05,
) -> Triage:
    """Return the triage of `model` by the smallest masks, which use the clean samples, and by the margins, which use none.

    "not applicable", with the reason, for inputs that are not images and for fewer than 3 classes: no detector is defined there.
    """
    samples = clean.train
    if not samples.is_images:
        return Triage(
            "not applicable", f"the inputs have shape {samples.input_shape}; the detectors need images (C, H, W)"
        )
    if samples.num_classes < 3:
        return Triage("not applicable", f"with {samples.num_classes} classes none can stand out from the others")
    searches = searches or Searches()
    masks = smallest_masks(model, samples, clean.validation, searches.masks, seed=seed)
    margins = class_margins(model, samples.input_shape, samples.num_classes, searches.margins, seed=seed)
    spent = masks.evaluations + margins.evaluations
    return triage([of_masks(masks), of_margins(margins)], null=null, level=level, evaluations=spent)


def of_masks(found: Inversion) -> Detection:
    """Return what the anomaly index of the smallest masks says; its published threshold is 2 (Wang et al. 2019)."""
    return Detection("smallest mask", found.statistic, found.suspect.target, found.statistic > 2)


def of_margins(found: Margins) -> Detection:
    """Return what the largest margins say; their published threshold is p < 0.05 (Wang et al. 2024)."""
    return Detection("largest margin", found.statistic, found.suspect, found.p_value < 0.05)


def triage(
    detections: Sequence[Detection], *, null: Null | None = None, level: float = 0.05, evaluations: int = 0
) -> Triage:
    """Return one of four verdicts from what the detectors found, which are never "clean".

    With a null, by the p-value of :func:`joint_p_value`: suspicious at or below `level`; inconclusive where so few models make up the null
    that no p-value could get there. Without one, by the published thresholds and uncalibrated: suspicious where all detectors flag
    one and the same class, no evidence found where none flags any, inconclusive between. A statistic that is NaN is inconclusive.
    """
    require(0 < level < 1, "level", "be in (0, 1), a share of false alarms", level)
    require(len(detections) >= 1, "detections", "hold at least one", 0)
    targets = {found.target for found in detections}
    target = targets.pop() if len(targets) == 1 else None
    lost = [found.detector for found in detections if isnan(found.statistic)]
    p_value = None if null is None or lost else joint_p_value(detections, null)
    if lost:
        verdict, reason = "inconclusive", f"no number from {', '.join(lost)}"
    elif null is None or p_value is None:
        verdict, reason = _uncalibrated(detections, target)
    else:
        verdict, reason = _calibrated(p_value, null, level)
    return Triage(verdict, reason, p_value, p_value is not None, target, tuple(detections), evaluations)


def joint_p_value(detections: Sequence[Detection], null: Null) -> float:
    """Return the share of the m untampered models and this one, m + 1 in all, that are at least as suspicious as this one.

    Each detector ranks all m + 1; a model's suspicion is the sum over detectors of -log of the share of the m + 1 at or above it.
    All are treated alike, so where this model is one more of the same kind, P(p <= a) <= a for every a and any dependence between
    detectors (a permutation test). Its smallest value is 1 / (m + 1).

    >>> joint_p_value([Detection("d", 9.0, 0, True)], Null({"d": (1.0, 2.0, 3.0)}, "three"))
    0.25
    """
    names = [found.detector for found in detections]
    missing = [name for name in names if name not in null.statistics]
    require(not missing, "null", f"have statistics of {', '.join(names)}", f"none of {', '.join(missing)}")
    columns = [(found.statistic, *null.statistics[found.detector]) for found in detections]
    size = null.models + 1
    suspicion = [
        sum(-log(sum(other >= column[i] for other in column) / size) for column in columns) for i in range(size)
    ]
    return sum(value >= suspicion[0] - 1e-12 for value in suspicion) / size


def _calibrated(p_value: float, null: Null, level: float) -> tuple[Verdict, str]:
    least = 1 / (null.models + 1)
    says = f"p = {p_value:.3g} against {null.models} untampered models ({null.about})"
    if p_value <= level:
        return "suspicious", says
    if least > level:
        return "inconclusive", f"{says}; with so few no p-value falls to {level:g}: the smallest is {least:.2g}"
    return "no evidence found", says


def _uncalibrated(detections: Sequence[Detection], target: int | None) -> tuple[Verdict, str]:
    flagged = [found for found in detections if found.flagged]
    names = ", ".join(f"{found.detector} (class {found.target})" for found in flagged)
    if not flagged:
        return "no evidence found", "uncalibrated: no statistic beyond its published threshold"
    if len(flagged) == len(detections) > 1 and target is not None:
        return "suspicious", f"uncalibrated: beyond the published threshold and of one class: {names}"
    return "inconclusive", f"uncalibrated: beyond the published threshold, without agreement: {names}"
