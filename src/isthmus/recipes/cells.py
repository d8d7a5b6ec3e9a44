"""`Cell`: one recipe of a study in a folder of its own; many of them, in order or side by side, each run once."""

import fnmatch
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from time import perf_counter
from traceback import extract_tb
from types import FrameType, TracebackType
from typing import Literal, Self, cast

import torch
from lightning_fabric import Fabric
from pydantic import ValidationError

from isthmus._check import InputError, require
from isthmus.files import read_json
from isthmus.recipes.kinds import KINDS, Part
from isthmus.runs import MANIFEST, Run
from isthmus.training.session import Session

CELLS = "cells"
WHOLE = ("done", "criteria_not_met", "inconclusive")  # how a run ends that came to an end
PATIENCE = 60.0  # seconds that an interrupted process has to leave its folder valid

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """A recipe under a name. Files it takes from other cells are given relative to the study's folder, see :func:`output`."""

    name: str
    recipe: Part

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the cells whose files it reads."""
        places = [Path(path).parts for path in _inputs(self.recipe)]
        return tuple(parts[1] for parts in places if len(parts) > 1 and parts[0] == CELLS)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: done now, held (it was there already), failed, or left, because it needs one that failed."""

    name: str
    status: Literal["done", "held", "failed", "left"]
    seconds: float = 0.0
    reason: str = ""


def output(cell: str, file: str) -> str:
    """Return the path of a cell's output in the study's folder.

    >>> output("regular-0", "model.safetensors")
    'cells/regular-0/model.safetensors'
    """
    return f"{CELLS}/{cell}/{file}"


def chosen(waves: Sequence[Sequence[Cell]], only: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves with the cells alone whose name matches one of the patterns of `only` (`*`, `?`, `[...]`), and what those need.

    Raises InputError for a pattern that matches none.
    """
    cells = {cell.name: cell for wave in waves for cell in wave}
    wanted: set[str] = set()
    for pattern in only:
        found = fnmatch.filter(cells, pattern)
        some = f"such as {next(iter(cells))!r}"
        require(
            len(found) > 0, "only", f"match the name of a cell, {some}", repr(pattern), "`cells/` holds those that ran."
        )
        wanted.update(found)
    waiting = deque(wanted)
    while waiting:
        new = set(cells[waiting.popleft()].needs) - wanted
        wanted |= new
        waiting.extend(new)
    return tuple(tuple(cell for cell in wave if cell.name in wanted) for wave in waves)


def finished(cell: Cell, folder: Path) -> bool:
    """Return whether the cell's result is in the study's `folder`, whole."""
    place = folder / CELLS / cell.name
    if not (place / MANIFEST).is_file() or not (place / KINDS[type(cell.recipe)].result).is_file():
        return False
    held = read_json(place / MANIFEST)
    return isinstance(held, dict) and cast(dict[str, object], held).get("status") in WHOLE


def seconds_of(cell: Cell, folder: Path) -> float:
    """Return the seconds that a finished cell took, when it was last taken up."""
    held = cast(dict[str, float], read_json(folder / CELLS / cell.name / MANIFEST))
    return float(held.get("seconds", 0.0))


def run_cell(cell: Cell, folder: Path, *, session: Session | None = None) -> Outcome:
    """Return how the cell ended, after running its recipe in `folder`/cells/NAME, or going on where it was left.

    A finished cell of an equal recipe is left as it is. Whatever goes wrong is the outcome's reason; only Ctrl-C is passed on.
    """
    began = perf_counter()
    try:
        with Run.open(folder / CELLS / cell.name, cell.recipe, resume=True, command=("isthmus", "reproduce")) as run:
            if finished(cell, folder):
                return Outcome(cell.name, "held")
            _run(_placed(cell.recipe, folder), run, session or Session())
            run.discard("checkpoint.pt")  # only now: until here it is what the cell would go on from
    except Exception as error:  # whatever it is, the other cells go on
        return Outcome(cell.name, "failed", perf_counter() - began, _reason(error))
    return Outcome(cell.name, "done", perf_counter() - began)


def run_cells(
    waves: Sequence[Sequence[Cell]], folder: Path, *, jobs: int = 1, tell: Tell, session: Session | None = None
) -> tuple[Outcome, ...]:
    """Return the outcome of every cell, wave after wave: a wave may read what those before it wrote.

    With `jobs` > 1 the cells of a wave run in so many processes with one torch thread each, and `session` is not used. A cell that
    fails, or whose process dies, leaves the others alone; those that need it are left out. Ctrl-C leaves every folder valid.
    Raises InputError for jobs below 1, for two cells of one name and for a cell that needs one of its own wave or a later one.
    """
    require(jobs >= 1, "jobs", "be at least 1", jobs)
    _require_order(waves)
    total, outcomes = sum(map(len, waves)), dict[str, Outcome]()

    def note(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        if outcome.status != "held":
            how = f"{outcome.seconds:.1f} s" if outcome.status == "done" else f"{outcome.status}, {outcome.reason}"
            tell(f"{outcome.name} ({len(outcomes)} of {total}): {how}")

    with _Crew(folder, jobs) as crew:
        for wave in waves:
            ready: list[Cell] = []
            for cell in wave:
                lacking = next((n for n in cell.needs if outcomes[n].status in ("failed", "left")), None)
                if lacking is not None:
                    note(Outcome(cell.name, "left", reason=f"it needs {lacking}"))
                elif finished(cell, folder) or jobs == 1:  # a look at what is there is not worth a process
                    if not finished(cell, folder) and session is not None:
                        session.tell(cell.name)
                    note(run_cell(cell, folder, session=session))
                else:
                    ready.append(cell)
            crew.run(ready, note)
    return tuple(outcomes[cell.name] for wave in waves for cell in wave)


def _require_order(waves: Sequence[Sequence[Cell]]) -> None:
    before: set[str] = set()
    for wave in waves:
        for cell in wave:
            later = next((name for name in cell.needs if name not in before), None)
            require(later is None, "waves", f"have what {cell.name!r} needs in an earlier one", repr(later))
        for cell in wave:
            require(cell.name not in before, "waves", "have each name once", f"{cell.name!r} twice")
            before.add(cell.name)


def _inputs(recipe: Part) -> tuple[str, ...]:
    held = [getattr(recipe, name) for name in KINDS[type(recipe)].inputs]
    return tuple(path for paths in held for path in ((paths,) if isinstance(paths, str) else paths or ()))


def _placed(recipe: Part, folder: Path) -> Part:
    """Return the recipe with the paths of its inputs as they are from here; stored recipes do not say where the study lies."""
    moved: dict[str, object] = {}
    for name in KINDS[type(recipe)].inputs:
        paths: str | tuple[str, ...] | None = getattr(recipe, name)
        if paths is not None:
            moved[name] = str(folder / paths) if isinstance(paths, str) else tuple(str(folder / path) for path in paths)
    return recipe.model_copy(update=moved)


def _run(recipe: Part, run: Run, session: Session) -> None:
    kind = KINDS[type(recipe)]
    if kind.precision is not None:
        fabric = session.fabric or Fabric(accelerator="auto", devices=1, precision=kind.precision(recipe))
        run.device = str(fabric.device)
        session = replace(session, fabric=fabric)
    kind.run(recipe, run, session)


def _reason(error: Exception) -> str:
    """Return what went wrong in one line; for what is no fault of the settings, with the place in the code."""
    if isinstance(error, InputError | ValidationError):
        return " ".join(str(error).split())
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + place


class _Crew:
    """Processes that run cells, each one cell at a time. None is started before there is something to do."""

    def __init__(self, folder: Path, jobs: int):
        self.folder, self.jobs = folder, jobs
        self.busy: dict[Connection, tuple[BaseProcess, Cell]] = {}
        self.idle: list[tuple[Connection, BaseProcess]] = []

    def run(self, cells: Sequence[Cell], note: Callable[[Outcome], None]) -> None:
        """Run the cells and note each outcome as it arrives."""
        waiting = deque(cells)
        while waiting or self.busy:
            while waiting and len(self.busy) < self.jobs:
                connection, process = self.idle.pop() if self.idle else self._start()
                connection.send(waiting[0])
                self.busy[connection] = (process, waiting.popleft())
            for connection in cast(list[Connection], wait(list(self.busy))):
                process, cell = self.busy.pop(connection)
                try:
                    note(connection.recv())
                except (EOFError, OSError):
                    process.join()
                    note(Outcome(cell.name, "failed", reason=f"its process ended with exit code {process.exitcode}"))
                else:
                    self.idle.append((connection, process))

    def _start(self) -> tuple[Connection, BaseProcess]:
        context = get_context("spawn")  # not fork: torch and CUDA do not survive one
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.folder), daemon=True)
        process.start()
        there.close()  # or the end of the process would never be seen
        return here, process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send everybody home; who is at work is interrupted and has the time to say so in its folder."""
        for connection, _ in self.idle:
            with suppress(OSError):
                connection.send(None)
        working = [process for process, _ in self.busy.values()]
        for process in working:
            if os.name == "posix" and process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
            else:
                process.terminate()
        for process in [*working, *(process for _, process in self.idle)]:
            process.join(PATIENCE)
            if process.is_alive():
                process.terminate()


def _work(connection: Connection, folder: Path) -> None:
    """Run the cells that arrive, until None does; the whole life of a process."""
    signal.signal(signal.SIGINT, _interrupted)
    Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)  # several processes with several threads each are slower than one alone
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while (cell := connection.recv()) is not None:
            connection.send(run_cell(cell, folder))


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # A terminal interrupts us and the parent, and the parent tells us once more: that should not cut short what we write down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    """Interrupt this process when the one that started it is gone, killed perhaps."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        signal.raise_signal(signal.SIGINT)
