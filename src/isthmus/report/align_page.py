"""The page of an alignment: the line between models before and after their hidden units changed places."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.report.align import LIMITS, Alignment, BarrierEntry, align_sentences, layers, units_sentences, way
from isthmus.report.align_figure import line_figure
from isthmus.report.blocks import Html, Plots, Row, bullets, cards, facts, paragraphs, section, shell, stacked, text
from isthmus.report.dots import dots_figure
from isthmus.report.scan_record import short_names
from isthmus.report.scan_text import amount
from isthmus.report.text import moment, number
from isthmus.table import Cell

NOTED = {"frankle": 0, "git_re_basin": 0, "entezari": 1, "draxler_rise": 2}  # barriers in the table, in this order


@dataclass(frozen=True)
class Ran:
    """When and by which command a record was made; each empty where it is not known."""

    created: str = ""
    isthmus: str = ""
    command: tuple[str, ...] = ()

    def footer(self, file: str) -> str:
        """Return the last line of a page."""
        made = f"Isthmus {self.isthmus}, {moment(self.created)}. " if self.isthmus else ""
        return f"<footer>{text(made)}The same figures are in {file}.</footer>"

    def provenance(self) -> str:
        """Return the section with the command."""
        return section(
            "provenance", "To do it again", f"<pre>{text(shlex.join(self.command))}</pre>" if self.command else ""
        )


def align_page(alignment: Alignment, ran: Ran) -> str:
    """Return the alignment as HTML, with plotly's script inside (about 5 MB)."""
    plots, document = Plots(), alignment.document
    names = dict(zip((m.model for m in document.models), short_names([m.model for m in document.models]), strict=True))
    parts = [
        _header(alignment, ran),
        section("middle", "In the middle of the line", *(_middle(alignment, m, names[m], plots) for m in names)),
        section("lines", "Along the line", *(_line(alignment, m, names[m], plots) for m in names)),
        section("barriers", "Barriers before and after", *(_barriers(alignment, m, names[m]) for m in names)),
        section("units", "What changed places", paragraphs(units_sentences(document)), _units(alignment)),
        section("repair", "REPAIR and BatchNorm", facts(_repair(alignment))),
        ran.provenance(),
        section("limits", "What this does not show", bullets(LIMITS)),
        ran.footer("align.json"),
    ]
    return shell(document.title, "\n".join(part for part in parts if part), plots, version=ran.isthmus)


def _header(alignment: Alignment, ran: Ran) -> str:
    notes, said = alignment.document.notes, align_sentences(alignment)
    return (
        f'<header>\n<p class="over"><span>{text(moment(ran.created))}</span></p>\n<h1>{text(alignment.document.title)}</h1>\n'
        + (f'<p class="verdict">{text(said[0])}</p>' if len(said) == 1 else bullets(said))
        + (f'<div class="notice">{bullets(notes)}</div>\n' if notes else "")
        + "</header>"
    )


def _middle(alignment: Alignment, model: str, name: str, plots: Plots) -> str:
    rows = alignment.rows(model)
    held = [_bounded(row) for row in rows]
    figure = dots_figure([way(row) for row in rows], {"clean_accuracy": held}, marked=None)
    column = alignment.midpoints.column("test_accuracy")
    said = f"Test accuracy half way to {name}, n = {column.n or 0:,}; bars are Wilson 95 % intervals."
    heads = (
        "Weights and statistics",
        "Accuracy",
        "Loss (nat)",
        "Error above the mean of the ends",
        "Loss above it (nat)",
    )
    cells = [
        Row("way", [way(row), *(_cell(row, key) for key in ("test_accuracy", "test_loss", "error_rise", "loss_rise"))])
        for row in rows
    ]
    table = cards(heads, cells, numeric=(False, True, True, True, True))
    return f"<h3>{text(model)}</h3>{plots.place(figure, said)}{table}"


def _bounded(row: dict[str, Cell]) -> tuple[float, float, float] | None:
    values = [row.get(key) for key in ("test_accuracy", "test_accuracy_low", "test_accuracy_high")]
    found = [float(value) for value in values if isinstance(value, int | float)]
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def _cell(row: dict[str, Cell], key: str) -> str | Html:
    value = row.get(key)
    if not isinstance(value, int | float):
        return ""
    if key == "test_accuracy":
        bounds = _bounded(row)
        return stacked(f"{value:.1f} %", "" if bounds is None else f"{bounds[1]:.1f}–{bounds[2]:.1f} %")
    return (
        f"{value:+.1f} points"
        if key == "error_rise"
        else f"{value:+.3g}"
        if key == "loss_rise"
        else number(float(f"{value:.3g}"))
    )


def _line(alignment: Alignment, model: str, name: str, plots: Plots) -> str:
    if alignment.lines is None:
        return ""
    found = line_figure(alignment.lines, model)
    if found is None:
        return ""
    caption = f"From {alignment.document.reference} (t = 0) to {model} (t = 1), its units as they came and matched."
    return f"<h3>{text(name)}</h3>{plots.place(found[0], caption, found[1])}"


def _barriers(alignment: Alignment, model: str, name: str) -> str:
    """Return a row for each measure, definition and statistics, with the value before and after matching beside each other."""
    held = [b for b in alignment.document.barriers if b.model == model and b.name in NOTED]
    keys = sorted({(b.of, NOTED[b.name], b.name, b.statistics) for b in held})
    rows: list[Row] = []
    for of, _, which, statistics in keys:
        same = [b for b in held if (b.of, b.name, b.statistics) == (of, which, statistics)]
        pair = [next((b for b in same if b.weights == weights), None) for weights in ("plain", "permuted")]
        rows.append(Row("barrier", [of.replace("_", " "), which, statistics, *map(_barrier, pair), same[0].definition]))
    heads = ("Of", "Name", "Statistics", "As they came", "Units matched", "Definition")
    table = cards(heads, rows, numeric=(False, False, False, True, True, False)) if rows else ""
    return f"<h3>{text(name)}</h3>{table}" if table else ""


def _barrier(barrier: BarrierEntry | None) -> str | Html:
    if barrier is None:
        return ""
    unit = "points" if barrier.unit == "%" else barrier.unit
    return stacked(amount(barrier.value, barrier.unit, unit), "" if barrier.t is None else f"at t = {barrier.t:.3g}")


def _units(alignment: Alignment) -> str:
    document = alignment.document
    rows = [Row("group", [group.name, f"{group.size:,}"]) for group in document.groups]
    table = cards(("Group, by the tensor axis it is called by", "Units"), rows, numeric=(False, True)) if rows else ""
    left = _listed(document.unpermuted)
    return table + (
        f"<h3>Left as it is</h3>{left}" if left else "<p>Every hidden unit that was found may change places.</p>"
    )


def _listed(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    held = bullets(lines)
    return held if len(lines) <= 12 else f"<details><summary>{len(lines):,} axes</summary>{held}</details>"


def _repair(alignment: Alignment) -> list[tuple[str, str]]:
    made = alignment.document.repair
    return [
        ("Corrected by REPAIR", layers(made.corrected)),
        ("BatchNorm recomputed", layers(made.normalised)),
        ("Left as they are", layers(made.left)),
    ]
