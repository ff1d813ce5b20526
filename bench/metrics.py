"""Metrics of rankings in memory: hybrid_ir beside pytrec_eval-terrier and torchmetrics' own retrieval classes, in turn.

    python bench/metrics.py --qrels DIR [--languages sw yo]

Judgments are MIRACL's dev ones (DIR holds ``qrels.miracl-v1.0-<language>-dev.tsv``). Runs are made up: 1,000 documents
for each query from a pool as large as the language's corpus, four of five relevant ones among them, mostly high up.
Scores are positive and distinct within a query: torchmetrics takes others as not retrieved, and has no tie rule. All
three compute seven metrics for each query; trec_eval has no mrr@10 and computes mrr without depth in its place.

- hybrid_ir: ``score_run`` from arrays of indices and scores and lists of ids; matching the ids is in its time.
- pytrec_eval: the evaluation, with and without the making of its dictionaries from the same arrays.
- torchmetrics: one class for each metric in a ``MetricCollection``, from flat tensors in which the relevance of each
  document is filled in beforehand. It knows nothing of relevant documents that are not in the run, so that its values
  are others; they are not compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval
import torch
from rich.console import Console
from rich.table import Table
from torchmetrics import MetricCollection, retrieval

from hybrid_ir.evaluation.metrics import metrics_of
from hybrid_ir.evaluation.trec import Qrels, Run, read_qrels, score_run
from hybrid_ir.languages import LANGUAGES, MIRACL

METRICS = metrics_of("monolingual")
TREC_NAMES = {
    "map": "map",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "precision@10": "P_10",
    "ndcg@10": "ndcg_cut_10",
    "mrr@10": "recip_rank",
}


def make_run(qrels: Qrels, passages: int, depth: int, seed: int) -> Run:
    """A run of all queries with four of five relevant documents in it."""
    rng = np.random.default_rng(seed)
    relevant = [qrels.documents[(qrels.queries == q) & (qrels.relevance > 0)] for q in range(len(qrels.query_ids))]
    judged = len(qrels.document_ids)
    documents = np.empty((len(relevant), depth), dtype=np.int64)
    for row, chosen in zip(documents, relevant, strict=True):
        row[:] = judged + rng.choice(passages, depth, replace=False)
        chosen = chosen[rng.random(len(chosen)) < 0.8]
        high = rng.permutation(50)[: len(chosen)]
        row[np.where(rng.random(len(chosen)) < 0.8, high, high + 50)] = chosen
    used, index = np.unique(documents, return_inverse=True)
    names = [qrels.document_ids[d] if d < judged else f"{(d - judged) // 8}#p{(d - judged) % 8}" for d in used.tolist()]
    steps = rng.random((len(relevant), depth)) + 0.01
    scores = (1 - np.cumsum(steps, axis=1) / (2 * depth)).astype(np.float32)
    assert all(len(np.unique(row)) == depth for row in scores)
    return Run(qrels.query_ids, names, index.reshape(documents.shape).astype(np.int32), scores)


def dictionaries(run: Run, qrels: Qrels) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """The run and the judgments as pytrec_eval takes them."""
    names = run.document_ids
    ranked = {
        query: dict(zip([names[d] for d in documents], scores, strict=True))
        for query, documents, scores in zip(run.query_ids, run.documents.tolist(), run.scores.tolist(), strict=True)
    }
    judged: dict[str, dict[str, int]] = {}
    for q, d, relevance in zip(qrels.queries.tolist(), qrels.documents.tolist(), qrels.relevance.tolist(), strict=True):
        judged.setdefault(qrels.query_ids[q], {})[qrels.document_ids[d]] = relevance
    return ranked, judged


def pytrec_eval_values(
    ranked: dict[str, dict[str, float]], judged: dict[str, dict[str, int]]
) -> dict[str, dict[str, float]]:
    """Values by query and trec_eval's names."""
    measures = {"map", "recall.1,10,100", "P.10", "ndcg_cut.10", "recip_rank"}
    return pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(ranked)


def tensors(run: Run, judged: dict[str, dict[str, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, relevances and query indexes as torchmetrics takes them, flat."""
    number = {name: d for d, name in enumerate(run.document_ids)}
    target = np.zeros(run.documents.shape, dtype=np.int64)
    for row, query in enumerate(run.query_ids):
        relevant = [number[name] for name, gain in judged[query].items() if gain > 0 and name in number]
        target[row] = np.isin(run.documents[row], relevant)
    index = np.repeat(np.arange(len(target)), run.documents.shape[1])
    flat = [torch.from_numpy(array.reshape(-1)) for array in (run.scores, target, index)]
    return flat[0], flat[1], flat[2]


def torchmetrics_values(preds: torch.Tensor, target: torch.Tensor, indexes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Values of every query by torchmetrics' classes."""

    def each(values: torch.Tensor, dim: Any) -> torch.Tensor:
        return values

    collection = MetricCollection(
        {
            "map": retrieval.RetrievalMAP(aggregation=each),
            "recall@1": retrieval.RetrievalRecall(top_k=1, aggregation=each),
            "recall@10": retrieval.RetrievalRecall(top_k=10, aggregation=each),
            "recall@100": retrieval.RetrievalRecall(top_k=100, aggregation=each),
            "precision@10": retrieval.RetrievalPrecision(top_k=10, aggregation=each),
            "ndcg@10": retrieval.RetrievalNormalizedDCG(top_k=10, aggregation=each),
            "mrr@10": retrieval.RetrievalMRR(top_k=10, aggregation=each),
        }
    )
    collection.update(preds, target, indexes=indexes)
    return collection.compute()


def timed(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    begin = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qrels", type=Path, required=True, help="folder with qrels.miracl-v1.0-<language>-dev.tsv")
    parser.add_argument("--languages", nargs="+", default=MIRACL)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as the others

    names = ("hybrid_ir", "pytrec_eval", "pytrec_eval + dictionaries", "torchmetrics")
    seconds: dict[str, list[float]] = {name: [0.0] * args.rounds for name in names}
    queries, difference = 0, 0.0
    for language in args.languages:
        qrels = read_qrels(args.qrels / f"qrels.miracl-v1.0-{language}-dev.tsv")
        run = make_run(qrels, LANGUAGES[language].miracl_passages or 0, args.depth, seed=1)
        queries += len(run.query_ids)
        flat = tensors(run, dictionaries(run, qrels)[1])
        for round_ in range(args.rounds):
            ours, scores = timed(score_run, run, qrels, METRICS)
            building, (ranked, judged) = timed(dictionaries, run, qrels)
            trec, values = timed(pytrec_eval_values, ranked, judged)
            own, _ = timed(torchmetrics_values, *flat)
            for name, spent in zip(names, (ours, trec, trec + building, own), strict=True):
                seconds[name][round_] += spent
        expected = np.array([[values[query][name] for name in TREC_NAMES.values()] for query in scores.query_ids])
        compared = [METRICS.index(name) for name in METRICS if name != "mrr@10"]
        difference = max(difference, float(np.abs(scores.values - expected)[:, compared].max()))

    print(
        f"{len(args.languages)} languages, {queries:,} queries x {args.depth:,} documents, {len(METRICS)} metrics, one "
        f"thread, medians of {args.rounds} rounds"
    )
    table = Table()
    for column in ("", "seconds", "of each round", "times hybrid_ir's"):
        table.add_column(column, justify="right" if column else "left")
    for name, rounds in seconds.items():
        ratio = statistics.median(other / ours for other, ours in zip(rounds, seconds["hybrid_ir"], strict=True))
        each = " ".join(f"{spent:.2f}" for spent in rounds)
        table.add_row(name, f"{statistics.median(rounds):.2f}", each, f"{ratio:.1f}")
    Console().print(table)
    print(f"largest difference between hybrid_ir and pytrec_eval, all queries and metrics but mrr@10: {difference:.1e}")


if __name__ == "__main__":
    main()
