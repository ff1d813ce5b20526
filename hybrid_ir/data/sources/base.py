"""What a source of training data yields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hybrid_ir.errors import DataError

_SHOWN_BAD_LINES = 5
_EVALUATION = {
    "dev", "devset", "devtest", "eval", "evalset", "evaluation", "heldout", "newsdev", "newstest", "test", "testa",
    "testb", "testing", "testset", "tst", "val", "valid", "validation",
}  # fmt: skip
"""Words in names of data to evaluate on, those of WMT's, IWSLT's and FLORES' test sets among them."""


@dataclass(frozen=True, slots=True)
class Negative:
    """An explicit negative passage of an example, in the example's language."""

    text: str
    passage_id: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One line of parallel data: a query and its passage in one language.

    The language versions of an item share ``item_id``; the versions of a passage share ``passage_id``.
    """

    item_id: str
    language: str
    query: str
    passage: str
    passage_id: str | None
    source: str
    negatives: tuple[Negative, ...] = ()
    where: str = ""
    """``file:line``, for messages."""


@dataclass(frozen=True, slots=True)
class Given:
    """A block of examples that have been read."""

    examples: list[Example]
    share: float | None = None

    def read(self) -> tuple[list[Example], list[tuple[int, str, str]]]:
        """The examples; no bad line is among them."""
        return self.examples, []


class Block(Protocol):
    """A stretch of a source, to be read by any process: it can be pickled."""

    @property
    def share(self) -> float | None:
        """Of the source that has been read at its end; None where nobody knows."""
        ...

    def read(self) -> tuple[list[Example], list[tuple[int, str, str]]]:
        """Its examples, and its lines that are none: how many examples come before, ``file:line``, what is wrong."""
        ...


class Source(Protocol):
    """Where examples come from."""

    name: str

    def key(self) -> dict[str, Any]:
        """What decides the examples (settings, file sizes and times, versions): the key of the cached corpus."""
        ...

    def examples(self) -> Iterator[Example]:
        """Yields the examples, in an order that is the same every time.

        Raises:
            DataError: a line is bad (file, line and reason), or a file cannot be read.
        """
        ...

    def reject(self, example: Example, reason: str) -> None:
        """Takes back an example that contradicts an earlier one: raises, or counts it as left out.

        Raises:
            DataError: such examples are not to be left out.
        """
        ...

    def report(self) -> dict[str, Any]:
        """What was left out while reading, after ``examples`` is exhausted; empty when nothing was."""
        ...


@runtime_checkable
class BlockSource(Source, Protocol):
    """A source whose lines can be read in any order, and so by several processes at a time.

    ``examples`` yields what the blocks hold, less what ``max_items`` leaves out.
    """

    max_items: dict[str, int]
    """At most this many items of a source by name, the first ones."""

    def blocks(self) -> Iterator[Block]:
        """Yields the blocks, the same ones every time; forgets bad lines that were counted before.

        Raises:
            DataError: a file cannot be read.
        """
        ...

    def text_bytes(self) -> int:
        """Bytes of text there are to read, about."""
        ...

    def leave_out(self, where: str, reason: str) -> None:
        """Takes a bad line of a block: raises, or counts it as left out.

        Raises:
            DataError: bad lines are not to be left out.
        """
        ...

    def check_sources(self, found: Set[str]) -> None:
        """Compares the names of sources in the blocks with those that the settings name.

        Raises:
            DataError: one is not there.
        """
        ...


@runtime_checkable
class StretchSource(Source, Protocol):
    """A source that is read in stretches (a file, a language), one after the other.

    ``examples`` yields what the stretches hold. One that was read already can be passed over: ``restore`` takes what
    ``state`` gave after it.
    """

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the stretches, the same ones every time; forgets what was counted before.

        Raises:
            DataError: as ``examples``.
        """
        ...

    def text_bytes(self) -> int:
        """Bytes of text of all examples, about."""
        ...

    def state(self) -> dict[str, Any]:
        """What was counted while reading, as JSON holds it; not what ``reject`` took back."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state for what was counted while reading."""
        ...


def stretches(source: Source) -> Iterator[Iterator[Example]]:
    """Stretches of any source, which may be one."""
    if isinstance(source, StretchSource):
        yield from source.stretches()
    else:
        yield source.examples()


def text_bytes(source: Source) -> int:
    """Bytes of text there are to read, about; 0 of a source that does not say."""
    return source.text_bytes() if isinstance(source, BlockSource | StretchSource) else 0


class BadLines:
    """Lines of files that are no examples: the first one ends the reading, or they are counted and left out.

    Args:
        on_bad_line: ``raise`` or ``skip``.
    """

    def __init__(self, on_bad_line: Literal["raise", "skip"]) -> None:
        self.on_bad_line = on_bad_line
        self.clear()

    def clear(self) -> None:
        """Forgets what was counted."""
        self._counts: Counter[str] = Counter()
        self._first: list[str] = []

    def leave_out(self, where: str, reason: str) -> None:
        """Counts a line.

        Args:
            where: ``file:line``.
            reason: what is wrong with it.

        Raises:
            DataError: unless bad lines are skipped.
        """
        if self.on_bad_line == "raise":
            raise DataError(f"{where}: {reason}; mend the line, or leave bad lines out with data.on_bad_line=skip")
        self._counts[Path(where).name.rsplit(":", 1)[0]] += 1
        if len(self._first) < _SHOWN_BAD_LINES:
            self._first.append(f"{where}: {reason}")

    def report(self) -> dict[str, Any]:
        """How many were left out, by file, with the first few reasons; empty when none was."""
        return {"bad_lines": dict(self._counts), "first_bad_lines": list(self._first)} if self._counts else {}

    def restore(self, report: dict[str, Any]) -> None:
        """Takes a report for what was counted."""
        self._counts = Counter(report.get("bad_lines", {}))
        self._first = list(report.get("first_bad_lines", []))

    def and_those_of(self, other: BadLines) -> dict[str, Any]:
        """Report of both, these first."""
        both = BadLines("skip")
        both._counts = self._counts + other._counts
        both._first = [*self._first, *other._first][:_SHOWN_BAD_LINES]
        return both.report()


def says_evaluation(name: str) -> bool:
    """Whether a name (of a file, a split) has a word for data to evaluate on, e.g. ``dev``, ``test-a``, ``DevSet``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return not _EVALUATION.isdisjoint(re.split(r"[^a-z]+", words))


def refuse_evaluation(said: str, name: str) -> None:
    """Refuses to train on what is named as data to evaluate on.

    Args:
        said: start of the message: the setting, or the file.
        name: name of a file, a folder or a split.

    Raises:
        DataError: ``says_evaluation(name)``.
    """
    if says_evaluation(name):
        raise DataError(
            f"{said}: {name!r} says that it is for evaluation, and evaluation data is never trained on; give the train "
            f"split, or another name to what is not"
        )


def refuse_evaluation_folder(said: str, folder: Path) -> None:
    """Refuses to train on a folder that is named as a split to evaluate on, as the hub's converter names them.

    Args:
        said: start of the message: the setting, or the file.
        folder: its whole name counts: that of a folder somewhere above says nothing about a file.

    Raises:
        DataError: it is named so.
    """
    if folder.name.lower() in _EVALUATION:
        refuse_evaluation(said, folder.name)
