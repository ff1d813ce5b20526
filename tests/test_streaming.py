"""Corpora that are streamed: the best documents only, kept embeddings, interruptions, missing documents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_search import ContextEncoder, in_processes, make_benchmark, read_runs

from hybrid_ir.cache import cache_dir
from hybrid_ir.config import EvaluationConfig, LanguageRemovalConfig, PretrainedModelConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation import search_state
from hybrid_ir.evaluation.benchmarks.base import Benchmark, Text
from hybrid_ir.evaluation.encoding import EmbeddingCache, document_shards
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.results import Results

SMALL = EvaluationConfig(shard_size=16)


class CountingEncoder(ContextEncoder):
    """A ContextEncoder that can be told from others, tokenises apart, counts its shards, and may fail at one."""

    def __init__(self, name: str = "a", fail_at: int | None = None) -> None:
        self.name, self.fail_at = name, fail_at
        self.calls: list[tuple[int, str]] = []
        self.dim = 16

    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def encode(self, texts: Sequence[Text], kind: str) -> torch.Tensor:
        if self.fail_at is not None and len([1 for _, k in self.calls if k == "passage"]) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((len(texts), kind))
        return super().encode([f"{self.name}{text}" for text in texts], kind)

    def count(self, kind: str) -> int:
        return sum(k == kind for _, k in self.calls)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def streamed(**changes: Any) -> Benchmark:
    return make_benchmark(**({"settings": ("monolingual",), "depth": 20, "corpus_fingerprint": "x"} | changes))


def per_query(results: Results, metric: str) -> dict[tuple[str, str], float]:
    return {
        (row["query_language"], row["query_id"]): row["value"]
        for row in results.per_query.to_pylist()
        if row["metric"] == metric and row["setting"] == "monolingual"
    }


# --------------------------------------------------------------------------------------------------------- results


def test_to_the_bottom_it_equals_ranking_the_whole_pool() -> None:
    whole = evaluate(ContextEncoder(), streamed(depth=None), SMALL, 0)
    deep = evaluate(ContextEncoder(), streamed(depth=10**6), SMALL, 0)
    assert deep.rows == whole.rows
    assert deep.per_query.equals(whole.per_query)


@pytest.mark.parametrize("graded", [True, False])
def test_results_equal_trec_eval_on_the_files_it_writes(tmp_path: Path, graded: bool) -> None:
    """Also with relevant documents that are missing from the corpus, or stand below the depth."""
    import pytrec_eval

    plain = make_benchmark()
    judgments = np.concatenate([plain.judgments, [[0, -1, 1], [0, -2, 2], [7, -1, 1], [50, -3, 2]]])
    if not graded:
        judgments[:, 2] = judgments[:, 2] > 0
    benchmark = streamed(judgments=judgments, missing_ids=["gone1", "gone2", "gone3"])
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=20, metrics=["recall@5", "ndcg@20", "mrr@3"])
    results = evaluate(ContextEncoder(), benchmark, evaluation, 0, tmp_path)
    names = {
        "map": "map", "recall@1": "recall_1", "recall@5": "recall_5", "recall@10": "recall_10",
        "recall@100": "recall_100", "precision@10": "P_10", "ndcg@10": "ndcg_cut_10", "ndcg@20": "ndcg_cut_20",
    }  # fmt: skip
    measures = {"map", "recall.1,5,10,100", "P.10", "ndcg_cut.10,20"}
    compared = 0
    for (language, _), run in read_runs(tmp_path).items():
        qrels: dict[str, dict[str, int]] = {}
        for line in (tmp_path / "runs" / f"toy.{language}-{language}.qrels").read_text().splitlines():
            query, _, document, gain = line.split(" ")
            qrels.setdefault(query, {})[document] = int(gain)
        assert {len(ranking) for ranking in run.values()} == {20}
        for query, expected in pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run).items():
            for ours, theirs in names.items():
                assert per_query(results, ours)[language, query] == pytest.approx(expected[theirs], abs=1e-9)
                compared += 1
    assert compared == len(names) * len(per_query(results, "map"))


def test_a_query_whose_relevant_documents_are_all_missing_counts_as_zero() -> None:
    plain = make_benchmark()
    judgments = np.concatenate([plain.judgments[plain.judgments[:, 0] != 3], [[3, -1, 1]]])
    results = evaluate(ContextEncoder(), streamed(judgments=judgments, missing_ids=["gone"]), SMALL, 0)
    assert {metric: per_query(results, metric)["de", "q3"] for metric in ("map", "recall@100", "ndcg@10")} == {
        "map": 0.0,
        "recall@100": 0.0,
        "ndcg@10": 0.0,
    }


def test_languages_may_be_interleaved() -> None:
    plain = make_benchmark()
    order = np.random.default_rng(0).permutation(len(plain.documents))
    place = np.argsort(order)
    judgments = plain.judgments.copy()
    judgments[:, 1] = place[judgments[:, 1]]
    mixed = make_benchmark(
        document_ids=[plain.document_ids[i] for i in order],
        document_languages=plain.document_languages[order],
        documents=[plain.documents[i] for i in order],
        judgments=judgments,
    )
    large = EvaluationConfig(shard_size=10**6)
    shards = document_shards(mixed.document_languages, 10**6)
    assert [set(shard.of(mixed.document_languages)) for shard in shards] == [{0}, {1}, {2}]

    class Plain(ContextEncoder):
        def encode(self, texts: Sequence[Text], kind: str) -> torch.Tensor:
            return torch.cat([ContextEncoder.encode(self, [text], kind) for text in texts])

    def values(results: Results) -> dict[tuple[str, ...], float]:
        return {
            (r["setting"], r["query_language"], r["corpus_language"], r["query_id"], r["metric"]): r["value"]
            for r in results.per_query.to_pylist()
        }

    assert values(evaluate(Plain(), mixed, large, 0)) == pytest.approx(values(evaluate(Plain(), plain, large, 0)))


def _streamed_results(folder: str) -> Results:
    return evaluate(
        ContextEncoder(), streamed(), EvaluationConfig(shard_size=16, save_runs=True, run_depth=20), 0, Path(folder)
    )


def _without_languages(method: str) -> Results:
    removal = LanguageRemovalConfig.model_validate({"method": method})
    return evaluate(ContextEncoder(), make_benchmark(), SMALL, 0, language_removal=removal)


def _both(folder: str) -> tuple[Results, list[Results]]:
    return _streamed_results(folder), [_without_languages(method) for method in ("centring", "lir", "lsar")]


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path, size: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected, without = _both(str(tmp_path / "one"))
    finally:
        torch.set_num_threads(threads)
    for results, removed in in_processes(size, _both, tmp_path / "results", str(tmp_path / "several")):
        assert results.rows == expected.rows
        assert results.per_query.equals(expected.per_query)
        for ours, theirs in zip(removed, without, strict=True):
            assert ours.rows == theirs.rows
    for path in (tmp_path / "one" / "runs").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / "runs" / path.name).read_bytes()


# -------------------------------------------------------------------------------------- embeddings and states kept


def test_kept_embeddings_are_used_again_bit_by_bit(cache: Path) -> None:
    kept = EvaluationConfig(shard_size=16, cache_embeddings=True)
    first, second, other = CountingEncoder(), CountingEncoder(), CountingEncoder("b")
    expected = evaluate(CountingEncoder(), make_benchmark(), SMALL, 0)
    assert evaluate(first, make_benchmark(), kept, 0).rows == expected.rows
    assert first.count("passage") == 10
    assert evaluate(second, make_benchmark(), kept, 0).rows == expected.rows
    assert second.calls == []
    assert evaluate(other, make_benchmark(), kept, 0).rows != expected.rows
    assert other.count("passage") == 10
    changed = make_benchmark()
    changed.documents[20] = "another text"  # type: ignore[index]
    third = CountingEncoder()
    evaluate(third, changed, kept, 0)
    assert third.calls == [(16, "passage")]


def test_damaged_embeddings_are_made_again(cache: Path) -> None:
    kept = EvaluationConfig(shard_size=16, cache_embeddings=True)
    expected = evaluate(CountingEncoder(), make_benchmark(), kept, 0)
    files = sorted((cache / "embeddings").rglob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_bytes(b"")
    encoder = CountingEncoder()
    assert evaluate(encoder, make_benchmark(), kept, 0).rows == expected.rows
    assert len(encoder.calls) == 2
    assert len(sorted((cache / "embeddings").rglob("*"))) == len(files) + 1  # and their folder: no partial file


def test_embeddings_that_do_not_fit_the_disk_are_refused(cache: Path) -> None:
    space = EmbeddingCache.of("0" * 64)
    with pytest.raises(UserError, match=r"cache_embeddings=true: [0-9.]+ GB of embeddings do not fit"):
        space.check_space(10**12, 1024)


@pytest.mark.parametrize("keep_embeddings", [False, True])
def test_an_interrupted_search_goes_on_at_the_next_shard(
    cache: Path, monkeypatch: pytest.MonkeyPatch, keep_embeddings: bool
) -> None:
    monkeypatch.setattr(search_state, "SAVE_SECONDS", 0.0)
    evaluation = EvaluationConfig(shard_size=16, cache_embeddings=keep_embeddings)
    expected = evaluate(CountingEncoder(), streamed(), SMALL, 0)
    assert not list((cache / "searches").iterdir())
    stopped = CountingEncoder(fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, streamed(), evaluation, 0)
    assert list((cache / "searches").iterdir())
    for change in ({"corpus_fingerprint": "y"}, {"depth": 19}):
        other = CountingEncoder()
        evaluate(other, streamed(**change), SMALL, 0)
        assert other.count("passage") == 10
    again = CountingEncoder()
    assert evaluate(again, streamed(), evaluation, 0).rows == expected.rows
    assert again.count("passage") == 5
    assert not list((cache / "searches").iterdir())


def test_a_state_stays_until_its_caller_removes_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several benchmarks the first is not searched again where a later one is interrupted."""
    kept: list[search_state.SearchState] = []
    expected = evaluate(CountingEncoder(), streamed(), SMALL, 0, states=kept)
    assert len(list((cache / "searches").iterdir())) == len(kept) == 3
    again = CountingEncoder()
    assert evaluate(again, streamed(), SMALL, 0).rows == expected.rows
    assert again.count("passage") == 0
    assert not list((cache / "searches").iterdir())


def test_a_state_that_cannot_be_saved_stops_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(CountingEncoder(), streamed(), SMALL, 0)
    (cache / "searches").rmdir()
    (cache / "searches").write_text("a file")
    assert evaluate(CountingEncoder(), streamed(), SMALL, 0).rows == expected.rows


def test_a_damaged_state_is_begun_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_state, "SAVE_SECONDS", 0.0)
    expected = evaluate(CountingEncoder(), streamed(), SMALL, 0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(CountingEncoder(fail_at=5), streamed(), SMALL, 0)
    for path in (cache / "searches").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    again = CountingEncoder()
    assert evaluate(again, streamed(), SMALL, 0).rows == expected.rows
    assert again.count("passage") == 10


def test_the_fingerprint_of_a_model_follows_all_that_embeddings_depend_on(e5_small: Path) -> None:
    from hybrid_ir.modeling.encoder import BiEncoder

    config = PretrainedModelConfig(name_or_path=str(e5_small), query_prefix="query: ", passage_prefix="passage: ")
    encoder = BiEncoder.from_config(config)
    # What a tokenizer's file says of truncation and padding goes when it is used.
    encoder.tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    encoder.tokenizer.backend_tokenizer.enable_padding()
    first = encoder.fingerprint()
    encoder.tokenize(["a text"], "query")
    assert first == encoder.fingerprint()
    seen = {first}
    encoder.max_passage_length = 64
    seen.add(encoder.fingerprint())
    encoder.passage_prefix = ""
    seen.add(encoder.fingerprint())
    with torch.autocast("cpu", torch.bfloat16):
        seen.add(encoder.fingerprint())
    with torch.no_grad():
        next(encoder.parameters())[0, 0] += 1e-3
    seen.add(encoder.fingerprint())
    assert len(seen) == 5


# ------------------------------------------------------------------------------------------------- generated texts


def test_generated_texts_are_averaged_into_the_passage() -> None:
    """The formula of xQG, computed by hand on embeddings that do not depend on their neighbours."""

    class Recording(ContextEncoder):
        def encode(self, texts: Sequence[Text], kind: str) -> torch.Tensor:
            rows = [ContextEncoder.encode(self, [f"{kind}:{text}"], kind)[0] for text in texts]
            return torch.stack(rows)

    encoder, benchmark = Recording(), make_benchmark(settings=("monolingual",))
    generated = {3: ["one", "two"], 90: ["three"]}
    joined = make_benchmark(settings=("monolingual",), passage_queries=generated, passage_queries_weight=0.25)

    class Joined(Recording):
        def encode(self, texts: Sequence[Text], kind: str) -> torch.Tensor:
            embedded = super().encode(texts, kind)
            for index, additional in generated.items():
                if kind == "passage" and benchmark.documents[index] in texts:
                    mean = Recording.encode(self, additional, "query").mean(0)
                    row = list(texts).index(benchmark.documents[index])
                    embedded[row] = torch.nn.functional.normalize(0.75 * embedded[row] + 0.25 * mean, dim=0)
            return embedded

    assert evaluate(encoder, joined, SMALL, 0).rows == evaluate(Joined(), benchmark, SMALL, 0).rows
    assert evaluate(encoder, joined, SMALL, 0).rows != evaluate(encoder, benchmark, SMALL, 0).rows


# ------------------------------------------------------------------------------------------------------------ limit


def test_a_limit_is_of_each_language_where_languages_do_not_meet() -> None:
    plain = make_benchmark()
    own_ids = [f"{name}-{language}" for name, language in zip(plain.query_ids, plain.query_languages, strict=True)]
    apart = streamed(query_ids=own_ids).limited(5)
    assert np.bincount(apart.query_languages).tolist() == [5, 5, 5]
    assert [apart.queries[i] for i in (0, 5, 10)] == [f"question 0 in {language}" for language in plain.languages]
    parallel = plain.limited(5)
    assert sorted(set(parallel.query_ids)) == [f"q{i}" for i in range(5)]
    assert np.bincount(parallel.query_languages).tolist() == [5, 5, 5]
    assert np.bincount(make_benchmark(query_ids=own_ids).limited(5).query_languages).tolist() == [5]


# ---------------------------------------------------------------------------------------------------- what is refused


def test_language_removal_is_refused_where_languages_do_not_meet() -> None:
    removal = LanguageRemovalConfig(method="centring")
    with pytest.raises(ConfigError, match=r"language_removal.method=centring: toy is searched within single languages"):
        evaluate(ContextEncoder(), streamed(), SMALL, 0, language_removal=removal)


def test_the_cache_is_where_the_environment_says(cache: Path) -> None:
    assert cache_dir() == cache
