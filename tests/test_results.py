"""The tables of results: columns, means, files, console."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.console import print_results
from hybrid_ir.evaluation.metrics import Group, GroupScores, metrics_of
from hybrid_ir.evaluation.results import Results
from hybrid_ir.languages import MIRACL

METRICS = ["map", "recall@1", "recall@10", "recall@100", "precision@10", "ndcg@10", "mrr@10"]
CONTRACT_COLUMNS = [
    "benchmark",
    "setting",
    "query_language",
    "corpus_language",
    "metric",
    "value",
    "num_queries",
    "step",
]


def make_results(
    benchmark: str = "toy",
    step: int = 0,
    languages: tuple[str, ...] = ("de", "sw", "th"),
    seed: int = 0,
    questions: int = 4,
) -> Results:
    """Random values of a ragged benchmark: th answers one question less."""
    rng = np.random.default_rng(seed)
    groups = {}
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        for q, query_language in enumerate(languages):
            corpora = {"monolingual": [query_language], "multilingual": ["all"]}.get(
                setting, [code for code in languages if code != query_language]
            )
            for corpus in corpora:
                queries = q * questions + np.arange(questions - (corpus == "th"))
                names = metrics_of(setting)
                values = rng.random((len(queries), len(names)))
                groups[Group(setting, query_language, corpus)] = GroupScores(queries, values, names)
    ids = [f"q{i % questions}" for i in range(len(languages) * questions)]
    return Results.from_groups(benchmark, ids, groups, step)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_have_the_contracts_columns(tmp_path: Path) -> None:
    make_results().write(tmp_path)
    rows = read_csv(tmp_path / "results.csv")
    assert list(rows[0]) == CONTRACT_COLUMNS
    table = pq.read_table(tmp_path / "per_query.parquet")
    assert set(table.column_names) == {*CONTRACT_COLUMNS, "query_id"}
    assert pq.ParquetFile(tmp_path / "per_query.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert {r["metric"] for r in rows if r["setting"] == "monolingual"} == set(METRICS)
    assert {r["metric"] for r in rows if r["setting"] == "cross_lingual"} == set(METRICS)
    assert {r["metric"] for r in rows if r["setting"] == "multilingual"} == {*METRICS, "rank_distance", "max_rank"}
    assert {r["corpus_language"] for r in rows if r["setting"] == "multilingual"} == {"all"}


def test_means_are_those_of_the_queries(tmp_path: Path) -> None:
    make_results().write(tmp_path)
    values: dict[tuple[str, ...], list[float]] = {}
    for row in pq.read_table(tmp_path / "per_query.parquet").to_pylist():
        key = tuple(row[c] for c in CONTRACT_COLUMNS[:5])
        values.setdefault(key, []).append(row["value"])
    rows = read_csv(tmp_path / "results.csv")
    assert len(rows) == len(values)
    for row in rows:
        own = values[tuple(row[c] for c in CONTRACT_COLUMNS[:5])]
        assert float(row["value"]) == pytest.approx(sum(own) / len(own), abs=1e-12)
        assert int(row["num_queries"]) == len(own) == (3 if row["corpus_language"] == "th" else 4)


def test_query_ids_are_shared_by_the_languages() -> None:
    table = make_results().per_query.to_pylist()
    for language in ("de", "sw"):
        own = [r["query_id"] for r in table if (r["query_language"], r["metric"]) == (language, "map")]
        assert set(own) == {"q0", "q1", "q2", "q3"}


def test_macro_means_and_logged_names(tmp_path: Path) -> None:
    results = make_results()
    results.write(tmp_path)
    cells = {
        (r["setting"], r["query_language"], r["corpus_language"], r["metric"]): float(r["value"])
        for r in read_csv(tmp_path / "results.csv")
    }
    languages = ("de", "sw", "th")
    macro = results.macro()["toy"]
    logged = results.logged()
    for metric, name in (("map", "map"), ("recall@10", "recall_at_10"), ("ndcg@10", "ndcg_at_10")):
        mono = [cells["monolingual", a, a, metric] for a in languages]
        cross = [cells["cross_lingual", a, b, metric] for a in languages for b in languages if a != b]
        multi = [cells["multilingual", a, "all", metric] for a in languages]
        for setting, own in (("monolingual", mono), ("cross_lingual", cross), ("multilingual", multi)):
            assert macro[setting][metric] == pytest.approx(sum(own) / len(own), abs=1e-12)
            assert logged[f"val/toy/{setting}/{name}"] == macro[setting][metric]
        of_sw = [cells["cross_lingual", "sw", b, metric] for b in ("de", "th")]
        assert logged[f"val/toy/cross_lingual/sw/{name}"] == pytest.approx(sum(of_sw) / 2, abs=1e-12)
        assert logged[f"val/toy/monolingual/th/{name}"] == cells["monolingual", "th", "th", metric]
    assert "val/toy/multilingual/rank_distance" in logged
    assert not any("@" in name for name in logged)


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    results = make_results()
    results.merge(make_results("other", step=5, seed=1))
    results.write(tmp_path)
    back = Results.read(tmp_path)
    assert back.rows == results.rows
    assert back.per_query.to_pylist() == results.per_query.to_pylist()
    assert back.benchmarks() == ["toy", "other"]
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), min_size=1, max_size=6), st.integers(0, 2))
def test_merging_keeps_the_last_of_each_benchmark_and_step(evaluations: list[tuple[str, int]], step: int) -> None:
    merged = Results()
    last = {}
    for seed, (benchmark, at) in enumerate(evaluations):
        last[benchmark, at] = make_results(benchmark, at, seed=seed)
        merged.merge(last[benchmark, at])
    assert sorted(merged.rows, key=repr) == sorted((r for each in last.values() for r in each.rows), key=repr)
    expected = [row for each in last.values() for row in each.per_query.to_pylist()]
    assert sorted(merged.per_query.to_pylist(), key=repr) == sorted(expected, key=repr)
    assert {row.step for row in merged.until(step).rows} == {at for _, at in last if at <= step}
    assert {row.step for row in merged.at_step(step).rows} == {at for _, at in last if at == step}
    newest = {benchmark: max(at for name, at in last if name == benchmark) for benchmark, _ in last}
    assert merged.macro() == {benchmark: last[benchmark, at].macro()[benchmark] for benchmark, at in newest.items()}


def test_merging_rows_alone() -> None:
    merged = make_results(step=0)
    merged.merge(make_results(step=1), per_query=False)
    assert {row.step for row in merged.rows} == {0, 1}
    assert set(merged.per_query["step"].to_pylist()) == {0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"results\.csv:1: has columns none"),
        ("benchmark,value\n", r"results\.csv:1: has columns benchmark,value"),
        (",".join(CONTRACT_COLUMNS) + "\ntoy,monolingual,de,de,map,high,3,0\n", r"results\.csv:2: bad row .*high"),
        (",".join(CONTRACT_COLUMNS) + "\ntoy,mono,de,de,map,.5,3,0\n", r"results\.csv:2: bad row .*'mono'"),
        (",".join(CONTRACT_COLUMNS) + "\ntoy,monolingual,de\n", r"results\.csv:2: bad row .*8 fields"),
    ],
)
def test_bad_csv_is_an_error_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        Results.read(tmp_path)


def test_missing_or_foreign_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Results.read(tmp_path)
    make_results().write(tmp_path)
    (tmp_path / "per_query.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="not a Parquet file"):
        Results.read(tmp_path)


# -------------------------------------------------------------------------------------------------------- console


def printed(named: Results | list[tuple[str, Results]], width: int = 100) -> str:
    output = io.StringIO()
    print_results(named, Console(file=output, width=width))
    return output.getvalue()


def test_tables_fit_100_columns_with_18_languages() -> None:
    before = make_results("validation", languages=MIRACL, seed=1)
    before.merge(make_results("xquad_r"))
    after = make_results("validation", languages=MIRACL, seed=2, step=600)
    text = printed([("untrained", before), ("trained", after)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    assert "\x1b" not in text
    heads = [line.split() for line in lines if line.split()[:1] == ["query"]]
    assert ["query", *sorted(MIRACL)] in heads
    macro = after.macro()["validation"]
    row = next(line for line in lines if line.split()[:1] == ["trained"])
    shown = [macro["monolingual"]["map"], macro["cross_lingual"]["map"], macro["multilingual"]["map"]]
    assert row.split()[1:4] == [f"{value:.4f}".removeprefix("0") for value in shown]
    pairs = after.pairs("validation", "map")
    cells = next(line.split() for line in lines if line.split()[:1] == ["yo"] and len(line.split()) == 19)
    assert cells[1:] == [f"{pairs['yo', code]:.2f}".removeprefix("0").replace("1.00", "1.0") for code in sorted(MIRACL)]


def test_a_narrow_terminal_splits_the_map() -> None:
    text = printed(make_results(languages=MIRACL), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    heads = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["query"]]
    assert sorted(code for head in heads for code in head if code in MIRACL) == sorted(MIRACL)


def test_nothing_to_print() -> None:
    assert "no results" in printed(Results())
