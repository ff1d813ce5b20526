"""Text files by line: plain or gzip, UTF-8, one JSON object a line."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from hybrid_ir.errors import DataError, UserError


def numbered_lines(file: Path, blank: bool = False, raw: IO[bytes] | None = None) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; a byte order mark is passed over.

    Args:
        file: plain or gzip.
        blank: blank lines too.
        raw: the file, opened by ``open_file``, of one who wants to know how far it has been read.

    Raises:
        DataError: the file cannot be opened, or its gzip data is damaged or cut off.
    """
    number = 0
    try:
        with raw or open_file(file) as opened, _unpacked(opened) as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if blank or text.strip():
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file}:{number + 1}: the gzip data is damaged or cut off ({error}); copy the file again"
        ) from None


def utf8(line: bytes) -> str:
    """A line's text.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line)") from None


def json_object(line: bytes) -> dict[str, Any]:
    """A line's JSON object.

    Raises:
        ValueError: the line is not UTF-8, not JSON, not an object, or escapes half a character.
    """
    try:
        row = json.loads(utf8(line.rstrip(b"\r\n")))  # a fault at its end is not at column 1 of a next line
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    if b"\\u" in line:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character: a \\u escape of a surrogate without its other half") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    return row


def identifier(value: Any, name: str) -> str:
    """An id: a text, or a whole number, which becomes one.

    Raises:
        ValueError: it is something else, or empty.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a text or an integer")
    text = str(value)
    if not text:
        raise ValueError(f"{name!r} is empty")
    return text


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes lines, with their ends, atomically, gzip where the name ends in ``.gz``; equal lines give an equal file.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as raw:
                # Neither a name nor a time in the gzip header: equal content gives an equal file.
                zipped = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else None
                with io.TextIOWrapper(cast(IO[bytes], zipped or raw), "utf-8", newline="\n") as text:
                    text.writelines(lines)
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or allow it") from error


def open_file(file: Path) -> IO[bytes]:
    """A file, opened for reading.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"{file}: cannot be opened ({error.strerror or error})") from None


def _unpacked(raw: IO[bytes]) -> IO[bytes]:
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return cast(IO[bytes], gzip.open(raw, "rb")) if zipped else raw
