"""What a benchmark is: queries, a pool of documents and judgments, each with its language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Setting = Literal["monolingual", "cross_lingual", "multilingual"]
SETTINGS: tuple[Setting, ...] = ("monolingual", "cross_lingual", "multilingual")

Text = str | tuple[str, str]
"""A text, or a pair of texts that the tokenizer joins (the second is truncated)."""


@dataclass(frozen=True)
class Benchmark:
    """Queries, documents and judgments in memory.

    ``judgments[k] = (query index, document index, relevance)``; relevance 0 is judged not relevant. A query counts
    against a pool (one language's documents, or the union of all) only if a relevant document is in it.
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

    def limited(self, limit: int | None) -> Benchmark:
        """The first ``limit`` question ids (in order of appearance) against the whole pool."""
        if limit is None:
            return self
        kept = set(list(dict.fromkeys(self.query_ids))[:limit])
        keep = np.array([q in kept for q in self.query_ids], dtype=bool)
        new_index = np.cumsum(keep) - 1
        rows = self.judgments[keep[self.judgments[:, 0]]].copy()
        rows[:, 0] = new_index[rows[:, 0]]
        index = np.flatnonzero(keep)
        return Benchmark(
            name=self.name,
            query_ids=[self.query_ids[i] for i in index.tolist()],
            query_languages=self.query_languages[index],
            queries=[self.queries[i] for i in index.tolist()],
            document_ids=self.document_ids,
            document_languages=self.document_languages,
            documents=self.documents,
            judgments=rows,
            languages=self.languages,
            settings=self.settings,
            notes=self.notes,
            info=self.info,
        )


Loader = Callable[[Any], Benchmark]
"""Makes a benchmark from its section of the configuration.

Raises:
    DataError: the files are missing or malformed (file and position).
"""
