"""`isthmus demo`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

EPILOG = """Examples:

isthmus demo --out runs/demo

isthmus demo --seeds 3 --out runs/demo --json
"""


def demo(  # noqa: PLR0913  one parameter for each option
    out: o.Out,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repeat over N seeds; mean and spread are printed.")] = 1,
    clean: Annotated[int, typer.Option("--clean", metavar="N", help="Clean images to repair with.")] = 300,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Default: the best one found (isthmus list methods).")
    ] = None,
    seed: o.Seed = 0,
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, help="CPU threads. One is fastest for models this small.", show_default=True),
    ] = 1,
    resume: o.Resume = False,
    json: o.Json = False,
) -> int:
    """Train two tampered classifiers on the embedded digits, repair them, write the report. About a minute."""
    from isthmus.cli.errors import EXIT_CODES
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import Work, working
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.demo import DemoRecipe, run_demo
    from isthmus.runs import Run

    settings = o.given(seeds=seeds, clean=clean, method=method, seed=seed)
    recipe = DemoRecipe.model_validate(settings)
    opened = Run.open(out, recipe, resume=resume, command=o.command_line())
    bar = Progress("demo")
    with using_threads(threads), opened as run, bar, working(Work(), run, bar) as session:
        summary = run_demo(recipe, run, session=session)
        run.finish(summary.status, summary.reasons)
    if json:
        print_json(summary.model_dump(mode="json"))
    else:
        print_lines([*lines_of(summary), f"written: {run.folder / 'demo.html'}"])
    return EXIT_CODES[summary.status]


def lines_of(summary: object) -> list[str]:
    """Return the lines that tell people what a summary over seeds says."""
    from isthmus.cli.output import titled
    from isthmus.report import Summary
    from isthmus.report.text import STATUS

    assert isinstance(summary, Summary)
    lines: list[str] = []
    over = f"mean of {len(summary.runs)} seeds" if len(summary.runs) > 1 else "one seed"
    for line in summary.lines:
        attack = (
            ""
            if line.attack_success is None
            else f", attack success {_spread(line.attack_success.mean, line.attack_success.std)}"
        )
        accuracy = _spread(line.clean_accuracy.mean, line.clean_accuracy.std)
        lines.append(f"{titled(line.role, line.name)}: accuracy {accuracy}{attack} ({over})")
    for run in summary.runs:
        rate = run.repaired.attack_success
        if rate is not None:
            lines.append(
                f"seed {run.seed}: attack success of the repaired model {100 * rate.value:.1f} % "
                f"(Wilson 95 %: {100 * rate.low:.1f}-{100 * rate.high:.1f}, n = {rate.n:,}), {run.seconds:.0f} s"
            )
    reasons = [f"- {reason}" for reason in summary.reasons]
    return [*lines, f"{STATUS[summary.status]}.", *reasons, *(f"warning: {text}" for text in summary.warnings)]


def _spread(mean: float, std: float | None) -> str:
    return f"{100 * mean:.1f} %" if std is None else f"{100 * mean:.1f} +- {100 * std:.1f} %"
