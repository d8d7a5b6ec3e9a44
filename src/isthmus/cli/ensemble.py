"""`isthmus ensemble`."""

from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli import options as o

if TYPE_CHECKING:
    from isthmus.table import Table

EPILOG = """Examples:

isthmus ensemble runs/ab --points 0,0.25,0.5,0.75,1 --out runs/ensemble

isthmus ensemble runs/abcd --points 3x3 --validation 1000 --eps 8/255 --attack-steps 20 --out runs/grid

isthmus ensemble runs/abcd --points corners --json

isthmus ensemble runs/abcd --points 11x11 --settle batch --batch-size 128 --no-greedy --out runs/as-published

isthmus ensemble A.pth B.pth C.pth --arch arch.py:net --data cifar10 --save --out runs/soups
"""
SHOWN = (
    *("name", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "robust_accuracy", "test_nll", "test_ece"),
    *("test_brier", "members", "passes", "weight_bytes", "disagreement", "ambiguity"),
)


def ensemble(  # noqa: PLR0913  one parameter for each option
    models: Annotated[
        list[str],
        typer.Argument(metavar="DIR|MODEL", help="Folders of connections or bridge files, or several weight files."),
    ],
    points: Annotated[
        str | None,
        typer.Option(
            "--points",
            metavar="5|3x3|random:25|0,0.5,1|corners",
            help="Members on a bridge: a grid, so many drawn, coordinates (on a surface 0,0;0.5,1), its corners. Default 5.",
        ),
    ] = None,
    data: o.Data = None,
    arch: o.Arch = None,
    width: o.Width = None,
    size: o.Size = None,
    n: o.TestN = 1000,
    validation: Annotated[
        int,
        typer.Option(
            "--validation",
            min=1,
            help="Training images to choose by, those that train --validation keeps apart.",
            rich_help_panel=o.CHOICE,
        ),
    ] = 500,
    hold_out: o.ChosenFrom = None,
    settle: o.Settle = "recalibrate",
    settle_n: o.SettleN = 2000,
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps",
            metavar="R",
            help="Radius, in units of the input: attack every row as one model. Default: no attack.",
            rich_help_panel=o.ATTACK,
        ),
    ] = None,
    norm: o.Norm = None,
    attack_steps: o.AttackSteps = None,
    restarts: o.Restarts = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write the soups as model files.", rich_help_panel=o.WHERE)
    ] = False,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy/--no-greedy",
            help="Try a greedy soup: one more model to measure for each member.",
            rich_help_panel=o.CHOICE,
        ),
    ] = True,
    batch_size: o.AtOnce = 250,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Average answers or weights over a bridge or over models: ensembles, soups, the best point chosen on validation images."""
    from isthmus._check import InputError
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.ensemble import EnsembleRecipe, run_ensemble
    from isthmus.report.ensemble import ensemble_sentences, warned

    if save and out is None:
        raise InputError("`save` should come with --out, where the soups go. Found none.")
    attack = o.given(norm=norm, attack_steps=attack_steps, restarts=restarts)
    if attack and eps is None:
        name = next(iter(attack))
        raise InputError(f"`{name}` should come with --eps, the radius of the attack. Found {attack[name]} alone.")
    settings = o.given(data=data, arch=arch, width=width, size=size, points=points, hold_out=hold_out, eps=eps)
    recipe = EnsembleRecipe.model_validate(
        {
            "models": tuple(models),
            "n": n,
            "validation": validation,
            "settle": settle,
            "settle_n": settle_n,
            "batch_size": batch_size,
            "greedy": greedy,
            "save": save,
            "seed": seed,
            **settings,
            **attack,
        }
    )
    opened = optional_run(out, recipe, resume=resume)
    with using_threads(threads), opened as run, Progress("measuring models") as progress:
        result = run_ensemble(recipe, run, monitor=progress)
    if json:
        print_json(result.to_json())
        return 0
    print_lines(
        [*_shown(result.table).to_markdown().splitlines(), *ensemble_sentences(result.table), *warned(result.table)]
    )
    return 0


def _shown(table: "Table") -> "Table":
    """Return the columns that fit on a screen; the files have all."""
    from isthmus.table import Table

    names = [name for name in SHOWN if name in table.names]
    return Table(table.frame[names], tuple(table.column(name) for name in names), {})
