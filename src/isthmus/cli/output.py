"""Results on stdout: one JSON document, or a few lines for people."""

import json
from collections.abc import Iterable, Mapping

import typer


def print_json(document: object) -> None:
    """Print one standard JSON document."""
    typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        typer.echo(line)


def rate_text(name: str, rate: Mapping[str, float | int] | None) -> list[str]:
    """Return the line about a rate with its bounds, no line where it was not measured."""
    if rate is None:
        return []
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return [f"{name}: {value:.1f} % (Wilson 95 %: {low:.1f}-{high:.1f}, n = {int(rate['n']):,})"]


def titled(role: str, name: str) -> str:
    """Return a model's name with its role before it, unless the name says it."""
    return name if name.startswith(role) else f"{role} {name}"


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and what they are, in two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, about in rows.items():
        table.add_row(_escaped(name), _escaped(about))
    Console().print(table, highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
