"""The report's files beside the weights: `report.json`, `report.html`, `card.md`; for several seeds `demo.json`, `.html`, `.md`."""

import json
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError

from isthmus._check import InputError, require
from isthmus.files import read_json, write_json, write_text
from isthmus.report.card import card, summary_card
from isthmus.report.document import SCHEMA_VERSION, Document
from isthmus.report.html import page
from isthmus.report.summary import Summary
from isthmus.report.summary_page import summary_page

Model = TypeVar("Model", bound=BaseModel)


def write_report(document: Document, folder: str | Path) -> None:
    """Write `report.json`, `report.html` and `card.md` into an existing folder, each atomically, the JSON first."""
    place = Path(folder)
    write_json(place / "report.json", json.loads(document.model_dump_json()))
    write_text(place / "report.html", page(document))
    write_text(place / "card.md", card(document))


def read_report(path: str | Path) -> Document:
    """Return the document in a `report.json`, or in the folder that holds one.

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


def _read(path: str | Path, name: str, model: type[Model]) -> Model:
    file = Path(path) / name if Path(path).is_dir() else Path(path)
    held = read_json(file)
    fields = cast(dict[str, object], held) if isinstance(held, dict) else {}
    if "schema_version" not in fields:
        raise InputError(f"`{file}` should be a {name} of Isthmus. Found no `schema_version`.")
    version = fields["schema_version"]
    require(
        version == SCHEMA_VERSION,
        str(file),
        f"have schema version {SCHEMA_VERSION!r}",
        version,
        "Read it with the version of Isthmus that wrote it.",
    )
    try:
        return model.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"`{file}` should be a {name} of Isthmus. Found in {where}: {first['msg']}{more}.") from error
