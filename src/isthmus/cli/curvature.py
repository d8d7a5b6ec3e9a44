"""`isthmus curvature`."""

from typing import Annotated

import typer

from isthmus.cli import options as o

MATRIX, LOSS, PLACE = "What of the spectrum", "Which loss", "Where on a bridge"
EPILOG = """Examples:

isthmus curvature A.safetensors --top 20 --density --trace --json

isthmus curvature A.pth --arch lenet --width 4 --data mnist --split train --n all --top 5 --gauss-newton --out runs/curvature

isthmus curvature A.safetensors --adversary pgd --eps 0.2 --attack-steps 20 --recraft --out runs/adversarial-curvature

isthmus curvature A.safetensors --loss backdoor --test-trigger patch:size=3,at=25x25 --target 1

isthmus curvature runs/ab --at 0.5 --subspace normal --top 5
"""

N = Annotated[str, typer.Option("--n", metavar="N|all", help="At most N images, a stratified choice.")]
Top = Annotated[
    int | None,
    typer.Option("--top", min=1, help="So many of the largest eigenvalues. Default 20.", rich_help_panel=MATRIX),
]
Negative = Annotated[
    bool, typer.Option("--negative", help="Also as many of the most negative.", rich_help_panel=MATRIX)
]
MaxProducts = Annotated[
    int,
    typer.Option(
        "--max-products", min=1, help="Most products for either end; each takes memory.", rich_help_panel=MATRIX
    ),
]
Tolerance = Annotated[
    float,
    typer.Option("--tolerance", help="Of a residual, in units of the outermost eigenvalue.", rich_help_panel=MATRIX),
]
GaussNewton = Annotated[
    bool, typer.Option("--gauss-newton", help="The top of the Gauss-Newton matrix beside.", rich_help_panel=MATRIX)
]
Density = Annotated[
    bool, typer.Option("--density", help="The density of all eigenvalues, with its band.", rich_help_panel=MATRIX)
]
Probes = Annotated[int, typer.Option("--probes", min=2, help="Random starts of the density.", rich_help_panel=MATRIX)]
Steps = Annotated[int, typer.Option("--steps", min=2, help="Lanczos steps of each.", rich_help_panel=MATRIX)]
Trace = Annotated[bool, typer.Option("--trace", help="The trace, with its error.", rich_help_panel=MATRIX)]
TraceProducts = Annotated[
    int, typer.Option("--trace-products", min=6, help="Products it may take.", rich_help_panel=MATRIX)
]
TraceMethod = Annotated[
    str, typer.Option("--trace-method", metavar="hutchinson|hutch++", help="How.", rich_help_panel=MATRIX)
]
Loss = Annotated[
    str,
    typer.Option("--loss", metavar="clean|backdoor", help="On labels, or of a trigger.", rich_help_panel=LOSS),
]
Trigger = Annotated[
    str | None,
    typer.Option(
        "--test-trigger", metavar="SPEC", help="Of the backdoor: patch:size=3,at=28x28.", rich_help_panel=LOSS
    ),
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="CLASS", help="Class it sends images to, or all-to-all.", rich_help_panel=LOSS),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--adversary",
        metavar="pgd|fgsm-rs|n-fgsm|trades",
        help="The loss of images that this attacker moved, once, and that are then kept (frozen).",
        rich_help_panel=LOSS,
    ),
]
Eps = Annotated[
    list[str] | None,
    typer.Option("--eps", metavar="R", help="Its radius, such as 8/255; once for each norm.", rich_help_panel=LOSS),
]
Norms = Annotated[
    list[str] | None,
    typer.Option("--norm", metavar="linf|l2|l1", help="Of the radius; repeatable. Default linf.", rich_help_panel=LOSS),
]
AttackSteps = Annotated[
    int | None, typer.Option("--attack-steps", min=1, help="Gradient steps of the attack.", rich_help_panel=LOSS)
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--adversary-set",
        metavar="NAME=VALUE",
        help="Any other setting of the adversary, such as beta=6.",
        rich_help_panel=LOSS,
    ),
]
Recraft = Annotated[
    bool,
    typer.Option(
        "--recraft",
        help="Beside it the curvature with images crafted anew, by differences of gradients.",
        rich_help_panel=LOSS,
    ),
]
RecraftStep = Annotated[
    list[float] | None,
    typer.Option(
        "--recraft-step",
        metavar="H",
        help="Distance of the two places; repeatable. Default 0.001, 0.01, 0.1.",
        rich_help_panel=LOSS,
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="0.5|0.5,0.5", help="Coordinates of the point.", rich_help_panel=PLACE),
]
Subspace = Annotated[
    str,
    typer.Option(
        "--subspace",
        metavar="all|tangent|normal",
        help="All directions, those along the bridge, or those across it.",
        rich_help_panel=PLACE,
    ),
]
SettleN = Annotated[
    int,
    typer.Option(
        "--settle-n", min=2, help="Training images that recompute BatchNorm statistics there.", rich_help_panel=PLACE
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", metavar="32-true|64-true", help="Of the products.", rich_help_panel=o.WORK)
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory", metavar="GIB", help="Memory to use. Default: half of what is free.", rich_help_panel=o.WORK
    ),
]


def curvature(  # noqa: PLR0913  one parameter for each option
    model: Annotated[
        str, typer.Argument(metavar="MODEL|BRIDGE", help="Weight file, or a bridge file or its folder with --at.")
    ],
    arch: o.Arch = None,
    data: o.Data = None,
    split: o.Split = "test",
    n: N = "1000",
    width: o.Width = None,
    size: o.Size = None,
    top: Top = None,
    negative: Negative = False,
    gauss_newton: GaussNewton = False,
    density: Density = False,
    probes: Probes = 10,
    steps: Steps = 80,
    trace: Trace = False,
    trace_products: TraceProducts = 100,
    trace_method: TraceMethod = "hutchinson",
    tolerance: Tolerance = 1e-3,
    max_products: MaxProducts = 200,
    loss: Loss = "clean",
    test_trigger: Trigger = None,
    target: Target = None,
    adversary: Method = None,
    eps: Eps = None,
    norm: Norms = None,
    attack_steps: AttackSteps = None,
    adversary_set: Further = None,
    recraft: Recraft = False,
    recraft_step: RecraftStep = None,
    at: At = None,
    subspace: Subspace = "all",
    settle_n: SettleN = 2000,
    out: o.OptionalOut = None,
    resume: o.Resume = False,
    batch_size: o.AtOnce = 500,
    memory: Memory = None,
    precision: Precision = "32-true",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    json: o.Json = False,
) -> int:
    """Measure how the loss curves in the weights: eigenvalues of its Hessian, density, trace."""
    from isthmus.cli.adversary import adversary_from
    from isthmus.cli.output import print_json, print_lines
    from isthmus.cli.progress import Progress
    from isthmus.cli.session import optional_run
    from isthmus.cli.session import threads as using_threads
    from isthmus.recipes.curvature import run_curvature
    from isthmus.recipes.curvature_parts import CurvatureRecipe

    attacker: dict[str, object] = {"method": adversary, "eps": eps, "norms": norm, "steps": attack_steps}
    settings: dict[str, object] = {
        "model": model,
        "arch": arch,
        "data": data,
        "split": split,
        "n": _count(n),
        "width": width,
        "size": size,
        "top": top,
        "negative": negative,
        "gauss_newton": gauss_newton,
        "density": density,
        "probes": probes,
        "steps": steps,
        "trace": trace,
        "trace_products": trace_products,
        "trace_method": trace_method,
        "tolerance": tolerance,
        "max_products": max_products,
        "loss": loss,
        "test_trigger": test_trigger,
        "target": target,
        "adversary": adversary_from(attacker, adversary_set),
        "recraft": recraft,
        "at": None if at is None else _coordinates(at),
        "subspace": subspace,
        "settle_n": settle_n,
        "batch_size": batch_size,
        "memory": memory,
        "precision": precision,
        "seed": seed,
        **({"recraft_steps": tuple(recraft_step)} if recraft_step else {}),
    }
    recipe = CurvatureRecipe.model_validate(settings)
    opened = optional_run(out, recipe, resume=resume)
    with using_threads(threads), opened as run, Progress("curvature") as progress:
        result = run_curvature(recipe, run, monitor=progress, tell=progress.stage)
    if json:
        print_json(result.to_json())
        return 0
    print_lines(lines_of(result.to_json()))
    return 0


def lines_of(document: dict[str, object]) -> list[str]:
    """Return the lines that tell people what was found, and how far it may be off."""
    from isthmus.report.curvature import CurvatureDocument, curvature_lines

    return curvature_lines(CurvatureDocument.model_validate(document))


def _count(text: str) -> int | None:
    """Return the number that `--n` names, None for all."""
    from isthmus._check import require

    good = text == "all" or (text.isdecimal() and int(text) >= 1)
    require(good, "n", "be a number of images, at least 1, or all", text)
    return None if text == "all" else int(text)


def _coordinates(text: str) -> tuple[float, ...]:
    """Return the coordinates that `--at` names."""
    from isthmus._check import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"`at` should be numbers such as 0.5 or 0.5,0.5. Found {text!r}.") from error
