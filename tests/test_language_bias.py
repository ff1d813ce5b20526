"""Measures of language bias against scipy and plain Python; their files, tables, figures and logs."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.console import bias_tables, print_results
from hybrid_ir.evaluation.figures import bias_figure, pixels, save_figures
from hybrid_ir.evaluation.language_bias import (
    bias_rows_from_results,
    bias_table,
    mean_rank_correlation,
    measure,
    rank_correlation,
)
from hybrid_ir.evaluation.metrics import Group, GroupScores, metrics_of
from hybrid_ir.evaluation.pool import PoolRanking
from hybrid_ir.evaluation.results import BIAS_COLUMNS, BiasRow, Results

# ---------------------------------------------------------------------------------------------------- rank correlation


def spearman(first: list[int], second: list[int]) -> float:
    """By scipy, on the places of all documents in either list; what a list lacks is tied behind its last."""
    if first == second:
        return 1.0
    either = sorted({*first, *second})
    places = [[one.index(d) if d in one else len(one) for d in either] for one in (first, second)]
    return float(spearmanr(*places).statistic)


@st.composite
def rankings(draw: st.DrawFn) -> np.ndarray:
    """[n, k] documents, each once in a row."""
    n, k = draw(st.integers(2, 12)), draw(st.integers(1, 12))
    universe = draw(st.integers(k, 3 * k))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.stack([rng.choice(universe, k, replace=False) for _ in range(n)])


@given(rankings())
def test_rank_correlation_is_scipys(top: np.ndarray) -> None:
    first, second = top[:-1], top[1:]
    expected = [spearman(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected, atol=1e-12)
    np.testing.assert_array_equal(rank_correlation(second, first), rank_correlation(first, second))
    np.testing.assert_array_equal(rank_correlation(first, first), 1.0)


def test_rank_correlation_of_lists_that_share_nothing() -> None:
    """Below 0 at any depth, by the formula of the definition's worst case."""
    for k in (1, 2, 10, 100):
        first, second = np.arange(k)[None], np.arange(k, 2 * k)[None]
        places = np.r_[1 : k + 1, np.full(k, (3 * k + 1) / 2)]
        expected = np.corrcoef(places, places[::-1])[0, 1]
        assert rank_correlation(first, second)[0] == pytest.approx(expected)
        assert expected < 0


@given(rankings(), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_mean_rank_correlation_is_a_mean_over_the_other_versions(
    top: np.ndarray, num_languages: int, seed: int
) -> None:
    """Ragged: some questions lack a language, some have only one."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(len(top) * num_languages, len(top), replace=False)
    versions = np.full((len(top), num_languages), -1)
    versions.reshape(-1)[cells] = rng.permutation(len(top))
    found = mean_rank_correlation(top, versions)
    for question in versions:
        there = [int(row) for row in question if row >= 0]
        for row in there:
            others = [spearman(top[row].tolist(), top[other].tolist()) for other in there if other != row]
            assert found[row] == pytest.approx(np.mean(others), abs=1e-12) if others else np.isnan(found[row])


# ------------------------------------------------------------------------------------------------------------ measures


def make_benchmark(seed: int, languages: tuple[str, ...] = ("de", "sw", "th"), questions: int = 6) -> Benchmark:
    """Ragged: a version of a question is missing now and then, and answers are missing in some languages."""
    rng = np.random.default_rng(seed)
    document_languages = np.r_[np.arange(len(languages)), rng.integers(len(languages), size=20)]
    versions = [
        (question, language)
        for question in range(questions)
        for language in range(len(languages))
        if language == 0 or rng.random() < 0.8
    ]
    answers = [rng.choice(len(document_languages), rng.integers(1, 6), replace=False) for _ in range(questions)]
    judgments = [(row, int(d), 1) for row, (question, _) in enumerate(versions) for d in answers[question]]
    return Benchmark(
        name="toy",
        query_ids=[f"q{question}" for question, _ in versions],
        query_languages=np.array([language for _, language in versions]),
        queries=["?"] * len(versions),
        document_ids=[f"d{i}" for i in range(len(document_languages))],
        document_languages=document_languages,
        documents=["."] * len(document_languages),
        judgments=np.array(judgments),
        languages=languages,
    )


def ranked(benchmark: Benchmark, orders: np.ndarray, queries: np.ndarray, depth: int) -> PoolRanking:
    """What search hands over, from the whole ranking [queries, documents] of each query."""
    relevant = [benchmark.judgments[benchmark.judgments[:, 0] == query, 1] for query in queries]
    width = max(map(len, relevant))
    padded = np.stack([np.r_[found, np.full(width - len(found), -1)] for found in relevant]).astype(np.int64)
    place = np.argsort(orders, axis=1)
    ranks = np.where(padded >= 0, 1 + np.take_along_axis(place, padded.clip(min=0), axis=1), 0)
    return PoolRanking(queries, orders[:, :depth], padded, ranks)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 10, 40]))
@settings(max_examples=30)
def test_measures_are_those_of_plain_python(seed: int, k: int) -> None:
    benchmark = make_benchmark(seed)
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.choice(len(benchmark.queries), len(benchmark.queries) - 1, replace=False))
    size = len(benchmark.documents)
    orders = np.stack([rng.permutation(size) for _ in queries])
    found = measure(benchmark, ranked(benchmark, orders, queries, 40), k, step=7)

    code = {d: benchmark.languages[language] for d, language in enumerate(benchmark.document_languages)}
    values: dict[tuple[str, str, str], list[float]] = {}
    for row, query in enumerate(queries):
        own = benchmark.languages[benchmark.query_languages[query]]
        first = orders[row, :k].tolist()
        counts = Counter(code[d] for d in first)
        assert found.of(np.array([query]))[0, 0] == pytest.approx(counts[own] / len(first))
        for language in benchmark.languages:
            values.setdefault((f"language_share@{k}", own, language), []).append(counts[language] / len(first))
            relevant = [d for q, d, _ in benchmark.judgments.tolist() if q == query and code[d] == language]
            if relevant:
                ranks = [1 + orders[row].tolist().index(d) for d in relevant]
                values.setdefault((f"relevant_found@{k}", own, language), []).append(
                    sum(rank <= k for rank in ranks) / len(ranks)
                )
                values.setdefault(("mean_rank", own, language), []).append(float(np.mean(ranks)))
        others = [
            spearman(first, orders[other, :k].tolist())
            for other, version in enumerate(queries)
            if version != query and benchmark.query_ids[version] == benchmark.query_ids[query]
        ]
        correlation = found.of(np.array([query]))[0, 1]
        assert correlation == pytest.approx(np.mean(others), abs=1e-12) if others else np.isnan(correlation)
        if others:
            values.setdefault((f"mrc@{k}", own, "all"), []).append(float(np.mean(others)))
    expected = {key: (float(np.mean(each)), len(each)) for key, each in values.items()}
    for name, column in {(name, column) for name, _, column in expected}:
        over = [expected[key] for key in expected if (key[0], key[2]) == (name, column)]
        expected[name, "all", column] = (float(np.mean([v for v, _ in over])), sum(n for _, n in over))
    for language in benchmark.languages:
        expected["pool_share", "all", language] = (Counter(code.values())[language] / size, len(queries))

    measured = {(r.measure, r.query_language, r.document_language): (r.value, r.num_queries) for r in found.rows}
    assert len(measured) == len(found.rows)
    assert measured.keys() == expected.keys()
    for key, (value, count) in expected.items():
        assert measured[key] == (pytest.approx(value, abs=1e-12), count), key
    assert found.metrics == (f"own_language_share@{k}", f"mrc@{k}")
    assert {(row.benchmark, row.step) for row in found.rows} == {("toy", 7)}
    for query_language in (*benchmark.languages, "all"):
        row = [v for (name, q, _), (v, _) in measured.items() if name == f"language_share@{k}" and q == query_language]
        assert not row or sum(row) == pytest.approx(1)


def test_two_extremes() -> None:
    """An encoder that sees only the language, and one that does not see it."""
    benchmark = make_benchmark(0)
    queries = np.arange(len(benchmark.queries))
    own_first = np.stack(
        [
            np.argsort(benchmark.document_languages != benchmark.query_languages[query], kind="stable")
            for query in queries
        ]
    )
    biased = measure(benchmark, ranked(benchmark, own_first, queries, 3), 3, 0)
    assert (biased.values[:, 0] == 1).all()
    assert (biased.values[:, 1] < 0).sum() == (~np.isnan(biased.values[:, 1])).sum() > 0

    same = np.tile(np.random.default_rng(0).permutation(len(benchmark.documents)), (len(queries), 1))
    fair = measure(benchmark, ranked(benchmark, same, queries, 3), 3, 0)
    several = Counter(benchmark.query_ids)
    np.testing.assert_array_equal(
        fair.values[:, 1], [1.0 if several[name] > 1 else np.nan for name in benchmark.query_ids]
    )
    shares = bias_table(fair.rows, "toy", "language_share")
    for document_language in benchmark.languages:
        assert len({shares[q, document_language] for q in benchmark.languages}) == 1


def test_two_versions_in_one_language_are_refused() -> None:
    benchmark = make_benchmark(0)
    doubled = Benchmark(**{**vars(benchmark), "query_ids": ["same"] * len(benchmark.query_ids)})
    pool = ranked(doubled, np.tile(np.arange(23), (2, 1)), np.flatnonzero(doubled.query_languages == 0)[:2], 5)
    with pytest.raises(DataError, match="benchmark toy: has two queries with id same in de"):
        measure(doubled, pool, 5, 0)


# ------------------------------------------------------------------------------------------------------------- results


def make_results(seed: int = 0, benchmark: str = "toy", step: int = 3, languages: int = 3) -> Results:
    """Random rankings, as the engine joins them: metrics with the columns of bias, and its rows."""
    codes = ("ar", "de", "el", "en", "es", "hi", "ru", "sw", "th", "tr", "vi", "zh")[:languages]
    toy = make_benchmark(seed, codes)
    rng = np.random.default_rng(seed)
    queries = np.arange(len(toy.queries))
    orders = np.stack([rng.permutation(len(toy.documents)) for _ in queries])
    bias = measure(toy, ranked(toy, orders, queries, 10), 10, step)
    groups: dict[Group, GroupScores] = {}
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        for query_index, query_language in enumerate(codes):
            of_language = np.flatnonzero(toy.query_languages == query_index)
            corpora = {"monolingual": [query_language], "multilingual": ["all"]}.get(
                setting, [code for code in codes if code != query_language]
            )
            for corpus in corpora:
                names = metrics_of(setting)
                scores = GroupScores(of_language, rng.random((len(of_language), len(names))), names)
                if setting == "multilingual":
                    scores = scores.with_columns(bias.metrics, bias.of(of_language))
                groups[Group(setting, query_language, corpus)] = scores
    results = Results.from_groups(benchmark, toy.query_ids, groups, step)
    rows = [BiasRow(**{**{c: getattr(row, c) for c in BIAS_COLUMNS}, "benchmark": benchmark}) for row in bias.rows]
    results.bias = [*rows, *bias_rows_from_results(results, benchmark)]
    return results


def test_alignment_is_taken_from_the_results() -> None:
    results = make_results()
    values = {(row.measure, row.query_language): row for row in results.bias if row.document_language == "all"}
    for language in ("ar", "de", "el"):
        maps = [r for r in results.rows if r.metric == "map" and r.query_language == language]
        one_language = [r.value for r in maps if r.setting != "multilingual"]
        (pool,) = [r for r in maps if r.setting == "multilingual"]
        assert len(one_language) == 3
        assert values["weak_alignment", language].value == pytest.approx(np.mean(one_language))
        assert values["strong_alignment", language].value == pool.value
        assert values["alignment_gap", language].value == pytest.approx(np.mean(one_language) - pool.value)
        assert values["alignment_gap", language].num_queries == pool.num_queries
    for name in ("weak_alignment", "strong_alignment", "alignment_gap", "rank_distance", "max_rank"):
        of_languages = [values[name, language].value for language in ("ar", "de", "el")]
        assert values[name, "all"].value == pytest.approx(np.mean(of_languages))
    macro = results.macro()["toy"]["multilingual"]
    assert values["rank_distance", "all"].value == pytest.approx(macro["rank_distance"])
    assert values["mrc@10", "all"].value == pytest.approx(macro["mrc@10"])
    assert bias_rows_from_results(Results([r for r in results.rows if r.setting != "multilingual"]), "toy") == []


def test_a_query_without_a_value_is_left_out_of_that_metric_only() -> None:
    """A question in one language has no rank correlation, and counts in every other metric."""
    scores = GroupScores(np.arange(3), np.array([[0.5], [1.0], [0.0]]), ("map",))
    values = np.array([[0.1, np.nan], [0.2, np.nan], [0.3, 0.7]])
    groups = {
        Group("multilingual", "de", "all"): scores.with_columns(("own_language_share@10", "mrc@10"), values),
        Group("multilingual", "sw", "all"): scores.with_columns(("mrc@10",), np.full((3, 1), np.nan)),
    }
    results = Results.from_groups("toy", ["a", "b", "c"], groups, 0)
    assert [(r.query_language, r.metric, r.value, r.num_queries) for r in results.rows] == [
        ("de", "map", 0.5, 3),
        ("de", "own_language_share@10", pytest.approx(0.2), 3),
        ("de", "mrc@10", 0.7, 1),
        ("sw", "map", 0.5, 3),
    ]
    table = results.per_query.to_pylist()
    assert len(table) == 3 + 3 + 1 + 3
    assert [row["query_id"] for row in table if row["metric"] == "mrc@10"] == ["c"]


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    results = make_results()
    results.write(tmp_path)
    assert Results.read(tmp_path).bias == results.bias
    assert (tmp_path / "language_bias.csv").read_text().splitlines()[0] == ",".join(BIAS_COLUMNS)
    Results(results.rows, results.per_query).write(tmp_path)
    assert not (tmp_path / "language_bias.csv").exists(), "an earlier evaluation's stays"
    assert Results.read(tmp_path).bias == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [("toy,mrc@10,de,all,much,3,0", "could not convert"), ("toy,mrc@10,de,all,0.5", "not 7 fields")],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    make_results().write(tmp_path)
    path = tmp_path / "language_bias.csv"
    path.write_text(",".join(BIAS_COLUMNS) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rf"language_bias.csv:2: bad row \({problem}"):
        Results.read(tmp_path)


def test_bias_goes_with_its_results() -> None:
    first, later = make_results(step=3), make_results(seed=1, step=5)
    other = make_results(seed=2, benchmark="other", step=5)
    both = Results()
    for each in (first, later, other):
        both.merge(each)
    assert both.bias == [*first.bias, *later.bias, *other.bias]
    assert both.at_step(5).bias == [*later.bias, *other.bias]
    assert both.until(4).bias == first.bias
    again = make_results(seed=9, step=5)
    both.merge(again)
    assert both.bias == [*first.bias, *other.bias, *again.bias]
    shares = bias_table(both.bias, "toy", "language_share")
    assert shares == bias_table(again.bias, "toy", "language_share"), "not those of the last step"


# --------------------------------------------------------------------------------------------------------------- shown


@pytest.mark.parametrize(("languages", "width"), [(3, 100), (12, 80), (12, 100)])
def test_tables_fit_the_width(languages: int, width: int) -> None:
    results = make_results(languages=languages)
    console = Console(file=io.StringIO(), width=width)
    print_results({"a-model": results}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text, "a cell is cut off"
    assert "own share@10" in text
    assert "MRC@10" in text
    last = text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if "share of the first" in x)) :]
    shares = bias_table(results.bias, "toy", "language_share")
    row = next(line.split() for line in last if line.split()[:1] == ["de"])
    assert row[1] == f"{shares['de', 'ar']:.2f}".removeprefix("0")
    assert sum(line.split()[:1] == ["pool"] for line in last) >= 1


def test_nothing_is_shown_where_nothing_was_measured(tmp_path: Path) -> None:
    results = Results(make_results().rows)
    assert bias_tables(results.bias, "toy") == []
    assert bias_figure(results.bias, "toy") is None
    assert save_figures(results, tmp_path) == []


def test_figures_show_the_values(tmp_path: Path) -> None:
    results = make_results(languages=12)
    figure = bias_figure(results.bias, "toy")
    assert figure is not None
    left, right = figure.axes[:2]
    for axes, name, below in ((left, "language_share", "pool"), (right, "relevant_found", "all")):
        labels = [label.get_text() for label in axes.get_yticklabels()]
        columns = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == [*columns, below]
        values = bias_table(results.bias, "toy", name)
        shown = {tuple(map(round, reversed(text.get_position()))): text.get_text() for text in axes.texts}
        for (query, document), value in values.items():
            if query in labels:
                text = shown[labels.index(query), columns.index(document)]
                assert float(text) == pytest.approx(value, abs=0.00501)
    image = pixels(figure)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.std() > 10, "nothing is drawn"

    files = save_figures(results, tmp_path)
    assert [path.name for path in files] == ["language_bias.toy.png", "language_bias.toy.svg"]
    assert files[0].read_bytes()[:4] == b"\x89PNG"
    before = [path.read_bytes() for path in files]
    save_figures(results, tmp_path)
    assert [path.read_bytes() for path in files] == before, "equal results give other files"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    if "matplotlib.pyplot" in sys.modules:  # another test's library may have imported it
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
