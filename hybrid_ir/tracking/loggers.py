"""Where a run's curves, tables and figures go: a tidy CSV that a resume continues, Weights & Biases, TensorBoard.

The CSV is written beside the other two, and a resume continues it exactly. The others are filled from it then: a
process that is killed takes along what it had not sent.
"""

from __future__ import annotations

import csv
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from hybrid_ir.cache import write_atomic
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.results import Results
from hybrid_ir.launching.ranks import global_rank
from hybrid_ir.run_folder import to_yaml
from hybrid_ir.tracking.tables import Table, bias_table, exposure_table, pair_table, result_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.csv"
_HEADER = ["step", "name", "value"]


class Values(NamedTuple):
    """What was logged at one step in one call."""

    step: int
    metrics: dict[str, float]


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
        self.before: list[Values] = []
        """What earlier starts of the run have logged, in order; train/... apart from the rest of a step."""
        self._written: set[tuple[int, str]] = set()
        if resume_step is not None and path.exists() and rank_zero_only.rank == 0:
            with path.open(newline="") as file:
                lines = file.read().split("\n")[1:-1]  # behind the last line end: nothing, or a line cut off by a kill
            rows = [row for row in csv.reader(lines) if int(row[0]) <= resume_step]
            self._written = {(int(row[0]), row[1]) for row in rows if int(row[0]) == resume_step}
            for (step, _), same in groupby(rows, lambda row: (int(row[0]), row[1].startswith("train/"))):
                self.before.append(Values(step, {name: float(value) for _, name, value in same}))
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

    def fresh(self, metrics: Mapping[str, float], step: int | None) -> dict[str, float]:
        """Those of some values that no earlier start of the run has logged."""
        return {
            name: float(value)
            for name, value in metrics.items()
            if name != "epoch" and (step, name) not in self._written
        }

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows: list[list[Any]] = [] if self.path.exists() else [_HEADER]
        rows += [[step, name, repr(value)] for name, value in self.fresh(metrics, step).items()]
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)  # in one call, which no signal interrupts
        except OSError as error:
            error.filename = str(self.path)  # which a failed write does not know
            raise


class Viewer(Protocol):
    """A place where somebody looks at a run: it shows curves, tables and figures."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """A point of each curve."""

    def log_table_of(self, table: Table, step: int) -> None:
        """A table, under its name."""

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """A figure, as an image."""

    def finish(self, exit_code: int) -> None:
        """Ends the run there; nothing is logged afterwards."""


class TensorBoardRun(TensorBoardLogger):
    """TensorBoard's event files in ``tensorboard/`` of the run's folder.

    A run that goes on writes its curves anew: a process that is killed leaves the last minutes of its events unwritten,
    and others behind the checkpoint.

    Args:
        config: shown as text.
        run_dir: the run's folder.
        before: what earlier starts of the run have logged.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, config: TrainConfig, run_dir: Path, before: Sequence[Values]) -> None:
        try:
            super().__init__(save_dir=str(run_dir), name="", version="tensorboard")
        except ModuleNotFoundError as error:
            raise UserError(f"logger=tensorboard: {error}; pip install 'hybrid-ir[tensorboard]'") from None
        for file in (run_dir / "tensorboard").glob("events.*"):
            file.unlink()
        self.experiment.add_text("config", textwrap.indent(to_yaml(config), "    "), global_step=0)  # Markdown's code
        for values in before:
            self.log_metrics(values.metrics, values.step)

    def log_table_of(self, table: Table, step: int) -> None:
        self.experiment.add_text(table.name, table.markdown(), global_step=step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        from hybrid_ir.evaluation.figures import pixels

        self.experiment.add_image(name, pixels(figure), global_step=step, dataformats="HWC")

    def finish(self, exit_code: int) -> None:
        self.finalize("success" if exit_code == 0 else "failed")


class RunLogger(Logger):
    """The logger of a run: the CSV, and where else its curves go.

    Args:
        table: the CSV.
        viewer: Weights & Biases or TensorBoard; None for the CSV alone.
    """

    def __init__(self, table: TidyCsvLogger, viewer: Viewer | None) -> None:
        super().__init__()
        self.table, self.viewer = table, viewer

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def version(self) -> str:
        return self.table.version

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration was logged at the start."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.table.log_metrics(metrics, step)
        values = self.table.fresh(metrics, step)
        if self.viewer is not None and values:
            self.viewer.log_metrics(values, step)

    def log_tables(self, results: Results, exposure: Sequence[Mapping[str, Any]], step: int) -> None:
        """Shows the finished model's tables and figures, where they can be shown.

        Args:
            results: of the finished model.
            exposure: a row for each language; the values are curves too, of one point.
            step: training step that they are logged at.
        """
        shown = {f"exposure/{row['language']}/{k}": v for row in exposure for k, v in row.items() if k != "language"}
        self.log_metrics(shown, step)
        if self.viewer is None:
            return
        from hybrid_ir.evaluation.figures import bias_figure, pair_figure  # matplotlib takes a second to import

        tables = [*result_tables(results), exposure_table(exposure)]
        figures = {}
        for benchmark in results.benchmarks():
            pairs = results.pairs(benchmark, "map")
            if any(query != corpus for query, corpus in pairs):
                tables.append(pair_table(pairs, benchmark))
                figures[f"language_pairs/{benchmark}"] = pair_figure(pairs, benchmark)
            bias = bias_figure(results.bias, benchmark)
            if bias is not None:
                figures[f"language_bias/{benchmark}"] = bias
        if results.bias:
            tables.append(bias_table(results.bias))
        for table in tables:
            self.viewer.log_table_of(table, step)
        for name, figure in figures.items():
            self.viewer.log_figure(name, figure, step)

    def finish(self, exit_code: int) -> None:
        """Ends the run where it is looked at; without the exit code a crashed job would show as finished."""
        if self.viewer is not None:
            self.viewer.finish(exit_code)


def make_logger(
    config: TrainConfig, overrides: Sequence[str], run_dir: Path, resume_step: int | None, console: Console
) -> Any:
    """The logger that the configuration names.

    Args:
        config: of the run.
        overrides: settings of the run as they were given, of which Weights & Biases makes its name.
        run_dir: the run's folder.
        resume_step: step from which the run goes on; None for a new run.
        console: where a line is printed if Weights & Biases cannot be reached.

    Returns:
        A `RunLogger`; one that does nothing in all processes of the run but the main one; None for no logger.

    Raises:
        UserError: TensorBoard is not installed, or Weights & Biases refuses a setting.
    """
    name = config.logger.name
    if name == "none":
        return None
    if global_rank() != 0:
        return DummyLogger()
    config = config.model_copy(update={"resume": None})  # as in config.yaml
    table = TidyCsvLogger(run_dir / METRICS_FILE, resume_step)
    viewer: Viewer | None = None
    if name == "tensorboard":
        viewer = TensorBoardRun(config, run_dir, table.before)
    elif name == "wandb":
        from hybrid_ir.tracking.wandb_run import start_wandb

        viewer = start_wandb(config, overrides, run_dir, table.before, console)
    return RunLogger(table, viewer)
