"""What a benchmark is: queries, a pool of documents and judgments, each with its language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from hybrid_ir.config import EvaluationConfig
    from hybrid_ir.evaluation.benchmarks.document_store import ConcatenatedArrays
    from hybrid_ir.evaluation.encoding import Progress
    from hybrid_ir.evaluation.results import Results
    from hybrid_ir.modeling.encoder import BiEncoder

Setting = Literal["monolingual", "cross_lingual", "multilingual"]
SETTINGS: tuple[Setting, ...] = ("monolingual", "cross_lingual", "multilingual")

LOWER_IS_BETTER = frozenset({"rank_distance", "max_rank"})
"""Metrics of which less is better: places in the multilingual pool, which needs to be ranked whole for them."""

Text = str | tuple[str, str]
"""A text, or a pair of texts that the tokenizer joins (the second is truncated)."""


class BenchmarkText(NamedTuple):
    """A query or a relevant document, for comparing it with training data."""

    kind: Literal["query", "document"]
    id: str
    language: str
    text: str


class Places(Protocol):
    """Place of each document in an order, as an array or read from disk."""

    def __getitem__(self, key: slice, /) -> np.ndarray:
        """[documents of the slice] int."""
        ...


@dataclass(frozen=True)
class Benchmark:
    """Queries, documents and judgments.

    Documents may be sequences that read from disk (item by item and by slice): a corpus of any size is never in memory.
    ``judgments[k] = (query index, document index, relevance)``; relevance 0 is judged not relevant. A query counts
    against a pool (one language's documents, or the union of all) only if a relevant document is in it. A judged
    document that is missing from the corpus has the index ``-1 - i`` and the id ``missing_ids[i]``: it is never
    retrieved, and counts as relevant all the same, as in trec_eval.
    """

    name: str
    query_ids: Sequence[str]
    """Id of each query; the language versions of a question share it."""
    query_languages: np.ndarray
    """[queries] int: index into ``languages``."""
    queries: Sequence[str]
    document_ids: Sequence[str]
    """Unique over the whole pool; ties are broken by it (descending, as trec_eval does)."""
    document_languages: np.ndarray
    """[documents] int: index into ``languages``."""
    documents: Sequence[Text]
    judgments: np.ndarray
    """[judgments, 3] int."""
    languages: tuple[str, ...]
    settings: tuple[Setting, ...] = SETTINGS
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know (e.g. left-out topics, a corpus that is only a sample)."""
    info: dict[str, Any] = field(default_factory=dict)
    document_order: np.ndarray | ConcatenatedArrays | None = None
    """[documents] int: place of each document in ascending order of ids (by code point) within its pool; None has it
    computed from ``document_ids``."""
    depth: int | None = None
    """Documents retrieved for a query: what ranks below counts as not retrieved. None ranks the whole pool."""
    corpus_fingerprint: str | None = None
    """Changes with the documents; with it, an interrupted search can be continued. None: it is not."""
    missing_ids: Sequence[str] = ()
    """Ids of judged documents that are missing from the corpus."""
    missing_languages: np.ndarray | None = None
    """[missing] int: language of the corpus that each is missing from; None: that of the query it is judged for."""
    passage_queries: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Texts generated for documents, by document index; encoded as queries and averaged into the embedding."""
    passage_queries_weight: float = 0.5
    """Weight of the mean embedding of a document's generated texts."""

    def document_id(self, index: int) -> str:
        """Id of a document, also of a missing one."""
        return self.document_ids[index] if index >= 0 else self.missing_ids[-1 - index]

    def describe(self) -> str:
        """One line: what will be run."""
        return (
            f"{self.name}: {len(self.queries):,} queries, {len(self.documents):,} documents, "
            f"{len(self.languages)} language{'s' if len(self.languages) > 1 else ''}"
        )

    def texts(self) -> Iterator[BenchmarkText]:
        """Queries, and documents relevant to one; of a pair of texts each on its own."""
        for query, language, text in zip(self.query_ids, self.query_languages, self.queries, strict=True):
            yield BenchmarkText("query", query, self.languages[int(language)], text)
        relevant = self.judgments[self.judgments[:, 2] > 0, 1]
        for document in np.unique(relevant[relevant >= 0]).tolist():  # those below 0 are missing from the corpus
            whole = self.documents[document]
            language = self.languages[int(self.document_languages[document])]
            for text in (whole,) if isinstance(whole, str) else whole:
                yield BenchmarkText("document", self.document_ids[document], language, text)

    def limited(self, limit: int | None) -> Benchmark:
        """The first ``limit`` question ids (in order of appearance) against the whole pool; where languages do not
        meet, of each language, since its ids may have nothing to do with another's."""
        if limit is None:
            return self
        languages = np.asarray(self.query_languages).tolist()
        parallel = set(self.settings) != {"monolingual"}
        names = [(-1 if parallel else language, name) for language, name in zip(languages, self.query_ids, strict=True)]
        seen: dict[int, set[str]] = {}
        for language, name in names:
            kept = seen.setdefault(language, set())
            if len(kept) < limit:
                kept.add(name)
        keep = np.array([name in seen[language] for language, name in names], dtype=bool)
        new_index = np.cumsum(keep) - 1
        rows = self.judgments[keep[self.judgments[:, 0]]].copy()
        rows[:, 0] = new_index[rows[:, 0]]
        index = np.flatnonzero(keep)
        return replace(
            self,
            query_ids=[self.query_ids[i] for i in index.tolist()],
            query_languages=self.query_languages[index],
            queries=[self.queries[i] for i in index.tolist()],
            judgments=rows,
        )


class ExternalBenchmark(Protocol):
    """A benchmark that another library runs, with its own data, search and metrics."""

    name: str
    notes: tuple[str, ...]
    info: dict[str, Any]

    def describe(self) -> str:
        """One line: what will be run."""
        ...

    def texts(self) -> Iterator[BenchmarkText]:
        """Queries, and documents relevant to one.

        Raises:
            UserError: the data is not there.
        """
        ...

    def run(
        self,
        encoder: BiEncoder,
        evaluation: EvaluationConfig,
        step: int,
        run_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Results:
        """Runs it on this process alone.

        Raises:
            UserError: the library or its data is not there.
        """
        ...


Loader = Callable[[Any], "Benchmark | ExternalBenchmark"]
"""Makes a benchmark from its section of the configuration.

Raises:
    DataError: the files are missing or malformed (file and position).
"""
