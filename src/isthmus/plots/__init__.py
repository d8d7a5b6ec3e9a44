"""Figures for papers, drawn with matplotlib from tables alone. No global setting of matplotlib is touched and no window opened."""

from isthmus.plots.comparison import comparison_figure
from isthmus.plots.evasion import Panel, evasion_figure
from isthmus.plots.frontier import frontier_figure
from isthmus.plots.landscape import landscape_figure
from isthmus.plots.patches import PatchPanel, patches_figure
from isthmus.plots.path import path_figure
from isthmus.plots.reliability import reliability_figure
from isthmus.plots.removal import removal_figure
from isthmus.plots.save import FORMATS, save_figure
from isthmus.plots.sharpening import barrier_figure, eigenvalue_figure, similarity_figure
from isthmus.plots.simplex import faces_figure, pairs_figure
from isthmus.plots.spectrum import SpectrumLine, spectrum_figure
from isthmus.plots.style import COLUMN, LOOKS, OTHERS, PAGE, SIZE, UNITS, Look
from isthmus.plots.surface import edges_figure, surface_figure

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
    "PatchPanel",
    "SpectrumLine",
    "barrier_figure",
    "comparison_figure",
    "edges_figure",
    "eigenvalue_figure",
    "evasion_figure",
    "faces_figure",
    "frontier_figure",
    "landscape_figure",
    "pairs_figure",
    "patches_figure",
    "path_figure",
    "reliability_figure",
    "removal_figure",
    "save_figure",
    "similarity_figure",
    "spectrum_figure",
    "surface_figure",
]
