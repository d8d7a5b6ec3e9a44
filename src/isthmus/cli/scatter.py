"""`isthmus scatter`."""

from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.recipes.scattering import ScatterAlongRecipe, ScatterRecipe

DIRECTIONS, ALONG = "Along directions", "Along a bridge"
EPILOG = """Examples:

isthmus scatter A.safetensors --eps 8/255 --amounts 0,0.1,0.3,0.5,1 --out runs/scatter

isthmus scatter A.safetensors --vectors runs/curvature/eigenvectors.safetensors --eigen 2 --random 3 --eps 0.1 --json

isthmus scatter runs/ab --points 11 --eps 8/255
"""


def scatter(  # noqa: PLR0913  one parameter for each option
    path: Annotated[str, typer.Argument(metavar="MODEL|DIR", help="Weight file; with --points a connection.")],
    eps: Annotated[
        str, typer.Option("--eps", metavar="R", help="Radius, in units of the input.", rich_help_panel=o.ATTACK)
    ],
    data: o.Data = None,
    arch: o.Arch = None,
    width: o.Width = None,
    size: o.Size = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors",
            metavar="FILE",
            help="Eigenvectors that isthmus curvature wrote. Default: they are found first.",
            rich_help_panel=DIRECTIONS,
        ),
    ] = None,
    eigen: Annotated[
        int | None, typer.Option("--eigen", min=0, help="Top eigenvectors. Default 1.", rich_help_panel=DIRECTIONS)
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", min=0, help="Random directions. Default 1.", rich_help_panel=DIRECTIONS)
    ] = None,
    amounts: Annotated[
        str | None,
        typer.Option(
            "--amounts",
            metavar="A,B,...",
            help="Lengths of the moves, to both sides. Default 0,0.1,0.3,0.5,1.",
            rich_help_panel=DIRECTIONS,
        ),
    ] = None,
    hessian_n: Annotated[
        int | None,
        typer.Option(
            "--hessian-n",
            min=1,
            help="Training images whose Hessian has the eigenvectors. Default 1000.",
            rich_help_panel=DIRECTIONS,
        ),
    ] = None,
    points: Annotated[
        int | None, typer.Option("--points", min=2, help="Points along the curve.", rich_help_panel=ALONG)
    ] = None,
    step: Annotated[
        float | None,
        typer.Option("--step", help="Compare t - STEP and t + STEP. Default: half the spacing.", rich_help_panel=ALONG),
    ] = None,
    settle_n: Annotated[
        int | None,
        typer.Option(
            "--settle-n",
            min=2,
            help="Training images on which BatchNorm statistics are recomputed. Default 2000.",
            rich_help_panel=ALONG,
        ),
    ] = None,
    norm: o.Norm = None,
    attack_steps: o.AttackSteps = None,
    attack_step: Annotated[
        float, typer.Option("--attack-step", help="Size of one, in radii.", rich_help_panel=o.ATTACK)
    ] = 0.25,
    start: Annotated[
        float, typer.Option("--start", help="Reach of its random start, in radii.", rich_help_panel=o.ATTACK)
    ] = 1.0,
    split: o.Split = "test",
    n: o.AnyN = 1000,
    batch_size: o.AtOnce = 250,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Measure how fast adversarial perturbations turn as the weights move: gradient scattering."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.scattering import ScatterRecipe, run_scatter, run_scatter_along

    plan = o.given(
        norm=norm,
        eps=eps,
        steps=attack_steps,
        step=attack_step,
        start=start,
        split=split,
        n=n,
        batch_size=batch_size,
    )
    common = o.given(data=data, arch=arch, width=width, size=size, crafting=plan, seed=seed)
    moves = o.given(vectors=vectors, eigen=eigen, random=random, amounts=amounts, hessian_n=hessian_n)
    recipe = _recipe(path, common, moves, o.given(points=points, step=step, settle_n=settle_n))
    opened = optional_run(out, recipe, resume=resume)
    with using_threads(threads), opened as run, Progress("scattering") as progress:
        if isinstance(recipe, ScatterRecipe):
            result = run_scatter(recipe, run, monitor=progress)
        else:
            result = run_scatter_along(recipe, run, monitor=progress)
    if json:
        print_json(result.to_json())
        return 0
    print_lines(result.table.to_markdown().splitlines())
    if isinstance(recipe, ScatterRecipe):
        floor = result.table.values("cosine")[0]
        shown = "no image moved" if floor is None else f"{float(floor):.4g}"
        print_lines([f"floor: {shown}, what two random starts leave of the cosine at the model itself"])
    return 0


def _recipe(
    path: str, common: dict[str, object], moves: dict[str, object], along: dict[str, object]
) -> "ScatterRecipe | ScatterAlongRecipe":
    """Return the recipe that the options mean. Raises InputError where they are of both forms."""
    from isthmus._check import InputError
    from isthmus.recipes.scattering import ScatterAlongRecipe, ScatterRecipe

    if "points" in along:
        if moves:
            name = next(iter(moves))
            raise InputError(f"`{name}` should be left out with --points, along a bridge. Found {moves[name]}.")
        return ScatterAlongRecipe.model_validate({"bridge": path, **common, **along})
    if along:
        name = next(iter(along))
        raise InputError(f"`{name}` should come with --points, along a bridge. Found {along[name]}.")
    text = moves.get("amounts")
    if isinstance(text, str):
        try:
            moves["amounts"] = tuple(float(part) for part in text.split(","))
        except ValueError as error:
            raise InputError(f"`amounts` should be numbers such as 0,0.1,0.5. Found {text!r}.") from error
    return ScatterRecipe.model_validate({"model": path, **common, **moves})
