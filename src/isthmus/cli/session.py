"""`Session` from the options of a command: devices, precision, trackers, progress."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from pydantic import BaseModel

from isthmus._check import require, unknown
from isthmus.cli.options import command_line
from isthmus.cli.progress import Progress
from isthmus.cli.track import Tracker, make_tracker
from isthmus.runs import Run
from isthmus.training.session import Session

ACCELERATORS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Work:
    """How a command is run; none of it is part of the recipe, because none of it changes what is asked for."""

    devices: int = 1
    accelerator: str = "auto"
    precision: str = "32-true"
    checkpoint_every: float = 20.0
    track: str | None = None


@contextmanager
def working(work: Work, run: Run, bar: Progress) -> Generator[Session]:
    """Return a context whose value is the session. With several devices it starts the other processes, which run the same command."""
    if work.accelerator not in ACCELERATORS:
        raise unknown("accelerator", work.accelerator, ACCELERATORS)
    accelerator = work.accelerator
    if work.devices > 1 and accelerator == "auto":
        accelerator = "cuda" if torch.cuda.device_count() >= work.devices else "cpu"
    if accelerator in ("cuda", "mps"):
        there = torch.cuda.is_available() if accelerator == "cuda" else torch.backends.mps.is_available()
        require(there, "accelerator", "be on this machine", accelerator, "Use cpu or auto.")
    tracker = None if work.track is None else _tracker(work.track, run)
    fabric = Fabric(
        accelerator=accelerator,
        devices=work.devices,
        strategy="ddp" if work.devices > 1 else "auto",
        precision=work.precision,  # pyright: ignore[reportArgumentType]  checked by the plan
        loggers=tracker,  # pyright: ignore[reportArgumentType]  a tracker is a logger of Fabric
    )
    if work.devices > 1:
        fabric.launch()
    run.device = str(fabric.device)
    ended = "failed"
    try:
        shown = (bar, bar.stage) if run.primary else (None, None)
        yield Session(fabric, None, work.checkpoint_every, *shown)
        ended = "success"
    finally:
        if tracker is not None and run.primary:
            tracker.finalize(ended)
        leave_group()


def leave_group() -> None:
    """End this process's part in a group of several: left to the interpreter's end, gloo's threads now and then abort the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _tracker(kind: str, run: Run) -> Tracker:
    return make_tracker(kind, run.folder / "track", run.folder.name)


def optional_run(out: str | None, recipe: BaseModel, *, resume: bool = False) -> AbstractContextManager[Run | None]:
    """Return the context of the run in the folder of --out, of none without one. Raises InputError for --resume without --out."""
    if out is None:
        require(not resume, "resume", "come with --out, the folder to continue in", "none")
        return nullcontext()
    return Run.open(out, recipe, resume=resume, command=command_line())


@contextmanager
def threads(count: int | None, devices: int = 1) -> Generator[None]:
    """Return a context with so many CPU threads for torch; several processes take one each unless told otherwise."""
    before = torch.get_num_threads()
    wanted = count if count is not None else (1 if devices > 1 else before)
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
