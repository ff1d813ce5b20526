"""What a corpus' files hold, worked out line by line with dictionaries: slow, and nothing in it is clever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir.data.sources.base import Example, Source
from hybrid_ir.errors import DataError


class _Texts:
    def __init__(self) -> None:
        self.rows: dict[Any, int] = {}
        self.columns: list[tuple[str, str, str | None]] = []

    def row(self, key: Any, text: str, language: str, identifier: str | None = None) -> tuple[int, bool]:
        new = key not in self.rows
        if new:
            self.rows[key] = len(self.rows)
            self.columns.append((text, language, identifier))
        return self.rows[key], new

    def write(self, path: Path, languages: Sequence[str], batch: int) -> None:
        schema = pa.schema([("text", pa.large_string()), ("language", pa.int16()), ("id", pa.large_string())])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for low in range(0, len(self.columns), batch):
                text, language, identifier = zip(*self.columns[low : low + batch], strict=True)
                columns = [list(text), [languages.index(code) for code in language], list(identifier)]
                arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))


def write_plainly(source: Source, folder: Path, batch: int) -> dict[str, Any]:
    """Writes the files of a corpus; returns what its manifest remembers.

    Args:
        source: the examples.
        folder: an empty one.
        batch: texts of a record batch.
    """
    queries, passages = _Texts(), _Texts()
    groups: dict[Any, int] = {}
    parent: list[int] = []
    items: dict[str, int] = {}
    sources: dict[str, int] = {}
    item_source: list[int] = []
    item_group: list[int] = []
    entries: dict[tuple[int, str], tuple[int, int, list[int]]] = {}
    passage_group: list[int] = []
    versions: set[tuple[int, str]] = set()
    loose: set[tuple[str, str]] = set()
    duplicates = wordings = 0

    def root(group: int) -> int:
        return group if parent[group] == group else root(parent[group])

    def join(a: int, b: int) -> None:
        a, b = sorted((root(a), root(b)))
        parent[b] = a

    def passage(text: str, identifier: str | None, language: str) -> tuple[int, int]:
        nonlocal wordings
        key = (language, text) if identifier is None else identifier
        if key not in groups:
            groups[key] = len(parent)
            parent.append(len(parent))
        row, new = passages.row((key, language, text), text, language, identifier)
        if new:
            passage_group.append(groups[key])
            wordings += (groups[key], language) in versions
            versions.add((groups[key], language))
        return row, groups[key]

    def row_of(text: str, identifier: str | None, language: str) -> int | None:
        return passages.rows.get(((language, text) if identifier is None else identifier, language, text))

    for e in source.examples():
        item = items.setdefault(e.item_id, len(items))
        before = entries.get((item, e.language))
        if before is not None:
            same = (queries.rows.get((e.language, e.query)), row_of(e.passage, e.passage_id, e.language)) == before[:2]
            if same and {row_of(n.text, n.passage_id, e.language) for n in e.negatives} <= set(before[2]):
                duplicates += 1
            else:
                source.reject(e, _other_negatives(e) if same else _twice(e))
            continue
        query, _ = queries.row((e.language, e.query), e.query, e.language)
        row, group = passage(e.passage, e.passage_id, e.language)
        if item == len(item_group):
            item_source.append(sources.setdefault(e.source, len(sources)))
            item_group.append(group)
        else:
            join(item_group[item], group)
        negatives = []
        for n in e.negatives:
            negatives.append(passage(n.text, n.passage_id, e.language)[0])
            if n.passage_id is None:
                loose.add((e.language, n.text))
        entries[item, e.language] = (query, row, negatives)
    if not items:
        raise DataError(f"source {source.name}: no examples; check data.path and data.languages")
    for row, (text, language, _) in enumerate(passages.columns):
        if (language, text) in loose:
            join(passage_group[row], groups[language, text])

    languages = sorted({language for _, language in entries})
    first: dict[int, int] = {}
    for item, group in enumerate(item_group):
        first.setdefault(root(group), item)
    order = sorted({root(g) for g in range(len(parent))}, key=lambda r: (r not in first, first.get(r, r)))
    dense = {r: number for number, r in enumerate(order)}
    sets = [[(item, code) in entries for code in languages] for item in range(len(items))]
    patterns = sorted({tuple(s) for s in sets}, key=lambda s: s[::-1])  # as integers: the first language is the low bit
    ordered = [entries[key] for key in sorted(entries)]
    arrays = {
        "patterns": np.array(patterns, dtype=bool),
        "item_pattern": np.array([patterns.index(tuple(s)) for s in sets], dtype=np.int16),
        "item_source": np.array(item_source, dtype=np.int16),
        "item_passage": np.array([dense[root(g)] for g in item_group], dtype=np.int32),
        "item_offset": np.concatenate([[0], np.cumsum([sum(s) for s in sets])]).astype(np.int64),
        "entry_query": np.array([e[0] for e in ordered], dtype=np.int32),
        "entry_passage": np.array([e[1] for e in ordered], dtype=np.int32),
        "passage_group": np.array([dense[root(g)] for g in passage_group], dtype=np.int32),
        "negative_offset": np.concatenate([[0], np.cumsum([len(e[2]) for e in ordered])]).astype(np.int64),
        "negative_passage": np.array([row for e in ordered for row in e[2]], dtype=np.int32),
    }
    (folder / "arrays").mkdir()
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)
    queries.write(folder / "queries.arrow", languages, batch)
    passages.write(folder / "passages.arrow", languages, batch)
    ids = pa.table({"id": pa.array(list(items), pa.large_string())})
    with pa.OSFile(str(folder / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
        writer.write_table(ids)
    report = dict(source.report())
    if duplicates:
        report["repeated_lines"] = duplicates
    if wordings:
        report["further_wordings"] = wordings
    return {"languages": languages, "sources": list(sources), "report": report}


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
