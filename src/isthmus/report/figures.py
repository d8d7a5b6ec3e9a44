"""Plotly figures as plain JSON. Colours are names (`var:attack`) that the page turns into its light or dark palette."""

import html
from collections.abc import Mapping, Sequence
from math import inf

from isthmus.report.document import Curve, Document, Entry, RateEntry

Figure = dict[str, object]
Row = Mapping[str, int | float | str | bool | None]

LINES = {
    "train_loss": ("loss, training", "validation", "dash"),
    "validation_loss": ("loss, validation", "validation", "dot"),
    "test_loss": ("loss, test", "accuracy", "solid"),
    "robust_loss": ("loss, attacked", "attack", "solid"),
    "train_error": ("error, training", "validation", "dash"),
    "validation_error": ("error, validation", "validation", "dot"),
    "test_error": ("error, test", "accuracy", "solid"),
    "robust_error": ("error, attacked", "attack", "solid"),
    "evasion_success": ("evasion success", "attack", "solid"),
    "input_eigenvalue": ("largest input eigenvalue", "recovery", "solid"),
    "attack_success": ("attack success", "attack", "solid"),
    "recovery_accuracy": ("recovery accuracy", "recovery", "dash"),
}
SHARES = ("_error", "_success", "_accuracy", "_low", "_high")
BOUNDS = (("low", "high"), ("median", "q90"))


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
    """Return for each column its factor: 100 for a share in unit 1, which makes it a percentage, else 1."""
    return {c.name: 100.0 if c.unit == "1" and c.name.endswith(SHARES) else 1.0 for c in curve.columns}


def line_of(name: str) -> tuple[str, str, str]:
    """Return (title, colour, dash) of a column; one that is not listed takes those of the line it is a kind of."""
    if name in LINES:
        return LINES[name]
    kind = next((known for known in LINES if known in name), None)
    title = html.escape(name.replace("_", " "), quote=False)
    return (title, "validation", "dash") if kind is None else (title, LINES[kind][1], "dash")


def value_of(row: Row, name: str) -> float | None:
    """Return a number of a row, None where it was not measured."""
    found = row.get(name)
    return None if found is None or isinstance(found, str) else float(found)


def series(curve: Curve, name: str) -> list[tuple[float, float, float, float]]:
    """Return (t, value, low, high), shares in %, for the rows that measured the column, in order of t.

    low and high are `NAME_low` and `NAME_high`, else `NAME_median` and `NAME_q90`, else the value.
    """
    scale = scales(curve).get(name, 1.0)
    known = {column.name for column in curve.columns}
    pairs = [(f"{name}_{low}", f"{name}_{high}") for low, high in BOUNDS]
    bounds = next((pair for pair in pairs if set(pair) <= known), pairs[0])
    points: list[tuple[float, float, float, float]] = []
    for row in curve.rows:
        t, value = value_of(row, "t"), value_of(row, name)
        if t is not None and value is not None:
            low, high = (value_of(row, bound) for bound in bounds)
            points.append(
                (t, scale * value, scale * (value if low is None else low), scale * (value if high is None else high))
            )
    return sorted(points)


def curve_traces(curve: Curve, name: str, axis: str, *, floor: float = -inf) -> list[object]:
    """Return the band, no lower than `floor`, and the line of a column along t on an axis such as `y2`; nothing if not measured."""
    points = [(t, value, max(low, floor), high) for t, value, low, high in series(curve, name)]
    if not points:
        return []
    title, colour, dash = line_of(name)
    unit = next((column.unit for column in curve.columns if column.name == name), "1")
    share = unit == "%" or scales(curve).get(name) == 100
    form, unit = (".1f", " %") if share else (".4g", "" if unit == "1" else f" {html.escape(unit, quote=False)}")
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
    bounded = any((low, high) != (value, value) for _, value, low, high in points)
    between = f" (%{{customdata[0]:{form}}}–%{{customdata[1]:{form}}})" if bounded else ""
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
        "hovertemplate": f"{title} %{{y:{form}}}{unit}{between}<extra></extra>",
        "yaxis": axis,
    }
    return [band, line] if bounded else [line]


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
    attacked = any(series(curve, name) for name in ("attack_success", "recovery_accuracy"))
    traces = [trace for name in ("validation_error", "test_error") for trace in curve_traces(curve, name, "y")]
    traces += [trace for name in ("attack_success", "recovery_accuracy") for trace in curve_traces(curve, name, "y2")]
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
