"""The sentences about a scan. The page and the command line say the same thing because both take it from here."""

from collections.abc import Mapping, Sequence

from isthmus._check import InputError
from isthmus.association import associate_columns
from isthmus.barrier import SQUARE, TRIANGLE, Barrier, barriers, surface_barriers
from isthmus.report.scan_record import choice_of, coordinate_columns, corners_of
from isthmus.report.text import coordinates, number
from isthmus.table import Table

MEASURES = {  # whose barriers are told, in this order
    "test_loss": "test loss",
    "robust_loss": "loss under attack",
    "test_error": "test error",
    "robust_error": "error under attack",
}
PAIR = ("robust_loss", "input_eigenvalue")

LIMITS = (
    "The highest values are those of the scanned points: a finer scan can only raise them.",
    "Intervals (Wilson, 95 %) cover the sampling of test images only, not the choice of models, seeds or data.",
)
DRAWN = "Values between the measured points are drawn, not measured. Nothing is shown off the surface, where most of weight space is."
ATTACKED = (
    "Loss and error under attack are those of the attack that was run. A stronger one can only raise them: they are lower bounds on the "
    "worst case, no certificate.",
)


def scan_barriers(table: Table) -> tuple[dict[str, dict[str, Barrier]], str]:
    """Return column -> name -> barrier for the losses and errors along a path or over a surface with known corners; why there are none."""
    names = [name for name in MEASURES if name in table.names]
    corners = [(corner.at[0], corner.at[1]) for corner in corners_of(table) if len(corner.at) == 2]
    try:
        if "t" in table.names:
            return {name: barriers(table, value=name) for name in names}, ""
        if set(corners) not in (SQUARE, TRIANGLE):
            return {}, ""
        return {name: surface_barriers(table, corners, value=name) for name in names}, ""
    except InputError as error:
        return {}, f"No barriers: {error}"


def amount(value: float, unit: str, called: str | None = None) -> str:
    """Return a measured value with its unit, `1.24 nat` or `3.1 %`; a dimensionless one without. `called`: what to call the unit."""
    shown = f"{value:.1f}" if unit == "%" else number(float(f"{value:.3g}"))
    return shown if unit in ("1", "") else f"{shown} {called or unit}"


def at(barrier: Barrier) -> str:
    """Return the place, ` at t = 0.533` or ` at (u, v) = (0.1, 0.5)`, empty for an average."""
    if barrier.u is not None:
        return f" at {coordinates(barrier.u)}"
    return "" if barrier.t is None else f" at t = {barrier.t:.3g}"


def scan_verdict(table: Table, found: Mapping[str, Mapping[str, Barrier]]) -> str:
    """Return the headline: how far each loss and error rises above the worst of the given models."""
    if not found:
        place = {1: "points along a path", 2: "points of a surface"}.get(
            len(coordinate_columns(table)), "points of a bridge"
        )
        return f"{len(table):,} {place} were measured."
    said: list[str] = []
    for name, held in found.items():
        rise = held["draxler_rise"]
        if rise.value > 0:
            unit = "points" if rise.unit == "%" else rise.unit
            said.append(f"{MEASURES[name]} rises by {amount(rise.value, rise.unit, unit)}{at(rise)}")
        else:
            said.append(f"{MEASURES[name]} does not rise")
    where = "worse end of the path" if "t" in table.names else "worst corner of the surface"
    return f"Above the {where}, {', '.join(said)}."


def chosen_sentences(table: Table) -> list[str]:
    """Return where the point chosen on validation images is, by which rule, and what that costs on the test images; empty without one."""
    found = choice_of(table)
    if found is None:
        return []
    lines = [f"Chosen: {coordinates(found.u)}, out of {found.candidates:,} points. Rule: {found.rule}."]
    names = coordinate_columns(table)
    row = next((row for row in table.rows() if tuple(row[name] for name in names) == found.u), None)
    by, what = ("robust_error", " under attack") if "validation_robust_error" in table.names else ("test_error", "")
    if row is None or by not in table.names:
        return lines
    own, errors = row[by], [value for value in table.values(by) if isinstance(value, float)]
    if isinstance(own, float) and errors:
        lines.append(
            f"Its test error{what} is {amount(own, '%')}, the lowest of all points {amount(min(errors), '%')}, which is known only "
            f"afterwards: regret {amount(own - min(errors), '%', 'points')}."
        )
    return lines


def association_sentences(table: Table) -> list[str]:
    """Return how loss under attack goes with the largest input eigenvalue along a path, where both were measured."""
    if "t" not in table.names or not set(PAIR) <= set(table.names):
        return []
    found = associate_columns(table, *PAIR)
    if found is None:
        return [
            "Loss under attack and largest input eigenvalue: fewer than four points have both, or one of them does not vary."
        ]
    return [
        f"Correlation of the loss under attack with the largest input eigenvalue along the path: {found}.",
        "Neighbouring points of a path are alike, so the intervals rest on the effective number of independent points, not on the "
        "number scanned. They are about this path, not about other pairs of models.",
    ]


def scan_limits(table: Table) -> Sequence[str]:
    """Return what the scan does not show."""
    attacked = any("robust_" in name or "evasion_" in name for name in table.names)
    drawn = (DRAWN,) if len(coordinate_columns(table)) > 1 else ()
    return (*(ATTACKED if attacked else ()), *drawn, *LIMITS)
