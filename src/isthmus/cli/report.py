"""`isthmus report`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from pathlib import Path

Shown = tuple[object, Sequence[str]]
EPILOG = """Examples:

isthmus report runs/repaired

isthmus report runs/scan

isthmus report runs/aligned

isthmus report runs/ensemble

isthmus report runs/demo --json

isthmus report runs/landscape-0 runs/landscape-1

isthmus report runs/repaired --verify

isthmus report runs/repaired --sign key.pem

isthmus report runs/repaired --verify --key key.pub

isthmus report --schema > report.schema.json
"""


def report(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIR",
            help="Folder of a repair, demo, attack, curvature, scan, alignment, ensemble or landscape; several landscapes side by side.",
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing: compare every file with the digests in the manifest.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="FILE", help="With --verify: check the signature by this public key, too."),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(
            "--sign", metavar="FILE", help="Write nothing but model.sig: sign the folder with this private key."
        ),
    ] = None,
    json: o.Json = False,
) -> int:
    """Render a report's pages again from its JSON file, and print what it says."""
    from pathlib import Path

    from isthmus._check import InputError
    from isthmus.cli.output import print_json, print_lines
    from isthmus.report import json_schema

    if schema:
        print_json(json_schema())
        return 0
    if not folders:
        raise InputError(
            "`report` should be given a folder. Found none. Name the folder of a repair, or ask for --schema."
        )
    place = Path(folders[0])
    if verify or sign is not None or key is not None:
        return _signed(place, verify, key, sign, json)
    if len(folders) > 1 or (place / "landscape.json").is_file():
        shown, lines = _landscapes(folders)
        print_json(shown) if json else print_lines(lines)
        return 0
    # In this order: an attack's folder holds a table.json too.
    kind = next(
        (
            kind
            for kind in (_repair, _demo, _attack, _curvature, _align, _ensemble, _scan)
            if (place / f"{NAMES[kind]}.json").is_file()
        ),
        _repair,
    )
    shown, lines = kind(place)
    if json:
        print_json(shown)
    else:
        print_lines(lines)
    return 0


def _signed(place: "Path", verify: bool, key: str | None, sign: str | None, json: bool) -> int:
    """Sign or verify a folder; 1 where it is not what its manifest says."""
    from dataclasses import asdict

    from isthmus._check import InputError
    from isthmus.cli.output import print_json, print_lines
    from isthmus.recipes.signing import sign_run, verify_manifest, verify_run

    if sign is not None and (verify or key is not None):
        raise InputError("`--sign` should be given alone. Found it with --verify or --key. Sign first, then verify.")
    if sign is not None:
        signature = sign_run(place, sign)
        print_json({"signature": str(signature)}) if json else print_lines([f"written: {signature}"])
        return 0
    if not verify:
        raise InputError("`--key` should be given with --verify. Found it alone.")
    checked = verify_manifest(place) if key is None else verify_run(place, key)
    who = [] if key is None else [f"The signature is that of {key}."]
    print_json({**asdict(checked), "holds": checked.holds}) if json else print_lines([*checked.lines(), *who])
    return 0 if checked.holds else 1


def _repair(place: "Path") -> Shown:
    from isthmus.cli.repair import lines_of
    from isthmus.report import read_report, write_report

    document = read_report(place)
    write_report(document, place if place.is_dir() else place.parent)
    return document.model_dump(mode="json"), lines_of(document)


def _demo(place: "Path") -> Shown:
    from isthmus.cli.demo import lines_of
    from isthmus.report import read_summary, write_summary

    summary = read_summary(place)
    write_summary(summary, place)
    return summary.model_dump(mode="json"), lines_of(summary)


def _attack(place: "Path") -> Shown:
    from isthmus.report import write_attack
    from isthmus.report.attack import attack_verdict

    document = write_attack(place)
    return document.model_dump(mode="json"), [attack_verdict(document), f"written: {place / 'attack.html'}"]


def _curvature(place: "Path") -> Shown:
    from isthmus.report import write_curvature
    from isthmus.report.curvature import curvature_sentences, curvature_verdict

    document = write_curvature(place)
    lines = [curvature_verdict(document), *curvature_sentences(document)]
    return document.model_dump(mode="json"), [*lines, f"written: {place / 'curvature.html'}"]


def _landscapes(folders: Sequence[str]) -> Shown:
    from pathlib import Path

    from isthmus.report import write_landscapes

    found = write_landscapes(folders)
    alone = len(found) == 1
    lines = [line if alone else f"{one.title}: {line}" for one in found for line in one.sentences()]
    page = Path(folders[0]) / ("landscape.html" if alone else "landscapes.html")
    shown = found[0].table.to_json() if alone else {"landscapes": [one.table.to_json() for one in found]}
    return shown, [*lines, f"written: {page}"]


def _align(place: "Path") -> Shown:
    from isthmus.report import write_align
    from isthmus.report.align import align_sentences, units_sentences

    alignment = write_align(place)
    lines = [*align_sentences(alignment), *units_sentences(alignment.document)]
    return alignment.document.model_dump(mode="json"), [*lines, f"written: {place / 'align.html'}"]


def _ensemble(place: "Path") -> Shown:
    from isthmus.report import write_ensemble
    from isthmus.report.ensemble import ensemble_sentences, warned

    table = write_ensemble(place).table
    return table.to_json(), [*ensemble_sentences(table), *warned(table), f"written: {place / 'ensemble.html'}"]


def _scan(place: "Path") -> Shown:
    from isthmus.report import write_scan
    from isthmus.report.scan_text import association_sentences, chosen_sentences, scan_barriers, scan_verdict

    table = write_scan(place)
    lines = [scan_verdict(table, scan_barriers(table)[0]), *chosen_sentences(table), *association_sentences(table)]
    return table.to_json(), [*lines, f"written: {place / 'scan.html'}"]


NAMES = {
    _repair: "report",
    _demo: "demo",
    _attack: "attack",
    _curvature: "curvature",
    _align: "align",
    _ensemble: "ensemble",
    _scan: "table",
}
