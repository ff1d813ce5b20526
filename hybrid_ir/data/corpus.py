"""The parallel corpus: texts once each, items as integers, memory-mapped.

On disk (a cache entry, see :mod:`hybrid_ir.cache`):

- ``passages.arrow``, ``queries.arrow``: text and language of each row, and the source's id of a passage where it has
  one; a passage stands once for each language (and wording), a query text once for each language;
- ``items.arrow``: id of each item;
- ``arrays/*.npy``: per item its pattern of languages, source and passage; per (item, language), ordered by item and
  then language, its query row and passage row, and its explicit negatives.

Items join by ``id`` over languages and files. Passages join by ``passage_id``, or, without one, by equal text; what an
item's language versions name as their passages is one passage. Passages are numbered in the order of the items, those
that are explicit negatives alone after them: negatives do not change what is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir import cache
from hybrid_ir.data.corpus_writer import write_corpus
from hybrid_ir.data.items import ItemTable
from hybrid_ir.data.sources.base import Source

_FORMAT = 3
_CHUNK = 65536
_TEXTS = 8192
"""Texts that are in memory at a time: with their tokens some 50 MB."""
_ARRAYS = (
    "patterns",
    "item_pattern",
    "item_source",
    "item_passage",
    "item_offset",
    "entry_query",
    "entry_passage",
    "passage_group",
    "negative_offset",
    "negative_passage",
)


class ParallelCorpus:
    """Queries and passages of items in several languages; see the module's text for the layout.

    Rows are int64 arrays. An item's language version is an *entry*: ``entry(items, languages)`` finds it,
    ``query_rows`` and ``passage_rows`` lead from there to the texts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = cache.read_manifest(folder)
        self.languages: tuple[str, ...] = tuple(manifest["languages"])
        self.sources: tuple[str, ...] = tuple(manifest["sources"])
        self.report: dict[str, Any] = manifest["report"]
        self.fingerprint: str = cache.fingerprint({n: f["sha256"] for n, f in sorted(manifest["files"].items())})
        """Of the content: equal for equal data, wherever it came from."""
        self.queries = _Texts(folder / "queries.arrow")
        self.passages = _Texts(folder / "passages.arrow")
        self._arrays = {name: np.load(folder / "arrays" / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}

    @classmethod
    def build(cls, source: Source, verify_cache: bool = False) -> ParallelCorpus:
        """The corpus of a source, from the cache if it was made before.

        Raises:
            DataError: a bad line; an item that stands twice in one language with different texts; no items.
        """
        key = {"corpus_format": _FORMAT, **source.key()}  # sources have a format of their own
        folder, made = cache.entry("corpora", key, lambda path: write_corpus(source, path), verify=verify_cache)
        corpus = cls(folder)
        corpus.made_now = made
        return corpus

    made_now: bool = False
    """Whether ``build`` made it now rather than found it."""

    def __len__(self) -> int:
        return len(self._arrays["item_pattern"])

    @cached_property
    def table(self) -> ItemTable:
        """Items as integers, for the batch plan."""
        a = self._arrays
        return ItemTable(
            self.languages,
            self.sources,
            np.asarray(a["patterns"]),
            a["item_pattern"],
            a["item_source"],
            a["item_passage"],
        )

    @cached_property
    def _rank(self) -> np.ndarray:
        """[patterns, languages]: place of a language among an item's entries."""
        patterns = np.asarray(self._arrays["patterns"])
        return np.cumsum(patterns, axis=1) - patterns

    def entry(self, items: np.ndarray, languages: np.ndarray) -> np.ndarray:
        """Entries of items in languages, both [n]; every item must exist in its language."""
        pattern = self._arrays["item_pattern"][items]
        return self._arrays["item_offset"][items] + self._rank[pattern, languages]

    def query_rows(self, entries: np.ndarray) -> np.ndarray:
        """Rows of ``queries``."""
        return self._arrays["entry_query"][entries].astype(np.int64)

    def passage_rows(self, entries: np.ndarray) -> np.ndarray:
        """Rows of ``passages``."""
        return self._arrays["entry_passage"][entries].astype(np.int64)

    def passage_groups(self, rows: np.ndarray) -> np.ndarray:
        """Passage (the same integer in all languages) of each row of ``passages``."""
        return self._arrays["passage_group"][rows].astype(np.int64)

    def entries_with(self, queries: np.ndarray, passages: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Items and entries, both [found], of the entries that have one of some texts; a part of the corpus at a time.

        Args:
            queries: [queries] bool, True for the texts.
            passages: [passages] bool, likewise; no explicit negatives.
        """
        a = self._arrays
        for low in range(0, len(a["entry_query"]), _CHUNK):
            part = slice(low, low + _CHUNK)
            entries = low + np.flatnonzero(queries[a["entry_query"][part]] | passages[a["entry_passage"][part]])
            if len(entries):
                yield np.searchsorted(a["item_offset"], entries, side="right") - 1, entries

    def negatives(self, entry: int) -> np.ndarray:
        """Rows of ``passages`` that are an entry's explicit negatives."""
        low, high = self._arrays["negative_offset"][entry : entry + 2]
        return np.asarray(self._arrays["negative_passage"][low:high], dtype=np.int64)

    def negative_counts(self, barred: np.ndarray | None = None) -> np.ndarray:
        """[entries]: explicit negatives of each.

        Args:
            barred: [passages] bool, True for those that do not count.
        """
        offset = np.asarray(self._arrays["negative_offset"])
        if barred is None:
            return np.diff(offset)
        allowed = np.concatenate([[0], np.cumsum(~barred[self._arrays["negative_passage"]])])
        return np.diff(allowed[offset])

    def least_negatives(self, barred: np.ndarray | None = None) -> np.ndarray:
        """[items]: explicit negatives of the entry that has the fewest, without the ``barred`` ones."""
        return np.minimum.reduceat(self.negative_counts(barred), np.asarray(self._arrays["item_offset"][:-1]))

    def passages_of(self, items: np.ndarray) -> np.ndarray:
        """[passages] bool: rows that are a passage of some items ([items] bool), in any language and wording."""
        return self._marked(self._arrays["item_passage"][items])[self._arrays["passage_group"]]

    def versions_of(self, passages: np.ndarray) -> np.ndarray:
        """[passages] bool: rows that are a version of some passages ([passages] bool), in any language and wording."""
        return self._marked(self._arrays["passage_group"][passages])[self._arrays["passage_group"]]

    def items_on(self, passages: np.ndarray) -> np.ndarray:
        """[items] bool: items on some passages ([passages] bool), whatever their language."""
        return self._marked(self._arrays["passage_group"][passages])[self._arrays["item_passage"]]

    def _marked(self, groups: np.ndarray) -> np.ndarray:
        marked = np.zeros(1 + int(np.max(self._arrays["passage_group"])), dtype=bool)
        marked[groups] = True
        return marked

    def items_per_language(self) -> np.ndarray:
        """[languages]: items that each language has."""
        patterns = np.asarray(self._arrays["patterns"])
        return np.bincount(np.asarray(self._arrays["item_pattern"]), minlength=len(patterns)) @ patterns

    def counts(self) -> dict[str, dict[str, int]]:
        """Items, query texts and passage texts (explicit negatives too) of each language, by its code."""
        languages = len(self.languages)
        counted = {
            "items": self.items_per_language(),
            "queries": np.bincount(self.queries.language, minlength=languages),
            "passages": np.bincount(self.passages.language, minlength=languages),
        }
        return {
            code: {name: int(values[i]) for name, values in counted.items()} for i, code in enumerate(self.languages)
        }

    def entries(self, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Item and language of every entry of some items (of all without), [entries] each, ordered by item.

        Args:
            chosen: [items] bool; a large corpus has hundreds of millions of entries, which take gigabytes.
        """
        patterns = np.asarray(self._arrays["patterns"])
        pattern = self._arrays["item_pattern"]
        those = np.arange(len(self)) if chosen is None else np.flatnonzero(chosen)
        counts = patterns.sum(1)[pattern[those]]
        items = np.repeat(those, counts)
        rank = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
        listed = np.zeros((len(patterns), max(int(patterns.sum(1).max(initial=1)), 1)), dtype=np.int64)
        for p, row in enumerate(patterns):
            found = np.flatnonzero(row)
            listed[p, : len(found)] = found
        return items, listed[pattern[items], rank]

    def item_ids(self, items: Iterable[int]) -> list[str]:
        """Ids of items as the source gave them."""
        column = self._item_ids
        return [column[int(i)].as_py() for i in items]

    @cached_property
    def _item_ids(self) -> pa.ChunkedArray:
        return _open(self.folder / "items.arrow").column("id")


class _Texts:
    """A memory-mapped column of texts, the language of each, and its id."""

    def __init__(self, path: Path) -> None:
        table = _open(path)
        self._text, self._id = table.column("text"), table.column("id")
        self.language: np.ndarray = table.column("language").to_numpy()

    def __len__(self) -> int:
        return len(self._text)

    def __getitem__(self, row: int) -> str:
        return self._text[int(row)].as_py()

    def take(self, rows: np.ndarray) -> list[str]:
        """Texts of rows."""
        return self._text.take(pa.array(rows)).to_pylist()

    def ids(self, rows: np.ndarray) -> list[str | None]:
        """The source's ids of rows, None where it gives none."""
        return self._id.take(pa.array(rows)).to_pylist()

    def chunks(self, size: int = _TEXTS) -> Iterator[list[str]]:
        """All texts in order, at most ``size`` at a time."""
        for low in range(0, len(self), size):
            yield self._text.slice(low, size).to_pylist()

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks():
            yield from chunk


def _open(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
