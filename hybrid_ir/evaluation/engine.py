"""Evaluates an encoder on a benchmark: texts are encoded once, shards searched as they come, ranks turned to results.

A benchmark either ranks its whole pool (mean average precision without cut-off, rank distance) or retrieves the
``depth`` best documents of each query. The first needs a shard twice, once for the scores of the relevant documents and
once to count what stands above them, so each process keeps the embeddings of its shards. The second needs it once: the
corpus streams through, and memory does not grow with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.config import EvaluationConfig, LanguageRemovalConfig
from hybrid_ir.errors import ConfigError, DataError, UserError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.encoding import (
    EmbeddingCache,
    EvaluationStopped,
    Progress,
    Shard,
    TextEncoder,
    all_ranks,
    document_shards,
    encode_documents,
    encode_in_shards,
    exchange_device,
    share,
    world,
)
from hybrid_ir.evaluation.language_bias import bias_rows_from_results, measure
from hybrid_ir.evaluation.language_removal import LanguageRemoval
from hybrid_ir.evaluation.metrics import ALL, NOT_RETRIEVED, RetrievalMetrics
from hybrid_ir.evaluation.pool import PoolRanking
from hybrid_ir.evaluation.results import Results
from hybrid_ir.evaluation.search import (
    CHUNK,
    NO_DOCUMENT,
    TopK,
    count_above,
    key_scores,
    ranking_keys,
    scores,
    tie_order,
)
from hybrid_ir.evaluation.search_state import SearchState
from hybrid_ir.evaluation.trec import Qrels, Run, write_qrels, write_run

UNION = -1
"""Pool of all languages' documents; other pools are language indices."""
PRODUCT_ELEMENTS = 2**27
"""Scores of a chunk of queries that are kept between the two looks at them (512 MB); more are computed twice."""


def evaluate(
    encoder: TextEncoder,
    benchmark: Benchmark,
    evaluation: EvaluationConfig,
    step: int,
    run_dir: Path | None = None,
    *,
    language_removal: LanguageRemovalConfig | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    states: list[SearchState] | None = None,
) -> Results:
    """All settings and metrics of a benchmark; every text is encoded once. Collective: all ranks call it.

    Args:
        encoder: the model.
        benchmark: queries, documents and judgments.
        evaluation: sizes of shards, additional metrics, and whether rankings are written and embeddings kept.
        step: training step of the model, noted in the results.
        run_dir: with ``evaluation.save_runs``, rankings and judgments go to ``runs/<benchmark>.<query
            language>-<corpus language or all>.trec`` and ``.qrels`` in it, in TREC's formats; written by rank 0.
        language_removal: what is taken out of the embeddings before they are compared; None for nothing.
        progress: called as ``progress(what, done, total)`` on every rank.
        should_stop: asked between shards.
        states: takes what was kept for the case of an interruption, for the caller to remove when nothing can be
            interrupted any more; None removes it at the end.

    Returns:
        The results, the same on every rank and bitwise the same for any number of processes.

    Raises:
        UserError: an embedding is not finite, or a file cannot be written.
        ConfigError: language removal is asked of a benchmark that cannot have it.
        DataError: the benchmark has no judged query, or (with run files) an id with a space.
        EvaluationStopped: ``should_stop`` said so.
    """
    if benchmark.depth is not None and "multilingual" in benchmark.settings:
        raise ValueError("a benchmark with a depth has no multilingual setting: rank distance needs the whole pool")
    removal = language_removal if language_removal is not None and language_removal.method != "none" else None
    if removal is not None:
        check_language_removal(benchmark, removal)
    relevant = _Relevant.of(benchmark)
    runs = _RunFiles(benchmark, evaluation.run_depth, run_dir) if evaluation.save_runs and run_dir else None
    kept = evaluation.cache_embeddings or benchmark.corpus_fingerprint is not None
    identity = _fingerprint(encoder) if kept else None
    cache = EmbeddingCache.of(identity) if evaluation.cache_embeddings and identity is not None else None
    if cache is not None:
        cache.check_space(len(benchmark.documents) + len(benchmark.queries), getattr(encoder, "dim", 0))
    with torch.no_grad():
        queries = encode_in_shards(
            encoder, benchmark.queries, "query", evaluation.shard_size, cache, progress, should_stop
        )
        search = _Search(benchmark, relevant, queries, evaluation, runs is not None)
        metrics = RetrievalMetrics(benchmark.languages, evaluation.metrics)
        metrics.to(exchange_device())
        if benchmark.depth is None:
            found = search.whole(encoder, cache, removal, progress, should_stop)
        else:
            found = search.retrieve(encoder, identity, cache, progress, should_stop)
        union: PoolRanking | None = None
        for pool in found:
            if world()[0] == 0:
                metrics.update(
                    torch.as_tensor(pool.queries),
                    torch.as_tensor(search.query_languages[pool.queries]),
                    torch.full((len(pool.queries),), pool.pool),
                    torch.as_tensor(pool.ranks),
                    torch.as_tensor(pool.gains),
                )
            if runs:
                with all_ranks():
                    if world()[0] == 0:
                        runs.write(pool)
            if pool.pool == UNION:
                union = pool.ranking(evaluation.language_bias_k)
        groups = metrics.compute()
    if states is None:
        search.forget()
    else:
        states += search.states
    if union is None or len(benchmark.languages) < 2:
        return Results.from_groups(benchmark.name, benchmark.query_ids, groups, step)
    bias = measure(benchmark, union, evaluation.language_bias_k, step)
    for group, values in groups.items():
        if group.setting == "multilingual":
            groups[group] = values.with_columns(bias.metrics, bias.of(values.queries))
    results = Results.from_groups(benchmark.name, benchmark.query_ids, groups, step)
    results.bias = [*bias.rows, *bias_rows_from_results(results, benchmark.name)]
    return results


def check_language_removal(benchmark: Benchmark, removal: LanguageRemovalConfig) -> None:
    """Checks that a benchmark has language bias to remove.

    Raises:
        ConfigError: its languages do not meet.
    """
    if removal.method != "none" and (benchmark.depth is not None or len(benchmark.languages) < 2):
        raise ConfigError(
            f"language_removal.method={removal.method}: {benchmark.name} is searched within single languages, where "
            f"there is no language bias to remove; leave it out of benchmark, or set language_removal.method=none"
        )


def _fingerprint(encoder: TextEncoder) -> str | None:
    of_encoder: Callable[[], str] | None = getattr(encoder, "fingerprint", None)
    return of_encoder() if of_encoder is not None else None


# ------------------------------------------------------------------------------------------------------- judgments


@dataclass(frozen=True)
class _Relevant:
    """The relevant documents of each query, as a compressed sparse matrix."""

    start: np.ndarray
    """[queries + 1]: query q has entries start[q] to start[q + 1]."""
    document: np.ndarray
    """[entries]: negative for one that is not in the corpus (``Benchmark.missing_ids``)."""
    gain: np.ndarray

    @classmethod
    def of(cls, benchmark: Benchmark) -> _Relevant:
        judgments = np.asarray(benchmark.judgments, dtype=np.int64).reshape(-1, 3)
        judgments = judgments[judgments[:, 2] > 0]
        if not len(judgments):
            raise DataError(f"benchmark {benchmark.name}: has no relevant document for any query; nothing to measure")
        judgments = judgments[np.lexsort((judgments[:, 1], judgments[:, 0]))]
        repeated = np.flatnonzero((np.diff(judgments[:, 0]) == 0) & (np.diff(judgments[:, 1]) == 0))
        if len(repeated):
            query, document, _ = judgments[repeated[0]]
            raise DataError(
                f"benchmark {benchmark.name}: document {benchmark.document_id(document)} is judged twice for query "
                f"{benchmark.query_ids[query]}; keep one judgment"
            )
        start = np.searchsorted(judgments[:, 0], np.arange(len(benchmark.query_ids) + 1))
        return cls(start, judgments[:, 1], judgments[:, 2])

    def padded(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Documents, gains (0 at padding) and whether there is one, of some queries; each [queries, R]."""
        counts = self.start[queries + 1] - self.start[queries]
        columns = np.arange(max(1, counts.max(initial=0)))
        present = columns < counts[:, None]
        entries = np.where(present, self.start[queries][:, None] + columns, 0)
        return np.where(present, self.document[entries], 0), np.where(present, self.gain[entries], 0), present


# ---------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class _Pool:
    """What the search of one pool found, for the queries that have a relevant document in it."""

    pool: int
    queries: np.ndarray
    """[n] indices in the benchmark."""
    documents: np.ndarray
    """[n, R] relevant documents, whatever stands at padding."""
    ranks: np.ndarray
    """[n, R] their ranks in the pool; 0 at padding and where a document is of another pool."""
    gains: np.ndarray
    top_keys: np.ndarray | None = None
    """[n, depth] keys of the best documents, ``NO_KEY`` where there are fewer."""
    top: np.ndarray | None = None
    """[n, depth] the best documents, best first."""

    def ranking(self, k: int) -> PoolRanking:
        assert self.top is not None
        order = np.argsort(self.queries)
        relevant = np.where(self.ranks > 0, self.documents, -1)
        return PoolRanking(self.queries[order], self.top[order, :k], relevant[order], self.ranks[order])


class _Search:
    """Searches every pool with the queries that count there.

    Queries stand in the order of their languages, so that those of a language are a slice; ``position`` is a query's
    place in that order.
    """

    def __init__(
        self, benchmark: Benchmark, relevant: _Relevant, queries: Tensor, evaluation: EvaluationConfig, save_runs: bool
    ) -> None:
        self.benchmark, self.evaluation, self.save_runs = benchmark, evaluation, save_runs
        self.query_languages = np.asarray(benchmark.query_languages, dtype=np.int64)
        judged = np.flatnonzero(np.diff(relevant.start) > 0)
        self.queries = judged[np.argsort(self.query_languages[judged], kind="stable")]
        self.embeddings = queries[torch.as_tensor(self.queries, device=queries.device)]
        self.device = queries.device
        self.documents, self.gains, self.present = relevant.padded(self.queries)
        self.inside = self.present & (self.documents >= 0)
        of_query = self.query_languages[self.queries]
        absent = of_query[:, None]
        if benchmark.missing_languages is not None and len(benchmark.missing_languages):
            absent = benchmark.missing_languages[np.where(self.present & ~self.inside, -1 - self.documents, 0)]
        self.document_language = np.where(
            self.inside,
            np.asarray(benchmark.document_languages)[np.where(self.inside, self.documents, 0)],
            absent,
        )
        bounds = np.searchsorted(of_query, np.arange(len(benchmark.languages) + 1))
        self.chunks = [
            (language, slice(start, min(start + CHUNK, bounds[language + 1])))
            for language in range(len(benchmark.languages))
            for start in range(bounds[language], bounds[language + 1], CHUNK)
        ]
        self.shards = document_shards(np.asarray(benchmark.document_languages), evaluation.shard_size)
        self.order = (
            benchmark.document_order if benchmark.document_order is not None else tie_order(benchmark.document_ids)
        )
        self.states: list[SearchState] = []

    def wanted(self, query_language: int, pool: int) -> bool:
        """Whether queries of a language are asked of a pool."""
        if pool == UNION:
            return "multilingual" in self.benchmark.settings
        return ("monolingual" if query_language == pool else "cross_lingual") in self.benchmark.settings

    def meets(self, query_language: int, language: int) -> bool:
        """Whether queries of a language must be multiplied with a language's documents."""
        return self.wanted(query_language, language) or self.wanted(query_language, UNION)

    def order_of(self, shard: Shard) -> Tensor:
        """[documents] int64: their places in ascending order of ids."""
        return torch.as_tensor(np.asarray(shard.of(self.order), dtype=np.int64), device=self.device)

    def _mine(self, shards: Sequence[Shard]) -> list[Shard]:
        rank, size = world()
        return [shard for shard in shards if shard.number % size == rank]

    # ---------------------------------------------------------------------------------------------- the whole pool

    def whole(
        self,
        encoder: TextEncoder,
        cache: EmbeddingCache | None,
        removal: LanguageRemovalConfig | None,
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[_Pool]:
        """Ranks of all relevant documents in every pool. Collective."""
        mine = self._mine(self.shards)
        with all_ranks():
            encoded = encode_documents(encoder, self.benchmark, mine, cache, progress, should_stop)
            kept = [(shard, embeddings.to(self.device)) for shard, embeddings in encoded]
        if removal is not None:
            kept = self._remove_languages(kept, removal)
        languages = len(self.benchmark.languages)
        above = torch.zeros(*self.documents.shape, languages, dtype=torch.int64, device=self.device)
        tops = self._rankings()
        relevant = self._places()
        for query_language, rows in self.chunks:
            thresholds = torch.zeros(self.documents[rows].shape, dtype=torch.int64, device=self.device)
            with all_ranks():
                if should_stop is not None and should_stop():
                    raise EvaluationStopped
                met = [part for part in kept if self.meets(query_language, part[0].language)]
                small = len(thresholds) * sum(len(shard) for shard, _ in met) <= PRODUCT_ELEMENTS
                products = [scores(self.embeddings[rows], part) for _, part in met] if small else []
                for i, (shard, part) in enumerate(met):
                    row, column, place = relevant(shard, rows)
                    if len(row):
                        # The product of the whole chunk and shard, as it is when documents are counted: the same bits.
                        values = (products[i] if small else scores(self.embeddings[rows], part))[row, place]
                        thresholds[row, column] = ranking_keys(values, self.order_of(shard)[place])
            self._sum(thresholds)
            thresholds[torch.as_tensor(~self.inside[rows], device=self.device)] = NO_DOCUMENT
            with all_ranks():
                for i, (shard, part) in enumerate(met):
                    values, order = products[i] if small else scores(self.embeddings[rows], part), self.order_of(shard)
                    above[rows, :, shard.language] += count_above(ranking_keys(values, order), thresholds)
                    for pool, top in tops.items():
                        if pool in (shard.language, UNION) and self.wanted(query_language, pool):
                            top.update(rows, values, order, shard.tensor(self.device))
                if progress is not None:
                    progress("searching for queries", rows.stop, len(self.queries))
        self._sum(above)
        counts = above.cpu().numpy()
        for pool in [*range(languages), UNION]:
            ranks = 1 + (counts.sum(axis=2) if pool == UNION else counts[:, :, pool])
            ranking = tops[pool].ranking() if pool in tops else None
            found = self._pool(pool, np.where(self.inside, ranks, NOT_RETRIEVED), ranking)
            if found is not None:
                yield found

    def _places(self) -> Callable[[Shard, slice], tuple[Tensor, Tensor, Tensor]]:
        """A function that finds the relevant documents of a chunk of queries in a shard: row in the chunk, column among
        the query's relevant documents, place in the shard."""
        number = np.full(len(self.benchmark.documents), -1)
        place = np.full(len(self.benchmark.documents), -1)
        for shard in self.shards:
            number[shard.documents], place[shard.documents] = shard.number, np.arange(len(shard))
        present = np.where(self.inside, self.documents, 0)
        number, place = np.where(self.inside, number[present], -1), place[present]

        def find(shard: Shard, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
            row, column = np.nonzero(number[rows] == shard.number)
            found = (row, column, place[rows][row, column])
            return tuple(torch.as_tensor(part, device=self.device) for part in found)  # type: ignore[return-value]

        return find

    def _rankings(self) -> dict[int, TopK]:
        """A running top k for each pool whose best documents are asked for."""
        n = len(self.queries)
        depths: dict[int, int] = {}
        if "multilingual" in self.benchmark.settings:
            depths[UNION] = self.evaluation.language_bias_k
        if self.save_runs:
            for pool in [*range(len(self.benchmark.languages)), UNION]:
                if self._size(pool) and any(self.wanted(language, pool) for language, _ in self.chunks):
                    depths[pool] = max(self.evaluation.run_depth, depths.get(pool, 0))
        return {pool: TopK(n, min(depth, self._size(pool)), self.device) for pool, depth in depths.items()}

    def _size(self, pool: int) -> int:
        return sum(len(shard) for shard in self.shards if pool in (shard.language, UNION))

    def _sum(self, values: Tensor) -> None:
        if world()[1] > 1:
            summed = values.to(exchange_device())
            dist.all_reduce(summed)
            values.copy_(summed)

    def _remove_languages(
        self, kept: list[tuple[Shard, Tensor]], removal: LanguageRemovalConfig
    ) -> list[tuple[Shard, Tensor]]:
        """Fits the removal on all passages, the same on every rank, and applies it to passages and queries."""
        sizes = np.cumsum([0, *(len(shard) for shard in self.shards)]).tolist()
        ranges = [range(start, stop) for start, stop in itertools.pairwise(sizes)]
        if world()[1] > 1:
            mine = {shard.number: (shard, part.to(exchange_device())) for shard, part in kept}
            passages = share(mine, ranges, sizes[-1])
        else:
            passages = torch.cat([part for _, part in kept])
        languages = np.concatenate([np.full(len(shard), shard.language) for shard in self.shards])
        assert removal.method != "none"
        fitted = LanguageRemoval.fit(passages, languages, self.benchmark.languages, removal.method, removal.components)
        self.embeddings = fitted.apply(self.embeddings, self.query_languages[self.queries])
        return [(shard, fitted.apply(part, np.full(len(shard), shard.language))) for shard, part in kept]

    # ------------------------------------------------------------------------------------------------ the top only

    def retrieve(
        self,
        encoder: TextEncoder,
        identity: str | None,
        cache: EmbeddingCache | None,
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[_Pool]:
        """The ``depth`` best documents of each query, one language's corpus after the other. Collective."""
        assert self.benchmark.depth is not None
        for language in range(len(self.benchmark.languages)):
            asked = [rows for query_language, rows in self.chunks if self.wanted(query_language, language)]
            if not asked:
                continue
            first, last = asked[0].start, asked[-1].stop
            top = TopK(last - first, min(self.benchmark.depth, max(1, self._size(language))), self.device)
            mine = self._mine([shard for shard in self.shards if shard.language == language])
            with all_ranks():
                state = SearchState.of(identity, self.benchmark, self.embeddings[first:last], self.evaluation, language)
                done = state.resume(top) if state is not None else 0
                if state is not None:
                    self.states.append(state)
                for shard, embeddings in encode_documents(
                    encoder, self.benchmark, mine[done:], cache, progress, should_stop
                ):
                    embeddings = embeddings.to(self.device)
                    order, documents = self.order_of(shard), shard.tensor(self.device)
                    for rows in asked:
                        values = scores(self.embeddings[rows], embeddings)
                        top.update(slice(rows.start - first, rows.stop - first), values, order, documents)
                    done += 1
                    if state is not None:
                        state.save(top, done, last=done == len(mine))
            keys, documents = top.ranking()
            yield from self._retrieved(language, slice(first, last), keys, documents)

    def _retrieved(self, language: int, rows: slice, keys: Tensor, documents: Tensor) -> Iterator[_Pool]:
        top = documents.numpy()
        ranks = np.full(self.documents.shape, NOT_RETRIEVED)
        row, column = np.nonzero(self.inside[rows] & (self.document_language[rows] == language))
        for start in range(0, len(row), CHUNK):
            r, c = row[start : start + CHUNK], column[start : start + CHUNK]
            same = top[r] == self.documents[rows][r, c][:, None]
            hit = same.any(axis=1)
            ranks[rows.start + r[hit], c[hit]] = 1 + same[hit].argmax(axis=1)
        found = self._pool(language, ranks, (keys, documents), rows.start)
        if found is not None:
            yield found

    # --------------------------------------------------------------------------------------------------- what found

    def _pool(
        self, pool: int, ranks: np.ndarray, ranking: tuple[Tensor, Tensor] | None, first: int = 0
    ) -> _Pool | None:
        """The queries that count in a pool, None where there are none; ``first`` is the ranking's first position."""
        members = self.present if pool == UNION else self.present & (self.document_language == pool)
        wanted = np.zeros(len(self.queries), dtype=bool)
        for language, chunk in self.chunks:
            wanted[chunk] = self.wanted(language, pool)
        rows = np.flatnonzero(members.any(axis=1) & wanted)
        if not len(rows):
            return None
        return _Pool(
            pool,
            self.queries[rows],
            self.documents[rows],
            np.where(members, ranks, 0)[rows],
            np.where(members, self.gains, 0)[rows],
            *((part.numpy()[rows - first] for part in ranking) if ranking is not None else (None, None)),
        )

    def forget(self) -> None:
        """Removes what was kept for the case of an interruption."""
        for state in self.states:
            state.remove()


# ------------------------------------------------------------------------------------------------------- run files


class _RunFiles:
    """The rankings of a benchmark, and the judgments that they are measured by, as TREC files."""

    def __init__(self, benchmark: Benchmark, depth: int, run_dir: Path) -> None:
        self.benchmark, self.depth = benchmark, depth
        self.folder = run_dir / "runs"
        # Ids of a corpus on disk were checked when it was stored.
        documents = benchmark.document_ids if benchmark.document_order is None else ()
        for kind, ids in (("query", benchmark.query_ids), ("document", documents)):
            for name in ids:
                if not name or any(c.isspace() for c in name):
                    raise DataError(
                        f"benchmark {benchmark.name}: {kind} id {name!r} is empty or has a space, which a run file "
                        f"cannot hold; set evaluation.save_runs=false"
                    )

    def write(self, pool: _Pool) -> None:
        """Writes the files of a pool, two for each query language, each whole.

        Raises:
            UserError: the folder cannot be written.
        """
        assert pool.top is not None
        assert pool.top_keys is not None
        names = self.benchmark.languages
        corpus = ALL if pool.pool == UNION else names[pool.pool]
        languages = np.asarray(self.benchmark.query_languages)[pool.queries]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror}); free space or allow it") from error
        for language in np.unique(languages).tolist():
            rows = np.flatnonzero(languages == language)
            stem = f"{self.benchmark.name}.{names[language]}-{corpus}"
            query_ids = [self.benchmark.query_ids[query] for query in pool.queries[rows].tolist()]
            top, keys = pool.top[rows, : self.depth], torch.from_numpy(pool.top_keys[rows, : self.depth])
            there = top >= 0
            documents = np.full(top.shape, -1)
            ids, documents[there] = self._named(top[there])
            scored = np.where(there, key_scores(keys).numpy(), np.float32(-np.inf))
            write_run(self.folder / f"{stem}.trec", Run(query_ids, ids, documents, scored))
            query, column = np.nonzero(pool.ranks[rows] > 0)
            ids, relevant = self._named(pool.documents[rows][query, column])
            judged = Qrels(query_ids, ids, query, relevant, pool.gains[rows][query, column])
            write_qrels(self.folder / f"{stem}.qrels", judged)

    def _named(self, documents: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Ids of the documents that occur, and the documents as indices into them."""
        used, places = np.unique(documents, return_inverse=True)
        return [self.benchmark.document_id(document) for document in used.tolist()], places.reshape(documents.shape)
