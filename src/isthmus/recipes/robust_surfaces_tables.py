"""What the cells of the study `robust-surfaces` say: clean and robust heights over each patch and along its edges, points, ensembles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.association import associate_columns
from isthmus.barrier import SQUARE, barriers, surface_barriers
from isthmus.recipes.robust_surfaces_cells import FLAT, STANDARD, UNDER_ATTACK
from isthmus.recipes.surfaces_tables import Row, at_text, corner_mean, corner_rows, edge, number, place
from isthmus.table import Column, Table

TITLES = {FLAT: "bilinear patch", STANDARD: "trained on the standard loss", UNDER_ATTACK: "trained under attack"}
MEASURES = ("test_error", "test_loss", "robust_error", "robust_loss")
LINES = {"u=0": "regular-regular", "u=1": "robust-robust", "v=0": "regular-robust", "v=1": "regular-robust"}
ENSEMBLE, CORNER_ENSEMBLE = "softmax ensemble", "corner ensemble"


@dataclass(frozen=True)
class Found:
    """What was measured of one seed. patches: patch -> scan; ensembles: patch -> attacked comparison of nine points."""

    seed: int
    patches: Mapping[str, Table] = field(default_factory=dict[str, Table])
    ensembles: Mapping[str, Table] = field(default_factory=dict[str, Table])


def chosen(rows: Sequence[Row], split: str = "validation_robust") -> Row:
    """Return the row of lowest error on a split, among equals of lowest loss, among equals the first."""
    return min(rows, key=lambda row: (number(row, f"{split}_error"), number(row, f"{split}_loss")))


def tables(found: Sequence[Found]) -> dict[str, Table]:
    """Return the tables, from scans and comparisons alone."""
    return {
        "Corners": _table(_corners, found, _CORNERS),
        "Over each patch": _table(_heights, found, _HEIGHTS),
        "Along its edges": _table(_edges, found, _EDGES),
        "Points by robustness": _table(_points, found, _POINTS),
        "Robust loss and input curvature": _table(_curvature, found, _CURVATURE),
        "Attacked with more steps": _table(_strong, found, _STRONG),
    }


def _table(rows_of: Callable[[Found], list[Row]], found: Sequence[Found], columns: Sequence[Column]) -> Table:
    rows = [{"seed": one.seed} | row for one in found for row in rows_of(one)]
    return Table.of(rows, (Column("seed"), *columns))


def _accuracies(row: Row) -> Row:
    return {
        "accuracy": 100 - number(row, "test_error"),
        "robust_accuracy": 100 - number(row, "robust_error"),
        "robust_loss": row["robust_loss"],
    }


_ACCURACIES = (
    Column("accuracy", "%", "higher", "test", None, "BatchNorm statistics recomputed where no model is given"),
    Column("robust_accuracy", "%", "higher", "test", None, "under the attack of the scan"),
    Column("robust_loss", "nat", "lower", "test"),
)
_CORNERS = (Column("corner"), *_ACCURACIES)
_HEIGHTS = (
    Column("patch"),
    Column("measure", about="errors in %, losses in nat, of test images"),
    Column("corners", about="mean of the four corners"),
    Column("mean", about="over all points of the grid alike"),
    Column("min"),
    Column("max"),
    Column("at", about="u, v of the highest"),
    Column("above_worst", about="max less the worst corner"),
    Column("above_bilinear", about="highest rise above the bilinear blend of the corners"),
)
_EDGES = (
    Column("patch"),
    Column("edge"),
    Column("between"),
    *(
        Column(f"{name}_{what}", unit, "lower", "test", None, about)
        for name, unit in (("test_error", "%"), ("robust_error", "%"), ("robust_loss", "nat"))
        for what, about in (("max", "highest"), ("rise", "highest less the worse end"))
    ),
)
_POINTS = (
    Column("name"),
    Column("at", about="u, v"),
    *_ACCURACIES,
    Column("regret", "%", "lower", "test", None, "robust accuracy of the best on test less that of the chosen"),
)
_CURVATURE = (
    Column("patch"),
    Column("pearson", "1", None, "test", None, "robust_loss with input_eigenvalue over the points"),
    Column("spearman", "1", None, "test"),
    Column("points"),
    Column("hessian_images", "1", None, "test", None, "whose largest eigenvalue was computed"),
)
_STRONG = (
    Column("patch"),
    Column("name"),
    Column("accuracy", "%", "higher", "test"),
    Column("robust_accuracy", "%", "higher", "test", None, "under the attack with more steps"),
    Column(
        "in_the_scan", "%", "higher", "test", None, "robust accuracy of the same point under the attack of the scan"
    ),
    Column("passes", about="forward passes for one image"),
)


def _corners(one: Found) -> list[Row]:
    rows = corner_rows(one.patches[FLAT]) if FLAT in one.patches else []
    names = {(u, v): f"{'robust' if u else 'regular'} at {at_text((u, v))}" for u, v in SQUARE}
    return [{"corner": names[place(row)]} | _accuracies(row) for row in rows]


def _heights(one: Found) -> list[Row]:
    rows: list[Row] = []
    for patch, table in one.patches.items():
        for measure in MEASURES:
            held = surface_barriers(table, sorted(SQUARE), value=measure)
            worst = held["garipov_max"].u
            rows.append(
                {
                    "patch": TITLES[patch],
                    "measure": measure,
                    "corners": corner_mean(table, measure),
                    "mean": held["garipov_mean"].value,
                    "min": held["garipov_min"].value,
                    "max": held["garipov_max"].value,
                    "at": "" if worst is None else at_text(worst),
                    "above_worst": held["draxler_rise"].value,
                    "above_bilinear": held["entezari"].value,
                }
            )
    return rows


def _edges(one: Found) -> list[Row]:
    rows: list[Row] = []
    for patch, table in one.patches.items():
        for name, between in LINES.items():
            curve = edge(table, name, MEASURES)
            row: Row = {"patch": TITLES[patch], "edge": name, "between": between}
            for measure in ("test_error", "robust_error", "robust_loss"):
                held = barriers(curve, value=measure)
                row |= {f"{measure}_max": held["draxler_max"].value, f"{measure}_rise": held["draxler_rise"].value}
            rows.append(row)
    return rows


def _points(one: Found) -> list[Row]:
    """Return the more robust corner, and for each patch its middle and the point that validation chose."""
    rows: list[Row] = []
    if FLAT in one.patches:
        rows.append(_picked("corner chosen on validation", corner_rows(one.patches[FLAT])))
    for patch, table in one.patches.items():
        rows.append(_picked(f"{TITLES[patch]}: point chosen on validation", table.rows()))
        middle = [row for row in table.rows() if place(row) == (0.5, 0.5)]
        rows += [{"name": f"{TITLES[patch]}: its middle", "at": "0.5, 0.5"} | _accuracies(row) for row in middle]
    return rows


def _picked(name: str, rows: Sequence[Row]) -> Row:
    best, hindsight = chosen(rows), chosen(rows, "robust")
    regret = number(best, "robust_error") - number(hindsight, "robust_error")
    return {"name": name, "at": at_text(place(best)), **_accuracies(best), "regret": regret}


def _curvature(one: Found) -> list[Row]:
    rows: list[Row] = []
    for patch, table in one.patches.items():
        found = associate_columns(table, "robust_loss", "input_eigenvalue", path=False)
        values = {} if found is None else {"pearson": found.pearson.value, "spearman": found.spearman.value}
        images = table.column("input_eigenvalue").n
        rows.append({"patch": TITLES[patch], **values, "points": len(table), "hessian_images": images})
    return rows


def _strong(one: Found) -> list[Row]:
    rows: list[Row] = []
    for patch, table in one.ensembles.items():
        scanned = {_name(*place(row)): 100 - number(row, "robust_error") for row in _scan_rows(one, patch)}
        for row in table.rows():
            name = str(row["name"])
            if name in scanned or name in (ENSEMBLE, CORNER_ENSEMBLE):
                rows.append(
                    {
                        "patch": TITLES[patch],
                        "name": name,
                        "accuracy": row["test_accuracy"],
                        "robust_accuracy": row["robust_accuracy"],
                        "in_the_scan": scanned.get(name),
                        "passes": row["passes"],
                    }
                )
    return rows


def _scan_rows(one: Found, patch: str) -> list[Row]:
    return one.patches[patch].rows() if patch in one.patches else []


def _name(u: float, v: float) -> str:
    return f"u = {u:.6g}, v = {v:.6g}"
