"""The files of a report: `report.*` and `card.md` beside the weights, `demo.*` for several seeds, pages of scans and attacks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError

from isthmus._check import InputError, require
from isthmus.files import read_json, write_json, write_text
from isthmus.report.align import AlignDocument, Alignment
from isthmus.report.align_page import Ran, align_page
from isthmus.report.attack import AttackDocument
from isthmus.report.attack_page import attack_page
from isthmus.report.card import card, summary_card
from isthmus.report.curvature import SCHEMA_VERSION as CURVATURE_VERSION
from isthmus.report.curvature import CurvatureDocument
from isthmus.report.curvature_page import curvature_page
from isthmus.report.document import READABLE, Document
from isthmus.report.ensemble import Combined
from isthmus.report.ensemble_page import ensemble_page
from isthmus.report.html import page
from isthmus.report.landscape import Landscape
from isthmus.report.landscape_page import LandscapeReport, landscape_page
from isthmus.report.sarif import sarif
from isthmus.report.scan_page import ScanReport, scan_page
from isthmus.report.summary import Summary
from isthmus.report.summary_page import summary_page
from isthmus.table import Table

Model = TypeVar("Model", bound=BaseModel)


def write_report(document: Document, folder: str | Path) -> None:
    """Write `report.json`, `report.html`, `report.sarif` and `card.md` into an existing folder, each atomically, the JSON first."""
    place = Path(folder)
    write_json(place / "report.json", json.loads(document.model_dump_json()))
    write_text(place / "report.html", page(document))
    write_json(place / "report.sarif", sarif(document))
    write_text(place / "card.md", card(document))


def read_report(path: str | Path) -> Document:
    """Return the document in a `report.json`, or in the folder that holds one; one of an earlier version as one of this version.

    Raises InputError, in one line, for a missing file, one that is not JSON, another schema version and a wrong field (named).
    """
    return _read(path, "report.json", Document)


def write_summary(summary: Summary, folder: str | Path) -> None:
    """Write `demo.json`, `demo.html` and `demo.md` into an existing folder, each atomically, the JSON first."""
    place = Path(folder)
    write_json(place / "demo.json", json.loads(summary.model_dump_json()))
    write_text(place / "demo.html", summary_page(summary))
    write_text(place / "demo.md", summary_card(summary))


def read_summary(path: str | Path) -> Summary:
    """Return the summary in a `demo.json`, or in the folder that holds one. Raises InputError as :func:`read_report` does."""
    return _read(path, "demo.json", Summary)


def write_scan(folder: str | Path) -> Table:
    """Return the table of a scan's folder, and write its page as `scan.html` beside it. Raises InputError where there is none."""
    place = Path(folder)
    table = Table.load(place / "table.json")
    ran = _manifest(place)
    write_text(place / "scan.html", scan_page(ScanReport(table, ran.updated, ran.environment.isthmus, ran.command)))
    return table


def write_attack(folder: str | Path) -> AttackDocument:
    """Return what is in the `attack.json` of a folder, and write its page as `attack.html` beside it. Raises InputError likewise."""
    place = Path(folder)
    file = place / "attack.json"
    document = _validated(file, file.name, read_json(file), AttackDocument)
    ran = _manifest(place)
    page_text = attack_page(document, created=ran.updated, isthmus=ran.environment.isthmus, command=ran.command)
    write_text(place / "attack.html", page_text)
    return document


def write_curvature(folder: str | Path) -> CurvatureDocument:
    """Return what is in the `curvature.json` of a folder, and write its page as `curvature.html` beside it. Raises InputError likewise."""
    place = Path(folder)
    document = _read(place / "curvature.json", "curvature.json", CurvatureDocument, (CURVATURE_VERSION,))
    ran = _manifest(place)
    page_text = curvature_page(document, created=ran.updated, isthmus=ran.environment.isthmus, command=ran.command)
    write_text(place / "curvature.html", page_text)
    return document


def write_align(folder: str | Path) -> Alignment:
    """Return what is in the `align.json` of a folder, and write its page as `align.html` beside it. Raises InputError likewise."""
    place = Path(folder)
    file = place / "align.json"
    document = _validated(file, file.name, read_json(file), AlignDocument)
    lines = Table.load(place / "lines.json") if (place / "lines.json").is_file() else None
    alignment = Alignment(document, Table.from_json(document.midpoints), lines)
    write_text(place / "align.html", align_page(alignment, _ran(place)))
    return alignment


def write_ensemble(folder: str | Path) -> Combined:
    """Return what is in the `ensemble.json` of a folder, and write its page as `ensemble.html` beside it. Raises InputError likewise."""
    place = Path(folder)
    combined = Combined(Table.load(place / "ensemble.json"))
    write_text(place / "ensemble.html", ensemble_page(combined, _ran(place)))
    return combined


def _ran(place: Path) -> Ran:
    ran = _manifest(place)
    return Ran(ran.updated, ran.environment.isthmus, ran.command)


def write_landscapes(folders: Sequence[str | Path]) -> list[Landscape]:
    """Return the landscapes in `folders`, and write their page, on one scale, into the first.

    Its name is `landscape.html` for one folder and `landscapes.html` for several. Raises InputError where a folder has none.
    """
    reports: list[LandscapeReport] = []
    for folder in folders:
        place, ran = Path(folder), _manifest(Path(folder))
        held = Landscape(str(folder), Table.load(place / "landscape.json"))
        reports.append(LandscapeReport(held, ran.updated, ran.environment.isthmus, ran.command))
    name = "landscape.html" if len(reports) == 1 else "landscapes.html"
    code = landscape_page(reports)
    write_text(Path(folders[0]) / name, code)
    return [report.landscape for report in reports]


class _Versions(BaseModel, frozen=True, extra="ignore"):
    isthmus: str = ""


class _Manifest(BaseModel, frozen=True, extra="ignore"):
    """What a page shows of a run's manifest."""

    updated: str = ""
    command: tuple[str, ...] = ()
    environment: _Versions = _Versions()


def _manifest(folder: Path) -> _Manifest:
    """Return the manifest of a run's folder, empty where there is none: a table may have been saved by hand."""
    file = folder / "manifest.json"
    return _validated(file, file.name, read_json(file), _Manifest) if file.is_file() else _Manifest()


def _read(path: str | Path, name: str, model: type[Model], versions: Sequence[str] = READABLE) -> Model:
    file = Path(path) / name if Path(path).is_dir() else Path(path)
    held = read_json(file)
    fields = cast(dict[str, object], held) if isinstance(held, dict) else {}
    if "schema_version" not in fields:
        raise InputError(f"`{file}` should be a {name} of Isthmus. Found no `schema_version`.")
    version = fields["schema_version"]
    require(
        version in versions,
        str(file),
        f"have schema version {' or '.join(map(repr, versions))}",
        version,
        "Read it with the version of Isthmus that wrote it.",
    )
    return _validated(file, name, held, model)


def _validated(file: Path, name: str, held: object, model: type[Model]) -> Model:
    try:
        return model.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        article = "an" if name[0] in "aeio" else "a"
        raise InputError(
            f"`{file}` should be {article} {name} of Isthmus. Found in {where}: {first['msg']}{more}."
        ) from error
