"""Evaluates an encoder on a benchmark: encode once, score in chunks, count ranks, and collect results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.config import EvaluationConfig
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.metrics import ALL, RetrievalMetrics
from hybrid_ir.evaluation.results import Results
from hybrid_ir.evaluation.search import (
    EvaluationStopped,
    ExactSearch,
    Progress,
    TextEncoder,
    all_ranks,
    encode_in_shards,
    exchange_device,
    world,
)

UNION = -1
"""Pool of all languages' documents; other pools are language indices."""


def evaluate(
    encoder: TextEncoder,
    benchmark: Benchmark,
    evaluation: EvaluationConfig,
    step: int,
    run_dir: Path | None = None,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Results:
    """All settings and metrics of a benchmark; every text is encoded once. Collective: all ranks call it.

    Args:
        encoder: the model.
        benchmark: queries, documents and judgments.
        evaluation: sizes of shards, and whether rankings are written.
        step: training step of the model, noted in the results.
        run_dir: with ``evaluation.save_runs``, rankings go to ``runs/<benchmark>.<query language>-<corpus language or
            all>.trec`` in it, in TREC's run format; written by rank 0.
        progress: called as ``progress(what, done, total)`` on every rank.
        should_stop: asked between shards and between chunks.

    Returns:
        The results, the same on every rank and bitwise the same for any number of processes.

    Raises:
        UserError: an embedding is not finite, or a run file cannot be written.
        DataError: the benchmark has no judged query, or (with run files) an id with a space.
        EvaluationStopped: ``should_stop`` said so.
    """
    relevant = _Relevant.of(benchmark)
    runs = _RunFiles(benchmark, run_dir) if evaluation.save_runs and run_dir else None
    with torch.no_grad():
        documents = encode_in_shards(
            encoder, benchmark.documents, "passage", evaluation.shard_size, progress, should_stop
        )
        queries = encode_in_shards(encoder, benchmark.queries, "query", evaluation.shard_size, progress, should_stop)
        metrics = RetrievalMetrics(benchmark.languages)
        metrics.to(exchange_device())
        scorer = _Scorer(benchmark, relevant, documents, queries, metrics, evaluation.shard_size)
        rank, size = world()
        for _, of_language in itertools.groupby(scorer.chunks(), key=lambda chunk: chunk.language):
            rankings: list[_Ranking] = []
            with all_ranks():
                for chunk in of_language:
                    if chunk.number % size != rank:
                        continue
                    if should_stop is not None and should_stop():
                        raise EvaluationStopped
                    rankings += scorer.score(chunk, evaluation.run_depth if runs else 0)
                    if progress is not None:
                        progress("searching for queries", chunk.done, len(benchmark.queries))
            if runs:
                gathered = _gather(rankings)
                with all_ranks():
                    if rank == 0:
                        runs.write(gathered)
    return Results.from_groups(benchmark.name, benchmark.query_ids, metrics.compute(), step)


@dataclass(frozen=True)
class _Relevant:
    """The relevant documents of each query, as a compressed sparse matrix."""

    start: np.ndarray
    """[queries + 1]: query q has entries start[q] to start[q + 1]."""
    document: np.ndarray
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
                f"benchmark {benchmark.name}: document {benchmark.document_ids[document]} is judged twice for query "
                f"{benchmark.query_ids[query]}; keep one judgment"
            )
        start = np.searchsorted(judgments[:, 0], np.arange(len(benchmark.query_ids) + 1))
        return cls(start, judgments[:, 1], judgments[:, 2])

    def padded(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Documents (padded with -1) and gains (0) of some queries, both [queries, R]."""
        counts = self.start[queries + 1] - self.start[queries]
        columns = np.arange(max(1, counts.max()))
        present = columns < counts[:, None]
        entries = np.where(present, self.start[queries][:, None] + columns, 0)
        return np.where(present, self.document[entries], -1), np.where(present, self.gain[entries], 0)


@dataclass(frozen=True)
class _Chunk:
    """Queries of one language that are scored together."""

    number: int
    language: int
    queries: np.ndarray
    done: int
    """Queries in this chunk and those before it."""


@dataclass(frozen=True)
class _Ranking:
    """The best documents of some queries of one language in one pool."""

    language: int
    pool: int
    queries: np.ndarray
    documents: np.ndarray
    scores: np.ndarray


class _Scorer:
    """Ranks of the relevant documents, chunk by chunk."""

    def __init__(
        self,
        benchmark: Benchmark,
        relevant: _Relevant,
        documents: Tensor,
        queries: Tensor,
        metrics: RetrievalMetrics,
        shard_size: int,
    ) -> None:
        self.benchmark = benchmark
        self.relevant = relevant
        self.documents = documents
        self.queries = queries
        self.metrics = metrics
        self.shard_size = shard_size
        self.query_languages = np.asarray(benchmark.query_languages, dtype=np.int64)
        self.document_languages = np.asarray(benchmark.document_languages, dtype=np.int64)
        # Where only monolingual search is asked for, a query meets its own language's documents and no others.
        self.separate = set(benchmark.settings) == {"monolingual"}
        self._search: tuple[int, ExactSearch, np.ndarray] | None = None

    def search_for(self, language: int) -> tuple[ExactSearch, np.ndarray]:
        """The search that serves a language's queries, and each document's place in it (-1: not in it)."""
        if self._search is None or (self.separate and self._search[0] != language):
            chosen = np.arange(len(self.document_languages))
            if self.separate:
                chosen = np.flatnonzero(self.document_languages == language)
            place = np.full(len(self.document_languages), -1)
            place[chosen] = np.arange(len(chosen))
            embeddings = self.documents
            if self.separate:
                embeddings = embeddings[torch.as_tensor(chosen, device=embeddings.device)]
            ids = [self.benchmark.document_ids[i] for i in chosen.tolist()]
            languages = self.document_languages[chosen]
            search = ExactSearch(embeddings, languages, len(self.benchmark.languages), ids, self.shard_size)
            self._search = (language, search, place)
        return self._search[1], self._search[2]

    def chunks(self) -> Iterator[_Chunk]:
        """The judged queries, language by language."""
        number = done = 0
        judged = np.diff(self.relevant.start) > 0
        for language in range(len(self.benchmark.languages)):
            queries = np.flatnonzero((self.query_languages == language) & judged)
            pool = self.document_languages == language if self.separate else self.document_languages >= 0
            size = ExactSearch.chunk_size(int(pool.sum()))
            for start in range(0, len(queries), size):
                chunk = queries[start : start + size]
                done += len(chunk)
                yield _Chunk(number, language, chunk, done)
                number += 1

    def score(self, chunk: _Chunk, depth: int) -> list[_Ranking]:
        """Adds a chunk's ranks to the metrics.

        Returns:
            The ``depth`` best documents of each query in each pool that counts; none where ``depth`` is 0.
        """
        search, place = self.search_for(chunk.language)
        documents, gains = self.relevant.padded(chunk.queries)
        inside = np.where(documents >= 0, place[documents], -1)
        languages = np.where(inside >= 0, self.document_languages[documents], -1)
        device = self.queries.device
        keys = search.keys(self.queries[torch.as_tensor(chunk.queries, device=device)])
        above = search.count_above(keys, torch.as_tensor(inside, device=device)).cpu().numpy()

        settings = self.benchmark.settings
        pools = [
            pool
            for pool in range(len(self.benchmark.languages))
            if ("monolingual" if pool == chunk.language else "cross_lingual") in settings
        ]
        rankings: list[_Ranking] = []
        for pool in [*pools, UNION] if "multilingual" in settings else pools:
            members = inside >= 0 if pool == UNION else languages == pool
            rows = np.flatnonzero(members.any(axis=1))
            if not len(rows):
                continue
            counts = above.sum(axis=2) if pool == UNION else above[:, :, pool]
            ranks = np.where(members, 1 + counts, 0)[rows]
            self.metrics.update(
                torch.as_tensor(chunk.queries[rows]),
                torch.full((len(rows),), chunk.language),
                torch.full((len(rows),), pool),
                torch.as_tensor(ranks),
                torch.as_tensor(gains[rows]),
            )
            if depth:
                best, scores = search.top_k(
                    keys[torch.as_tensor(rows, device=device)], depth, None if pool == UNION else pool
                )
                chosen = np.flatnonzero(place >= 0)  # places back to documents of the benchmark
                rankings.append(
                    _Ranking(
                        chunk.language, pool, chunk.queries[rows], chosen[best.cpu().numpy()], scores.cpu().numpy()
                    )
                )
        return rankings


class _RunFiles:
    """TREC run files: ``query Q0 document rank score tag`` a line."""

    def __init__(self, benchmark: Benchmark, run_dir: Path) -> None:
        self.benchmark = benchmark
        self.folder = run_dir / "runs"
        for kind, ids in (("query", benchmark.query_ids), ("document", benchmark.document_ids)):
            for name in ids:
                if not name or any(c.isspace() for c in name):
                    raise DataError(
                        f"benchmark {benchmark.name}: {kind} id {name!r} is empty or has a space, which a run file "
                        f"cannot hold; set evaluation.save_runs=false"
                    )

    def write(self, rankings: Sequence[_Ranking]) -> None:
        """Writes the files of one query language, whole.

        Raises:
            UserError: the folder cannot be written.
        """
        names = self.benchmark.languages
        for pool in dict.fromkeys(r.pool for r in rankings):
            parts = [r for r in rankings if r.pool == pool]
            corpus = ALL if pool == UNION else names[pool]
            path = self.folder / f"{self.benchmark.name}.{names[parts[0].language]}-{corpus}.trec"
            partial = path.with_suffix(".partial")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with partial.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(self._lines(parts))
                partial.replace(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror}); free space or allow it") from error

    def _lines(self, parts: Sequence[_Ranking]) -> Iterator[str]:
        for part in parts:
            for query, documents, scores in zip(part.queries, part.documents, part.scores, strict=True):
                query_id = self.benchmark.query_ids[query]
                for rank, (document, score) in enumerate(zip(documents, scores, strict=True), start=1):
                    # 9 digits give back the fp32 score to the last bit: equal scores stay equal, the order is the same.
                    yield f"{query_id} Q0 {self.benchmark.document_ids[document]} {rank} {score:.9g} hybrid_ir\n"


def _gather(rankings: list[_Ranking]) -> list[_Ranking]:
    """All ranks' rankings on rank 0, in the order of the queries; nothing on the others."""
    rank, size = world()
    if size > 1:
        parts: list[list[_Ranking]] | None = [[] for _ in range(size)] if rank == 0 else None
        dist.gather_object(rankings, parts, dst=0)
        rankings = [ranking for part in parts or [] for ranking in part]
    return sorted(rankings, key=lambda r: (r.pool, int(r.queries[0])))
