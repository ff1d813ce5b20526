"""Published data sets: which files a source reads, from a folder or from the Hugging Face hub, and what is recorded.

A source names its files as they are published. What is missing is known when the source is made, before anything is
read or downloaded.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from hybrid_ir import cache
from hybrid_ir.config import HubDataConfig, PublishedDataConfig
from hybrid_ir.data.sources.base import BadLines, Example, says_evaluation
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.hub import HubFile, check_offline, download, files_in, snapshot

_TEXT_OF = {".gz": 4, ".zst": 4, ".parquet": 3}
"""Bytes of text to a byte of a file, about, by its ending."""
_LOOKED_AT = 10_000
"""Folders in which evaluation data is looked for, for a message."""


class FileSource(ABC):
    """What sources that read files share: which files, what is recorded of them, bad lines.

    Args:
        on_bad_line: ``raise`` or ``skip``.
    """

    name: str
    format: ClassVar[int] = 1
    """Raised with every change that makes other examples of the same files; part of the cached corpus' key."""

    def __init__(self, on_bad_line: str = "raise") -> None:
        self.bad_lines, self._rejected = (BadLines("skip" if on_bad_line == "skip" else "raise") for _ in range(2))
        self.left_out: dict[str, int] = {}

    @cached_property
    @abstractmethod
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Files by the name that they are published under, downloaded where they must be."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the examples besides the files, and what is to be recorded of them."""

    def key(self) -> dict[str, Any]:
        """Settings, and the files' names, sizes and hashes: the same content elsewhere gives the same examples."""
        files = self.recorded()
        return {
            "source": self.name,
            "format": self.format,
            "files": [[name, cache.source_sha256(path)] for name, path in files],
            "bytes": [path.stat().st_size for _, path in files],
            "on_bad_line": self.bad_lines.on_bad_line,
            **self.settings(),
        }

    def recorded(self) -> list[tuple[str, Path]]:
        """Each file, and the name that it is recorded by."""
        return [(path.name, path) for paths in self.files.values() for path in paths]

    @abstractmethod
    def read(self) -> Iterator[Iterator[Example]]:
        """The stretches: examples of a language, or of a file."""

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the stretches, in an order that is the same every time.

        Raises:
            DataError: a file is missing or cannot be read, or a line is bad (file, line and reason).
        """
        self._rejected.clear()
        self.restore({})
        yield from self.read()

    def examples(self) -> Iterator[Example]:
        """Yields the examples, in an order that is the same every time.

        Raises:
            DataError: as ``stretches``.
        """
        return chain.from_iterable(self.stretches())

    def text_bytes(self) -> int:
        """Bytes of the files' text, about."""
        files = chain.from_iterable(self.files.values())
        return sum(path.stat().st_size * _TEXT_OF.get(path.suffix, 1) for path in files)

    def state(self) -> dict[str, Any]:
        """Lines and examples that were left out while reading."""
        return {**self.bad_lines.report(), "left_out": dict(self.left_out)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state for what was left out while reading."""
        self.bad_lines.restore(state)
        self.left_out = dict(state.get("left_out", {}))

    def count(self, what: str, number: int = 1) -> None:
        """Adds to what the report says was left out."""
        if number:
            self.left_out[what] = self.left_out.get(what, 0) + number

    def reject(self, example: Example, reason: str) -> None:
        """As a bad line.

        Raises:
            DataError: unless bad lines are skipped.
        """
        self._rejected.leave_out(example.where, reason)

    def report(self) -> dict[str, Any]:
        """Bad lines that were skipped, and what the data itself lacks."""
        report = self.bad_lines.and_those_of(self._rejected)
        return {**report, **({"left_out": dict(self.left_out)} if self.left_out else {})}


class PublishedSource(FileSource):
    """A published data set, from a folder with its published names or from the hub.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that the data set does not have.
        DataError: a file is not in the folder, nor (where the hub is not to be asked) in the hub's cache.
    """

    languages_by_name: ClassVar[Mapping[str, str]]
    """Languages of the data set by code, and how its files name them."""
    license: ClassVar[str]
    """Its licence, with ``(unverified)`` where it was not seen in the data set itself."""
    revision_status: ClassVar[str] = "unverified"
    """Whether the commit was seen on the hub (``verified``)."""

    def __init__(self, config: PublishedDataConfig) -> None:
        super().__init__(getattr(config, "on_bad_line", "raise"))
        self.config = config
        self.folder = None if config.path is None else Path(config.path).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            raise DataError(f"data.path={config.path}: is not a folder; give the one that holds {self._example()}")
        self.languages = self._languages()
        self.wanted = [*self.shared_files(), *chain.from_iterable(map(self.language_files, self.languages))]
        if self.folder is None:
            self.check_download()
        else:
            for file in self.wanted:
                if not files_in(self.folder, file.name):
                    raise self._lacks(file)

    @abstractmethod
    def language_files(self, code: str) -> list[HubFile]:
        """Files of a language, the first one of them such that a folder that has it has the language."""

    def shared_files(self) -> list[HubFile]:
        """Files that serve all languages."""
        return []

    def check_download(self) -> None:
        """Checks what can be checked of files that are to be downloaded.

        Raises:
            DataError: one is not in the hub's cache, and the hub is not to be asked.
        """
        check_offline(self.wanted, "data.path")

    @cached_property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Files by the name that they are published under, downloaded where they must be."""
        if self.folder is not None:
            return {file.name: files_in(self.folder, file.name) for file in self.wanted}
        download(self.wanted, "data.path")
        return {file.name: files_in(snapshot(file.repository, file.revision), file.name) for file in self.wanted}

    def recorded(self) -> list[tuple[str, Path]]:
        """Each file, and the name that it is published under."""
        return [
            (str(PurePosixPath(name).parent / path.name), path) for name, paths in self.files.items() for path in paths
        ]

    def settings(self) -> dict[str, Any]:
        """Languages, and the data set's repository, commit and licence; the commit of a folder is not known."""
        published: dict[str, Any] = {"license": self.license}
        if isinstance(self.config, HubDataConfig):
            published["repositories"] = {
                file.repository: None if self.folder else f"{file.revision} ({self._status(file.revision)})"
                for file in self.wanted
            }
        return {"languages": list(self.languages), "published": published}

    def _status(self, revision: str) -> str:
        own = type(self.config).model_fields["revision"].default
        return self.revision_status if revision == own else "unverified"

    def _languages(self) -> list[str]:
        known = self.languages_by_name
        if self.config.languages is not None:
            for code in self.config.languages:
                if code not in known:
                    raise ConfigError(
                        f"data.languages={code}: data={self.name} has no training data in it; it has {', '.join(known)}"
                    )
            return list(self.config.languages)
        if self.folder is None:
            return list(known)
        there = [code for code in known if files_in(self.folder, self.language_files(code)[0].name)]
        if there:
            return there
        dev = next((path for path in _some_files(self.folder) if says_evaluation(path.name)), None)
        raise DataError(
            f"data.path={self.config.path}: has no {self._example()}; "
            + (
                f"{dev.name} is evaluation data, which is never trained on: add the train files"
                if dev is not None
                else "give the folder that holds it, or null to download the data"
            )
        )

    def _example(self) -> str:
        code = next(iter(self.languages_by_name))
        return self.language_files(code)[0].name.replace(self.languages_by_name[code], "<language>")

    def _lacks(self, file: HubFile) -> DataError:
        return DataError(
            f"data.path={self.config.path}: has no {file.name}; put what {file.address} gives there, or leave out the "
            f"language (data.languages)"
        )


def _some_files(folder: Path) -> Iterator[Path]:
    """Files below a folder, not all where there are many."""
    for looked, (parent, _, names) in enumerate(os.walk(folder)):
        if looked > _LOOKED_AT:
            return
        yield from (Path(parent) / name for name in sorted(names))


# --------------------------------------------------------------------------------------------------------- passages


def joined(questions: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Which relevant passages must not stand in one batch as negatives of each other.

    A question may have several relevant passages, and a passage several questions. All that are reached from each other
    over such steps get the number of the lowest of them, and are one passage to the corpus.

    Args:
        questions, passages: [pairs] int64: a question and a passage relevant to it, numbered each from 0.

    Returns:
        [passages] int64: number of each passage's lowest companion.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(questions):
        return np.empty(0, dtype=np.int64)
    count, first = int(passages.max()) + 1, int(questions.max()) + 1
    size = first + count
    graph = coo_array((np.ones(len(questions), dtype=np.int8), (questions, first + passages)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    own = label[first:]
    lowest = np.full(int(label.max()) + 1, count, dtype=np.int64)
    np.minimum.at(lowest, own, np.arange(count))
    return lowest[own]


def numbered(names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Names as numbers in the order of their first appearance: [names] int64, and the name of each number."""
    index: dict[str, int] = {}
    numbers = np.fromiter((index.setdefault(name, len(index)) for name in names), dtype=np.int64)
    return numbers, list(index)
