"""Dots with intervals: one row per model, one symbol per measure."""

from collections.abc import Mapping, Sequence

from isthmus.report.document import Document
from isthmus.report.figures import Figure, label, labels

DOTS = {
    "clean_accuracy": ("accuracy", "accuracy", "circle"),
    "robust_accuracy": ("accuracy under attack", "attack", "diamond"),
    "recovery_accuracy": ("recovery accuracy", "recovery", "circle-open"),
    "attack_success": ("attack success", "attack", "diamond"),
}
RATES = ("clean_accuracy", "recovery_accuracy", "attack_success")  # of a repair


def dots_figure(
    names: Sequence[str],
    measures: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    marked: int | None,
    length: int = 22,
) -> Figure:
    """Return one row per model with a dot and an interval, in %, for each measure; row `marked` is highlighted. length: of a label.

    `measures` maps a name of :data:`DOTS` to one (value, low, high) per model, None where it was not measured.
    """
    rows = list(range(len(names)))
    offsets = {
        name: 0.0 if len(measures) == 1 else 0.16 - 0.32 * i / (len(measures) - 1) for i, name in enumerate(measures)
    }
    traces: list[object] = []
    for name, values in measures.items():
        title, colour, symbol = DOTS[name]
        points = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
        traces.append(
            {
                "type": "scatter",
                "x": [value[0] for _, value in points],
                "y": [row - offsets[name] for row, _ in points],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [value[2] - value[0] for _, value in points],
                    "arrayminus": [value[0] - value[1] for _, value in points],
                    "color": f"var:{colour}",
                    "thickness": 2,
                    "width": 4,
                },
                "mode": "markers",
                "name": title,
                "legendgroup": name,
                "marker": {"symbol": symbol, "size": 10, "color": f"var:{colour}"},
                "customdata": [[label(names[row], 60), value[1], value[2]] for row, value in points],
                "hovertemplate": f"%{{customdata[0]}}: {title} %{{x:.1f}} % (%{{customdata[1]:.1f}}–%{{customdata[2]:.1f}})<extra></extra>",
                "cliponaxis": False,
            }
        )
    layout: Figure = {
        "height": 90 + 46 * len(names),
        "margin": {"l": 8, "r": 20, "t": 8, "b": 48},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "% of test images"}, "range": [-2, 102], "zeroline": False},
        "yaxis": {
            "tickvals": rows,
            "ticktext": [f"<b>{name}</b>" if row == marked else name for row, name in enumerate(labels(names, length))],
            "range": [len(names) - 0.5, -0.5],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
        "shapes": [] if marked is None else [_band(marked)],
    }
    return {"data": traces, "layout": layout}


def _band(row: int) -> Figure:
    """Return what highlights a row."""
    return {
        "type": "rect",
        "x0": 0,
        "x1": 1,
        "xref": "paper",
        "y0": row - 0.45,
        "y1": row + 0.45,
        "fillcolor": "var:repaired-band",
        "layer": "below",
        "line": {"width": 0},
    }


def comparison_figure(document: Document) -> Figure:
    """Return accuracy, recovery accuracy and attack success of every model, with intervals."""
    entries = document.entries()
    measures: dict[str, list[tuple[float, float, float] | None]] = {}
    for name in RATES:
        rates = [entry.rate(name) for _, entry in entries]
        if any(rate is not None for rate in rates):
            measures[name] = [
                None if rate is None else (100 * rate.value, 100 * rate.low, 100 * rate.high) for rate in rates
            ]
    marked = next(i for i, (role, _) in enumerate(entries) if role == "repaired")
    return dots_figure([entry.name for _, entry in entries], measures, marked=marked)
