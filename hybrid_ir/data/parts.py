"""Examples read on all cores: blocks of a source become parts of a corpus, in order.

A *part* holds a block's examples as Arrow columns, with a digest for everything that is to be found again: an item, a
query, a passage, and what passages are joined by. Texts are read, checked and hashed by worker processes, which write
each part to a file; the parts are joined by one process, which sees digests and never looks into a text.

Files of parts stay until the corpus is complete: one that was killed while it was made takes them up again.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir.data.sources.base import Block, Example
from hybrid_ir.data.workers import Workers
from hybrid_ir.errors import UserError

ALONE_SECONDS = 1.0
"""For which a source is read by this process: a small one is read sooner than others start."""
_KEY = pa.binary(16)
_EXAMPLES = pa.schema(
    [
        ("item", pa.large_string()),
        ("item_key", _KEY),
        ("language", pa.int16()),
        ("source", pa.int16()),
        ("query", pa.large_string()),
        ("query_key", _KEY),
        ("where", pa.large_string()),
        ("passages", pa.int32()),
    ]
)
_PASSAGES = pa.schema([("text", pa.large_string()), ("id", pa.large_string()), ("key", _KEY), ("group", _KEY)])


@dataclass(frozen=True)
class Part:
    """The examples of a block."""

    examples: pa.RecordBatch
    """One row for each; ``language`` and ``source`` are places in the lists below; ``passages`` counts its own passage
    and its negatives."""
    passages: pa.RecordBatch
    """One row for each passage of each example, its own first, then its negatives."""
    languages: list[str]
    sources: list[str]
    bad_lines: list[tuple[int, str, str]]
    """Lines that are no examples: how many examples come before, ``file:line``, and what is wrong."""
    share: float | None
    """Of the source that has been read at its end; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class ReadBefore:
    """Stands for a block whose part lies in its file."""

    note: Path
    """Which says that it does."""
    share: float | None = None

    def read(self) -> tuple[list[Example], list[tuple[int, str, str]]]:
        """Only where the file turns out to be damaged.

        Raises:
            UserError: always.
        """
        self.note.unlink(missing_ok=True)
        raise UserError(
            f"{self.note.parent}: a file in it is damaged, as after a machine went down; give the command again, it "
            f"reads that part of the data again"
        )


def part_file(folder: Path, number: int) -> Path:
    """Where a block's part lies."""
    return folder / f"{number:08d}.arrow"


def text_key(language: str, text: str) -> bytes:
    """What a passage without an id is joined by: its language and text."""
    return blake2b(_marked(language, text), digest_size=16, person=b"text").digest()


def as_words(keys: pa.Array) -> np.ndarray:
    """Digests as [n, 2] uint64."""
    if not len(keys):
        return np.empty((0, 2), dtype=np.uint64)
    words = np.frombuffer(keys.buffers()[1], dtype=np.uint64).reshape(-1, 2)
    return words[keys.offset : keys.offset + len(keys)]


def read_part(block: Block) -> Part:
    """Reads a block.

    Raises:
        DataError: a file cannot be read.
    """
    examples, bad_lines = block.read()
    languages: dict[str, int] = {}
    sources: dict[str, int] = {}
    items: dict[str, bytes] = {}
    groups: dict[str, bytes] = {}
    item_keys, query_keys, row_keys, group_keys = [], [], [], []
    texts: list[str] = []
    ids: list[str | None] = []
    for e in examples:
        languages.setdefault(e.language, len(languages))
        sources.setdefault(e.source, len(sources))
        key = items.get(e.item_id)
        if key is None:
            key = items[e.item_id] = blake2b(e.item_id.encode(), digest_size=16, person=b"item").digest()
        item_keys.append(key)
        query_keys.append(blake2b(_marked(e.language, e.query), digest_size=16, person=b"query").digest())
        for text, passage_id in ((e.passage, e.passage_id), *((n.text, n.passage_id) for n in e.negatives)):
            texts.append(text)
            ids.append(passage_id)
            if passage_id is None:
                group = row = text_key(e.language, text)
            else:
                found = groups.get(passage_id)
                if found is None:
                    encoded = passage_id.encode()
                    found = groups[passage_id] = blake2b(encoded, digest_size=16, person=b"id").digest()
                group = found
                row = blake2b(group + _marked(e.language, text), digest_size=16, person=b"passage").digest()
            row_keys.append(row)
            group_keys.append(group)
    columns: list[list[Any]] = [
        [e.item_id for e in examples],
        item_keys,
        [languages[e.language] for e in examples],
        [sources[e.source] for e in examples],
        [e.query for e in examples],
        query_keys,
        [e.where for e in examples],
        [1 + len(e.negatives) for e in examples],
    ]
    return Part(
        _batch(columns, _EXAMPLES),
        _batch([texts, ids, row_keys, group_keys], _PASSAGES),
        list(languages),
        list(sources),
        bad_lines,
        block.share,
    )


def read_parts(blocks: Iterable[Block], folder: Path) -> Iterator[Part]:
    """Reads blocks on all cores; yields their parts in order, a few of them in memory at a time.

    Args:
        blocks: the same ones, in the same order, every time. What their iterator raises comes after the parts before.
        folder: for the files of parts; those that are there are taken up.

    Raises:
        DataError: a file cannot be read.
        UserError: a process was killed.
    """
    failed: list[Exception] = []

    def taken() -> Iterator[Block]:
        try:
            yield from blocks
        except Exception as error:  # raised below: the examples before it may hold an earlier one
            failed.append(error)

    numbered = enumerate(taken())
    begin = time.monotonic()
    alone: list[Part] = []
    if not folder.is_dir():  # else an earlier attempt has found the source long enough
        for _, block in numbered:
            alone.append(read_part(block))
            yield alone[-1]
            if time.monotonic() - begin >= ALONE_SECONDS:
                folder.mkdir()
                for number, part in enumerate(alone):
                    _write(part, part_file(folder, number))
                break
    alone.clear()
    yield from _read_together(numbered, folder)
    if failed:
        raise failed[0]


def _read_together(blocks: Iterator[tuple[int, Block]], folder: Path) -> Iterator[Part]:
    waiting: deque[tuple[Path, Block, Future[None] | None]] = deque()
    if (next_one := next(blocks, None)) is None:
        return
    with Workers() as workers:

        def finish() -> Part:
            path, block, made = waiting.popleft()
            part = _load(path) if made is None else None
            if part is None:
                (made or workers.submit(_make, block, path)).result()
                part = _load(path)
                assert part is not None
            return part

        for number, block in chain([next_one], blocks):
            path = part_file(folder, number)
            waiting.append((path, block, None if path.is_file() else workers.submit(_make, block, path)))
            if len(waiting) > 2 * workers.count:
                yield finish()
        while waiting:
            yield finish()


def _make(block: Block, path: Path) -> None:
    _write(read_part(block), path)


def _write(part: Part, path: Path) -> None:
    said = {"languages": part.languages, "sources": part.sources, "bad": part.bad_lines, "share": part.share}
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
    partial = path.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink:
        schema = part.examples.schema.with_metadata({"said": json.dumps(said)})
        for batch in (part.examples.replace_schema_metadata(schema.metadata), part.passages):
            with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
                writer.write_batch(batch)
    partial.replace(path)


def _load(path: Path) -> Part | None:
    """A part from its file; None of one that a machine that went down has left damaged."""
    with suppress(pa.ArrowException, OSError, ValueError), pa.OSFile(str(path), "rb") as source:
        [examples], [passages] = (list(pa.ipc.open_stream(source)) for _ in range(2))
        said = json.loads(examples.schema.metadata[b"said"])
        bad = [(before, where, reason) for before, where, reason in said["bad"]]
        return Part(examples, passages, said["languages"], said["sources"], bad, said["share"])
    return None


def _marked(language: str, text: str) -> bytes:
    return f"{language}\0{text}".encode()  # no code has a zero character


def _batch(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
    return pa.record_batch(arrays, schema=schema)
