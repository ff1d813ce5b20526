"""Files that are made once and shared by runs: keyed by content and settings, complete or absent.

A cache entry is a folder. Its ``manifest.json`` is written last, by an atomic rename, and lists every file with its
size and SHA-256: a folder without one is unfinished work of a process that died, and is made again. A file lock keeps
two processes from making the same entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from hybrid_ir.errors import DataError

MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """The folder of cached files: ``HYBRID_IR_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("HYBRID_IR_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("hybrid_ir"))


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, 64 hex digits; the same for equal values in any process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(file: Path) -> str:
    """SHA-256 of a source file, 64 hex digits; computed again only when its path, size or time changed since the last
    look.

    Raises:
        DataError: the file cannot be read.
    """
    stat = file.stat()
    note = cache_dir() / "hashes" / fingerprint([str(file), stat.st_size, stat.st_mtime_ns])
    if note.is_file():
        return note.read_text()
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(note, digest)
    return digest


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # which a failed write does not know
        raise
    finally:
        partial.unlink(missing_ok=True)


def entry(kind: str, key: Any, make: Callable[[Path], dict[str, Any]], verify: bool = False) -> tuple[Path, bool]:
    """The folder of a cache entry, made if it is not there.

    Args:
        kind: sub-folder of the cache.
        key: JSON value that decides the content.
        make: fills the (empty) folder that it is given and returns what the manifest shall remember.
        verify: compare full hashes with the manifest, not only sizes.

    Returns:
        The folder, and whether it was made now.
    """
    folder = _entry_folder(kind, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if _complete(folder, verify):
        return folder, False
    with FileLock(str(folder) + ".lock"):
        if _complete(folder, verify):
            return folder, False
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        try:
            remembered = make(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter
            hashes = list(pool.map(file_sha256, paths))
        files = {
            p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": digest}
            for p, digest in zip(paths, hashes, strict=True)
        }
        manifest = {"key": key, "files": files, **remembered}
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False, default=str))
    return folder, True


def is_made(kind: str, key: Any) -> bool:
    """Whether ``entry`` would find the entry rather than make it."""
    return _complete(_entry_folder(kind, key), verify=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete entry."""
    return json.loads((folder / MANIFEST).read_text())


def _entry_folder(kind: str, key: Any) -> Path:
    return cache_dir() / kind / fingerprint(key)[:32]


def _complete(folder: Path, verify: bool) -> bool:
    try:
        files = read_manifest(folder)["files"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return False
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            return False
        if verify and file_sha256(path) != expected["sha256"]:
            return False
    return True
