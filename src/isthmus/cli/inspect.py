"""`isthmus inspect`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

EPILOG = """Examples:

isthmus inspect suspect.safetensors

isthmus inspect suspect.pth --arch arch.py:net --data cifar10 --out runs/inspected

isthmus inspect suspect.pth --arch resnet18 --data cifar10 --no-search --json

Exit code: 0 nothing found by the checks made, 1 findings, 2 a file that cannot be read safely or other bad input, 3 inconclusive.
"""
EXIT_CODES = {"nothing_found": 0, "findings": 1, "inconclusive": 3}


def inspect(  # noqa: PLR0913  one parameter for each option
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Weight file of any origin: nothing in it is executed.")
    ],
    arch: o.Arch = None,
    data: o.Data = None,
    n: Annotated[int, typer.Option("--n", min=2, help="The first N test images.")] = 1000,
    clean: Annotated[int, typer.Option("--clean", min=20, help="Training images for the search for triggers.")] = 500,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Whether to search for triggers (needs --data).")
    ] = True,
    width: o.Width = None,
    size: o.Size = None,
    out: o.OptionalOut = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Look at a weight file nobody vouches for: format, tensors, fit, accuracy, candidate triggers."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.inspect import InspectRecipe, run_inspect
    from isthmus.report.inspection import inspect_sentences, inspect_verdict

    settings = o.given(
        model=model, arch=arch, data=data, n=n, clean=clean, search=search, width=width, size=size, seed=seed
    )
    recipe = InspectRecipe.model_validate(settings)
    opened = optional_run(out, recipe)
    with using_threads(threads), opened as run, Progress("inspecting") as progress:
        document = run_inspect(recipe, run, tell=progress.stage)
    if json:
        files = {} if out is None else {"inspect": f"{out}/inspect.json", "page": f"{out}/inspect.html"}
        print_json({**document.model_dump(mode="json"), "files": files})
    else:
        print_lines([inspect_verdict(document), *inspect_sentences(document)])
    return EXIT_CODES[document.status]
