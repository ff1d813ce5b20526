"""Documents on disk: a corpus of any size is read by pieces and never in memory as a whole.

A store is made once from files of one document a line, and kept in the cache (:mod:`hybrid_ir.cache`):

- ``texts.parquet``: column ``text``, zstd, in row groups of 4,096 documents, each decoded when it is asked for;
- ``ids.arrow``: column ``id``, not compressed and memory-mapped, so that an id is read without its neighbours;
- ``order.npy``: int32, the place of each document in ascending order of ids (by code point), memory-mapped;
- ``languages.npy``: uint16, each document's language as an index into the manifest's list, where lines have one.
"""

from __future__ import annotations

import operator
import shutil
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hybrid_ir import cache
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.lines import numbered_lines


class Document(NamedTuple):
    """What a line holds, all of it such that UTF-8 can hold it."""

    id: str
    text: str
    language: str | None = None
    """None where the files are of one language and do not say it: on all lines or on none."""


Parse = Callable[[bytes], Document]
"""The document of a line; raises ``ValueError`` with the reason where there is none."""

ROW_GROUP = 4096
"""Documents that are compressed, and decoded, together."""

DISK_RATIO = 1.5
"""Size of a store by that of its gzip files, for the check of free space: texts take 0.9 to 1.1 times as much in zstd,
ids and order about 20 bytes a document, to which gzip files give 80 to 200."""

_FORMAT = 1
_KIND = "documents"
_CHUNK = 2**20
_TEXTS, _IDS, _ORDER, _LANGUAGES = "texts.parquet", "ids.arrow", "order.npy", "languages.npy"
_TEXT_SCHEMA = pa.schema([("text", pa.string())])
_ID_SCHEMA = pa.schema([("id", pa.string())])


class DocumentStore:
    """Documents of some files, in their order."""

    def __init__(self, folder: Path) -> None:
        manifest = cache.read_manifest(folder)
        self.ids = StoredIds(folder / _IDS)
        self.texts = StoredTexts(folder / _TEXTS)
        self.order: np.ndarray = np.load(folder / _ORDER, mmap_mode="r")
        """[documents] int32: place of each document in ascending order of ids."""
        self.languages: tuple[str, ...] = tuple(manifest.get("languages", ()))
        """Languages that the lines have, in the order of their first appearance; empty where they have none."""
        self.document_languages: np.ndarray | None = None
        """[documents] uint16: index into ``languages``; None where there are none."""
        if self.languages:
            self.document_languages = np.load(folder / _LANGUAGES, mmap_mode="r")
        self.fingerprint: str = cache.fingerprint(manifest["key"])
        """Equal for equal files, wherever they lie."""

    @classmethod
    def build(cls, files: Sequence[Path], parse: Parse, layout: str) -> DocumentStore:
        """The store of some files, from the cache if it was made before.

        Making it streams the files; only the ids are in memory at once, while they are sorted (about 40 bytes each for
        ids of 10 characters).

        Args:
            files: one document a line, plain or gzip; recognised by their content.
            parse: the document of a line.
            layout: name of what ``parse`` does; changes when that does.

        Raises:
            DataError: a line is not a document, an id stands twice or has a space, or a file is damaged or has no
                document; names the file and the line.
            UserError: the disk has not the space.
        """
        key = _key(files, layout)
        folder, _ = cache.entry(_KIND, key, lambda folder: _write(files, parse, folder))
        return cls(folder)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """[ids] int64: index of the document with each of some distinct ids, -1 where there is none."""
        wanted = pa.array(ids, pa.string())
        index = np.full(len(ids), -1, dtype=np.int64)
        for start in range(0, len(self), _CHUNK):
            hits = pc.index_in(self.ids.column.slice(start, _CHUNK), value_set=wanted)
            hits = pc.fill_null(hits, -1).to_numpy()
            rows = np.flatnonzero(hits >= 0)
            index[hits[rows]] = start + rows
        return index


def check_space(corpora: Iterable[Sequence[Path]], layout: str) -> None:
    """Checks that the disk has the space for the stores of some corpora, those left out that are made already.

    Raises:
        UserError: it has not.
    """
    missing = [file for files in corpora if not cache.is_made(_KIND, _key(files, layout)) for file in files]
    _check_space(missing)


# -------------------------------------------------------------------------------------------------------- sequences


class _Lazy(Sequence[str]):
    """A sequence that is read by ranges."""

    @abstractmethod
    def read(self, start: int, stop: int) -> list[str]:
        """The items of a range that lies inside the sequence."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self.read(start, stop) if start < stop else []
            return [self[place] for place in range(start, stop, step)]
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} of a sequence of {len(self)}")
        return self.read(place, place + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROW_GROUP):
            yield from self.read(start, min(start + ROW_GROUP, len(self)))


class StoredIds(_Lazy):
    """Ids in a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            self.column: pa.ChunkedArray = pa.ipc.open_file(source).read_all().column("id")

    def __len__(self) -> int:
        return len(self.column)

    def read(self, start: int, stop: int) -> list[str]:
        return self.column.slice(start, stop - start).to_pylist()


class StoredTexts(_Lazy):
    """Texts in a Parquet file: the last two row groups stay decoded, so that a reader who goes through decodes each
    once."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._length: int = self._file.metadata.num_rows
        self._lock = Lock()  # a Parquet reader serves one thread at a time
        self._group = lru_cache(maxsize=2)(self._decode)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> list[str]:
        texts: list[str] = []
        for group in range(start // ROW_GROUP, (stop - 1) // ROW_GROUP + 1):
            first = group * ROW_GROUP
            low, high = max(start - first, 0), min(stop - first, ROW_GROUP)
            texts += self._group(group).slice(low, high - low).to_pylist()
        return texts

    def _decode(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            return self._file.read_row_group(group, use_threads=False).column("text")


class Concatenated(_Lazy):
    """Sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self.parts = list(parts)
        self._starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> list[str]:
        items: list[str] = []
        for part, first in zip(self.parts, self._starts, strict=False):
            if start < first + len(part) and stop > first:
                items += part[max(start - first, 0) : stop - first]
        return items


class Selected(_Lazy):
    """Some items of a sequence, in an order of their own.

    Args:
        whole: the sequence.
        places: [items] int: place of each in it.
    """

    def __init__(self, whole: Sequence[str], places: np.ndarray) -> None:
        self.whole, self.places = whole, places

    def __len__(self) -> int:
        return len(self.places)

    def read(self, start: int, stop: int) -> list[str]:
        return [self.whole[place] for place in self.places[start:stop].tolist()]


class ConcatenatedArrays:
    """Arrays one after the other, sliced without joining them: memory maps stay on disk."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self._starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, step = index.indices(len(self))
        pieces = [
            part[max(start - first, 0) : max(stop - first, 0)]
            for part, first in zip(self.parts, self._starts, strict=False)
        ]
        return np.concatenate(pieces)[::step]


# ---------------------------------------------------------------------------------------------------------- writing


def _key(files: Sequence[Path], layout: str) -> dict[str, Any]:
    return {"format": _FORMAT, "layout": layout, "files": [cache.source_sha256(file) for file in files]}


def _check_space(files: Iterable[Path]) -> None:
    need = DISK_RATIO * sum(file.stat().st_size for file in files)
    folder = cache.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: has {free / 1e9:.1f} GB free, the corpus needs about {need / 1e9:.1f} GB; free space, or set "
            f"HYBRID_IR_CACHE to a folder on a larger disk"
        )


def _write(files: Sequence[Path], parse: Parse, folder: Path) -> dict[str, Any]:
    _check_space(files)
    console = Console(stderr=True)
    numbers: dict[str, int] = {}
    languages = array("H")
    with (
        pq.ParquetWriter(
            folder / _TEXTS,
            _TEXT_SCHEMA,
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            write_statistics=False,
        ) as texts,
        pa.OSFile(str(folder / _IDS), "wb") as sink,
        pa.ipc.new_file(sink, _ID_SCHEMA) as ids,
        Progress(
            TextColumn("reading the corpus"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files, {task.fields[documents]:,} documents"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar,
    ):
        task = bar.add_task("", total=len(files), documents=0)
        documents = _documents(bar.track(files, task_id=task), parse)
        count = 0
        while batch := list(islice(documents, ROW_GROUP)):
            texts.write_table(pa.table([[document.text for document, _ in batch]], schema=_TEXT_SCHEMA))
            ids.write_table(pa.table([[document.id for document, _ in batch]], schema=_ID_SCHEMA))
            named = [document.language for document, _ in batch if document.language is not None]
            languages.extend(numbers.setdefault(language, len(numbers)) for language in named)
            count += len(batch)
            bar.update(task, documents=count)
    order, repeated = _order(StoredIds(folder / _IDS).column)
    if repeated is not None:
        raise _stands_twice(files, parse, repeated)
    np.save(folder / _ORDER, order)
    if numbers:
        np.save(folder / _LANGUAGES, np.array(languages, dtype=np.uint16))
    described = [{"name": file.name, "bytes": file.stat().st_size} for file in files]
    return {"documents": count, "sources": described, "languages": list(numbers)}


def _documents(files: Iterable[Path], parse: Parse) -> Iterator[tuple[Document, str]]:
    """Each document and its ``file:line``."""
    for file in files:
        number = 0
        for number, line in numbered_lines(file):
            try:
                document = parse(line)
                if document.id.split() != [document.id]:
                    raise ValueError(f"the id {document.id!r} is empty or has a space")
            except ValueError as error:
                raise DataError(f"{file}:{number}: {error}; mend the line, or get the file again") from None
            yield document, f"{file}:{number}"
        if not number:
            raise DataError(f"{file}: holds no document; get the file again")


def _order(ids: pa.ChunkedArray) -> tuple[np.ndarray, str | None]:
    """Place of each id in ascending order, and an id that stands twice."""
    # One array of 64-bit offsets: joined ids may exceed the 2 GB that 32-bit offsets reach. Bytes of UTF-8 sort as
    # code points do.
    column = ids.cast(pa.large_string()).combine_chunks()
    ascending = pc.sort_indices(column)
    for start in range(0, len(column) - 1, _CHUNK):
        run = column.take(ascending.slice(start, _CHUNK + 1))
        same = np.flatnonzero(pc.equal(run.slice(1), run.slice(0, len(run) - 1)).to_numpy(zero_copy_only=False))
        if len(same):
            return np.empty(0, dtype=np.int32), run[int(same[0])].as_py()
    order = np.empty(len(column), dtype=np.int32)
    order[ascending.to_numpy()] = np.arange(len(column), dtype=np.int32)
    return order, None


def _stands_twice(files: Sequence[Path], parse: Parse, identifier: str) -> DataError:
    # Where the lines are is found in a second reading: to remember it for each id would cost memory for nothing.
    places = (where for document, where in _documents(files, parse) if document.id == identifier)
    first, second = islice(places, 2)
    return DataError(f"{second}: repeats the id {identifier!r} of {first}; keep one of the two")
