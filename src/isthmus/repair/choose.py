"""Where on a path or a surface to stop, from validation columns alone."""

from dataclasses import dataclass
from math import prod

from isthmus._check import require
from isthmus.rates import Rate
from isthmus.repair.strength import bar
from isthmus.scan import coordinate_names
from isthmus.table import Table


@dataclass(frozen=True)
class Choice:
    """The chosen point u. accuracy and bar are validation accuracies in [0, 1]; candidates: how many points met the bar."""

    u: tuple[float, ...]
    accuracy: Rate
    best: Rate
    bar: float
    candidates: int
    rule: str
    explanation: str


def depth(u: tuple[float, ...]) -> float:
    """Return how far a point of [0, 1]^d is from all corners: 1 - the largest weight of a corner in the multilinear interpolation.

    1 - prod_k max(u_k, 1 - u_k): min(t, 1 - t) along a curve, 0 at corners, 1/2 in the middle of an edge, 3/4 in that of a square.

    >>> depth((0.25,)), depth((0.5, 0.5)), depth((0.5, 1.0))
    (0.25, 0.75, 0.5)
    """
    return 1 - prod(max(c, 1 - c) for c in u)


def named(u: tuple[float, ...]) -> str:
    """Return the coordinates in words: `t = 0.5`, or `u = 0.5, v = 0.25`."""
    names = coordinate_names(len(u))
    return ", ".join(f"{name} = {value:.3g}" for name, value in zip(names, u, strict=True))


def farthest_within(table: Table, *, margin: float, errors: float = 1.0) -> Choice:
    """Return the point farthest from all given models whose validation accuracy is near enough to the best of the points between them.

    Near enough: at least :func:`isthmus.repair.strength.bar` of the best accuracy on the n validation images. Among those points, the
    corners excepted, the one of largest :func:`depth` wins, min(t, 1 - t) along a curve: what a corner brought with it fades with
    distance, and validation cannot see it. Ties go to the higher accuracy, then to the first coordinates. Reads only columns marked
    `validation`.

    margin: in accuracy, such as 0.02. Raises InputError without a point between the corners.
    """
    column = table.column("validation_error")
    require(
        column.split == "validation",
        "table",
        "have a column validation_error measured on validation data",
        str(column.split),
    )
    n = column.n
    require(n is not None, "table", "say on how many samples validation_error was measured", "no n")
    assert n is not None
    axes = coordinate_names(1 if "t" in table.names else 2)
    places = list(zip(*(table.values(axis) for axis in axes), strict=True))
    accuracies = [1 - float(error) / 100 for error in table.frame["validation_error"]]
    inside = [(u, accuracy) for u, accuracy in zip(places, accuracies, strict=True) if depth(u) > 0]
    require(bool(inside), "table", "have at least one point strictly between the ends", f"{len(table)} rows")
    best = max(accuracy for _, accuracy in inside)
    top = Rate(round(best * n), n)
    least = bar(top, margin=margin, errors=errors)
    within = [(u, accuracy) for u, accuracy in inside if accuracy >= least - 1e-12]
    u, accuracy = min(within, key=lambda row: (-round(depth(row[0]), 12), -row[1], row[0]))
    ends, between = ("both ends", "interior") if len(axes) == 1 else ("all corners", "other")
    rule = (
        f"farthest from {ends} among {between} points whose validation accuracy is within "
        f"{100 * (top.value - least):.1f} points of the best {between} point (the larger of {100 * margin:.1f} points and {errors:g} "
        f"standard error(s), n = {n:,})"
    )
    found = Rate(round(accuracy * n), n)
    explanation = (
        f"{named(u)}: validation accuracy {found}; best {between} point {top}; bar {100 * least:.1f} %; "
        f"{len(within)} of {len(inside)} {between} points met it."
    )
    return Choice(u, found, top, least, len(within), rule, explanation)
