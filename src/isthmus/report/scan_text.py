"""The sentences about a scan. The page and the command line say the same thing because both take it from here."""

from collections.abc import Mapping, Sequence

from isthmus._check import InputError
from isthmus.association import associate_columns
from isthmus.barrier import Barrier, barriers
from isthmus.report.text import number
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
ATTACKED = (
    "Loss and error under attack are those of the attack that was run. A stronger one can only raise them: they are lower bounds on the "
    "worst case, no certificate.",
)


def scan_barriers(table: Table) -> tuple[dict[str, dict[str, Barrier]], str]:
    """Return column -> name -> barrier for the losses and errors measured along a path, and why there are none where there are none."""
    if "t" not in table.names:
        return {}, ""
    try:
        return {name: barriers(table, value=name) for name in MEASURES if name in table.names}, ""
    except InputError as error:
        return {}, f"No barriers: {error}"


def amount(value: float, unit: str, called: str | None = None) -> str:
    """Return a measured value with its unit, `1.24 nat` or `3.1 %`; a dimensionless one without. `called`: what to call the unit."""
    shown = f"{value:.1f}" if unit == "%" else number(float(f"{value:.3g}"))
    return shown if unit in ("1", "") else f"{shown} {called or unit}"


def at(barrier: Barrier) -> str:
    """Return the place on the path, ` at t = 0.533`, empty for an average."""
    return "" if barrier.t is None else f" at t = {barrier.t:.3g}"


def scan_verdict(table: Table, found: Mapping[str, Mapping[str, Barrier]]) -> str:
    """Return the headline: how far each loss and error rises above the worse of the two ends."""
    if not found:
        place = "points along a path" if "t" in table.names else "points of a surface"
        return f"{len(table):,} {place} were measured."
    said: list[str] = []
    for name, held in found.items():
        rise = held["draxler_rise"]
        if rise.value > 0:
            unit = "points" if rise.unit == "%" else rise.unit
            said.append(f"{MEASURES[name]} rises by {amount(rise.value, rise.unit, unit)}{at(rise)}")
        else:
            said.append(f"{MEASURES[name]} does not rise")
    return f"Above the worse end of the path, {', '.join(said)}."


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
    return (*(ATTACKED if attacked else ()), *LIMITS)
