"""Options of training against an adversary, shared by `train` and `connect`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import given, settings

if TYPE_CHECKING:
    from isthmus.training.adversary import Adversary

ADVERSARY = "Training against an adversary"

Method = Annotated[
    str | None,
    typer.Option(
        "--adversary",
        metavar="pgd|fgsm-rs|n-fgsm|trades",
        help="Train on inputs that this attacker moved.",
        rich_help_panel=ADVERSARY,
    ),
]
Eps = Annotated[
    list[str] | None,
    typer.Option(
        "--eps", metavar="R", help="Its budget, such as 8/255; once for each norm.", rich_help_panel=ADVERSARY
    ),
]
Norms = Annotated[
    list[str] | None,
    typer.Option(
        "--norm", metavar="linf|l2|l1", help="Norm of the budget; repeatable. Default linf.", rich_help_panel=ADVERSARY
    ),
]
AttackSteps = Annotated[
    int | None,
    typer.Option("--attack-steps", min=1, help="Gradient steps of the attack.", rich_help_panel=ADVERSARY),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="constant|warm-up|periodic-cosine|periodic-linear",
        help="How the budget grows. Default constant.",
        rich_help_panel=ADVERSARY,
    ),
]
Resets = Annotated[
    str | None,
    typer.Option(
        "--resets",
        metavar="0.5,0.75",
        help="Shares of the training at which budget and learning rate start anew; each cycle leaves a snapshot.",
        rich_help_panel=ADVERSARY,
    ),
]
Awp = Annotated[
    float | None,
    typer.Option(
        "--awp", help="Adversarial weight perturbation, in layer norms (0.01 is usual).", rich_help_panel=ADVERSARY
    ),
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--adversary-set",
        metavar="NAME=VALUE",
        help="Any other setting of the adversary, such as clean_weight=0.5.",
        rich_help_panel=ADVERSARY,
    ),
]


def adversary_from(values: dict[str, object], further: Sequence[str] | None) -> "Adversary | None":
    """Return the adversary that the options name, None without --adversary. Raises InputError for its settings without it."""
    from isthmus._check import InputError
    from isthmus.training.adversary import Adversary

    found = {name: value for name, value in given(**values).items() if value != []}
    if "method" not in found:
        if found or further:
            name = {"norms": "norm", "steps": "attack-steps"}.get(
                next(iter(found), ""), next(iter(found), "adversary-set")
            )
            hint = " The learning rate's schedule is --lr-schedule." if name == "schedule" else ""
            raise InputError(f"`{name}` should come with --adversary. Found none.{hint}")
        return None
    if "eps" not in found:
        raise InputError("`eps` should be given with --adversary, such as --eps 8/255. Found none.")
    norms = found.pop("norms", None)
    count = len(found["eps"]) if isinstance(found["eps"], list) else 1
    chosen = norms if isinstance(norms, list) else ["linf"] * count
    return Adversary.model_validate(found | {"norms": tuple(chosen)} | settings(further, "--adversary-set"))


def plan_extras(resets: str | None, awp: float | None, sharpness: float | None) -> dict[str, object]:
    """Return the settings of the plan that the options name; `sharpness` is the plan's own, which --awp would replace."""
    from isthmus._check import InputError

    if awp is not None and sharpness is not None:
        raise InputError(
            f"`awp` should be given without --sharpness: both move the weights uphill. Found {sharpness:g}."
        )
    extras: dict[str, object] = {} if awp is None else {"sharpness": awp, "ascent": "layerwise"}
    if resets is not None:
        try:
            extras["resets"] = tuple(float(part) for part in resets.split(","))
        except ValueError as error:
            raise InputError(f"`resets` should be numbers such as 0.5,0.75. Found {resets!r}.") from error
    return extras
