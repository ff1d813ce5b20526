"""Exact search against sorting in plain Python, and one process against several."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ir.config import EvaluationConfig
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.encoding import EvaluationStopped, document_shards, encode_in_shards
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.metrics import RetrievalMetrics
from hybrid_ir.evaluation.results import Results
from hybrid_ir.evaluation.search import (
    NO_DOCUMENT,
    TopK,
    count_above,
    key_scores,
    ranking_keys,
    scores,
    tie_order,
)

# ------------------------------------------------------------------------------------------------------ processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _enter(rank: int, size: int, port: int, work: Callable[..., Any], folder: str, args: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.save(work(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def in_processes(size: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What ``work(*args)`` returns on each of ``size`` gloo processes."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_enter, (size, free_port(), work, str(folder), args), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


class ContextEncoder:
    """Embeds a text by its bytes, and shifts each embedding a little by what else is in the call: as padding does in a
    real encoder, but so that any change of the shards shows."""

    def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
        rows = []
        for text in texts:
            # The end decides what a text is about (number and language), the whole adds as much noise.
            about, whole = (int.from_bytes(part, "big") for part in (str(text).encode()[-8:], str(text).encode()))
            rows.append(
                np.random.default_rng(about).standard_normal(16) + np.random.default_rng(whole).standard_normal(16)
            )
        embedded = torch.tensor(np.array(rows), dtype=torch.float32)
        embedded += 1e-3 * embedded.mean(dim=0) + 1e-4 * len(texts)
        return torch.nn.functional.normalize(embedded, dim=1)


def make_benchmark(questions: int = 40, seed: int = 0, **changes: Any) -> Benchmark:
    """Three languages, ragged: some questions lack an answer in some language, some have two; graded relevance."""
    rng = np.random.default_rng(seed)
    languages = ("de", "sw", "th")
    documents, document_ids, document_languages, of_question = [], [], [], {}
    for language in range(3):
        for number in range(questions + 7 * language):
            document_ids.append(f"{languages[language]}{rng.integers(10**6)}-{number}")
            documents.append(f"text {number} in {languages[language]}")
            document_languages.append(language)
            if number < questions and not (language == 2 and number % 3 == 0):
                of_question.setdefault(number, []).append((len(documents) - 1, 1 + number % 2))
            if number >= questions and number < questions + 5:
                of_question.setdefault(number - questions, []).append((len(documents) - 1, 1))
            if number == questions + 5:
                of_question.setdefault(0, []).append((len(documents) - 1, 0))
    query_ids, queries, query_languages, judgments = [], [], [], []
    for language in range(3):
        for number in range(questions):
            judgments += [(len(queries), document, gain) for document, gain in of_question[number]]
            query_ids.append(f"q{number}")
            queries.append(f"question {number} in {languages[language]}")
            query_languages.append(language)
    content: dict[str, Any] = {
        "name": "toy",
        "query_ids": query_ids,
        "query_languages": np.array(query_languages),
        "queries": queries,
        "document_ids": document_ids,
        "document_languages": np.array(document_languages),
        "documents": documents,
        "judgments": np.array(judgments),
        "languages": languages,
    }
    return Benchmark(**(content | changes))


# -------------------------------------------------------------------------------------------------------- ranking

few_scores = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 1e-30, 0.25, 0.25000003, 1.0])


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Scores with many ties, ids, languages, and relevant documents padded with -1."""
    queries, documents, width = draw(st.integers(1, 4)), draw(st.integers(1, 25)), draw(st.integers(1, 5))
    values = draw(st.lists(few_scores, min_size=queries * documents, max_size=queries * documents))
    names = st.text("aäb1-末", min_size=1, max_size=4)
    ids = draw(st.lists(names, min_size=documents, max_size=documents, unique=True))
    languages = draw(st.lists(st.integers(0, 2), min_size=documents, max_size=documents))
    relevant = np.full((queries, width), -1)
    for query in range(queries):
        chosen = draw(st.lists(st.integers(0, documents - 1), max_size=width, unique=True))
        relevant[query, : len(chosen)] = chosen
    scores = np.array(values, dtype=np.float32).reshape(queries, documents)
    return scores, ids, np.array(languages), relevant


@settings(max_examples=150)
@given(pools(), st.integers(1, 6))
def test_counts_over_shards_equal_a_full_sort(
    pool: tuple[np.ndarray, list[str], np.ndarray, np.ndarray], shard_size: int
) -> None:
    values, ids, languages, relevant = pool
    keys = ranking_keys(torch.from_numpy(values), torch.from_numpy(tie_order(ids)))
    relevant_there = torch.from_numpy(relevant)
    thresholds = keys.gather(1, relevant_there.clamp(min=0)).masked_fill(relevant_there < 0, NO_DOCUMENT)
    above = np.zeros((*relevant.shape, 3), dtype=int)
    shards = document_shards(languages, shard_size)
    assert sorted(d for shard in shards for d in shard.documents) == list(range(len(ids)))
    for shard in shards:
        assert len(shard) <= shard_size
        assert set(shard.of(languages)) == {shard.language}
        above[:, :, shard.language] += count_above(keys[:, shard.tensor(torch.device("cpu"))], thresholds).numpy()
    for query, row in enumerate(values):
        order = sorted(range(len(ids)), key=lambda d: (float(row[d]), ids[d]), reverse=True)
        for place, document in enumerate(relevant[query]):
            expected = [0, 0, 0]
            for better in order[: order.index(document)] if document >= 0 else []:
                expected[languages[better]] += 1
            assert above[query, place].tolist() == expected


@settings(max_examples=150)
@given(pools(), st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_a_running_top_k_equals_a_full_sort(
    pool: tuple[np.ndarray, list[str], np.ndarray, np.ndarray], k: int, shard_size: int, room: int, interrupted: bool
) -> None:
    values, ids, _, _ = pool
    order = torch.from_numpy(tie_order(ids))
    top = TopK(len(values), k)
    top.room = room  # small, so that places are sorted out often
    for start in range(0, len(ids), shard_size):
        part = slice(start, min(start + shard_size, len(ids)))
        for first in range(0, len(values), 2):
            rows = slice(first, min(first + 2, len(values)))
            shown = torch.arange(part.start, part.stop)
            top.update(rows, torch.from_numpy(values[rows, part]), order[part], shown)
        if interrupted:
            state, top = top.state(), TopK(len(values), k)
            top.load(state)
    keys, documents = top.ranking()
    for query, row in enumerate(values):
        expected = sorted(range(len(ids)), key=lambda d: (float(row[d]), ids[d]), reverse=True)[:k]
        assert documents[query].tolist() == expected + [-1] * (k - len(expected))
        assert key_scores(keys[query, : len(expected)]).tolist() == row[expected].tolist()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_keys_keep_scores_and_their_order(values: list[float]) -> None:
    drawn = torch.tensor(values)
    keys = ranking_keys(drawn, torch.zeros(len(values), dtype=torch.int64))
    assert torch.equal(key_scores(keys), drawn + 0.0)
    assert torch.equal(keys.unsqueeze(0) > keys.unsqueeze(1), drawn.unsqueeze(0) > drawn.unsqueeze(1))
    assert torch.equal(keys.unsqueeze(0) == keys.unsqueeze(1), drawn.unsqueeze(0) == drawn.unsqueeze(1))


@given(st.lists(st.text(min_size=1, max_size=5), max_size=10, unique=True))
def test_ids_are_ordered_as_trec_eval_compares_them(ids: list[str]) -> None:
    usable = [name for name in ids if not any("\ud800" <= c <= "\udfff" for c in name)]
    order = tie_order(usable)
    assert sorted(range(len(usable)), key=lambda i: usable[i].encode()) == np.argsort(order).tolist()


def test_scores_are_full_precision_inside_autocast() -> None:
    torch.manual_seed(0)
    documents, queries = torch.randn(50, 32), torch.randn(3, 32)
    plain = scores(queries, documents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scores(queries, documents), plain)


# -------------------------------------------------------------------------------------------------------- encoding


class NanEncoder(ContextEncoder):
    def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
        embedded = super().encode(texts, kind)
        if "text 3 in sw" in texts:
            embedded[list(texts).index("text 3 in sw")] = torch.nan
        return embedded


def test_embedding_that_is_not_finite_is_an_error() -> None:
    benchmark = make_benchmark()
    with pytest.raises(UserError, match=r"passage 43 of 141 has an embedding that is not finite"):
        evaluate(NanEncoder(), benchmark, EvaluationConfig(shard_size=16), 0)


def test_shards_come_back_in_order() -> None:
    texts = [f"t{i}" for i in range(23)]
    calls: list[int] = []

    class Recording(ContextEncoder):
        def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
            calls.append(len(texts))
            return super().encode(texts, kind)

    embedded = encode_in_shards(Recording(), texts, "query", 10)
    assert calls == [10, 10, 3]
    assert torch.equal(embedded[20:], ContextEncoder().encode(texts[20:], "query"))


def test_stopping() -> None:
    asked = iter([False, False, True])
    with pytest.raises(EvaluationStopped):
        evaluate(ContextEncoder(), make_benchmark(), EvaluationConfig(shard_size=16), 0, should_stop=asked.__next__)


def test_progress_reaches_the_end() -> None:
    seen: dict[str, tuple[int, int]] = {}
    evaluate(
        ContextEncoder(),
        make_benchmark(),
        EvaluationConfig(shard_size=16),
        0,
        progress=lambda what, done, total: seen.update({what: (done, total)}),
    )
    assert seen == {
        "encoding passages": (141, 141),
        "encoding queries": (120, 120),
        "searching for queries": (120, 120),
    }


# ------------------------------------------------------------------------------------------------- the whole of it


def read_runs(folder: Path) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    runs: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for path in sorted((folder / "runs").iterdir()):
        name, pair, suffix = path.name.split(".")
        assert name == "toy"
        if suffix == "qrels":
            continue
        query_language, corpus_language = pair.split("-")
        run = runs.setdefault((query_language, corpus_language), {})
        for line in path.read_text().splitlines():
            query, q0, document, rank, score, tag = line.split(" ")
            assert (q0, tag) == ("Q0", "hybrid_ir")
            ranking = run.setdefault(query, {})
            ranking[document] = float(score)
            assert int(rank) == len(ranking)
    return runs


@pytest.mark.parametrize("settings_wanted", [("monolingual", "cross_lingual", "multilingual"), ("monolingual",)])
def test_results_equal_trec_eval_on_the_run_files(tmp_path: Path, settings_wanted: tuple[str, ...]) -> None:
    import pytrec_eval

    benchmark = make_benchmark(settings=settings_wanted)
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=10**6)
    results = evaluate(ContextEncoder(), benchmark, evaluation, 3, tmp_path)
    names = {
        "map": "map", "recall@1": "recall_1", "recall@10": "recall_10", "recall@100": "recall_100",
        "precision@10": "P_10", "ndcg@10": "ndcg_cut_10",
    }  # fmt: skip
    ours = {
        (row["query_language"], row["corpus_language"], row["query_id"], row["metric"]): row["value"]
        for row in results.per_query.to_pylist()
    }
    runs = read_runs(tmp_path)
    assert len(runs) == (12 if len(settings_wanted) == 3 else 3)
    compared = 0
    for (query_language, corpus_language), run in runs.items():
        judgments: dict[str, dict[str, int]] = {}
        for query, document, gain in benchmark.judgments.tolist():
            corpus = benchmark.languages[benchmark.document_languages[document]]
            in_language = benchmark.languages[benchmark.query_languages[query]] == query_language
            if gain and in_language and corpus_language in ("all", corpus):
                judged = judgments.setdefault(benchmark.query_ids[query], {})
                judged[benchmark.document_ids[document]] = gain
        assert set(run) == set(judgments)
        evaluator = pytrec_eval.RelevanceEvaluator(judgments, {"map", "recall.1,10,100", "P.10", "ndcg_cut.10"})
        for query, expected in evaluator.evaluate(run).items():
            for metric, theirs in names.items():
                value = ours[query_language, corpus_language, query, metric]
                assert value == pytest.approx(expected[theirs], abs=1e-9)
                compared += 1
    assert compared == len([key for key in ours if key[3] in names])


def test_run_files_hold_the_best_documents_only(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=4)
    evaluate(ContextEncoder(), make_benchmark(), evaluation, 0, tmp_path)
    assert {len(ranking) for run in read_runs(tmp_path).values() for ranking in run.values()} == {4}


def test_run_files_refuse_an_id_with_a_space(tmp_path: Path) -> None:
    benchmark = make_benchmark()
    spaced = [f"{name} x" for name in benchmark.document_ids]
    with pytest.raises(DataError, match="save_runs=false"):
        evaluate(ContextEncoder(), make_benchmark(document_ids=spaced), EvaluationConfig(save_runs=True), 0, tmp_path)


def test_queries_without_a_judgment_do_not_count() -> None:
    benchmark = make_benchmark()
    judgments = benchmark.judgments[benchmark.judgments[:, 0] != 5]
    results = evaluate(ContextEncoder(), make_benchmark(judgments=judgments), EvaluationConfig(), 0)
    counts = {(r.query_language, r.corpus_language): r.num_queries for r in results.rows}
    # Thai answers only two thirds of the questions, and some of the others by its additional documents.
    answered = len({b for b in range(40) if b % 3 or b < 5})
    assert counts["de", "de"] == counts["de", "all"] == 39
    assert counts["sw", "sw"] == 40
    assert counts["th", "th"] == answered
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(ContextEncoder(), make_benchmark(judgments=np.zeros((0, 3), int)), EvaluationConfig(), 0)
    twice = np.concatenate([benchmark.judgments, benchmark.judgments[:1]])
    with pytest.raises(DataError, match="judged twice"):
        evaluate(ContextEncoder(), make_benchmark(judgments=twice), EvaluationConfig(), 0)


def _evaluate_toy(folder: str) -> tuple[Results, torch.Tensor]:
    benchmark = make_benchmark()
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=20)
    embeddings = encode_in_shards(ContextEncoder(), benchmark.documents, "passage", 16)
    return evaluate(ContextEncoder(), benchmark, evaluation, 0, Path(folder)), embeddings


def _fail_on_one_rank() -> str:
    class Broken(ContextEncoder):
        def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
            if dist.get_rank() == 1:
                raise MemoryError("no room")
            return super().encode(texts, kind)

    try:
        evaluate(Broken(), make_benchmark(), EvaluationConfig(shard_size=16), 0)
    except (MemoryError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _update_on_one_rank() -> dict[Any, Any]:
    metric = RetrievalMetrics(["de", "sw"])
    if dist.get_rank() == 1:
        one = torch.tensor([0])
        metric.update(one, one, one, torch.tensor([[2]]))
    return metric.compute()


def _several(folder: str) -> tuple[Any, ...]:
    return _evaluate_toy(folder), _fail_on_one_rank(), _update_on_one_rank()


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path, size: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected, embeddings = _evaluate_toy(str(tmp_path / "one"))
    finally:
        torch.set_num_threads(threads)
    ranks = in_processes(size, _several, tmp_path / "results", str(tmp_path / "several"))
    for (results, gathered), failure, late in ranks:
        assert torch.equal(gathered, embeddings)
        assert results.rows == expected.rows
        assert results.per_query.equals(expected.per_query)
        assert "no room" in failure
        assert [scores.values[0, 0] for scores in late.values()] == [0.5]
    files = sorted(path.name for path in (tmp_path / "one" / "runs").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "several" / "runs").iterdir())
    for name in files:
        assert (tmp_path / "one" / "runs" / name).read_bytes() == (tmp_path / "several" / "runs" / name).read_bytes()
