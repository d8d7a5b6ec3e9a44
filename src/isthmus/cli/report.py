"""`isthmus report`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

EPILOG = """Examples:

isthmus report runs/repaired

isthmus report runs/demo --json

isthmus report --schema > report.schema.json
"""


def report(
    folder: Annotated[str | None, typer.Argument(metavar="DIR", help="Folder with a report.json or demo.json.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json.")] = False,
    json: o.Json = False,
) -> int:
    """Render a report's pages again from its JSON file, and print what it says."""
    from pathlib import Path

    from isthmus._check import InputError
    from isthmus.cli import demo, repair
    from isthmus.cli.output import print_json, print_lines
    from isthmus.report import json_schema, read_report, read_summary, write_report, write_summary

    if schema:
        print_json(json_schema())
        return 0
    if folder is None:
        raise InputError(
            "`report` should be given a folder. Found none. Name the folder of a repair, or ask for --schema."
        )
    place = Path(folder)
    if place.is_dir() and not (place / "report.json").exists() and (place / "demo.json").exists():
        summary = read_summary(place)
        write_summary(summary, place)
        shown, lines = summary.model_dump(mode="json"), demo.lines_of(summary)
    else:
        document = read_report(place)
        write_report(document, place if place.is_dir() else place.parent)
        shown, lines = document.model_dump(mode="json"), repair.lines_of(document)
    if json:
        print_json(shown)
    else:
        print_lines(lines)
    return 0
