"""Parallel JSONL: one object a line with ``id``, ``language``, ``query``, ``passage``.

Optional keys: ``passage_id`` (else equal passages are joined), ``negatives`` (texts, or objects with ``text`` and
``passage_id``), ``source`` (else the file's stem). UTF-8, plain or gzip.
"""

from __future__ import annotations

import glob
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from hybrid_ir import languages as _languages
from hybrid_ir.cache import source_sha256
from hybrid_ir.data.sources.base import BadLines, Example, Negative
from hybrid_ir.errors import DataError
from hybrid_ir.lines import identifier, json_object, numbered_lines, open_file

_BLOCK_BYTES = 2 << 20
_GZIP_RATIO = 4
"""Bytes of text to a byte of gzip, about."""
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
        self._bad_lines, self._rejected = (BadLines(on_bad_line) for _ in range(2))

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
        return chain.from_iterable(self.stretches())

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the files, small ones together; all as one where items are counted (``max_items``).

        Raises:
            DataError: as ``examples``.
        """
        self._rejected.clear()
        self._bad_lines.clear()
        together: list[Path] = []
        size = 0
        for file in self.files:
            together.append(file)
            size += file.stat().st_size
            if size >= _BLOCK_BYTES and not self.max_items:
                yield self._examples(together)
                together, size = [], 0
        if together:
            yield self._examples(together)

    def _examples(self, files: Sequence[Path]) -> Iterator[Example]:
        items: dict[str, set[str]] = {name: set() for name in self.max_items}
        found = set()
        for block in self._blocks(files):
            examples, bad_lines = block.read()
            bad = deque(bad_lines)
            for place, example in enumerate(examples):
                while bad and bad[0][0] <= place:
                    self.leave_out(*bad.popleft()[1:])
                found.add(example.source)
                seen = items.get(example.source)
                if seen is not None and example.item_id not in seen:
                    if len(seen) >= self.max_items[example.source]:
                        continue
                    seen.add(example.item_id)
                yield example
            for _, where, reason in bad:
                self.leave_out(where, reason)
        self.check_sources(found)

    def blocks(self) -> Iterator[LineBlock]:
        """Yields the files' lines in order, some MB at a time.

        Raises:
            DataError: a file that cannot be read, after the lines before.
        """
        self._rejected.clear()
        self._bad_lines.clear()
        return self._blocks(self.files)

    def _blocks(self, files: Sequence[Path]) -> Iterator[LineBlock]:
        sizes = [file.stat().st_size for file in files]
        total, before = max(sum(sizes), 1), 0
        for file, size in zip(files, sizes, strict=True):
            lines: list[tuple[int, bytes]] = []
            held = 0
            raw = open_file(file)
            numbered = numbered_lines(file, raw=raw)
            try:
                for line in numbered:
                    lines.append(line)
                    held += len(line[1])
                    if held >= _BLOCK_BYTES:
                        yield LineBlock(file, lines, self.languages, (before + raw.tell()) / total)
                        lines, held = [], 0
            except DataError:
                yield LineBlock(file, lines, self.languages)  # a bad line before the damage is said first
                raise
            before += size
            if lines:
                yield LineBlock(file, lines, self.languages, before / total)

    def text_bytes(self) -> int:
        """Bytes of the files without their compression, about."""
        sizes = [file.stat().st_size * (_GZIP_RATIO if file.suffix == ".gz" else 1) for file in self.files]
        return sum(sizes)

    def check_sources(self, found: Set[str]) -> None:
        """Compares the sources in the data with ``max_items``.

        Raises:
            DataError: it names another.
        """
        unknown = sorted(set(self.max_items) - found)
        if unknown:
            raise DataError(
                f"data.max_items: no source named {unknown[0]!r}; the data has {', '.join(sorted(found)) or 'none'}"
            )

    def leave_out(self, where: str, reason: str) -> None:
        """A bad line.

        Raises:
            DataError: unless bad lines are skipped.
        """
        self._bad_lines.leave_out(where, reason)

    def reject(self, example: Example, reason: str) -> None:
        """As a bad line.

        Raises:
            DataError: unless bad lines are skipped.
        """
        self._rejected.leave_out(example.where, reason)

    def report(self) -> dict[str, Any]:
        """Bad lines that were skipped, by file, with the first few reasons."""
        return self._bad_lines.and_those_of(self._rejected)

    def state(self) -> dict[str, Any]:
        """Bad lines that were skipped while reading."""
        return self._bad_lines.report()

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state for what was skipped while reading."""
        self._bad_lines.restore(state)


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Lines of a file, with their numbers."""

    file: Path
    lines: list[tuple[int, bytes]]
    languages: tuple[str, ...] | None
    """Those to keep; None keeps all."""
    share: float | None = None

    def read(self) -> tuple[list[Example], list[tuple[int, str, str]]]:
        """Examples in the languages to keep, and bad lines in any; see ``Block``."""
        examples: list[Example] = []
        bad_lines = []
        stem = _stem(self.file)
        for number, line in self.lines:
            where = f"{self.file}:{number}"
            try:
                example = _parse(line, stem, where)
            except ValueError as error:
                bad_lines.append((len(examples), where, str(error)))
                continue
            if self.languages is None or example.language in self.languages:
                examples.append(example)
        return examples, bad_lines


def _parse(line: bytes, stem: str, where: str) -> Example:
    row = json_object(line)
    for name in ("id", "language", "query", "passage"):
        if name not in row:
            close = sorted(set(row) - _KNOWN)
            raise ValueError(f"no key {name!r}" + (f" (there is {', '.join(map(repr, close[:5]))})" if close else ""))
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
