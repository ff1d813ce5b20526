"""Bitext: a sentence and its translations, as aligned text files (Moses), TSV, JSONL or Parquet.

An item is a sentence in its languages, where it is query and passage alike: a cross-lingual row asks for a sentence's
translation. A monolingual row would ask for the sentence itself, so such data is for ``sampler=x_y``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir import languages as _languages
from hybrid_ir.config import SentencePairsConfig
from hybrid_ir.data.sources.base import Example, refuse_evaluation, refuse_evaluation_folder
from hybrid_ir.data.sources.jsonl import find_files
from hybrid_ir.data.sources.published import FileSource
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.lines import json_object, numbered_lines, utf8

_ENDINGS = (".gz", ".jsonl", ".json", ".tsv", ".parquet")
_PUBLISHED = ("english", "non_english")


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Files of one text in several languages, a line of one translating the same line of the others."""

    name: str
    files: Mapping[str, Path]
    """By language."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A file with a column for each language."""

    name: str
    file: Path
    columns: Mapping[str, str]
    """By language."""


class SentencePairsSource(FileSource):
    """Sentences in two languages or more.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a column of a TSV file is no number.
        DataError: a path or a glob matches no file, a file lacks its translation, or is named as evaluation data.
    """

    name = "sentence_pairs"

    def __init__(self, config: SentencePairsConfig) -> None:
        super().__init__(config.on_bad_line)
        self.config = config
        self._found = find_files(config.path)
        for file in self._found:
            refuse_evaluation(str(file), file.name)
            refuse_evaluation_folder(str(file), file.absolute().parent)
        self._parts = _parts(self._found, config.language_columns)

    @cached_property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Files by path."""
        return {str(file): [file] for file in self._found}

    def settings(self) -> dict[str, Any]:
        """Languages, and columns or files of each in every part: a folder's name may say the language."""
        parts = [
            [part.name, sorted(part.columns.items()) if isinstance(part, _Table) else sorted(part.files)]
            for part in self._parts
        ]
        return {"languages": self.config.languages, "language_columns": self.config.language_columns, "parts": parts}

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the files, those that are aligned as one; each language of a sentence comes after the other.

        Raises:
            DataError: a file cannot be read, a line is bad, or aligned files have different numbers of lines.
        """
        return itertools.starmap(self._examples, enumerate(self._parts))

    def _examples(self, place: int, part: _Aligned | _Table) -> Iterator[Example]:
        chosen = self.config.languages
        rows = _aligned(part) if isinstance(part, _Aligned) else self._table(part)
        for number, where, texts in rows:
            kept = {code: text for code, text in texts.items() if chosen is None or code in chosen}
            if len(kept) < 2:
                self.count("sentences without a translation", int(len(texts) < 2))
                continue
            for code, text in kept.items():
                yield Example(f"{part.name}/{place}:{number}", code, text, text, None, part.name, where=where)

    def text_bytes(self) -> int:
        """Bytes of the sentences, about, each as a query and as a passage."""
        return 2 * super().text_bytes()

    def _table(self, part: _Table) -> Iterator[tuple[int, str, dict[str, str]]]:
        """Number, ``file:line`` and texts of each row that has any."""
        for number, row in _rows(part.file):
            where = f"{part.file}:{number}"
            try:
                yield number, where, _texts(row, part.columns)
            except ValueError as error:
                self.bad_lines.leave_out(where, str(error))


# ---------------------------------------------------------------------------------------------------- what there is


def _parts(files: Sequence[Path], columns: Mapping[str, str]) -> list[_Aligned | _Table]:
    parts: list[_Aligned | _Table] = []
    aligned: dict[Path, dict[str, Path]] = {}
    for file in files:
        plain = file.with_suffix("") if file.suffix == ".gz" else file
        if columns or plain.suffix in _ENDINGS:
            parts.append(_Table(*_named(file, plain, columns)))
            continue
        language = plain.suffix.removeprefix(".")
        try:
            _languages.check_code(language)
        except ValueError as error:
            raise DataError(
                f"{file}: {error}; name aligned files NAME.<language>, or set data.language_columns for a table"
            ) from None
        aligned.setdefault(plain.with_suffix(""), {})[language] = file
    for stem, versions in aligned.items():
        if len(versions) < 2:
            raise DataError(f"{next(iter(versions.values()))}: has no translation beside it; name it in data.path too")
        parts.append(_Aligned(stem.name, dict(sorted(versions.items()))))
    return parts


def _named(file: Path, plain: Path, columns: Mapping[str, str]) -> tuple[str, Path, Mapping[str, str]]:
    """Name, file and columns of a table."""
    name = file.name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    if columns:
        if plain.suffix == ".tsv":
            for code, column in columns.items():
                if not column.isdigit() or column == "0":
                    raise ConfigError(
                        f"data.language_columns.{code}={column}: is no column of a TSV file; give its number, from 1"
                    )
        return name, file, columns
    pair = re.fullmatch(r"en-([a-z]{2,3})", file.parent.name)
    if pair is None or plain.suffix == ".tsv":
        raise DataError(
            f"{file}: nothing says which column is in which language; set data.language_columns, e.g. "
            f"data.language_columns.en=1 data.language_columns.sw=2"
        )
    return file.parent.name, file, {"en": _PUBLISHED[0], _languages.check_code(pair[1]): _PUBLISHED[1]}


# ----------------------------------------------------------------------------------------------------------- reading


def _aligned(part: _Aligned) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Number, ``file:line`` and texts of each line; a blank line is a sentence that the language lacks."""
    readers = [numbered_lines(file, blank=True) for file in part.files.values()]
    for together in itertools.zip_longest(*readers):
        texts = {}
        number = next(line[0] for line in together if line is not None)
        for (code, file), line in zip(part.files.items(), together, strict=True):
            if line is None:
                longer = next(f for f, other in zip(part.files.values(), together, strict=True) if other is not None)
                raise DataError(
                    f"{file}: ends after line {number - 1}, {longer.name} goes on: they are not aligned; get both again"
                )
            try:
                text = utf8(line[1]).strip()
            except ValueError as error:  # to leave it out alone would be safe, but such a file is damaged
                raise DataError(f"{file}:{number}: {error}; get the file again") from None
            if text:
                texts[code] = text
        yield number, f"{next(iter(part.files.values()))}:{number}", texts


def _rows(file: Path) -> Iterator[tuple[int, bytes | dict[str, Any] | list[bytes]]]:
    """Number and content of each row: an object, a line of JSON, or the fields of a line of TSV."""
    plain = file.with_suffix("") if file.suffix == ".gz" else file
    if plain.suffix == ".parquet":
        try:
            with pq.ParquetFile(file) as parquet:
                batches = parquet.iter_batches(batch_size=4096)
                yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: cannot be read ({str(error).splitlines()[0]}); get the file again") from None
        return
    for number, line in numbered_lines(file):
        yield number, line.rstrip(b"\r\n").split(b"\t") if plain.suffix == ".tsv" else line


def _texts(row: bytes | dict[str, Any] | list[bytes], columns: Mapping[str, str]) -> dict[str, str]:
    """Texts of a row by language, those that are not empty.

    Raises:
        ValueError: a column is not there, or is no text.
    """
    texts = {}
    cells = json_object(row) if isinstance(row, bytes) else row
    for code, column in columns.items():
        if isinstance(cells, list):
            if int(column) > len(cells):
                raise ValueError(f"has {len(cells)} columns, no column {column}")
            value: Any = utf8(cells[int(column) - 1])
        else:
            if column not in cells:
                raise ValueError(f"no column {column!r}, there are {', '.join(map(repr, list(cells)[:5]))}")
            value = cells[column]
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{column!r} is a {type(value).__name__}, not a text")
        if value and value.strip():
            texts[code] = value.strip()
    return texts
