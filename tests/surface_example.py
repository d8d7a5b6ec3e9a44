"""Scans of surfaces whose every number is known: a hill of loss over the unit square, or over a triangle of three models."""

from itertools import product
from math import isclose

from isthmus.report.surface import Surface
from isthmus.table import Column, Table, with_bounds

NAMES = ("runs/a/model.safetensors", "runs/b/model.safetensors", "runs/c/model.safetensors", "runs/d/model.safetensors")
CHOSEN = {"u": [0.5, 0.25], "rule": "highest accuracy on 100 validation images", "candidates": 25}


def loss(u: float, v: float) -> float:
    """0.1 at (0, 0), 0.3 at (1, 0), 0.2 at (0, 1), 0.4 at (1, 1), with a hill of height 1 in the middle of the square."""
    return 0.1 + 0.2 * u + 0.1 * v + 16 * u * (1 - u) * v * (1 - v)


def table(count=5, *, triangle=False, chosen=True, record=True, names=NAMES, lose=(), drop=()) -> Table:
    """Return a scan of count x count points. lose: (u, v) -> a value that is not finite; record: whether corners and basis are in it."""
    values = [i / (count - 1) for i in range(count)]
    places = [(u, v) for u, v in product(values, values) if not triangle or u + v <= 1 + 1e-12]
    rows = [
        {
            "u": u,
            "v": v,
            "test_loss": dict(lose).get((u, v), loss(u, v)),
            "test_error": float(round(10 + 20 * loss(u, v))),
            "robust_error": float(round(50 + 20 * loss(u, v))),
            "validation_error": float(round(10 + 20 * loss(u, v))),
        }
        for u, v in places
    ]
    columns = [
        Column("u"),
        Column("v"),
        Column("test_loss", "nat", "lower", "test", 100),
        Column("test_error", "%", "lower", "test", 100),
        Column("robust_error", "%", "lower", "test", 100),
        Column("validation_error", "%", "lower", "validation", 100),
    ]
    columns = [column for column in columns if column.name not in drop]
    rows = [{name: value for name, value in row.items() if name not in drop} for row in rows]
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)] if triangle else [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    meta: dict[str, object] = {"bridge": "runs/abcd", "data": "digits", "seed": 0}
    if record:
        meta["basis"] = {"basis": "barycentric", "points": 3} if triangle else {"basis": "product"}
        meta["corners"] = [{"name": name, "at": list(at)} for name, at in zip(names, corners, strict=False)]
    if chosen:
        meta["chosen"] = CHOSEN
    return with_bounds(Table.of(rows, columns, meta))


def surface(**more) -> Surface:
    return Surface.of(table(**more))


def row_at(held: Table, u: float, v: float) -> dict:
    return next(row for row in held.rows() if isclose(row["u"], u) and isclose(row["v"], v))
