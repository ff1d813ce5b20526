"""``python -m hybrid_ir.analysis.compare`` on runs as an evaluation writes them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_runs import read_csv, refused_line

from hybrid_ir.analysis import significance
from hybrid_ir.analysis.compare import main, parse_systems
from hybrid_ir.analysis.comparison import System, compare
from hybrid_ir.analysis.tables import in_words
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.metrics import Group, GroupScores, metrics_of
from hybrid_ir.evaluation.results import Results

LANGUAGES = ("de", "sw", "th")
ALL_SETTINGS = ("monolingual", "cross_lingual", "multilingual")


def make_run(
    folder: Path,
    seed: int = 0,
    shift: float = 0.0,
    benchmarks: Sequence[str] = ("toy",),
    questions: int = 40,
    languages: Sequence[str] = LANGUAGES,
    settings: Sequence[str] = ALL_SETTINGS,
    absent: int = 5,
    step: int = 0,
    merged: Results | None = None,
) -> Results:
    """Writes a run; the questions' difficulty is the same in all of them, th answers ``absent`` questions less."""
    difficulty = np.random.default_rng(99).random(questions)
    rng = np.random.default_rng(seed)
    results = merged or Results()
    for benchmark in benchmarks:
        groups = {}
        for setting in settings:
            for q, query_language in enumerate(languages):
                corpora = {"monolingual": [query_language], "multilingual": ["all"]}.get(
                    setting, [code for code in languages if code != query_language]
                )
                for corpus in corpora:
                    asked = np.arange(questions - (absent if corpus == "th" else 0))
                    values = 0.6 * difficulty[asked, None] + 0.2 * rng.random((len(asked), len(metrics_of(setting))))
                    scores = GroupScores(q * questions + asked, values + shift, metrics_of(setting))
                    groups[Group(setting, query_language, corpus)] = scores
        ids = [f"q{i % questions}" for i in range(len(languages) * questions)]
        results.merge(Results.from_groups(benchmark, ids, groups, step))
    results.write(folder)
    return results


# ---------------------------------------------------------------------------------------------------------- numbers


def test_values_are_those_of_the_results(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2, 0.05)
    for metric in ("map", "recall@10", "rank_distance"):
        found = compare([System("a", (tmp_path / "a",)), System("b", (tmp_path / "b",))], metric, resamples=200)
        for row in found.rows:
            expected = [
                results.macro()["toy"][row.setting][metric]
                if row.query_language == "macro"
                else results.by_language()["toy"][row.setting][row.query_language][metric]
                for results in (one, other)
            ]
            assert [row.baseline_value, row.system_value] == pytest.approx(expected, abs=1e-12)
            assert row.difference == row.system_value - row.baseline_value
        settings = ("multilingual",) if metric == "rank_distance" else ALL_SETTINGS
        wanted = [(setting, language) for setting in settings for language in ("macro", *LANGUAGES)]
        assert [(row.setting, row.query_language) for row in found.rows] == wanted


def test_p_and_interval_of_one_language_are_scipys(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1)
    make_run(tmp_path / "b", 2, 0.02)
    values = {}
    for name in ("a", "b"):
        rows = pq.read_table(tmp_path / name / "per_query.parquet").to_pylist()
        own = [r for r in rows if (r["setting"], r["query_language"], r["metric"]) == ("monolingual", "th", "map")]
        values[name] = np.array([r["value"] for r in sorted(own, key=lambda r: r["query_id"])])
    difference = values["b"] - values["a"]
    found = compare([System(name, (tmp_path / name,)) for name in "ab"], permutations=20_000, resamples=20_000, seed=3)
    row = next(r for r in found.rows if (r.setting, r.query_language) == ("monolingual", "th"))
    test = stats.permutation_test(
        (difference,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert row.p == pytest.approx(test.pvalue, abs=5 * math.sqrt(2 * test.pvalue / 20_000) + 1e-4)
    interval = stats.bootstrap((difference,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    width = row.high - row.low
    assert row.low == pytest.approx(interval.confidence_interval.low, abs=0.03 * width)
    assert row.high == pytest.approx(interval.confidence_interval.high, abs=0.03 * width)
    assert row.num_questions == len(difference) == 35
    assert row.smallest_detectable == pytest.approx(2.8016 * stats.sem(difference), rel=1e-4)


def test_holm_is_over_the_languages_of_a_setting_and_macro_values_over_the_comparisons(tmp_path: Path) -> None:
    for seed, name in enumerate("abcd"):
        make_run(tmp_path / name, seed, 0.01 * seed)
    found = compare([System(name, (tmp_path / name,)) for name in "abcd"], permutations=500, resamples=200)
    for setting in ALL_SETTINGS:
        macro = [row for row in found.rows if (row.setting, row.query_language) == (setting, "macro")]
        assert [row.system for row in macro] == ["b", "c", "d"]
        assert [row.p_holm for row in macro] == significance.holm([row.p for row in macro]).tolist()
        for system in "bcd":
            own = [r for r in found.rows if (r.setting, r.system) == (setting, system) and r.query_language != "macro"]
            assert [row.p_holm for row in own] == significance.holm([row.p for row in own]).tolist()


def test_a_difference_is_shown_and_noise_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "base", 1)
    make_run(tmp_path / "better", 2, 0.1)
    make_run(tmp_path / "worse", 3, -0.1)
    make_run(tmp_path / "same", 4)
    folders = [str(tmp_path / name) for name in ("base", "better", "worse", "same")]
    assert main([*folders, "--resamples", "500", "--permutations", "2000"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if "against" not in line) <= 100
    macro = out.split("by query language")[0]
    assert re.search(r"Mo\. +better .*\+\.\d+▲", macro)
    assert re.search(r"Mo\. +worse .*-\.\d+▼", macro)
    assert re.search(r"Mul\. +same .*[+-]\.\d+ +\[", macro)
    assert re.search(
        r"^toy: better against base, Cr\. mAP: \+\.\d{4} \[\.\d{4}, \.\d{4}\], p = \.00\d \(Holm\)$", out, re.M
    )
    same = next(line for line in out.splitlines() if line.startswith("toy: same against base, Mo. mAP"))
    assert re.search(r"p = [.\d]+( \(Holm\))?: no difference shown \(smallest detectable \.\d{4}\)$", same)


def test_less_is_better_for_distances_in_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "base", 1)
    make_run(tmp_path / "nearer", 2, -30.0)
    assert main([str(tmp_path / "base"), str(tmp_path / "nearer"), "--metric", "rank_distance"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"Mul\. +nearer +-29\.\d .*-30\.0▲", out)
    assert "rank distance, lower is better: -30.0 [" in out


# ------------------------------------------------------------------------------------------------------------ seeds


def test_seeds_are_averaged_by_question_and_their_spread_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        name: [make_run(tmp_path / f"{name}{s}", 10 * i + s, 0.02 * i) for s in range(5)] for i, name in enumerate("ab")
    }
    systems = [System(name, tuple(tmp_path / f"{name}{s}" for s in range(5))) for name in "ab"]
    found = compare(systems, resamples=500, permutations=500)
    row = found.rows[0]
    macros = {name: [run.macro()["toy"]["monolingual"]["map"] for run in each] for name, each in runs.items()}
    assert found.seeds["toy", "monolingual", "b"] == pytest.approx(macros["b"], abs=1e-12)
    assert row.baseline_value == pytest.approx(np.mean(macros["a"]), abs=1e-12)
    pooled = math.sqrt((np.var(macros["a"], ddof=1) + np.var(macros["b"], ddof=1)) / 2)
    assert row.seed_deviation == pytest.approx(pooled, rel=1e-9)
    assert (row.seeds, row.baseline_seeds, row.interval) == (5, 5, "questions and seeds")
    assert "5 and 5 runs, interval over questions and seeds" in in_words(row)
    four = compare([System("a", systems[0].folders[:4]), systems[1]], resamples=500, permutations=500)
    assert {row.interval for row in four.rows} == {"questions"}
    lists = [f"{system.name}={','.join(map(str, system.folders))}" for system in systems]
    assert main([*lists, "--resamples", "100", "--permutations", "100"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(f"{value:.4f}"[1:] for value in macros["b"]) in shown
    assert "these very weights" not in shown


def test_names_of_sweep_folders_hold_commas_and_equal_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"sampler=hybrid,seed={s}" for s in (1, 2)]
    for name in (*names, "plain"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
    parts = [Path("sweep") / name for name in names]
    together = f"hybrid={parts[0]},{parts[1]}"
    assert parse_systems([together]) == [System("hybrid", tuple(parts))]
    assert parse_systems([f"hybrid={parts[0]}", "sweep/plain", f"hybrid={parts[1]}"]) == [
        System("hybrid", tuple(parts)),
        System("plain", (Path("sweep/plain"),)),
    ]
    assert parse_systems([str(parts[0])]) == [System(names[0], (parts[0],))]
    for wrong in ("sweep/nothing", "hybrid=sweep/nothing", f"{together},x", "=sweep/plain", "hybrid="):
        with pytest.raises(ConfigError, match="no such folder"):
            parse_systems([wrong])


# ----------------------------------------------------------------------------------------------------------- choice


def test_the_last_step_and_the_common_benchmarks_are_compared(tmp_path: Path) -> None:
    early = make_run(tmp_path / "early", 1, benchmarks=("toy", "other"), step=10)
    make_run(tmp_path / "a", 2, 0.3, step=20, merged=early)
    make_run(tmp_path / "b", 3, 0.3, step=5)
    found = compare([System("b", (tmp_path / "b",)), System("a", (tmp_path / "a",))], resamples=100, permutations=100)
    assert {row.benchmark for row in found.rows} == {"toy"}
    assert abs(found.rows[0].difference) < 0.1
    assert found.notes == ["left out, as not every run has it: other"]


def test_baseline_and_pairs(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        make_run(tmp_path / name, seed, settings=("monolingual",))
    systems = [System(name, (tmp_path / name,)) for name in "abc"]

    def pairs(**options: object) -> list[tuple[str, str]]:
        found = compare(systems, resamples=100, permutations=100, **options)  # type: ignore[arg-type]
        return [(row.baseline, row.system) for row in found.rows if row.query_language == "macro"]

    assert pairs() == [("a", "b"), ("a", "c")]
    assert pairs(baseline="c") == [("c", "a"), ("c", "b")]
    assert pairs(all_pairs=True) == [("a", "b"), ("a", "c"), ("b", "c")]


# ------------------------------------------------------------------------------------------------------------ files


def test_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", 1)
    make_run(tmp_path / "b", 2, -0.1)
    arguments = [f"x_x={tmp_path / 'a'}", f"h & 100% {{~}}={tmp_path / 'b'}", "--output", str(tmp_path / "new" / "out")]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    out = tmp_path / "new" / "out"
    rows = read_csv(out / "comparison.csv")
    assert list(rows[0])[:16] == [
        "benchmark", "setting", "query_language", "metric", "baseline", "system", "baseline_value", "system_value",
        "difference", "low", "high", "p", "p_holm", "smallest_detectable", "num_questions", "seeds",
    ]  # fmt: skip
    assert len(rows) == 3 * (1 + len(LANGUAGES))
    for row in rows:
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
        assert 0 < float(row["p"]) <= float(row["p_holm"]) <= 1
    latex = (out / "comparison.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    assert r"h \& 100\% \{\textasciitilde{}\}" in latex
    assert r"x\_x" in latex
    assert r"$\downarrow$" in latex
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", latex, re.S):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(table[0])}
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(content) == {"comparison.csv", "comparison.tex"}
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content


# --------------------------------------------------------------------------------------------------------- refusals


def test_runs_with_other_queries_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    make_run(a, 1)
    make_run(b, 2, questions=43)
    said = refused_line(main, capsys, a, b)
    assert f"toy, cross_lingual, de against sw: queries differ: 3 only in {b} (e.g. q40)" in said
    make_run(b, 2, absent=6)
    said = refused_line(main, capsys, a, b)
    assert f"toy, cross_lingual, de against th: queries differ: 1 only in {a} (e.g. q34)" in said
    make_run(b, 2, languages=("de", "sw"))
    said = refused_line(main, capsys, b, a)
    assert f"de against th: {a} was evaluated there, {b} was not" in said
    make_run(b, 2, settings=("monolingual",))
    assert "toy, cross_lingual, de against sw" in refused_line(main, capsys, a, b)
    make_run(tmp_path / "c", 3, absent=6)
    make_run(b, 2)
    assert "q34" in refused_line(main, capsys, a, f"b={b},{tmp_path / 'c'}")  # a seed of one system


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, other = tmp_path / "a", tmp_path / "b", tmp_path / "other"
    make_run(a, 1)
    make_run(b, 2)
    make_run(other, 3, benchmarks=("another",))
    assert "give two or more" in refused_line(main, capsys, a)
    assert "give two or more" in refused_line(main, capsys)
    assert "given twice" in refused_line(main, capsys, a, a)
    assert "given twice" in refused_line(main, capsys, f"x={a}", f"y={b},{tmp_path / 'b' / '..' / 'a'}")
    (tmp_path / "deep").mkdir()
    make_run(tmp_path / "deep" / "a", 4)
    assert "two are named a" in refused_line(main, capsys, a, tmp_path / "deep" / "a")
    assert 'did you mean "recall@10"?' in refused_line(main, capsys, a, b, "--metric", "recal@10")
    assert 'did you mean "toy"?' in refused_line(main, capsys, a, b, "--benchmark", "toys")
    assert 'did you mean "a"?' in refused_line(main, capsys, a, b, "--baseline", "A")
    assert "no benchmark in common" in refused_line(main, capsys, a, other)
    assert "no such folder" in refused_line(main, capsys, a, tmp_path / "nowhere")
    assert "has no per_query.parquet" in refused_line(main, capsys, a, tmp_path)
    for options in (["--permutations", "10"], ["--resamples", "many"], ["--seed", "-1"], ["--sead", "1"]):
        assert options[0] in refused_line(main, capsys, a, b, *options)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused_line(main, capsys, a, b, "--output", tmp_path / "file")


def test_files_that_are_no_query_values_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    make_run(good, 1)
    bad.mkdir()
    path = bad / "per_query.parquet"
    systems = [System("good", (good,)), System("bad", (bad,))]

    path.write_bytes((good / "per_query.parquet").read_bytes()[:-100])
    with pytest.raises(DataError, match="is not a file of query values"):
        compare(systems)
    pq.write_table(pa.table({"metric": ["map"], "value": [1.0]}), path)
    with pytest.raises(DataError, match="has no column benchmark"):
        compare(systems)
    table = pq.read_table(good / "per_query.parquet", partitioning=None)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    with pytest.raises(DataError, match="monolingual, de: query q3 occurs twice"):
        compare(systems)
    values = table["value"].to_pylist()
    values[2] = math.nan
    pq.write_table(table.set_column(table.column_names.index("value"), "value", pa.array(values)), path)
    with pytest.raises(DataError, match="query q2 has a value that is no number"):
        compare(systems)


def test_the_command_starts_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1)
    make_run(tmp_path / "b", 2, 0.1)
    code = (
        "import sys; from hybrid_ir.analysis.compare import main; "
        f"code = main({[str(tmp_path / 'a'), str(tmp_path / 'b')]!r}); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "toy: b against a, Mo. mAP: +" in done.stdout
