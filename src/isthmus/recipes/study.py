"""`Study`: a published experiment as a grid of ordinary recipes, and a report that says which of its claims hold here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from isthmus._check import require, unknown
from isthmus.files import write_json, write_text
from isthmus.plots import save_figure
from isthmus.rates import spread
from isthmus.recipes.cells import Cell, Tell, chosen, finished, run_cells, seconds_of
from isthmus.runs import Run
from isthmus.table import Table
from isthmus.training.session import Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StudyRecipe(BaseModel):
    """Which study, at which scale, from how many seeds; None for as many as the scale has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    scale: str = "small"
    seeds: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Work:
    """How much of a study is run now. only: patterns of names of cells, the others are left for later; jobs: cells side by side."""

    only: Sequence[str] = ()
    jobs: int = 1


ALL = Work()


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, what was found here, and whether it holds; None where the cells that would tell are missing."""

    text: str
    found: str
    holds: bool | None


@dataclass(frozen=True)
class Findings:
    """What finished cells say: tables by title, claims, sentences about how to read them, files written beside the report."""

    tables: Mapping[str, Table]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Study:
    """A study: scales with a line about each, and how many seeds each has by default.

    cells(scale, seeds): its waves. findings(run, scale, seeds, done): what the finished cells say, whose names are `done`.
    """

    name: str
    title: str
    scales: Mapping[str, str]
    seeds: Mapping[str, int]
    cells: Callable[[str, int], Sequence[Sequence[Cell]]]
    findings: Callable[[Run, str, int, frozenset[str]], Findings]


@dataclass(frozen=True)
class Report:
    """What a study came to. cells: planned; finished: of them; seconds: of the finished ones together."""

    study: str
    title: str
    scale: str
    seeds: int
    findings: Findings
    failed: Mapping[str, str]
    cells: int
    finished: int
    seconds: float

    @property
    def status(self) -> str:
        """Return `done`, `failed` where a cell did, or `partial` where cells were left for later."""
        whole = "done" if self.finished == self.cells else "partial"
        return "failed" if self.failed else whole

    def to_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "status": self.status,
            "study": self.study,
            "scale": self.scale,
            "seeds": self.seeds,
            "claims": [asdict(claim) for claim in self.findings.claims],
            "tables": {title: table.to_json() for title, table in self.findings.tables.items()},
            "notes": list(self.findings.notes),
            "failed": dict(self.failed),
            "cells": self.cells,
            "finished": self.finished,
            "seconds": self.seconds,
            "files": dict(self.findings.files),
        }

    def to_markdown(self) -> str:
        """Return the claims, the tables and what failed, as a Markdown page."""
        over = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        cost = f"{self.finished} of {self.cells} cells, {self.seconds:,.0f} s in all"
        parts = [
            f"# {self.title}",
            f"Scale `{self.scale}`, {over}; {cost}.",
            "## What holds",
            claims_text(self.findings),
        ]
        for title, table in self.findings.tables.items():
            parts += [f"## {title}", table.to_markdown().rstrip() if len(table) else "No cell of it has finished."]
        if self.findings.notes:
            parts += ["## How to read this", _bullets(self.findings.notes)]
        if self.failed:
            lines = [f"`{name}`: {reason}" for name, reason in self.failed.items()]
            parts += ["## What failed", _bullets(lines)]
        return "\n\n".join(parts) + "\n"


def run_study(
    study: Study,
    recipe: StudyRecipe,
    run: Run,
    *,
    work: Work = ALL,
    tell: Tell,
    session: Session | None = None,
) -> Report:
    """Return the report on all finished cells, after running what is still to run, and writing `NAME.json` and `NAME.md` beside them.

    Raises InputError for an unknown scale, and for a pattern of `work` that matches no cell.
    """
    require_scale(study, recipe.scale)
    seeds = recipe.seeds or study.seeds[recipe.scale]
    waves = study.cells(recipe.scale, seeds)
    part = chosen(waves, work.only) if work.only else waves
    outcomes = run_cells(part, run.begin(), jobs=work.jobs, tell=tell, session=session)
    failed = {outcome.name: outcome.reason for outcome in outcomes if outcome.status in ("failed", "left")}
    done = [cell for wave in waves for cell in wave if cell.name not in failed and finished(cell, run.folder)]
    findings = study.findings(run, recipe.scale, seeds, frozenset(cell.name for cell in done))
    seconds = sum(seconds_of(cell, run.folder) for cell in done)
    total = sum(map(len, waves))
    report = Report(study.name, study.title, recipe.scale, seeds, findings, failed, total, len(done), seconds)
    write_report(report, run)
    return report


def require_scale(study: Study, scale: str) -> None:
    """Raise InputError, naming the nearest, unless the study has this scale."""
    if scale not in study.scales:
        raise unknown("scale", scale, study.scales)


def write_report(report: Report, run: Run) -> None:
    """Write `NAME.json` and `NAME.md` into the study's folder; the run ends as failed where a cell did."""
    run.save(f"{report.study}.json", lambda place: write_json(place, report.to_json()))
    run.save(f"{report.study}.md", lambda place: write_text(place, report.to_markdown()))
    run.finish(report.status, [f"{name}: {reason}" for name, reason in report.failed.items()])


def claims_text(findings: Findings) -> str:
    """Return the claims as a list, each with its verdict in front."""
    verdict = {True: "Holds", False: "**Does not hold**", None: "Not decided"}
    return _bullets([f"{claim.text} {verdict[claim.holds]}: {claim.found}." for claim in findings.claims])


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; None for what there are too few values for.

    >>> mean_and_sd([2.0]), mean_and_sd([])
    ((2.0, None), (None, None))
    """
    if not values:
        return None, None
    mean, deviation = spread(values)
    return mean, None if isnan(deviation) else deviation


def every(found: Sequence[bool], expected: int) -> bool | None:
    """Return whether all of `expected` cases hold: False as soon as one does not, None while others are missing.

    >>> every([True, True], 3), every([True, False], 3), every([True], 1)
    (None, False, True)
    """
    require(expected >= 1, "expected", "be at least 1", expected)
    return None if all(found) and len(found) < expected else all(found)


def output_of(run: Run, cell: str, file: str) -> Path:
    """Return the path of a file that a cell of the study wrote."""
    return run.folder / "cells" / cell / file


def keep_figure(run: Run, stem: str, figure: "Figure") -> dict[str, str]:
    """Return the names of a figure's files, written as `STEM.pdf` and `STEM.svg` into the folder of a study."""
    names = [f"{stem}.{suffix}" for suffix in ("pdf", "svg")]
    for name in names:
        run.save(name, partial(save_figure, figure))
    return dict(zip(names, names, strict=True))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
