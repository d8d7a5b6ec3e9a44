"""Scans of surfaces whose heights are known on paper, and comparisons over them."""

from collections.abc import Callable

from isthmus.recipes.surfaces_cells import ALL, BILINEAR, DRAWN, ESPRO, MATCHED, NINE, SAME_RUN, SURFACE
from isthmus.recipes.surfaces_tables import Found
from isthmus.table import Cell, Column, Table, with_bounds

Height = Callable[[float, float], float]
N = 1000
CORNERS = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def dome(height: float, *, ends: tuple[float, float, float, float] = (10, 12, 14, 16)) -> Height:
    """Errors in % over the bilinear blend of the corners, `height` above it in the middle."""

    def value(u: float, v: float) -> float:
        blend = ends[0] * (1 - u) * (1 - v) + ends[1] * (1 - u) * v + ends[2] * u * (1 - v) + ends[3] * u * v
        return round(blend + 16 * height * u * (1 - u) * v * (1 - v), 1)

    return value


def scanned(error: Height, *, validation: Height | None = None, points: int = 5) -> Table:
    """The scan of a square grid; losses are a tenth of the errors, training errors half of them, validation errors as asked."""
    axis = [i / (points - 1) for i in range(points)]
    splits = ("test", "train", "validation")
    columns = [Column("u"), Column("v")]
    for split in splits:
        columns += [Column(f"{split}_loss", "nat", "lower", split, N), Column(f"{split}_error", "%", "lower", split, N)]
    columns += [Column(f"distance_model_{k}") for k in range(4)]
    rows: list[dict[str, Cell]] = []
    for u, v in [(u, v) for u in axis for v in axis]:
        found = {"test": error(u, v), "train": round(error(u, v) / 2, 1), "validation": (validation or error)(u, v)}
        row: dict[str, Cell] = {"u": u, "v": v}
        for split in splits:
            row |= {f"{split}_error": found[split], f"{split}_loss": found[split] / 10}
        rows.append(row | {f"distance_model_{k}": 3 * abs(u - a) + 4 * abs(v - b) for k, (a, b) in enumerate(CORNERS)})
    return with_bounds(Table.of(rows, columns))


def line(longer: float, averaged: float) -> Table:
    """The ends of the line from the longer training to the averaged one, by test error."""
    columns = [Column("t"), Column("test_loss", "nat"), Column("test_error", "%", "lower", "test", N)]
    rows = [{"t": t, "test_error": e, "test_loss": e / 10} for t, e in ((0.0, longer), (1.0, averaged))]
    return with_bounds(Table.of(rows, columns))


def compared(*rows: tuple[str, float, int, float, float]) -> Table:
    """A comparison: name, accuracy, passes, gain over the corner ensemble and its p."""
    names = ("name", "test_accuracy", "passes", "over_corners", "over_corners_p", "members")
    full = [dict(zip(names, (*row, row[2]), strict=True)) for row in rows]
    more = {"test_accuracy_low": 80.0, "test_accuracy_high": 99.0, "test_nll": 0.5}
    columns = [Column(name, n=N if name == "test_accuracy" else None) for name in (*names, *more)]
    return Table.of([row | more for row in full], columns)


def found(
    *,
    gain: float = 2.0,
    p: float = 0.01,
    top: float = 1.0,
    espro: float = 86.0,
    seed: int = 0,
    block: str = "resnet18",
) -> Found:
    """What a study could find: four corners of 13 % in the mean, a flat patch that fails, a trained surface `top` above its corners."""
    return Found(
        block=block,
        seed=seed,
        patches={
            BILINEAR: scanned(dome(60.0)),
            SURFACE: scanned(dome(top), validation=lambda u, v: 9.0 if (u, v) == (0.5, 0.25) else 20.0),
            MATCHED: scanned(dome(-5.0)),
            SAME_RUN: scanned(dome(0.0)),
        },
        areas={BILINEAR: 12.0, SURFACE: 12.5},
        in_training_mode={SURFACE: scanned(dome(top + 4), points=3)},
        ensembles={
            (SURFACE, NINE): compared(
                ("softmax ensemble", 91.0, 9, 1.0, 0.2),
                ("corner ensemble", 90.0, 4, 0.0, 1.0),
                ("centroid of the corners", 30.0, 1, -60.0, 0.0),
            ),
            (SURFACE, ALL): compared(
                ("softmax ensemble", 90.0 + gain, 25, gain, p),
                ("corner ensemble", 90.0, 4, 0.0, 1.0),
                ("uniform soup", 85.0, 1, -5.0, 0.1),
            ),
            (ESPRO, DRAWN): compared(("softmax ensemble", espro, 100, espro - 90.0, 0.1)),
        },
        alone=line(8.0, 18.0),
        run=compared(("softmax ensemble", 89.0, 6, 0.0, 1.0)),
        gradients=(100, 60),
    )
