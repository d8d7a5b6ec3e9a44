"""Figures of a simplex of many vertices as plain JSON: the worst value along each edge, and every point by how many models it mixes."""

from collections.abc import Mapping

from isthmus.report.figures import Figure, label
from isthmus.report.landscape import DECADES
from isthmus.report.landscape_colours import INK, shades
from isthmus.report.scan_text import amount
from isthmus.report.simplex import Simplex, Weights
from isthmus.report.surface import field_title

CELL = 62  # pixels
KINDS = {"point": ("circle", "accuracy", 6), "given": ("circle", "ink", 10), "chosen": ("diamond", "chosen", 13)}


def pairs_figure(simplex: Simplex, name: str) -> Figure:
    """Return the worst value of a field along the edge of each two vertices; on the diagonal that of the vertex itself."""
    held = list(simplex.vertices)
    unit = simplex.table.column(name).unit
    z: list[list[float | None]] = []
    said: list[list[str]] = []
    for one in held:
        found = [pair(simplex, one, other, name) for other in held]
        z.append([value for value, _ in found])
        said.append([text for _, text in found])
    names = [f"{letter} {label(simplex.names[letter], 14)}" for letter in held]
    shown = [["" if value is None else amount(value, unit if unit == "%" else "1") for value in row] for row in z]
    side = max(300, CELL * len(held))
    trace: Figure = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": z,
        "text": shown,
        "texttemplate": "%{text}",
        "textfont": {"color": INK, "size": 12},
        "customdata": said,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": shades(),
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    axis: Figure = {"showgrid": False, "zeroline": False, "constrain": "domain", "type": "category", "tickangle": 0}
    layout: Figure = {
        "height": side + 60,
        "margin": {"l": 110, "r": 12, "t": 8, "b": 62},
        "xaxis": axis,
        "yaxis": {**axis, "autorange": "reversed", "scaleanchor": "x"},
    }
    return {"data": [trace], "layout": layout}


def pair(simplex: Simplex, one: str, other: str, name: str) -> tuple[float | None, str]:
    """Return the worst value along an edge, or that of one vertex, and what is said of it where it is pointed at."""
    unit = simplex.table.column(name).unit
    if one == other:
        value = simplex.value(simplex.vertices[one].at, name)
        return value, "" if value is None else f"{one}: {amount(value, unit)}"
    found = simplex.worst(one, other, name)
    if found is None:
        return None, ""
    value, t = found
    return value, f"{one} to {other}: {amount(value, unit)} at {t:.3g} of the way"


def mixed(shares: Mapping[str, float]) -> float:
    """Return how many models a point mixes, 1 / sum of squared shares: 1 at a vertex, n in the middle of n.

    >>> mixed({"A": 0.5, "B": 0.5})
    2.0
    """
    return 1 / sum(share**2 for share in shares.values())


def mixing_figure(simplex: Simplex, name: str) -> Figure:
    """Return the value of every measured point over the number of models that it mixes; given models and the chosen point are marked."""
    unit = simplex.table.column(name).unit
    traces: list[object] = []
    held = {at: value for at in simplex.points if (value := simplex.value(at, name)) is not None}
    kinds = {at: _kind(simplex, at) for at in held}
    for kind, (symbol, tone, size) in KINDS.items():
        places = [at for at in held if kinds[at] == kind]
        if places:
            traces.append(
                {
                    "type": "scatter",
                    "x": [mixed(simplex.shares[at]) for at in places],
                    "y": [held[at] for at in places],
                    "mode": "markers",
                    "marker": {"symbol": symbol, "size": size, "color": f"var:{tone}", "opacity": 0.8},
                    "customdata": [_told(simplex.shares[at]) for at in places],
                    "hovertemplate": f"%{{customdata}}: %{{y:.4g}} {unit if unit != '1' else ''}<extra></extra>",
                    "cliponaxis": False,
                }
            )
    log = unit != "%" and min(held.values()) > 0 and max(held.values()) >= DECADES * min(held.values())
    title = field_title(name).replace("<", "&lt;") + ("" if unit in ("1", "") else f" ({unit})")
    layout: Figure = {
        "height": 340,
        "margin": {"l": 64, "r": 20, "t": 12, "b": 52},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "models mixed, 1 / sum of squared shares"}, "zeroline": False},
        "yaxis": {"title": {"text": title}, "zeroline": False, **({"type": "log"} if log else {"rangemode": "tozero"})},
    }
    return {"data": traces, "layout": layout}


def _kind(simplex: Simplex, at: Weights) -> str:
    if simplex.choice is not None and at == simplex.choice.u:
        return "chosen"
    return "given" if at in {corner.at for corner in simplex.corners.values()} else "point"


def _told(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{letter} {share:.3g}" for letter, share in shares.items())
