"""Builds a corpus' files from a source, in memory that hardly grows with it.

Parts (:mod:`hybrid_ir.data.parts`) are joined in order. Items, texts and passages are told apart by their digests;
texts go through to their files as they come. What must be known of every entry lies in files while it grows
(:mod:`hybrid_ir.data.columns`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from hybrid_ir.cache import write_atomic
from hybrid_ir.data.columns import Column, Numbering, reserve
from hybrid_ir.data.parts import Part, ReadBefore, as_words, part_file, read_parts, text_key
from hybrid_ir.data.progress import RowsProgress
from hybrid_ir.data.sources.base import (
    Block,
    BlockSource,
    Example,
    Given,
    Source,
    StretchSource,
    stretches,
    text_bytes,
)
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.hub import say

TEXT_BATCH = 65536
"""Texts of a record batch: a reader takes whole ones."""

_TEXT_SCHEMA = pa.schema([("text", pa.large_string()), ("language", pa.int16()), ("id", pa.large_string())])
_LANGUAGE_BITS = 12
_WORD_BITS = 62  # of an int64 that hold a language each
_GIVEN = 4096
"""Examples of a block of a source that has none."""
_AT_A_TIME = 1 << 20
_PARTS_FORMAT = 2
_DISK_RATIO = 3.0
"""Bytes of disk to a byte of text at most, short lines: texts, and until the end parts and digests."""
_SAID_FROM = 1e9


def write_corpus(source: Source, folder: Path) -> dict[str, Any]:
    """Writes the files of a corpus; see :mod:`hybrid_ir.data.corpus` for what they are.

    The parts that a source was read to lie beside the folder until it is complete: a new attempt goes on with them.

    Args:
        source: the examples.
        folder: an empty one.

    Returns:
        What the manifest shall remember.

    Raises:
        DataError: a bad line; an item that stands twice in one language with different texts; no examples.
        UserError: the disk has not the space.
    """
    parts = folder.with_name(f"{folder.name}.parts{_PARTS_FORMAT}")
    there = sum(part.stat().st_size for part in parts.glob("*"))
    _check_space(folder, max(_DISK_RATIO * text_bytes(source) - there, 0.0), isinstance(source, BlockSource))
    work = folder / "work"
    work.mkdir()
    (folder / "arrays").mkdir()
    try:
        joined = _Joined(source, folder, work)
        with RowsProgress("reading the data") as progress:
            for part in read_parts(_blocks(source, parts), parts):
                joined.add(part)
                progress(len(part.examples), part.share)
        remembered = joined.finish()
        joined.close()
    except DataError:  # other files, or other settings, will have other parts
        shutil.rmtree(parts, ignore_errors=True)
        raise
    shutil.rmtree(work)
    shutil.rmtree(parts, ignore_errors=True)
    return remembered


def _check_space(folder: Path, need: float, known: bool) -> None:
    """Says what the texts need.

    Args:
        folder: where.
        need: bytes.
        known: whether nearly all of the source's files is text that is taken; else the need may be much less.

    Raises:
        UserError: it is known, and more than is free.
    """
    free = shutil.disk_usage(folder).free
    if need > free and known:
        raise UserError(
            f"{folder.parent}: has {_size(free)} free, the texts need about {_size(need)}; free space, or "
            f"set HYBRID_IR_CACHE to a folder on a larger disk"
        )
    if need >= _SAID_FROM or need > free:
        at_most = "about" if known else "at most about"
        little = "" if need <= free else "; should that not do, free space and give the command again, it goes on"
        say(f"the texts need {at_most} {_size(need)} in {folder.parent}, which has {_size(free)} free{little}")


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _blocks(source: Source, folder: Path) -> Iterator[Block]:
    """Blocks of a source; for a stretch whose parts all lie in a folder, blocks that stand for these."""
    if isinstance(source, BlockSource):
        yield from source.blocks()
        return
    number = 0
    notes: dict[Path, str] = {}
    for place, stretch in enumerate(stretches(source)):
        note = folder / f"stretch{place:06d}.json"
        if isinstance(source, StretchSource) and (found := _read_before(note, number)) is not None:
            for _ in range(found["blocks"]):
                yield ReadBefore(note)
                number += 1
            source.restore(found["state"])
            continue
        first = number
        for block in _given(stretch):
            yield block
            number += 1
        if isinstance(source, StretchSource):
            notes[note] = json.dumps({"first": first, "blocks": number - first, "state": source.state()})
            while notes and folder.is_dir():  # before, the source is read alone
                write_atomic(*notes.popitem())


def _read_before(note: Path, first: int) -> dict[str, Any] | None:
    """What is noted of a stretch, if its parts are there."""
    try:
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    numbers = range(first, first + found["blocks"])
    return found if found["first"] == first and all(part_file(note.parent, n).is_file() for n in numbers) else None


def _given(stretch: Iterator[Example]) -> Iterator[Block]:
    examples: list[Example] = []
    try:
        for example in stretch:
            examples.append(example)
            if len(examples) == _GIVEN:
                yield Given(examples)
                examples = []
    except DataError:
        yield Given(examples)  # whatever is wrong with one of these is said first
        raise
    if examples:
        yield Given(examples)


class _Joined:
    """Parts, joined as they come."""

    def __init__(self, source: Source, folder: Path, work: Path) -> None:
        self.source, self.folder, self.work = source, folder, work
        self.limits = dict(source.max_items) if isinstance(source, BlockSource) else {}
        self.found: set[str] = set()
        """Sources of all examples, those beyond a limit too."""
        self.queries, self.passages = (_TextWriter(folder / f"{name}.arrow") for name in ("queries", "passages"))
        self.languages: dict[str, int] = {}
        self.sources: dict[str, int] = {}
        self.duplicates = 0

        self._open: list[Column | Numbering] = []

        def numbering(name: str, width: int = 2) -> Numbering:
            self._open.append(made := Numbering(work / f"{name}.keys", width))
            return made

        def column(name: str, kind: str = "i4", width: int = 1) -> Column:
            self._open.append(made := Column(work / name, kind, width))
            return made

        self.within = {name: numbering(f"limit{i}") for i, name in enumerate(self.limits)}
        self.items, self.places = numbering("items"), numbering("places", 1)
        self.query_rows, self.passage_rows, self.groups = (numbering(n) for n in ("queries", "passages", "groups"))
        self.item_ids: list[pa.Array] = []
        self.item_source, self.item_group = column("item_source", "i2"), column("item_group")
        self.entry_item, self.entry_language = column("entry_item"), column("entry_language", "i2")
        self.entry_query, self.entry_passage = column("entry_query"), column("entry_passage")
        self.negative_start, self.negative_row = column("negative_start", "i8"), column("negative_row")
        self.passage_group, self.passage_language = column("passage_group"), column("passage_language", "i2")
        self.joins = column("joins", "i4", 2)
        """Pairs of groups whose passages are one."""
        self.loose = column("loose")
        """Groups of negatives without an id."""

    def add(self, part: Part) -> None:
        """Joins a part.

        Raises:
            DataError: a line of it is bad, or contradicts an earlier one.
        """
        examples, passages = part.examples, part.passages
        item_keys, source = as_words(examples["item_key"]), examples["source"].to_numpy()
        rows = self._within_limits(part, item_keys, source)
        language = _renamed(part.languages, examples["language"].to_numpy(), rows, self.languages)
        if len(self.languages) > 1 << _LANGUAGE_BITS:
            raise DataError("more than 4,096 languages")
        items, new_item = self.items.add(item_keys[rows])
        places = (items << _LANGUAGE_BITS | language[rows]).astype(np.uint64)
        entries, new = self.places.add(places)
        mine, items_of_mine, new_item_of_mine = rows[new], items[new], new_item[new]

        query_keys = as_words(examples["query_key"])
        query, written = self.query_rows.add(query_keys[mine])
        those = mine[written]
        self.queries.append(examples["query"].take(pa.array(those)), language[those], None)

        counts = examples["passages"].to_numpy()
        starts = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(counts)), counts)
        taken = np.zeros(len(counts), dtype=bool)
        taken[mine] = True
        those = np.flatnonzero(taken[owner])
        passage_keys = as_words(passages["key"])
        passage, written = self.passage_rows.add(passage_keys[those])
        group, _ = self.groups.add(as_words(passages["group"])[those])
        own = those == starts[owner[those]]
        without_id = passages["id"].is_null().to_numpy(zero_copy_only=False)[those]
        self.loose.append(np.unique(group[~own & without_id]))
        those, group_of_new = those[written], group[written]
        texts, ids = (passages[name].take(pa.array(those)) for name in ("text", "id"))
        self.passages.append(texts, language[owner[those]], ids)
        self.passage_group.append(group_of_new)
        self.passage_language.append(language[owner[those]])

        self.item_ids.append(examples["item"].take(pa.array(rows[new_item])))
        self.item_source.append(_renamed(part.sources, source, rows[new_item], self.sources)[rows[new_item]])
        own_group = group[own]
        self.item_group.append(own_group[new_item_of_mine])
        first_group = self.item_group.values[items_of_mine]
        apart = first_group != own_group
        self.joins.append(np.stack([first_group[apart], own_group[apart]], axis=1))
        self.entry_item.append(items_of_mine)
        self.entry_language.append(language[mine])
        self.entry_query.append(query)
        self.entry_passage.append(passage[own])
        negatives = counts[mine] - 1
        self.negative_start.append(len(self.negative_row) + np.cumsum(negatives) - negatives)
        self.negative_row.append(passage[~own])

        repeated, before = rows[~new], entries[~new]
        found = self.query_rows.find(query_keys[repeated]), self.passage_rows.find(passage_keys[starts[repeated]])
        same = (found[0] == self.entry_query.values[before]) & (found[1] == self.entry_passage.values[before])
        rejected: list[tuple[Example, str]] = []
        places_of: list[int] = []
        for row, entry, equal in zip(repeated.tolist(), before.tolist(), same.tolist(), strict=True):
            theirs = passage_keys[starts[row] + 1 : starts[row] + counts[row]]
            if equal and np.isin(self.passage_rows.find(theirs), self._negatives(entry)).all():
                self.duplicates += 1
                continue
            example = _example(part, row, int(starts[row]))
            rejected.append((example, _other_negatives(example) if equal else _twice(example)))
            places_of.append(row)
        self._leave_out(part, places_of, rejected)

    def _within_limits(self, part: Part, keys: np.ndarray, source: np.ndarray) -> np.ndarray:
        """Rows of a part that are not beyond ``max_items``."""
        self.found.update(part.sources)
        keep = np.ones(len(keys), dtype=bool)
        for name, limit in self.limits.items():
            if name in part.sources:
                mine = np.flatnonzero(source == part.sources.index(name))
                keep[mine] = self.within[name].add(keys[mine])[0] < limit
        return np.flatnonzero(keep)

    def _negatives(self, entry: int) -> np.ndarray:
        start = self.negative_start.values
        end = start[entry + 1] if entry + 1 < len(start) else len(self.negative_row)
        return self.negative_row.values[start[entry] : end]

    def _leave_out(self, part: Part, rows: list[int], rejected: list[tuple[Example, str]]) -> None:
        """Says what is wrong with a part's lines, in their order."""
        bad_lines = iter([*part.bad_lines, (len(part.examples), "", "")])
        before, where, reason = next(bad_lines)
        for row, (example, why) in zip([*rows, len(part.examples)], [*rejected, (None, "")], strict=True):
            while where and before <= row:
                cast(BlockSource, self.source).leave_out(where, reason)
                before, where, reason = next(bad_lines)
            if example is not None:
                self.source.reject(example, why)

    # ------------------------------------------------------------------------------------------------ the last steps

    def finish(self) -> dict[str, Any]:
        """Writes what is known only at the end; returns what the manifest shall remember.

        Raises:
            DataError: there are no examples, or a limit is of a source that is not there.
        """
        if isinstance(self.source, BlockSource):
            self.source.check_sources(self.found)
        if not len(self.items):
            raise DataError(f"source {self.source.name}: no examples; check data.path and data.languages")
        self.queries.close()
        self.passages.close()
        if len(self.loose):
            self._join_by_text()
        names = sorted(self.languages)
        renumber = np.empty(len(names), dtype=np.int16)
        for new, code in enumerate(names):
            renumber[self.languages[code]] = new
        for name in ("queries", "passages"):
            _renumber_languages(self.folder / f"{name}.arrow", renumber)
        self._write_entries(renumber)
        self._write_passages()
        ids = pa.table({"id": pa.concat_arrays(self.item_ids)})
        with pa.OSFile(str(self.folder / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
            writer.write_table(ids)
        report: dict[str, Any] = dict(self.source.report())
        if self.duplicates:
            report["repeated_lines"] = self.duplicates
        wordings = len(self.passage_group) - self._distinct_versions()
        if wordings:
            report["further_wordings"] = wordings
        return {"languages": names, "sources": list(self.sources), "report": report}

    def close(self) -> None:
        """Lets go of the files of the work, which some file systems do not remove before."""
        for each in self._open:
            each.close()

    def _join_by_text(self) -> None:
        """Joins negatives that were given as texts with the passages of these texts, whatever their ids."""
        loose = np.zeros(len(self.groups), dtype=bool)
        loose[self.loose.values] = True
        codes = list(self.languages)
        row = 0
        for batch in _batches(self.folder / "passages.arrow"):
            with_id = np.flatnonzero(batch.column("id").is_valid().to_numpy(zero_copy_only=False))
            texts = batch.column("text").take(pa.array(with_id)).to_pylist()
            languages = batch.column("language").to_numpy()[with_id].tolist()
            keys = b"".join(text_key(codes[code], text) for text, code in zip(texts, languages, strict=True))
            group = self.groups.find(np.frombuffer(keys, dtype=np.uint64).reshape(-1, 2))
            joined = np.flatnonzero(group >= 0)
            joined = joined[loose[group[joined]]]
            own = self.passage_group.values[row + with_id[joined]]
            self.joins.append(np.stack([own, group[joined]], axis=1))
            row += len(batch)

    def _write_entries(self, renumber: np.ndarray) -> None:
        """Arrays of items and entries; entries are ordered by item, then language."""
        entries = len(self.entry_item)

        def chunks() -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
            for low in range(0, entries, _AT_A_TIME):
                part = slice(low, min(low + _AT_A_TIME, entries))
                yield part, self.entry_item.values[part], renumber[self.entry_language.values[part]]

        count = len(renumber)
        words = np.zeros((len(self.items), -(-count // _WORD_BITS)), dtype=np.int64)
        for _, items, languages in chunks():
            word, bit = np.divmod(languages.astype(np.int64), _WORD_BITS)
            np.bitwise_or.at(words, (items, word), np.int64(1) << bit)
        patterns, pattern = _patterns(words, count)
        del words
        self._save("patterns", patterns)
        self._save("item_pattern", pattern)
        self._save("item_source", self.item_source.values)
        offset = self._array("item_offset", np.int64, len(self.items) + 1)
        offset[0] = 0
        np.cumsum(patterns.sum(1)[pattern], out=offset[1:])
        rank = np.cumsum(patterns, axis=1) - patterns
        query, passage = (self._array(f"entry_{name}", np.int32, entries) for name in ("query", "passage"))
        ends = self._array("negative_offset", np.int64, entries + 1)
        ends[0] = 0
        start = np.append(self.negative_start.values, len(self.negative_row)) if len(self.negative_row) else None
        for part, items, languages in chunks():
            place = offset[items] + rank[pattern[items], languages]
            query[place], passage[place] = self.entry_query.values[part], self.entry_passage.values[part]
            ends[1 + place] = 0 if start is None else np.diff(start[part.start : part.stop + 1])
        np.cumsum(ends, out=ends)
        if start is None:
            self._save("negative_passage", np.empty(0, dtype=np.int32))
            return
        negative = self._array("negative_passage", np.int32, len(self.negative_row))
        for part, items, languages in chunks():
            begin, stop = start[part.start], start[part.stop]
            counts = np.diff(start[part.start : part.stop + 1])
            moved = ends[offset[items] + rank[pattern[items], languages]] - start[part.start : part.stop]
            negative[np.arange(begin, stop) + np.repeat(moved, counts)] = self.negative_row.values[begin:stop]

    def _write_passages(self) -> None:
        """Passages, numbered in the order of their items; those of negatives alone after them, as they came."""
        count, items = len(self.groups), len(self.items)
        roots = _lowest(count, self.joins.values)
        appearance = items + np.arange(count)
        for low in reversed(range(0, items, _AT_A_TIME)):  # of equal indices the last is assigned: the first item
            part = np.arange(low, min(low + _AT_A_TIME, items))[::-1]
            appearance[roots[self.item_group.values[part]]] = part
        there = np.zeros(items + count, dtype=bool)
        there[appearance[roots]] = True
        dense = (np.cumsum(there, dtype=np.int32) - 1)[appearance[roots]]
        self._save("item_passage", dense[self.item_group.values])
        self._save("passage_group", dense[self.passage_group.values])

    def _distinct_versions(self) -> int:
        """How many pairs there are of a group and a language that has it."""
        versions = self.passage_group.values.astype(np.int64) << _LANGUAGE_BITS | self.passage_language.values
        versions.sort()
        return 1 + int(np.count_nonzero(versions[1:] != versions[:-1]))

    def _save(self, name: str, values: np.ndarray) -> None:
        np.save(self.folder / "arrays" / f"{name}.npy", values)

    def _array(self, name: str, kind: type[np.generic], length: int) -> np.ndarray:
        path = self.folder / "arrays" / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(length,))
        with path.open("r+b") as file:
            reserve(file, path.stat().st_size)
        return array


class _TextWriter:
    """Writes texts to an Arrow file as they come, in batches of one size."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _TEXT_SCHEMA)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def append(self, texts: pa.Array, languages: np.ndarray, ids: pa.Array | None) -> None:
        ids = pa.nulls(len(texts), pa.large_string()) if ids is None else ids
        self._held.append(pa.record_batch([texts, pa.array(languages, pa.int16()), ids], schema=_TEXT_SCHEMA))
        self._rows += len(texts)
        while self._rows >= TEXT_BATCH:
            self._write(TEXT_BATCH)

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._held).combine_chunks()
        # Taken, not sliced: of a slice the whole buffers would be written.
        for batch in table.take(pa.array(np.arange(rows))).combine_chunks().to_batches():
            self._writer.write_batch(batch)
        self._held = table.slice(rows).to_batches()
        self._rows -= rows

    def close(self) -> None:
        if self._rows:
            self._write(self._rows)
        self._writer.close()
        self._sink.close()


def _renamed(names: list[str], local: np.ndarray, rows: np.ndarray, numbers: dict[str, int]) -> np.ndarray:
    """A part's numbers of names as those of the whole, where the names of some rows are new in the order of the rows.

    Args:
        names: by the part's numbers.
        local: [n] the part's numbers.
        rows: those whose names count.
        numbers: of the whole; grows.
    """
    found, first = np.unique(local[rows], return_index=True)
    for place in found[np.argsort(first)].tolist():
        numbers.setdefault(names[place], len(numbers))
    return np.array([numbers.get(name, -1) for name in names], dtype=np.int64)[local]


def _example(part: Part, row: int, passage: int) -> Example:
    """An example of a part, for messages: without its negatives."""

    def text(name: str) -> str:
        return str(part.examples[name][row])

    said = [part.languages[part.examples["language"][row].as_py()], part.sources[part.examples["source"][row].as_py()]]
    own = part.passages.slice(passage, 1)
    return Example(
        text("item"), said[0], text("query"), own["text"][0].as_py(), own["id"][0].as_py(), said[1], where=text("where")
    )


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


def _lowest(count: int, joins: np.ndarray) -> np.ndarray:
    """Lowest member of the class of each of ``count`` groups, of which some pairs ([joins, 2]) are joined: [count]."""
    if not len(joins):
        return np.arange(count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(joins), dtype=np.int8), (joins[:, 0], joins[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return np.unique(label, return_index=True)[1][label]


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


def _renumber_languages(path: Path, renumber: np.ndarray) -> None:
    """Languages are numbered in the order of their codes, which is known only after the last line: in the file."""
    if (renumber == np.arange(len(renumber))).all():
        return
    with pa.memory_map(str(path)) as source:
        begin = source.read_buffer().address
        reader = pa.ipc.open_file(source)
        columns = [reader.get_batch(i).column("language") for i in range(reader.num_record_batches)]
        places = [(column.buffers()[1].address - begin, len(column)) for column in columns]
    for place, length in places:
        column = np.memmap(path, dtype="<i2", mode="r+", offset=place, shape=(length,))
        column[:] = renumber[column]


def _patterns(words: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sets of languages [patterns, languages] bool, and each item's pattern [items].

    Args:
        words: [items, words] int64: each item's languages as bits.
        count: languages.
    """
    parts = [words[low : low + _AT_A_TIME] for low in range(0, len(words), _AT_A_TIME)]
    distinct = np.unique(np.concatenate([_unique_rows(part)[0] for part in parts]), axis=0)
    numbers = {row.tobytes(): number for number, row in enumerate(distinct)}
    pattern = np.empty(len(words), dtype=np.int16 if len(distinct) < 1 << 15 else np.int32)
    for number, part in enumerate(parts):
        rows, place = _unique_rows(part)
        low = number * _AT_A_TIME
        pattern[low : low + len(part)] = np.array([numbers[row.tobytes()] for row in rows])[place]
    spread = [(distinct[:, code // _WORD_BITS] >> (code % _WORD_BITS)) & 1 for code in range(count)]
    return np.stack(spread, axis=1).astype(bool), pattern


def _unique_rows(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if words.shape[1] == 1:  # whole rows are compared much more slowly
        rows, place = np.unique(words[:, 0], return_inverse=True)
        return rows[:, None], place
    rows, place = np.unique(words, axis=0, return_inverse=True)
    return rows, place.reshape(-1)
