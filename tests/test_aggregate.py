"""``python -m hybrid_ir.analysis.aggregate`` on sweeps as the launcher and its runs write them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_runs import read_csv, refused_line
from synthetic_sweeps import (
    LANGUAGES,
    QUESTIONS,
    RATIOS,
    SEEDS,
    base_config,
    changed,
    job_record,
    scores,
    write_job,
    write_sweep,
)

from hybrid_ir import languages
from hybrid_ir.analysis import significance
from hybrid_ir.analysis.aggregate import main
from hybrid_ir.analysis.aggregation import Aggregate, Statistic, aggregate
from hybrid_ir.analysis.comparison import System, compare
from hybrid_ir.analysis.sweeps import Group, read_sweeps
from hybrid_ir.composition import composer
from hybrid_ir.launching.sweep_folder import record
from hybrid_ir.run_folder import write_run_files

SETTINGS = ("monolingual", "cross_lingual", "multilingual")
FEW: dict[str, Any] = {"permutations": 200, "resamples": 200}


def aggregated(*folders: Path, **options: Any) -> Aggregate:
    return aggregate(read_sweeps(folders), **{"metrics": ["map"], **FEW, **options})


def numbers(found: Aggregate) -> dict[Any, list[float]]:
    """All numbers by what they are of."""
    return {
        (e.group, e.benchmark, e.setting, e.metric, e.statistic): [
            e.value, e.low, e.high, e.seed_deviation, *sorted(e.per_seed),
            *(x for key in sorted(e.differences) for d in [e.differences[key]]
              for x in (d.difference, d.low, d.high, d.p, d.p_holm, d.smallest_detectable)),
        ]
        for e in found.estimates
    }  # fmt: skip


def assert_same(found: Aggregate, expected: Aggregate) -> None:
    first, second = numbers(found), numbers(expected)
    assert first.keys() == second.keys()
    for key, values in first.items():
        assert values == pytest.approx(second[key], abs=1e-12, nan_ok=True), key


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ratios, three seeds, all complete."""
    folder = tmp_path_factory.mktemp("sweeps") / "ratios"
    write_sweep(folder)
    return folder


@pytest.fixture(scope="module")
def found(sweep: Path) -> Aggregate:
    return aggregated(sweep)


# ---------------------------------------------------------------------------------------------------------- numbers


def by_hand(sweep: Path, ratio: float, seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Each query's mAP, its mean over the seeds, from the files and pandas alone."""
    tables = [
        pq.read_table(sweep / f"sampler.mono_ratio={ratio:g},seed={seed}" / "per_query.parquet", partitioning=None)
        for seed in seeds
    ]
    rows = pd.concat([table.to_pandas() for table in tables])
    rows = rows[rows["metric"] == "map"]
    return rows.groupby(["setting", "query_language", "corpus_language", "query_id"])["value"].mean().reset_index()


def test_means_are_those_that_pandas_makes_of_the_queries(sweep: Path, found: Aggregate) -> None:
    for ratio in RATIOS:
        group = Group(ratio, None, ())
        rows = by_hand(sweep, ratio)
        cells = rows.groupby(["setting", "query_language", "corpus_language"])["value"].mean()
        for setting in SETTINGS:
            own = cells[setting]
            of_language = own.groupby("query_language").mean()
            corpora = {code: {"monolingual": code, "cross_lingual": "others"}.get(setting, "all") for code in LANGUAGES}
            everywhere = {"monolingual": "own", "cross_lingual": "others"}.get(setting, "all")
            expected = {Statistic("macro", "macro", everywhere): own.mean()}
            expected |= {Statistic("language", code, corpora[code]): of_language[code] for code in LANGUAGES}
            for scope in ("tier", "family", "script"):
                members: dict[str, list[str]] = {}
                for code in LANGUAGES:
                    members.setdefault(str(getattr(languages.get(code), scope)), []).append(code)
                for name, codes in members.items():
                    expected[Statistic(scope, name, everywhere)] = of_language[codes].mean()  # type: ignore[arg-type]
            if setting == "cross_lingual":
                expected |= {Statistic("pair", q, c): value for (q, c), value in own.items()}
            values = {e.statistic: e.value for e in found.estimates if (e.group, e.setting) == (group, setting)}
            assert values == pytest.approx(expected, abs=1e-12)


def test_p_and_intervals_of_one_language_are_scipys(sweep: Path) -> None:
    found = aggregated(sweep, permutations=20_000, resamples=20_000)
    statistic = Statistic("language", "th", "th")
    estimate = found.get(Group(0.5, None, ()), "cldr", "monolingual", "map", statistic)
    assert estimate is not None
    values = {}
    for ratio in (0.5, 1.0):
        rows = by_hand(sweep, ratio)
        own = rows[(rows["setting"] == "monolingual") & (rows["query_language"] == "th")]
        values[ratio] = own.sort_values("query_id")["value"].to_numpy()
    own, less = values[0.5], values[0.5] - values[1.0]
    difference = estimate.differences["x_x_mono"]
    for sample, low, high in ((own, estimate.low, estimate.high), (less, difference.low, difference.high)):
        interval = stats.bootstrap(
            (sample,), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        width = interval.high - interval.low
        assert [low, high] == pytest.approx([interval.low, interval.high], abs=0.03 * width)
    test = stats.permutation_test(
        (less,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert difference.p == pytest.approx(test.pvalue, abs=5 * math.sqrt(2 * test.pvalue / 20_000) + 1e-4)
    assert difference.smallest_detectable == pytest.approx(2.8016 * stats.sem(less), rel=1e-4)
    assert estimate.num_questions == len(own) == QUESTIONS - 4


@pytest.mark.parametrize("seeds", [SEEDS, tuple(range(1, 6))])
def test_differences_are_those_of_compare(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    write_sweep(tmp_path, seeds=seeds)
    found = aggregated(tmp_path)
    systems = [
        System(f"{r:g}", tuple(tmp_path / f"sampler.mono_ratio={r:g},seed={seed}" for seed in seeds))
        for r in (1.0, 0.0, 0.5)
    ]
    rows = compare(systems, **FEW).rows
    assert {row.interval for row in rows} == {"questions and seeds" if len(seeds) == 5 else "questions"}
    for row in rows:
        scope = "macro" if row.query_language == "macro" else "language"
        statistics = found.statistics("cldr", row.setting, "map", scope)  # type: ignore[arg-type]
        statistic = next(s for s in statistics if s.name == row.query_language)
        estimate = found.get(Group(float(row.system), None, ()), "cldr", row.setting, "map", statistic)
        assert estimate is not None
        difference = estimate.differences["x_x_mono"]
        assert estimate.value == pytest.approx(row.system_value, abs=1e-12)
        assert (difference.interval, estimate.interval, difference.seeds) == (row.interval, row.interval, len(seeds))
        assert [
            difference.difference,
            difference.p,
            difference.p_holm,
            difference.smallest_detectable,
        ] == pytest.approx([row.difference, row.p, row.p_holm, row.smallest_detectable], abs=1e-12)
        assert difference.seed_deviation == pytest.approx(row.seed_deviation, abs=1e-12)
        if len(seeds) < 5:  # seeds are drawn in the order of the systems
            assert [difference.low, difference.high] == pytest.approx([row.low, row.high], abs=1e-12)


def test_the_interval_of_five_seeds_has_their_spread_in_it(tmp_path: Path) -> None:
    write_sweep(tmp_path, ratios=(0.5,), seeds=range(1, 6), spread=0.08)
    five = aggregated(tmp_path).get(Group(0.5, None, ()), "cldr", "monolingual", "map")
    shutil.rmtree(tmp_path / "sampler.mono_ratio=0.5,seed=5")
    (tmp_path / "sweep.json").unlink()
    four = aggregated(tmp_path).get(Group(0.5, None, ()), "cldr", "monolingual", "map")
    assert five is not None
    assert four is not None
    assert (five.interval, four.interval) == ("questions and seeds", "questions")
    assert five.high - five.low > 1.3 * (four.high - four.low)


def test_spread_over_seeds(sweep: Path, found: Aggregate) -> None:
    macro = []
    for ratio in RATIOS:
        estimate = found.get(Group(ratio, None, ()), "cldr", "multilingual", "map")
        assert estimate is not None
        of_seeds = [
            json.loads((sweep / f"sampler.mono_ratio={ratio:g},seed={seed}" / "summary.json").read_text())["cldr"]
            for seed in SEEDS
        ]
        expected = [summary["multilingual"]["map"] for summary in of_seeds]
        assert estimate.per_seed == pytest.approx(expected, abs=1e-12)
        assert estimate.seed_deviation == pytest.approx(np.std(expected, ddof=1), rel=1e-9)
        macro.append(expected)
    pooled = math.sqrt(np.mean(np.var(macro, axis=1, ddof=1)))
    assert estimate.pooled_seed_deviation == pytest.approx(pooled, rel=1e-9)


# ------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=5)
@given(order=st.permutations(range(len(RATIOS) * len(SEEDS))))
def test_the_order_of_jobs_does_not_matter(sweep: Path, found: Aggregate, order: list[int]) -> None:
    read = read_sweeps([sweep])
    shuffled = replace(read, jobs=[read.jobs[i] for i in order])
    assert_same(aggregate(shuffled, metrics=["map"], **FEW), found)


def test_sweeps_together_are_one_sweep(tmp_path: Path, found: Aggregate) -> None:
    write_sweep(tmp_path / "ends", ratios=(0.0, 1.0))
    write_sweep(tmp_path / "middle", ratios=(0.5,))
    for folders in (("ends", "middle"), ("middle", "ends")):
        together = aggregated(*(tmp_path / name for name in folders))
        assert_same(together, found)
        assert not together.sweep.incomplete()


def test_names_of_seeds_do_not_matter(tmp_path: Path, found: Aggregate) -> None:
    names = {1: 30, 2: 10, 3: 20}
    records = []
    for ratio in RATIOS:
        for seed in SEEDS:
            overrides = [f"sampler.mono_ratio={ratio:g}", f"seed={names[seed]}"]
            config = changed(base_config(), {"sampler.mono_ratio": ratio, "seed": names[seed]})
            write_job(tmp_path / ",".join(overrides), overrides, config, scores(ratio, seed))
            records.append(job_record(",".join(overrides), overrides))
    record(tmp_path, "train", records)
    assert_same(aggregated(tmp_path), found)


def test_a_failed_job_changes_no_number_and_is_named(
    tmp_path: Path, found: Aggregate, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "sweep", ratios=(*RATIOS, 0.25), failed=[(0.25, seed) for seed in SEEDS])
    assert_same(aggregated(tmp_path / "sweep"), found)
    assert main([str(tmp_path / "sweep"), "--resamples", "100", "--permutations", "100"]) == 0
    out = capsys.readouterr().out
    assert "9 of 12 jobs are complete" in out
    for seed in SEEDS:
        assert f"sampler.mono_ratio=0.25,seed={seed} (failed: error: batch_size=9999: too many rows; take fewer)" in out
    jobs = read_csv(tmp_path / "sweep" / "tables" / "jobs.csv")
    assert [(job["ratio"], job["seed"]) for job in jobs if job["state"] == "failed"] == [
        ("0.25", str(seed)) for seed in SEEDS
    ]


# ---------------------------------------------------------------------------------------- what did not come to an end


def test_differences_are_over_common_seeds(tmp_path: Path, found: Aggregate) -> None:
    write_sweep(tmp_path, failed=[(0.5, 2)])
    without = aggregated(tmp_path)
    group = Group(0.5, None, ())
    estimate = without.get(group, "cldr", "multilingual", "map")
    assert estimate is not None
    assert len(estimate.per_seed) == estimate.differences["x_y"].seeds == 2

    def system(ratio: float) -> System:
        return System(f"{ratio:g}", tuple(tmp_path / f"sampler.mono_ratio={ratio:g},seed={seed}" for seed in (1, 3)))

    row = next(r for r in compare([system(0.0), system(0.5)], **FEW).rows if r.setting == "multilingual")
    difference = estimate.differences["x_y"]
    assert [difference.difference, difference.low, difference.p] == pytest.approx([row.difference, row.low, row.p])
    note = "ratio 0.5 against X-Y: difference over the common seeds 1, 3 (of 1, 3; 1, 2, 3), mean over all of its own"
    assert note in without.notes
    baselines = without.get(Group(1.0, None, ()), "cldr", "multilingual", "map")
    whole = found.get(Group(1.0, None, ()), "cldr", "multilingual", "map")
    assert baselines is not None
    assert whole is not None
    assert baselines.value == whole.value
    assert baselines.differences["x_y"].difference == whole.differences["x_y"].difference


def test_groups_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", ratios=(0.0, 1.0), seeds=(1, 2))
    write_sweep(tmp_path / "b", ratios=(0.5,), seeds=(3,))
    found = aggregated(tmp_path / "a", tmp_path / "b")
    estimate = found.get(Group(0.5, None, ()), "cldr", "multilingual", "map")
    assert estimate is not None
    assert estimate.differences == {}
    assert "no difference of ratio 0.5 to X-Y: they have no seed in common (3; 1, 2)" in found.notes
    missing = [(job.state, found.sweep.group_of(job).ratio, job.seed) for job in found.sweep.incomplete()]
    assert missing == [("missing", 0.0, 3), ("missing", 0.5, 1), ("missing", 0.5, 2), ("missing", 1.0, 3)]


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process works in a folder."""
    code = (
        "import sys, pathlib; from hybrid_ir.run_lock import hold; hold(pathlib.Path(sys.argv[1])); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_how_jobs_ended(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=(1, 2))
    names = [f"sampler.mono_ratio={ratio:g},seed={seed}" for ratio in RATIOS for seed in (1, 2)]
    overrides = {name: name.split(",") for name in names}
    for name in names[:2]:
        (tmp_path / name / "summary.json").unlink()
    (tmp_path / names[0] / "job.log").write_text("stopped by a signal; continue with: python train.py resume=x\n")
    (tmp_path / names[1] / "job.log").write_text("Traceback\nRuntimeError: it broke\n")
    shutil.rmtree(tmp_path / names[2])
    shutil.rmtree(tmp_path / names[3])
    states = dict(
        zip(names, ("running", "failed", "not started", "interrupted", "completed", "completed"), strict=True)
    )
    record(tmp_path, "train", [job_record(name, overrides[name], state) for name, state in states.items()])
    with held(tmp_path):
        assert {job.name: job.state for job in read_sweeps([tmp_path]).jobs} == states
    # nobody is there any more who could say that it has ended
    now = {job.name: job.state for job in read_sweeps([tmp_path]).jobs}
    assert now == {**states, names[0]: "interrupted"}
    # sweeps of other launchers have no list of their jobs
    (tmp_path / "sweep.json").unlink()
    jobs = {job.name: job for job in read_sweeps([tmp_path]).jobs}
    assert jobs[names[0]].state == "interrupted"
    assert (jobs[names[1]].state, jobs[names[1]].reason) == ("failed", "RuntimeError: it broke")
    assert jobs.keys() == {name for name in names if name not in names[2:4]}
    with held(tmp_path / names[1]):  # as a process that trains holds its folder
        states = {job.name: job.state for job in read_sweeps([tmp_path]).jobs}
        assert (states[names[0]], states[names[1]]) == ("interrupted", "running")


def test_a_job_of_which_there_is_only_a_name_shares_the_settings_of_the_others(tmp_path: Path) -> None:
    fixed = ["experiment=debug", "sampler.cross_draw=item_first"]
    for ratio in (0.0, 1.0):
        name = f"sampler.mono_ratio={ratio:g}"
        config = changed(base_config(), {"sampler.mono_ratio": ratio, "sampler.cross_draw": "item_first"})
        write_job(tmp_path / name, [*fixed, name], config, scores(ratio, 1))
    (tmp_path / "sampler.mono_ratio=0.5").mkdir()
    (tmp_path / "sampler.mono_ratio=0.5" / "job.log").write_text("error: no\n")
    sweep = read_sweeps([tmp_path])
    assert sweep.swept == ("sampler.mono_ratio",)
    assert [(sweep.group_of(job), job.state) for job in sweep.jobs] == [
        (Group(0.0, None, ()), "completed"),
        (Group(0.5, None, ()), "failed"),
        (Group(1.0, None, ()), "completed"),
    ]


def test_a_job_that_was_run_again_in_another_sweep_takes_the_place_of_the_failed_one(
    tmp_path: Path, found: Aggregate
) -> None:
    write_sweep(tmp_path / "first", failed=[(0.5, 2)])
    write_sweep(tmp_path / "again", ratios=(0.5,), seeds=(2,))
    for folders in (("first", "again"), ("again", "first")):
        together = aggregated(*(tmp_path / name for name in folders))
        assert_same(together, found)
        assert not together.sweep.incomplete()
        assert any("is there twice" in note for note in together.notes)


# --------------------------------------------------------------------------------------------- other sweeps than ratios


def write_jobs(folder: Path, jobs: Sequence[tuple[list[str], dict[str, Any], float]]) -> None:
    """Jobs with settings as typed, what they make of the configuration, and the ratio that their values are like."""
    for overrides, settings_, like in jobs:
        config = changed(base_config(), settings_)
        write_job(folder / ",".join(overrides), overrides, config, scores(like, int(settings_.get("seed", 1))))
    record(folder, "train", [job_record(",".join(overrides), overrides) for overrides, _, _ in jobs])


def test_presets_are_points_of_the_dial(tmp_path: Path, found: Aggregate) -> None:
    presets = {"x_x_mono": 1.0, "hybrid": 0.5, "x_y": 0.0, "x_x": 1.0}
    write_jobs(
        tmp_path,
        [
            (
                [f"sampler={preset}", f"seed={seed}"],
                {"sampler.preset": preset, "sampler.mono_ratio": ratio, "seed": seed},
                0.9 if preset == "x_x" else ratio,
            )
            for preset, ratio in presets.items()
            for seed in SEEDS
        ],
    )
    of_presets = aggregated(tmp_path)
    assert of_presets.baselines == {"x_x_mono": "X-X-mono", "x_y": "X-Y"}
    ratios = numbers(found)
    of_ratios = {key: values for key, values in numbers(of_presets).items() if key[0].preset is None}
    assert of_ratios.keys() == ratios.keys()
    for key, values in of_ratios.items():
        assert values[:6] == pytest.approx(ratios[key][:6], abs=1e-12), key
    warning = Group(None, "x_x", ())
    estimate = of_presets.get(warning, "cldr", "multilingual", "map")
    assert estimate is not None
    assert estimate.differences.keys() == {"x_x_mono", "x_y"}
    assert of_presets.sweep.name(warning) == "X-X"
    macro = [e for e in of_presets.estimates if e.statistic.scope == "macro" and e.setting == "multilingual"]
    raw = [e.differences["x_y"].p for e in macro if "x_y" in e.differences]
    corrected = [e.differences["x_y"].p_holm for e in macro if "x_y" in e.differences]
    assert len(raw) == 3
    assert corrected == significance.holm(raw).tolist()


def test_baselines_have_the_same_other_settings(tmp_path: Path) -> None:
    write_jobs(
        tmp_path,
        [
            (
                [f"sampler.mono_ratio={ratio:g}", f"batch_size={size}"],
                {"sampler.mono_ratio": ratio, "batch_size": size},
                ratio if size == 64 else ratio / 2,
            )
            for ratio in RATIOS
            for size in (64, 128)
            if (ratio, size) != (0.0, 128)
        ],
    )
    found = aggregated(tmp_path)
    assert found.sweep.swept == ("batch_size", "sampler.mono_ratio")
    for group in found.groups:
        estimate = found.get(group, "cldr", "multilingual", "map")
        assert estimate is not None
        for difference in estimate.differences.values():
            assert difference.baseline.variant == group.variant
    assert "no differences to X-Y: no complete job with ratio 0 and batch_size=128" in found.notes


def test_without_batchings_the_first_group_is_the_baseline(tmp_path: Path) -> None:
    write_jobs(
        tmp_path,
        [
            ([f"optimizer.lr={lr}", f"seed={seed}"], {"optimizer.lr": float(lr), "seed": seed}, like)
            for lr, like in (("1e-3", 0.5), ("5e-4", 0.2))
            for seed in SEEDS
        ],
    )
    found = aggregated(tmp_path)
    assert found.baselines == {"first": "optimizer.lr=0.0005"}
    first, second = found.groups
    estimate = found.get(second, "cldr", "monolingual", "map")
    baseline = found.get(first, "cldr", "monolingual", "map")
    assert estimate is not None
    assert baseline is not None
    assert estimate.differences["first"].difference == pytest.approx(estimate.value - baseline.value, abs=1e-12)


def test_evaluations_have_the_ratio_and_the_seed_of_the_runs_that_they_are_of(tmp_path: Path, found: Aggregate) -> None:
    """``evaluate.py -m model.name_or_path=...`` over the jobs of a sweep is a sweep over ratios."""
    (tmp_path / "config.json").write_text("{}")  # a model's, to the eye of the check
    with composer("evaluate") as composing:
        base = composing.validate(composing.compose([f"model.name_or_path={tmp_path}", "benchmark=[cldr]"]))
    for ratio in RATIOS:
        for seed in SEEDS:
            trained = tmp_path / "sweep" / f"sampler.mono_ratio={ratio:g},seed={seed}"
            write_run_files(changed(base_config(), {"sampler.mono_ratio": ratio, "seed": seed}), [], trained)
            model = str(trained if seed == 1 else trained / "model")
            config = base.model_copy(update={"model": base.model.model_copy(update={"name_or_path": model})})
            job = tmp_path / "evaluated" / f"{ratio}-{seed}"
            write_job(job, [f"model.name_or_path={model}"], config, scores(ratio, seed), environment={"data": {}})
    assert_same(aggregated(tmp_path / "evaluated"), found)


# ------------------------------------------------------------------------------------------------------------ files


def test_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep", failed=[(0.5, 2)])
    arguments = [
        str(tmp_path / "sweep"),
        "--output",
        str(tmp_path / "out"),
        "--resamples",
        "100",
        "--permutations",
        "100",
    ]
    assert main(arguments) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(content) == {
        "jobs.csv", "aggregate.csv", "aggregate.parquet", "exposure.csv", "language_bias.csv", "tables.tex",
    }  # fmt: skip
    rows = read_csv(out / "aggregate.csv")
    assert pq.read_table(out / "aggregate.parquet").num_rows == len(rows)
    assert {row["metric"] for row in rows} == {
        "map", "ndcg@10", "recall@10", "recall@100", "rank_distance", "mrc@10", "own_language_share@10",
    }  # fmt: skip
    thai = [row for row in rows if (row["query_language"], row["scope"], row["metric"]) == ("th", "language", "map")]
    assert {(row["family"], row["script"], row["tier"]) for row in thai} == {("Kra-Dai", "Thai", "low")}
    assert len(thai) == len(RATIOS) * len(SETTINGS)
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert bool(row["x_y_difference"]) == (row["ratio"] != "0.0")
        assert bool(row["x_x_mono_p_holm"]) == (row["ratio"] != "1.0")
    jobs = read_csv(out / "jobs.csv")
    assert [job["state"] for job in jobs].count("completed") == 8
    assert {job["wall_seconds"] for job in jobs} == {"61.5", ""}
    exposure = read_csv(out / "exposure.csv")
    assert [(row["ratio"], row["language"], row["query_rows"]) for row in exposure][:2] == [
        ("0.0", "de", "100.0"),
        ("0.0", "en", "101.0"),
    ]
    latex = content["tables.tex"].decode()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 10
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content


def test_metrics_and_benchmarks_are_chosen(tmp_path: Path) -> None:
    for number, benchmarks in enumerate((("cldr", "toy"), ("cldr", "other"))):
        config = changed(base_config(), {"sampler.mono_ratio": float(number)})
        overrides = [f"sampler.mono_ratio={number}"]
        write_job(tmp_path / overrides[0], overrides, config, scores(float(number), 1), benchmarks)
    found = aggregated(tmp_path, metrics=["recall@10", "rank_distance"])
    assert (found.metrics, found.benchmarks) == (("recall@10", "rank_distance"), ("cldr",))
    assert found.settings("cldr", "rank_distance") == ["multilingual"]
    assert "left out, as not every run has it: other, toy" in found.notes


def test_the_command_starts_without_torch(sweep: Path, tmp_path: Path) -> None:
    arguments = [str(sweep), "--output", str(tmp_path), "--resamples", "100", "--permutations", "100"]
    code = (
        f"import sys; from hybrid_ir.analysis.aggregate import main; code = main({arguments!r}); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "9 of 9 jobs are complete" in done.stdout


# --------------------------------------------------------------------------------------------------------- refusals


def one_more(folder: Path, settings_: dict[str, Any], **options: Any) -> Path:
    """A sweep of ratio 0.25 with one seed, unlike the others in something."""
    config = changed(base_config(), {"sampler.mono_ratio": 0.25, "seed": 1, **settings_})
    overrides = ["sampler.mono_ratio=0.25", "seed=1"]
    groups = options.pop("groups", None) or scores(0.25, 1)
    write_job(folder / ",".join(overrides), overrides, config, groups, **options)
    return folder


def test_runs_that_cannot_be_compared_are_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", tmp_path / "out"]
    other = {"data": {"content_sha256": "c" * 64}}
    said = refused_line(main, capsys, sweep, one_more(tmp_path / "data", {}, environment=other), *out)
    assert "sampler.mono_ratio=0.25,seed=1: data is not that of" in said
    assert "content cccccccccccc and aaaaaaaaaaaa" in said
    other = {"benchmarks": {"cldr": {"content_sha256": "d" * 64}}}
    said = refused_line(main, capsys, sweep, one_more(tmp_path / "judgments", {}, environment=other), *out)
    assert "benchmark cldr is not that of" in said
    said = refused_line(main, capsys, sweep, one_more(tmp_path / "steps", {"trainer.max_steps": 7}), *out)
    assert "trainer.max_steps: 7 in" in said
    assert "was not swept over" in said
    said = refused_line(main, capsys, sweep, one_more(tmp_path / "queries", {}, groups=scores(0.25, 1, absent=5)), *out)
    assert "queries differ: 1 only in" in said
    # where something is computed does not matter
    fine = one_more(tmp_path / "fine", {"threads": 7, "checkpoint.every_n_steps": 3})
    assert len(read_sweeps([sweep, fine]).groups()) == 4


def test_the_same_job_twice_is_refused(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "again", ratios=(0.5,), seeds=(2,))
    said = refused_line(main, capsys, sweep, tmp_path / "again", "--output", tmp_path / "out")
    name = "sampler.mono_ratio=0.5,seed=2"
    assert f"{tmp_path / 'again' / name}: the same settings and seed as {sweep / name} (0.5, seed 2)" in said


def test_what_is_not_there_is_refused(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refused_line(main, capsys, tmp_path / "nowhere")
    assert "has no folders of jobs" in refused_line(main, capsys, tmp_path)
    assert "is the folder of one run" in refused_line(main, capsys, sweep / "sampler.mono_ratio=0,seed=1")
    assert "--output: give a folder" in refused_line(main, capsys, sweep, tmp_path)
    assert 'did you mean "recall@10"?' in refused_line(
        main, capsys, sweep, "--metric", "recal@10", "--output", tmp_path / "out"
    )
    assert 'did you mean "cldr"?' in refused_line(
        main, capsys, sweep, "--benchmark", "cldrs", "--output", tmp_path / "out"
    )
    assert "SWEEP" in refused_line(main, capsys)
    write_sweep(tmp_path / "failed", ratios=(0.5,), seeds=(1,), failed=[(0.5, 1)])
    assert "none of 1 jobs is complete (failed)" in refused_line(main, capsys, tmp_path / "failed")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused_line(main, capsys, sweep, "--output", tmp_path / "file")
    assert "cannot be made" in refused_line(main, capsys, sweep, "--output", tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_no_run_writes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, seeds=(1,))
    job = tmp_path / "sampler.mono_ratio=0.5,seed=1"
    summary = (job / "summary.json").read_bytes()
    (job / "summary.json").write_text("{")
    assert f"{job / 'summary.json'}: cannot be read" in refused_line(main, capsys, tmp_path)
    (job / "summary.json").write_bytes(summary)
    values = (job / "per_query.parquet").read_bytes()
    (job / "per_query.parquet").unlink()
    assert "has summary.json but no per_query.parquet" in refused_line(main, capsys, tmp_path)
    (job / "per_query.parquet").write_bytes(values[:-50])
    assert "is not a file of query values" in refused_line(main, capsys, tmp_path)
    (job / "per_query.parquet").write_bytes(values)
    (job / "exposure.csv").write_text("language,query_rows\nde,many\n")
    assert f"{job / 'exposure.csv'}: is not what a run writes" in refused_line(main, capsys, tmp_path)


# ------------------------------------------------------------------------------------------------------ a real sweep


@pytest.mark.slow
def test_a_real_sweep_with_a_job_that_fails(tmp_path: Path) -> None:
    """Six jobs, one of which is killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [
        sys.executable, "-m", "hybrid_ir.train", "-m", "experiment=debug", "sampler.mono_ratio=0,0.5,1", "seed=1,2",
        "threads=1", "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    killed = "sampler.mono_ratio=0.5,seed=2"
    with (tmp_path / "printed").open("w") as printed:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        while sweep.poll() is None:
            with contextlib.suppress(psutil.Error):  # a process may end while it is looked at
                for child in psutil.Process(sweep.pid).children():
                    if (tmp_path / "sweep" / killed / "config.yaml").is_file() and killed in " ".join(child.cmdline()):
                        child.kill()
            time.sleep(0.05)
    assert sweep.returncode == 1, (tmp_path / "printed").read_text()[-3000:]

    arguments = ["sweep", "--resamples", "200", "--permutations", "200"]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_ir.analysis.report", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 of 6 jobs are complete" in done.stdout
    assert f"not in the numbers: {killed} (failed" in done.stdout
    assert "over the common seeds 1 (of 1; 1, 2)" in done.stdout
    rows = read_csv(tmp_path / "sweep" / "tables" / "aggregate.csv")
    for ratio, seeds in (("0.0", (1, 2)), ("0.5", (1,)), ("1.0", (1, 2))):
        folders = [tmp_path / "sweep" / f"sampler.mono_ratio={float(ratio):g},seed={seed}" for seed in seeds]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        for benchmark in ("cldr", "validation"):
            for setting in SETTINGS:
                for metric in ("map", "recall@10"):
                    wanted = (ratio, benchmark, setting, metric, "macro")
                    keys = ("ratio", "benchmark", "setting", "metric", "scope")
                    (row,) = [row for row in rows if tuple(row[key] for key in keys) == wanted]
                    expected = np.mean([summary[benchmark][setting][metric] for summary in summaries])
                    assert float(row["value"]) == pytest.approx(expected, abs=1e-12)
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "1 of 6 jobs are not in the numbers" in page
    assert {"report.html", "tables", "figures"} <= {path.name for path in (tmp_path / "sweep").iterdir()}


def test_where_the_parts_of_a_mixture_lie_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def job(number: int, part: dict[str, Any]) -> Path:
        own = {"source": "parallel_jsonl", "path": str(tmp_path / f"{number}.jsonl"), **part}
        data = {"source": "mixture", "parts": {"own": own}}
        settings_ = {"sampler.mono_ratio": 0.25, "seed": number, "data": data}
        overrides = ["sampler.mono_ratio=0.25", f"seed={number}"]
        config = changed(base_config(), settings_)
        write_job(tmp_path / f"of {number}" / ",".join(overrides), overrides, config, scores(0.25, number))
        return tmp_path / f"of {number}"

    folders = [job(1, {}), job(2, {}), job(3, {"cap": 5})]
    assert len(read_sweeps(folders[:2]).jobs) == 2
    said = refused_line(main, capsys, *folders, "--output", tmp_path / "out")
    assert "data.parts.own.cap: 5 in" in said
