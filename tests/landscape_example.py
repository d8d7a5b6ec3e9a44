"""A landscape whose every number is known: a bowl of loss with its minimum off the centre, on a small grid."""

from math import nan

from isthmus.report.landscape import Landscape
from isthmus.table import Column, Table, with_bounds

AXIS = {"label": "along eigenvector 1", "unit": "unit length", "norm": 1.0}


def bowl(a: float, b: float) -> float:
    return 0.1 + (a - 0.25) ** 2 + 4 * b**2


def landscape(
    title="bowl", *, factor=1.0, count=5, dim=2, attacked=True, gap=None, anchors=None, directions="eigen", error=True
) -> Landscape:
    """Return the bowl times `factor` over -1..1; the loss under attack is three times the loss. gap: a point that is not finite."""
    values = [-1 + 2 * i / (count - 1) for i in range(count)]
    places = [(a, b) for a in values for b in (values if dim == 2 else [0.0])]
    columns = [Column(name) for name in ("a", "b")[:dim]] + [Column("test_loss", "nat", "lower", "test", 50)]
    rows = []
    for a, b in places:
        loss = nan if (a, b) == gap else factor * bowl(a, b)
        row = {"a": a, "b": b, "test_loss": loss}
        if attacked:
            row["robust_loss"] = 3 * loss
        if error:
            row["test_error"] = 2.0 * round(20 * abs(a))
        rows.append({k: v for k, v in row.items() if dim == 2 or k != "b"})
    columns += [Column("robust_loss", "nat", "lower", "test", 50)] if attacked else []
    columns += [Column("test_error", "%", "lower", "test", 50)] if error else []
    meta = {
        "kind": "landscape",
        "directions": directions,
        "axes": [{"name": name, **AXIS} for name in ("a", "b")[:dim]],
        "anchors": [{"name": "m.safetensors", "role": "centre", "at": [0.0] * dim, "off": 0.0}]
        if anchors is None
        else anchors,
        "examples": "crafted anew at each point (pgd-5, linf 0.1)" if attacked else "",
        "data": "digits",
        "split": "test",
        "n": 50,
        "seed": 0,
    }
    return Landscape(title, with_bounds(Table.of(rows, columns, meta)))


MODELS = [
    {"name": "one", "role": "model", "at": [0.0, 0.0], "off": 0.0},
    {"name": "two", "role": "model", "at": [0.75, 1e-17], "off": 1e-14},
    {"name": "far", "role": "model", "at": [3.0, 0.0], "off": 2.5},
    {"name": "s1", "role": "trajectory", "at": [-0.5, 0.5], "off": 0.7},
    {"name": "s2", "role": "trajectory", "at": [-0.25, 0.25], "off": 0.3},
]
