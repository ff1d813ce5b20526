"""Curves: a tidy CSV that a resume continues, Weights & Biases, TensorBoard."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from dataclasses import astuple
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from hybrid_ir.cache import write_atomic
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.results import BIAS_COLUMNS, Results

_HEADER = ["step", "name", "value"]


class TidyCsvLogger(Logger):
    """Logged values as rows ``step, name, value``, appended as they come.

    Lightning's CSVLogger keeps a column for each name, rewrites its file when a name is new and deletes an earlier
    run's; a resumed run must go on in the same file.

    Args:
        path: the file.
        resume_step: rows beyond this step are removed first: the resumed run writes them again. Of this step's, it may
            write some again, which are left out then.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._written: set[tuple[str, str]] = set()
        if resume_step is not None and path.exists() and rank_zero_only.rank == 0:
            with path.open(newline="") as file:
                lines = file.read().split("\n")[1:-1]  # behind the last line end: nothing, or a line cut off by a kill
            rows = [row for row in csv.reader(lines) if int(row[0]) <= resume_step]
            self._written = {(row[0], row[1]) for row in rows if int(row[0]) == resume_step}
            write_atomic(path, "".join(",".join(row) + "\n" for row in [_HEADER, *rows]))

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        return self.path

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows: list[list[Any]] = [] if self.path.exists() else [_HEADER]
        rows += [
            [step, name, repr(float(value))]
            for name, value in metrics.items()
            if name != "epoch" and (str(step), name) not in self._written
        ]
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)  # in one call, which no signal interrupts
        except OSError as error:
            error.filename = str(self.path)  # which a failed write does not know
            raise


def make_logger(config: TrainConfig, run_dir: Path, resume_step: int | None) -> Logger | None:
    """The logger that the configuration names.

    Raises:
        UserError: TensorBoard is not installed.
    """
    c = config.logger
    if c.name == "none":
        return None
    if c.name == "csv":
        return TidyCsvLogger(run_dir / "metrics.csv", resume_step)
    if c.name == "tensorboard":
        try:
            return TensorBoardLogger(save_dir=str(run_dir), name="", version="tensorboard")
        except ModuleNotFoundError as error:
            raise UserError(f"logger=tensorboard: {error}; pip install 'hybrid-ir[tensorboard]'") from None
    return _wandb_logger(config, run_dir)


def _wandb_logger(config: TrainConfig, run_dir: Path) -> Logger:
    import wandb
    from wandb.sdk.lib.runid import generate_id

    mode = os.environ.get("WANDB_MODE")
    if mode is None:  # never ask: nobody may be watching the terminal
        mode = "online" if wandb.login(prompt=False) else "offline"
    sampler = config.sampler
    model = config.model.kind if config.model.kind == "small" else Path(config.model.name_or_path).name
    tags = [sampler.preset, f"mono_ratio={sampler.mono_ratio:g}", f"seed={config.seed}", f"model={model}"]
    run_id = run_dir / "wandb_run_id"
    if not run_id.exists():
        write_atomic(run_id, generate_id())
    logger = WandbLogger(
        project=config.logger.project,
        entity=config.logger.entity,
        group=config.logger.group,
        name=run_dir.name,
        id=run_id.read_text(),
        resume="allow",
        save_dir=str(run_dir),
        tags=[t[:64] for t in [*tags, *config.logger.tags]],
        mode=mode,
        config=config.model_dump(mode="json"),
    )
    _ = logger.experiment
    return logger


def log_language_bias(logger: Logger | None, results: Results, step: int) -> None:
    """Shows language bias where pictures can be shown: a figure for each benchmark that it was measured on (Weights &
    Biases, TensorBoard), and the rows as a table (Weights & Biases).

    Args:
        logger: another kind, or None, is given nothing: the rows are in ``language_bias.csv``.
        results: of the finished model.
        step: training step that they are logged at.
    """
    if not results.bias or not isinstance(logger, WandbLogger | TensorBoardLogger):
        return
    from hybrid_ir.evaluation.figures import bias_figure, pixels

    for benchmark in dict.fromkeys(row.benchmark for row in results.bias):
        figure = bias_figure(results.bias, benchmark)
        if figure is None:
            continue
        name = f"language_bias/{benchmark}"
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels(figure)], step=step)
        else:
            logger.experiment.add_image(name, pixels(figure), global_step=step, dataformats="HWC")
    if isinstance(logger, WandbLogger):
        rows = [list(astuple(row)) for row in results.bias]
        logger.log_table("language_bias/rows", columns=list(BIAS_COLUMNS), data=rows, step=step)


def finish(logger: Logger | None, exit_code: int) -> None:
    """Ends the logger's run; without the exit code a crashed job would show as finished on Weights & Biases."""
    if isinstance(logger, WandbLogger):
        import wandb

        wandb.finish(exit_code=exit_code)
