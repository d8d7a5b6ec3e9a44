"""The surface of a landscape in space, to be turned, as plain JSON."""

from math import log10

from isthmus.report.figures import Figure
from isthmus.report.landscape import Landscape, Scale
from isthmus.report.landscape_colours import (
    HEIGHT,
    MARKS,
    colour_bar,
    ends_of,
    height_of,
    mark_texts,
    nested,
    scale_buttons,
    shades,
    told,
)

BELOW: Figure = {  # on a phone a colour bar beside the scene would leave it no room
    "colorbar.orientation": "h",
    "colorbar.y": 0,
    "colorbar.yanchor": "top",
    "colorbar.title.side": "right",
}


def surface_figure(panel: Landscape, name: str, scale: Scale) -> Figure:
    """Return the surface of a field over (a, b), to be turned, with the marked models on it; height and colour as in `scale`."""
    z = panel.values(name)
    paints: list[Figure] = []
    for log in (False, True):
        low, high = ends_of(scale, log)
        colours = [[height_of(value, scale, log) for value in row] for row in z]
        bar = {**colour_bar("colorbar", scale, log), **BELOW}
        paints.append({"surfacecolor": colours, "cmin": low, "cmax": high, **bar})
    surface: Figure = {
        "type": "surface",
        "x": panel.grid[0],
        "y": panel.grid[1],
        "z": [[None if value is None else shown_height(value, scale) for value in row] for row in z],
        "colorscale": shades(),
        "hovertemplate": f"a = %{{x:.3g}}, b = %{{y:.3g}}: %{{z:.4g}} {scale.unit}<extra></extra>",
        **nested(paints[scale.log]),
    }
    calls = [
        ("update", [{k: [v] for k, v in paint.items()}, _prefixed(height_axis(scale, bool(log))), [0]])
        for log, paint in enumerate(paints)
    ]
    unit = f" ({scale.unit})" if scale.unit else ""
    layout: Figure = {
        "height": HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 46 if scale.can_log else 0, "b": 56},
        "scene": {
            "xaxis": space_axis("a"),
            "yaxis": space_axis("b"),
            "zaxis": {**space_axis(("error" if scale.unit == "%" else "loss") + unit), **height_axis(scale, scale.log)},
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 1.35}, "center": {"x": 0.04, "y": -0.04, "z": -0.1}},
        },
        "updatemenus": [scale_buttons(calls, scale)] if scale.can_log else [],
    }
    return {"data": [surface, *_raised(panel, name, scale)], "layout": layout}


def shown_height(value: float, scale: Scale) -> float:
    """Return a height that both scales can show: zero has no place on a logarithmic one."""
    return max(value, scale.floor) if scale.can_log else value


def height_axis(scale: Scale, log: bool) -> Figure:
    """Return the settings of the height axis on either scale."""
    low, high = (log10(scale.floor), log10(scale.high)) if log else (scale.low, scale.high)
    room = 0.04 * (high - low)
    levels = scale.log_levels() if log else scale.levels()
    return {
        "type": "log" if log else "linear",
        "range": [low - room, high + room],
        "tickvals": levels[:: max(1, len(levels) // 4)],
    }


def _prefixed(settings: Figure) -> Figure:
    return {f"scene.zaxis.{key}": value for key, value in settings.items()}


def space_axis(title: str) -> Figure:
    """Return the settings of an axis in space."""
    return {
        "title": {"text": title},
        "color": "var:ink",
        "gridcolor": "var:rule",
        "zeroline": False,
        "nticks": 5,
        "backgroundcolor": "rgba(0,0,0,0)",
    }


def _raised(panel: Landscape, name: str, scale: Scale) -> list[object]:
    """Return the marked models in space, as high as the field is there."""
    traces: list[object] = []
    for role, (_, symbol, tone, _) in MARKS.items():
        pairs = [(anchor, panel.at(anchor.at, name)) for anchor in panel.meta.anchors if anchor.role == role]
        held = [(anchor, shown_height(value, scale)) for anchor, value in pairs if value is not None]
        if held:
            traces.append(
                {
                    "type": "scatter3d",
                    "x": [anchor.at[0] for anchor, _ in held],
                    "y": [anchor.at[1] for anchor, _ in held],
                    "z": [value for _, value in held],
                    "mode": "lines+markers" if role == "trajectory" else "markers+text",
                    "line": {"color": f"var:{tone}", "width": 3},
                    "marker": {"symbol": symbol, "size": 5, "color": f"var:{tone}"},
                    "text": mark_texts(panel, role, [anchor for anchor, _ in held]),
                    "textfont": {"color": "var:ink", "size": 13},
                    "customdata": [told(panel, anchor) for anchor, _ in held],
                    "hovertemplate": "%{customdata}<extra></extra>",
                }
            )
    return traces
