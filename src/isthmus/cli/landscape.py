"""`isthmus landscape`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.table import Table

SLICE = "Which slice"
EPILOG = """Examples:

isthmus landscape runs/a/model.safetensors --directions eigen --grid 21 --range 1 --out runs/landscape

isthmus landscape runs/a/model.safetensors --directions random --adversary pgd --eps 8/255 --n 500 --out runs/attacked

isthmus landscape A.safetensors B.safetensors C.safetensors --directions plane --out runs/plane

isthmus landscape runs/ab --directions tangent --at 0.5 --out runs/tangent

isthmus report runs/landscape
"""


def landscape(  # noqa: PLR0913  one parameter for each option
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Weight file; three for a plane; or a bridge (folder or file) with --at."),
    ],
    directions: Annotated[
        str | None,
        typer.Option(
            "--directions",
            metavar="eigen|random|plane|tangent|trajectory",
            help="Axes of the slice. Default: eigen, plane for three models.",
            rich_help_panel=SLICE,
        ),
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", metavar="21|21x31", help="Points along each axis.", rich_help_panel=SLICE)
    ] = "21",
    extent: Annotated[
        float | None,
        typer.Option(
            "--range",
            metavar="R",
            help="From -R to R in units of the directions (default 1); of a plane or trajectory the margin around it (0.25).",
            rich_help_panel=SLICE,
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option("--dim", min=1, max=2, help="Axes: a line or a plane. Default 2.", rich_help_panel=SLICE),
    ] = None,
    one_dimensional: Annotated[
        bool, typer.Option("--one-dimensional", help="The same as --dim 1.", rich_help_panel=SLICE)
    ] = False,
    normalise: Annotated[
        str,
        typer.Option(
            "--normalise",
            metavar="filter|layer|global",
            help="What random directions are scaled to.",
            rich_help_panel=SLICE,
        ),
    ] = "filter",
    orthogonal: Annotated[
        bool, typer.Option("--orthogonal", help="Random directions at right angles.", rich_help_panel=SLICE)
    ] = False,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors",
            metavar="FILE",
            help="Eigenvectors saved by isthmus curvature; else they are computed.",
            rich_help_panel=SLICE,
        ),
    ] = None,
    hessian_n: Annotated[
        int, typer.Option("--hessian-n", min=1, help="Images they are computed on.", rich_help_panel=SLICE)
    ] = 500,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="T|U,V", help="The model of a bridge at these coordinates.", rich_help_panel=SLICE
        ),
    ] = None,
    trajectory: Annotated[
        list[str] | None,
        typer.Option(
            "--trajectory",
            metavar="FILE|DIR",
            help="Weights projected into the slice, in their order, or the snapshots of a training; repeatable.",
            rich_help_panel=SLICE,
        ),
    ] = None,
    data: o.Data = None,
    arch: o.Arch = None,
    width: o.Width = None,
    size: o.Size = None,
    n: o.AnyN = 1000,
    split: o.Split = "test",
    adversary: Annotated[
        str, typer.Option("--adversary", metavar="none|pgd", help="Measure under attack too.", rich_help_panel=o.ATTACK)
    ] = "none",
    norm: o.Norm = None,
    eps: o.Radius = None,
    attack_steps: o.AttackSteps = None,
    frozen: Annotated[
        bool,
        typer.Option(
            "--frozen", help="Craft its examples once at the centre, not at each point.", rich_help_panel=o.ATTACK
        ),
    ] = False,
    settle: Annotated[
        str | None,
        typer.Option(
            "--settle",
            metavar="keep|recalibrate",
            help="BatchNorm statistics of the points. Default: recalibrate in a plane or tangent, else keep.",
        ),
    ] = None,
    settle_n: Annotated[
        int, typer.Option("--settle-n", min=2, help="Training images on which they are recomputed.")
    ] = 2000,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Measure loss and error over a line or plane through a model, clean or under attack."""
    from isthmus._check import require
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.landscape import run_landscape
    from isthmus.recipes.landscape_recipe import LandscapeRecipe

    require(not one_dimensional or dim in (None, 1), "dim", "be 1 with --one-dimensional", dim)
    settings = o.given(
        models=tuple(models),
        directions=directions or ("plane" if len(models) == 3 else "eigen"),
        data=data,
        arch=arch,
        width=width,
        size=size,
        dim=1 if one_dimensional else dim,
        grid=grid,
        range=extent,
        adversary=adversary,
        norm=norm,
        eps=eps,
        attack_steps=attack_steps,
        frozen=frozen,
        n=n,
        split=split,
        settle=settle,
        settle_n=settle_n,
        normalise=normalise,
        orthogonal=orthogonal,
        vectors=vectors,
        hessian_n=hessian_n,
        at=None if at is None else coordinates(at),
        trajectory=tuple(trajectory or ()),
        seed=seed,
    )
    recipe = LandscapeRecipe.model_validate(settings)
    opened = optional_run(out, recipe, resume=resume)
    with using_threads(threads), opened as run, Progress("landscape") as progress:
        result = run_landscape(recipe, run, monitor=progress)
    if json:
        print_json(result.to_json())
        return 0
    print_lines(lines_of(result.table))
    return 0


def coordinates(text: str) -> tuple[float, ...]:
    """Return the numbers in `0.5` or `0.3,0.4`. Raises InputError for anything else."""
    from isthmus._check import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"`at` should be coordinates such as 0.5 or 0.3,0.4. Found {text!r}.") from error


def lines_of(table: "Table") -> Sequence[str]:
    """Return the lines that tell people what the slice is and what was found in it."""
    from isthmus.report.landscape import Landscape

    return Landscape("", table).sentences()
