"""`isthmus align`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.recipes.align import Aligned

MATCHING, MEASURING = "Matching", "Measuring"
SHOWN = 5  # axes left unpermuted that are printed; align.json has all
EPILOG = """Examples:

isthmus align runs/a/model.safetensors runs/b/model.safetensors --out runs/aligned

isthmus align A.pth B.pth --arch arch.py:net --data cifar10 --by activations --n 5000 --out runs/aligned

isthmus align A B C --data cifar10 --points 25 --test-n 10000 --out runs/aligned --json
"""


def align(  # noqa: PLR0913  one parameter for each option
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Weight files; the first is the reference and stays as it is.")
    ],
    out: o.Out,
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="weights|activations", help="What hidden units are matched by.", rich_help_panel=MATCHING
        ),
    ] = "weights",
    arch: o.Arch = None,
    data: o.Data = None,
    width: o.Width = None,
    size: o.Size = None,
    n: Annotated[
        int,
        typer.Option(
            "--n",
            min=2,
            help="At most N training images for activations, BatchNorm and REPAIR.",
            rich_help_panel=MATCHING,
        ),
    ] = 2000,
    clean: Annotated[
        int | None,
        typer.Option(
            "--clean",
            metavar="N",
            help="Take them from N images, those held out by train --hold-out. Default: from all.",
            rich_help_panel=MATCHING,
        ),
    ] = None,
    points: Annotated[
        int,
        typer.Option(
            "--points", min=3, help="Points along each straight line, ends included.", rich_help_panel=MEASURING
        ),
    ] = 11,
    test_n: Annotated[
        int, typer.Option("--test-n", min=1, help="At most N test images.", rich_help_panel=MEASURING)
    ] = 1000,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    resume: o.Resume = False,
    json: o.Json = False,
) -> int:
    """Permute hidden units so that models come near the first, and measure the line between. Writes DIR/aligned-1.safetensors, ..."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.align import AlignRecipe, run_align
    from isthmus.runs import Run

    recipe = AlignRecipe(
        models=tuple(models),
        by=by,  # pyright: ignore[reportArgumentType]  checked by the recipe
        data=data,
        arch=arch,
        width=width,
        size=size,
        clean=clean,
        n=n,
        points=points,
        test_n=test_n,
        seed=seed,
    )
    opened = Run.open(out, recipe, resume=resume, command=o.command_line())
    with using_threads(threads), opened as run, Progress("measuring") as progress:
        result = run_align(recipe, run, monitor=progress)
    if json:
        print_json(result.model_dump(mode="json"))
        return 0
    print_lines(_lines(result))
    return 0


def _lines(result: "Aligned") -> Iterable[str]:
    """Return what people see."""
    yield from result.notes
    units = sum(group.size for group in result.groups)
    groups = f"{len(result.groups)} group{'s' if len(result.groups) > 1 else ''}"
    yield f"{result.arch}: {units:,} hidden units in {groups} may change places"
    yield from (f"left as it is: {axis}" for axis in result.unpermuted[:SHOWN])
    if len(result.unpermuted) > SHOWN:
        yield f"left as they are: {len(result.unpermuted) - SHOWN} more axes, see align.json"
    for model in result.models:
        yield (
            f"{model.model}: likeness {model.likeness_before:.4g} -> {model.likeness_after:.4g}, "
            f"distance {model.distance_before:.4g} -> {model.distance_after:.4g}, outputs changed by {model.output_change:.1e}"
        )
        yield from _table(result, model.model).splitlines()
    yield "accuracy and loss in the middle of the line; rise: above the mean of the ends; barrier: the highest on the line"
    made = result.repair
    left = f"{len(made.normalised)} by BatchNorm, {len(made.left)} left"
    yield f"REPAIR: {len(made.corrected)} layers corrected, {left}" + (
        "" if made.corrected else "; no more than the reset"
    )
    for model in result.models:
        yield f"written: {model.file}"


def _table(result: "Aligned", model: str) -> str:
    """Return the rows of one model as Markdown."""
    from isthmus.table import Table

    table = Table.from_json(result.midpoints)
    frame = table.frame[table.frame["model"] == model].drop(columns="model")
    return Table(frame, tuple(column for column in table.columns if column.name != "model")).to_markdown()
