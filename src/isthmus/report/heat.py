"""Heat maps of what was measured over a surface."""

from isthmus.report.document import Choice, Curve, Document
from isthmus.report.figures import LINES, Figure, scales, value_of


def has_surface(curve: Curve | None) -> bool:
    """Return whether the curve is a surface with coordinates u and v."""
    return curve is not None and any(
        value_of(row, "u") is not None and value_of(row, "v") is not None for row in curve.rows
    )


def surface_figures(document: Document) -> list[tuple[str, Figure]]:
    """Return (title, heat map) over (u, v) for test error (validation error if it is all there is) and attack success."""
    return [] if document.curve is None else surface_maps(document.curve, document.choice)


def surface_maps(curve: Curve, choice: Choice | None = None) -> list[tuple[str, Figure]]:
    """Return (title, heat map) over (u, v) for the errors and the successes of attacks that were measured."""
    if not has_surface(curve):
        return []
    known = {name for row in curve.rows for name in row if value_of(row, name) is not None}
    error = "test_error" if "test_error" in known else "validation_error"
    names = [name for name in (error, "robust_error", "evasion_success", "attack_success") if name in known]
    return [(f"{LINES[name][0].capitalize()} (%)", _heat_map(curve, name, choice)) for name in names]


def _heat_map(curve: Curve, name: str, choice: Choice | None) -> Figure:
    scale = scales(curve).get(name, 1.0)
    cells = {(value_of(row, "u"), value_of(row, "v")): value_of(row, name) for row in curve.rows}
    us = sorted({u for u, _ in cells if u is not None})
    vs = sorted({v for _, v in cells if v is not None})
    z = [[None if (value := cells.get((u, v))) is None else scale * value for u in us] for v in vs]
    heat: Figure = {
        "type": "heatmap",
        "x": list(us),
        "y": list(vs),
        "z": [list(line) for line in z],
        "colorscale": "Cividis",
        "colorbar": {"thickness": 12, "outlinewidth": 0, "ticksuffix": " %"},
        "hovertemplate": "u = %{x:.3g}, v = %{y:.3g}: %{z:.1f} %<extra></extra>",
    }
    if len(us) * len(vs) <= 49:
        heat["texttemplate"] = "%{z:.0f}"
    traces: list[object] = [heat]
    if choice is not None and len(choice.u) == 2:
        marker: Figure = {"symbol": "circle-open", "size": 26, "color": "var:chosen", "line": {"width": 4}}
        u, v = choice.u
        traces.append(
            {
                "type": "scatter",
                "x": [u],
                "y": [v],
                "mode": "markers",
                "marker": marker,
                "hovertemplate": "chosen<extra></extra>",
            }
        )
    layout: Figure = {
        "height": 400,
        "margin": {"l": 48, "r": 8, "t": 12, "b": 48},
        "xaxis": {"title": {"text": "u"}, "showgrid": False, "zeroline": False, "constrain": "domain"},
        "yaxis": {
            "title": {"text": "v"},
            "showgrid": False,
            "zeroline": False,
            "scaleanchor": "x",
            "constrain": "domain",
        },
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}
