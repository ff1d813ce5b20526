"""What a person sees while a sweep runs: a table that lives on a terminal, lines in a log."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hybrid_ir.run_folder import PROGRESS_FILE

if TYPE_CHECKING:
    from hybrid_ir.launching.sweep import Job

SECONDS_BETWEEN_LINES = 60.0
QUEUED = "queued"
_STYLES = {"completed": "green", "complete": "green", "running": "cyan", "interrupted": "yellow"}


@dataclass
class _Row:
    job: Job
    state: str
    began: float
    said: str = ""


class Display:
    """Jobs, their states, how far each is, and the time that is left.

    Args:
        total: jobs of the whole sweep, those of other batches included.
        parallel: jobs that run side by side.
        console: where; one that is no terminal gets lines.
    """

    def __init__(self, total: int, parallel: int = 1, console: Console | None = None) -> None:
        self.total, self.parallel = total, parallel
        self.console = console or Console(soft_wrap=True)
        self._rows: dict[str, _Row] = {}
        self._seconds: list[float] = []
        self._last = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=1, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def queued(self, job: Job, said: str) -> None:
        """A job waits for its turn in a cluster's queue."""
        self._rows[job.name] = _Row(job, QUEUED, 0.0, said)
        self._say(job, QUEUED, said)

    def started(self, job: Job, log: Path) -> None:
        """A job has been started."""
        self._rows[job.name] = _Row(job, "running", time.monotonic())
        self._say(job, "started", str(log))

    def ended(self, job: Job, state: str, said: str, seconds: float | None = None) -> None:
        """A job has ended, or is found complete.

        Args:
            job: which.
            state: how it ended.
            said: what there is to say about it.
            seconds: how long a job took that ran now; the time left is estimated from those that completed.
        """
        row = self._rows.setdefault(job.name, _Row(job, state, 0.0))
        row.state, row.said = state, said
        if seconds is not None and state == "completed":
            self._seconds.append(seconds)
        self._say(job, state, said)

    def tick(self) -> None:
        """Shows how far the running jobs are; to be called often."""
        now = time.monotonic()
        if self._live is not None:
            if now - self._last >= 1:
                self._last = now
                self._live.update(self._table())
        elif now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            for row in self._rows.values():
                if row.state == "running":
                    shown = [part for part in _progress(row.job.folder) if part]
                    self._say(row.job, "running", "  ".join(shown) or "preparing")
            left = self._left()
            if left:
                self.console.print(left, highlight=False)

    def _say(self, job: Job, state: str, said: str) -> None:
        if self._live is None:
            line = f"[{job.number + 1}/{self.total}] {state:<10} {job.name}   {said}"
            self.console.print(Text(line.rstrip()))

    def _left(self) -> str:
        """The time that the sweep still needs, once a job has shown how long one takes."""
        if not self._seconds:
            return ""
        each = sum(self._seconds) / len(self._seconds)
        now = time.monotonic()
        running = [each - (now - row.began) for row in self._rows.values() if row.state == "running"]
        begun = sum(row.state != QUEUED for row in self._rows.values())
        work = sum(max(0.0, left) for left in running) + each * (self.total - begun)
        return f"about {duration(work / self.parallel)} left"

    def _table(self) -> Table:
        ended = [row for row in self._rows.values() if row.state not in ("running", QUEUED)]
        title = f"{len(ended)} of {self.total} jobs ended"
        table = Table(title=", ".join(filter(None, [title, self._left()])), title_justify="left")
        for name in ("job", "state", "step", "last value", "left"):
            table.add_column(name, justify="left" if name in ("job", "state") else "right")
        shown = [row for row in self._rows.values() if row.state == "running"]
        shown += [row for row in self._rows.values() if row.state == QUEUED][: max(3, self.console.height // 3)]
        # what fits on a screen: those that run, and the last that ended
        for row in [*ended[-max(3, self.console.height - len(shown) - 8) :], *shown]:
            state = Text(row.state, style=_STYLES.get(row.state, "red"))
            if row.state == "running":
                step, value, left = _progress(row.job.folder)
                table.add_row(Text(row.job.name), state, step or "preparing", value, left)
            else:
                table.add_row(Text(row.job.name), state, "", row.said, "")
        return table


def _progress(folder: Path) -> tuple[str, str, str]:
    """Step, last value and time left of a running job, each as text; empty where it has not said so yet."""
    try:
        said: dict[str, Any] = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "", "", ""
    value = said.get("value")
    shown = f"{value[0]} {value[1]:.4f}" if value else f"loss {said['loss']:.3f}"
    left = "evaluating" if said["step"] == said["max_steps"] else duration(said["seconds_left"])
    return f"{said['step']:,}/{said['max_steps']:,}", shown, left


def duration(seconds: float) -> str:
    """A time in the unit that reads best, e.g. ``1.5 hours``."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"
