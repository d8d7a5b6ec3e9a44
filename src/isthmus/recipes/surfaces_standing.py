"""Single models and ensembles of the study `surfaces` side by side, each with the gradients and the forward passes that it takes."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from isthmus.recipes.surfaces_cells import ALL, BILINEAR, DRAWN, ESPRO, MATCHED, NINE, SAME_RUN, SPRO, STAGED, SURFACE
from isthmus.recipes.surfaces_scales import CORNERS
from isthmus.recipes.surfaces_tables import (
    TITLES,
    Found,
    Row,
    at_text,
    chosen,
    corner_rows,
    number,
    place,
)
from isthmus.table import Cell, Column, Table

ENSEMBLE, CORNER_ENSEMBLE, CENTROID, SOUP = (
    "softmax ensemble",
    "corner ensemble",
    "centroid of the corners",
    "uniform soup",
)
BEST_CORNER = "corner chosen on validation"
LONGER, SWA = "one model trained as long", "stochastic weight averaging"


def point_of(patch: str) -> str:
    """Return what the point of a patch that validation chose is called."""
    return f"{TITLES[patch]}: point chosen on validation"


def ensemble_of(patch: str, which: str, count: object) -> str:
    """Return what an ensemble over a patch is called."""
    return f"{TITLES[patch]}: ensemble of {count} points" if which == ALL else f"{TITLES[patch]}: ensemble of 9 points"


def standings(found: Sequence[Found]) -> Table:
    """Return a row for each single model and ensemble, test images alone deciding nothing."""
    rows = [{"arch": one.block, "seed": one.seed} | row for one in found for row in standing(one)]
    columns = (
        Column("arch"),
        Column("seed"),
        Column("name"),
        Column("test_accuracy", "%", "higher", "test", None, "eval mode, BatchNorm statistics recomputed"),
        Column("test_accuracy_low", "%", "higher", "test", None, "lower Wilson 95 % bound"),
        Column("test_accuracy_high", "%", "higher", "test", None, "upper Wilson 95 % bound"),
        Column("test_nll", "nat", "lower", "test", None, "mean cross-entropy"),
        Column("regret", "%", "lower", "test", None, "test accuracy of the best on test less that of the chosen"),
        Column("over_corners", "%", "higher", "test", None, "test accuracy less that of the corner ensemble"),
        Column("over_corners_p", about="McNemar's exact test of that"),
        Column("passes", about="forward passes for one image"),
        Column("gradients", about="of whole batches, corners included"),
    )
    return Table.of(rows, columns)


def standing(one: Found) -> list[Row]:
    """Return the rows of one architecture and seed, as far as they are measured."""
    corner, surface = one.gradients
    four = None if corner is None else CORNERS * corner
    whole = None if four is None or surface is None else four + surface
    rows: list[Row | None] = []
    if (table := one.patches.get(BILINEAR)) is not None:
        corners = corner_rows(table)
        mean: Row = {
            "name": "corners, their mean",
            "test_accuracy": 100 - fmean(number(row, "test_error") for row in corners),
            "test_nll": fmean(number(row, "test_loss") for row in corners),
        }
        rows += [mean | _cost(1, corner), _point(BEST_CORNER, corners, four)]
    for patch, gradients in ((BILINEAR, four), (SURFACE, whole), (STAGED, whole), (MATCHED, whole), (SAME_RUN, corner)):
        if (table := one.patches.get(patch)) is not None:
            rows.append(_point(point_of(patch), table.rows(), gradients))
    if (table := one.patches.get(SURFACE)) is not None:
        middle = [row for row in table.rows() if place(row) == (0.5, 0.5)]
        rows += [_single(f"{TITLES[SURFACE]}: its middle", row) | _cost(1, whole) for row in middle]
    rows += [
        _named(one, SURFACE, NINE, CENTROID, CENTROID, four),
        _named(one, SURFACE, NINE, CORNER_ENSEMBLE, CORNER_ENSEMBLE, four),
        _named(one, SURFACE, NINE, ENSEMBLE, ensemble_of(SURFACE, NINE, 9), whole),
        _named(one, SURFACE, ALL, ENSEMBLE, ensemble_of(SURFACE, ALL, _count(one)), whole),
        _named(one, SURFACE, ALL, SOUP, f"{TITLES[SURFACE]}: mean weights of {_count(one)} points", whole),
        _named(one, SAME_RUN, NINE, ENSEMBLE, ensemble_of(SAME_RUN, NINE, 9), corner),
        _named(one, ESPRO, DRAWN, ENSEMBLE, "ESPRO: ensemble of 25 draws from a simplex at each corner", whole),
        _named(one, SPRO, DRAWN, ENSEMBLE, "SPRO: ensemble of 25 draws from the complex of the corners", whole),
    ]
    if one.alone is not None:
        longer, averaged = one.alone.rows()
        rows += [_single(LONGER, longer) | _cost(1, whole), _single(SWA, averaged) | _cost(1, whole)]
    if one.run is not None:
        row = next(row for row in one.run.rows() if row["name"] == ENSEMBLE)
        rows.append(_averaged("ensemble of the averaged run's snapshots", row, whole))
    return [row for row in rows if row is not None]


def _cost(passes: int, gradients: int | None) -> Row:
    return {"passes": passes, "gradients": gradients}


def _single(name: str, row: Mapping[str, Cell]) -> Row:
    """Return a scanned point as accuracy with its bounds."""
    return {
        "name": name,
        "test_accuracy": 100 - number(row, "test_error"),
        "test_accuracy_low": 100 - number(row, "test_error_high"),
        "test_accuracy_high": 100 - number(row, "test_error_low"),
        "test_nll": row["test_loss"],
    }


def _point(name: str, rows: Sequence[Row], gradients: int | None) -> Row:
    """Return the row that validation chose, with its regret to the one that the test images would have chosen."""
    best, hindsight = chosen(rows), chosen(rows, "test")
    regret = number(best, "test_error") - number(hindsight, "test_error")
    shown = f"{name} ({at_text(place(best))})"
    return _single(shown, best) | {"regret": regret} | _cost(1, gradients)


def _count(one: Found) -> Cell:
    row = one.row(SURFACE, ALL, ENSEMBLE)
    return "all" if row is None else row["members"]


def _named(one: Found, patch: str, which: str, name: str, shown: str, gradients: int | None) -> Row | None:
    row = one.row(patch, which, name)
    return None if row is None else _averaged(shown, row, gradients)


def _averaged(name: str, row: Row, gradients: int | None) -> Row:
    """Return a row of a comparison; there is no corner ensemble beside files of models."""
    kept = (
        "test_accuracy",
        "test_accuracy_low",
        "test_accuracy_high",
        "test_nll",
        "over_corners",
        "over_corners_p",
        "passes",
    )
    return {"name": name, **{column: row[column] for column in kept if column in row}, "gradients": gradients}
