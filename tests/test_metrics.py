"""Metrics against trec_eval's code, ranx, torchmetrics and plain Python, on rankings with ties."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import retrieval

from hybrid_ir.evaluation import metrics
from hybrid_ir.evaluation.metrics import (
    METRICS,
    NOT_RETRIEVED,
    Group,
    GroupScores,
    RetrievalMetrics,
    metric,
    metrics_of,
)

DEPTHS = (1, 3, 10, 100, 1000)
TREC_NAMES = {
    "map": "map",
    **{f"recall@{k}": f"recall_{k}" for k in DEPTHS},
    **{f"precision@{k}": f"P_{k}" for k in DEPTHS},
    **{f"ndcg@{k}": f"ndcg_cut_{k}" for k in DEPTHS},
    "mrr@999999": "recip_rank",  # trec_eval has it without a depth
}
TREC_MEASURES = {"map", "recip_rank", *(f"{kind}.{','.join(map(str, DEPTHS))}" for kind in ("recall", "P", "ndcg_cut"))}


@dataclass
class Pool:
    """A ranked pool of documents, some of them judged."""

    scores: np.ndarray
    """[queries, documents] float32."""
    ids: list[str]
    relevances: list[dict[int, int]]
    """Of each query, by document; a document from ``len(ids)`` on is judged but not in the pool."""
    depth: int
    """Documents that are retrieved for a query."""

    def order(self, query: int) -> list[int]:
        """Documents best first, sorted by Python."""
        row = self.scores[query]
        documents = sorted(range(len(self.ids)), key=lambda d: (float(row[d]), self.ids[d].encode()), reverse=True)
        return documents[: self.depth]

    def run(self) -> dict[str, dict[str, float]]:
        return {
            f"q{q}": {self.ids[d]: float(self.scores[q, d]) for d in self.order(q)} for q in range(len(self.scores))
        }

    def judgments(self) -> dict[str, dict[str, int]]:
        names = [*self.ids, *(f"missing{i}" for i in range(3))]
        return {f"q{q}": {names[d]: gain for d, gain in each.items()} for q, each in enumerate(self.relevances)}

    def ranks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranks and gains of the relevant documents, padded with 0."""
        rows = []
        for query, judged in enumerate(self.relevances):
            rank = {document: place for place, document in enumerate(self.order(query), start=1)}
            rows.append([(rank.get(d, NOT_RETRIEVED), gain) for d, gain in judged.items() if gain > 0])
        width = max(map(len, rows))
        padded = torch.tensor([[*row, *[(0, 0)] * (width - len(row))] for row in rows])
        return padded[:, :, 0], padded[:, :, 1]


def means(scores: GroupScores) -> dict[str, float]:
    """Mean of each metric over a group's queries."""
    return dict(zip(scores.metrics, scores.values.mean(axis=0).tolist(), strict=True))


@st.composite
def judged_pools(draw: st.DrawFn, ties: bool = True) -> Pool:
    """Scores with values below 0 among them, relevances from 0 to 3, some of documents that are not retrieved."""
    queries, documents = draw(st.integers(1, 4)), draw(st.integers(1, 140))
    seed, values = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-values, values + 1, (queries, documents)) / 8).astype(np.float32)
    if not ties:
        scores = np.stack([rng.permutation(documents) + 1.0 for _ in range(queries)]).astype(np.float32)
    ids = [f"{rng.choice(list('0aé한𝄞'))}d{i}" for i in range(documents)]
    relevances = []
    for _ in range(queries):
        width = int(rng.integers(1, min(documents, 20) + 1))
        chosen = rng.choice(documents + (3 if ties else 0), width, replace=False)
        relevances.append({int(d): int(rng.integers(0, 4)) for d in chosen})
        relevances[-1][int(chosen[0])] = 2
    return Pool(scores, ids, relevances, draw(st.integers(1, documents)) if ties else documents)


@settings(max_examples=200)
@given(judged_pools())
def test_equal_to_trec_eval(pool: Pool) -> None:
    expected = pytrec_eval.RelevanceEvaluator(pool.judgments(), TREC_MEASURES).evaluate(pool.run())
    ranks, gains = pool.ranks()
    for ours, theirs in TREC_NAMES.items():
        values = metric(ours)(ranks, gains)
        assert values.dtype == torch.float64
        for query, value in enumerate(values.tolist()):
            assert value == pytest.approx(expected[f"q{query}"][theirs], abs=1e-9), ours


@settings(max_examples=50)
@given(judged_pools(ties=False))
def test_equal_to_torchmetrics_where_it_is_defined(pool: Pool) -> None:
    """Without ties, with positive scores, the whole pool ranked and, but for nDCG, relevances of 0 and 1."""
    gains = torch.zeros(pool.scores.shape, dtype=torch.int64)
    for query, judged in enumerate(pool.relevances):
        gains[query, list(judged)] = torch.tensor(list(judged.values()))
    index = torch.arange(len(gains)).unsqueeze(1).expand_as(gains)
    theirs = {
        "map": retrieval.RetrievalMAP(),
        "recall@10": retrieval.RetrievalRecall(top_k=10),
        "precision@10": retrieval.RetrievalPrecision(top_k=10),
        "ndcg@10": retrieval.RetrievalNormalizedDCG(top_k=10),
        "mrr@10": retrieval.RetrievalMRR(top_k=10),
    }
    ranks, of_ranks = pool.ranks()
    for name, expected in theirs.items():
        target = gains if name == "ndcg@10" else gains > 0
        value = expected(torch.from_numpy(pool.scores), target, indexes=index)
        assert metric(name)(ranks, of_ranks).mean().item() == pytest.approx(value.item(), abs=1e-6), name


@pytest.mark.slow  # ranx compiles its metrics first
@settings(max_examples=30)
@given(judged_pools())
def test_equal_to_ranx(pool: Pool) -> None:
    import ranx

    # ranx breaks ties its own way: it is given the order that trec_eval's rule makes of them.
    run = {query: dict(zip(row, range(len(row), 0, -1), strict=True)) for query, row in pool.run().items()}
    judgments = {query: {d: gain for d, gain in row.items() if gain > 0} for query, row in pool.judgments().items()}
    names = ["mrr@10", "mrr@3", "ndcg@10", "map", "recall@10", "precision@3"]
    expected = ranx.evaluate(ranx.Qrels(judgments), ranx.Run(run), names, return_mean=False, make_comparable=True)
    ranks, gains = pool.ranks()
    for name, values in expected.items():
        assert metric(name)(ranks, gains).tolist() == pytest.approx(list(values), abs=1e-9), name


rank_lists = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True), min_size=1, max_size=6)


@given(rank_lists, st.integers(0, 3))
def test_padding_and_order_do_not_matter(lists: list[list[int]], more: int) -> None:
    width = max(map(len, lists)) + more
    padded = torch.tensor([[*ranks, *[0] * (width - len(ranks))] for ranks in lists])
    for name, function in METRICS.items():
        whole = function(padded.flip(1), torch.ones_like(padded)).tolist()
        alone = [function(torch.tensor([ranks]), torch.ones(1, len(ranks))).item() for ranks in lists]
        assert whole == pytest.approx(alone, abs=1e-12), name


@given(rank_lists)
def test_depth_and_distance_are_those_of_the_worst_document(lists: list[list[int]]) -> None:
    for ranks in lists:
        one = torch.tensor([ranks])
        assert metrics.max_rank(one).item() == max(ranks)
        assert metrics.rank_distance(one).item() == max(ranks) - min(ranks)


@given(st.integers(1, 300))
def test_one_relevant_document(rank: int) -> None:
    """The values that the definitions give by hand for a single relevant document."""
    one = torch.tensor([[rank]])
    assert metrics.average_precision(one).item() == pytest.approx(1 / rank)
    assert metrics.reciprocal_rank(one, 10).item() == (pytest.approx(1 / rank) if rank <= 10 else 0)
    assert metrics.ndcg(one, 10).item() == (pytest.approx(1 / math.log2(rank + 1)) if rank <= 10 else 0)
    assert metrics.recall(one, 10).item() == metrics.precision(one, 10).item() * 10 == (rank <= 10)


@given(rank_lists, st.integers(1, 9))
def test_documents_that_are_not_retrieved_count_in_the_mean_alone(lists: list[list[int]], missing: int) -> None:
    for ranks in lists:
        found, all_of_them = torch.tensor([ranks]), torch.tensor([[*[NOT_RETRIEVED] * missing, *ranks]])
        share = len(ranks) / (len(ranks) + missing)
        assert metrics.average_precision(all_of_them).item() == pytest.approx(
            share * metrics.average_precision(found).item(), abs=1e-12
        )
        assert metrics.recall(all_of_them, 999_999).item() == pytest.approx(share, abs=1e-12)
        assert metrics.reciprocal_rank(all_of_them, 10).item() == metrics.reciprocal_rank(found, 10).item()
        for name in metrics_of("multilingual"):
            if name in metrics.MULTILINGUAL_METRICS:
                with pytest.raises(ValueError, match="rank the whole pool"):
                    metric(name)(all_of_them, torch.ones_like(all_of_them))
            else:
                nothing = torch.full((1, missing), NOT_RETRIEVED)
                assert metric(name)(nothing, torch.ones_like(nothing)).item() == 0


@pytest.mark.parametrize(
    "name", ["", "mAP", "recall", "recall@0", "recall@-1", "recall@1.5", "recall@ 1", "f1@10", "map@10"]
)
def test_other_names_are_no_metrics(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no metric; known: map.*ndcg@k"):
        metric(name)
    with pytest.raises(ValueError, match="is no metric"):
        RetrievalMetrics(["en"], [name])


# ----------------------------------------------------------------------------------------------- RetrievalMetrics


def updates(collected: RetrievalMetrics, rows: list[tuple[int, int, int, list[int]]]) -> None:
    width = max(len(ranks) for *_, ranks in rows)
    collected.update(
        torch.tensor([q for q, *_ in rows]),
        torch.tensor([language for _, language, *_ in rows]),
        torch.tensor([pool for _, _, pool, _ in rows]),
        torch.tensor([[*ranks, *[0] * (width - len(ranks))] for *_, ranks in rows]),
    )


ROWS = [(0, 0, 0, [3]), (1, 0, 0, [1, 4]), (0, 0, 1, [2]), (2, 1, -1, [5, 9, 1]), (3, 1, 1, [7]), (0, 0, -1, [6])]


@given(st.permutations(ROWS), st.integers(1, 5))
def test_groups_do_not_depend_on_the_order_of_updates(rows: list[Any], cut: int) -> None:
    collected = RetrievalMetrics(["en", "sw"])
    updates(collected, rows[:cut])
    updates(collected, rows[cut:])
    groups = collected.compute()
    assert list(groups) == [
        Group("monolingual", "en", "en"),
        Group("monolingual", "sw", "sw"),
        Group("cross_lingual", "en", "sw"),
        Group("multilingual", "en", "all"),
        Group("multilingual", "sw", "all"),
    ]
    first = groups[Group("monolingual", "en", "en")]
    assert first.queries.tolist() == [0, 1]
    assert means(first)["map"] == (1 / 3 + (1 / 1 + 2 / 4) / 2) / 2
    assert list(means(first)) == list(metrics_of("monolingual"))
    assert means(groups[Group("multilingual", "sw", "all")])["rank_distance"] == 8
    assert all(scores.values.dtype == np.float64 for scores in groups.values())


def test_equal_query_ids_of_two_languages_stay_apart_and_reset_forgets() -> None:
    collected = RetrievalMetrics(["en", "sw"])
    updates(collected, ROWS)
    collected.compute()
    collected.reset()
    updates(collected, [(3, 1, 1, [2])])
    assert {group: scores.values[0, 0] for group, scores in collected.compute().items()} == {
        Group("monolingual", "sw", "sw"): 0.5
    }


def test_a_query_counts_once_and_only_with_a_relevant_document() -> None:
    collected = RetrievalMetrics(["en", "sw"])
    with pytest.raises(ValueError, match="without a relevant document"):
        updates(collected, [(0, 0, 0, [1]), (1, 0, 0, [])])
    updates(collected, [(0, 0, 0, [1]), (0, 0, 0, [1])])
    with pytest.raises(ValueError, match="added twice"):
        collected.compute()


def test_extra_metrics_are_columns_of_every_setting_and_each_once() -> None:
    extra = ["recall@2", "ndcg@3", "recall@10"]  # the last is a standard one
    collected = RetrievalMetrics(["en", "sw"], extra)
    updates(collected, ROWS)
    groups = pickle.loads(pickle.dumps(collected)).compute()
    for group, scores in groups.items():
        names = (*metrics_of(group.setting), "recall@2", "ndcg@3")
        assert scores.metrics == metrics_of(group.setting, extra) == names
        assert scores.values.shape == (len(scores.queries), len(names))
        assert np.isfinite(scores.values).all()
    assert means(groups[Group("multilingual", "sw", "all")])["recall@2"] == 1 / 3


def test_not_retrieved_is_allowed_where_rank_distance_is_not_reported() -> None:
    collected = RetrievalMetrics(["en", "sw"])
    updates(collected, [(0, 0, 0, [2, NOT_RETRIEVED]), (1, 0, 0, [NOT_RETRIEVED])])
    assert means(collected.compute()[Group("monolingual", "en", "en")])["recall@10"] == 1 / 4
    with pytest.raises(ValueError, match="rank the whole pool"):
        updates(collected, [(2, 0, -1, [2, NOT_RETRIEVED])])


def test_columns_are_appended_to_a_copy() -> None:
    collected = RetrievalMetrics(["en", "sw"])
    updates(collected, ROWS)
    scores = collected.compute()[Group("monolingual", "en", "en")]
    more = scores.with_columns(["share@10", "mrc@10"], np.array([[0.5, 1.0], [0.25, 0.0]]))
    assert more.metrics == (*scores.metrics, "share@10", "mrc@10")
    assert means(more) == {**means(scores), "share@10": 0.375, "mrc@10": 0.5}
    assert scores.values.shape == (2, len(scores.metrics))
    with pytest.raises(ValueError, match="a metric twice"):
        scores.with_columns(["map"], np.zeros((2, 1)))
    with pytest.raises(ValueError, match="shape"):
        scores.with_columns(["share@10"], np.zeros((3, 1)))
