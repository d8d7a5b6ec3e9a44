"""Colours, scales and marks that the contours and the surface of a landscape share, as parts of plotly figures."""

from collections.abc import Sequence

from isthmus.report.figures import Figure, label
from isthmus.report.landscape import Anchor, Landscape, Scale, rung
from isthmus.report.text import number

# Light to middle tones of ColorBrewer's YlGnBu: dark lines and labels can be read on all of them, in a grey print too.
SHADES = ("#ffffd9", "#e0f3b2", "#b5e2b6", "#7fcdbb", "#4fb6c4", "#2f97c1")
INK = "#1b2430"
HEIGHT = 430  # pixels
MARKS = {  # role -> legend title, symbol, tone, form of the key in page.css
    "centre": ("the model", "circle", "chosen", "dot"),
    "model": ("models", "diamond", "chosen", "diamond"),
    "trajectory": ("trajectory", "circle-open", "attack", "ring"),
}


def ends_of(scale: Scale, log: bool) -> tuple[float, float]:
    """Return the ends of the colours, on the logarithmic scale as rungs."""
    return (rung(scale.floor), rung(scale.high)) if log else (scale.low, scale.high)


def height_of(value: float | None, scale: Scale, log: bool) -> float | None:
    """Return what stands for a value: itself, or its rung, no lower than that of the scale's floor."""
    return value if value is None or not log else rung(max(value, scale.floor))


def colour_bar(name: str, scale: Scale, log: bool) -> Figure:
    """Return a colour bar whose ticks are the levels of the contours, in the unit of the field."""
    levels = scale.log_levels() if log else scale.levels()
    return {
        f"{name}.tickvals": [rung(level) for level in levels] if log else levels,
        f"{name}.ticktext": [number(level) for level in levels],
        f"{name}.thickness": 12,
        f"{name}.outlinewidth": 0,
        f"{name}.title.text": scale.unit,
        f"{name}.title.side": "top",
    }


def shades() -> list[list[object]]:
    """Return the colours from low to high as plotly takes them."""
    return [[i / (len(SHADES) - 1), shade] for i, shade in enumerate(SHADES)]


def nested(dotted: Figure) -> Figure:
    """Return {"a": {"b": 1}} for {"a.b": 1}."""
    found: Figure = {}
    for key in dict.fromkeys(name.partition(".")[0] for name in dotted):
        inner = {name.partition(".")[2]: value for name, value in dotted.items() if name.startswith(f"{key}.")}
        found[key] = nested(inner) if inner else dotted[key]
    return found


def scale_buttons(calls: Sequence[tuple[str, Sequence[object]]], scale: Scale) -> Figure:
    """Return the two buttons for the linear and the logarithmic scale."""
    return {
        "type": "buttons",
        "direction": "right",
        "active": int(scale.log),
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 8},
        "bgcolor": "var:sheet",
        "bordercolor": "var:rule",
        "font": {"size": 12, "color": "var:ink"},
        "buttons": [
            {"label": title, "method": method, "args": arguments}
            for title, (method, arguments) in zip(("linear", "logarithmic"), calls, strict=True)
        ],
    }


def told(panel: Landscape, anchor: Anchor) -> str:
    """Return what is said of a marked model where it is pointed at."""
    off = panel.placed(anchor)[1]
    return f"{label(anchor.name, 40)}{f', {number(off)} off the slice' if off else ''}"


def mark_texts(panel: Landscape, role: str, held: Sequence[Anchor]) -> list[str]:
    """Return the numbers of the given models, in their order; nothing for marks of another kind."""
    models = [anchor for anchor in panel.meta.anchors if anchor.role == "model"]
    return [str(models.index(anchor) + 1) if role == "model" else "" for anchor in held]
