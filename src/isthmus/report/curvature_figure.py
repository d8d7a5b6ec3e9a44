"""The figures of a curvature: eigenvalues with their residuals, and the density of the spectrum."""

from math import log10

from isthmus.report.curvature import UNIT, CurvatureDocument, DensityEntry, Pairs, density_floor
from isthmus.report.figures import Figure

Legend = list[tuple[str, str, str, str]]
SERIES = (  # group, title, tone, plotly's symbol, the form of its key in page.css
    ("hessian", "Hessian", "accuracy", "circle", "dot"),
    ("gauss_newton", "Gauss-Newton", "attack", "diamond-open", "diamond"),
    ("negative", "Hessian, lower end", "recovery", "square", "dot"),
)


def eigenvalue_figure(document: CurvatureDocument) -> tuple[Figure, Legend] | None:
    """Return the eigenvalues against their place, outermost first, with the residuals as bars; None where there are none."""
    groups: dict[str, Pairs | None] = {
        "hessian": document,
        "gauss_newton": document.gauss_newton,
        "negative": document.negative,
    }
    traces, legend = list[object](), Legend()
    for name, title, tone, symbol, key in SERIES:
        held = groups[name]
        if held is None or not held.eigenvalues:
            continue
        traces.append(_dots(held, title, tone, symbol) | {"legendgroup": name})
        legend.append((name, title, tone, key))
    if not traces:
        return None
    layout: Figure = {
        "height": 360,
        "margin": {"l": 76, "r": 20, "t": 12, "b": 48},
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "place, from the outermost"},
            "zeroline": False,
            "tickformat": "d",
            "range": [0.4, _longest(document) + 0.6],
        },
        "yaxis": {"title": {"text": f"eigenvalue ({UNIT})"}, "rangemode": "tozero", "zeroline": True},
    }
    return {"data": traces, "layout": layout}, legend if len(legend) > 1 else []


def _longest(document: CurvatureDocument) -> int:
    groups = (document, document.gauss_newton, document.negative)
    return max(len(held.eigenvalues) for held in groups if held is not None)


def _dots(held: Pairs, title: str, tone: str, symbol: str) -> Figure:
    return {
        "type": "scatter",
        "x": list(range(1, len(held.eigenvalues) + 1)),
        "y": list(held.eigenvalues),
        "error_y": {
            "type": "data",
            "array": list(held.residuals),
            "color": f"var:{tone}",
            "thickness": 1.5,
            "width": 4,
        },
        "mode": "markers",
        "name": title,
        "marker": {"symbol": symbol, "size": 9, "color": f"var:{tone}", "line": {"width": 2, "color": f"var:{tone}"}},
        "customdata": [[residual] for residual in held.residuals],
        "hovertemplate": f"{title} %{{x}}: %{{y:.5g}} {UNIT}, residual %{{customdata[0]:.2g}}<extra></extra>",
        "cliponaxis": False,
    }


def density_figure(density: DensityEntry, dimension: int | None) -> Figure:
    """Return the density against the eigenvalue on a logarithmic axis, with its band, down to a fifth of what one eigenvalue adds."""
    floor = density_floor(density, dimension)
    lows, highs = ([max(value, floor) for value in values] for values in (density.low, density.high))
    points = list(density.points)
    band: Figure = {
        "type": "scatter",
        "x": [*points, *reversed(points)],
        "y": [*highs, *reversed(lows)],
        "fill": "toself",
        "fillcolor": "var:accuracy-band",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
    }
    line: Figure = {
        "type": "scatter",
        "x": points,
        "y": [value if value >= floor else None for value in density.values],
        "customdata": [[low, high] for low, high in zip(density.low, density.high, strict=True)],
        "mode": "lines",
        "line": {"color": "var:accuracy", "width": 2},
        "hovertemplate": "%{y:.3g} (%{customdata[0]:.3g}–%{customdata[1]:.3g}) at %{x:.4g}<extra></extra>",
    }
    decades = log10(2 * max(density.high) / floor)
    layout: Figure = {
        "height": 320,
        "margin": {"l": 104, "r": 20, "t": 12, "b": 48},
        "hovermode": "closest",
        "xaxis": {"title": {"text": f"eigenvalue ({UNIT})"}, "zeroline": False},
        "yaxis": {
            "title": {"text": "share of eigenvalues<br>per nat/weight²", "standoff": 12},
            "type": "log",
            "range": [log10(floor), log10(floor) + decades],
            "dtick": 1 if decades < 5 else 2,
            "exponentformat": "power",
            "zeroline": False,
        },
    }
    return {"data": [band, line], "layout": layout}
