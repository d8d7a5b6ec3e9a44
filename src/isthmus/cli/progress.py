"""`Progress`: how far a command is, on stderr. A bar in a terminal, one line for each finished stage elsewhere."""

from collections.abc import Mapping
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", style="progress.data.speed")


class Progress:
    """A monitor of training and scans: call it as `progress(step, steps, metrics)`; `stage` names what comes next.

    A step that is lower than the one before starts a new stage under the same name.
    """

    def __init__(self, name: str, *, silent: bool = False):
        self._console = Console(stderr=True)
        self._silent = silent
        live = self._console.is_terminal and not silent
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[live]}"),
        )
        self._bars = Bars(*columns, console=self._console, disable=not live)
        self._live = live
        self._task: TaskID | None = None
        self._start(name)

    def _start(self, name: str) -> None:
        self._name, self._step, self._total = name, 0, 0
        self._metrics: Mapping[str, float] = {}
        self._began = perf_counter()

    def stage(self, name: str) -> None:
        """End the stage and start the next one."""
        self._end()
        self._start(name)

    def __call__(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` of `steps` is done, with the latest metrics."""
        if step < self._step:
            self.stage(self._name)
        self._step, self._total, self._metrics = step, steps, metrics
        if self._task is None:
            self._task = self._bars.add_task(self._name, total=steps, live="")
        self._bars.update(self._task, completed=step, total=steps, live=_shown(metrics))

    def _end(self) -> None:
        self._task = None
        if self._step and not self._live and not self._silent:
            seconds = perf_counter() - self._began
            text = f"{self._name}: {self._step} of {self._total} in {seconds:.1f} s, {_shown(self._metrics)}"
            self._console.print(text.rstrip(", "), soft_wrap=True, highlight=False, markup=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the terminal back in order; an unfinished stage gets no line, its error speaks for it."""
        self._bars.stop()
        if kind is None:
            self._end()


def _shown(metrics: Mapping[str, float]) -> str:
    parts: list[str] = []
    for name, value in metrics.items():
        percent = name.endswith(("error", "success"))
        if percent or name.endswith("loss"):
            parts.append(f"{name.replace('_', ' ')} {value:.3g}{' %' if percent else ''}")
    return ", ".join(parts)
