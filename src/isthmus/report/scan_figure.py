"""The figure of a scanned path: one panel for each kind of quantity, one above the other."""

from math import inf, log10
from re import search

from isthmus.report.document import Curve
from isthmus.report.figures import Figure, curve_traces, line_of, series

PANELS = (
    ("loss", r"(^|_)loss($|_)"),
    ("error", r"(^|_)error($|_)"),
    ("evasion success", r"evasion_success"),
    ("sharpness", r"(^|_)sharpness(?!.*_residual$)"),
    ("trace", r"(^|_)trace($|_)"),
    ("largest input eigenvalue", r"input_eigenvalue$"),
    ("triggered images", r"attack_success|recovery_accuracy"),
    ("distance of the weights", r"^distance_"),
)
KEYS = {"solid": "solid", "dot": "dotted", "dash": "dashed"}
BOUND = r"_(low|high|median|q\d+|max)$"
HEIGHT, GAP = 200, 0.05  # pixels of a panel, share of the figure between two
DECADES = 20.0  # a panel whose largest value is so many times its smallest gets a logarithmic axis

Legend = list[tuple[str, str, str, str]]


def panels(curve: Curve) -> list[tuple[str, list[str]]]:
    """Return (title, columns) of the panels that have something to show."""
    names = [column.name for column in curve.columns if not search(BOUND, column.name) and series(curve, column.name)]
    found = [(title, [name for name in names if search(kind, name)]) for title, kind in PANELS]
    return [(title, held) for title, held in found if held]


def scan_figure(curve: Curve) -> tuple[Figure, Legend] | None:
    """Return the figure and its legend as (group, title, tone, key); None where no column can be drawn along t.

    Bands are the bounds in the table, for eigenvalues from the median to the 90 % quantile over images. Losses and eigenvalues whose
    values span a factor of 20 get a logarithmic axis.
    """
    shown = panels(curve)
    if not shown:
        return None
    count, traces = len(shown), list[object]()
    height = 60 + HEIGHT * count
    layout: Figure = {
        "height": height,
        "margin": {"l": 88, "r": 20, "t": 12, "b": 48},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {
            "title": {"text": "position along the path, t"},
            "hoverformat": ".3g",
            "anchor": "y" if count == 1 else f"y{count}",
            "zeroline": False,
        },
    }
    legend: Legend = []
    step = (1 + GAP) / count
    for place, (title, names) in enumerate(shown):
        axis = "y" if place == 0 else f"y{place + 1}"
        scale = _scale(curve, title, names)
        for name in names:
            # A quantile of zero has no place on a logarithmic axis.
            traces += curve_traces(curve, name, axis, floor=1e-3 * _lowest(curve, names) if "type" in scale else -inf)
            label, tone, dash = line_of(name)
            legend.append((name, label, tone, KEYS[dash]))
        top = 1 - place * step
        domain = [max(0.0, top - step + GAP), top]
        layout[f"yaxis{axis[1:]}"] = {
            "title": {"text": _label(curve, title, names), "standoff": 10},
            "domain": domain,
            "anchor": "x",
            "zeroline": False,
            **scale,
        }
    return {"data": traces, "layout": layout}, legend


def _label(curve: Curve, title: str, names: list[str]) -> str:
    units = list(dict.fromkeys(column.unit for column in curve.columns if column.name in names))
    unit = "" if units == ["1"] else f" ({', '.join(units)})"
    if len(title) + len(unit) <= 20:
        return title + unit
    words = title.split(" ")  # two lines: a panel is not as high as a long title is wide
    middle = (len(words) + 1) // 2
    return f"{' '.join(words[:middle])}<br>{' '.join(words[middle:])}{unit}"


def _scale(curve: Curve, title: str, names: list[str]) -> Figure:
    points = [point for name in names for point in series(curve, name)]
    low, high = _lowest(curve, names), max(max(point[1:]) for point in points)
    if title in ("evasion success", "triggered images"):
        return {"range": [-4, 104]}
    if title != "error" and low > 0 and high / low >= DECADES:
        # A quantile near zero would take decades of the axis: the band may leave it below, the means may not.
        return {"type": "log", "range": [log10(low / 1.6), log10(high * 1.6)], "dtick": 1}
    return {"rangemode": "tozero"}


def _lowest(curve: Curve, names: list[str]) -> float:
    return min(value for name in names for _, value, _, _ in series(curve, name))
