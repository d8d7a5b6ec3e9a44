"""The command `isthmus`: parse, call, print; errors as one line and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from isthmus.cli import (
    adaptive,
    align,
    attack,
    catalogue,
    connect,
    curvature,
    demo,
    ensemble,
    errors,
    inspect,
    landscape,
    repair,
    report,
    reproduce,
    scan,
    scatter,
    tamper_weights,
    train,
)
from isthmus.cli.options import ARGUMENTS

app = typer.Typer(
    name="isthmus",
    help="Connect trained networks by low-loss curves and surfaces in weight space, and repair tampered models with them.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data = typer.Typer(help="Data sets on this machine.", no_args_is_help=False)
app.command("demo", epilog=demo.EPILOG)(demo.demo)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("connect", epilog=connect.EPILOG)(connect.connect)
app.command("align", epilog=align.EPILOG)(align.align)
app.command("scan", epilog=scan.EPILOG)(scan.scan)
app.command("scatter", epilog=scatter.EPILOG)(scatter.scatter)
app.command("ensemble", epilog=ensemble.EPILOG)(ensemble.ensemble)
app.command("attack", epilog=attack.EPILOG)(attack.attack)
app.command("curvature", epilog=curvature.EPILOG)(curvature.curvature)
app.command("landscape", epilog=landscape.EPILOG)(landscape.landscape)
app.command("inspect", epilog=inspect.EPILOG)(inspect.inspect)
app.command("tamper", epilog=tamper_weights.EPILOG)(tamper_weights.tamper)
app.command("evade", epilog=adaptive.EPILOG)(adaptive.evade)
app.command("repair", epilog=repair.EPILOG)(repair.repair)
app.command("report", epilog=report.EPILOG)(report.report)
app.command("reproduce", epilog=reproduce.EPILOG)(reproduce.reproduce)
app.command("list", epilog=catalogue.LIST_EPILOG)(catalogue.list_names)
data.command("get", epilog=catalogue.DATA_EPILOG)(catalogue.get)
app.add_typer(data, name="data")


@data.callback()
def _data() -> None:
    """Data sets on this machine."""


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        from isthmus import __version__

        typer.echo(f"isthmus {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 done, 1 criteria not met, 2 bad input, 3 inconclusive, 70 a fault of ours, 130 interrupted.

    Whatever goes wrong is one line on stderr; a traceback only with ISTHMUS_DEBUG=1 in the environment.
    """
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    token = ARGUMENTS.set(words)
    try:
        code = app(args=list(words), prog_name="isthmus", standalone_mode=False)
    except KeyboardInterrupt:
        code = errors.INTERRUPTED
    except Exception as error:
        line, code = errors.usage(error) or errors.explain(error)
        if errors.debugging():
            raise
        _tell(line)
        return code
    finally:
        ARGUMENTS.reset(token)
    if code == errors.INTERRUPTED:
        _tell(_how_to_go_on(words))
    return code if isinstance(code, int) else 0


def _how_to_go_on(words: Sequence[str]) -> str:
    again = " ".join(words) + ("" if "--resume" in words else " --resume")
    return (
        f"interrupted; what was done is kept. Go on with: isthmus {again}"
        if "--out" in " ".join(words)
        else "interrupted"
    )


def _tell(line: str) -> None:
    """Print one line on stderr; of several processes only the first speaks."""
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0":
        typer.echo(f"isthmus: {line}", err=True)
