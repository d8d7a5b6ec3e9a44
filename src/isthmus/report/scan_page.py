"""The page of a scan: what probes measured along a path or over a surface."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.barrier import Barrier
from isthmus.report.blocks import Html, Plots, Row, bullets, cards, facts, paragraphs, section, shell, stacked, text
from isthmus.report.document import Curve
from isthmus.report.scan_figure import scan_figure
from isthmus.report.scan_text import (
    MEASURES,
    amount,
    association_sentences,
    at,
    chosen_sentences,
    scan_barriers,
    scan_limits,
    scan_verdict,
)
from isthmus.report.simplex import Simplex, is_simplex
from isthmus.report.simplex_page import simplex_parts
from isthmus.report.surface import Surface, is_surface
from isthmus.report.surface_page import surface_parts
from isthmus.report.text import duration, moment, sentence
from isthmus.table import Table

CAPTION = {  # end of a column's name -> what a reader should know where there is such a column
    "_error_low": "Bands of shares are Wilson 95 % intervals.",
    "evasion_success": "Evasion success is a share of the images classified correctly, another number at every point.",
    "sharpness": "Sharpness is the largest eigenvalue of the Hessian of the mean loss in the weights.",
    "trace_low": "The band of the trace of that Hessian is its 99 % interval.",
    "input_eigenvalue": "The line of the largest input eigenvalue is the mean over images.",
    "input_eigenvalue_q90": "Its band reaches from the median to the 90 % quantile.",
}


@dataclass(frozen=True)
class ScanReport:
    """A scan's table and, from its folder, when and by which command it was made; each empty where it is not known."""

    table: Table
    created: str = ""
    isthmus: str = ""
    command: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return what was scanned."""
        bridge = self.table.meta.get("bridge")
        return f"Scan of {bridge}" if isinstance(bridge, str) else "Scan"


def scan_page(report: ScanReport) -> str:
    """Return the scan as HTML, with plotly's script inside (about 5 MB)."""
    plots, table = Plots(), report.table
    found, missing = scan_barriers(table)
    command = f"<pre>{text(shlex.join(report.command))}</pre>" if report.command else ""
    parts = [
        _header(report, scan_verdict(table, found), missing),
        *_drawn(table, plots),
        section("association", "Loss under attack and input curvature", paragraphs(association_sentences(table))),
        section("barriers", "Barriers", _barriers(found)),
        section("measured", "What was measured", _columns(table), facts(_meta(table))),
        section("provenance", "To do it again", command),
        section("limits", "What this does not show", bullets(scan_limits(table))),
        f"<footer>{text(f'Isthmus {report.isthmus}, {moment(report.created)}. ' if report.isthmus else '')}"
        "The same figures are in table.json.</footer>",
    ]
    return shell(report.title, "\n".join(part for part in parts if part), plots, version=report.isthmus)


def _header(report: ScanReport, verdict: str, missing: str) -> str:
    notes = [missing] if missing else []
    if report.table.meta.get("complete") is False:
        notes.insert(0, "The scan was not finished: these are the points measured so far.")
    return (
        f'<header>\n<p class="over"><span>{text(moment(report.created))}</span></p>\n<h1>{text(report.title)}</h1>\n'
        f'<p class="verdict">{text(verdict)}</p>\n'
        + (f'<div class="notice">{bullets(notes)}</div>\n' if notes else "")
        + "</header>"
    )


def _drawn(table: Table, plots: Plots) -> list[str]:
    if is_surface(table):
        surface = Surface.of(table)
        return surface_parts(surface, plots) if surface.fields else []
    if is_simplex(table):
        simplex = Simplex.of(table)
        return simplex_parts(simplex, plots) if simplex.fields else []
    curve = Curve.of(table)
    found = scan_figure(curve)
    if found is None:
        return []
    figure, legend = found
    said = [words for end, words in CAPTION.items() if any(name.endswith(end) for name in table.names)]
    caption = " ".join((f"{len(table):,} points.", *said))
    chosen = paragraphs(chosen_sentences(table))
    return [section("path", "Along the path", plots.place(figure, caption, legend), chosen)]


def _barriers(found: Mapping[str, Mapping[str, Barrier]]) -> str:
    """Return one row per definition and one column per measured loss or error."""
    kinds = {barrier.name: barrier for held in found.values() for barrier in held.values()}
    rows = [
        # A name may break after an underscore only.
        Row(
            "barrier",
            [
                Html(name.replace("_", "_<wbr>")),
                *(_barrier(held.get(name)) for held in found.values()),
                _defined(kind),
            ],
        )
        for name, kind in kinds.items()
    ]
    if not rows:
        return ""
    heads = ("Name", *(sentence(MEASURES[column]) for column in found), "Definition")
    note = (
        "Definitions in circulation differ by more than the effect they are quoted for: name the one you quote. "
        "Below each value its place."
    )
    sources = facts((name, kind.citation) for name, kind in kinds.items())
    return (
        cards(heads, rows, numeric=(False, *(True for _ in found), False))
        + f'<p class="caption">{text(note)}</p>\n<details><summary>Sources</summary>{sources}</details>'
    )


def _barrier(barrier: Barrier | None) -> str | Html:
    if barrier is None:
        return ""
    return stacked(amount(barrier.value, barrier.unit), at(barrier).strip())


def _defined(barrier: Barrier) -> str:
    """Return the definition; most are told of a loss and of an error in the same words."""
    alone = barrier.name in ("frankle", "git_re_basin")
    return barrier.definition if alone else barrier.definition.replace("error", "value").replace("loss", "value")


def _columns(table: Table) -> str:
    rows = [
        Row(
            "column",
            [
                column.name,
                column.unit if column.unit != "1" else "",
                "" if column.n is None else f"{column.n:,}",
                column.split or "",
                column.about,
            ],
        )
        for column in table.columns
        if not column.name.endswith(("_low", "_high"))
    ]
    heads = ("Column", "Unit", "Images", "Split", "What it is")
    return cards(heads, rows, numeric=(False, False, True, False, False))


def _meta(table: Table) -> list[tuple[str, str]]:
    meta = table.meta
    rows = [("Points", f"{len(table):,}")]
    rows += [
        (title, str(meta[key]))
        for key, title in (("data", "Data"), ("settle", "BatchNorm statistics"), ("seed", "Seed"))
        if meta.get(key) is not None
    ]
    seconds = meta.get("seconds")
    if isinstance(seconds, int | float):
        rows.append(("Time", duration(seconds)))
    return rows
