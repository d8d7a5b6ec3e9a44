"""The page of a landscape, or of several side by side on one scale."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from isthmus._check import InputError, require
from isthmus.report.blocks import Plots, Row, bullets, cards, facts, paragraphs, section, shell, text
from isthmus.report.figures import Figure, labels
from isthmus.report.landscape import ATTACKED, FROZEN, LIMITS, PROJECTED, Landscape, Scale, measure, title_of
from isthmus.report.landscape_figure import Legend, contour_figure, lines_figure
from isthmus.report.landscape_space import surface_figure
from isthmus.report.text import duration, moment, number, sentence

FIGURE = '<div style="max-width: 30rem">'  # a square slice has no use for the width of the page
SHARED = "Colours, contours and heights are the same in all panels."
TURNED = "The same as a surface. Drag to turn it."
FLAT = "Coordinates are in units of the directions: at 1 the weights have moved by the length of the direction."


@dataclass(frozen=True, eq=False)
class LandscapeReport:
    """A landscape and, from its folder, when and by which command it was made; each empty where it is not known."""

    landscape: Landscape
    created: str = ""
    isthmus: str = ""
    command: tuple[str, ...] = ()


def landscape_page(reports: Sequence[LandscapeReport]) -> str:
    """Return the landscapes as HTML, side by side with one colour and height scale, and plotly's script inside (about 5 MB).

    Raises InputError for none, and for landscapes that have no loss or error in common or not the same number of axes.
    """
    panels = [report.landscape for report in reports]
    names = shared_fields(panels)
    titles = labels([panel.title for panel in panels], 34)
    plots = Plots()
    first = reports[0]
    head = "Loss landscape" if len(panels) == 1 else f"{len(panels)} loss landscapes on one scale"
    parts = [
        _header(head, first, panels, names[0]),
        *(_drawn(panels, titles, names, plots) if panels[0].dim == 2 else [_lines(panels, titles, names, plots)]),
        *(_slice(panel, "" if len(panels) == 1 else panel.title, i + 1) for i, panel in enumerate(panels)),
        section("provenance", "To do it again", *(_command(report) for report in reports)),
        section("limits", "What this does not show", bullets(_limits(panels))),
        f"<footer>{text(f'Isthmus {first.isthmus}, {moment(first.created)}. ' if first.isthmus else '')}"
        "The same figures are in landscape.json.</footer>",
    ]
    return shell(head, "\n".join(part for part in parts if part), plots, version=first.isthmus)


def shared_fields(panels: Sequence[Landscape]) -> list[str]:
    """Return the losses and errors that all `panels` have, those under attack first. Raises InputError where they do not fit together."""
    require(bool(panels), "folders", "hold at least one landscape", "none")
    dims = sorted({panel.dim for panel in panels})
    require(len(dims) == 1, "folders", "hold landscapes with the same number of axes", f"{dims}")
    names = [name for name in panels[0].fields() if all(name in panel.fields() for panel in panels)]
    if not names:
        found = "; ".join(", ".join(panel.fields()) or "none" for panel in panels)
        raise InputError(f"`folders` should hold landscapes with a loss or error in common. Found {found}.")
    return names


def _header(head: str, first: LandscapeReport, panels: Sequence[Landscape], main: str) -> str:
    said = [panel.finding(main) if len(panels) == 1 else f"{panel.title}: {panel.finding(main)}" for panel in panels]
    unfinished = [panel.title for panel in panels if not panel.meta.complete]
    notes = [f"{name} was not finished: these are the points measured so far." for name in unfinished]
    title = panels[0].title if len(panels) == 1 else ""
    verdict = f'<p class="verdict">{text(said[0])}</p>' if len(said) == 1 else bullets(said)
    return (
        f'<header>\n<p class="over"><span>{text(moment(first.created))}</span></p>\n'
        f"<h1>{text(f'{head} of {title}' if title else head)}</h1>\n{verdict}\n"
        + (f'<div class="notice">{bullets(notes)}</div>\n' if notes else "")
        + "</header>"
    )


def _drawn(panels: Sequence[Landscape], titles: Sequence[str], names: Sequence[str], plots: Plots) -> list[str]:
    """Return the contours of each field, and the surface of the foremost: a section for each, or of a single panel one for the others."""
    alone = len(panels) == 1
    sections: list[tuple[str, list[str]]] = []
    for place, name in enumerate(names):
        scale = Scale.of(panels, name)
        heads = [f"<h3>{title}</h3>" for title in titles]
        if alone:
            heads = [f"<h3>{sentence(title_of(name))}</h3>" if place else ""]
        placed = [plots.place(*_contours(panel, name, scale)) for panel in panels]
        if place == 0:
            heads = heads * 2
            placed += [plots.place(surface_figure(panel, name, scale), TURNED) for panel in panels]
        held = [f"{FIGURE}{head}{figure}</div>" for head, figure in zip(heads, placed, strict=True)]
        if place == 0 and not alone:  # contours beside contours, surfaces beside surfaces
            held.insert(len(panels), '</div><div class="plots">')
        if alone and place > 1:
            sections[-1][1].extend(held)
        else:
            sections.append((sentence(title_of(name)) if place == 0 or not alone else "The other measurements", held))
    said = paragraphs([] if alone else [SHARED])
    return [
        section(f"field-{i + 1}", title, said, f'<div class="plots">{"".join(held)}</div>')
        for i, (title, held) in enumerate(sections)
    ]


def _contours(panel: Landscape, name: str, scale: Scale) -> tuple[Figure, str, Legend]:
    figure, legend = contour_figure(panel, name, scale)
    return figure, f"{sentence(panel.what(name))}.", legend


def _lines(panels: Sequence[Landscape], titles: Sequence[str], names: Sequence[str], plots: Plots) -> str:
    placed: list[str] = []
    for end in ("loss", "error"):
        held = [name for name in names if measure(name).endswith(end)]
        if held:
            figure, legend = lines_figure(panels, held, titles)
            caption = f"{'; '.join(dict.fromkeys(sentence(panel.what(held[0])) for panel in panels))}."
            placed.append(plots.place(figure, caption, legend))
    return section("line", "Along the line", *placed)


def _slice(panel: Landscape, title: str, place: int) -> str:
    """Return what the slice is: its axes, its marks, what was measured and under which policy."""
    meta = panel.meta
    rows = [
        (f"Axis {axis.name}", f"{axis.label} ({axis.unit}); length of the direction {number(axis.norm)}")
        for axis in meta.axes
    ]
    rows.append(("Points", " x ".join(str(len(line)) for line in panel.grid)))
    if meta.data:
        rows.append(("Images", f"{meta.data}, {meta.split}, n = {meta.n:,}"))
    if meta.examples:
        rows.append(("Adversarial examples", meta.examples))
    if meta.policy is not None:
        rows.append(("BatchNorm statistics", meta.policy))
    rows.append(("Seed", str(meta.seed)))
    if meta.seconds is not None:
        rows.append(("Time", duration(meta.seconds)))
    head = f"The slice: {title}" if title else "The slice"
    return section(
        f"slice-{place}", head, facts(rows), f'<p class="caption">{FLAT}</p>', _anchors(panel), _columns(panel)
    )


def _anchors(panel: Landscape) -> str:
    names = [axis.name for axis in panel.meta.axes]
    models = [anchor for anchor in panel.meta.anchors if anchor.role == "model"]
    rows: list[Row] = []
    for anchor in panel.meta.anchors:
        at, off = panel.placed(anchor)
        role = f"model {models.index(anchor) + 1}" if anchor in models else anchor.role
        outside = "" if panel.inside(anchor) else "outside"
        rows.append(Row("anchor", [anchor.name, role, *(f"{v:.4g}" for v in at), f"{off:.3g}", outside]))
    heads = ("Model", "Role", *names, "Distance from the slice", "Drawn")
    return cards(heads, rows, numeric=(False, False, *(True for _ in names), True, False)) if rows else ""


def _columns(panel: Landscape) -> str:
    rows = [
        Row("column", [name, column.unit, "" if column.n is None else f"{column.n:,}", column.about])
        for name in panel.fields()
        if (column := panel.table.column(name))
    ]
    return cards(("Column", "Unit", "Images", "What it is"), rows, numeric=(False, False, True, False))


def _command(report: LandscapeReport) -> str:
    return f"<pre>{text(shlex.join(report.command))}</pre>" if report.command else ""


def _limits(panels: Sequence[Landscape]) -> list[str]:
    names = {name for panel in panels for name in panel.fields()}
    off = any(panel.placed(anchor)[1] > 0 for panel in panels for anchor in panel.meta.anchors)
    kinds = {measure(name) for name in names}
    said = [(PROJECTED, off), (FROZEN, "frozen_loss" in kinds), (ATTACKED, "robust_loss" in kinds)]
    return [*LIMITS, *(line for line, holds in said if holds)]
