"""What a person sees while training: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.control import Control
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hybrid_ir.run_folder import PROGRESS_FILE

WIDTH_OF_LOGS = 110
_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_REPORTS = 2.0


class TeeConsole(Console):
    """Prints to the terminal, and the same as plain text to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not self.is_terminal:
            self.width = max(self.width, WIDTH_OF_LOGS)
        self._plain = Console(
            file=path.open("a", encoding="utf-8"), width=WIDTH_OF_LOGS, color_system=None, force_terminal=False
        )

    def print(self, *objects: Any, **kwargs: Any) -> None:
        super().print(*objects, **kwargs)
        if not any(isinstance(o, Control) for o in objects):  # a moving bar redraws itself through controls
            self._plain.print(*objects, **kwargs)
            self._plain.file.flush()


class TrainingProgress(Callback):
    """Step, loss, learning rate, samples per second and time left.

    Args:
        console: where to print; a bar if it is a terminal, else a line every 15 seconds.
        batch_size: rows of the global batch.
        begin: ``time.monotonic()`` at the start of the process's work.
        run_dir: folder that ``progress.json`` is kept in, for the table of a sweep.

    Attributes:
        value: name and value of what was measured last, for that file.
    """

    def __init__(self, console: Console, batch_size: int, begin: float, run_dir: Path) -> None:
        self.console, self.batch_size = console, batch_size
        self.value: tuple[str, float] | None = None
        self._file = run_dir / PROGRESS_FILE
        self._last_report = 0.0
        self.train_seconds = 0.0
        self.steps = 0
        self._bar: Progress | None = None
        self._begin = 0.0
        self._process_begin, self._earlier_seconds = begin, 0.0
        self._last_line = 0.0

    @property
    def samples_per_second(self) -> float:
        """Over all steps of the run, evaluation left out."""
        return self.steps * self.batch_size / self.train_seconds if self.train_seconds else 0.0

    @property
    def wall_seconds(self) -> float:
        """Of the whole run: this process and, up to the checkpoint that it resumed from, those before."""
        return self._earlier_seconds + time.monotonic() - self._process_begin

    def state_dict(self) -> dict[str, Any]:
        return {"train_seconds": self.train_seconds, "steps": self.steps, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_seconds, self.steps = state_dict["train_seconds"], state_dict["steps"]
        self._earlier_seconds = state_dict["wall_seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_line = time.monotonic()
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]:.3f}  lr {task.fields[lr]:.1e}  {task.fields[rate]:.0f} samples/s"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, loss=0.0, lr=0.0, rate=0.0)
            self._bar.start()

    def on_train_batch_start(self, *_: Any) -> None:
        self._begin = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        now = time.monotonic()
        self.train_seconds += now - self._begin
        self.steps += 1
        if not trainer.is_global_zero:
            return
        step, total = trainer.global_step, trainer.max_steps
        left = (total - step) * self.train_seconds / max(self.steps, 1)
        if now - self._last_report >= _SECONDS_BETWEEN_REPORTS or step == total:
            self._last_report = now
            self._report(step, total, left, _loss(outputs))
        if self._bar is None and now - self._last_line < _SECONDS_BETWEEN_LINES and step not in (1, total):
            return
        if self._bar is not None and step % 5 and step != total:  # reading the loss waits for the device
            return
        loss = _loss(outputs)
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, loss=loss, lr=rate, rate=self.samples_per_second)
            return
        self._last_line = now
        self.console.print(
            f"step {step}/{total}  loss {loss:.3f}  lr {rate:.1e}  {self.samples_per_second:.0f} samples/s  "
            f"about {left / 60:.1f} min left",
            highlight=False,
        )

    def _report(self, step: int, total: int, left: float, loss: float) -> None:
        said = {"step": step, "max_steps": total, "seconds_left": round(left, 1), "loss": loss, "value": self.value}
        part = self._file.with_name(f".{PROGRESS_FILE}.partial")
        try:
            part.write_text(json.dumps(said), encoding="utf-8")
            part.replace(self._file)
        except OSError:  # a full disk is for the next checkpoint to report
            part.unlink(missing_ok=True)

    def stop(self) -> None:
        """Takes the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stop()
        if trainer.is_global_zero:
            self._file.unlink(missing_ok=True)


def _loss(outputs: Any) -> float:
    return float(outputs["loss"]) if isinstance(outputs, dict) else float(outputs)
