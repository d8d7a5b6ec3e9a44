"""What becomes of the claims about surfaces: of Ren et al. 2025, and of what their reviewers asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from isthmus.rates import Z95
from isthmus.recipes.study import Claim
from isthmus.recipes.surfaces_cells import ALL, BILINEAR, DRAWN, ESPRO, MATCHED, SAME_RUN, SURFACE
from isthmus.recipes.surfaces_standing import CORNER_ENSEMBLE, ENSEMBLE
from isthmus.recipes.surfaces_tables import (
    Found,
    Row,
    at_text,
    chosen,
    corner_mean,
    corner_rows,
    modes,
    number,
)
from isthmus.table import Cell

NEAR = 2.0  # points of accuracy below the mean corner at most: low everywhere
FAR = 20.0  # points below it at least: the patch fails
SAME = 1.0  # points between the two ways of counting
LEVEL = 0.05  # of McNemar's test
NOTES = (
    "**Eval mode**: dropout off; BatchNorm statistics recomputed at every point that is no given model, on training images that were not "
    "kept apart. Corners keep their own.",
    "**Barriers** are over the points of the grid: a finer one can only raise them. `above_mean` is the highest value less the mean of "
    "the four corners (Frankle et al. 2020 of errors, Ainsworth et al. 2023 of losses), `above_bilinear` the highest rise above the "
    "bilinear blend of the corners (Entezari et al. 2022), `above_worst` the highest value less that of the worst corner (Draxler et al. "
    "2018): definitions for lines, taken to a square.",
    "The highest of many points on few images is above the highest rate by chance alone.",
    "**Chosen** points are chosen on validation images that nothing was trained on; the regret is what that loses to the point that the "
    "test images would have chosen, which is no result.",
    "**Gradients** are of whole batches: four corners and a surface take as many as the one longer training and the averaged run. "
    "Passes that recompute BatchNorm statistics or measure are not counted, and a patch within one run takes that run alone.",
    "**Training mode**: the published code evaluates with BatchNorm in training mode, so that each test image is normalised by the others "
    "of its batch. That is no figure of a model in use. Dropout, which their code leaves on as well, is off here.",
    "Verdicts between two accuracies are open where the difference is within the noise of the test images: 1.96 standard errors of two "
    "independent samples, on the safe side for the same images; for ensembles McNemar's exact test.",
)


def decided(verdicts: Sequence[bool | None], expected: int) -> bool | None:
    """Return whether all of `expected` cases hold: False as soon as one surely does not, None while one is missing or open.

    >>> decided([True, True], 2), decided([True, None], 2), decided([None, False], 3), decided([True], 2)
    (True, None, False, None)
    """
    if any(verdict is False for verdict in verdicts):
        return False
    return None if len(verdicts) < expected or None in verdicts else True


@dataclass(frozen=True)
class _Case:
    """What one seed says of a claim."""

    said: str
    holds: bool | None


def claims(found: Sequence[Found], blocks: Sequence[str], seeds: int) -> list[Claim]:
    """Return the claims about each architecture, undecided while cells are missing."""
    made: list[Claim] = []
    for block in blocks:
        held = [one for one in found if one.block == block]
        made += [_claim(text.format(arch=block), held, case, seeds) for text, case in CLAIMS]
    return made


def _claim(text: str, found: Sequence[Found], case: Callable[[Found], _Case | None], seeds: int) -> Claim:
    cases = [one for one in map(case, found) if one is not None]
    said = "; ".join(one.said for one in cases) or "not measured yet"
    return Claim(text, said, decided([one.holds for one in cases], seeds))


def _worst(patch: str, holds: Callable[[float], bool], definition: str = "frankle") -> Callable[[Found], _Case | None]:
    """Return the case of the worst test accuracy of a patch, of which `holds` is told how far below the corners it is.

    definition: frankle for the mean corner, draxler_rise for the worst.
    """

    def case(one: Found) -> _Case | None:
        barriers = one.over(patch)
        if barriers is None:
            return None
        top = barriers["garipov_max"]
        mean = 100 - corner_mean(one.patches[patch], "test_error")
        where = "" if top.u is None else f" at u, v = {at_text(top.u)}"
        said = f"worst {100 - top.value:.2f} %{where}, mean corner {mean:.2f} %; {barriers['frankle'].value:.2f} points below it, "
        said += f"{barriers['draxler_rise'].value:.2f} below the worst corner"
        return _Case(said, holds(barriers[definition].value))

    return case


def _ensemble(one: Found) -> _Case | None:
    row = one.row(SURFACE, ALL, ENSEMBLE)
    corners = one.row(SURFACE, ALL, CORNER_ENSEMBLE)
    if row is None or corners is None:
        return None
    gain, p = number(row, "over_corners"), number(row, "over_corners_p")
    said = f"{number(row, 'test_accuracy'):.2f} % with {row['passes']} passes, corners {number(corners, 'test_accuracy'):.2f} % with "
    said += f"{corners['passes']}: {gain:+.2f} points (p = {p:.2g})"
    return _Case(said, (gain > 0) if p < LEVEL else None)


def _simplexes(one: Found) -> _Case | None:
    row, other = one.row(SURFACE, ALL, ENSEMBLE), one.row(ESPRO, DRAWN, ENSEMBLE)
    if row is None or other is None:
        return None
    n = one.ensembles[SURFACE, ALL].column("test_accuracy").n
    errors = [{"test_error": 100 - number(each, "test_accuracy")} for each in (row, other)]
    return _compared(f"surface, {row['members']} points,", errors[0], f"ESPRO, {other['members']} draws,", errors[1], n)


def _point(one: Found) -> _Case | None:
    """Return the point that validation chose on the trained surface against the corner that it chose."""
    table = one.patches.get(SURFACE)
    if table is None:
        return None
    return _against(one, "corner", chosen(corner_rows(table)))


def _longer(one: Found) -> _Case | None:
    return None if one.alone is None else _against(one, "one longer training", one.alone.rows()[0])


def _averaging(one: Found) -> _Case | None:
    return None if one.alone is None else _against(one, "weight averaging", one.alone.rows()[1])


def _against(one: Found, what: str, row: Row) -> _Case | None:
    table = one.patches.get(SURFACE)
    if table is None:
        return None
    return _compared("point", chosen(table.rows()), what, row, table.column("test_error").n)


def _compared(first: str, one: Mapping[str, Cell], second: str, other: Mapping[str, Cell], n: int | None) -> _Case:
    """Return whether the first is more accurate, open within the noise of `n` images."""
    a, b = (1 - number(row, "test_error") / 100 for row in (one, other))
    gain = 100 * (a - b)
    said = f"{first} {100 * a:.2f} %, {second} {100 * b:.2f} %: {gain:+.2f} points"
    return _Case(said, None if n is None or abs(gain) < noise(a, b, n) else gain > 0)


def noise(a: float, b: float, n: int) -> float:
    """Return 1.96 standard errors, in points, of the difference of two shares of `n` images each.

    >>> round(noise(0.5, 0.5, 2), 2)
    98.0
    """
    return 100 * Z95 * sqrt((a * (1 - a) + b * (1 - b)) / n)


def _training_mode(one: Found) -> _Case | None:
    other = one.in_training_mode.get(SURFACE)
    if other is None or SURFACE not in one.patches:
        return None
    row = modes(one.patches[SURFACE], other)
    mean, worst = ((number(row, f"{what}_eval"), number(row, f"{what}_batch")) for what in ("mean", "worst"))
    said = f"mean {mean[0]:.2f} % and {mean[1]:.2f} % by batch statistics, worst {worst[0]:.2f} % and {worst[1]:.2f} %"
    return _Case(said, abs(mean[1] - mean[0]) <= SAME)


CLAIMS: tuple[tuple[str, Callable[[Found], _Case | None]], ...] = (
    (
        f"On a trained surface between four {{arch}} test accuracy is nowhere more than {NEAR:g} points below the mean corner.",
        _worst(SURFACE, lambda below: below <= NEAR),
    ),
    (
        f"With the units of the four {{arch}} matched before, it is nowhere more than {NEAR:g} points below the mean corner.",
        _worst(MATCHED, lambda below: below <= NEAR),
    ),
    (
        f"The bilinear patch between independent {{arch}} fails: its worst point is {FAR:g} points and more below the mean corner.",
        _worst(BILINEAR, lambda below: below >= FAR),
    ),
    (
        f"Within one run of {{arch}} the bilinear patch needs no optimisation: nowhere more than {NEAR:g} points below its worst corner.",
        _worst(SAME_RUN, lambda below: below <= NEAR, "draxler_rise"),
    ),
    ("An ensemble over the whole surface of {arch} is more accurate than that of its corners.", _ensemble),
    ("It is more accurate than an ensemble of simplexes (ESPRO) of as many gradients ({arch}).", _simplexes),
    (
        "The point of the surface that validation chooses is more accurate than the corner that it chooses ({arch}).",
        _point,
    ),
    ("That point is more accurate than one {arch} trained with as many gradients.", _longer),
    ("It is more accurate than weights averaged over a run of as many gradients ({arch}).", _averaging),
    (
        f"Counted in training mode, as published, the surface of {{arch}} looks the same in the mean (within {SAME:g} point).",
        _training_mode,
    ),
)
