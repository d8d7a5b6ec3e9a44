"""Error and loss along the line to an aligned model, before and after, as plain JSON."""

from isthmus.report.figures import Figure
from isthmus.report.scan_figure import KEYS, Legend
from isthmus.table import Table

LOOKS = {  # weights, statistics: title, tone, dash
    ("plain", "as is"): ("as it came", "attack", "solid"),
    ("plain", "BatchNorm reset"): ("as it came, BatchNorm reset", "attack", "dash"),
    ("permuted", "as is"): ("units matched", "accuracy", "solid"),
    ("permuted", "BatchNorm reset"): ("units matched, BatchNorm reset", "accuracy", "dash"),
}
PANELS = (("test_error", "error (%)", "y", [0.54, 1.0]), ("test_loss", "loss (nat)", "y2", [0.0, 0.46]))


def line_figure(lines: Table, model: str) -> tuple[Figure, Legend] | None:
    """Return error and loss on test images along the line to `model`, a line for each way it was measured; None without any."""
    rows = [row for row in lines.rows() if row["model"] == model]
    traces, legend = list[object](), Legend()
    for (weights, statistics), (title, tone, dash) in LOOKS.items():
        held = [row for row in rows if (row["weights"], row["statistics"]) == (weights, statistics)]
        if not held:
            continue
        group = f"{weights}-{statistics}".replace(" ", "-")
        for name, label, axis, _ in PANELS:
            unit = label.partition("(")[2].rstrip(")")
            traces.append(
                {
                    "type": "scatter",
                    "x": [row["t"] for row in held],
                    "y": [row.get(name) for row in held],
                    "mode": "lines+markers",
                    "line": {"color": f"var:{tone}", "width": 2.5, "dash": dash},
                    "marker": {"size": 5},
                    "hovertemplate": f"{title} %{{y:.4g}} {unit}<extra></extra>",
                    "legendgroup": group,
                    "yaxis": axis,
                }
            )
        legend.append((group, title, tone, KEYS[dash]))
    return ({"data": traces, "layout": _layout()}, legend) if traces else None


def _layout() -> Figure:
    axes = {
        f"yaxis{axis[1:]}": {
            "title": {"text": label},
            "domain": domain,
            "anchor": "x",
            "rangemode": "tozero",
            "zeroline": False,
        }
        for _, label, axis, domain in PANELS
    }
    return {
        "height": 460,
        "margin": {"l": 64, "r": 20, "t": 12, "b": 48},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {
            "title": {"text": "position along the line, t"},
            "anchor": "y2",
            "zeroline": False,
            "hoverformat": ".3g",
        },
        **axes,
    }
