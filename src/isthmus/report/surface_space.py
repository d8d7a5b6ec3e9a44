"""A scanned surface in space, to be turned, as plain JSON: what was measured is its height, with models, paths and the chosen point."""

from collections.abc import Sequence

from isthmus.report.figures import Figure, label
from isthmus.report.landscape import Scale
from isthmus.report.landscape_colours import colour_bar, ends_of, height_of, nested, shades
from isthmus.report.landscape_figure import Legend
from isthmus.report.landscape_space import BELOW, height_axis, shown_height, space_axis
from isthmus.report.surface import Surface, field_title
from isthmus.report.ternary import flat, triangles
from isthmus.report.text import coordinates

HEIGHT = 560  # pixels
LIGHT = {"ambient": 0.85, "diffuse": 0.35, "specular": 0.02}  # little shade: colours are to be read by the colour bar
RAISED = 0.012  # of the height axis: how far marks lie above the surface, so that it does not hide them


def space_figure(surface: Surface, name: str) -> tuple[Figure, Legend]:
    """Return a field over (u, v), or over a triangle of three models, as a surface, and the legend of what is marked on it.

    Height and colour are logarithmic where values of a loss span a factor of 20. Edges and diagonals join their measured points.
    """
    scale = Scale.of([surface.panel], name)
    low, high = ends_of(scale, scale.log)
    bar = nested({**colour_bar("colorbar", scale, scale.log), **BELOW})
    paint: Figure = {"cmin": low, "cmax": high, "colorscale": shades(), **bar}
    field = _mesh(surface, name, scale) if surface.triangle else _sheet(surface, name, scale)
    marks, legend = _marks(surface, name, scale)
    unit = f" ({scale.unit})" if scale.unit else ""
    title = f"{field_title(name).replace('<', '&lt;')}{unit}"
    return {
        "data": [{**field, **paint, "lighting": LIGHT}, *marks],
        "layout": {
            "height": HEIGHT,
            "margin": {"l": 8, "r": 8, "t": 0, "b": 56},
            "scene": {**_ground(surface), "zaxis": {**space_axis(title), **height_axis(scale, scale.log)}},
        },
    }, legend


def _ground(surface: Surface) -> Figure:
    """Return the axes of the coordinates and the camera; a triangle has no ticks, its corners are named."""
    camera: Figure = {"eye": {"x": -1.0, "y": -1.25, "z": 1.35}, "center": {"x": 0, "y": 0, "z": -0.16}}
    if not surface.triangle:
        return {"xaxis": space_axis("u"), "yaxis": space_axis("v"), "aspectmode": "cube", "camera": camera}
    camera = {**camera, "eye": {"x": 0.35, "y": -1.65, "z": 1.2}}  # from the side of the first two models
    bare = {**space_axis(""), "showticklabels": False, "showgrid": False}
    ratio: Figure = {"x": 1.1, "y": 0.95, "z": 0.9}
    return {"xaxis": bare, "yaxis": bare, "aspectmode": "manual", "aspectratio": ratio, "camera": camera}


def _sheet(surface: Surface, name: str, scale: Scale) -> Figure:
    rows, grid = surface.panel.values(name), surface.panel.grid
    return {
        "type": "surface",
        "x": grid[0],
        "y": grid[1],
        "z": [[None if value is None else shown_height(value, scale) for value in row] for row in rows],
        "surfacecolor": [[height_of(value, scale, scale.log) for value in row] for row in rows],
        "hovertemplate": f"u = %{{x:.3g}}, v = %{{y:.3g}}: %{{z:.4g}} {scale.unit}<extra></extra>",
    }


def _mesh(surface: Surface, name: str, scale: Scale) -> Figure:
    values = [surface.value(at, name) for at in surface.points]
    cells = [cell for cell in triangles(surface) if all(values[place] is not None for place in cell)]
    places = [flat(at) for at in surface.points]
    heights = [scale.low if value is None else value for value in values]  # of no triangle
    return {
        "type": "mesh3d",
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "z": [shown_height(value, scale) for value in heights],
        "intensity": [height_of(value, scale, scale.log) for value in heights],
        "flatshading": True,
        **{axis: [cell[place] for cell in cells] for place, axis in enumerate("ijk")},
        "customdata": [f"({at[0]:.3g}, {at[1]:.3g})" for at in surface.points],
        "hovertemplate": f"(u, v) = %{{customdata}}: %{{z:.4g}} {scale.unit}<extra></extra>",
    }


def _marks(surface: Surface, name: str, scale: Scale) -> tuple[list[object], Legend]:
    traces, legend = list[object](), Legend()
    for pairs, what, dash in ((surface.edges, "edges", "solid"), (surface.diagonals, "diagonals", "dash")):
        lines = [line for pair in pairs if (line := _line(surface, pair))]
        if lines:
            traces.append(_path(surface, lines, name, scale) | _styled(what, dash))
            legend.append((what, what, "ink", "solid" if dash == "solid" else "dashed"))
    held = {letter: corner for letter, corner in surface.corners.items() if surface.value(corner.at, name) is not None}
    if held:
        texts = [f"{letter} {label(surface.names[letter], 14)}" for letter in held]
        told = [f"{letter}: {label(corner.name, 60)}" for letter, corner in held.items()]
        put = [_put(surface, corner.at, name, scale) for corner in held.values()]
        traces.append(_points(put, "ink", texts, told) | {"legendgroup": "corners"})
        legend.append(("corners", "models", "ink", "dot"))
    found = surface.choice
    if found is not None and len(found.u) == 2 and surface.value(found.u, name) is not None:
        told = [f"chosen on validation images, {coordinates(found.u)}"]
        mark = _points([_put(surface, found.u, name, scale)], "chosen", ["chosen"], told)
        traces.append(mark | {"legendgroup": "chosen"})
        legend.append(("chosen", "chosen on validation images", "chosen", "diamond"))
    return traces, legend


def _line(surface: Surface, pair: tuple[str, str]) -> list[tuple[float, float]]:
    """Return the measured points between two corners, in order; nothing where only the corners are."""
    path = surface.path(*pair)
    if path is None:
        return []
    (a, b), (c, d) = (surface.corners[letter].at for letter in pair)
    ts = [float(t) for t in path.values("t") if isinstance(t, int | float)]
    places = {(round(u, 9), round(v, 9)): (u, v) for u, v in surface.points}
    return [places[round(a + t * (c - a), 9), round(b + t * (d - b), 9)] for t in ts]


def _path(surface: Surface, lines: Sequence[Sequence[tuple[float, float]]], name: str, scale: Scale) -> Figure:
    places: list[tuple[float | None, float | None, float | None]] = []
    for line in lines:
        places += [*(_put(surface, at, name, scale) for at in line), (None, None, None)]
    axes = {axis: [place[i] for place in places] for i, axis in enumerate("xyz")}
    return {"type": "scatter3d", **axes, "mode": "lines", "hoverinfo": "skip"}


def _styled(what: str, dash: str) -> Figure:
    return {"line": {"color": "var:ink", "width": 5 if dash == "solid" else 4, "dash": dash}, "legendgroup": what}


def _points(
    put: Sequence[tuple[float, float, float | None]], tone: str, texts: Sequence[str], told: Sequence[str]
) -> Figure:
    return {
        "type": "scatter3d",
        **{axis: [place[i] for place in put] for i, axis in enumerate("xyz")},
        "mode": "markers+text",
        "marker": {"symbol": "diamond" if tone == "chosen" else "circle", "size": 6, "color": f"var:{tone}"},
        "text": list(texts),
        "textposition": "bottom center" if tone == "chosen" else "top center",
        "textfont": {"color": f"var:{tone}", "size": 13},
        "customdata": list(told),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _put(surface: Surface, at: Sequence[float], name: str, scale: Scale) -> tuple[float, float, float | None]:
    """Return the place of a mark, a little above the surface."""
    x, y = flat(at) if surface.triangle else (at[0], at[1])
    value = surface.value(at, name)
    if value is None:
        return x, y, None
    if scale.log:
        return x, y, shown_height(value, scale) * (scale.high / scale.floor) ** RAISED
    return x, y, value + RAISED * (scale.high - scale.low)
