"""The aggregate of a sweep as files (CSV, Parquet, LaTeX) and as tables to be read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.analysis.aggregation import Aggregate, Bias, Difference, Estimate, Exposure, exposure, language_bias
from hybrid_ir.analysis.sweeps import Group, Job
from hybrid_ir.analysis.tables import (
    SETTING_NAMES,
    Grid,
    escaped,
    interval_text,
    latex,
    mark,
    metric_name,
    number,
    p_text,
    signed,
)
from hybrid_ir.cache import write_atomic
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, Setting

_DIFFERENCE = ("difference", "low", "high", "p", "p_holm", "smallest_detectable", "seeds", "seed_deviation", "interval")
_MEASURED = ("wall_seconds", "samples_per_second", "drawn_mono_share", "masked_share", "steps", "exported_step")
MARKS = (
    "▲ better, ▼ worse than the baseline: p corrected (Holm) below .05 and 0 outside the interval. No mark: no "
    "difference shown."
)
SETTINGS_EXPLAINED = (
    "Mo.: query and corpus in one language, mean over languages. Cr.: mean over ordered pairs of different languages. "
    "Mul.: all languages' documents in one pool, mean over query languages."
)


def write_tables(found: Aggregate, folder: Path) -> list[Path]:
    """Writes ``jobs.csv``, ``aggregate.csv`` and ``.parquet``, ``exposure.csv``, ``language_bias.csv`` and
    ``tables.tex`` into a folder (made if absent), each atomically.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def write(name: str, content: str | bytes) -> None:
        write_atomic(folder / name, content)
        written.append(folder / name)

    write("jobs.csv", csv_text([job_record(found, job) for job in found.sweep.jobs]))
    estimates = [estimate_record(found, estimate) for estimate in found.estimates]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(estimates), parquet, compression="zstd")
    write("aggregate.parquet", parquet.getvalue())
    write("aggregate.csv", csv_text(estimates))
    shown = exposure(found)
    if shown:
        write("exposure.csv", csv_text([exposure_record(found, row) for row in shown]))
    bias = language_bias(found)
    if bias:
        write("language_bias.csv", csv_text([bias_record(found, row) for row in bias]))
    grids = [*report_grids(found), *([exposure_grid(found, shown)] if shown else []), jobs_grid(found)]
    write(
        "tables.tex",
        f"% needs \\usepackage{{booktabs}}\n% {escaped(MARKS)}\n% {escaped(SETTINGS_EXPLAINED)}\n\n"
        + "\n".join(latex(grid) for grid in grids),
    )
    return written


def job_record(found: Aggregate, job: Job) -> dict[str, Any]:
    """A line of ``jobs.csv``."""
    return {
        "job": job.name,
        "state": job.state,
        **_group_columns(found, found.sweep.group_of(job)),
        "seed": job.seed,
        **{name: job.summary.get(name) for name in _MEASURED},
        "folder": "" if job.folder is None else str(job.folder),
        "reason": job.reason,
    }


def estimate_record(found: Aggregate, estimate: Estimate) -> dict[str, Any]:
    """A line of ``aggregate.csv``."""
    statistic = estimate.statistic
    language = statistic.language
    of_language = statistic.scope in ("language", "pair")
    groupings = {
        "family": "" if language is None or language.family == "unknown" else language.family,
        "script": "" if language is None else language.script,
        "tier": "" if language is None else language.tier or "",
    }
    if statistic.scope in groupings:
        groupings[statistic.scope] = statistic.name
    record: dict[str, Any] = {
        **_group_columns(found, estimate.group),
        "benchmark": estimate.benchmark,
        "setting": estimate.setting,
        "metric": estimate.metric,
        "scope": statistic.scope,
        "query_language": statistic.name if of_language or statistic.scope == "macro" else "",
        "corpus_language": statistic.corpus_language,
        **groupings,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": estimate.interval,
        "num_questions": estimate.num_questions,
        "seeds": len(estimate.per_seed),
        "seed_deviation": _or_none(estimate.seed_deviation),
        "pooled_seed_deviation": _or_none(estimate.pooled_seed_deviation),
    }
    for key in found.baselines:
        difference = estimate.differences.get(key)
        for name in _DIFFERENCE:
            value = None if difference is None else getattr(difference, name)
            record[f"{key}_{name}"] = _or_none(value)
    return record


def exposure_record(found: Aggregate, row: Exposure) -> dict[str, Any]:
    """A line of ``exposure.csv``."""
    return {**_group_columns(found, row.group), "language": row.language, **row.values}


def bias_record(found: Aggregate, row: Bias) -> dict[str, Any]:
    """A line of ``language_bias.csv``."""
    measured = {f.name: _or_none(getattr(row, f.name)) for f in fields(Bias) if f.name != "group"}
    return {**_group_columns(found, row.group), **measured}


def _group_columns(found: Aggregate, group: Group) -> dict[str, Any]:
    presets = {None: ""} if group.ratio is None else {None: {1.0: "x_x_mono", 0.0: "x_y"}.get(group.ratio, "hybrid")}
    return {
        "group": found.sweep.name(group),
        "ratio": group.ratio,
        "sampler": group.preset or presets[None],
        **dict(group.variant),
    }


def _or_none(value: Any) -> Any:
    """None in place of a number that is not defined: an empty field."""
    return None if isinstance(value, float) and math.isnan(value) else value


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same columns as CSV; a number that is not defined is an empty field."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _or_none(value) for name, value in row.items()} for row in rows)
    return content.getvalue()


# ------------------------------------------------------------------------------------------------------------ grids


def report_grids(found: Aggregate) -> list[Grid]:
    """Of each benchmark: macro means, groups of languages and languages on its primary metric, and all metrics."""
    grids = []
    for benchmark in found.benchmarks:
        settings = found.settings(benchmark, primary(found, benchmark))
        grids.append(macro_grid(found, benchmark))
        grids += [group_grid(found, benchmark, setting) for setting in settings]
        grids += [language_grid(found, benchmark, setting) for setting in settings]
        grids.append(metrics_grid(found, benchmark))
    return grids


def primary(found: Aggregate, benchmark: str) -> str:
    """The first metric that a benchmark has."""
    return found.metrics_of(benchmark)[0]


def macro_grid(found: Aggregate, benchmark: str, narrow: bool = False) -> Grid:
    """Macro means of each group in each setting, and how they differ from the baselines; where it is narrow, without
    the differences' intervals and what is detectable."""
    metric = primary(found, benchmark)
    kept = (0, 2) if narrow else range(4)
    head = ["setting", group_title(found), "value", "95 % interval"]
    for name in found.baselines.values():
        columns = (f"less {name}", "95 % interval", "p Holm", "detectable")
        head += [columns[i] for i in kept]
    head += ["seeds"] if narrow else ["seeds", "SD of seeds"]
    body = []
    for setting in found.settings(benchmark, metric):
        for group in found.groups:
            estimate = found.get(group, benchmark, setting, metric)
            if estimate is None:
                continue
            cells = [
                SETTING_NAMES[setting],
                found.sweep.name(group),
                number(estimate.value, metric),
                interval_text(estimate.low, estimate.high, metric),
            ]
            for key in found.baselines:
                of_baseline = _difference_cells(estimate.differences.get(key), metric)
                cells += [of_baseline[i] for i in kept]
            cells += [str(len(estimate.per_seed)), *([] if narrow else [number(estimate.seed_deviation, metric)])]
            body.append(tuple(cells))
    lower = ", lower is better" if metric in LOWER_IS_BETTER else ""
    return Grid(f"{benchmark}, {metric_name(metric)}{lower}: macro means", tuple(head), body, left=2, folding=1)


def _difference_cells(difference: Difference | None, metric: str) -> list[str]:
    if difference is None:
        return ["–"] * 4
    return [
        signed(difference.difference, metric) + mark(difference.shown, difference.difference, metric),
        interval_text(difference.low, difference.high, metric),
        p_text(difference.p_holm),
        number(difference.smallest_detectable, metric),
    ]


def language_grid(found: Aggregate, benchmark: str, setting: Setting) -> Grid:
    """Each query language's means, a column for each group."""
    metric = primary(found, benchmark)
    body = []
    for statistic in found.statistics(benchmark, setting, metric, "language"):
        of_groups = [found.get(group, benchmark, setting, metric, statistic) for group in found.groups]
        language = statistic.language
        tier = language.tier if language is not None else None
        cells = [statistic.name, tier or "–", f"{max(e.num_questions for e in of_groups if e):,}"]
        body.append((*cells, *(_marked(e, metric, found) for e in of_groups)))
    head = ("language", "tier", "questions", *(found.sweep.name(group) for group in found.groups))
    return Grid(_title(benchmark, metric, setting, found, "by query language"), head, body, left=2)


def group_grid(found: Aggregate, benchmark: str, setting: Setting) -> Grid:
    """Means over tiers, families and scripts, a column for each group of jobs."""
    metric = primary(found, benchmark)
    body = []
    for scope in ("tier", "family", "script"):
        for statistic in found.statistics(benchmark, setting, metric, scope):
            of_groups = [found.get(group, benchmark, setting, metric, statistic) for group in found.groups]
            body.append((scope, statistic.name, *(_marked(e, metric, found) for e in of_groups)))
    head = ("", "languages", *(found.sweep.name(group) for group in found.groups))
    return Grid(_title(benchmark, metric, setting, found, "by tier, family and script"), head, body, left=2)


def metrics_grid(found: Aggregate, benchmark: str) -> Grid:
    """Macro means of all metrics."""
    body = []
    for metric in found.metrics_of(benchmark):
        for setting in found.settings(benchmark, metric):
            of_groups = [found.get(group, benchmark, setting, metric) for group in found.groups]
            body.append((metric_name(metric), SETTING_NAMES[setting], *(_marked(e, metric, found) for e in of_groups)))
    head = ("metric", "setting", *(found.sweep.name(group) for group in found.groups))
    return Grid(f"{benchmark}: macro means of all metrics{_marks_are_against(found)}", head, body, left=2)


def exposure_grid(found: Aggregate, rows: Sequence[Exposure]) -> Grid:
    """Rows that the batches showed of each language, query rows and passage rows."""
    shown = {(row.group, row.language): row.values for row in rows}
    groups = [group for group in found.groups if any(row.group == group for row in rows)]
    body = []
    for language in sorted({row.language for row in rows}):
        cells = [language]
        for group in groups:
            values = shown.get((group, language))
            cells += (
                ["–"] * 2 if values is None else [f"{values[name]:,.0f}" for name in ("query_rows", "passage_rows")]
            )
        body.append(tuple(cells))
    head = [f"{found.sweep.name(group)}: {what}" for group in groups for what in ("queries", "passages")]
    return Grid("Rows that the batches showed of each language, mean over seeds", ("language", *head), body)


def jobs_grid(found: Aggregate) -> Grid:
    """The jobs, how they ended and what they took."""
    body = []
    for job in found.sweep.jobs:
        measured = job.summary
        body.append(
            (
                found.sweep.name(found.sweep.group_of(job)),
                str(job.seed),
                job.state,
                _measured(measured.get("wall_seconds"), ",.0f"),
                _measured(measured.get("samples_per_second"), ",.0f"),
                _measured(measured.get("drawn_mono_share"), ".3f"),
                _measured(measured.get("steps"), ",d"),
                _measured(measured.get("exported_step"), ",d"),
            )
        )
    head = (
        group_title(found), "seed", "state", "wall time (s)", "rows/s", "monolingual share drawn", "steps",
        "step evaluated",
    )  # fmt: skip
    return Grid("How the jobs ended, and what they took", head, body, left=3)


def group_title(found: Aggregate) -> str:
    """What the groups are called: ``ratio``, or the keys that were swept."""
    keys = [key for key in found.sweep.variant_keys if len(found.groups) > 1]
    return ", ".join([*(["ratio"] if found.sweep.dial else []), *keys]) or "runs"


def _measured(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _marked(estimate: Estimate | None, metric: str, found: Aggregate) -> str:
    """A value, with the mark of its difference to the first baseline."""
    if estimate is None:
        return "–"
    key = next(iter(found.baselines), "")
    difference = estimate.differences.get(key)
    sign = mark(difference.shown, difference.difference, metric) if difference is not None else " "
    return number(estimate.value, metric) + sign


def _marks_are_against(found: Aggregate) -> str:
    name = next(iter(found.baselines.values()), None)
    return f" (marks: against {name})" if name else ""


def _title(benchmark: str, metric: str, setting: Setting, found: Aggregate, what: str) -> str:
    return f"{benchmark}, {SETTING_NAMES[setting]} {metric_name(metric)} {what}{_marks_are_against(found)}"
