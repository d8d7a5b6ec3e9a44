"""The report as one self-contained page that opens without a network."""

import json
import shlex

from pydantic import JsonValue

from isthmus.report.blocks import (
    Html,
    Plots,
    Row,
    bullets,
    cards,
    code,
    facts,
    paragraphs,
    rate_cell,
    section,
    shell,
    stacked,
    text,
    tile,
)
from isthmus.report.document import Curve, Document, Entry
from isthmus.report.dots import comparison_figure
from isthmus.report.figures import path_figure
from isthmus.report.frontier_figure import FRONTIER_CAPTION, document_frontier
from isthmus.report.quality_parts import quality_parts
from isthmus.report.surface import Surface, field_title, is_surface
from isthmus.report.surface_maps import map_figure
from isthmus.report.text import (
    STATUS,
    answering,
    duration,
    how_chosen,
    limits,
    moment,
    number,
    remarks,
    sentence,
    span,
    verdict,
    what_was_done,
)
from isthmus.report.trust_page import examples, part_section
from isthmus.report.trust_parts import candidate_part, trust_parts

ROLES = {"suspect": "suspect", "repaired": "repaired", "baseline": "baseline"}
PATH_LEGEND = (
    ("validation_error", "error, validation", "validation", "dotted"),
    ("test_error", "error, test", "accuracy", "solid"),
    ("attack_success", "attack success", "attack", "solid"),
    ("recovery_accuracy", "recovery accuracy", "recovery", "dashed"),
)
DOTS_LEGEND = (
    ("clean_accuracy", "accuracy", "accuracy", "dot"),
    ("recovery_accuracy", "recovery accuracy", "recovery", "ring"),
    ("attack_success", "attack success", "attack", "diamond"),
)


def page(document: Document) -> str:
    """Return the report as HTML, with plotly's script inside (about 5 MB)."""
    plots = Plots()
    parts = [
        _header(document),
        section("done", "What was done", paragraphs(what_was_done(document))),
        _path(document, plots),
        _comparison(document, plots),
        *(part_section(part) for part in quality_parts(document)),
        section("chosen", "How the point was chosen", paragraphs(how_chosen(document)), _settings(document)),
        part_section(candidate_part(document)),
        *_trust(document),
        _data(document),
        _cost(document),
        _provenance(document),
        section("warnings", "Warnings", bullets(document.warnings) if document.warnings else "<p>None.</p>"),
        section("limits", "What this does not show", bullets(limits(document))),
        f"<footer>Isthmus {text(document.isthmus)}, {text(moment(document.created))}. The same figures are in report.json.</footer>",
    ]
    return shell(document.title, "\n".join(part for part in parts if part), plots, version=document.isthmus)


def _header(document: Document) -> str:
    repaired, suspects = document.repaired, document.suspects
    tiles: list[str] = []
    if repaired.attack_success is not None:
        before = [entry.attack_success for entry in answering(document) if entry.attack_success is not None]
        tiles.append(tile("attack", "Attack success", span(before) if before else None, repaired.attack_success))
    tiles.append(
        tile("accuracy", "Accuracy", span([entry.clean_accuracy for entry in suspects]), repaired.clean_accuracy)
    )
    if repaired.recovery_accuracy is not None:
        before = [entry.recovery_accuracy for entry in answering(document) if entry.recovery_accuracy is not None]
        tiles.append(
            tile(
                "recovery",
                "Recovery accuracy (triggered)",
                span(before) if before else None,
                repaired.recovery_accuracy,
            )
        )
    notes = [*document.reasons, *remarks(document)]
    count = len(document.warnings)
    link = f'<a href="#warnings">{count} warning{"s" if count > 1 else ""}</a>' if count else ""
    return (
        f'<header>\n<p class="over"><span class="badge {document.status}">{STATUS[document.status]}</span>'
        f"<span>{text(moment(document.created))}</span>{link}</p>\n<h1>{text(document.title)}</h1>\n"
        f'<p class="verdict">{text(verdict(document))}</p>\n<div class="tiles">{"".join(tiles)}</div>\n'
        + (f'<div class="notice">{bullets(notes)}</div>\n' if notes else "")
        + "</header>"
    )


def _path(document: Document, plots: Plots) -> str:
    figure = path_figure(document)
    if figure is not None:
        drawn = json.dumps(figure["data"])
        legend = [line for line in PATH_LEGEND if f'"legendgroup": "{line[0]}"' in drawn]
        caption = (
            "Bands are Wilson 95 % intervals. Squares are the suspects, the diamond is the repaired model as saved, the line its place. "
            "Test figures were measured after the choice."
        )
        return section("path", "Along the path", plots.place(figure, caption, legend))
    curve = document.curve
    if curve is None or not is_surface(curve.table()):
        return ""
    return section("path", "Over the surface", _maps(document, curve, plots))


def _maps(document: Document, curve: Curve, plots: Plots) -> str:
    """Return the maps of the error and of the attack's success, with the suspects at the corners and the chosen point."""
    names = [entry.path or entry.name for entry in document.suspects]
    surface = Surface.of(curve.table(), choice=document.choice, names=names)
    error = "test_error" if "test_error" in surface.fields else "validation_error"
    shown = [name for name in (error, "robust_error", "evasion_success", "attack_success") if name in surface.fields]
    blocks = [
        f"<div><h3>{text(sentence(field_title(name)))}</h3>"
        f"{plots.place(map_figure(surface, name), f'{sentence(field_title(name))} (%). The diamond is the chosen point.')}</div>"
        for name in shown
    ]
    return f'<div class="plots">{"".join(blocks)}</div>' if blocks else ""


def _comparison(document: Document, plots: Plots) -> str:
    figure = comparison_figure(document)
    drawn = json.dumps(figure["data"])
    legend = [line for line in DOTS_LEGEND if f'"legendgroup": "{line[0]}"' in drawn]
    caption = "Test images; bars are Wilson 95 % intervals."
    if document.repaired.attack_success is not None:
        caption += " Attack success: the lower the better; both accuracies: the higher."
    heads = ("Model", "Accuracy", "Attack success", "Recovery accuracy", "Loss (nat)", "Time", "Gradients", "Note")
    rows = [Row(role, _entry_cells(role, entry)) for role, entry in document.entries()]
    table = cards(heads, rows, numeric=(False, True, True, True, True, True, True, False))
    parts = [plots.place(figure, caption, legend), table, _counts(document)]
    if (frontier := document_frontier(document)) is not None:
        parts += ["<h3>Accuracy against attack success</h3>", plots.place(frontier, FRONTIER_CAPTION)]
    return section("comparison", "Before and after", *parts)


def _trust(document: Document) -> list[str]:
    """Return the sections of the evidence that needs no trigger; the example images follow the table of disagreement."""
    return [
        part_section(part, examples(document) if part.name == "disagreement" else "") for part in trust_parts(document)
    ]


def _entry_cells(role: str, entry: Entry) -> list[str | Html]:
    return [
        stacked(entry.name, ROLES[role] if entry.name != ROLES[role] else "", kind="role"),
        rate_cell(entry.clean_accuracy),
        rate_cell(entry.attack_success),
        rate_cell(entry.recovery_accuracy),
        "" if entry.loss is None else number(entry.loss),
        "" if entry.seconds is None else duration(entry.seconds),
        "" if entry.gradient_evaluations is None else f"{entry.gradient_evaluations:,}",
        entry.note,
    ]


def _counts(document: Document) -> str:
    said = f"Accuracy on n = {document.repaired.clean_accuracy.n:,} test images"
    if document.repaired.attack_success is not None:
        said += f", attack success on n = {document.repaired.attack_success.n:,} triggered images whose true class is not the target"
    return f'<p class="caption">{text(said)}. Below each share its Wilson 95&nbsp;% interval.</p>'


def _settings(document: Document) -> str:
    rows = [(name.replace("_", " "), compact(value)) for name, value in document.method.settings.items()]
    if not rows:
        return ""
    return f"<details><summary>Settings of {text(document.method.name)}</summary>{facts(rows)}</details>"


def compact(value: JsonValue) -> str:
    """Return a JSON value as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value) if isinstance(value, int) else f"{value:g}"
    if isinstance(value, list):
        return ", ".join(compact(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} = {compact(item)}" for name, item in value.items())
    return value


def data_rows(document: Document) -> list[tuple[str, str]]:
    """Return what the page and the card say about the data."""
    data = document.data
    rows = [
        (
            "Data",
            f"{data.name}, {data.num_classes} classes, inputs {' × '.join(str(size) for size in data.input_shape)}",
        ),
        ("Trusted images", f"{data.clean_n:,}"),
        ("… for training", f"{data.train_n:,}"),
        ("… for choosing", f"{data.validation_n:,}"),
        ("Test images", f"{data.test_n:,}, used for nothing else"),
    ]
    if data.augment is not None:
        rows.append(("Augmentation", compact(data.augment)))
    if document.trigger is not None:
        rows.append(("Trigger, measuring only", f"{document.trigger.spec}, target {document.trigger.target}"))
    return rows


def _data(document: Document) -> str:
    digests = facts((role, code(digest)) for role, digest in document.data.digests.items())
    more = f"<details><summary>Digests of the images (SHA-256)</summary>{digests}</details>" if digests else ""
    return section("data", "Data and roles", facts(data_rows(document)), more)


def cost_rows(document: Document) -> list[tuple[str, str]]:
    """Return what the page and the card say about the cost: time and gradient evaluations of each stage, and their sums."""
    seconds, gradients = document.cost.seconds, document.cost.gradient_evaluations
    rows: list[tuple[str, str]] = []
    for name in [*seconds, *(name for name in gradients if name not in seconds)]:
        said = [duration(seconds[name])] if name in seconds else []
        said += [f"{gradients[name]:,} gradient evaluations"] if name in gradients else []
        rows.append((name.replace("_", " "), ", ".join(said)))
    if len(rows) > 1 and "total" not in seconds:
        rows.append(("total", duration(sum(seconds.values()))))
    return rows


def _cost(document: Document) -> str:
    device = document.environment.device
    threads = document.environment.threads
    where = f"On {device}" + (f" with {threads} thread{'s' if threads != 1 else ''}." if threads is not None else ".")
    rows = cost_rows(document)
    return section("cost", "Cost", facts(rows), f'<p class="caption">{text(where)}</p>' if rows else "")


def provenance_rows(document: Document) -> list[tuple[str, str]]:
    """Return versions and seeds."""
    environment = document.environment
    versions = f"Isthmus {environment.isthmus}, torch {environment.torch}, Python {environment.python}"
    rows = [("Versions", versions), ("Machine", environment.platform)]
    if document.seeds:
        rows.append(("Seeds", ", ".join(f"{name} {seed}" for name, seed in document.seeds.items())))
    return rows


def _provenance(document: Document) -> str:
    command = f"<pre>{text(shlex.join(document.command))}</pre>" if document.command else ""
    weights = {entry.path or entry.name: entry.sha256 for _, entry in document.entries() if entry.sha256 is not None}
    hashes = facts((path, code(digest)) for path, digest in {**weights, **document.files}.items())
    more = f"<details><summary>Files (SHA-256)</summary>{hashes}</details>" if hashes else ""
    return section("provenance", "To do it again", command, facts(provenance_rows(document)), more)
