"""Figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus._check import unknown
from isthmus.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png", "svg")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PDF, PNG (300 dots per inch) or SVG, by the suffix of `path`, atomically; the same figure gives the same bytes."""
    import matplotlib

    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise unknown("path", suffix, FORMATS)
    # Type 42 fonts: publishers refuse matplotlib's default. A fixed salt and no date: a figure drawn again is the same file.
    undated: Mapping[str, None] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "isthmus"}), atomic(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=300, metadata=dict(undated))
