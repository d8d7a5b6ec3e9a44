"""`isthmus list` and `isthmus data get`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

KINDS = "models|data|geometries|methods|probes|triggers|attacks"
LIST_EPILOG = """Examples:

isthmus list models

isthmus list data --json
"""
DATA_EPILOG = """Examples:

isthmus data get cifar10
"""


def list_names(
    kind: Annotated[str | None, typer.Argument(metavar=f"[{KINDS}]", help="What to list. Default: all.")] = None,
    json: o.Json = False,
) -> int:
    """List what can be named: models, data sets, geometries, methods, probes, triggers, attacks."""
    from isthmus.cli.output import print_json, print_table
    from isthmus.recipes.catalogue import CATALOGUE, catalogue

    found = {name: dict(catalogue(name)) for name in (CATALOGUE if kind is None else [kind])}
    if json:
        print_json(found if kind is None else found[kind])
        return 0
    for name, rows in found.items():
        print_table(name, rows)
    return 0


def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Data set to download (extra `hub`): isthmus list data.")],
    json: o.Json = False,
) -> int:
    """Download a named data set once, into $ISTHMUS_DATA or the user's cache. The only command that downloads."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.data import get_data

    path = get_data(name)
    if json:
        print_json({"status": "done", "files": {"data": str(path)}})
    else:
        print_lines([f"{name}: {path}"])
    return 0
