"""Maps of what was measured over a surface, as plain JSON: colours with contour lines, over the unit square or a triangle."""

from collections.abc import Callable, Sequence
from typing import Any

from isthmus.report.figures import Figure, label
from isthmus.report.landscape import Landscape, Scale
from isthmus.report.landscape_colours import INK
from isthmus.report.landscape_figure import contour_figure, level_texts
from isthmus.report.surface import Surface
from isthmus.report.ternary import flat, raster, sides, triangle_layout
from isthmus.report.text import coordinates

Put = Callable[[Sequence[float]], tuple[float, float]]
DIAGONAL: Figure = {"color": INK, "width": 1.2, "dash": "dash"}
ROOM = 22  # pixels above a map, for the names of its upper corners


def map_figure(surface: Surface, name: str, scale: Scale | None = None) -> Figure:
    """Return the map of a field with contours, corners, diagonals and the chosen point.

    A loss has buttons for a linear and a logarithmic scale. Over a triangle the axes are the shares of the three models. scale: that of
    several maps beside each other; None for the field's own.
    """
    scale = Scale.of([surface.panel], name) if scale is None else scale
    if surface.triangle:
        panel = raster(surface, name)
        figure = _relabelled(contour_figure(panel, name, scale)[0], panel, name, scale)
        traces = [*_traces(figure), *sides(), _measured(surface, name, scale.unit)]
        layout = triangle_layout(surface, dict(figure["layout"]))  # type: ignore[call-overload]
        put: Put = flat
    else:
        figure, _ = contour_figure(surface.panel, name, scale)
        traces, layout, put = _traces(figure), _square_layout(surface, dict(figure["layout"])), _same  # type: ignore[call-overload]
    return {"data": [*traces, *_marks(surface, put)], "layout": layout}


def _square_layout(surface: Surface, layout: dict[str, Any]) -> Figure:
    """Return the layout of a map with the corners' names outside it, below the ticks and above the buttons' place."""
    names = [(corner.at, f"{letter} {label(surface.names[letter], 14)}") for letter, corner in surface.corners.items()]
    notes: list[Figure] = [
        {
            "text": name,
            "x": at[0],
            "y": at[1],
            "xanchor": "left" if at[0] < 0.5 else "right",
            "yanchor": "bottom" if at[1] > 0.5 else "top",
            "xshift": -6 if at[0] < 0.5 else 6,
            "yshift": 6 if at[1] > 0.5 else -22,
            "showarrow": False,
            "font": {"size": 13},
        }
        for at, name in names
    ]
    return {
        **layout,
        "xaxis": {**layout["xaxis"], "title": {"text": "u", "standoff": 4}},
        "yaxis": {**layout["yaxis"], "title": {"text": "v", "standoff": 6}},
        "margin": {**layout["margin"], "t": layout["margin"]["t"] + ROOM},
        "updatemenus": [{**menu, "pad": {"b": ROOM + 6}} for menu in layout["updatemenus"]],
        "annotations": notes,
    }


def _traces(figure: Figure) -> list[object]:
    return list(figure["data"])  # type: ignore[call-overload]


def _relabelled(figure: dict[str, Any], panel: Landscape, name: str, scale: Scale) -> Figure:
    """Return contours whose numbers stand inside the triangle: plotly's own may lie across its sides, where they would be cut."""
    contour, texts = (dict(trace) for trace in figure["data"])
    found = [level_texts(panel, name, held) for held in (scale.levels(), scale.log_levels() if scale.can_log else [])]
    levels: dict[str, Any] = contour["contours"]
    contour |= {"hoverinfo": "skip", "hovertemplate": None, "contours": {**levels, "showlabels": False}}
    texts = {**texts, **found[scale.log], "visible": True}
    menus: list[Figure] = []
    for menu in figure["layout"]["updatemenus"]:
        buttons: list[Figure] = []
        for button, held in zip(menu["buttons"], found, strict=True):
            change, which = button["args"]
            own = {"x": [panel.grid[0], held["x"]], "y": [panel.grid[1], held["y"]], "text": [[], held["text"]]}
            change = {**change, **own, "contours.showlabels": [False] * 2, "visible": [True] * 2}
            buttons.append({**button, "args": [change, which]})
        menus.append({**menu, "buttons": buttons})
    return {"data": [contour, texts], "layout": {**figure["layout"], "updatemenus": menus}}


def _same(at: Sequence[float]) -> tuple[float, float]:
    return at[0], at[1]


def _measured(surface: Surface, name: str, unit: str) -> Figure:
    """Return the measured points of a triangle, to be pointed at: what lies between them is drawn, not measured."""
    held = [(at, value) for at in surface.points if (value := surface.value(at, name)) is not None]
    x, y = zip(*(flat(at) for at, _ in held), strict=True)
    shares = [", ".join(f"{letter} {share:.3g}" for letter, share in _shares(surface, at).items()) for at, _ in held]
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "markers",
        "marker": {"size": 3, "color": "rgba(27,36,48,.35)"},
        "customdata": [[share, value] for share, (_, value) in zip(shares, held, strict=True)],
        "hovertemplate": f"%{{customdata[0]}}: %{{customdata[1]:.4g}} {unit}<extra></extra>",
        "cliponaxis": False,
    }


def _shares(surface: Surface, at: Sequence[float]) -> dict[str, float]:
    letters = list(surface.corners) or ["A", "B", "C"]
    return dict(zip(letters, (1 - at[0] - at[1], at[0], at[1]), strict=True))


def _marks(surface: Surface, put: Put) -> list[object]:
    """Return the diagonals, the corners and the chosen point."""
    traces: list[object] = []
    for pair in surface.diagonals:
        x, y = zip(*(put(surface.corners[letter].at) for letter in pair), strict=True)
        traces.append({"type": "scatter", "x": x, "y": y, "mode": "lines", "line": DIAGONAL, "hoverinfo": "skip"})
    if surface.corners:
        traces.append(_corners(surface, put))
    if surface.choice is not None and len(surface.choice.u) == 2:
        traces.append(_chosen(surface, put))
    return traces


def _corners(surface: Surface, put: Put) -> Figure:
    places = [put(corner.at) for corner in surface.corners.values()]
    return {
        "type": "scatter",
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "mode": "markers",
        "marker": {"symbol": "circle", "size": 11, "color": INK, "line": {"color": "#ffffff", "width": 1.5}},
        "customdata": [f"{letter}: {label(corner.name, 60)}" for letter, corner in surface.corners.items()],
        "hovertemplate": "%{customdata}<extra></extra>",
        "cliponaxis": False,
    }


def _chosen(surface: Surface, put: Put) -> Figure:
    assert surface.choice is not None
    x, y = put(surface.choice.u)
    return {
        "type": "scatter",
        "x": [x],
        "y": [y],
        "mode": "markers",
        "marker": {
            "symbol": "diamond",
            "size": 13,
            "color": "var:chosen",
            "line": {"color": "#ffffff", "width": 2},
        },
        "hovertemplate": f"chosen on validation images, {coordinates(surface.choice.u)}<extra></extra>",
        "cliponaxis": False,
    }
