"""Retrieval metrics from the ranks of the relevant documents, equal to trec_eval's, in float64.

A list of ranks is all that these metrics need. Functions take ``ranks`` [queries, R] int64: ranks from 1 of each
query's relevant documents, in any order, padded with 0. A relevant document without a rank (it is missing from the
corpus, or stands below the depth to which a run goes) has ``NOT_RETRIEVED``: it counts in recall's denominator, in the
mean of average precision and in the ideal ranking. ``gains`` [queries, R] are the relevances at the same places
(default 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, SETTINGS, Setting

ALL = "all"
"""``corpus_language`` of the multilingual setting, whose pool is the union of all languages' documents."""

NOT_RETRIEVED = 2**62
"""Rank of a relevant document that was not retrieved: positive, since it is relevant, and below every depth."""

MetricFunction = Callable[[Tensor, Tensor], Tensor]
"""Values [queries] float64 from ranks [queries, R] and gains [queries, R]."""


def average_precision(ranks: Tensor) -> Tensor:
    """Mean over the relevant documents of the precision at their ranks, without cut-off (trec_eval's ``map``).

    Returns:
        [queries] float64.
    """
    ordered = _ascending(ranks)
    hits = torch.arange(1, ranks.shape[1] + 1, dtype=torch.float64, device=ranks.device)
    return (hits / ordered).sum(dim=1) / _relevant(ranks)  # what was not retrieved is at infinity and adds 0


def recall(ranks: Tensor, k: int) -> Tensor:
    """Share of the relevant documents that are among the first ``k``. [queries] float64."""
    return _within(ranks, k).sum(dim=1) / _relevant(ranks)


def precision(ranks: Tensor, k: int) -> Tensor:
    """Share of the first ``k`` places that hold a relevant document; ``k`` divides even where the pool is smaller.

    Returns:
        [queries] float64.
    """
    return _within(ranks, k).sum(dim=1).to(torch.float64) / k


def ndcg(ranks: Tensor, k: int, gains: Tensor | None = None) -> Tensor:
    """Normalised discounted cumulative gain at ``k`` (trec_eval's ``ndcg_cut``): gain = relevance, discount =
    log2(rank + 1) (Järvelin and Kekäläinen, 2002); the ideal ranks all relevant documents by gain.

    Returns:
        [queries] float64.
    """
    weights = torch.ones_like(ranks, dtype=torch.float64) if gains is None else gains.to(torch.float64)
    weights = weights.masked_fill(ranks <= 0, 0.0)
    discount = torch.log2(_ranks_or_infinity(ranks) + 1)
    achieved = (weights / discount).masked_fill(~_within(ranks, k), 0.0).sum(dim=1)
    ideal = weights.sort(dim=1, descending=True).values[:, :k]
    places = torch.arange(1, ideal.shape[1] + 1, dtype=torch.float64, device=ranks.device)
    return achieved / (ideal / torch.log2(places + 1)).sum(dim=1)


def reciprocal_rank(ranks: Tensor, k: int) -> Tensor:
    """One over the rank of the first relevant document, 0 if it is not among the first ``k``. [queries] float64."""
    first = _ranks_or_infinity(ranks).min(dim=1).values
    return (1 / first).masked_fill(first > k, 0.0)


def rank_distance(ranks: Tensor) -> Tensor:
    """Highest rank minus lowest rank of a query's relevant documents: the language bias of arXiv 2408.10536 in the
    multilingual pool, where each language holds a relevant document; lower is better. [queries] float64.

    Raises:
        ValueError: a relevant document was not retrieved: the distance to it is not known.
    """
    return max_rank(ranks) - _ranks_or_infinity(ranks).min(dim=1).values


def max_rank(ranks: Tensor) -> Tensor:
    """Rank of the worst-ranked relevant document: how deep to read for all of them. [queries] float64.

    Raises:
        ValueError: a relevant document was not retrieved: its rank is not known.
    """
    if bool((ranks >= NOT_RETRIEVED).any()):
        raise ValueError("rank_distance and max_rank need the rank of every relevant document; rank the whole pool")
    return ranks.max(dim=1).values.to(torch.float64)


_AT_K: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "recall": lambda ranks, gains, k: recall(ranks, k),
    "precision": lambda ranks, gains, k: precision(ranks, k),
    "ndcg": lambda ranks, gains, k: ndcg(ranks, k, gains),
    "mrr": lambda ranks, gains, k: reciprocal_rank(ranks, k),
}
_WHOLE: dict[str, MetricFunction] = {
    "map": lambda ranks, gains: average_precision(ranks),
    "rank_distance": lambda ranks, gains: rank_distance(ranks),
    "max_rank": lambda ranks, gains: max_rank(ranks),
}
_NAME_AT_K = re.compile(rf"({'|'.join(_AT_K)})@([1-9][0-9]{{0,5}})")


def metric(name: str) -> MetricFunction:
    """A metric by its name in results: ``map``, ``rank_distance``, ``max_rank``, or ``recall``, ``precision``, ``ndcg``
    or ``mrr`` at any depth, e.g. ``recall@20``.

    Raises:
        ValueError: there is no such metric.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    match = _NAME_AT_K.fullmatch(name)
    if match is None:
        known = [*_WHOLE, *(f"{kind}@k" for kind in _AT_K)]
        raise ValueError(f"{name!r} is no metric; known: {', '.join(known)} with k from 1 to 999999, e.g. recall@20")
    at_k, k = _AT_K[match[1]], int(match[2])
    return lambda ranks, gains: at_k(ranks, gains, k)


METRICS: dict[str, MetricFunction] = {
    name: metric(name)
    for name in (
        "map",
        "recall@1",
        "recall@10",
        "recall@100",
        "precision@10",
        "ndcg@10",
        "mrr@10",
        "rank_distance",
        "max_rank",
    )
}
"""The metrics that are always reported, by their names in results."""

MULTILINGUAL_METRICS = LOWER_IS_BETTER
"""Metrics that are reported in the multilingual setting only."""


def metrics_of(setting: Setting, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the metrics that a setting reports: the standard ones, then ``extra`` ones that are not among them."""
    names = dict.fromkeys((*METRICS, *extra))
    return tuple(name for name in names if setting == "multilingual" or name not in MULTILINGUAL_METRICS)


def _relevant(ranks: Tensor) -> Tensor:
    return (ranks > 0).sum(dim=1).to(torch.float64)  # a quotient of integers would be float32


def _within(ranks: Tensor, k: int) -> Tensor:
    return (ranks > 0) & (ranks <= k)


def _ranks_or_infinity(ranks: Tensor) -> Tensor:
    return ranks.to(torch.float64).masked_fill((ranks <= 0) | (ranks >= NOT_RETRIEVED), torch.inf)


def _ascending(ranks: Tensor) -> Tensor:
    return _ranks_or_infinity(ranks).sort(dim=1).values


# ----------------------------------------------------------------------------------------------- over the queries


class Group(NamedTuple):
    """Queries of one language against one pool."""

    setting: Setting
    query_language: str
    corpus_language: str
    """``all`` in the multilingual setting."""


class GroupScores(NamedTuple):
    """Values of a group's queries."""

    queries: np.ndarray
    """[queries] int64, ascending: index of each query in the benchmark."""
    values: np.ndarray
    """[queries, metrics] float64."""
    metrics: tuple[str, ...]
    """Names of the columns of ``values``."""

    def with_columns(self, names: Sequence[str], values: np.ndarray) -> GroupScores:
        """A copy with further metrics of the same queries.

        Args:
            names: names of the new columns.
            values: [queries, names] their values.

        Raises:
            ValueError: a name is there already, or the shape does not fit.
        """
        metrics = (*self.metrics, *names)
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"columns {', '.join(metrics)} name a metric twice")
        if values.shape != (len(self.queries), len(names)):
            raise ValueError(f"values of shape {values.shape} for {len(self.queries)} queries and {len(names)} metrics")
        return GroupScores(self.queries, np.concatenate([self.values, values], axis=1), metrics)


class RetrievalMetrics(Metric):
    """Per-query values of all metrics, kept apart by setting, query language and corpus language.

    A rank updates it with the queries that it scored; ``compute`` gathers the values of all ranks and puts them in the
    order of the queries, so that means do not depend on how queries were shared. A query may be seen by one rank only.

    Args:
        languages: language codes that the indices given to ``update`` refer to.
        extra_metrics: metrics beside the standard ones (see ``metric``), reported in all settings.

    Raises:
        ValueError: an extra metric is not known.
    """

    full_state_update = False
    query: list[Tensor]
    query_language: list[Tensor]
    pool: list[Tensor]
    values: list[Tensor]

    def __init__(self, languages: Sequence[str], extra_metrics: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.languages = tuple(languages)
        self.extra_metrics = tuple(extra_metrics)
        self.names = metrics_of("multilingual", extra_metrics)
        for name in self.names:
            metric(name)  # a wrong name is found here, not after the first chunk
        for name in ("query", "query_language", "pool", "values"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._add_empty()

    def reset(self) -> None:
        """Forgets all values."""
        super().reset()
        self._add_empty()

    def _add_empty(self) -> None:
        # A rank that scored nothing must still take part in the gathering, with the same dtypes and dimensions.
        for state in (self.query, self.query_language, self.pool):
            state.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.values.append(torch.empty(0, len(self.names), dtype=torch.float64, device=self.device))

    def update(
        self, query: Tensor, query_language: Tensor, pool: Tensor, ranks: Tensor, gains: Tensor | None = None
    ) -> None:
        """Adds queries.

        Args:
            query: [n] int: index of the query in the benchmark.
            query_language: [n] int: index of its language.
            pool: [n] int: index of the language whose documents are the pool; -1 for the union of all.
            ranks: [n, R] int64: ranks from 1 of its relevant documents in that pool, ``NOT_RETRIEVED`` for those that
                have none, padded with 0; at least one relevant document each. In the union of all languages'
                documents every relevant document has a rank.
            gains: [n, R] their relevances; default 1.

        Raises:
            ValueError: a query has no relevant document, or one in the union without a rank.
        """
        if len(ranks) == 0:
            return
        if not bool((ranks > 0).any(dim=1).all()):
            raise ValueError("a query without a relevant document in the pool does not count; leave it out")
        gains = torch.ones_like(ranks) if gains is None else gains
        union = (pool < 0).to(ranks.device)
        values = torch.full((len(ranks), len(self.names)), torch.nan, dtype=torch.float64, device=ranks.device)
        for column, name in enumerate(self.names):
            rows = union if name in MULTILINGUAL_METRICS else slice(None)
            values[rows, column] = metric(name)(ranks[rows], gains[rows])
        device = self.device
        self.query.append(query.to(device, torch.int64))
        self.query_language.append(query_language.to(device, torch.int64))
        self.pool.append(pool.to(device, torch.int64))
        self.values.append(values.to(device))

    def compute(self) -> dict[Group, GroupScores]:
        """Values of all queries of all ranks, by group; groups in the order of settings and languages."""
        query, language, pool, values = (
            _joined(state).cpu().numpy() for state in (self.query, self.query_language, self.pool, self.values)
        )
        setting = np.where(pool < 0, 2, (pool != language).astype(np.int64))
        order = np.lexsort((query, pool, language, setting))
        keys = np.stack([setting, language, pool], axis=1)[order]
        starts = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=-2), axis=1)) if len(keys) else np.zeros(0, int)
        groups: dict[Group, GroupScores] = {}
        for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
            which, query_language, corpus = keys[start]
            name = cast(Setting, SETTINGS[which])
            rows = order[start:stop]
            if np.any(np.diff(query[rows]) == 0):
                raise ValueError("a query was added twice to the same pool")
            names = metrics_of(name, self.extra_metrics)
            columns = [self.names.index(metric) for metric in names]
            corpus_language = ALL if corpus < 0 else self.languages[corpus]
            group = Group(name, self.languages[query_language], corpus_language)
            groups[group] = GroupScores(query[rows], values[rows][:, columns], names)
        return groups


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    # After synchronisation torchmetrics leaves one concatenated tensor.
    return state if isinstance(state, Tensor) else torch.cat(state)
