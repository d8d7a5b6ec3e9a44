"""What the cells of the study `surfaces` say: each patch under named definitions, its edges, single models and ensembles beside others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from isthmus.barrier import SQUARE, Barrier, barriers, surface_barriers
from isthmus.recipes.surfaces_cells import BILINEAR, MATCHED, SAME_RUN, STAGED, SURFACE
from isthmus.table import Cell, Column, Table

CORNERS = sorted(SQUARE)
MEASURES = ("test_error", "test_loss", "train_error", "train_loss")
TITLES = {
    BILINEAR: "bilinear patch",
    SURFACE: "trained surface",
    STAGED: "trained surface, edges first",
    MATCHED: "trained surface, units matched",
    SAME_RUN: "bilinear patch within one run",
}
Row = dict[str, Cell]
Point = tuple[float, float]


@dataclass(frozen=True)
class Found:
    """What was measured of one architecture and seed; what is missing has not been run.

    patches: name -> scan; areas: name -> of the patch in weight space; in_training_mode: name -> scan with batch statistics. ensembles:
    (patch, which points) -> comparison. alone: scan of the longer training (t = 0) and the averaged one (t = 1). run: comparison of the
    averaged weights. gradients: of one corner, and of one trained surface, None while not known.
    """

    block: str
    seed: int
    patches: Mapping[str, Table] = field(default_factory=dict[str, Table])
    areas: Mapping[str, float] = field(default_factory=dict[str, float])
    in_training_mode: Mapping[str, Table] = field(default_factory=dict[str, Table])
    ensembles: Mapping[tuple[str, str], Table] = field(default_factory=dict[tuple[str, str], Table])
    alone: Table | None = None
    run: Table | None = None
    gradients: tuple[int | None, int | None] = (None, None)

    def over(self, patch: str, measure: str = "test_error") -> Mapping[str, Barrier] | None:
        """Return the barriers of a patch, None where it was not scanned."""
        return surface_barriers(self.patches[patch], CORNERS, value=measure) if patch in self.patches else None

    def row(self, patch: str, which: str, name: str) -> Row | None:
        """Return the row of that name in the comparison over a patch."""
        table = self.ensembles.get((patch, which))
        return None if table is None else next((row for row in table.rows() if row["name"] == name), None)


def number(row: Mapping[str, Cell], name: str) -> float:
    """Return a number that is there."""
    value = row[name]
    assert isinstance(value, int | float), name
    return float(value)


def place(row: Mapping[str, Cell]) -> Point:
    """Return the coordinates of a row."""
    return number(row, "u"), number(row, "v")


def corner_rows(table: Table) -> list[Row]:
    """Return the rows at the four corners."""
    return [row for row in table.rows() if set(place(row)) <= {0.0, 1.0}]


def corner_mean(table: Table, measure: str) -> float:
    """Return the mean of a measure over the corners."""
    return fmean(number(row, measure) for row in corner_rows(table))


def chosen(rows: Sequence[Row], split: str = "validation") -> Row:
    """Return the row of lowest error on a split, among equals of lowest loss, among equals the first."""
    return min(rows, key=lambda row: (number(row, f"{split}_error"), number(row, f"{split}_loss")))


def over_patches(found: Sequence[Found]) -> Table:
    """Return a row for each patch and measure, under the definitions of :func:`isthmus.barrier.surface_barriers`."""
    rows: list[Row] = []
    for one in found:
        for patch, table in one.patches.items():
            for measure in MEASURES:
                held = surface_barriers(table, CORNERS, value=measure)
                rows.append(_key(one) | {"patch": TITLES[patch], "measure": measure} | _heights(table, measure, held))
    about = "over all points of the grid alike"
    return Table.of(
        rows,
        (
            *_KEY,
            Column("patch"),
            Column("measure", about="errors in %, losses in nat; eval mode, BatchNorm statistics recomputed"),
            Column("corners", about="mean of the four corners"),
            Column("mean", about=f"garipov_mean: {about}"),
            Column("min", about="garipov_min"),
            Column("max", about="garipov_max: the worst point"),
            Column("at", about="u, v of the worst point"),
            Column("above_mean", about="frankle (errors), git_re_basin (losses): max less the mean corner"),
            Column("above_bilinear", about="entezari: highest rise above the bilinear blend of the corners"),
            Column("above_worst", about="draxler_rise: max less the worst corner"),
        ),
    )


def _heights(table: Table, measure: str, held: Mapping[str, Barrier]) -> Row:
    first = "frankle" if measure.endswith("error") else "git_re_basin"
    worst = held["garipov_max"].u
    return {
        "corners": corner_mean(table, measure),
        "mean": held["garipov_mean"].value,
        "min": held["garipov_min"].value,
        "max": held["garipov_max"].value,
        "at": "" if worst is None else at_text(worst),
        "above_mean": held[first].value,
        "above_bilinear": held["entezari"].value,
        "above_worst": held["draxler_rise"].value,
    }


def at_text(point: Point) -> str:
    """Return coordinates as text.

    >>> at_text((0.5, 1.0))
    '0.5, 1'
    """
    return f"{point[0]:.3g}, {point[1]:.3g}"


EDGES = {"u=0": ("u", 0.0), "u=1": ("u", 1.0), "v=0": ("v", 0.0), "v=1": ("v", 1.0)}


def edge(table: Table, name: str, measures: Sequence[str] = MEASURES) -> Table:
    """Return the scanned points of one edge as the scan of a curve, by `t`."""
    axis, side = EDGES[name]
    along = "v" if axis == "u" else "u"
    rows: list[Row] = [
        {"t": row[along], **{measure: row[measure] for measure in measures}}
        for row in table.rows()
        if row[axis] == side
    ]
    return Table.of(rows, (Column("t"), *(table.column(measure) for measure in measures)))


def over_edges(found: Sequence[Found]) -> Table:
    """Return a row for each edge of each patch: test error and loss along it."""
    rows: list[Row] = []
    for one in found:
        for patch, table in one.patches.items():
            for name in EDGES:
                curve = edge(table, name)
                error, loss = barriers(curve, value="test_error"), barriers(curve, value="test_loss")
                rows.append(
                    _key(one)
                    | {
                        "patch": TITLES[patch],
                        "edge": name,
                        "mean_error": error["garipov_mean"].value,
                        "max_error": error["garipov_max"].value,
                        "at": error["garipov_max"].t,
                        "frankle": error["frankle"].value,
                        "entezari": error["entezari"].value,
                        "draxler_rise": error["draxler_rise"].value,
                        "loss_rise": loss["draxler_rise"].value,
                    }
                )
    percent = ("mean_error", "max_error", "frankle", "entezari", "draxler_rise")
    columns = {name: Column(name, "%", "lower", "test") for name in percent} | {
        "at": Column("at", about="t of the highest error"),
        "loss_rise": Column("loss_rise", "nat", "lower", "test", None, "draxler_rise of the loss"),
    }
    order = ("mean_error", "max_error", "at", "frankle", "entezari", "draxler_rise", "loss_rise")
    return Table.of(rows, (*_KEY, Column("patch"), Column("edge"), *(columns[name] for name in order)))


def spreads(found: Sequence[Found]) -> Table:
    """Return how far the corners of each patch are from each other, and its area."""
    rows: list[Row] = []
    for one in found:
        for patch, table in one.patches.items():
            corners = corner_rows(table)
            apart = [number(corners[i], f"distance_model_{j}") for i, j in combinations(range(len(corners)), 2)]
            named: Row = {"patch": TITLES[patch], "distance": fmean(apart), "closest": min(apart)}
            rows.append(_key(one) | named | {"area": one.areas.get(patch)})
    columns = (
        Column("patch"),
        Column("distance", about="between two corners in weight space, mean of the six pairs"),
        Column("closest", about="smallest of them"),
        Column("area", about="of the patch in weight space"),
    )
    return Table.of(rows, (*_KEY, *columns))


def by_mode(found: Sequence[Found]) -> Table:
    """Return test accuracies by batch statistics, as in training mode, beside those of eval mode at the same points."""
    rows: list[Row] = []
    for one in found:
        for patch, other in one.in_training_mode.items():
            if patch in one.patches:
                rows.append(_key(one) | {"patch": TITLES[patch]} | modes(one.patches[patch], other))
    columns = [Column("points")] + [
        Column(f"{what}_{mode}", "%", "higher", "test", None, about)
        for what in ("mean", "worst", "best")
        for mode, about in (("eval", "statistics recomputed"), ("batch", "statistics of each batch, training mode"))
    ]
    return Table.of(rows, (*_KEY, Column("patch"), *columns))


def modes(table: Table, other: Table) -> Row:
    """Return mean, worst and best test accuracy (%) of both scans over the points of the smaller grid."""
    same = {_rounded(place(row)): 100 - number(row, "test_error") for row in table.rows()}
    batch = {_rounded(place(row)): 100 - number(row, "test_error") for row in other.rows()}
    both = [point for point in batch if point in same]
    found: Row = {"points": len(both)}
    for name, take in (("mean", fmean), ("worst", min), ("best", max)):
        found |= {
            f"{name}_eval": take([same[point] for point in both]),
            f"{name}_batch": take([batch[point] for point in both]),
        }
    return found


def _rounded(point: Point) -> Point:
    return round(point[0], 9), round(point[1], 9)  # a grid of 6 and one of 11 points differ in the last bit


_KEY = (Column("arch"), Column("seed"))


def _key(one: Found) -> Row:
    return {"arch": one.block, "seed": one.seed}
