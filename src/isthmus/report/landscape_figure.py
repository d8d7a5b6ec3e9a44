"""Figures of landscapes as plain JSON: contours with labelled levels, and lines over one axis."""

from collections.abc import Sequence
from itertools import pairwise

from isthmus.report.figures import Figure, line_of
from isthmus.report.landscape import Landscape, Scale, rung, title_of, unit_of
from isthmus.report.landscape_colours import (
    HEIGHT,
    INK,
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
from isthmus.report.text import number

DASHES = ("solid", "dash", "dot", "dashdot")
KEYS = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "dashed"}

Legend = list[tuple[str, str, str, str]]


def contour_figure(panel: Landscape, name: str, scale: Scale) -> tuple[Figure, Legend]:
    """Return the contours of a field over (a, b) with the marked models, and the legend of the marks.

    The colours are those of `scale`, whatever range the panel has of its own. A loss has buttons for a linear and a logarithmic scale.
    """
    across, up = (axis.name for axis in panel.meta.axes)
    variants = [_contours(panel.values(name), scale, log) for log in (False, True)]
    contour: Figure = {
        "type": "contour",
        "x": panel.grid[0],
        "y": panel.grid[1],
        "customdata": panel.values(name),
        "colorscale": shades(),
        "zauto": False,
        "autocontour": False,
        "line": {"color": "rgba(27,36,48,.5)", "width": 0.8},
        "hovertemplate": f"{across} = %{{x:.3g}}, {up} = %{{y:.3g}}: %{{customdata:.4g}} {scale.unit}<extra></extra>",
        **nested(variants[scale.log]),
    }
    texts: Figure = {
        "type": "scatter",
        **level_texts(panel, name, scale.log_levels()),
        "mode": "text",
        "textfont": {"color": INK, "size": 11},
        "hoverinfo": "skip",
        "visible": scale.log,
    }
    both = [
        {**{key: [value] * 2 for key, value in variant.items()}, "visible": [True, log]}
        for log, variant in enumerate(variants)
    ]
    marks, legend = _marks(panel)
    layout: Figure = {
        "height": HEIGHT,
        "margin": {"l": 58, "r": 8, "t": 46 if scale.can_log else 12, "b": 52},
        "xaxis": {"title": {"text": panel.meta.axes[0].title, "font": {"size": 12}}, **_axis(panel.grid[0])},
        "yaxis": {
            "title": {"text": panel.meta.axes[1].title, "standoff": 6, "font": {"size": 12}},
            **_axis(panel.grid[1]),
            # The second component of a trajectory may be hundreds of times shorter: no equal units there.
            **({} if panel.meta.directions == "trajectory" else {"scaleanchor": "x"}),
        },
        "updatemenus": [scale_buttons([("restyle", [change, [0, 1]]) for change in both], scale)]
        if scale.can_log
        else [],
    }
    return {"data": [contour, texts, *marks], "layout": layout}, legend


def _contours(z: list[list[float | None]], scale: Scale, log: bool) -> Figure:
    """Return what differs between the linear and the logarithmic contours, by plotly's dotted names."""
    levels = scale.log_levels() if log else scale.levels()
    shown = [rung(level) for level in levels] if log else levels
    low, high = ends_of(scale, log)
    return {
        "z": [[height_of(value, scale, log) for value in row] for row in z],
        "zmin": low,
        "zmax": high,
        "contours.start": shown[0] if shown else low,
        "contours.end": shown[-1] if shown else low,
        "contours.size": scale.stride() if log else scale.step(),
        "contours.showlabels": not log,  # they would be rungs: texts of our own instead
        "contours.labelfont": {"color": INK, "size": 11},
        **colour_bar("colorbar", scale, log),
    }


def _axis(line: Sequence[float]) -> Figure:
    return {"range": [line[0], line[-1]], "showgrid": False, "zeroline": False, "constrain": "domain"}


def level_texts(panel: Landscape, name: str, levels: Sequence[float]) -> Figure:
    """Return where each level is met on the way from the middle to an edge, and its number."""
    rows = panel.values(name)
    middle, centre = len(rows) // 2, len(rows[0]) // 2
    rays = [
        [(i, middle) for i in range(centre, len(rows[0]))],
        [(centre, j) for j in range(middle, len(rows))],
        [(i, middle) for i in range(centre, -1, -1)],
        [(centre, j) for j in range(middle, -1, -1)],
    ]
    found: list[tuple[float, float, str]] = []
    for turn, level in enumerate(levels):
        places = [_crossing(panel, rows, ray, level) for ray in rays[turn % 4 :] + rays[: turn % 4]]
        found += [(*place, number(level)) for place in places if place is not None][:1]
    return {key: [entry[i] for entry in found] for i, key in enumerate(("x", "y", "text"))}


def _crossing(
    panel: Landscape, rows: list[list[float | None]], ray: list[tuple[int, int]], level: float
) -> tuple[float, float] | None:
    """Return where a field passes `level` along a ray of grid points, None where it does not, or only at an end of it."""
    for (i, j), (k, m) in pairwise(ray[1:-1]):
        one, two = rows[j][i], rows[m][k]
        if one is not None and two is not None and one != two and min(one, two) <= level <= max(one, two):
            share = (level - one) / (two - one)
            (a, b), (c, d) = ((panel.grid[0][x], panel.grid[1][y]) for x, y in ((i, j), (k, m)))
            return a + share * (c - a), b + share * (d - b)
    return None


def _marks(panel: Landscape) -> tuple[list[object], Legend]:
    """Return one trace for each kind of marked model, and its legend."""
    traces, legend = list[object](), Legend()
    for role, (title, symbol, tone, key) in MARKS.items():
        held = [anchor for anchor in panel.meta.anchors if anchor.role == role and panel.inside(anchor)]
        if not held:
            continue
        traces.append(
            {
                "type": "scatter",
                "x": [anchor.at[0] for anchor in held],
                "y": [anchor.at[1] for anchor in held],
                "mode": "lines+markers" if role == "trajectory" else "markers+text",
                "line": {"color": f"var:{tone}", "width": 1.5},
                "marker": {
                    "symbol": symbol,
                    "size": 11 if role != "trajectory" else 7,
                    "color": f"var:{tone}",
                    "line": {"color": "#ffffff" if role != "trajectory" else f"var:{tone}", "width": 1.5},
                },
                "text": mark_texts(panel, role, held),
                "textposition": "top center",
                "textfont": {"color": INK, "size": 13},
                "customdata": [told(panel, anchor) for anchor in held],
                "hovertemplate": "%{customdata}<extra></extra>",
                "legendgroup": role,
                "cliponaxis": False,
            }
        )
        legend.append((role, title, tone, key))
    return traces, legend


def lines_figure(panels: Sequence[Landscape], names: Sequence[str], titles: Sequence[str]) -> tuple[Figure, Legend]:
    """Return fields of one unit along a, a line for each field of each panel, and the legend."""
    scale = Scale.covering([Scale.of(panels, name) for name in names])
    traces, legend = list[object](), Legend()
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        for name in names:
            _, tone, dash = line_of(name) if "frozen" not in name else ("", "attack", "dash")
            dash = dash if len(panels) == 1 else DASHES[place % len(DASHES)]
            shown = title_of(name) if len(panels) == 1 else f"{title}: {title_of(name)}"
            traces.append(
                {
                    "type": "scatter",
                    "x": panel.grid[0],
                    "y": panel.values(name)[0],
                    "mode": "lines+markers",
                    "line": {"color": f"var:{tone}", "width": 2.5, "dash": dash},
                    "marker": {"size": 5},
                    "hovertemplate": f"{shown} %{{y:.4g}} {unit_of(panel.table.column(name))}<extra></extra>",
                    "legendgroup": f"{place}-{name}",
                }
            )
            legend.append((f"{place}-{name}", shown, tone, KEYS[dash]))
    return {"data": traces, "layout": _line_layout(panels, scale)}, legend


def _line_layout(panels: Sequence[Landscape], scale: Scale) -> Figure:
    unit = f" ({scale.unit})" if scale.unit else ""
    axes = list(dict.fromkeys(panel.meta.axes[0].title for panel in panels))
    centre: Figure = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "layer": "below",
        "line": {"color": "var:chosen", "width": 1.5, "dash": "dot"},
    }
    return {
        "height": 380,
        "margin": {"l": 64, "r": 20, "t": 12, "b": 52},
        "hovermode": "x unified",
        "xaxis": {"title": {"text": axes[0] if len(axes) == 1 else "a"}, "zeroline": False, "hoverformat": ".3g"},
        "yaxis": {
            "title": {"text": ("error" if scale.unit == "%" else "loss") + unit},
            "zeroline": False,
            **({"type": "log", "dtick": 1} if scale.log else {"rangemode": "tozero"}),
        },
        "shapes": [centre],
    }
