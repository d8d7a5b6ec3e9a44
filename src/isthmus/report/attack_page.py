"""The page of an attack: what each attack left of the accuracy."""

import shlex

from isthmus.report.attack import LIMITS, AttackDocument, attack_verdict, threat_text
from isthmus.report.blocks import Plots, Row, bullets, cards, facts, rate_cell, section, shell, text, tile
from isthmus.report.text import duration, moment, span


def attack_page(
    document: AttackDocument, *, created: str = "", isthmus: str = "", command: tuple[str, ...] = ()
) -> str:
    """Return the attack as HTML, with plotly's script inside (about 5 MB)."""
    warnings = bullets(document.warnings) if document.warnings else "<p>None.</p>"
    parts = [
        _header(document, created),
        section("attacks", "Attack by attack", _attacks(document)),
        section("warnings", "Warnings", warnings),
        section(
            "threat", "What was allowed", facts(_facts(document)), bullets(document.notes) if document.notes else ""
        ),
        section("provenance", "To do it again", f"<pre>{text(shlex.join(command))}</pre>" if command else ""),
        section("limits", "What this does not show", bullets(LIMITS)),
        f"<footer>{text(f'Isthmus {isthmus}, {moment(created)}. ' if isthmus else '')}"
        "The same figures are in attack.json.</footer>",
    ]
    return shell(document.title, "\n".join(part for part in parts if part), Plots(), version=isthmus)


def _header(document: AttackDocument, created: str) -> str:
    count = len(document.warnings)
    link = f'<a href="#warnings">{count} warning{"s" if count > 1 else ""}</a>' if count else ""
    badge = "" if document.reliable else '<span class="badge criteria_not_met">Not reliable</span>'
    tiles = [
        tile("attack", "Robust accuracy", span([document.clean_accuracy]), document.robust_accuracy),
        tile("accuracy", "Accuracy without attack", None, document.clean_accuracy),
    ]
    return (
        f'<header>\n<p class="over">{badge}<span>{text(moment(created))}</span>{link}</p>\n<h1>{text(document.title)}</h1>\n'
        f'<p class="verdict">{text(attack_verdict(document))}</p>\n<div class="tiles">{"".join(tiles)}</div>\n</header>'
    )


def _attacks(document: AttackDocument) -> str:
    heads = (
        "Attack",
        "Attacked",
        "Fooled",
        "Robust accuracy after it",
        "Images forward",
        "Images backward",
        "Time",
    )
    rows = [
        Row(
            "attack-line",
            [
                line.attack,
                f"{line.attacked:,}",
                f"{line.fooled:,}",
                rate_cell(line.robust_accuracy),
                f"{line.queries:,}",
                f"{line.gradient_passes:,}",
                duration(line.seconds),
            ],
        )
        for line in document.attacks
    ]
    if not rows:
        return ""
    note = (
        "Each attack sees only the images that are still classified correctly after those above it. Every result was tested again. "
        "Below each share its Wilson 95 % interval."
    )
    table = cards(heads, rows, numeric=(False, True, True, True, True, True, True))
    return table + f'<p class="caption">{text(note)}</p>'


def _facts(document: AttackDocument) -> list[tuple[str, str]]:
    rows = [("Change", threat_text(document.threat))]
    if document.suite:
        rows.append(("Attacks", document.suite))
    if document.data:
        rows.append(("Images", f"{document.data}, n = {document.clean_accuracy.n:,}"))
    if document.passes > 1:
        rows.append(("Averaged", f"{document.passes} forward passes of a random model"))
    if document.seed is not None:
        rows.append(("Seed", str(document.seed)))
    if document.seconds is not None:
        rows.append(("Time", duration(document.seconds)))
    return rows
