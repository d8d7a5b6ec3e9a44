"""Plotly figures as plain JSON. Colours are names (`var:attack`) that the page turns into its light or dark palette."""

import html
from collections.abc import Mapping, Sequence

from isthmus.report.document import Curve, Document, Entry, RateEntry

Figure = dict[str, object]
Row = Mapping[str, int | float | str | bool | None]

LINES = {
    "validation_error": ("error, validation", "validation", "dot"),
    "test_error": ("error, test", "accuracy", "solid"),
    "attack_success": ("attack success", "attack", "solid"),
    "recovery_accuracy": ("recovery accuracy", "recovery", "dash"),
}


def label(text: str, length: int = 22) -> str:
    """Return a caller's name as plotly may show it: of a path the last part, shortened in the middle, pseudo-HTML switched off."""
    name = text if len(text) <= length else text.rstrip("/").rpartition("/")[2]
    short = name if len(name) <= length else f"{name[: length // 2]}…{name[-(length // 2 - 1) :]}"
    return html.escape(short, quote=False)


def labels(texts: Sequence[str], length: int = 22) -> list[str]:
    """Return the labels of several names, numbered in their order where shortening made them equal."""
    short = [label(text, length) for text in texts]
    if len(dict.fromkeys(short)) == len(short):
        return short
    short = [label(text, length - 4) for text in texts]
    return [f"{one} ({short[: i + 1].count(one)})" if short.count(one) > 1 else one for i, one in enumerate(short)]


def has_path(curve: Curve | None) -> bool:
    """Return whether the curve has points along one coordinate t."""
    return curve is not None and any(value_of(row, "t") is not None for row in curve.rows)


def scales(curve: Curve) -> dict[str, float]:
    """Return for each column the factor that makes it a percentage: 100 where its unit is 1, else 1."""
    return {column.name: 100.0 if column.unit == "1" else 1.0 for column in curve.columns}


def value_of(row: Row, name: str) -> float | None:
    """Return a number of a row, None where it was not measured."""
    found = row.get(name)
    return None if found is None or isinstance(found, str) else float(found)


def _series(curve: Curve, name: str) -> list[tuple[float, float, float, float]]:
    """Return (t, value, low, high) in % for the rows that measured the column, in order of t."""
    scale = scales(curve).get(name, 1.0)
    points: list[tuple[float, float, float, float]] = []
    for row in curve.rows:
        t, value = value_of(row, "t"), value_of(row, name)
        if t is not None and value is not None:
            low, high = value_of(row, f"{name}_low"), value_of(row, f"{name}_high")
            points.append(
                (t, scale * value, scale * (value if low is None else low), scale * (value if high is None else high))
            )
    return sorted(points)


def _curve_traces(curve: Curve, name: str, axis: str) -> list[object]:
    points = _series(curve, name)
    if not points:
        return []
    title, colour, dash = LINES[name]
    t = [point[0] for point in points]
    band: Figure = {
        "type": "scatter",
        "x": [*t, *reversed(t)],
        "y": [*(point[3] for point in points), *(point[2] for point in reversed(points))],
        "fill": "toself",
        "fillcolor": f"var:{colour}-band",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": name,
        "yaxis": axis,
    }
    line: Figure = {
        "type": "scatter",
        "x": t,
        "y": [point[1] for point in points],
        "customdata": [[point[2], point[3]] for point in points],
        "name": title,
        "legendgroup": name,
        "mode": "lines+markers",
        "line": {"color": f"var:{colour}", "width": 2.5, "dash": dash},
        "marker": {"size": 5},
        "hovertemplate": f"{title} %{{y:.1f}} % (%{{customdata[0]:.1f}}–%{{customdata[1]:.1f}})<extra></extra>",
        "yaxis": axis,
    }
    return [band, line]


def _mark(entry: Entry, rate: RateEntry, t: float, *, error: bool, axis: str, chosen: bool) -> Figure:
    """Return the marker of a saved model at its place on the path: a square for a suspect, a diamond for the repaired one."""
    value, low, high = (
        100 * (1 - x if error else x)
        for x in (rate.value, rate.high if error else rate.low, rate.low if error else rate.high)
    )
    what = "test error" if error else "attack success"
    return {
        "type": "scatter",
        "x": [t],
        "y": [value],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - value],
            "arrayminus": [value - low],
            "color": "var:ink",
            "width": 4,
        },
        "mode": "markers",
        "marker": {
            "symbol": "diamond" if chosen else "square",
            "size": 11,
            "color": "var:repaired" if chosen else "var:paper",
            "line": {"color": "var:repaired" if chosen else "var:ink", "width": 2},
        },
        "hovertemplate": f"{label(entry.name)}: {what} {value:.1f} % ({low:.1f}–{high:.1f})<extra></extra>",
        "legendgroup": "test_error" if error else "attack_success",
        "cliponaxis": False,
        "yaxis": axis,
    }


def _ends(document: Document) -> list[tuple[float, Entry, bool]]:
    """Return (t, entry, chosen) for the suspects at the two ends and for the repaired model."""
    marks = [(0.0, document.suspects[0], False)]
    if len(document.suspects) > 1:
        marks.append((1.0, document.suspects[-1], False))
    if document.choice is not None and len(document.choice.u) == 1:
        marks.append((document.choice.u[0], document.repaired, True))
    return marks


def _note(text: str, x: float, *, shift: int, colour: str, anchor: str) -> Figure:
    return {
        "text": text,
        "x": x,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": shift,
        "xanchor": anchor,
        "showarrow": False,
        "font": {"color": colour, "size": 13},
    }


def _anchor(t: float) -> str:
    return "left" if t < 0.2 else "right" if t > 0.8 else "center"


def path_figure(document: Document) -> Figure | None:
    """Return error and, where a trigger is known, attack success along t, with bands, ends and the chosen point; None without a path."""
    curve = document.curve
    if curve is None or not has_path(curve):
        return None
    attacked = any(_series(curve, name) for name in ("attack_success", "recovery_accuracy"))
    traces = [trace for name in ("validation_error", "test_error") for trace in _curve_traces(curve, name, "y")]
    traces += [trace for name in ("attack_success", "recovery_accuracy") for trace in _curve_traces(curve, name, "y2")]
    marks = _ends(document)
    for t, entry, chosen in marks:
        traces.append(_mark(entry, entry.clean_accuracy, t, error=True, axis="y", chosen=chosen))
        if attacked and entry.attack_success is not None:
            traces.append(_mark(entry, entry.attack_success, t, error=False, axis="y2", chosen=chosen))
    # Twelve letters each: at the width of a phone the two names stand beside each other.
    names = labels([entry.name for _, entry, _ in marks], 12)
    notes = [
        _note(f"<b>chosen, t = {t:.3g}</b>", t, shift=26, colour="var:repaired", anchor=_anchor(t))
        if chosen
        else _note(name, t, shift=6, colour="var:ink", anchor="left" if t == 0 else "right")
        for name, (t, _, chosen) in zip(names, marks, strict=True)
    ]
    line: list[object] = [
        {
            "type": "line",
            "x0": t,
            "x1": t,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "layer": "below",
            "line": {"color": "var:repaired", "width": 2},
        }
        for t, _, chosen in marks
        if chosen
    ]
    layout: Figure = {
        "height": 560 if attacked else 380,
        "margin": {"l": 56, "r": 20, "t": 52, "b": 48},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {
            "title": {"text": "position along the path, t"},
            "hoverformat": ".3g",
            "anchor": "y2" if attacked else "y",
            "zeroline": False,
        },
        "yaxis": {
            "title": {"text": "error (%)"},
            "rangemode": "tozero",
            "domain": [0.54, 1.0] if attacked else [0.0, 1.0],
            "zeroline": False,
        },
        "annotations": notes,
        "shapes": line,
    }
    if attacked:
        layout["yaxis2"] = {
            "title": {"text": "triggered images (%)"},
            "range": [-4, 104],
            "domain": [0.0, 0.46],
            "anchor": "x",
            "zeroline": False,
        }
    return {"data": traces, "layout": layout}
