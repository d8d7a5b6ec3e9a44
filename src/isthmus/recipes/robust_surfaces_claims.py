"""What becomes of the claims about robustness over surfaces: those of Zhao et al. 2020 about paths, taken to surfaces, and our own."""

from collections.abc import Sequence

from isthmus.association import associate_columns
from isthmus.barrier import SQUARE, barriers, surface_barriers
from isthmus.recipes.robust_surfaces_cells import STANDARD, UNDER_ATTACK
from isthmus.recipes.robust_surfaces_tables import MEASURES, Found, chosen
from isthmus.recipes.study import Claim, every
from isthmus.recipes.surfaces_claims import decided, noise
from isthmus.recipes.surfaces_tables import corner_rows, edge, number
from isthmus.table import Table

SHARE = 0.1  # a rise is called a barrier from this share of the value at the worse end on, as in the study `evasion`
NOTES = (
    "**Corners**: regular models at (u, v) = (0, 0) and (0, 1), robust ones at (1, 0) and (1, 1). A robust model is the best of its "
    "training by robust error on the validation images.",
    "**Barrier**: a rise above the worse end of an edge, of a patch above its worst corner (Draxler et al. 2018), by a tenth of that and "
    "more. `above_bilinear` is the largest height above the bilinear blend of the corners. Between regular and robust models the two "
    "differ much: the robust loss of a regular model is many times that of a robust one.",
    "The robust loss is what the attack of the scan finds, a lower bound of the largest in the ball. The last table attacks nine points "
    "with more steps, through whole ensembles where the row is one.",
    "**Chosen**: lowest robust error on validation images; the regret is to the point that the test images would have chosen.",
    "The correlation is over the points of a patch, which are no independent draws: no interval is given.",
    "Verdicts between two robust accuracies are open within 1.96 standard errors of two independent samples.",
)


def barred(table: Table, measure: str, line: str | None = None) -> bool:
    """Return whether a measure rises by a tenth and more above the worst corner of a patch, or above the worse end of one of its edges."""
    if line is None:
        rise = surface_barriers(table, sorted(SQUARE), value=measure)["draxler_rise"].value
        worst = max(number(row, measure) for row in corner_rows(table))
    else:
        curve = edge(table, line, MEASURES)
        rise = barriers(curve, value=measure)["draxler_rise"].value
        worst = max(number(row, measure) for row in curve.rows() if row["t"] in (0.0, 1.0))
    return rise > 0 and rise >= SHARE * worst


def claims(found: Sequence[Found], seeds: int) -> list[Claim]:
    """Return the claims, undecided while cells are missing."""
    standard = [one.patches[STANDARD] for one in found if STANDARD in one.patches]
    both = [one.patches for one in found if {STANDARD, UNDER_ATTACK} <= set(one.patches)]
    flat = [not barred(table, "test_loss") for table in standard]
    high = [barred(table, "robust_loss") for table in standard]
    edges = [barred(table, "robust_loss", "u=1") for table in standard]
    eased = [_rise(held[UNDER_ATTACK]) < _rise(held[STANDARD]) for held in both]
    signs = [associate_columns(table, "robust_loss", "input_eigenvalue", path=False) for table in standard]
    positive = [one.pearson.value > 0 for one in signs if one is not None]
    return [
        Claim(
            "A surface trained on the standard loss has no barrier of it.",
            _rises(standard, "test_loss"),
            every(flat, seeds),
        ),
        Claim("It has a barrier of the robust loss.", _rises(standard, "robust_loss"), every(high, seeds)),
        Claim(
            "Its edge between the two robust models has one too.",
            "; ".join(f"{_rise(table, 'u=1'):.3g} nat above the worse end" for table in standard) or "not measured yet",
            every(edges, seeds),
        ),
        Claim(
            "On the edge between the robust models, training under attack lowers that rise.",
            "; ".join(
                f"{_rise(held[STANDARD], 'u=1'):.3g} and {_rise(held[UNDER_ATTACK], 'u=1'):.3g} nat" for held in both
            )
            or "not measured yet",
            every([_rise(held[UNDER_ATTACK], "u=1") < _rise(held[STANDARD], "u=1") for held in both], seeds),
        ),
        Claim(
            "Training under attack lowers the highest robust loss over the patch above its worst corner.",
            "; ".join(f"{_rise(held[STANDARD]):.3g} and {_rise(held[UNDER_ATTACK]):.3g} nat" for held in both)
            or "not measured yet",
            every(eased, seeds),
        ),
        Claim(
            "Over it the robust loss goes up and down with the largest input eigenvalue (Pearson's correlation above 0).",
            "; ".join(f"{one.pearson.value:.2f}" for one in signs if one is not None) or "not measured yet",
            every(positive, seeds),
        ),
        _better(found, seeds),
    ]


def _rise(table: Table, line: str | None = None) -> float:
    if line is None:
        return surface_barriers(table, sorted(SQUARE), value="robust_loss")["draxler_rise"].value
    return barriers(edge(table, line, MEASURES), value="robust_loss")["draxler_rise"].value


def _rises(tables: Sequence[Table], measure: str) -> str:
    held = [surface_barriers(table, sorted(SQUARE), value=measure) for table in tables]
    said = [
        f"{one['draxler_rise'].value:.3g} nat above the worst corner, {one['entezari'].value:.3g} above the bilinear blend"
        for one in held
    ]
    return "; ".join(said) or "not measured yet"


def _better(found: Sequence[Found], seeds: int) -> Claim:
    """Return whether validation finds a point that is more robust than the corner it finds."""
    said: list[str] = []
    verdicts: list[bool | None] = []
    for table in (one.patches[UNDER_ATTACK] for one in found if UNDER_ATTACK in one.patches):
        a, b = (1 - number(chosen(rows), "robust_error") / 100 for rows in (table.rows(), corner_rows(table)))
        n = table.column("robust_error").n
        said.append(f"point {100 * a:.2f} %, corner {100 * b:.2f} %")
        verdicts.append(None if n is None or 100 * abs(a - b) < noise(a, b, n) else a > b)
    text = "The point of the surface trained under attack that validation chooses is more robust than the corner that it chooses."
    return Claim(text, "; ".join(said) or "not measured yet", decided(verdicts, seeds))
