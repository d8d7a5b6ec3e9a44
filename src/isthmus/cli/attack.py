"""`isthmus attack`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.attacks.outcome import Progress as Found
    from isthmus.cli.progress import Progress

EPILOG = """Examples:

isthmus attack A.pth --arch arch.py:net --data cifar10 --attack standard --eps 8/255 --n 1000 --json

isthmus attack A.pth --arch arch.py:net --data cifar10 --attack pgd:steps=20,restarts=2+square --eps 0.5 --norm l2

isthmus attack A.pth B.pth --arch arch.py:net --data cifar10 --eps 8/255 --out runs/ensemble

Suites and attacks: isthmus list attacks.
"""
_THREAT = "Threat"

Attack = Annotated[
    str,
    typer.Option(
        "--attack",
        metavar="NAMES",
        help="Suite, or attacks with settings joined by +: pgd:steps=20+square.",
        rich_help_panel=_THREAT,
    ),
]
Eps = Annotated[
    str,
    typer.Option(
        "--eps", metavar="8/255", help="Radius, for inputs in 0..1: number or fraction.", rich_help_panel=_THREAT
    ),
]
Norm = Annotated[
    str, typer.Option("--norm", metavar="linf|l2|l1", help="How the radius is measured.", rich_help_panel=_THREAT)
]
AttackPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="32-true|bf16-mixed",
        help="Of the search; results are re-tested in full precision.",
        rich_help_panel=o.WORK,
    ),
]
AttackBatch = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images attacked at once.", rich_help_panel=o.WORK)
]
Where = Annotated[
    str, typer.Option("--accelerator", metavar="auto|cpu|cuda|mps", help="Where to attack.", rich_help_panel=o.WORK)
]


def attack(  # noqa: PLR0913  one parameter for each option
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Weight file. Several are attacked as their softmax ensemble.")
    ],
    eps: Eps,
    arch: o.Arch = None,
    data: o.Data = None,
    attack: Attack = "standard",
    norm: Norm = "linf",
    n: Annotated[int, typer.Option("--n", min=1, help="The first N test images.")] = 1000,
    width: o.Width = None,
    size: o.Size = None,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    batch_size: AttackBatch = 250,
    precision: AttackPrecision = "32-true",
    seed: o.Seed = 0,
    accelerator: Where = "auto",
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Measure the accuracy that attacks within a radius leave, every result re-tested."""
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.attack import AttackRecipe, run_attack

    settings = o.given(
        models=tuple(models),
        arch=arch,
        data=data,
        attack=attack,
        eps=eps,
        norm=norm,
        n=n,
        width=width,
        size=size,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
    )
    recipe = AttackRecipe.model_validate(settings)
    opened = optional_run(out, recipe, resume=resume)
    device = _device(accelerator)
    with using_threads(threads), opened as run, Progress("attacking") as progress:
        if run is not None:
            run.device = device
        result = run_attack(recipe, run, tell=_told(progress), device=device)
    if json:
        print_json(result.to_json())
        return 0
    print_lines([*result.table.to_markdown().splitlines(), *lines_of(result.document)])
    return 0


def lines_of(document: dict[str, object]) -> list[str]:
    """Return the lines that tell people the rates and what is doubtful about them."""
    from typing import cast

    from isthmus.cli.output import rate_text

    lines: list[str] = []
    for key, title in (("clean_accuracy", "clean accuracy"), ("robust_accuracy", "robust accuracy")):
        lines += rate_text(title, cast(dict[str, float | int], document[key]))
    if not document["reliable"]:
        lines.append("not reliable: see the warnings")
    return [*lines, *(f"warning: {text}" for text in cast(list[str], document["warnings"]))]


def _told(progress: "Progress") -> Callable[["Found"], None]:
    """Return what shows an evaluation's progress: one stage for each attack."""
    shown: list[str] = []

    def tell(found: "Found") -> None:
        stage = found.stages[-1]
        if shown[-1:] != [stage.name]:
            shown.append(stage.name)
            progress.stage(stage.name)
        left = stage.attacked - stage.fooled
        progress(found.batch, found.batches, {"robust_error": 100 * (1 - left / len(found.by))})

    return tell


def _device(accelerator: str) -> str:
    """Return the device that an accelerator means."""
    import torch

    from isthmus._check import require, unknown
    from isthmus.cli.session import ACCELERATORS

    if accelerator not in ACCELERATORS:
        raise unknown("accelerator", accelerator, ACCELERATORS)
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return next(name for name, there in here.items() if there)
    require(here[accelerator], "accelerator", "be on this machine", accelerator, "Use cpu or auto.")
    return accelerator
