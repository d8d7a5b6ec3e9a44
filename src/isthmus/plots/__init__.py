"""Figures for papers, drawn with matplotlib from tables alone. No global setting of matplotlib is touched and no window opened."""

from isthmus.plots.comparison import comparison_figure
from isthmus.plots.evasion import Panel, evasion_figure
from isthmus.plots.path import path_figure
from isthmus.plots.save import FORMATS, save_figure
from isthmus.plots.style import COLUMN, LOOKS, OTHERS, PAGE, SIZE, UNITS, Look

__all__ = [
    "COLUMN",
    "FORMATS",
    "LOOKS",
    "OTHERS",
    "PAGE",
    "SIZE",
    "UNITS",
    "Look",
    "Panel",
    "comparison_figure",
    "evasion_figure",
    "path_figure",
    "save_figure",
]
