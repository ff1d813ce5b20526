"""Metrics against trec_eval's code, ranx and plain Python, on rankings with ties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ir.evaluation import metrics
from hybrid_ir.evaluation.metrics import METRICS, Group, RetrievalMetrics, metrics_of
from hybrid_ir.evaluation.search import ExactSearch

TREC_NAMES = {
    "map": "map",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "precision@10": "P_10",
    "ndcg@10": "ndcg_cut_10",
}


@st.composite
def judged_pools(draw: st.DrawFn) -> tuple[np.ndarray, list[str], list[dict[int, int]]]:
    """Scores [queries, documents] (ties and values below 0 among them), ids, and relevances of each query."""
    queries, documents = draw(st.integers(1, 4)), draw(st.integers(1, 140))
    seed, values = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-values, values + 1, (queries, documents)) / 8).astype(np.float32)
    ids = [f"{rng.integers(10)}d{i}" for i in range(documents)]
    relevances = []
    for _ in range(queries):
        width = int(rng.integers(1, min(documents, 20) + 1))
        chosen = rng.choice(documents, width, replace=False)
        relevances.append({int(d): int(rng.integers(0, 4)) for d in chosen})
        relevances[-1][int(chosen[0])] = 2
    return scores, ids, relevances


def ranks_of(scores: np.ndarray, ids: list[str], relevances: list[dict[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks and gains of the relevant documents, padded with 0."""
    wanted = [{d: gain for d, gain in each.items() if gain > 0} for each in relevances]
    width = max(len(each) for each in wanted)
    documents = torch.tensor([[*each, *[-1] * (width - len(each))] for each in wanted])
    gains = torch.tensor([[*each.values(), *[0] * (width - len(each))] for each in wanted])
    search = ExactSearch(torch.eye(len(ids)), np.zeros(len(ids), dtype=int), 1, ids, 32)
    above = search.count_above(search.keys(torch.from_numpy(scores)), documents)[:, :, 0]
    return torch.where(documents >= 0, above + 1, 0), gains


@settings(max_examples=200, deadline=None)
@given(judged_pools())
def test_equal_to_trec_eval(pool: tuple[np.ndarray, list[str], list[dict[int, int]]]) -> None:
    scores, ids, relevances = pool
    judgments = {f"q{q}": {ids[d]: gain for d, gain in each.items()} for q, each in enumerate(relevances)}
    run = {f"q{q}": dict(zip(ids, map(float, row), strict=True)) for q, row in enumerate(scores)}
    evaluator = pytrec_eval.RelevanceEvaluator(judgments, {"map", "recall.1,10,100", "P.10", "ndcg_cut.10"})
    expected = evaluator.evaluate(run)
    ranks, gains = ranks_of(scores, ids, relevances)
    for ours, theirs in TREC_NAMES.items():
        values = METRICS[ours](ranks, gains)
        assert values.dtype == torch.float64
        for query, value in enumerate(values.tolist()):
            assert value == pytest.approx(expected[f"q{query}"][theirs], abs=1e-9), ours


@pytest.mark.slow  # ranx compiles its metrics first
@settings(max_examples=30, deadline=None)
@given(judged_pools())
def test_reciprocal_rank_equals_ranx(pool: tuple[np.ndarray, list[str], list[dict[int, int]]]) -> None:
    import ranx

    scores, ids, relevances = pool
    # ranx breaks ties its own way: it is given the order that trec_eval's rule makes of them.
    run: dict[str, dict[str, float]] = {}
    for query, row in enumerate(scores):
        order = sorted(range(len(ids)), key=lambda d: (float(row[d]), ids[d]))
        run[f"q{query}"] = {ids[d]: float(place + 1) for place, d in enumerate(order)}
    judgments = {f"q{q}": {ids[d]: g for d, g in each.items() if g > 0} for q, each in enumerate(relevances)}
    expected = ranx.evaluate(
        ranx.Qrels(judgments), ranx.Run(run), ["mrr@10", "ndcg@10", "map"], return_mean=False, make_comparable=True
    )
    ranks, gains = ranks_of(scores, ids, relevances)
    for name, values in expected.items():
        assert METRICS[name](ranks, gains).tolist() == pytest.approx(list(values), abs=1e-9), name


rank_lists = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True), min_size=1, max_size=6)


@given(rank_lists, st.integers(0, 3))
def test_padding_and_order_do_not_matter(lists: list[list[int]], more: int) -> None:
    width = max(map(len, lists)) + more
    padded = torch.tensor([[*ranks, *[0] * (width - len(ranks))] for ranks in lists])
    for name, metric in METRICS.items():
        whole = metric(padded.flip(1), torch.ones_like(padded)).tolist()
        alone = [metric(torch.tensor([ranks]), torch.ones(1, len(ranks))).item() for ranks in lists]
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


# ----------------------------------------------------------------------------------------------- RetrievalMetrics


def updates(metric: RetrievalMetrics, rows: list[tuple[int, int, int, list[int]]]) -> None:
    width = max(len(ranks) for *_, ranks in rows)
    metric.update(
        torch.tensor([q for q, *_ in rows]),
        torch.tensor([language for _, language, *_ in rows]),
        torch.tensor([pool for _, _, pool, _ in rows]),
        torch.tensor([[*ranks, *[0] * (width - len(ranks))] for *_, ranks in rows]),
    )


ROWS = [(0, 0, 0, [3]), (1, 0, 0, [1, 4]), (0, 0, 1, [2]), (2, 1, -1, [5, 9, 1]), (3, 1, 1, [7]), (0, 0, -1, [6])]


@settings(deadline=None)
@given(st.permutations(ROWS), st.integers(1, 5))
def test_groups_do_not_depend_on_the_order_of_updates(rows: list[Any], cut: int) -> None:
    metric = RetrievalMetrics(["en", "sw"])
    updates(metric, rows[:cut])
    updates(metric, rows[cut:])
    groups = metric.compute()
    assert list(groups) == [
        Group("monolingual", "en", "en"),
        Group("monolingual", "sw", "sw"),
        Group("cross_lingual", "en", "sw"),
        Group("multilingual", "en", "all"),
        Group("multilingual", "sw", "all"),
    ]
    first = groups[Group("monolingual", "en", "en")]
    assert first.queries.tolist() == [0, 1]
    assert first.means("monolingual")["map"] == (1 / 3 + (1 / 1 + 2 / 4) / 2) / 2
    assert list(first.means("monolingual")) == list(metrics_of("monolingual"))
    assert groups[Group("multilingual", "sw", "all")].means("multilingual")["rank_distance"] == 8
    assert all(scores.values.dtype == np.float64 for scores in groups.values())


def test_equal_query_ids_of_two_languages_stay_apart_and_reset_forgets() -> None:
    metric = RetrievalMetrics(["en", "sw"])
    updates(metric, ROWS)
    metric.compute()
    metric.reset()
    updates(metric, [(3, 1, 1, [2])])
    assert {group: scores.values[0, 0] for group, scores in metric.compute().items()} == {
        Group("monolingual", "sw", "sw"): 0.5
    }


def test_a_query_counts_once_and_only_with_a_relevant_document() -> None:
    metric = RetrievalMetrics(["en", "sw"])
    with pytest.raises(ValueError, match="without a relevant document"):
        updates(metric, [(0, 0, 0, [1]), (1, 0, 0, [])])
    updates(metric, [(0, 0, 0, [1]), (0, 0, 0, [1])])
    with pytest.raises(ValueError, match="added twice"):
        metric.compute()


def test_fast_enough_for_a_validation() -> None:
    """Python loops over queries took seconds at this size (see torchmetrics' retrieval metrics)."""
    import time

    ranks = torch.randint(1, 13_000, (130_900, 11))
    metric = RetrievalMetrics(["en", "sw"])
    index = torch.arange(len(ranks))
    start = time.process_time()
    metric.update(index, index * 0, index * 0 - 1, ranks)
    metric.compute()
    assert time.process_time() - start < 10
