"""What a source of training data yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


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
