"""The parts of a scan's page that are about a surface: in space, as maps, along its edges, and in numbers."""

from collections.abc import Sequence
from math import isfinite

from isthmus.barrier import Barrier
from isthmus.report.blocks import Html, Plots, Row, cards, paragraphs, section, stacked, switch, text
from isthmus.report.document import Curve
from isthmus.report.figures import Figure, label
from isthmus.report.scan_figure import scan_figure
from isthmus.report.scan_text import MEASURES, amount, chosen_sentences
from isthmus.report.simplex import Simplex
from isthmus.report.surface import Surface, field_title
from isthmus.report.surface_maps import map_figure
from isthmus.report.surface_space import space_figure
from isthmus.report.text import coordinates, sentence
from isthmus.table import Table

TURNED = "Drag to turn it. Measured points are joined by straight lines, paths join those that lie on them."
UNROLLED = "From corner to corner along the border and back to the first. Only measured points are drawn."
WALKED = "The straight line in (u, v) between two opposite corners, through the middle."
HALF = '<div style="max-width: 30rem">'


def surface_parts(surface: Surface, plots: Plots) -> list[str]:
    """Return the sections about a surface."""
    return [
        section("surface", "Over the surface", *_space(surface, plots)),
        section(
            "maps", "Maps", paragraphs([_marked(surface)]), f'<div class="plots">{"".join(_maps(surface, plots))}</div>'
        ),
        section("edges", "Along the edges", _edges(surface, plots)),
        section("diagonals", "Along the diagonals", _diagonals(surface, plots)),
        section("values", "Worst, mean and best", extremes(surface), _edge_table(surface)),
    ]


def _space(surface: Surface, plots: Plots) -> list[str]:
    panels: list[tuple[str, str]] = []
    for name in surface.fields:
        figure, legend = space_figure(surface, name)
        panels.append((field_title(name), plots.place(figure, f"{what(surface.table, name)}. {TURNED}", legend)))
    return [
        _corner_table(surface),
        paragraphs(chosen_sentences(surface.table)),
        switch("height", "Height and colour", panels),
    ]


def what(table: Table, name: str) -> str:
    """Return what a field is, in which unit and on how many images: `Loss, test (nat), n = 1,000`."""
    column = table.column(name)
    unit = "" if column.unit in ("1", "") else f" ({column.unit})"
    return f"{sentence(field_title(name))}{unit}" + ("" if column.n is None else f", n = {column.n:,}")


def _corner_table(surface: Surface) -> str:
    """Return which model is at which corner, and its losses and errors."""
    names = [name for name in MEASURES if name in surface.fields]
    heads = ("Corner", "Model", "(u, v)", *(headed(surface.table, name) for name in names))
    rows = [
        Row("corner", [letter, corner.name, _place(corner.at), *(shown(surface, corner.at, name) for name in names)])
        for letter, corner in surface.corners.items()
    ]
    return cards(heads, rows, numeric=(False, False, True, *(True for _ in names))) if rows else ""


def _place(at: Sequence[float]) -> str:
    return coordinates(at).rpartition(" = ")[2]


def headed(table: Table, name: str) -> str:
    """Return the head of a column of values."""
    unit = table.column(name).unit
    return sentence(field_title(name)) + (f" ({unit})" if unit not in ("1", "%", "") else "")


def shown(surface: Surface | Simplex, at: Sequence[float], name: str) -> str:
    """Return a field at a point as a table shows it, its unit being in the head unless it is %."""
    value, unit = surface.value(at, name), surface.table.column(name).unit
    return "" if value is None else amount(value, unit if unit == "%" else "1")


def _maps(surface: Surface, plots: Plots) -> list[str]:
    held: list[str] = []
    for name in surface.fields:
        placed = plots.place(map_figure(surface, name), f"{what(surface.table, name)}.")
        held.append(f"{HALF}<h3>{text(sentence(field_title(name)))}</h3>{placed}</div>")
    return held


def _marked(surface: Surface) -> str:
    """Return what the marks of the maps are."""
    said = [
        f"Dots are the {'corners' if surface.triangle else 'given models'}" if surface.corners else "",
        "dashed lines the diagonals" if surface.diagonals else "",
    ]
    if surface.choice is not None:
        said.append("the diamond is the point chosen on validation images")
    if surface.triangle:
        said.append("small dots are the measured points")
    return (
        f"{sentence(', '.join(part for part in said if part))}. Lines join equal values."
        if any(said)
        else "Lines join equal values."
    )


def _edges(surface: Surface, plots: Plots) -> str:
    table = surface.border()
    drawn = None if table is None else scan_figure(Curve.of(table))
    if drawn is None:
        return ""
    figure, legend = drawn
    count = "Three" if len(surface.edges) == 3 else "Four"
    return plots.place(ticked(figure, surface.walk, surface), f"{count} edges in one. {UNROLLED}", legend)


def _diagonals(surface: Surface, plots: Plots) -> str:
    paths = {pair: path for pair in surface.diagonals if (path := surface.path(*pair)) is not None}
    shared = _axes(list(paths.values()))
    held: list[str] = []
    for pair, path in paths.items():
        drawn = scan_figure(Curve.of(path))
        if drawn is None:
            continue
        figure, legend = drawn
        layout: dict[str, object] = dict(figure["layout"])  # type: ignore[call-overload]
        if set(shared) <= set(layout):
            figure = {"data": figure["data"], "layout": {**layout, **shared}}
        placed = plots.place(ticked(figure, pair, surface), WALKED, legend)
        held.append(f"{HALF}<h3>{text(' to '.join(_named(surface, letter) for letter in pair))}</h3>{placed}</div>")
    return f'<div class="plots">{"".join(held)}</div>' if held else ""


def _axes(paths: Sequence[Table]) -> Figure:
    """Return the axes of values that all `paths` fit into."""
    if not paths:
        return {}
    drawn = scan_figure(Curve.of(Table.of([row for path in paths for row in path.rows()], paths[0].columns)))
    if drawn is None:
        return {}
    layout: dict[str, object] = dict(drawn[0]["layout"])  # type: ignore[call-overload]
    return {key: axis for key, axis in layout.items() if key.startswith("yaxis")}


def _named(surface: Surface, letter: str) -> str:
    return f"{letter} {surface.names[letter]}"


def ticked(figure: Figure, letters: Sequence[str], surface: Surface) -> Figure:
    """Return the figure of a path with its corners as ticks, a grid line at each."""
    layout: dict[str, object] = dict(figure["layout"])  # type: ignore[call-overload]
    axis: dict[str, object] = dict(layout["xaxis"])  # type: ignore[call-overload]
    length = 12 if len(letters) > 2 else 18
    ends: Figure = {
        "title": {"text": "corner of the surface"},
        "tickvals": list(range(len(letters))),
        "ticktext": [f"{letter} {label(surface.names[letter], length)}" for letter in letters],
        "showgrid": True,
        "range": [-0.02 * (len(letters) - 1), 1.02 * (len(letters) - 1)],
    }
    return {"data": figure["data"], "layout": {**layout, "xaxis": {**axis, **ends}}}


def extremes(surface: Surface | Simplex) -> str:
    """Return worst, mean and best of every field with their places, and how the worst compares with the corners."""
    rows = [Row("field", _field_cells(surface, name)) for name in surface.fields]
    heads = ("Measured", "Worst point", "Mean", "Best point", "Mean corner", "Worst above mean corner", "Not finite")
    note = "Over the measured points, each counted once; below a value its place. The best point on test images is known only afterwards."
    numeric = (False, True, True, True, True, True, True)
    return cards(heads, rows, numeric=numeric) + f'<p class="caption">{text(note)}</p>'


def _field_cells(surface: Surface | Simplex, name: str) -> list[str | Html]:
    column, unit = surface.table.column(name), surface.table.column(name).unit
    held = {at: value for at in surface.points if (value := surface.value(at, name)) is not None}
    low, high = min(held, key=lambda at: held[at]), max(held, key=lambda at: held[at])
    worst, best = (low, high) if column.better == "higher" else (high, low)
    given = [value for corner in surface.corners.values() if (value := surface.value(corner.at, name)) is not None]
    mean = sum(given) / len(given) if given else None
    lost = len(surface.points) - len(held)
    above = None if mean is None else (held[worst] - mean) * (-1 if column.better == "higher" else 1)
    return [
        sentence(field_title(name)),
        stacked(amount(held[worst], unit), _place(worst)),
        amount(sum(held.values()) / len(held), unit),
        stacked(amount(held[best], unit), _place(best)),
        "" if mean is None else amount(mean, unit),
        "" if above is None else amount(above, unit, "points" if unit == "%" else None),
        f"{lost} of {len(surface.points):,}" if lost else "",
    ]


def _edge_table(surface: Surface) -> str:
    """Return for each edge and diagonal its highest value above the mean of its ends and above the line between them."""
    names = [name for name in MEASURES if name in surface.fields]
    found = {name: surface.edge_barriers(name) for name in names}
    pairs = [pair for pair in (*surface.edges, *surface.diagonals) if any(pair in held for held in found.values())]
    rows = [
        Row(
            "edge",
            [
                stacked(f"{pair[0]} to {pair[1]}", "edge" if pair in surface.edges else "diagonal"),
                *(_risen(found[name].get(pair, {})) for name in names),
            ],
        )
        for pair in pairs
    ]
    if not rows:
        return ""
    note = (
        "The highest measured value less the mean of the two ends (of an error: Frankle et al. 2020, of a loss: Git Re-Basin), below it "
        "the highest rise above the straight line between them (Entezari et al. 2022)."
    )
    heads = ("Between", *(sentence(MEASURES[name]) for name in names))
    return (
        "<h3>Barriers of the edges and diagonals</h3>"
        + cards(heads, rows, numeric=(False, *(True for _ in names)))
        + f'<p class="caption">{text(note)}</p>'
    )


def _risen(held: dict[str, Barrier]) -> str | Html:
    found = held.get("frankle") or held.get("git_re_basin")
    if found is None:
        return ""
    above = held["entezari"]
    unit = "points" if found.unit == "%" else found.unit
    return stacked(
        amount(found.value, found.unit, unit), f"above the line {amount(above.value, above.unit, unit)}{_at(above)}"
    )


def _at(barrier: Barrier) -> str:
    return "" if barrier.t is None or not isfinite(barrier.t) else f" at {barrier.t:.3g}"
