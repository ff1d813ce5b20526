"""How far a preparation is: a bar on a terminal, a line now and then in a log; nothing of one that takes seconds."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class RowsProgress:
    """Shows rows, rows a second and, where the share that is done is known, the time left; on the error stream.

    Args:
        what: is being done.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None, rows=0, rate=0.0)
        self._rows = 0
        self._begin = self._last_line = time.monotonic()

    def __enter__(self) -> RowsProgress:
        self._bar.start()
        return self

    def __call__(self, rows: int, share: float | None) -> None:
        """Some more rows are done.

        Args:
            rows: how many.
            share: of all that there is to do, done so far; None where nobody knows.
        """
        self._rows += rows
        now = time.monotonic()
        passed = max(now - self._begin, 1e-9)
        rate = self._rows / passed
        total = None if share is None else 1.0
        self._bar.update(self._task, completed=share or 0.0, total=total, rows=self._rows, rate=rate)
        if not self._console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            left = f", {share:.0%}, {passed / share - passed:,.0f} s left" if share else ""
            self._console.print(f"{self.what}: {self._rows:,} rows, {rate:,.0f}/s{left}")
            self._last_line = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
