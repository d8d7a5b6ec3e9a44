"""`isthmus scan`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

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
    eps: o.Radius = None,
    norm: o.Norm = None,
    attack_steps: o.AttackSteps = None,
    restarts: o.Restarts = None,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Attack also from what was found at the point before, and keep the worse.",
            rich_help_panel=o.ATTACK,
        ),
    ] = False,
    hessian_n: Annotated[
        int, typer.Option("--hessian-n", min=1, help="Images of input-hessian, sharpness and trace.")
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
    choose_by: Annotated[
        str,
        typer.Option(
            "--choose-by",
            metavar="accuracy|robustness",
            help="What the chosen point is best in. Robustness attacks the validation images too, and needs --probe robust.",
            rich_help_panel=o.CHOICE,
        ),
    ] = "accuracy",
    batch_size: o.AtOnce = 500,
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
    from isthmus._check import InputError
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.scan import ScanRecipe, run_scan
    from isthmus.report.scan_text import at, chosen_sentences

    if points is not None and grid is not None:
        raise InputError(f"`grid` should be given alone. Found also --points {points}.")
    settings = o.given(
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
        norm=norm,
        eps=eps,
        attack_steps=attack_steps,
        restarts=restarts,
        warm=warm_start,
        hessian_n=hessian_n,
        settle_n=settle_n,
        settle=settle,
        train_n=train_n,
        validation=validation,
        hold_out=hold_out,
        choose_by=choose_by,
        batch_size=batch_size,
        seed=seed,
    )
    recipe = ScanRecipe.model_validate(settings)
    opened = optional_run(out, recipe, resume=resume)
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
