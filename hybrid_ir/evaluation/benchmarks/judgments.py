"""Judgments from files of tab-separated values, joined with the queries and the corpus that they are about.

What does not fit together is counted: a query without a relevant document does not count (trec_eval leaves out one
without any judgment; one whose judgments are all 0 it counts with 0); a relevant document that is missing from the
corpus counts as never retrieved, and a judgment of a query that is not among the queries is left out, both as in
trec_eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.document_store import DocumentStore
from hybrid_ir.lines import utf8

Judgments = dict[tuple[str, str], int]
"""Relevance by ids of query and document."""


def rows_of_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """``file:line`` and fields of each line of tab-separated values; the last field may hold tabs.

    Raises:
        DataError: the file cannot be read, is empty, or a line has too few fields, or an empty one, or a space in any
            but the last.
    """
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n")
        # Other line ends occur inside texts; a carriage return at the end is Windows'.
        lines = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if lines == [b""]:
        raise DataError(f"{path}: is empty; get the file again")
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            fields = utf8(line).split("\t", maxsplit=len(columns) - 1)
        except ValueError as error:
            raise DataError(f"{where}: {error}; get the file again") from None
        if len(fields) != len(columns):
            raise DataError(f"{where}: has {len(fields)} of the {len(columns)} columns {'<TAB>'.join(columns)}")
        for name, value in zip(columns[:-1], fields, strict=False):
            if value.split() != [value]:
                raise DataError(f"{where}: the {name} {value!r} is empty or has a space; mend the line")
        yield where, fields


def collect(rows: Iterable[tuple[str, str, str, str]]) -> Judgments:
    """Judgments of some lines, in their order.

    Args:
        rows: ``file:line``, ids of query and document, and relevance of each.

    Raises:
        DataError: a relevance is not a whole number, or a pair is judged twice.
    """
    judgments: Judgments = {}
    for where, query, document, relevance in rows:
        if (query, document) in judgments:
            raise DataError(f"{where}: judges document {document!r} for query {query!r} again; keep one judgment")
        try:
            judgments[query, document] = int(relevance)
        except ValueError:
            raise DataError(f"{where}: the relevance {relevance!r} is not a whole number; mend the line") from None
    return judgments


# --------------------------------------------------------------------------------------------------------- joining


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a reader of the numbers must know of how queries, judgments and corpus fit together."""

    queries: int
    judgments: int
    relevant: int
    queries_without_relevant: int
    """Queries for which no document is judged relevant."""
    judgments_of_unknown_queries: int
    missing_relevant: int
    """Judgments that say relevant of a document that is not in the corpus."""
    missing_not_relevant: int
    """Judgments that say not relevant of a document that is not in the corpus: they change nothing."""


@dataclass(frozen=True)
class Joined:
    """Judgments by index, as ``Benchmark`` has them."""

    table: np.ndarray
    """[judgments, 3] int64: query, document (``-1 - i`` for the i-th missing one), relevance."""
    missing_ids: list[str]
    """Ids of the judged documents that are not in the corpus."""
    counts: Counts


def places_in(store: DocumentStore, judgments: Judgments, first: int = 0) -> dict[str, int]:
    """Index of each judged document that is in a corpus, counted from ``first``."""
    judged = list(dict.fromkeys(document for _, document in judgments))
    found = store.find(judged).tolist()
    return {document: first + place for document, place in zip(judged, found, strict=True) if place >= 0}


def join(
    judgments: Judgments,
    queries: Mapping[str, Sequence[int]],
    documents: Mapping[str, int],
    missing_before: int = 0,
) -> Joined:
    """Joins judgments with queries and documents.

    Args:
        judgments: relevance by ids.
        queries: indices of the queries with each id: several where language versions share it.
        documents: index of each judged document that is in the corpus.
        missing_before: missing documents of the corpora joined before: their ids come first.
    """
    known = {pair: relevance for pair, relevance in judgments.items() if pair[0] in queries}
    missing_ids = list(dict.fromkeys(document for _, document in known if document not in documents))
    index = {**documents, **{document: -1 - i for i, document in enumerate(missing_ids, start=missing_before)}}
    table = np.array(
        [(row, index[document], relevance) for (query, document), relevance in known.items() for row in queries[query]],
        dtype=np.int64,
    ).reshape(-1, 3)
    relevant, missing = table[:, 2] > 0, table[:, 1] < 0
    rows = sum(map(len, queries.values()))
    counts = Counts(
        queries=rows,
        judgments=len(judgments),
        relevant=int(relevant.sum()),
        queries_without_relevant=rows - len(np.unique(table[relevant, 0])),
        judgments_of_unknown_queries=len(judgments) - len(known),
        missing_relevant=int((relevant & missing).sum()),
        missing_not_relevant=int((~relevant & missing).sum()),
    )
    return Joined(table[relevant | ~missing], missing_ids, counts)


def notes_on(counts: Mapping[str, Counts]) -> Iterator[str]:
    """A line for each kind of thing that does not fit together, with the numbers of each language or folder."""
    kinds: dict[str, dict[str, tuple[int, int]]] = {
        "queries without a relevant document, not counted": {
            name: (each.queries_without_relevant, each.queries) for name, each in counts.items()
        },
        "judgments of queries that are not among the queries, left out": {
            name: (each.judgments_of_unknown_queries, each.judgments) for name, each in counts.items()
        },
        "relevant documents missing from the corpus, counted as not retrieved": {
            name: (each.missing_relevant, each.relevant) for name, each in counts.items()
        },
    }
    for kind, numbers in kinds.items():
        shown = [f"{name} {some:,} of {all_:,}" for name, (some, all_) in numbers.items() if some]
        if shown:
            yield f"{kind}: {', '.join(shown)}"
