"""The parts of a scan's page that are about a simplex of four and more vertices: its faces, its edges, and how mixing pays."""

from isthmus.report.blocks import Plots, Row, cards, paragraphs, section, switch, text
from isthmus.report.landscape import Scale
from isthmus.report.scan_text import MEASURES, chosen_sentences
from isthmus.report.simplex import MOST, Simplex
from isthmus.report.simplex_figure import mixing_figure, pairs_figure
from isthmus.report.surface import field_title
from isthmus.report.surface_maps import map_figure
from isthmus.report.surface_page import HALF, extremes, headed, shown, what

PAIRS = "In each cell the worst measured value along the edge between two vertices, both included; on the diagonal that of the vertex."
MIXED = "Every measured point. Large dots: given models; diamond: the point chosen on validation images."


def simplex_parts(simplex: Simplex, plots: Plots) -> list[str]:
    """Return the sections about a simplex."""
    return [
        section("vertices", "The vertices", _vertices(simplex), paragraphs(chosen_sentences(simplex.table))),
        section("pairs", "Between each two vertices", _pairs(simplex, plots)),
        section("faces", "On the faces", _faces(simplex, plots)),
        section("mixing", "By how many models are mixed", _mixing(simplex, plots)),
        section("values", "Worst, mean and best", extremes(simplex)),
    ]


def _vertices(simplex: Simplex) -> str:
    """Return which model is at which vertex, and its losses and errors."""
    names = [name for name in MEASURES if name in simplex.fields]
    heads = ("Vertex", "Model", *(headed(simplex.table, name) for name in names))
    rows = [
        Row("corner", [letter, vertex.name, *(shown(simplex, vertex.at, name) for name in names)])
        for letter, vertex in simplex.vertices.items()
    ]
    return cards(heads, rows, numeric=(False, False, *(True for _ in names)))


def _pairs(simplex: Simplex, plots: Plots) -> str:
    held = list(simplex.vertices)
    edges = [(a, b) for i, a in enumerate(held) for b in held[i + 1 :]]
    names = [name for name in simplex.fields if any(simplex.worst(*edge, name) is not None for edge in edges)]
    panels = [
        (field_title(name), plots.place(pairs_figure(simplex, name), f"{what(simplex.table, name)}. {PAIRS}"))
        for name in names
    ]
    return switch("pair", "Worst along the edges", panels)


def _faces(simplex: Simplex, plots: Plots) -> str:
    panels: list[tuple[str, str]] = []
    for name in simplex.fields:
        faces = simplex.drawn(name)
        if not faces:
            continue
        scale = Scale.of([face.panel for face in faces], name)
        maps = [
            f"{HALF}<h3>{text(', '.join(face.corners))}</h3>"
            f"{plots.place(map_figure(face, name, scale), f'{what(simplex.table, name)}.')}</div>"
            for face in faces
        ]
        panels.append((field_title(name), f'<div class="plots">{"".join(maps)}</div>'))
    if not panels:
        return ""
    count = len(simplex.faces)
    few = f" Of {count:,} faces the {MOST} with the worst values are drawn." if count > MOST else ""
    said = f"Mixtures of three vertices each, on one scale. Small dots are the measured points, lines join equal values.{few}"
    return paragraphs([said]) + switch("face", "Colour", panels)


def _mixing(simplex: Simplex, plots: Plots) -> str:
    panels = [
        (field_title(name), plots.place(mixing_figure(simplex, name), f"{what(simplex.table, name)}. {MIXED}"))
        for name in simplex.fields
    ]
    return switch("mixed", "Height", panels)
