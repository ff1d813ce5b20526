"""Language bias: what a query's language does to the documents it gets from the pool of all languages.

An encoder without language bias gives the language versions of a question the same ranking, in which the languages of
the documents play no part. The measures say how far a ranking is from that: what languages the first ``k`` documents
are in, how many of each language's relevant documents are among them, how well the rankings of a question's versions
agree, and how much is lost against searching each language's documents on their own. ``docs/language_bias.md`` explains
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.metrics import ALL
from hybrid_ir.evaluation.pool import PoolRanking
from hybrid_ir.evaluation.results import BiasRow, Results, Row


@dataclass(frozen=True)
class LanguageBias:
    """Language bias of one benchmark's multilingual pool."""

    queries: np.ndarray
    """[n] int64, ascending: index of each query in the benchmark."""
    metrics: tuple[str, ...]
    """Names of the columns of ``values``: ``own_language_share@k`` and ``mrc@k``."""
    values: np.ndarray
    """[n, metrics] float64; NaN where a metric is not defined for a query."""
    rows: list[BiasRow]

    def of(self, queries: np.ndarray) -> np.ndarray:
        """The values of some queries: [queries, metrics], for ``GroupScores.with_columns``.

        Args:
            queries: [queries] int64: indices in the benchmark, all of them among ``self.queries``.
        """
        return self.values[np.searchsorted(self.queries, queries)]


def measure(benchmark: Benchmark, pool: PoolRanking, k: int, step: int) -> LanguageBias:
    """Measures language bias in the rankings of the multilingual pool.

    For each query: ``own_language_share@k``, the share of its first k documents that are in its language, and
    ``mrc@k``, see ``mean_rank_correlation``. By query language and document language: ``language_share@k`` (share of
    the first k), ``relevant_found@k`` (of a query's relevant documents in that language, the share among the first k)
    and ``mean_rank`` (of these documents), each a mean over the queries for which it is defined; and ``pool_share``, a
    document language's share of the pool.

    Args:
        benchmark: the languages of queries and documents, and the ids that the versions of a question share.
        pool: the rankings; those of a pool smaller than k have as many documents as it.
        k: depth.
        step: training step of the model, noted in the rows.

    Raises:
        DataError: a question has two versions in one language.
    """
    languages = benchmark.languages
    document_languages = np.asarray(benchmark.document_languages)
    query_languages = np.asarray(benchmark.query_languages)[pool.queries]
    top = pool.top[:, :k]

    retrieved = document_languages[top]
    shares = np.stack([(retrieved == language).mean(axis=1) for language in range(len(languages))], axis=1)
    correlation = mean_rank_correlation(top, _versions(benchmark, pool.queries))

    relevant_languages = np.where(pool.relevant >= 0, document_languages[pool.relevant], -1)
    found_share = np.full_like(shares, np.nan)
    mean_rank = np.full_like(shares, np.nan)
    for language in range(len(languages)):
        members = relevant_languages == language
        some = members.any(axis=1)
        counts = members[some].sum(axis=1)
        found_share[some, language] = (members & (pool.ranks <= k))[some].sum(axis=1) / counts
        mean_rank[some, language] = np.where(members, pool.ranks, 0)[some].sum(axis=1) / counts

    def rows(name: str, values: np.ndarray, columns: Sequence[str]) -> Iterator[BiasRow]:
        return _rows(benchmark, name, query_languages, values, columns, step)

    sizes = np.bincount(document_languages, minlength=len(languages))
    return LanguageBias(
        queries=pool.queries,
        metrics=(f"own_language_share@{k}", f"mrc@{k}"),
        values=np.stack([shares[np.arange(len(shares)), query_languages], correlation], axis=1),
        rows=[
            *rows(f"language_share@{k}", shares, languages),
            *(
                BiasRow(benchmark.name, "pool_share", ALL, code, float(size / sizes.sum()), len(pool.queries), step)
                for code, size in zip(languages, sizes, strict=True)
            ),
            *rows(f"relevant_found@{k}", found_share, languages),
            *rows("mean_rank", mean_rank, languages),
            *rows(f"mrc@{k}", correlation[:, None], (ALL,)),
        ],
    )


def bias_rows_from_results(results: Results, benchmark: str) -> list[BiasRow]:
    """What a benchmark's results of its last step say of language bias, by query language.

    ``weak_alignment`` is the mean of mAP over the one-language corpora, the query's own among them;
    ``strong_alignment`` is mAP in the pool of all languages; ``alignment_gap`` is weak minus strong (the two kinds of
    alignment are those of LAReQA, arXiv 2004.05484, section 2). ``rank_distance`` and ``max_rank`` are taken over as
    they are.

    Returns:
        The rows; none where the multilingual setting was not evaluated.
    """
    there = [row for row in results.rows if row.benchmark == benchmark]
    step = max((row.step for row in there), default=0)
    weak: dict[str, list[float]] = {}
    multilingual: dict[str, dict[str, Row]] = {}
    for row in there:
        if row.step == step and row.setting == "multilingual":
            multilingual.setdefault(row.metric, {})[row.query_language] = row
        elif row.step == step and row.metric == "map":
            weak.setdefault(row.query_language, []).append(row.value)
    strong = multilingual.get("map", {})
    values: dict[str, dict[str, float]] = {
        "weak_alignment": {code: float(np.mean(weak[code])) for code in strong if code in weak},
        "strong_alignment": {code: row.value for code, row in strong.items()},
    }
    values["alignment_gap"] = {
        code: value - values["strong_alignment"][code] for code, value in values["weak_alignment"].items()
    }
    for name in ("rank_distance", "max_rank"):
        values[name] = {code: row.value for code, row in multilingual.get(name, {}).items()}
    rows: list[BiasRow] = []
    for name, of_language in values.items():
        for code, value in of_language.items():
            rows.append(BiasRow(benchmark, name, code, ALL, value, strong[code].num_queries, step))
        if of_language:
            count = sum(strong[code].num_queries for code in of_language)
            rows.append(BiasRow(benchmark, name, ALL, ALL, float(np.mean(list(of_language.values()))), count, step))
    return rows


def bias_table(rows: Iterable[BiasRow], benchmark: str, measure: str) -> dict[tuple[str, str], float]:
    """``{(query language, document language): value}`` of one measure at a benchmark's last step.

    Args:
        rows: of any benchmarks and steps.
        benchmark: its name.
        measure: name of the measure, without the depth: ``language_share`` for ``language_share@10``.
    """
    chosen = [row for row in rows if row.benchmark == benchmark and row.measure.partition("@")[0] == measure]
    step = max((row.step for row in chosen), default=0)
    return {(row.query_language, row.document_language): row.value for row in chosen if row.step == step}


# ------------------------------------------------------------------------------------------------ rank correlation


def mean_rank_correlation(top: np.ndarray, versions: np.ndarray) -> np.ndarray:
    """Mean over the other language versions of a question of the correlation of their rankings with this version's.

    Yang, Jiang and Baldwin (arXiv 2509.06195): RC_i(a) is the mean over the languages b other than a of RC_i(a, b), and
    MRC(a) the mean over the questions i. Here RC is ``rank_correlation`` of the first k documents.

    Args:
        top: [n, k] int: the first documents of each query, best first.
        versions: [questions, languages] int: row in ``top`` of each version of a question; -1 where there is none.

    Returns:
        [n] float64 from -1 to 1; NaN for a question with one version.
    """
    total = np.zeros(len(top))
    others = np.zeros(len(top), dtype=np.int64)
    for a, b in itertools.combinations(range(versions.shape[1]), 2):
        both = versions[(versions[:, a] >= 0) & (versions[:, b] >= 0)]
        correlation = rank_correlation(top[both[:, a]], top[both[:, b]])
        for column in (a, b):
            total[both[:, column]] += correlation
            others[both[:, column]] += 1
    return np.divide(total, others, out=np.full(len(top), np.nan), where=others > 0)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two lists of documents, row by row, over the documents that are in either.

    A document that a list lacks stands below its k documents, and all that it lacks share the mean of the places that
    are left, (k + 1 + u) / 2 where u documents are in either list: what ``scipy.stats.spearmanr`` makes of the two
    vectors of places. Lists without a common document are below 0. Equal lists are at 1, also those of one document,
    for which Spearman's formula is 0/0.

    Args:
        first: [n, k] int: documents, best first, each once in a row.
        second: [n, k] int.

    Returns:
        [n] float64 from -1 to 1.
    """
    n, k = first.shape
    in_second = _places(first, second)
    common = in_second > 0
    union = 2 * k - common.sum(axis=1)
    middle = (union + 1) / 2  # the mean of the places in either list
    deviation = np.arange(1, k + 1) - middle[:, None]
    only_second = np.where(_places(second, first) > 0, 0.0, deviation)
    covariance = np.where(common, deviation * (in_second - middle[:, None]), 0.0).sum(axis=1)
    # A document that a list lacks is (k + 1 + u) / 2 - (u + 1) / 2 = k / 2 below the middle of it.
    covariance += (np.where(common, 0.0, deviation) + only_second).sum(axis=1) * k / 2
    variance = (deviation**2).sum(axis=1) + (union - k) * (k / 2) ** 2
    return np.divide(covariance, variance, out=np.ones(n), where=variance > 0)


def _places(documents: np.ndarray, ranking: np.ndarray) -> np.ndarray:
    """[n, k] int64: place from 1 of each document in the same row of ``ranking``; 0 where it is not there."""
    n, k = ranking.shape
    if not n:
        return np.zeros((0, k), dtype=np.int64)
    # One search for all rows: a row's documents are shifted to a range of their own.
    shift = np.arange(n)[:, None] * (1 + max(documents.max(), ranking.max()))
    ranked = (ranking + shift).ravel()
    order = np.argsort(ranked)
    wanted = documents + shift
    at = order[np.searchsorted(ranked, wanted, sorter=order).clip(max=n * k - 1)]
    return np.where(ranked[at] == wanted, at % k + 1, 0)


def _versions(benchmark: Benchmark, queries: np.ndarray) -> np.ndarray:
    """[questions, languages] int64: place in ``queries`` of each language version of a question, -1 for none."""
    _, question = np.unique([benchmark.query_ids[query] for query in queries.tolist()], return_inverse=True)
    language = np.asarray(benchmark.query_languages)[queries]
    versions = np.full((question.max(initial=-1) + 1, len(benchmark.languages)), -1, dtype=np.int64)
    versions[question, language] = np.arange(len(queries))
    lost = np.flatnonzero(versions[question, language] != np.arange(len(queries)))
    if len(lost):
        raise DataError(
            f"benchmark {benchmark.name}: has two queries with id {benchmark.query_ids[queries[lost[0]]]} in "
            f"{benchmark.languages[language[lost[0]]]}; give each question of a language an id of its own"
        )
    return versions


# ----------------------------------------------------------------------------------------------------------- means


def _rows(
    benchmark: Benchmark,
    name: str,
    query_languages: np.ndarray,
    values: np.ndarray,
    columns: Sequence[str],
    step: int,
) -> Iterator[BiasRow]:
    """Means of each query language, and their means over the query languages; NaN is left out."""
    means: dict[str, list[tuple[float, int]]] = {column: [] for column in columns}
    for index, code in enumerate(benchmark.languages):
        for column, of_column in zip(columns, values[query_languages == index].T, strict=True):
            defined = of_column[~np.isnan(of_column)]
            if len(defined):
                mean = float(defined.mean())
                means[column].append((mean, len(defined)))
                yield BiasRow(benchmark.name, name, code, column, mean, len(defined), step)
    for column, found in means.items():
        if found:
            mean = float(np.mean([value for value, _ in found]))
            yield BiasRow(benchmark.name, name, ALL, column, mean, sum(count for _, count in found), step)
