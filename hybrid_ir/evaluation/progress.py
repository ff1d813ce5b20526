"""How far an evaluation is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class EvaluationProgress:
    """Shows what it is called with; quick evaluations show nothing in a log.

    Args:
        console: where to.
        name: of the benchmark.
    """

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self._bar: Progress | None = None
        self._tasks: dict[str, int] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> EvaluationProgress:
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """``what`` is done up to ``done`` of ``total``."""
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = int(self._bar.add_task(f"{self.name}: {what}", total=total))
            self._bar.update(self._tasks[what], completed=done)  # type: ignore[arg-type]
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.console.print(f"{self.name}: {what}, {done:,} of {total:,}", highlight=False)
            self._last_line = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
