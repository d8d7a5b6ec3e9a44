"""`isthmus scan`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

ATTACK = "Attack of the probe robust, images of those about curvature"
EPILOG = """Examples:

isthmus scan runs/ab --points 31 --probe clean --json

isthmus scan runs/ab --data cifar10 --n 1000 --probe backdoor --test-trigger patch:size=3,at=28x28 --target 1 --out runs/scan

isthmus scan runs/ab --probe clean --probe robust --probe input-hessian --eps 8/255 --out runs/robust-scan

isthmus scan runs/ab --probe sharpness --probe trace --hessian-n 200

isthmus scan runs/abcd --grid 5x5 --probe clean --probe distance

isthmus scan runs/abcd --grid 11x11 --probe clean --probe robust --validation 500 --out runs/surface
"""


def scan(  # noqa: PLR0913  one parameter for each option
    bridge: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a connection, or a bridge file.")],
    data: o.Data = None,
    arch: o.Arch = None,
    width: o.Width = None,
    size: o.Size = None,
    points: Annotated[
        int | None, typer.Option("--points", min=2, help="Points along each coordinate. Default 31.")
    ] = None,
    grid: Annotated[str | None, typer.Option("--grid", metavar="5x5", help="Points for each coordinate.")] = None,
    n: o.TestN = 1000,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            metavar="clean|robust|...",
            help="What to measure (isthmus list probes); repeatable. Default clean.",
        ),
    ] = None,
    test_trigger: o.TestTrigger = None,
    target: o.Target = None,
    norm: Annotated[
        str, typer.Option("--norm", metavar="linf|l2|l1", help="Threat of the probe robust.", rich_help_panel=ATTACK)
    ] = "linf",
    eps: Annotated[
        str, typer.Option("--eps", metavar="R", help="Its radius, in units of the input.", rich_help_panel=ATTACK)
    ] = "8/255",
    attack_steps: Annotated[
        int, typer.Option("--attack-steps", min=1, help="Steps of its PGD attack.", rich_help_panel=ATTACK)
    ] = 10,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Its random starts.", rich_help_panel=ATTACK)] = 1,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Attack also from what was found at the point before, and keep the worse.",
            rich_help_panel=ATTACK,
        ),
    ] = False,
    hessian_n: Annotated[
        int,
        typer.Option(
            "--hessian-n", min=1, help="Images of input-hessian, sharpness and trace.", rich_help_panel=ATTACK
        ),
    ] = 200,
    settle: o.Settle = "recalibrate",
    settle_n: o.SettleN = 2000,
    train_n: Annotated[
        int, typer.Option("--train-n", min=1, help="At most N training images, of the probe train.")
    ] = 1000,
    validation: Annotated[
        int | None,
        typer.Option(
            "--validation",
            min=1,
            help="Measure on N training images too, those that train --validation keeps apart, and choose the best point on them.",
            rich_help_panel=o.CHOICE,
        ),
    ] = None,
    hold_out: o.ChosenFrom = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Images at once of clean, train and validation.", rich_help_panel=o.WORK
        ),
    ] = 500,
    max_hours: Annotated[
        float,
        typer.Option(
            "--max-hours",
            min=0.0,
            help="Stop after the first points where the rest is estimated to take longer.",
            rich_help_panel=o.WORK,
        ),
    ] = 24.0,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Measure models along a bridge: loss, error, attack success, distance, barriers."""
    from contextlib import nullcontext

    from isthmus._check import InputError
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.scan import ScanRecipe, run_scan
    from isthmus.report.scan_text import at, chosen_sentences
    from isthmus.runs import Run

    if points is not None and grid is not None:
        raise InputError(f"`grid` should be given alone. Found also --points {points}.")
    if resume and out is None:
        raise InputError("`resume` should come with --out, the folder to continue in. Found none.")
    recipe = ScanRecipe(
        bridge=bridge,
        data=data,
        arch=arch,
        width=width,
        size=size,
        grid=grid or str(points or 31),
        n=n,
        probes=tuple(probe or ("clean",)),
        test_trigger=test_trigger,
        target=target,
        norm=norm,  # pyright: ignore[reportArgumentType]  checked by the recipe
        eps=eps,  # pyright: ignore[reportArgumentType]  text such as 8/255, read by the recipe
        attack_steps=attack_steps,
        restarts=restarts,
        warm=warm_start,
        hessian_n=hessian_n,
        settle_n=settle_n,
        settle=settle,  # pyright: ignore[reportArgumentType]  checked by the recipe
        train_n=train_n,
        validation=validation,
        hold_out=hold_out,
        batch_size=batch_size,
        seed=seed,
    )
    opened = nullcontext() if out is None else Run.open(out, recipe, resume=resume, command=o.command_line())
    with using_threads(threads), opened as run, Progress("scanning") as progress:
        result = run_scan(recipe, run, monitor=progress, max_hours=max_hours)
    if json:
        print_json(result.to_json())
        return 0
    print_lines(result.table.to_markdown().splitlines())
    for column, found in result.barriers.items():
        for name, barrier in found.items():
            print_lines([f"{column}, {name}: {barrier.value:.4g} {barrier.unit}{at(barrier)} ({barrier.definition})"])
    print_lines(chosen_sentences(result.table))
    if result.association is not None:
        print_lines([f"robust loss ~ input eigenvalue: {result.association}"])
    return 0
