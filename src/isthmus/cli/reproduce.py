"""`isthmus reproduce`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.recipes.study import Study

EPILOG = """Examples:

isthmus reproduce evasion --scale smoke --out runs/evasion

isthmus reproduce scheduling --scale small --seeds 3 --jobs 2 --out runs/scheduling --json

isthmus reproduce repair-grid --jobs 2 --out runs/grid --resume

isthmus reproduce repair-grid --only 'auto-cifar10-*' --only 'fine-tune-cifar10-*' --out runs/grid --resume
"""


def _adaptive_attackers() -> "Study":
    from isthmus.recipes.adaptive_attackers import ADAPTIVE_ATTACKERS

    return ADAPTIVE_ATTACKERS


def _evasion() -> "Study":
    from isthmus.recipes.evasion import EVASION

    return EVASION


def _path_repair() -> "Study":
    from isthmus.recipes.path_repair import PATH_REPAIR

    return PATH_REPAIR


def _repair_grid() -> "Study":
    from isthmus.recipes.repair_grid import REPAIR_GRID

    return REPAIR_GRID


def _robust_surfaces() -> "Study":
    from isthmus.recipes.robust_surfaces import ROBUST_SURFACES

    return ROBUST_SURFACES


def _scheduling() -> "Study":
    from isthmus.recipes.scheduling import SCHEDULING

    return SCHEDULING


def _sharpening() -> "Study":
    from isthmus.recipes.sharpening import SHARPENING

    return SHARPENING


def _surfaces() -> "Study":
    from isthmus.recipes.surfaces import SURFACES

    return SURFACES


STUDIES: dict[str, Callable[[], "Study"]] = {
    "adaptive-attackers": _adaptive_attackers,
    "evasion": _evasion,
    "path-repair": _path_repair,
    "repair-grid": _repair_grid,
    "robust-surfaces": _robust_surfaces,
    "scheduling": _scheduling,
    "sharpening": _sharpening,
    "surfaces": _surfaces,
}


def reproduce(  # noqa: PLR0913  one parameter for each option
    name: Annotated[
        str,
        typer.Argument(
            metavar="adaptive-attackers|evasion|path-repair|repair-grid|scheduling|sharpening|surfaces",
            help="adaptive-attackers: remedies against attackers who know them. "
            "evasion: robustness and curvature along paths (Zhao et al. 2020). "
            "path-repair: paths against their baselines (Zhao et al. 2020). "
            "repair-grid: remedies against attacks, by clean images. "
            "scheduling: adversarial training with scheduled budgets (Liu et al. 2020). "
            "sharpening: the loss landscape by the budget (Liu et al. 2020). "
            "surfaces: surfaces between four models (Ren et al. 2025).",
        ),
    ],
    out: o.Out,
    scale: Annotated[
        str,
        typer.Option(
            "--scale",
            metavar="smoke|small|slice|paper",
            help="smoke: does it run? small: hours at most. slice (repair-grid): a part of it on a larger network. paper: its sizes.",
        ),
    ] = "small",
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Repeat over N seeds. Default: what the scale has.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PATTERN",
            help="Run the cells of such names (*, ?, [...]) and what they need; the others are left for --resume. Repeatable.",
            rich_help_panel=o.WORK,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, help="Trainings side by side, one CPU thread each.", rich_help_panel=o.WORK),
    ] = 1,
    threads: o.Threads = None,
    resume: o.Resume = False,
    json: o.Json = False,
) -> int:
    """Run a published study as a grid of trainings, connections and scans, and say which of its claims hold."""
    from rich.console import Console

    from isthmus._check import InputError, unknown
    from isthmus.cli.errors import BAD_INPUT, DONE
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.study import StudyRecipe, Work, require_scale, run_study
    from isthmus.runs import Run
    from isthmus.training.session import Session

    if name not in STUDIES:
        raise unknown("name", name, STUDIES)
    if jobs > 1 and threads is not None:
        raise InputError(f"`threads` should be left out with several jobs, which have one each. Found {threads}.")
    study = STUDIES[name]()
    require_scale(study, scale)
    recipe = StudyRecipe(study=name, scale=scale, seeds=seeds)
    opened = Run.open(out, recipe, resume=resume, command=o.command_line())
    # A bar only where there is a terminal and one cell at a time; the line about each finished cell is always there.
    bar = Progress(name, silent=jobs > 1 or not Console(stderr=True).is_terminal)
    with using_threads(threads), opened as run, bar:
        session = Session(monitor=bar, stage=bar.stage)
        report = run_study(study, recipe, run, work=Work(only or (), jobs), tell=_tell, session=session)
    if json:
        print_json(report.to_json())
    else:
        print_lines([*report.to_markdown().splitlines(), "", f"written: {run.folder / f'{name}.md'}"])
    if report.failed:
        _tell(f"isthmus: {len(report.failed)} of {report.cells} cells have no result: {', '.join(report.failed)}")
    return BAD_INPUT if report.failed else DONE


def _tell(line: str) -> None:
    typer.echo(line, err=True)
