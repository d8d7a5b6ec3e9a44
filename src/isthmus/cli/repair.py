"""`isthmus repair`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

EPILOG = """Examples:

isthmus repair A.pth B.pth --arch arch.py:net --data cifar10 --clean 2500 --out runs/repaired

isthmus repair A.pth B.pth --arch arch.py:net --data cifar10 --clean 2500 --test-trigger trig.py:f --target 2 --method path --out DIR --json

Exit codes: 0 criteria met, 1 not met, 2 bad input, 3 too few test images to decide.
"""
_CRITERIA = "Criteria"


def repair(  # noqa: PLR0913  one parameter for each option
    suspects: Annotated[list[str], typer.Argument(metavar="MODEL", help="Weight files of the suspects.")],
    out: o.Out,
    arch: o.Arch = None,
    data: o.Data = None,
    clean: Annotated[
        int | None,
        typer.Option("--clean", metavar="N", min=1, help="Repair with N images of the training split. Default 250."),
    ] = None,
    hold_out: Annotated[
        int | None,
        typer.Option(
            "--hold-out", metavar="N", min=1, help="Take them from the N images that train --hold-out N never used."
        ),
    ] = None,
    clean_data: Annotated[
        str | None,
        typer.Option(
            "--clean-data", metavar="SPEC", help="Your own trusted images instead: file.npz, folder of class folders."
        ),
    ] = None,
    validation: Annotated[
        float | None, typer.Option("--validation", help="Share of them kept for choosing. Default 0.2.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Default: the best one found (isthmus list methods).")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="NAME", help="Compare with this method too; repeatable.")
    ] = None,
    test_trigger: o.TestTrigger = None,
    target: o.Target = None,
    injected: Annotated[
        str | None,
        typer.Option("--injected", metavar="FILE", help="tamper.json of injected errors, which only measures."),
    ] = None,
    test_n: Annotated[int | None, typer.Option("--test-n", min=1, help="At most N test images. Default: all.")] = None,
    curve_n: Annotated[
        int | None,
        typer.Option("--curve-n", min=0, help="At most N test images along the path, 0 for none. Default 1000."),
    ] = None,
    points: Annotated[int | None, typer.Option("--points", min=3, help="Points scanned on a path. Default 31.")] = None,
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Accuracy a path may give up to get away from its ends. Default 0.08."),
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option(
            "--trust",
            metavar="none|planted|quick|full",
            help="Evidence that needs no trigger. planted: tamperings planted on purpose; quick: made-up triggers, disagreement; "
            "full: both, and re-activation. Default none.",
        ),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines", help="Also average, fine-tune and train from scratch. Default: yes."
        ),
    ] = None,
    width: o.Width = None,
    size: o.Size = None,
    max_attack_success: Annotated[
        float | None,
        typer.Option(help="Largest attack success, as a fraction. Default 0.05.", rich_help_panel=_CRITERIA),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Largest loss of accuracy, as a fraction. Default 0.1.", rich_help_panel=_CRITERIA),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations", min=2, help="Gradients that each remedy may take. Default 800.", rich_help_panel=o.TRAINING
        ),
    ] = None,
    batch_size: o.BatchSize = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Highest rate. Default: the method's.", rich_help_panel=o.TRAINING),
    ] = None,
    sharpness: Annotated[
        float | None,
        typer.Option("--sharpness", help="Radius of the ascent. Default: the method's.", rich_help_panel=o.TRAINING),
    ] = None,
    augment: o.Augment = "auto",
    precision: o.Precision = None,
    seed: o.Seed = 0,
    accelerator: o.Accelerator = "auto",
    threads: o.Threads = None,
    checkpoint_every: o.CheckpointEvery = 20.0,
    track: o.Track = None,
    resume: o.Resume = False,
    json: o.Json = False,
) -> int:
    """Make one model to deploy out of suspects and a few trusted images, with the evidence beside it."""
    from isthmus.cli.errors import EXIT_CODES
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import Work, working
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.repair import RepairRecipe, run_repair
    from isthmus.recipes.task import data_for
    from isthmus.runs import Run

    settings = o.given(
        suspects=tuple(suspects),
        arch=arch,
        data=data_for(data, suspects),
        clean=clean,
        hold_out=hold_out,
        clean_data=clean_data,
        validation=validation,
        method=method,
        also=tuple(also) if also else None,
        trigger=test_trigger,
        target=target,
        test_n=test_n,
        curve_n=curve_n,
        points=points,
        margin=margin,
        trust=trust,
        injected=injected,
        baselines=baselines,
        width=width,
        size=size,
        max_attack_success=max_attack_success,
        max_drop=max_drop,
        evaluations=evaluations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        sharpness=sharpness,
        augment=augment,
        precision=precision,
        seed=seed,
    )
    recipe = RepairRecipe.model_validate(settings)
    work = Work(1, accelerator, recipe.precision, checkpoint_every, track)
    opened = Run.open(out, recipe, resume=resume, command=o.command_line())
    bar = Progress("repairing")
    with using_threads(threads), opened as run, bar, working(work, run, bar) as session:
        document = run_repair(recipe, run, session=session)
        run.finish(document.status, document.reasons)
    if json:
        print_json(document.model_dump(mode="json"))
    else:
        print_lines([*lines_of(document), f"written: {run.folder / 'report.html'}"])
    return EXIT_CODES[document.status]


def lines_of(document: object) -> list[str]:
    """Return the lines that tell people what a report says."""
    from isthmus.cli.output import titled
    from isthmus.report import Document
    from isthmus.report.text import STATUS, bounded, verdict
    from isthmus.report.trust_parts import trust_lines

    assert isinstance(document, Document)
    lines: list[str] = []
    for role, entry in document.entries():
        attack = "" if entry.attack_success is None else f", attack success {bounded(entry.attack_success)}"
        lines.append(f"{titled(role, entry.name)}: accuracy {bounded(entry.clean_accuracy)}{attack}")
    reasons = [f"- {reason}" for reason in document.reasons]
    return [
        *lines,
        verdict(document),
        *trust_lines(document),
        f"{STATUS[document.status]}.",
        *reasons,
        *(f"warning: {text}" for text in document.warnings),
    ]
