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

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir import cache
from hybrid_ir.data.items import ItemTable
from hybrid_ir.data.sources.base import Example, Source
from hybrid_ir.errors import DataError

_FORMAT = 3
_CHUNK = 65536
_TEXT_SCHEMA = pa.schema([("text", pa.large_string()), ("language", pa.int16()), ("id", pa.large_string())])
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
        folder, made = cache.entry("corpora", key, lambda path: _write(source, path), verify=verify_cache)
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

    def chunks(self, size: int = _CHUNK) -> Iterator[list[str]]:
        """All texts in order, at most ``size`` at a time."""
        for low in range(0, len(self), size):
            yield self._text.slice(low, size).to_pylist()

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks():
            yield from chunk


def _open(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


class _TextWriter:
    """Writes texts to an Arrow file as they come, each once for its key."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _TEXT_SCHEMA)
        self._texts: list[str] = []
        self._languages: list[int] = []
        self._ids: list[str | None] = []
        self.rows: dict[bytes, int] = {}

    def row(self, key: bytes, text: str, language: int, identifier: str | None = None) -> tuple[int, bool]:
        """Row of a text, written if its key is new; and whether it was."""
        found = self.rows.get(key)
        if found is not None:
            return found, False
        row = self.rows[key] = len(self.rows)
        self._texts.append(text)
        self._languages.append(language)
        self._ids.append(identifier)
        if len(self._texts) >= _CHUNK:
            self._flush()
        return row, True

    def _flush(self) -> None:
        if self._texts:
            columns = [
                pa.array(values, kind)
                for values, kind in zip((self._texts, self._languages, self._ids), _TEXT_SCHEMA.types, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=_TEXT_SCHEMA))
            self._texts, self._languages, self._ids = [], [], []

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()


class _Groups:
    """Union-find over passages."""

    def __init__(self) -> None:
        self.parent = array("i")
        self.by_key: dict[bytes, int] = {}

    def of(self, key: bytes) -> int:
        found = self.by_key.get(key)
        if found is None:
            found = self.by_key[key] = len(self.parent)
            self.parent.append(found)
        return found

    def root(self, group: int) -> int:
        parent = self.parent
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)


def _digest(*parts: str) -> bytes:
    # length-prefixed, so that no two lists of parts give the same bytes
    joined = b"".join(len(p).to_bytes(8, "little") + p for p in (part.encode() for part in parts))
    return hashlib.blake2b(joined, digest_size=16).digest()


def _write(source: Source, folder: Path) -> dict[str, Any]:
    (folder / "arrays").mkdir()
    queries, passages = _TextWriter(folder / "queries.arrow"), _TextWriter(folder / "passages.arrow")
    groups = _Groups()
    item_index: dict[str, int] = {}
    language_index: dict[str, int] = {}
    source_index: dict[str, int] = {}
    item_source, item_group = array("h"), array("i")
    entry_item, entry_language, entry_query, entry_passage = array("i"), array("h"), array("i"), array("i")
    negative_start, negative_row = array("q"), array("i")
    passage_group = array("i")
    seen: dict[int, int] = {}
    duplicates = wordings = 0
    first_wording: set[int] = set()

    loose: dict[bytes, int] = {}
    """Negatives without an id: their group by their text."""

    def group_key(text: str, passage_id: str | None, code: str) -> bytes:
        return _digest("id", passage_id) if passage_id is not None else _digest("text", code, text)

    def row_key(text: str, passage_id: str | None, code: str) -> bytes:
        return _digest(str(groups.by_key.get(group_key(text, passage_id, code), -1)), code, text)

    def passage(text: str, passage_id: str | None, code: str, language: int) -> tuple[int, int]:
        nonlocal wordings
        group = groups.of(group_key(text, passage_id, code))
        row, new = passages.row(_digest(str(group), code, text), text, language, passage_id)
        if new:
            passage_group.append(group)
            if group << 12 | language in first_wording:
                wordings += 1
            first_wording.add(group << 12 | language)
        return row, group

    for example in source.examples():
        language = language_index.setdefault(example.language, len(language_index))
        if language > 4095:
            raise DataError("more than 4,096 languages")
        item = item_index.setdefault(example.item_id, len(item_index))
        place = item << 12 | language
        before = seen.get(place)
        if before is not None:  # looked up before anything of the line is written
            code = example.language
            texts = (
                queries.rows.get(_digest(code, example.query)),
                passages.rows.get(row_key(example.passage, example.passage_id, code)),
            )
            if texts == (entry_query[before], entry_passage[before]):
                start = negative_start[before]
                end = negative_start[before + 1] if before + 1 < len(negative_start) else len(negative_row)
                kept = set(negative_row[start:end])
                again = [passages.rows.get(row_key(n.text, n.passage_id, code)) for n in example.negatives]
                if kept.issuperset(again):
                    duplicates += 1
                else:
                    source.reject(example, _other_negatives(example))
            else:
                source.reject(example, _twice(example))
            continue
        query_row, _ = queries.row(_digest(example.language, example.query), example.query, language)
        passage_row, group = passage(example.passage, example.passage_id, example.language, language)
        if item == len(item_group):
            item_source.append(source_index.setdefault(example.source, len(source_index)))
            item_group.append(group)
        else:
            groups.join(item_group[item], group)
        seen[place] = len(entry_item)
        entry_item.append(item)
        entry_language.append(language)
        entry_query.append(query_row)
        entry_passage.append(passage_row)
        negative_start.append(len(negative_row))
        for negative in example.negatives:
            row, other = passage(negative.text, negative.passage_id, example.language, language)
            negative_row.append(row)
            if negative.passage_id is None:
                loose[_digest("text", example.language, negative.text)] = other
    queries.close()
    passages.close()
    if loose:
        _join_by_text(folder / "passages.arrow", loose, list(language_index), passage_group, groups)
    if not item_index:
        raise DataError(f"source {source.name}: no examples; check data.path and data.languages")

    names = sorted(language_index)
    renumber = np.empty(len(names), dtype=np.int64)
    for new, code in enumerate(names):
        renumber[language_index[code]] = new
    _renumber_languages(folder / "queries.arrow", renumber)
    _renumber_languages(folder / "passages.arrow", renumber)
    items = np.frombuffer(entry_item, dtype=np.int32)
    languages = renumber[np.frombuffer(entry_language, dtype=np.int16)]
    order = np.argsort(items.astype(np.int64) * len(names) + languages, kind="stable")
    items, languages = items[order], languages[order]
    offset = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=len(item_index)))])
    patterns, pattern = _patterns(languages, offset, len(names))
    roots = np.array([groups.root(g) for g in range(len(groups.parent))], dtype=np.int64)
    found, first = np.unique(roots[np.frombuffer(item_group, dtype=np.int32)], return_index=True)
    appearance = len(item_group) + np.arange(len(roots))  # of a negative's: after those of all items
    appearance[found] = first
    _, dense = np.unique(appearance[roots], return_inverse=True)
    starts = np.frombuffer(negative_start, dtype=np.int64)
    counts = np.diff(starts, append=len(negative_row))
    rows = np.frombuffer(negative_row, dtype=np.int32) if len(negative_row) else np.empty(0, dtype=np.int32)
    ends = np.cumsum(counts[order])
    moved = np.arange(len(rows)) + np.repeat(starts[order] - (ends - counts[order]), counts[order])
    small = np.int16 if len(patterns) < 1 << 15 else np.int32
    arrays = {
        "patterns": patterns,
        "item_pattern": pattern.astype(small),
        "item_source": np.frombuffer(item_source, dtype=np.int16),
        "item_passage": dense[np.frombuffer(item_group, dtype=np.int32)].astype(np.int32),
        "item_offset": offset.astype(np.int64),
        "entry_query": np.frombuffer(entry_query, dtype=np.int32)[order],
        "entry_passage": np.frombuffer(entry_passage, dtype=np.int32)[order],
        "passage_group": dense[np.frombuffer(passage_group, dtype=np.int32)].astype(np.int32),
        "negative_offset": np.concatenate([[0], ends]).astype(np.int64),
        "negative_passage": rows[moved],
    }
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)
    ids = pa.table({"id": pa.array(list(item_index), pa.large_string())})
    with pa.OSFile(str(folder / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
        writer.write_table(ids)
    report: dict[str, Any] = dict(source.report())
    if duplicates:
        report["repeated_lines"] = duplicates
    if wordings:
        report["further_wordings"] = wordings
    return {"languages": names, "sources": list(source_index), "report": report}


def _twice(example: Example) -> str:
    return (
        f"id {example.item_id!r} stands twice in language {example.language!r} with different texts (here "
        f"{example.query[:60]!r}); an id names one question in all its languages: make the ids of unrelated files "
        f"different"
    )


def _other_negatives(example: Example) -> str:
    return (
        f"id {example.item_id!r} stands twice in language {example.language!r} with other negatives; give all "
        f"negatives of a question and its passage in one line"
    )


def _join_by_text(
    path: Path, loose: Mapping[bytes, int], codes: Sequence[str], passage_group: array[int], groups: _Groups
) -> None:
    """Joins negatives that were given as texts with the passages of these texts, whatever their ids.

    Args:
        path: the passages.
        loose: group of each such negative by its text.
        codes: languages as they are numbered in the file.
        passage_group: group of each passage.
        groups: all groups.
    """
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        row = 0
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            texts, languages = batch.column("text").to_pylist(), batch.column("language").to_pylist()
            for text, language in zip(texts, languages, strict=True):
                other = loose.get(_digest("text", codes[language], text))
                if other is not None:
                    groups.join(passage_group[row], other)
                row += 1


def _renumber_languages(path: Path, renumber: np.ndarray) -> None:
    """Languages are numbered in the order of their codes, which is known only after the last line."""
    if (renumber == np.arange(len(renumber))).all():
        return
    moved = path.with_suffix(".sorted")
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        with pa.OSFile(str(moved), "wb") as sink, pa.ipc.new_file(sink, _TEXT_SCHEMA) as writer:
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                language = pa.array(renumber[batch.column("language").to_numpy()], pa.int16())
                writer.write_batch(batch.set_column(1, _TEXT_SCHEMA.field("language"), language))
    moved.replace(path)


def _patterns(languages: np.ndarray, offset: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sets of languages [patterns, languages] bool, and each item's pattern [items]."""
    words = []
    for low in range(0, count, 62):
        inside = (languages >= low) & (languages < low + 62)
        bits = np.where(inside, np.int64(1) << np.where(inside, languages - low, 0), 0)
        words.append(np.add.reduceat(bits, offset[:-1]))
    distinct, pattern = np.unique(np.stack(words, axis=1), axis=0, return_inverse=True)
    spread = [(distinct[:, code // 62] >> (code % 62)) & 1 for code in range(count)]
    return np.stack(spread, axis=1).astype(bool), pattern.reshape(-1)
