"""Rankings and judgments as arrays, as TREC's run and qrels files, and the metrics of one by the other.

A run file has lines ``query Q0 document rank score tag``, a qrels file ``query 0 document relevance``, with columns
separated by spaces or tabs. As in trec_eval the rank column is not looked at: documents are ordered by score (fp32),
equal scores by document id, descending in UTF-8 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.metrics import MULTILINGUAL_METRICS, NOT_RETRIEVED, metric
from hybrid_ir.evaluation.search import tie_order
from hybrid_ir.lines import numbered_lines, write_lines

CHUNK_ELEMENTS = 2**20
"""Places of a run that are compared with relevant documents at a time."""
_MAX_SCORE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Run:
    """The documents that were retrieved for some queries.

    Raises:
        ValueError: shapes do not fit, an index is out of range, or a score is not finite.
    """

    query_ids: Sequence[str]
    """Unique."""
    document_ids: Sequence[str]
    """Unique."""
    documents: np.ndarray
    """[queries, depth] int: index into ``document_ids``, in any order, each once for a query; -1 where a query has
    fewer documents."""
    scores: np.ndarray
    """[queries, depth] float32, more is better; -inf where there is no document."""

    def __post_init__(self) -> None:
        if self.documents.ndim != 2 or self.documents.shape != self.scores.shape:
            raise ValueError(f"documents of shape {self.documents.shape}, scores of shape {self.scores.shape}")
        if len(self.documents) != len(self.query_ids):
            raise ValueError(f"{len(self.query_ids)} queries with rankings of {len(self.documents)}")
        if self.scores.dtype != np.float32:
            raise ValueError(f"scores are {self.scores.dtype}; they must be float32, as trec_eval compares them")
        if self.documents.size and not -1 <= self.documents.min() <= self.documents.max() < len(self.document_ids):
            raise ValueError(f"an index of a document is not in [-1, {len(self.document_ids)})")
        if not np.array_equal(np.isfinite(self.scores), self.documents >= 0):
            raise ValueError("a score is not finite, or is not -inf where there is no document")


@dataclass(frozen=True)
class Qrels:
    """Judgments: how relevant a document is to a query; above 0 is relevant.

    Raises:
        ValueError: lengths do not fit.
    """

    query_ids: Sequence[str]
    """Unique."""
    document_ids: Sequence[str]
    """Unique."""
    queries: np.ndarray
    """[judgments] int: index into ``query_ids``."""
    documents: np.ndarray
    """[judgments] int: index into ``document_ids``; each once for a query."""
    relevance: np.ndarray
    """[judgments] int."""

    def __post_init__(self) -> None:
        if not self.queries.shape == self.documents.shape == self.relevance.shape == (len(self.queries),):
            raise ValueError("queries, documents and relevance must be one-dimensional and of one length")


# --------------------------------------------------------------------------------------------------------- metrics


class RunScores(NamedTuple):
    """Values of a run's queries, and which queries the run and the judgments do not share."""

    query_ids: list[str]
    """In the order of the judgments."""
    metrics: tuple[str, ...]
    values: np.ndarray
    """[queries, metrics] float64."""
    missing: list[str]
    """Queries with judgments that the run does not have."""
    unjudged: list[str]
    """Queries of the run without judgments; they have no values."""

    def means(self) -> dict[str, float]:
        """Mean of each metric over the queries."""
        return dict(zip(self.metrics, self.values.mean(axis=0).tolist(), strict=True))


def score_run(run: Run, qrels: Qrels, metrics: Sequence[str], complete: bool = False) -> RunScores:
    """Metrics of a run, equal to trec_eval's.

    Queries that are in both count, as in trec_eval, among them those without a relevant document, whose values are 0.

    Args:
        run: the rankings.
        qrels: the judgments; relevant documents that the run does not have count as not retrieved.
        metrics: names, see ``metrics.metric``; not rank_distance and max_rank, which need the whole pool ranked.
        complete: also count, with 0, queries with judgments that the run does not have (trec_eval's ``-c``).

    Raises:
        ValueError: a metric is not known, or needs the whole pool ranked; or the run has the id of a relevant document
            twice.
    """
    functions = [metric(name) for name in metrics]
    if MULTILINGUAL_METRICS & set(metrics):
        raise ValueError(f"{' and '.join(sorted(MULTILINGUAL_METRICS))} need the whole pool ranked, not a run")
    row_of = {query: row for row, query in enumerate(run.query_ids)}
    judged = np.unique(qrels.queries)
    row = np.array([row_of.get(qrels.query_ids[query], -1) for query in judged.tolist()], dtype=np.int64)
    counted = np.ones(len(judged), dtype=bool) if complete else row >= 0
    names = [qrels.query_ids[query] for query in judged[counted].tolist()]

    place = np.full(len(qrels.query_ids), -1)
    place[judged[counted]] = np.arange(len(names))
    relevant = np.flatnonzero((qrels.relevance > 0) & (place[qrels.queries] >= 0))
    relevant = relevant[np.argsort(place[qrels.queries[relevant]], kind="stable")]
    query = place[qrels.queries[relevant]]
    ranks = _ranks(run, row[counted][query], _indices_in(run, qrels, relevant))

    counts = np.bincount(query, minlength=len(names))
    column = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
    padded = np.zeros((2, len(names), counts.max(initial=0)), dtype=np.int64)
    padded[:, query, column] = ranks, qrels.relevance[relevant]
    some = np.flatnonzero(counts)
    of_ranks, of_gains = torch.from_numpy(padded[:, some])
    values = np.zeros((len(names), len(metrics)))
    if len(some):
        values[some] = torch.stack([function(of_ranks, of_gains) for function in functions], dim=1).numpy()
    known = {qrels.query_ids[query] for query in judged.tolist()}
    return RunScores(
        names,
        tuple(metrics),
        values,
        [qrels.query_ids[query] for query in judged[row < 0].tolist()],
        [query for query in run.query_ids if query not in known],
    )


def _indices_in(run: Run, qrels: Qrels, judgments: np.ndarray) -> np.ndarray:
    """Index in the run of the documents of some judgments, -1 where the run does not have it at all."""
    wanted = np.unique(qrels.documents[judgments]).tolist()
    number = {qrels.document_ids[document]: n for n, document in enumerate(wanted)}
    found = np.fromiter((number.get(name, -1) for name in run.document_ids), np.int64, len(run.document_ids))
    index = np.full(len(qrels.document_ids), -1)
    there = np.flatnonzero(found >= 0)
    if len(np.unique(found[there])) != len(there):
        raise ValueError("a document id is twice among those of the run")
    index[np.asarray(wanted, dtype=np.int64)[found[there]]] = there
    return index[qrels.documents[judgments]]


def _ranks(run: Run, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Rank from 1 of a document among those of a row of the run, for each of n pairs.

    Args:
        run: the rankings.
        rows: [n] int: row, -1 for none.
        documents: [n] int: index in ``run.document_ids``, -1 for none.

    Returns:
        [n] int64; ``NOT_RETRIEVED`` where the row does not have the document.
    """
    ranks = np.full(len(rows), NOT_RETRIEVED)
    scores = np.zeros(len(rows), dtype=np.float32)
    tied: list[np.ndarray] = []
    for pairs in _chunks(np.flatnonzero((rows >= 0) & (documents >= 0)), run):
        here = run.documents[rows[pairs]] == documents[pairs, None]
        retrieved = here.any(axis=1)
        pairs, column = pairs[retrieved], here[retrieved].argmax(axis=1)
        of_row = run.scores[rows[pairs]]
        scores[pairs] = of_row[np.arange(len(pairs)), column]
        own = scores[pairs, None]
        ranks[pairs] = 1 + np.count_nonzero(of_row > own, axis=1)
        tied.append(pairs[np.count_nonzero(of_row == own, axis=1) > 1])
    if not any(map(len, tied)):
        return ranks
    # Ids are compared only where scores are equal: sorting all ids of a run would take longer than all the rest.
    ties = np.concatenate(tied)
    involved = np.unique(
        np.concatenate(
            [
                np.unique(run.documents[rows[pairs]][run.scores[rows[pairs]] == scores[pairs, None]])
                for pairs in _chunks(ties, run)
            ]
        )
    )
    order = np.full(len(run.document_ids), -1)
    order[involved] = tie_order([run.document_ids[document] for document in involved.tolist()])
    for pairs in _chunks(ties, run):
        equal = run.scores[rows[pairs]] == scores[pairs, None]
        above = order[run.documents[rows[pairs]]] > order[documents[pairs], None]
        ranks[pairs] += np.count_nonzero(equal & above, axis=1)
    return ranks


def _chunks(pairs: np.ndarray, run: Run) -> Iterator[np.ndarray]:
    size = max(1, CHUNK_ELEMENTS // max(1, run.scores.shape[1]))
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


# ----------------------------------------------------------------------------------------------------------- files


def read_run(path: Path) -> Run:
    """Reads a run file, plain or gzip; the lines of a query need not stand together, nor in order.

    Raises:
        DataError: the file is missing, damaged or empty, or a line is not a run's (file and line).
    """
    lines = _Lines(path)
    scores = array("f")
    for number, (query, _, document, _, score, _) in lines.read("query Q0 document rank score tag"):
        try:
            value = float(score)
        except ValueError:
            value = np.nan
        if not abs(value) <= _MAX_SCORE:
            text = score.decode(errors="replace")
            raise DataError(f"{path}:{number}: score {text!r} is not a finite number; mend the line")
        scores.append(value)
        lines.add(query, document, number)
    query_ids, document_ids = lines.ids()
    queries, documents = lines.pairs(query_ids, document_ids, "is listed")
    counts = np.bincount(queries, minlength=len(query_ids))
    order = np.argsort(queries, kind="stable")
    row = queries[order]
    column = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    padded = np.full((len(query_ids), counts.max()), -1, dtype=np.int32)
    padded[row, column] = documents[order]
    padded_scores = np.full(padded.shape, -np.inf, dtype=np.float32)
    padded_scores[row, column] = np.frombuffer(scores, np.float32)[order]
    return Run(query_ids, document_ids, padded, padded_scores)


def read_qrels(path: Path) -> Qrels:
    """Reads a qrels file, plain or gzip; its second column is not looked at.

    Raises:
        DataError: the file is missing, damaged or empty, or a line is not a judgment (file and line).
    """
    lines = _Lines(path)
    relevance = array("i")
    for number, (query, _, document, value) in lines.read("query 0 document relevance"):
        try:
            relevance.append(int(value))
        except (ValueError, OverflowError):
            text = value.decode(errors="replace")
            raise DataError(f"{path}:{number}: relevance {text!r} is not a whole number; mend the line") from None
        lines.add(query, document, number)
    query_ids, document_ids = lines.ids()
    queries, documents = lines.pairs(query_ids, document_ids, "is judged")
    return Qrels(query_ids, document_ids, queries, documents, np.frombuffer(relevance, np.int32))


def write_run(path: Path, run: Run, tag: str = "hybrid_ir") -> None:
    """Writes a run file, atomically, gzip where the name ends in ``.gz``; each query's documents best first.

    Scores have 9 significant digits: they are read back to the last bit, so that equal scores stay equal.

    Raises:
        DataError: an id or the tag is empty or has white space.
        UserError: the file cannot be written.
    """
    _check_ids(path, (*run.query_ids, tag))
    _check_ids(path, run.document_ids)
    write_lines(path, _run_lines(run, tag))


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Writes a qrels file, atomically, gzip where the name ends in ``.gz``.

    Raises:
        DataError: an id is empty or has white space.
        UserError: the file cannot be written.
    """
    _check_ids(path, qrels.query_ids)
    _check_ids(path, qrels.document_ids)
    judgments = zip(qrels.queries.tolist(), qrels.documents.tolist(), qrels.relevance.tolist(), strict=True)
    write_lines(
        path, (f"{qrels.query_ids[q]} 0 {qrels.document_ids[d]} {relevance}\n" for q, d, relevance in judgments)
    )


class _Lines:
    """Pairs of query and document as they stand in the lines of a file, ids as numbers in order of appearance."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.query_names: dict[bytes, int] = {}
        self.document_names: dict[bytes, int] = {}
        self.queries, self.documents, self.numbers = array("i"), array("i"), array("i")

    def read(self, columns: str) -> Iterator[tuple[int, list[bytes]]]:
        """Line numbers and fields; columns are separated by ASCII white space, as in trec_eval."""
        count = len(columns.split())
        for number, line in numbered_lines(self.path):
            fields = line.split()
            if len(fields) != count:
                raise DataError(
                    f"{self.path}:{number}: has {len(fields)} columns instead of the {count} of `{columns}`; "
                    f"mend the line, or give the right file"
                )
            yield number, fields

    def add(self, query: bytes, document: bytes, number: int) -> None:
        self.queries.append(self.query_names.setdefault(query, len(self.query_names)))
        self.documents.append(self.document_names.setdefault(document, len(self.document_names)))
        self.numbers.append(number)

    def ids(self) -> tuple[list[str], list[str]]:
        """Ids of the queries and of the documents."""
        if not self.numbers:
            raise DataError(f"{self.path}: is empty; is it the right file?")
        return self._decoded(self.query_names, self.queries), self._decoded(self.document_names, self.documents)

    def _decoded(self, names: Iterable[bytes], column: array[int]) -> list[str]:
        decoded: list[str] = []
        try:
            for name in names:
                decoded.append(name.decode())
        except UnicodeDecodeError:
            number = self.numbers[column.index(len(decoded))]
            raise DataError(f"{self.path}:{number}: is not UTF-8; save the file as UTF-8") from None
        return decoded

    def pairs(self, query_ids: list[str], document_ids: list[str], what: str) -> tuple[np.ndarray, np.ndarray]:
        """Queries and documents as indices, each pair once."""
        queries, documents = np.frombuffer(self.queries, np.int32), np.frombuffer(self.documents, np.int32)
        keys = queries.astype(np.int64) * len(document_ids) + documents
        order = np.argsort(keys, kind="stable")
        repeated = order[1:][np.diff(keys[order]) == 0]
        if len(repeated):
            line = repeated.min()
            raise DataError(
                f"{self.path}:{self.numbers[line]}: document {document_ids[documents[line]]} {what} twice for query "
                f"{query_ids[queries[line]]}; keep one of the lines"
            )
        return queries, documents


def _check_ids(path: Path, ids: Iterable[str]) -> None:
    for name in ids:
        if name.split() != [name]:
            raise DataError(f"{path}: id {name!r} is empty or has white space, which the file cannot hold; rename it")


def _run_lines(run: Run, tag: str) -> Iterator[str]:
    order = tie_order(run.document_ids)
    for query, documents, scores in zip(run.query_ids, run.documents, run.scores, strict=True):
        there = np.flatnonzero(documents >= 0)
        best = there[np.lexsort((order[documents[there]], scores[there]))[::-1]]
        ranking = zip(documents[best].tolist(), scores[best].tolist(), strict=True)
        for rank, (document, score) in enumerate(ranking, start=1):
            yield f"{query} Q0 {run.document_ids[document]} {rank} {score:.9g} {tag}\n"
