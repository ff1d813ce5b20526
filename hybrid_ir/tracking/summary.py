"""``python -m hybrid_ir.tracking.summary SWEEP ...``: what the jobs of a sweep show together, as a run of its own on
Weights & Biases: aggregated tables, curves over the ratio, maps of language pairs, language bias, exposure, jobs.

The run's id and files are in the sweep's folder, so that the same command of a sweep that has grown goes on with the
same run. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import wandb
from wandb.sdk.lib.runid import generate_id

from hybrid_ir.analysis import plots
from hybrid_ir.analysis.aggregate import read_and_aggregate
from hybrid_ir.analysis.aggregation import Aggregate, exposure, language_bias
from hybrid_ir.analysis.arguments import Parser, output_folder
from hybrid_ir.analysis.sweep_tables import bias_record, estimate_record, exposure_record, job_record, primary
from hybrid_ir.analysis.tables import SETTING_NAMES, metric_name
from hybrid_ir.cli import report_errors
from hybrid_ir.config import LoggerConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation.results import logged_metric
from hybrid_ir.tracking.wandb_start import (
    FINISH_SECONDS,
    INIT_SECONDS,
    SUMMARY_JOB,
    begin,
    chosen_mode,
    is_unsent,
    offline_line,
    parts_of,
    put_aside,
)

_DESCRIPTION = """A run on Weights & Biases that says what the jobs of a sweep show together: tables, curves and maps.

A sweep whose jobs log to Weights & Biases makes it at its end. The same command again updates the same run.

  python -m hybrid_ir.tracking.summary sweeps/ratios
  python -m hybrid_ir.tracking.summary sweeps/ratios sweeps/more_seeds --output both --project ratios --mode offline
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def log_summary(
    found: Aggregate, folder: Path, project: str, entity: str | None, group: str, mode: str | None = None
) -> str:
    """Makes or updates the run of a sweep.

    Args:
        found: what its jobs show.
        folder: has the run's id and its files, in ``wandb/``; its name is the run's.
        project: of Weights & Biases.
        entity: None takes the user's own.
        group: of the jobs.
        mode: ``online``, ``offline``; None asks the environment.

    Returns:
        Where the run is, on one line.

    Raises:
        UserError: a setting is not accepted, a variable of the environment has an API key that would be shown, or the
            server takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = parts_of(folder)
    start = partial(_start, found, folder, project=project, entity=entity, group=group)
    run, reason = begin(folder, generate_id(), start, mode)
    try:
        with run, TemporaryDirectory() as scratch:
            run.log({**_tables(found), **_curves(found), **_figures(found, Path(scratch))})
    except TimeoutError:
        raise UserError(
            f"Weights & Biases: the upload has not ended after {FINISH_SECONDS:g} s; go on with: wandb sync "
            f"--include-online {folder / 'wandb'}"
        ) from None
    for part in filter(is_unsent, before):
        put_aside(part)  # the run has all that it has
    return offline_line(folder, reason or "offline") if run.offline else f"Weights & Biases: {run.url}"


def _start(
    found: Aggregate, folder: Path, mode: str, run_id: str, project: str, entity: str | None, group: str
) -> wandb.Run:
    sweep = found.sweep
    return wandb.init(
        project=project,
        entity=entity,
        group=group,
        job_type=SUMMARY_JOB,
        tags=[SUMMARY_JOB],
        name=folder.resolve().name,
        id=run_id,
        resume="allow",
        dir=str(folder),
        mode=cast(Literal["online", "offline"], mode),
        config={
            "sweeps": [path.resolve().name for path in sweep.folders],
            "jobs": len(sweep.jobs),
            "complete": len(sweep.jobs) - len(sweep.incomplete()),
            "swept": list(sweep.swept),
            "benchmarks": list(found.benchmarks),
            "metrics": list(found.metrics),
            "notes": list(found.notes),
        },
        allow_val_change=True,  # a sweep may have grown
        settings=wandb.Settings(
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            silent=True,
            console="off",
            x_disable_stats=True,  # the machine's load while tables are written tells nothing
        ),
    )


# ------------------------------------------------------------------------------------------------- what the run shows


def _tables(found: Aggregate) -> dict[str, wandb.Table]:
    """The tables of ``analysis.aggregate``, means of language pairs apart and of the primary metric alone: there are
    more of them than of all others."""
    records = {
        "aggregate": [estimate_record(found, e) for e in found.estimates if e.statistic.scope != "pair"],
        "jobs": [job_record(found, job) for job in found.sweep.jobs],
        "exposure": [exposure_record(found, row) for row in exposure(found)],
        "language_bias": [bias_record(found, row) for row in language_bias(found)],
    }
    for benchmark in found.benchmarks:
        metric = primary(found, benchmark)
        records[f"{benchmark}/language_pairs"] = [
            estimate_record(found, e)
            for e in found.estimates
            if (e.benchmark, e.metric, e.statistic.scope) == (benchmark, metric, "pair")
        ]
    return {f"{SUMMARY_JOB}/{name}": _table(rows) for name, rows in records.items() if rows}


def _curves(found: Aggregate) -> dict[str, Any]:
    """Macro means against the ratio as charts that Weights & Biases draws, a line for each setting; none where the x
    axis is not the ratio."""
    across = plots.Across.of(found)
    charts = {}
    for benchmark in found.benchmarks if across.numeric else ():
        metric = primary(found, benchmark)
        column = logged_metric(metric)
        rows = [
            {
                "ratio": across.places[group],
                column: estimate.value,
                "line": ", ".join(filter(None, (SETTING_NAMES[setting], variant))),
                "low": estimate.low,
                "high": estimate.high,
                "seeds": len(estimate.per_seed),
            }
            for setting in found.settings(benchmark, metric)
            for variant, groups in across.lines.items()
            for group in groups
            if (estimate := found.get(group, benchmark, setting, metric)) is not None
        ]
        title = f"{benchmark}: {metric_name(metric)} against the share of monolingual batches"
        charts[f"{SUMMARY_JOB}/{benchmark}/curve"] = wandb.plot.line(_table(rows), "ratio", column, "line", title)
    return charts


def _figures(found: Aggregate, scratch: Path) -> dict[str, wandb.Image]:
    """The figures of the report as images."""
    images = {}
    for benchmark in found.benchmarks:
        for plot in plots.of_benchmark(found, benchmark):
            image, _ = plot.save(scratch)
            name = plot.name.removesuffix(f".{benchmark}")
            images[f"{SUMMARY_JOB}/{benchmark}/{name}"] = wandb.Image(str(image), caption=plot.caption)
    return images


def _table(rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    columns = list(rows[0])
    # swept values may be of several types
    return wandb.Table(columns, [[row[name] for name in columns] for row in rows], allow_mixed_types=True)


# ---------------------------------------------------------------------------------------------------------- command


def _run(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    folder = output_folder(options.output, options.sweeps)
    wandb.setup(wandb.Settings(silent=True))  # one line says where the run is
    mode, _ = chosen_mode(options.mode)
    if mode not in ("online", "offline"):
        print(f"Weights & Biases: WANDB_MODE={mode}, no summary is made")
        return 0
    found = read_and_aggregate(options)
    project = options.project or _of_jobs(found, "project") or LoggerConfig().project
    entity = options.entity or _of_jobs(found, "entity")
    groups = _values(found, "group")
    group = groups[0] if len(groups) == 1 else folder.resolve().name
    print(log_summary(found, folder, project, entity, group, options.mode))
    return 0


def _of_jobs(found: Aggregate, key: str) -> str | None:
    """Where the jobs log to.

    Raises:
        ConfigError: to several places.
    """
    values = _values(found, key)
    if len(values) > 1:
        raise ConfigError(f"--{key}: the jobs log to {', '.join(values)}; name one")
    return values[0] if values else None


def _values(found: Aggregate, key: str) -> list[str]:
    """Values of a key of the jobs' ``logger``; evaluations have none."""
    jobs = [job for of_group in found.groups.values() for job in of_group]
    return list(dict.fromkeys(str(value) for job in jobs if (value := job.config.get(f"logger.{key}")) is not None))


def _parser() -> Parser:
    parser = Parser("hybrid_ir.tracking.summary", _DESCRIPTION)
    parser.add_sweeps()
    parser.add_argument("--project", metavar="NAME", help="of Weights & Biases (default: that of the jobs)")
    parser.add_argument("--entity", metavar="NAME", help="of Weights & Biases (default: that of the jobs)")
    parser.add_argument(
        "--mode", choices=("online", "offline"), help="default: WANDB_MODE, else online where somebody is logged in"
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the run's id and files (default: SWEEP)")
    parser.add_draws()
    return parser


if __name__ == "__main__":
    sys.exit(main())
