"""Blocks that the report's pages are built of. Every text that comes from a caller passes through `text` here."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import cast

from isthmus.report.document import RateEntry
from isthmus.report.figures import Figure
from isthmus.report.text import interval, percent


@dataclass(frozen=True)
class Html:
    """Finished HTML, as opposed to text that is still to be escaped."""

    code: str


def text(value: str | Html) -> str:
    """Return HTML for a text: escaped, ranges and numbers with their % sign kept on one line."""
    if isinstance(value, Html):
        return value.code
    joined = re.sub(r"(?<=\d)–(?=\d)", "&#8288;–&#8288;", html.escape(value))
    joined = re.sub(r"\b([nt]) = (?=\d)", r"\1&nbsp;=&nbsp;", joined)
    return re.sub(r"(?<=\d) %", "&nbsp;%", joined)


def paragraphs(lines: Iterable[str]) -> str:
    """Return one paragraph per line."""
    return "\n".join(f"<p>{text(line)}</p>" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """Return a list."""
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def section(name: str, title: str, *content: str) -> str:
    """Return a section with an anchor, or nothing where it has no content."""
    body = "\n".join(part for part in content if part)
    return f'<section id="{name}">\n<h2>{text(title)}</h2>\n{body}\n</section>' if body else ""


def facts(rows: Iterable[tuple[str, str | Html]], heads: tuple[str, str] = ("", "")) -> str:
    """Return a table of two columns, or nothing where it has no rows."""
    lines = [f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in rows]
    head = f"<thead><tr><th>{heads[0]}</th><th>{heads[1]}</th></tr></thead>" if any(heads) else ""
    return f'<table class="facts">{head}<tbody>{"".join(lines)}</tbody></table>' if lines else ""


@dataclass(frozen=True)
class Row:
    """A row of a wide table; `role` is its CSS class."""

    role: str
    cells: Sequence[str | Html]


def cards(heads: Sequence[str], rows: Sequence[Row], *, numeric: Sequence[bool]) -> str:
    """Return a table that turns into one card per row on a phone. Columns in which no row has anything are left out."""
    kept = [i for i in range(len(heads)) if any(row.cells[i] != "" for row in rows)]
    head = "".join(f'<th{_number(numeric[i])} scope="col">{text(heads[i])}</th>' for i in kept)
    lines = [
        f'<tr class="{row.role}">{"".join(_cell(row.cells[i], heads[i], numeric[i]) for i in kept)}</tr>'
        for row in rows
    ]
    return f'<div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _cell(value: str | Html, head: str, numeric: bool) -> str:
    names = [name for name, holds in (("number", numeric), ("empty", value == "")) if holds]
    kind = f' class="{" ".join(names)}"' if names else ""
    return f'<td{kind} data-label="{html.escape(head)}"><span>{text(value)}</span></td>'


def stacked(first: str, second: str, *, kind: str = "low") -> Html:
    """Return a text with a second, softer one below."""
    return Html(f'{text(first)}<span class="{kind}">{text(second)}</span>' if second else text(first))


def rate_cell(rate: RateEntry | None) -> str | Html:
    """Return a rate with its bounds below, or an empty cell."""
    if rate is None:
        return ""
    return stacked(percent(rate.value), f"{percent(rate.low).removesuffix(' %')}–{percent(rate.high)}")


def tile(tone: str, what: str, before: str | None, after: RateEntry) -> str:
    """Return one key figure: before, after and its bounds."""
    start = f'<span class="from">{text(before)} → </span>' if before is not None else ""
    return (
        f'<div class="tile {tone}"><div class="what">{text(what)}</div><div class="figure">{start}{text(percent(after.value))}</div>'
        f'<div class="bound">{text(interval(after))}</div></div>'
    )


def code(value: str) -> Html:
    """Return text in the fixed-width face, broken anywhere."""
    return Html(f'<code class="hash">{html.escape(value)}</code>')


def switch(name: str, what: str, panels: Sequence[tuple[str, str]]) -> str:
    """Return (title, HTML) panels of which one at a time is shown, with a button for each; a single one as it is. what: what they are."""
    if len(panels) < 2:
        return "".join(held for _, held in panels)
    keys = "".join(
        f'<label><input type="radio" name="{name}" value="{name}-{i}"{" checked" if i == 0 else ""}><span>{text(title)}</span></label>'
        for i, (title, _) in enumerate(panels)
    )
    held = "\n".join(
        f'<div class="panel" id="{name}-{i}"{" hidden" if i else ""}>{code}</div>' for i, (_, code) in enumerate(panels)
    )
    return f'<fieldset class="switch"><legend>{text(what)}</legend>{keys}</fieldset>\n{held}'


class Plots:
    """The figures of one page: each call leaves its data here and returns the place on the page where it is drawn."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def place(self, figure: Figure | None, caption: str, legend: Sequence[tuple[str, str, str, str]] = ()) -> str:
        """Return the figure's place. `legend` holds (group, title, tone, and the form of its key in page.css)."""
        if figure is None:
            return ""
        name = f"plot-{len(self._data) + 1}"
        # Inside a script element only "<" could end it early; as \u003c it is the same JSON.
        data = json.dumps(figure, allow_nan=False).replace("<", "\\u003c")
        self._data.append(f'<script type="application/json" id="{name}-data">{data}</script>')
        height = cast(dict[str, int], figure["layout"])["height"]
        keys = "".join(
            f'<li><button type="button" aria-pressed="true" data-plot="{name}" data-group="{group}">'
            f'<span class="key {dash}" style="--tone: var(--{tone})"></span>{text(title)}</button></li>'
            for group, title, tone, dash in legend
        )
        return (
            (f'<ul class="legend">{keys}</ul>\n' if keys else "")
            + f'<div class="plot" id="{name}" data-figure="{name}-data" style="height: {height}px" role="img" '
            + f'aria-label="{html.escape(caption)}"></div>\n'
            + f'<p class="caption">{text(caption)} <span class="zoom">Drag to zoom, double-click to go back.</span></p>'
        )

    def data(self) -> str:
        """Return the elements that hold the figures' data."""
        return "\n".join(self._data)


def resource(name: str) -> str:
    """Return a text file of this package."""
    return files("isthmus.report").joinpath(name).read_text(encoding="utf-8")


def shell(title: str, body: str, plots: Plots, *, version: str) -> str:
    """Return the whole page: style, figures and plotly's own script inside, so that it opens without a network."""
    from plotly.offline import get_plotlyjs

    parts = {
        "title": text(title),
        "version": html.escape(version),
        "css": resource("page.css"),
        "js": resource("page.js"),
    }
    template = Template(resource("page.html"))
    return template.substitute(parts, body=body, figures=plots.data(), plotly=get_plotlyjs())
