"""A run on Weights & Biases: online when logged in, offline otherwise; without a question, without a long wait."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from wandb.sdk.lib.runid import generate_id

from hybrid_ir.composition import parse_settings
from hybrid_ir.config import HubDatasetConfig, ParallelJsonlConfig, SentencePairsConfig, TrainConfig
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER
from hybrid_ir.launching.sweep import job_names
from hybrid_ir.run_folder import SUMMARY_FILE
from hybrid_ir.tracking.loggers import Values
from hybrid_ir.tracking.tables import Table
from hybrid_ir.tracking.wandb_start import (
    FINISH_SECONDS,
    INIT_SECONDS,
    STEP,
    agents_run,
    begin,
    is_unsent,
    offline_line,
    parts_of,
    put_aside,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("hybrid_ir")

MAX_NAME = 128
MAX_TAG = 64
_MEASURED = ("wall_seconds", "samples_per_second", "drawn_mono_share", "masked_share")
"""What ``summary.json`` says of a complete run beside its results."""
_NOT_IN_NAME = {"output_dir", "resume", "dry_run", "threads", "sweep", "logger", "launcher"}
"""Settings, or sections of them, that say nothing about what is trained."""
_FOLDERS = re.compile(r"""[^=,\[\]'"]*/|['"]""")
"""What stands before the last part of a path, also of each path in a list; and quotes."""


class WandbRun(WandbLogger):
    """Lightning's logger of Weights & Biases, for a run that may go on after a kill, and does not end where it fails.

    Args:
        run_dir: the run's folder; the files are in ``wandb/``.
        mode: ``online``, ``offline`` or ``disabled``.
        settings: further arguments of ``wandb.init``.
    """

    def __init__(self, run_dir: Path, mode: str, **settings: Any) -> None:
        timeouts = wandb.Settings(init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
        super().__init__(save_dir=str(run_dir), mode=mode, resume="allow", settings=timeouts, **settings)
        self.mode, self.run_dir = mode, run_dir
        self._reached = -1
        self._last: dict[str, Any] = {}
        self._summary: dict[str, dict[str, float]] = {}
        self._superseded: list[Path] = []
        self._failed = False

    def continue_from(self, before: Sequence[Values], parts: Sequence[Path]) -> None:
        """Sends what is missing of what earlier starts of the run have logged, and leaves out what is there.

        Args:
            before: what they have logged, up to the checkpoint.
            parts: folders of what they have sent or kept.
        """
        run = self.experiment
        if run.resumed:  # the server knows it, and may have rows from beyond the checkpoint
            for name, value in dict(run.summary).items():
                self._last[name] = value.get("last") if hasattr(value, "get") else value
            self._reached = int(self._last.get(STEP, -1))
        elif self.mode != "online" and not all(map(is_unsent, parts)):
            return  # a server knows it that cannot be asked
        self._superseded = [part for part in parts if is_unsent(part)]  # this start has all that they have
        for values in before:
            self.log_metrics(values.metrics, values.step)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        macro_means = [name for name in metrics if name.startswith("val/") and name.count("/") == 3]
        for name in macro_means:
            best = min if name.rpartition("/")[2] in LOWER_IS_BETTER else max
            if name not in self._summary:
                summary = f"{best.__name__},last"
                self._send(partial(self.experiment.define_metric, name, step_metric=STEP, summary=summary))
            before = self._summary.get(name, {}).get(best.__name__, metrics[name])
            self._summary[name] = {best.__name__: best(metrics[name], before), "last": metrics[name]}
        if step is None or step > self._reached or (step == self._reached and not self._is_there(metrics)):
            self._send(partial(super().log_metrics, metrics, step))

    def log_table_of(self, table: Table, step: int) -> None:
        self.log_table(table.name, columns=list(table.columns), data=[list(row) for row in table.rows], step=step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        from hybrid_ir.evaluation.figures import pixels

        self.log_image(name, [pixels(figure)], step=step)

    def _send(self, action: Callable[[], Any]) -> None:
        """Does something in which the network, or the service beside this process, may fail: a page that somebody looks
        at is not worth a trained model, and the curves are in the CSV too."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # of many kinds, from several libraries
            self._failed = True
            log.warning("Weights & Biases failed (%r); the run goes on without it", error)

    def _is_there(self, metrics: dict[str, Any]) -> bool:
        """Whether values of the last step that the server has are those that it has."""
        return all(name in self._last and self._last[name] == value for name, value in metrics.items())

    def _complete_summary(self, exit_code: int) -> None:
        if self.experiment.resumed:  # the best value is otherwise that since the resume
            self.experiment.summary.update(self._summary)
        if exit_code == 0:
            measured = json.loads((self.run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
            self.experiment.summary.update({f"measured/{name}": measured[name] for name in _MEASURED})

    def finish(self, exit_code: int) -> None:
        self._send(partial(self._complete_summary, exit_code))
        self._failed = False  # what was logged before a failure is still to be kept
        self._send(partial(self.experiment.finish, exit_code=exit_code))
        for part in self._superseded:
            self._send(partial(put_aside, part))


def start_wandb(
    config: TrainConfig, overrides: Sequence[str], run_dir: Path, before: Sequence[Values], console: Console
) -> WandbRun:
    """Begins the run on Weights & Biases, or goes on with it.

    Args:
        config: its configuration.
        overrides: its settings as they were given.
        run_dir: its folder.
        before: what earlier starts of it have logged, up to the checkpoint.
        console: where it is said why the run is offline.

    Raises:
        UserError: a setting is not accepted, or a variable of the environment has an API key that would be shown.
    """
    settings = {
        "project": config.logger.project,
        "entity": config.logger.entity,
        "group": config.logger.group,
        "name": run_name(overrides, run_dir),
        "tags": run_tags(config),
        "config": config.model_dump(mode="json"),
    }
    parts = parts_of(run_dir)

    def start(mode: str, run_id: str) -> WandbRun:
        run = WandbRun(run_dir, mode, id=run_id, **settings)
        _ = run.experiment  # begins the run
        return run

    run, reason = begin(run_dir, agents_run() or generate_id(), start)  # an agent's process joins the run that it began
    if reason is not None:
        console.print(offline_line(run_dir, reason), highlight=False, markup=False)
    run.continue_from(before, parts)
    return run


def run_name(overrides: Iterable[str], run_dir: Path) -> str:
    """The name of a run: the folder's where settings name it, as in a sweep; else the settings that were given, as a
    sweep would name its folder; else the folder's. At most ``MAX_NAME`` characters."""
    kept: dict[str, str] = {}
    for setting in overrides:
        key = str(parse_settings([setting])[0].key_or_group).replace("/", ".")
        if key.partition(".")[0] not in _NOT_IN_NAME:
            kept[key] = f"{key}={_FOLDERS.sub('', setting.partition('=')[2])}"
    name = run_dir.name
    if "=" not in name and kept:
        (name,) = job_names([list(kept.values())], set(kept))
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 11]},{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    return name


def run_tags(config: TrainConfig) -> list[str]:
    """Batching, ratio, seed, model and data of a run, and the tags that the configuration adds."""
    model = config.model.kind if config.model.kind == "small" else Path(config.model.name_or_path).name
    data: str = config.data.source
    if isinstance(config.data, ParallelJsonlConfig | SentencePairsConfig | HubDatasetConfig):
        paths = [config.data.path] if isinstance(config.data.path, str) else config.data.path
        data = "+".join(Path(path).name for path in paths)
    elif config.data.source == "mixture":
        data = "+".join(config.data.parts)
    made = [
        config.sampler.preset,
        f"mono_ratio={config.sampler.mono_ratio:g}",
        f"seed={config.seed}",
        f"model={model}",
        f"data={data}",
    ]
    return list(dict.fromkeys(tag[:MAX_TAG] for tag in [*made, *config.logger.tags]))
