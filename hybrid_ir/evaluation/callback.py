"""Runs the benchmarks while training: every ``val_check_interval`` steps, logged per language."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from hybrid_ir.config import EvaluationConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.encoding import EvaluationStopped
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.results import Results
from hybrid_ir.training.checkpoint import Checkpointing
from hybrid_ir.training.interrupt import Interrupted, SignalHandler


@dataclass(frozen=True)
class Scheduled:
    """A benchmark that runs during training."""

    benchmark: Benchmark
    at_last_step: bool
    """Also after the last step; False for those that the finished model is evaluated on anyway."""


class EvaluationCallback(Callback):
    """Evaluates, logs, and offers the monitor's value to the checkpoints.

    A checkpoint knows which step was evaluated last: a run that was stopped inside an evaluation repeats it first.

    Args:
        scheduled: what to run.
        evaluation: how.
        interval: steps between evaluations; None evaluates after the last step only.
        at_start: also before the first step, on the untrained encoder.
        monitor: logged name that decides what is best, or None.
        checkpointing: takes the monitor's values.
        signals: a signal that comes while evaluating ends the run, its state saved: at once, or, where several
            processes share the work, when all have finished their shard.
        on_results: called with the results of each evaluation (on every process).
        on_begin: called before each evaluation, e.g. to take a progress bar off the screen.
    """

    def __init__(
        self,
        scheduled: Sequence[Scheduled],
        evaluation: EvaluationConfig,
        interval: int | None,
        at_start: bool,
        monitor: str | None,
        checkpointing: Checkpointing,
        signals: SignalHandler,
        on_results: Callable[[Results, int], None],
        on_begin: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.scheduled, self.evaluation, self.interval = tuple(scheduled), evaluation, interval
        self.at_start, self.monitor, self.checkpointing, self.signals = at_start, monitor, checkpointing, signals
        self.on_results, self.on_begin = on_results, on_begin
        self.evaluated_step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated_step": self.evaluated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluated_step = state_dict["evaluated_step"]

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if step == 0:
            return self.at_start
        if step >= trainer.max_steps:
            return True
        return self.interval is not None and step % self.interval == 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # before the first step, or a resumed step whose evaluation was cut off
        self.signals.deferred = trainer.world_size > 1
        with suppress(EvaluationStopped):
            if self._due(trainer) and self.evaluated_step < trainer.global_step:
                self.run(trainer, pl_module, trainer.global_step)
        if self._signalled(trainer):
            raise Interrupted(self.signals.received or signal.SIGTERM)
        self.signals.deferred = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._signalled(trainer):
            self._save_and_raise(trainer)
        if self._due(trainer):
            # several processes leave an evaluation together, or one would wait for another that is gone
            alone = trainer.world_size == 1
            self.signals.deferred = not alone
            try:
                if alone:
                    self.signals.check()
                self.run(trainer, pl_module, trainer.global_step)
            except EvaluationStopped:
                self._save_and_raise(trainer)
            except Interrupted:
                if alone:
                    self._save_and_raise(trainer)
                raise
        self.signals.deferred = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.deferred = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.deferred = False

    def _signalled(self, trainer: Trainer) -> bool:
        """Whether a signal came, on any process: a signal reaches them in different steps, and all save the same."""
        if trainer.world_size > 1:
            number = torch.tensor(self.signals.received or 0, device=trainer.strategy.root_device)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            if int(number):
                self.signals.note(int(number))
                return True
            return False  # one that came since then waits for the next step
        return self.signals.received is not None

    def _save_and_raise(self, trainer: Trainer) -> None:
        self.signals.deferred = True
        self._signalled(trainer)
        self.checkpointing.save(trainer)
        raise Interrupted(self.signals.received or signal.SIGTERM)

    def run(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Evaluates the model of a step. Collective: all processes call it.

        Raises:
            EvaluationStopped: a signal came while several processes evaluated.
        """
        last = step >= trainer.max_steps
        stop = (lambda: self.signals.received is not None) if trainer.world_size > 1 else None
        values: dict[str, float] = {}
        with module.whole_encoder() as encoder:
            for entry in self.scheduled:
                if last and not entry.at_last_step:
                    continue
                self.on_begin(entry.benchmark.name)
                results = evaluate(encoder, entry.benchmark, self.evaluation, step, should_stop=stop)
                values.update(results.logged())
                self.on_results(results, step)
        # once all are done: an evaluation that is cut off is repeated by the resume
        for logger in trainer.loggers if values else ():
            logger.log_metrics(values, step=step)
        self.evaluated_step = step
        if self.monitor is not None and self.monitor in values and step > 0:
            self.checkpointing.offer(trainer, module, values[self.monitor], step)
