"""Texts from files that take part in an evaluation: rewritten queries, and queries generated for passages.

``docs/hooks.md`` has the formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.lines import identifier, json_object, numbered_lines, utf8

SLICE = 65_536
"""Document ids read at a time: they may be on disk, tens of millions of them."""

_QUERY_KEYS = ("id", "text", "language")
_DOCUMENT_KEYS = ("document_id", "texts", "language")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a file."""

    where: str
    """``file:line``."""
    key: str
    """Id of a query or document."""
    language: str | None
    texts: tuple[str, ...]


def with_queries(benchmark: Benchmark, path: Path) -> Benchmark:
    """The benchmark with the texts of a file in place of its queries' own; queries that are not in it keep theirs.

    Args:
        benchmark: is left as it is.
        path: ``.jsonl`` with ``id``, ``text`` and optionally ``language``, or ``.tsv`` with the columns id and text, or
            id, language and text; plain or gzip. A language is needed where language versions share an id.

    Returns:
        The benchmark, with a note of how many texts were replaced.

    Raises:
        DataError: the file is damaged, a line is malformed, names no query or several, or a query a second time; or
            there is no line.
    """
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(benchmark.query_ids):
        rows.setdefault(key, []).append(row)
    languages = np.asarray(benchmark.query_languages)
    chosen = _choose(_query_entries(path), rows, languages, benchmark, "query", path)
    queries = list(benchmark.queries)
    for row, entry in chosen.items():
        queries[row] = entry.texts[0]
    return replace(
        benchmark,
        queries=queries,
        notes=(*benchmark.notes, f"queries: {len(chosen):,} of {len(queries):,} texts from {path}"),
    )


def with_passage_queries(benchmark: Benchmark, path: Path, weight: float) -> Benchmark:
    """The benchmark with texts generated for its documents, which are averaged into their embeddings.

    Args:
        benchmark: is left as it is.
        path: ``.jsonl`` with ``document_id``, ``texts`` and optionally ``language``; plain or gzip. A language is
            needed where documents of several languages share an id.
        weight: of the mean embedding of a document's texts, from 0 to 1.

    Returns:
        The benchmark, with ``passage_queries`` by document index and a note of how many documents have texts.

    Raises:
        DataError: the file is damaged, a line is malformed, names no document or several, or a document a second time;
            or there is no line.
    """
    entries = list(_document_entries(path))
    wanted = {entry.key for entry in entries}
    rows: dict[str, list[int]] = {}
    total = len(benchmark.document_ids)
    for start in range(0, total, SLICE):
        for row, key in enumerate(benchmark.document_ids[start : start + SLICE], start):
            if key in wanted:
                rows.setdefault(key, []).append(row)
    chosen = _choose(iter(entries), rows, benchmark.document_languages, benchmark, "document", path)
    return replace(
        benchmark,
        passage_queries={row: entry.texts for row, entry in sorted(chosen.items())},
        passage_queries_weight=weight,
        notes=(
            *benchmark.notes,
            f"passage queries: {sum(len(e.texts) for e in chosen.values()):,} texts for {len(chosen):,} of {total:,} "
            f"documents from {path}, weight {weight:g}",
        ),
    )


def _choose(
    entries: Iterator[_Entry],
    rows: Mapping[str, list[int]],
    languages: np.ndarray,
    benchmark: Benchmark,
    kind: str,
    path: Path,
) -> dict[int, _Entry]:
    """The entry of each query or document that has one."""
    chosen: dict[int, _Entry] = {}
    for entry in entries:
        row = _row(entry, rows, languages, benchmark, kind)
        if row in chosen:
            raise DataError(
                f"{entry.where}: {_said(entry, kind)} is there already, at {chosen[row].where}; keep one line"
            )
        chosen[row] = entry
    if not chosen:
        raise DataError(f"{path}: has no line; fill it, or leave the setting out")
    return chosen


def _row(entry: _Entry, rows: Mapping[str, list[int]], languages: np.ndarray, benchmark: Benchmark, kind: str) -> int:
    there = rows.get(entry.key, [])
    if entry.language is not None:
        if entry.language not in benchmark.languages:
            raise DataError(
                f"{entry.where}: language {entry.language!r} is not evaluated; benchmark {benchmark.name} has "
                f"{', '.join(benchmark.languages)}"
            )
        there = [row for row in there if benchmark.languages[languages[row]] == entry.language]
    if not there:
        raise DataError(
            f"{entry.where}: benchmark {benchmark.name} has no {_said(entry, kind)}; mend the id, or remove the line"
        )
    if len(there) > 1:
        codes = [benchmark.languages[languages[row]] for row in there]
        if len(set(codes)) < len(codes):
            raise DataError(f"{entry.where}: benchmark {benchmark.name} has {len(there)} of {_said(entry, kind)}")
        raise DataError(
            f"{entry.where}: {_said(entry, kind)} is there in {len(codes)} languages ({', '.join(codes)}); say which "
            f"with a language"
        )
    return there[0]


def _said(entry: _Entry, kind: str) -> str:
    return f"{kind} {entry.key!r}" + (f" in {entry.language}" if entry.language is not None else "")


# ------------------------------------------------------------------------------------------------------------ files


def _query_entries(path: Path) -> Iterator[_Entry]:
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".tsv", ".jsonl")):
        raise DataError(f"{path}: is neither .tsv nor .jsonl (.gz); name it after its format")
    columns = 0
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            if name.endswith(".jsonl"):
                row = _object(line, _QUERY_KEYS)
                yield _Entry(where, identifier(row["id"], "id"), _language(row), (_text(row["text"], "text"),))
                continue
            fields = utf8(line).rstrip("\r\n").split("\t")
            columns = columns or len(fields)
            if len(fields) not in (2, 3) or len(fields) != columns:
                before = f", the first line has {columns}" if columns in (2, 3) else ""
                raise ValueError(
                    f"{len(fields)} columns{before}; give id and text, or id, language and text, with tabs"
                )
            language = _text(fields[1], "language") if columns == 3 else None
            yield _Entry(where, identifier(fields[0].strip(), "id"), language, (_text(fields[-1], "text"),))
        except ValueError as error:
            raise DataError(f"{where}: {error}; mend the line") from None


def _document_entries(path: Path) -> Iterator[_Entry]:
    if not path.name.lower().removesuffix(".gz").endswith(".jsonl"):
        raise DataError(f"{path}: is not .jsonl (.gz); name it after its format")
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            row = _object(line, _DOCUMENT_KEYS)
            texts = row["texts"]
            if not isinstance(texts, list) or not texts:
                raise ValueError("'texts' is no list of texts, or an empty one")
            key = identifier(row["document_id"], "document_id")
            yield _Entry(where, key, _language(row), tuple(_text(text, "texts") for text in texts))
        except ValueError as error:
            raise DataError(f"{where}: {error}; mend the line") from None


def _object(line: bytes, keys: tuple[str, str, str]) -> dict[str, Any]:
    row = json_object(line)
    for key in keys[:2]:
        if key not in row:
            others = sorted(set(row) - set(keys))
            raise ValueError(f"no key {key!r}" + (f" (there is {', '.join(map(repr, others[:5]))})" if others else ""))
    return row


def _language(row: Mapping[str, Any]) -> str | None:
    return None if row.get("language") is None else _text(row["language"], "language")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a text")
    text = value.strip()
    if not text:
        raise ValueError(f"{name!r} is empty")
    return text
