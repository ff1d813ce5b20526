"""Differences between evaluated systems, with intervals and tests over question ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from hybrid_ir.analysis import significance
from hybrid_ir.analysis.runs import QueryValues, check_same_queries, common_benchmarks, read_run
from hybrid_ir.errors import ConfigError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Setting
from hybrid_ir.schema_keys import nearest

HIERARCHICAL_SEEDS = 5
"""From so many runs of each of two systems, intervals are over seeds and questions."""


@dataclass(frozen=True, slots=True)
class System:
    """Runs of one model, batching or method: one, or several that differ in their seed."""

    name: str
    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One difference: a line of ``comparison.csv``, whose columns are these fields."""

    benchmark: str
    setting: Setting
    query_language: str
    """``macro`` for the mean over languages (monolingual, multilingual) or ordered language pairs (cross-lingual)."""
    metric: str
    baseline: str
    system: str
    baseline_value: float
    """Mean over runs."""
    system_value: float
    difference: float
    """System minus baseline."""
    low: float
    high: float
    p: float
    p_holm: float
    """Corrected over the query languages of a setting; macro values: over the comparisons with a baseline or pairs."""
    smallest_detectable: float
    num_questions: int
    """Question ids, whatever the number of their language versions."""
    seeds: int
    """Runs of the system."""
    baseline_seeds: int
    seed_deviation: float
    """Standard deviation over seeds, pooled over the two systems; NaN where both have one run."""
    interval: str
    """What ``low`` and ``high`` resample: ``questions``, or ``questions and seeds``."""

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: corrected p below .05, and 0 outside the interval."""
        return significance.is_shown(self.p_holm, self.low, self.high)


@dataclass
class Comparison:
    """All differences, and the runs behind them."""

    metric: str
    rows: list[Row] = field(default_factory=list)
    seeds: dict[tuple[str, Setting, str], list[float]] = field(default_factory=dict)
    """Macro value of each run by (benchmark, setting, system)."""
    notes: list[str] = field(default_factory=list)


COLUMNS = tuple(column.name for column in fields(Row))


def compare(
    systems: Sequence[System],
    metric: str = "map",
    benchmarks: list[str] | None = None,
    baseline: str | None = None,
    all_pairs: bool = False,
    permutations: int = 10_000,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Differences of systems from a baseline, in each benchmark and setting: macro means and each query language.

    Args:
        systems: two or more.
        metric: the one that is compared.
        benchmarks: names; None takes all that the runs have in common.
        baseline: name of a system; None takes the first.
        all_pairs: compare each pair of systems, not only with the baseline.
        permutations: of the test.
        resamples: of the intervals.
        seed: of permutations and resamples.

    Raises:
        ConfigError: fewer than two systems, a name or a folder twice, or no system is named like the baseline.
        DataError: a run has no values of its queries, lacks the metric or benchmark, or has other queries.
    """
    pairs = _pairs(systems, baseline, all_pairs)
    runs = {folder: read_run(folder, metric) for system in systems for folder in system.folders}
    names = common_benchmarks(runs, benchmarks)
    found = Comparison(metric)
    left_out = {name for run in runs.values() for name in run} - set(names)
    if left_out and benchmarks is None:
        found.notes.append(f"left out, as not every run has it: {', '.join(sorted(left_out))}")
    for benchmark in names:
        of_systems = {system.name: [runs[folder][benchmark] for folder in system.folders] for system in systems}
        first = of_systems[systems[0].name][0]
        for run in itertools.chain.from_iterable(of_systems.values()):
            check_same_queries(first, run)
        for setting in SETTINGS:
            if not first.in_setting(setting).size:
                continue
            labels, weights = first.weights(setting)
            values = {name: _stacked(of_system, setting) for name, of_system in of_systems.items()}
            for name, of_runs in values.items():
                macro = [float(significance.statistics(run, weights)[0]) for run in of_runs]
                found.seeds[benchmark, setting, name] = macro
            results = [
                _difference(values[one], values[other], weights, permutations, resamples, seed) for one, other in pairs
            ]
            macro_holm = significance.holm([result.p[0] for result in results])
            for (one, other), result, corrected in zip(pairs, results, macro_holm, strict=True):
                p_holm = [corrected, *significance.holm(result.p[1:])]
                for k, label in enumerate(labels):
                    found.rows.append(
                        Row(
                            benchmark=benchmark,
                            setting=setting,
                            query_language=label,
                            metric=metric,
                            baseline=one,
                            system=other,
                            baseline_value=float(result.baseline[k]),
                            system_value=float(result.system[k]),
                            difference=float(result.system[k] - result.baseline[k]),
                            low=float(result.low[k]),
                            high=float(result.high[k]),
                            p=float(result.p[k]),
                            p_holm=float(p_holm[k]),
                            smallest_detectable=float(result.smallest_detectable[k]),
                            num_questions=int(result.num_questions[k]),
                            seeds=len(values[other]),
                            baseline_seeds=len(values[one]),
                            seed_deviation=float(result.seed_deviation[k]),
                            interval=result.interval,
                        )
                    )
    return found


@dataclass(frozen=True, slots=True)
class _Difference:
    """Arrays [statistics] of two systems in one setting."""

    baseline: np.ndarray
    system: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    smallest_detectable: np.ndarray
    num_questions: np.ndarray
    seed_deviation: np.ndarray
    interval: str


def _difference(
    baseline: np.ndarray, system: np.ndarray, weights: np.ndarray, permutations: int, resamples: int, seed: int
) -> _Difference:
    """Of the runs [seeds, questions, cells] of two systems."""
    differences = system.mean(axis=0) - baseline.mean(axis=0)
    hierarchical = min(len(baseline), len(system)) >= HIERARCHICAL_SEEDS
    if hierarchical:
        low, high = significance.hierarchical_interval(baseline, system, weights, resamples, seed)
    else:
        low, high = significance.bootstrap_interval(differences, weights, resamples, seed)
    of_runs = [np.stack([significance.statistics(run, weights) for run in runs]) for runs in (baseline, system)]
    return _Difference(
        baseline=of_runs[0].mean(axis=0),
        system=of_runs[1].mean(axis=0),
        low=low,
        high=high,
        p=significance.permutation_test(differences, weights, permutations, seed),
        smallest_detectable=significance.smallest_detectable(significance.standard_error(differences, weights)),
        num_questions=significance.num_questions(differences, weights),
        seed_deviation=significance.pooled_standard_deviation(of_runs),
        interval="questions and seeds" if hierarchical else "questions",
    )


def _stacked(runs: Sequence[QueryValues], setting: Setting) -> np.ndarray:
    """[seeds, questions that count in the setting, cells]."""
    values = np.stack([run.in_setting(setting) for run in runs])
    return values[:, ~np.isnan(values[0]).all(axis=1)]


def _pairs(systems: Sequence[System], baseline: str | None, all_pairs: bool) -> list[tuple[str, str]]:
    names = [system.name for system in systems]
    if len(names) < 2:
        raise ConfigError(f"systems: {len(names)} given ({', '.join(names) or 'none'}); give two or more to compare")
    used: dict[Path, str] = {}
    for system in systems:
        for folder in system.folders:
            if folder.resolve() in used:
                raise ConfigError(
                    f"{folder}: given twice (in {used[folder.resolve()]} and in {system.name}); give each run once"
                )
            used[folder.resolve()] = system.name
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        folders = [str(system.folders[0]) for system in systems if system.name == twice]
        raise ConfigError(
            f"systems: two are named {twice} ({' and '.join(folders)}); name them, e.g. first={folders[0]}"
        )
    if baseline is not None and baseline not in names:
        near = nearest(baseline, names)
        hint = f'did you mean "{near}"? ' if near else ""
        raise ConfigError(f"--baseline {baseline}: no system of that name; {hint}systems: {', '.join(names)}")
    first = baseline or names[0]
    ordered = [first, *(name for name in names if name != first)]
    return list(itertools.combinations(ordered, 2)) if all_pairs else [(first, name) for name in ordered[1:]]
