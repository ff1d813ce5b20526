"""Training data that shares text with benchmarks: found, counted, and left out of training.

A text of the corpus overlaps with a benchmark if it has a run of words in common with one of its queries or relevant
documents in the same language (:mod:`hybrid_ir.data.ngrams`). What overlaps is a matter of all languages: an item whose
query overlaps in one is left out in all, and so is every item on a passage that does.

The comparison is a cache entry (:mod:`hybrid_ir.cache`) beside the corpus, which it leaves as it is:

- ``overlap.csv``: a line for each text of an item and text of the benchmark that overlap;
- ``items.npy``, ``passages.npy``: which items are left out, and which rows of ``passages`` are no negatives either.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir import cache
from hybrid_ir.config import BenchmarkConfigBase
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.ngrams import RunIndex, run_length
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.base import BenchmarkText

COLUMNS = ("item_id", "source", "language", "text", "benchmark", "benchmark_text", "benchmark_id", "shared")
"""Of the list of what overlaps: ``text`` is query or passage, ``benchmark_text`` query or document."""

_FORMAT = 1
_LIST, _ITEMS, _PASSAGES = "overlap.csv", "items.npy", "passages.npy"
_TEXTS = ("query", "passage")

Counted = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


def benchmark_texts(name: str, section: BenchmarkConfigBase) -> list[BenchmarkText]:
    """Queries and relevant documents of a benchmark: all of them, whatever its ``limit``, in their published wording.

    Raises:
        UserError: its files or its library are missing, or malformed.
    """
    whole = {"limit": None, "queries": None, "passage_queries": None}
    return list(load_benchmark(name, section.model_copy(update=whole)).texts())


@dataclass(frozen=True)
class Overlap:
    """What a corpus has in common with one benchmark."""

    benchmark: str
    items: np.ndarray
    """[items] bool: those that are left out, in all languages."""
    passages: np.ndarray
    """[passages] bool: rows of a passage that overlaps in some language."""
    languages: dict[str, dict[str, int]]
    """Of each language that both have: ``units`` of a run; ``queries`` and ``documents`` of the benchmark, and those
    ``touched``; ``items`` of the corpus, and those ``items_touched`` in this language."""
    file: Path
    """Lines with ``COLUMNS``, without their names."""


def overlap(
    corpus: ParallelCorpus, benchmark: str, texts: Sequence[BenchmarkText], words: int, progress: Counted | None = None
) -> Overlap:
    """Compares a corpus with a benchmark, or takes what an earlier comparison found.

    The corpus is streamed; in memory are the benchmark's texts, a byte for each item and text, and what was found.

    Args:
        corpus: all of its queries and passages are looked at, explicit negatives too.
        benchmark: its name.
        texts: its queries and relevant documents.
        words: of a run.
        progress: called while texts are compared.
    """
    digest = hashlib.sha256()
    for text in texts:
        for part in text:
            encoded = part.encode(errors="surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    key = {
        "format": _FORMAT, "corpus": corpus.fingerprint, "benchmark": benchmark, "texts": digest.hexdigest(),
        "words": words, "unicode": unicodedata.unidata_version,
    }  # fmt: skip
    folder, _ = cache.entry("overlaps", key, lambda path: _compare(corpus, benchmark, texts, words, path, progress))
    return Overlap(
        benchmark,
        np.load(folder / _ITEMS),
        np.load(folder / _PASSAGES),
        cache.read_manifest(folder)["languages"],
        folder / _LIST,
    )


def _compare(
    corpus: ParallelCorpus,
    benchmark: str,
    texts: Sequence[BenchmarkText],
    words: int,
    folder: Path,
    progress: Counted | None,
) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if text.language in corpus.languages:
            members.setdefault(text.language, []).append(place)
    indexes = {
        code: RunIndex([texts[place].text for place in places], run_length(code, words))
        for code, places in sorted(members.items())
    }
    found = {"query": _Matches(len(corpus.queries)), "passage": _Matches(len(corpus.passages))}
    total, done = len(corpus.queries) + len(corpus.passages), 0
    for kind, store in (("query", corpus.queries), ("passage", corpus.passages)):
        low = 0
        for chunk in store.chunks():
            language = store.language[low : low + len(chunk)]
            for code, index in indexes.items():
                rows = np.flatnonzero(language == corpus.languages.index(code))
                pairs = index.find([chunk[row] for row in rows.tolist()])
                found[kind].add(low + rows[pairs.texts], np.array(members[code])[pairs.indexed], pairs.runs)
            low += len(chunk)
            done += len(chunk)
            if progress is not None:
                progress("comparing texts", done, total)
    for matches in found.values():
        matches.close()

    passages = corpus.versions_of(found["passage"].touched)
    items = corpus.items_on(passages)
    items_touched = np.zeros(len(corpus.languages), dtype=np.int64)
    for those, entries in corpus.entries_with(found["query"].touched, found["passage"].touched):
        asked = corpus.query_rows(entries)
        items_touched += np.bincount(corpus.queries.language[asked], minlength=len(corpus.languages))
        items[those[found["query"].touched[asked]]] = True
    with (folder / _LIST).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(_listed(corpus, benchmark, texts, found))
    np.save(folder / _ITEMS, items)
    np.save(folder / _PASSAGES, passages)
    counts = corpus.items_per_language()
    described: dict[str, dict[str, int]] = {}
    for code, index in indexes.items():
        number = corpus.languages.index(code)
        described[code] = {
            "units": index.length,
            **_counted([texts[place] for place in members[code]], index.touched()),
            "items": int(counts[number]),
            "items_touched": int(items_touched[number]),
        }
    return {"languages": described}


def _listed(
    corpus: ParallelCorpus, benchmark: str, texts: Sequence[BenchmarkText], found: Mapping[str, _Matches]
) -> Iterator[tuple[str, ...]]:
    """Values of ``COLUMNS`` for each text of an item and text of the benchmark that overlap, item by item."""
    for items, entries in corpus.entries_with(found["query"].touched, found["passage"].touched):
        rows = {"query": corpus.query_rows(entries).tolist(), "passage": corpus.passage_rows(entries).tolist()}
        languages = corpus.queries.language[rows["query"]].tolist()
        for i, identifier in enumerate(corpus.item_ids(items)):
            source, language = corpus.sources[corpus.table.source[items[i]]], corpus.languages[languages[i]]
            for kind in _TEXTS:
                shared = [(texts[place], run) for place, run in found[kind].of(rows[kind][i])]
                # a document of two parts may share the same run twice
                for other, other_id, run in dict.fromkeys((text.kind, text.id, run) for text, run in shared):
                    yield identifier, source, language, kind, benchmark, other, other_id, run


def _counted(texts: Sequence[BenchmarkText], touched: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind, name in (("query", "queries"), ("document", "documents")):
        mine = [(text.id, hit) for text, hit in zip(texts, touched.tolist(), strict=True) if text.kind == kind]
        counts[name] = len({identifier for identifier, _ in mine})
        counts[f"{name}_touched"] = len({identifier for identifier, hit in mine if hit})
    return counts


class _Matches:
    """Texts of a corpus with the texts of a benchmark that they overlap with."""

    def __init__(self, rows: int) -> None:
        self.touched = np.zeros(rows, dtype=bool)
        self._rows: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._runs: list[str] = []

    def add(self, rows: np.ndarray, places: np.ndarray, runs: Sequence[str]) -> None:
        self.touched[rows] = True
        self._rows.append(rows)
        self._places.append(places)
        self._runs += runs

    def close(self) -> None:
        """Sorts them by row, for ``of``."""
        self._row = np.concatenate([*self._rows, np.empty(0, dtype=np.int64)])
        self._place = np.concatenate([*self._places, np.empty(0, dtype=np.int64)])
        self._order = np.argsort(self._row, kind="stable")
        self._row = self._row[self._order]

    def of(self, row: int) -> list[tuple[int, str]]:
        """Text of the benchmark and shared run, for each that a row overlaps with."""
        low, high = np.searchsorted(self._row, [row, row + 1]).tolist()
        return [(int(self._place[i]), self._runs[i]) for i in self._order[low:high].tolist()]


# ------------------------------------------------------------------------------------------------------- exclusion


@dataclass(frozen=True)
class Exclusion:
    """What is left out of training for its overlap with benchmarks."""

    words: int
    overlaps: tuple[Overlap, ...]
    corpus: ParallelCorpus

    @property
    def items(self) -> np.ndarray:
        """[items] bool: those that are left out, in all languages."""
        return np.logical_or.reduce([each.items for each in self.overlaps])

    @property
    def passages(self) -> np.ndarray:
        """[passages] bool: rows that are not trained on, not as negatives either."""
        return np.logical_or.reduce([each.passages for each in self.overlaps])

    def report(self) -> dict[str, Any]:
        """Counts for ``environment.json``: items in all, and by language and source."""
        items, table = self.items, self.corpus.table
        languages = np.bincount(table.pattern[items], minlength=len(table.patterns)) @ table.patterns
        sources = np.bincount(table.source[items], minlength=len(table.sources))
        return {
            "benchmarks": [each.benchmark for each in self.overlaps],
            "words": self.words,
            "items": int(items.sum()),
            "languages": {code: int(n) for code, n in zip(table.languages, languages, strict=True) if n},
            "sources": {name: int(n) for name, n in zip(table.sources, sources, strict=True) if n},
        }

    def sha256(self) -> str:
        """Of which items are left out: 64 hex digits."""
        return hashlib.sha256(np.packbits(self.items).tobytes()).hexdigest()

    def lines(self) -> Iterator[str]:
        """Lines of a CSV file that says what overlaps: ``COLUMNS``, then a line for each two texts."""
        yield ",".join(COLUMNS) + "\n"
        for each in self.overlaps:
            with each.file.open(encoding="utf-8", newline="") as file:
                yield from file


def exclusion(
    corpus: ParallelCorpus,
    texts: Mapping[str, Sequence[BenchmarkText]],
    words: int,
    progress: Counted | None = None,
) -> Exclusion:
    """Compares a corpus with the texts of some benchmarks, by name."""
    return Exclusion(words, tuple(overlap(corpus, name, own, words, progress) for name, own in texts.items()), corpus)
