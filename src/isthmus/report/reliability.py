"""Reliability diagrams as plain JSON: accuracy against confidence by bin, over the shares of images."""

from collections.abc import Sequence

from isthmus.rates import wilson
from isthmus.report.ensemble import Combined, Reliable
from isthmus.report.figures import Figure
from isthmus.report.quantities import Calibration
from isthmus.report.text import percent

SIDE = 260  # pixels of a panel, high
MOST = 4  # given models that are drawn


def drawn(combined: Combined) -> tuple[list[Reliable], int]:
    """Return what has a diagram, the given models first, at most four of those; and how many of them there are."""
    given = [one for one in combined.meta.reliability if one.kind in ("member", "corner")]
    others = [one for one in combined.meta.reliability if one.kind not in ("member", "corner")]
    return [*given[:MOST], *others], len(given)


def said(found: Calibration) -> str:
    """Return the calibration error of a diagram in words: `ECE 2.1 % (15 bins, n = 1,000); by chance 1.0 %`."""
    return f"ECE {percent(found.error)} ({found.bins} bins, n = {found.n:,}); by chance {percent(found.by_chance)}"


def filled(found: Calibration) -> list[tuple[int, float, float, float, float]]:
    """Return for each bin with images their number, mean confidence and accuracy with its Wilson bounds, as shares."""
    held = [(one.n, one.confidence, one.accuracy) for one in found.by_bin]
    return [(n, c, a, *wilson(a, n)) for n, c, a in held if c is not None and a is not None]


def middles(found: Calibration) -> list[float]:
    """Return the middles of the bins in %."""
    return [100 * (b + 0.5) / found.bins for b in range(found.bins)]


def reliability_figure(found: Calibration) -> Figure:
    """Return accuracy (%) with its interval over mean confidence (%) by bin, the diagonal, and the share of the images in each bin (%)."""
    return {"data": [_shares(found), _diagonal(), _dots(filled(found))], "layout": _layout()}


def _shares(found: Calibration) -> Figure:
    edges = [(100 * b / found.bins, 100 * (b + 1) / found.bins) for b in range(found.bins)]
    return {
        "type": "bar",
        "x": middles(found),
        "y": [100 * one.n / found.n for one in found.by_bin],
        "width": 100 / found.bins,
        "marker": {"color": "var:accuracy-band", "line": {"width": 0}},
        "customdata": [[*edge, one.n] for edge, one in zip(edges, found.by_bin, strict=True)],
        "hovertemplate": "%{customdata[0]:.3g}–%{customdata[1]:.3g} %: %{customdata[2]:,} images (%{y:.1f} %)<extra></extra>",
    }


def _diagonal() -> Figure:
    line = {"color": "var:soft", "width": 1.2, "dash": "dash"}
    return {"type": "scatter", "x": [0, 100], "y": [0, 100], "mode": "lines", "line": line, "hoverinfo": "skip"}


def _dots(rows: Sequence[tuple[int, float, float, float, float]]) -> Figure:
    return {
        "type": "scatter",
        "x": [100 * confidence for _, confidence, *_ in rows],
        "y": [100 * accuracy for _, _, accuracy, *_ in rows],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (high - accuracy) for _, _, accuracy, _, high in rows],
            "arrayminus": [100 * (accuracy - low) for _, _, accuracy, low, _ in rows],
            "color": "var:accuracy",
            "thickness": 1.2,
            "width": 0,
        },
        "mode": "lines+markers",
        "line": {"color": "var:accuracy", "width": 1.5},
        "marker": {"size": 7, "color": "var:accuracy"},
        "customdata": [[n] for n, *_ in rows],
        "hovertemplate": "confidence %{x:.1f} %, accuracy %{y:.1f} %, n = %{customdata[0]:,}<extra></extra>",
        "cliponaxis": False,
    }


def _layout() -> Figure:
    axis: Figure = {"range": [0, 100], "dtick": 25, "zeroline": False}
    return {
        "height": SIDE,
        "margin": {"l": 52, "r": 14, "t": 8, "b": 44},
        "hovermode": "closest",
        "xaxis": {**axis, "title": {"text": "mean confidence (%)", "standoff": 6}},
        "yaxis": {**axis, "title": {"text": "accuracy (%)", "standoff": 6}},
    }
