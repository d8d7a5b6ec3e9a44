"""`isthmus connect`."""

from typing import Annotated

import typer

from isthmus.cli import adversary as a
from isthmus.cli import options as o

EPILOG = """Examples:

isthmus connect runs/a/model.safetensors runs/b/model.safetensors --adversary pgd --eps 8/255 --out runs/robust-ab

isthmus connect runs/a/model.safetensors runs/b/model.safetensors --steps 800 --out runs/ab

isthmus connect A.pth B.pth --arch arch.py:net --data cifar10 --clean 2500 --geometry bezier:2 --out runs/ab

isthmus connect A B C D --geometry surface:2x2 --data cifar10 --out runs/abcd

isthmus connect A --geometry simplex:4 --volume 1e-4 --set num_points=5 --out runs/grown

isthmus connect A B --geometry neb --steps 1600 --out runs/pivots

isthmus connect A B --geometry llpf:40 --learning-rate 0.01 --out runs/walked

isthmus connect A B --geometry llpf:40 --walk inward-first --set until=0.05 --learning-rate 0.01 --out runs/inward

isthmus connect A B C --geometry star --rematch --data cifar10 --out runs/star

isthmus connect A B C D --geometry surface:3x3 --stages edges-kept --set sampling=area --data cifar10 --out runs/abcd
"""


def connect(  # noqa: PLR0913  one parameter for each option
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Weight files, in the order of the corners.")],
    out: o.Out,
    arch: o.Arch = None,
    data: o.Data = None,
    geometry: Annotated[
        str,
        typer.Option(
            "--geometry", metavar="SPEC", help="bezier:2, surface:2x2, simplex:4, star, ... (isthmus list geometries)."
        ),
    ] = "bezier:2",
    stages: Annotated[
        str,
        typer.Option(
            "--stages",
            metavar="together|edges-first|edges-kept",
            help="How a surface is trained: all at once, its edges first, or its edges alone and then only what lies between.",
        ),
    ] = "together",
    walk: Annotated[
        str,
        typer.Option(
            "--walk",
            metavar="across|inward-first",
            help="The way of llpf: straight, or towards the origin first, from larger weights to smaller ones.",
        ),
    ] = "across",
    volume: Annotated[
        float,
        typer.Option(
            "--volume", min=0.0, help="What a vertex of simplex:N or complex:N gains by a larger volume; 0 for nothing."
        ),
    ] = 1e-6,
    rematch: Annotated[
        bool,
        typer.Option("--rematch", help="Of a star: match hidden units of the models to its centre again each epoch."),
    ] = False,
    clean: Annotated[
        int | None,
        typer.Option(
            "--clean", metavar="N", help="Train on N images, those held out by train --hold-out. Default: all."
        ),
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            "--validation",
            metavar="N",
            min=1,
            help="Leave out N training images, those that train --validation keeps apart, to choose a point by.",
        ),
    ] = None,
    width: o.Width = None,
    size: o.Size = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    optimizer: o.Optimizer = None,
    weight_decay: o.WeightDecay = None,
    lr_schedule: o.Schedule = None,
    sharpness: o.Sharpness = None,
    adversary: a.Method = None,
    eps: a.Eps = None,
    norm: a.Norms = None,
    attack_steps: a.AttackSteps = None,
    schedule: a.Schedule = None,
    resets: a.Resets = None,
    awp: a.Awp = None,
    adversary_set: a.Further = None,
    augment: o.Augment = "auto",
    precision: o.Precision = None,
    further: o.Set = None,
    seed: o.Seed = 0,
    devices: o.Devices = 1,
    accelerator: o.Accelerator = "auto",
    threads: o.Threads = None,
    checkpoint_every: o.CheckpointEvery = 20.0,
    track: o.Track = None,
    resume: o.Resume = False,
    json: o.Json = False,
) -> int:
    """Join trained models by a curve or surface of low loss. Writes DIR/bridge.safetensors."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import Work, working
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.connect import ConnectRecipe, run_connect
    from isthmus.runs import Run
    from isthmus.training.plan import Plan

    plan = Plan.model_validate(
        o.plan_settings(
            {
                "steps": steps,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "optimizer": optimizer,
                "weight_decay": weight_decay,
                "schedule": lr_schedule,
                "sharpness": sharpness,
                "precision": precision,
                **a.plan_extras(resets, awp, sharpness),
            },
            further,
        )
    )
    recipe = ConnectRecipe(
        models=tuple(models),
        arch=arch,
        data=data,
        geometry=geometry,
        rematch=rematch,
        clean=clean,
        validation=validation,
        width=width,
        size=size,
        augment=augment,
        adversary=a.adversary_from(
            {"method": adversary, "eps": eps, "norms": norm, "steps": attack_steps, "schedule": schedule}, adversary_set
        ),
        plan=plan,
        volume=volume,
        walk=walk,  # pyright: ignore[reportArgumentType]  pydantic checks it
        stages=stages,  # pyright: ignore[reportArgumentType]  pydantic checks it
        seed=seed,
    )
    work = Work(devices, accelerator, plan.precision, checkpoint_every, track)
    opened = Run.open(out, recipe, resume=resume, command=o.command_line())
    bar = Progress("connecting", silent=not opened.primary)
    with using_threads(threads, devices), opened as run, bar, working(work, run, bar) as session:
        result = run_connect(recipe, run, session=session)
    if result is None:
        return 0
    if json:
        print_json(result.model_dump(mode="json"))
        return 0
    count = "1 model" if len(recipe.models) == 1 else f"{len(recipe.models)} models"
    lines = [f"{recipe.geometry} through {count} of {result.arch}, {result.free_points} points trained"]
    if result.training is not None:
        done = result.training
        where = f"{result.train_n:,} images of {result.data}"
        lines.append(f"training loss {done.loss:.3g}, error {done.error:.3g} % on {where}: {done.seconds:.1f} s")
    if result.highest is not None:
        top = result.highest
        lines.append(f"highest training loss on the path {top.loss:.3g}, at t = {top.t:.3g}, on {top.n:,} images")
    lines += [f"{name}: {value:.4g}" for name, value in result.geometry.items() if value is not None]
    print_lines([*result.notes, *lines, f"written: {result.files['bridge']}"])
    return 0
