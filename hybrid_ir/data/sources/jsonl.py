"""Parallel JSONL: one object a line with ``id``, ``language``, ``query``, ``passage``.

Optional keys: ``passage_id`` (else equal passages are joined), ``negatives`` (texts, or objects with ``text`` and
``passage_id``), ``source`` (else the file's stem). UTF-8, plain or gzip.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hybrid_ir import languages as _languages
from hybrid_ir.cache import source_sha256
from hybrid_ir.data.sources.base import BadLines, Example, Negative
from hybrid_ir.errors import DataError
from hybrid_ir.lines import identifier, json_object, numbered_lines

_KNOWN = {"id", "language", "query", "passage", "passage_id", "negatives", "source"}


class ParallelJsonlSource:
    """Examples of parallel JSONL files.

    Args:
        paths: files or globs.
        languages: languages to keep; None keeps all.
        on_bad_line: ``raise`` stops at the first bad line, ``skip`` counts and leaves it out.
        max_items: at most this many items of a source by name, the first ones.

    Raises:
        DataError: a path or a glob matches no file, or a file is named twice.
    """

    name = "parallel_jsonl"

    def __init__(
        self,
        paths: str | Sequence[str],
        languages: Sequence[str] | None = None,
        on_bad_line: Literal["raise", "skip"] = "raise",
        max_items: dict[str, int] | None = None,
    ) -> None:
        self.files = find_files(paths)
        self.languages = tuple(languages) if languages is not None else None
        self.max_items = dict(max_items or {})
        self._bad_lines = BadLines(on_bad_line)

    def key(self) -> dict[str, Any]:
        """Settings and the files' hashes: the same content elsewhere is the same corpus."""
        return {
            "source": self.name,
            "format": 1,
            "files": [[file.name, source_sha256(file)] for file in self.files],
            "languages": self.languages,
            "on_bad_line": self._bad_lines.on_bad_line,
            "max_items": self.max_items,
        }

    def examples(self) -> Iterator[Example]:
        """Yields the files' lines in order.

        Raises:
            DataError: a bad line, as ``file:line: reason``, unless bad lines are skipped; a file that cannot be read.
        """
        self._bad_lines.clear()
        items: dict[str, set[str]] = {name: set() for name in self.max_items}
        sources = set()
        for file in self.files:
            stem = _stem(file)
            for number, line in numbered_lines(file):
                try:
                    example = self._parse(line, stem, f"{file}:{number}")
                except ValueError as error:
                    self._bad_lines.leave_out(f"{file}:{number}", str(error))
                    continue
                if self.languages is not None and example.language not in self.languages:
                    continue
                sources.add(example.source)
                seen = items.get(example.source)
                if seen is not None and example.item_id not in seen:
                    if len(seen) >= self.max_items[example.source]:
                        continue
                    seen.add(example.item_id)
                yield example
        unknown = sorted(set(self.max_items) - sources)
        if unknown:
            raise DataError(
                f"data.max_items: no source named {unknown[0]!r}; the data has {', '.join(sorted(sources)) or 'none'}"
            )

    def reject(self, example: Example, reason: str) -> None:
        """As a bad line.

        Raises:
            DataError: unless bad lines are skipped.
        """
        self._bad_lines.leave_out(example.where, reason)

    def report(self) -> dict[str, Any]:
        """Bad lines that were skipped, by file, with the first few reasons."""
        return self._bad_lines.report()

    @staticmethod
    def _parse(line: bytes, stem: str, where: str) -> Example:
        row = json_object(line)
        for name in ("id", "language", "query", "passage"):
            if name not in row:
                close = sorted(set(row) - _KNOWN)
                raise ValueError(
                    f"no key {name!r}" + (f" (there is {', '.join(map(repr, close[:5]))})" if close else "")
                )
        texts = {}
        for name in ("language", "query", "passage"):
            if not isinstance(row[name], str):
                raise ValueError(f"{name!r} is a {type(row[name]).__name__}, not a text")
            texts[name] = row[name].strip()
            if not texts[name]:
                raise ValueError(f"{name!r} is empty")
        _languages.check_code(texts["language"])
        return Example(
            item_id=identifier(row["id"], "id"),
            language=texts["language"],
            query=texts["query"],
            passage=texts["passage"],
            passage_id=identifier(row["passage_id"], "passage_id") if row.get("passage_id") is not None else None,
            source=_source(row.get("source"), stem),
            negatives=tuple(_negatives(row.get("negatives"))),
            where=where,
        )


def find_files(paths: str | Sequence[str]) -> list[Path]:
    """Files of paths and globs, in the order given (a glob's sorted).

    Raises:
        DataError: a path or glob matches no file, or two give the same file.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths:
        expanded = os.path.expanduser(path)
        if os.path.isfile(expanded):  # a name may hold characters that mean something in a glob
            matches = [expanded]
        else:
            matches = sorted(m for m in glob.glob(expanded, recursive=True) if os.path.isfile(m))
        if not matches:
            if os.path.isdir(expanded):
                raise DataError(f"data.path={path}: is a folder; name its files, e.g. '{path.rstrip('/')}/*.jsonl.gz'")
            raise DataError(f"data.path={path}: no such file; check the path (working folder: {os.getcwd()})")
        found.extend(Path(m).resolve() for m in matches)
    for file, times in Counter(found).items():
        if times > 1:
            raise DataError(f"data.path: {file} is named {times} times; name each file once")
    return found


def _stem(file: Path) -> str:
    name = file.name
    for ending in (".gz", ".jsonl", ".json"):
        name = name.removesuffix(ending)
    return name


def _source(value: Any, stem: str) -> str:
    if value is None:
        return stem
    if not isinstance(value, str) or not value:
        raise ValueError("'source' is not a text")
    return value


def _negatives(value: Any) -> Iterator[Negative]:
    if value is None:
        return
    if not isinstance(value, list):
        raise ValueError(f"'negatives' is a {type(value).__name__}, not a list")
    for entry in value:
        if isinstance(entry, str) and entry.strip():
            yield Negative(entry.strip())
        elif isinstance(entry, dict) and isinstance(entry.get("text"), str) and entry["text"].strip():
            key = entry.get("passage_id")
            yield Negative(entry["text"].strip(), None if key is None else identifier(key, "negatives.passage_id"))
        else:
            raise ValueError("a negative is neither a text nor an object with a 'text'")
