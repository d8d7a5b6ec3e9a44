"""Options that several commands share. No import of torch here: `--help` answers at once."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated

import typer

WHERE, WORK = "Where results go", "How it is run"
CHOICE = "What is chosen, and on what"
TRAINING = "Training"
ATTACK = "Attack"

Out = Annotated[
    str,
    typer.Option("--out", metavar="DIR", help="New folder for the results; never overwrites.", rich_help_panel=WHERE),
]
OptionalOut = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="New folder for the results; without it they are only printed.",
        rich_help_panel=WHERE,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue the run in --out, which ends as if it had never stopped.", rich_help_panel=WHERE
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout and nothing else there.", rich_help_panel=WHERE),
]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same result, bit for bit on CPU.", rich_help_panel=WORK)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="CPU threads of each process. Default: torch's choice.", rich_help_panel=WORK
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        "--devices", min=1, help="Processes that share the training, each with its own u.", rich_help_panel=WORK
    ),
]
Accelerator = Annotated[
    str, typer.Option("--accelerator", metavar="auto|cpu|cuda|mps", help="Where to train.", rich_help_panel=WORK)
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every", metavar="SECONDS", min=0.0, help="How often to save for --resume.", rich_help_panel=WORK
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="csv|tensorboard|wandb|mlflow",
        help="Also log to a tracker (extra `track`).",
        rich_help_panel=WORK,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="SPEC",
        help="Architecture: NAME, file.py:function, timm:NAME, hf:NAME. Default: what the files say.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="SPEC", help="Images: NAME, file.npz, folder, hf:NAME. Default: what the files say."
    ),
]
TestN = Annotated[int, typer.Option("--n", min=1, help="At most N test images, a stratified choice.")]
ChosenFrom = Annotated[
    int | None,
    typer.Option(
        "--hold-out",
        min=1,
        help="Take them from so many images that train --hold-out set aside.",
        rich_help_panel=CHOICE,
    ),
]
Split = Annotated[str, typer.Option("--split", metavar="test|train", help="Which images.")]
AnyN = Annotated[int, typer.Option("--n", min=1, help="At most N images, a stratified choice.")]
AtOnce = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.", rich_help_panel=WORK)]
Norm = Annotated[
    str | None,
    typer.Option(
        "--norm", metavar="linf|l2|l1", help="How the radius is measured. Default linf.", rich_help_panel=ATTACK
    ),
]
Radius = Annotated[
    str | None,
    typer.Option("--eps", metavar="R", help="Radius, in units of the input. Default 8/255.", rich_help_panel=ATTACK),
]
AttackSteps = Annotated[
    int | None, typer.Option("--attack-steps", min=1, help="Steps of PGD. Default 10.", rich_help_panel=ATTACK)
]
Restarts = Annotated[
    int | None, typer.Option("--restarts", min=1, help="Its random starts. Default 1.", rich_help_panel=ATTACK)
]
SettleN = Annotated[
    int,
    typer.Option(
        "--settle-n", min=2, help="Training images on which BatchNorm statistics are recomputed at each point."
    ),
]
Settle = Annotated[
    str,
    typer.Option(
        "--settle",
        metavar="recalibrate|keep|batch",
        help="BatchNorm statistics: recomputed at each point, kept, or those of each batch as in training mode (no fair figure).",
    ),
]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Width of the architecture.")]
Size = Annotated[int | None, typer.Option("--size", min=1, help="Scale all images to SIZE x SIZE.")]
Augment = Annotated[
    str,
    typer.Option(
        "--augment", metavar="SPEC", help="auto (suits the data), none, or like shift=4,flip.", rich_help_panel=TRAINING
    ),
]
TestTrigger = Annotated[
    str | None,
    typer.Option(
        "--test-trigger", metavar="SPEC", help="Trigger that only measures: patch:size=3,at=28x28, file.py:function."
    ),
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="CLASS", help="Class the trigger sends images to, or all-to-all.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Optimizer steps. Default 800.", rich_help_panel=TRAINING)
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images per step. Default 128.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Highest rate. Default 0.05.", rich_help_panel=TRAINING)
]
Optimizer = Annotated[
    str | None,
    typer.Option("--optimizer", metavar="sgd|adamw", help="Default sgd with momentum 0.9.", rich_help_panel=TRAINING),
]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", help="Default 0.0005.", rich_help_panel=TRAINING)]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--lr-schedule",
        metavar="cosine|multistep|triangular|constant",
        help="Of the learning rate. Default cosine.",
        rich_help_panel=TRAINING,
    ),
]
Sharpness = Annotated[
    float | None,
    typer.Option("--sharpness", help="Radius of the sharpness-aware ascent. Default: none.", rich_help_panel=TRAINING),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="32-true|bf16-mixed", help="Default 32-true.", rich_help_panel=TRAINING),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting of the plan, such as num_points=2.",
        rich_help_panel=TRAINING,
    ),
]


def given(**values: object) -> dict[str, object]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def plan_settings(values: Mapping[str, object], further: Sequence[str] | None) -> dict[str, object]:
    """Return the settings of a plan: the options given, then `--set NAME=VALUE`."""
    return given(**values) | settings(further, "--set")


def settings(texts: Sequence[str] | None, option: str) -> dict[str, object]:
    """Return what was given as NAME=VALUE (JSON values, else text)."""
    import json

    from isthmus._check import InputError

    found: dict[str, object] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"`{option}` should be NAME=VALUE. Found {text!r}.")
        name = name.removeprefix("plan.").replace("-", "_")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


def command_line() -> tuple[str, ...]:
    """Return the words of the command that is being run."""
    return ("isthmus", *ARGUMENTS.get())
