"""What the jobs of a sweep show together: means over seeds with intervals, and differences to both ends of the dial.

Jobs that differ in their seed alone are a group. A question's value in a group is its mean over the seeds; intervals
and tests are those of ``significance.py``, over question ids with all their language versions.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np

from hybrid_ir.analysis import significance
from hybrid_ir.analysis.comparison import HIERARCHICAL_SEEDS
from hybrid_ir.analysis.runs import (
    MACRO,
    Cell,
    QueryValues,
    check_same_queries,
    common_benchmarks,
    metrics_in,
    read_metrics,
)
from hybrid_ir.analysis.sweeps import Group, Job, Sweep, Value
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Setting
from hybrid_ir.evaluation.groups import group_languages
from hybrid_ir.evaluation.results import BIAS_FILE, read_bias
from hybrid_ir.languages import Language
from hybrid_ir.languages import get as get_language
from hybrid_ir.schema_keys import nearest

METRICS = ("map", "ndcg@10", "recall@10", "recall@100", "rank_distance")
BIAS_METRICS = ("own_language_share", "mrc")
"""Metrics of language bias, whose names end in a depth (``mrc@10``)."""
EXPOSURE_FILE = "exposure.csv"
VALIDATION = "validation"
"""Benchmark of held-out training items, which is reported where it is the only one."""
OTHERS = "others"
"""``corpus_language`` of a mean over the corpora in other languages than the query's."""

Scope = Literal["macro", "tier", "family", "script", "language", "pair"]
Cellkey = tuple[str, Setting, str]
"""Benchmark, setting, metric."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """What a mean is taken over: all languages, a group of them, one, or a pair."""

    scope: Scope
    name: str
    """``macro``; a group of query languages (``low``, ``Latn``); or the code of one query language."""
    corpus_language: str

    @property
    def language(self) -> Language | None:
        """The query language, where it is one and is known."""
        if self.scope not in ("language", "pair"):
            return None
        try:
            return get_language(self.name)
        except ValueError:  # benchmarks of other libraries have codes of their own
            return None


@dataclass(frozen=True, slots=True)
class Difference:
    """A group less its baseline, over the seeds that both have."""

    baseline: Group
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    """Corrected over the members of the statistic's scope (languages, pairs, ...); macro: over the comparisons with the
    baseline."""
    smallest_detectable: float
    seeds: int
    """Seeds that both have."""
    seed_deviation: float
    """Standard deviation over these seeds, pooled over the two groups; NaN with one seed."""
    interval: str
    """What ``low`` and ``high`` resample: ``questions``, or ``questions and seeds``."""
    by_seeds_alone: float
    """What two means of so many seeds can differ by with the deviation of all groups (t test at .05); NaN where
    none has two seeds."""

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: corrected p below .05, and 0 outside the interval."""
        return significance.is_shown(self.p_holm, self.low, self.high)

    @property
    def within_seeds(self) -> bool:
        """Whether it is smaller than what seeds alone can do; False where that is not known."""
        return abs(self.difference) < self.by_seeds_alone


@dataclass(frozen=True, slots=True)
class Estimate:
    """One mean of one group."""

    group: Group
    benchmark: str
    setting: Setting
    metric: str
    statistic: Statistic
    value: float
    low: float
    high: float
    interval: str
    per_seed: tuple[float, ...]
    """In the order of the seeds."""
    pooled_seed_deviation: float
    """Standard deviation over seeds, pooled over all groups; NaN where none has two seeds."""
    num_questions: int
    differences: dict[str, Difference]
    """By baseline: ``x_x_mono`` and ``x_y``, or ``first``."""

    @property
    def seed_deviation(self) -> float:
        """Standard deviation over the group's own seeds; NaN with one."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else float("nan")


@dataclass
class Aggregate:
    """All means of a sweep."""

    sweep: Sweep
    metrics: tuple[str, ...]
    """The first is the primary one."""
    benchmarks: tuple[str, ...]
    baselines: dict[str, str]
    """Names in prose by key: ``{"x_x_mono": "X-X-mono", "x_y": "X-Y"}``, or ``{"first": ...}``."""
    groups: dict[Group, list[Job]]
    estimates: list[Estimate] = field(default_factory=list)
    macro_draws: dict[Cellkey, dict[Group, np.ndarray]] = field(default_factory=dict)
    """Macro means [resamples] of each group, in the same resamples of the questions."""
    notes: list[str] = field(default_factory=list)
    _index: dict[tuple[Group, str, str, str, Statistic], Estimate] = field(default_factory=dict)
    _measured: dict[tuple[str, str, str, str], dict[Statistic, None]] = field(default_factory=dict)

    def add(self, estimate: Estimate) -> None:
        """Takes up one mean."""
        self.estimates.append(estimate)
        key = (estimate.group, estimate.benchmark, estimate.setting, estimate.metric, estimate.statistic)
        self._index[key] = estimate
        measured = (estimate.benchmark, estimate.setting, estimate.metric, estimate.statistic.scope)
        self._measured.setdefault(measured, {})[estimate.statistic] = None

    def get(
        self, group: Group, benchmark: str, setting: Setting, metric: str, statistic: Statistic | None = None
    ) -> Estimate | None:
        """One mean, by default the macro mean; None where it was not measured."""
        statistic = statistic or Statistic("macro", MACRO, _corpus(setting, MACRO))
        return self._index.get((group, benchmark, setting, metric, statistic))

    def statistics(self, benchmark: str, setting: Setting, metric: str, scope: Scope) -> list[Statistic]:
        """The statistics of a scope that were measured, in order."""
        return list(self._measured.get((benchmark, setting, metric, scope), ()))

    def settings(self, benchmark: str, metric: str) -> list[Setting]:
        """Settings in which a metric was measured, in their order."""
        return [setting for setting in SETTINGS if (benchmark, setting, metric, "macro") in self._measured]

    def metrics_of(self, benchmark: str) -> list[str]:
        """Metrics that a benchmark has, the primary one first."""
        return [metric for metric in self.metrics if self.settings(benchmark, metric)]

    @property
    def reported(self) -> list[str]:
        """Benchmarks that have a place on the page."""
        return [name for name in self.benchmarks if name != VALIDATION] or list(self.benchmarks)

    def variants(self) -> dict[tuple[tuple[str, Value], ...], list[Group]]:
        """Groups by what else than the batching was varied; one entry where nothing was."""
        found: dict[tuple[tuple[str, Value], ...], list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.variant if self.sweep.dial else (), []).append(group)
        return found

    @property
    def selected_on(self) -> set[str]:
        """Benchmarks on which the best step of a job was chosen."""
        jobs = [job.summary for of_group in self.groups.values() for job in of_group]
        return {str(summary["monitor"]).split("/")[1] for summary in jobs if summary.get("selected_on_benchmark")}

    @property
    def seed_freedom(self) -> int:
        """Degrees of freedom of the standard deviation over seeds, pooled over all groups."""
        return sum(len(jobs) - 1 for jobs in self.groups.values())

    def baseline(self, key: str, group: Group) -> Group | None:
        """The baseline that a group is compared with; None where the sweep has no such group."""
        if key == "first":
            return next(iter(self.groups))
        wanted = Group({"x_x_mono": 1.0, "x_y": 0.0}[key], None, group.variant)
        return wanted if wanted in self.groups else None


def aggregate(
    sweep: Sweep,
    metrics: Sequence[str] | None = None,
    benchmarks: list[str] | None = None,
    permutations: int = 10_000,
    resamples: int = 10_000,
    seed: int = 0,
    languages: Mapping[str, Collection[str]] | None = None,
) -> Aggregate:
    """Means over seeds of each group of jobs, with intervals and differences to both baselines.

    Baselines are the ends of the dial, ratio 1 (X-X-mono) and ratio 0 (X-Y), with the same values of other swept keys.
    Where batchings were not varied, the first group is the only one.

    Args:
        sweep: what ``read_sweeps`` found.
        metrics: names, the primary one first; None takes those of ``METRICS`` and of language bias that all runs have.
        benchmarks: names; None takes all that the runs have in common.
        permutations: of the tests.
        resamples: of the intervals.
        seed: of permutations and resamples.
        languages: those that count on a benchmark, by its name; None, or a benchmark that is not there, takes all.

    Raises:
        DataError: a run lacks a metric or benchmark that was asked for, or the runs' queries differ.
    """
    groups = sweep.groups()
    jobs = [job for of_group in groups.values() for job in of_group]
    folders = [job.folder for job in jobs if job.folder is not None]
    chosen = _choose_metrics(folders, metrics)
    runs = {folder: read_metrics(folder, chosen) for folder in folders}
    by_benchmark = {
        folder: {b: of_b for of_metric in found.values() for b, of_b in of_metric.items()}
        for folder, found in runs.items()
    }
    names = common_benchmarks(by_benchmark, benchmarks)
    found = Aggregate(sweep, chosen, tuple(names), _baselines(sweep, groups), groups, notes=list(sweep.notes))
    _note_what_is_left_out(found, by_benchmark, benchmarks)
    for benchmark in names:
        for metric in chosen:
            there = {folder: run[metric][benchmark] for folder, run in runs.items() if benchmark in run.get(metric, {})}
            if len(there) < len(runs):  # e.g. no rank distance where a pool is not ranked whole
                continue
            if languages is not None and benchmark in languages:
                _note_languages(found, there[folders[0]], languages[benchmark])
                there = {folder: run.of_languages(languages[benchmark]) for folder, run in there.items()}
            first = there[folders[0]]
            for run in there.values():
                check_same_queries(first, run)
            of_groups = {
                group: [there[job.folder] for job in of_group if job.folder is not None]
                for group, of_group in groups.items()
            }
            for setting in SETTINGS:
                if first.in_setting(setting).size:
                    _one_setting(found, of_groups, benchmark, setting, metric, (permutations, resamples, seed))
    return found


def _choose_metrics(folders: Sequence[Path], wanted: Sequence[str] | None) -> tuple[str, ...]:
    known = {folder: metrics_in(folder) for folder in folders}
    common = set.intersection(*map(set, known.values()))
    if wanted is None:
        bias = sorted(name for name in common if name.partition("@")[0] in BIAS_METRICS)
        chosen = tuple(name for name in (*METRICS, *bias) if name in common)
        if not chosen:
            raise DataError(f"--metric: the runs have none of {', '.join(METRICS)} in common; name one")
        return chosen
    for name in wanted:
        for folder, there in known.items():
            if name not in there:
                near = nearest(name, there)
                hint = f'did you mean "{near}"? ' if near else ""
                raise DataError(f"--metric {name}: not in {folder}; {hint}it has {', '.join(sorted(there))}")
    return tuple(dict.fromkeys(wanted))


def _baselines(sweep: Sweep, groups: Mapping[Group, list[Job]]) -> dict[str, str]:
    if sweep.dial:
        return {"x_x_mono": "X-X-mono", "x_y": "X-Y"}
    return {"first": sweep.name(next(iter(groups)))} if len(groups) > 1 else {}


def _note_what_is_left_out(
    found: Aggregate, by_benchmark: Mapping[Path, Mapping[str, QueryValues]], wanted: list[str] | None
) -> None:
    left_out = {name for run in by_benchmark.values() for name in run} - set(found.benchmarks)
    if left_out and wanted is None:
        found.notes.append(f"left out, as not every run has it: {', '.join(sorted(left_out))}")
    sweep = found.sweep
    for benchmark in sorted(found.selected_on & set(found.benchmarks)):
        found.notes.append(f"the best step was chosen on {benchmark}, which is reported here: its numbers are too good")
    for group in found.groups:
        for key, name in found.baselines.items():
            baseline = found.baseline(key, group)
            if baseline is None:
                why = f"no complete job with {'ratio 1' if key == 'x_x_mono' else 'ratio 0'}"
                others = f" and {group.variant_name}" if group.variant else ""
                found.notes.append(f"no differences to {name}: {why}{others}")
            elif baseline != group:
                ours, theirs = _seeds(found, group), _seeds(found, baseline)
                common = [seed for seed in ours if seed in theirs]
                if not common:
                    found.notes.append(
                        f"no difference of {sweep.said(group)} to {name}: they have no seed in common "
                        f"({_listed(ours)}; {_listed(theirs)})"
                    )
                elif set(ours) != set(theirs):
                    found.notes.append(
                        f"{sweep.said(group)} against {name}: difference over the common seeds {_listed(common)} (of "
                        f"{_listed(ours)}; {_listed(theirs)}), mean over all of its own"
                    )
    found.notes[:] = dict.fromkeys(found.notes)


def _note_languages(found: Aggregate, run: QueryValues, codes: Collection[str]) -> None:
    others = sorted({cell.query_language for cell in run.cells} - set(codes))
    note = f"{run.benchmark}: {_listed(others)} left out of all means"
    if others and note not in found.notes:
        found.notes.append(note)


def _seeds(found: Aggregate, group: Group) -> list[Value]:
    return [job.seed for job in found.groups[group]]


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(str(value) for value in values)


# ----------------------------------------------------------------------------------------------------- one setting


@dataclass(frozen=True)
class _System:
    """The runs of a group with some of its seeds; what an interval resamples."""

    group: Group
    seeds: tuple[Value, ...]

    @property
    def hierarchical(self) -> bool:
        return len(self.seeds) >= HIERARCHICAL_SEEDS


_Pair = tuple[str, Group]
"""Baseline's key and a group that is compared with it."""


def _one_setting(
    found: Aggregate,
    of_groups: Mapping[Group, list[QueryValues]],
    benchmark: str,
    setting: Setting,
    metric: str,
    draws: tuple[int, int, int],
) -> None:
    permutations, resamples, seed = draws
    first = next(iter(of_groups.values()))[0]
    statistics, weights = _statistics(first, setting)
    counts = ~np.isnan(first.in_setting(setting)).all(axis=1)
    stacks = {
        group: {
            seed_of_run: run.in_setting(setting)[counts]
            for seed_of_run, run in zip(_seeds(found, group), runs, strict=True)
        }
        for group, runs in of_groups.items()
    }

    def stacked(system: _System) -> np.ndarray:
        return np.stack([stacks[system.group][s] for s in system.seeds])

    whole = {group: _System(group, tuple(of_seeds)) for group, of_seeds in stacks.items()}
    pairs: dict[_Pair, tuple[_System, _System]] = {}
    for key in found.baselines:
        for group in stacks:
            baseline = found.baseline(key, group)
            if baseline is None or baseline == group:
                continue
            common = tuple(s for s in stacks[group] if s in stacks[baseline])
            if common:
                pairs[key, group] = (_System(baseline, common), _System(group, common))
    systems = list(dict.fromkeys([*whole.values(), *(system for pair in pairs.values() for system in pair)]))
    drawn: dict[_System, np.ndarray] = {}
    for hierarchical in (False, True):
        chosen = [system for system in systems if system.hierarchical == hierarchical]
        if chosen:
            resampled = significance.resampled(
                [stacked(system) for system in chosen], weights, resamples, seed, seeds_too=hierarchical
            )
            drawn.update(zip(chosen, resampled, strict=True))
    found.macro_draws[benchmark, setting, metric] = {
        group: drawn[system][:, 0].copy() for group, system in whole.items()
    }
    per_seed = {
        system: np.stack([significance.statistics(run, weights) for run in stacked(system)]) for system in systems
    }
    paired = {
        of_pair: stacked(system).mean(axis=0) - stacked(baseline).mean(axis=0)
        for of_pair, (baseline, system) in pairs.items()
    }
    raw = {
        of_pair: significance.permutation_test(values, weights, permutations, seed)
        for of_pair, values in paired.items()
    }
    corrected = _holm(raw, statistics)
    differences: dict[_Pair, list[Difference]] = {}
    pooled = significance.pooled_standard_deviation([per_seed[system] for system in whole.values()])
    for of_pair, (less, system) in pairs.items():
        low, high = significance.interval(drawn[system] - drawn[less])
        detectable = significance.smallest_detectable(significance.standard_error(paired[of_pair], weights))
        deviation = significance.pooled_standard_deviation([per_seed[less], per_seed[system]])
        difference = per_seed[system].mean(axis=0) - per_seed[less].mean(axis=0)
        seeds = len(system.seeds)
        by_seeds_alone = significance.by_seeds_alone(pooled, found.seed_freedom, seeds, seeds)
        differences[of_pair] = [
            Difference(
                baseline=less.group,
                difference=float(difference[k]),
                low=float(low[k]),
                high=float(high[k]),
                p=float(raw[of_pair][k]),
                p_holm=float(corrected[of_pair][k]),
                smallest_detectable=float(detectable[k]),
                seeds=seeds,
                seed_deviation=float(deviation[k]),
                interval=_resampled_what(system),
                by_seeds_alone=float(by_seeds_alone[k]),
            )
            for k in range(len(statistics))
        ]
    questions = significance.num_questions(first.in_setting(setting)[counts], weights)
    for group, system in whole.items():
        low, high = significance.interval(drawn[system])
        for k, statistic in enumerate(statistics):
            found.add(
                Estimate(
                    group=group,
                    benchmark=benchmark,
                    setting=setting,
                    metric=metric,
                    statistic=statistic,
                    value=float(per_seed[system][:, k].mean()),
                    low=float(low[k]),
                    high=float(high[k]),
                    interval=_resampled_what(system),
                    per_seed=tuple(per_seed[system][:, k].tolist()),
                    pooled_seed_deviation=float(pooled[k]),
                    num_questions=int(questions[k]),
                    differences={
                        key: differences[key, group][k] for key in found.baselines if (key, group) in differences
                    },
                )
            )


def _resampled_what(system: _System) -> str:
    return "questions and seeds" if system.hierarchical else "questions"


def _holm(raw: Mapping[_Pair, np.ndarray], statistics: Sequence[Statistic]) -> dict[_Pair, np.ndarray]:
    """Corrected p values: within each scope of a comparison, and for macro means over a baseline's comparisons."""
    corrected = {of_pair: p.copy() for of_pair, p in raw.items()}
    scopes = np.array([statistic.scope for statistic in statistics])
    for p in corrected.values():
        for scope in dict.fromkeys(scopes.tolist()):
            if scope != "macro":
                p[scopes == scope] = significance.holm(p[scopes == scope])
    for key in dict.fromkeys(key for key, _ in raw):
        own = [of_pair for of_pair in raw if of_pair[0] == key]
        for of_pair, value in zip(own, significance.holm([raw[of_pair][0] for of_pair in own]), strict=True):
            corrected[of_pair][0] = value
    return corrected


def _statistics(run: QueryValues, setting: Setting) -> tuple[list[Statistic], np.ndarray]:
    """The statistics of a setting, the macro mean first, and their weights [cells, statistics].

    A group's mean is the mean over its languages' means, so that a language with few pairs weighs as much as any.
    """
    labels, base = run.weights(setting)
    codes = labels[1:]
    of_language = dict(zip(labels, base.T, strict=True))
    statistics = [Statistic("macro", MACRO, _corpus(setting, MACRO))]
    columns = [of_language[MACRO]]
    for grouping, groups in group_languages(codes).items():
        for name, members in groups.items():
            statistics.append(Statistic(cast(Scope, grouping), name, _corpus(setting, MACRO)))
            columns.append(np.mean([of_language[code] for code in members], axis=0))
    for code in codes:
        statistics.append(Statistic("language", code, _corpus(setting, code)))
        columns.append(of_language[code])
    cells: list[Cell] = [cell for cell in run.cells if cell.setting == setting]
    if setting == "cross_lingual":
        for place, cell in enumerate(cells):
            statistics.append(Statistic("pair", cell.query_language, cell.corpus_language))
            columns.append(np.eye(len(cells))[place])
    return statistics, np.stack(columns, axis=1)


def _corpus(setting: Setting, query_language: str) -> str:
    if setting == "multilingual":
        return "all"
    if setting == "cross_lingual":
        return OTHERS
    return "own" if query_language == MACRO else query_language


# --------------------------------------------------------------------------------------------- exposure, language bias


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a group's batches showed of a language: means over its seeds."""

    group: Group
    language: str
    values: dict[str, float]
    """Columns of ``exposure.csv`` by name."""


def exposure(found: Aggregate) -> list[Exposure]:
    """How often each language was shown, by group; empty where runs were not trained.

    Raises:
        DataError: an ``exposure.csv`` is not what a run writes.
    """
    rows = []
    for group, jobs in found.groups.items():
        tables = [_read_exposure(job.folder / EXPOSURE_FILE) for job in jobs if job.folder is not None]
        for language in dict.fromkeys(language for table in tables for language in table):
            of_language = [table[language] for table in tables if language in table]
            values = {name: float(np.mean([row[name] for row in of_language])) for name in of_language[0]}
            rows.append(Exposure(group, language, values))
    return rows


def _read_exposure(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():  # of an evaluation
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row.pop("language"): {name: float(row[name]) for name in row} for row in csv.DictReader(file)}
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not what a run writes ({error}); move it away") from None


@dataclass(frozen=True, slots=True)
class Bias:
    """A measure of language bias in a group: mean and standard deviation over its seeds."""

    group: Group
    benchmark: str
    measure: str
    query_language: str
    document_language: str
    value: float
    seed_deviation: float
    seeds: int


def language_bias(found: Aggregate) -> list[Bias]:
    """Measures of language bias at each benchmark's last step, by group.

    Raises:
        DataError: a ``language_bias.csv`` is not what a run writes.
    """
    rows = []
    for group, jobs in found.groups.items():
        values: dict[tuple[str, str, str, str], list[float]] = {}
        for job in jobs:
            if job.folder is None or not (job.folder / BIAS_FILE).is_file():
                continue
            there = [row for row in read_bias(job.folder / BIAS_FILE) if row.benchmark in found.benchmarks]
            last: dict[str, int] = {}
            for row in there:
                last[row.benchmark] = max(row.step, last.get(row.benchmark, row.step))
            for row in there:
                if row.step == last[row.benchmark]:
                    key = (row.benchmark, row.measure, row.query_language, row.document_language)
                    values.setdefault(key, []).append(row.value)
        for key, of_seeds in values.items():
            deviation = float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else float("nan")
            rows.append(Bias(group, *key, float(np.mean(of_seeds)), deviation, len(of_seeds)))
    return rows
