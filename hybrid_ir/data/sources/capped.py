"""A part of what a source has: a sample of its items, of given size.

Which items stay depends on their ids alone: those whose hashes are the smallest. So the sample is the same in every run
and wherever the files lie, does not follow the order of the files (languages often come one after the other), has all
language versions of an item or none, and is part of the sample of a greater cap. The size of the data is known only at
its end: it is read twice.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from typing import Any

from hybrid_ir.data.sources.base import Example, Source


class CappedSource:
    """A sample of a source's examples.

    Args:
        source: all of them.
        cap: items at most; None has no limit.
        cap_per_language: items of each language at most, likewise. Of an item with several languages some versions may
            go; languages keep the same items as far as they have them.
    """

    def __init__(self, source: Source, cap: int | None, cap_per_language: int | None) -> None:
        self.source = source
        self.name = source.name
        self.cap, self.cap_per_language = cap, cap_per_language
        self._left_out = 0

    def key(self) -> dict[str, Any]:
        """The source's, and the caps."""
        return {**self.source.key(), "cap": self.cap, "cap_per_language": self.cap_per_language}

    def examples(self) -> Iterator[Example]:
        """Yields the sample, in the source's order.

        Raises:
            DataError: as the source.
        """
        items = None if self.cap is None else _Smallest(self.cap)
        languages: dict[str, _Smallest] = {}
        for example in self.source.examples():
            number = _hash(example.item_id)
            if items is not None:
                items.add(number)
            if self.cap_per_language is not None:
                languages.setdefault(example.language, _Smallest(self.cap_per_language)).add(number)
        self._left_out = 0
        for example in self.source.examples():
            number = _hash(example.item_id)
            if (items is None or number in items) and (not languages or number in languages[example.language]):
                yield example
            else:
                self._left_out += 1

    def reject(self, example: Example, reason: str) -> None:
        """As the source.

        Raises:
            DataError: such examples are not to be left out.
        """
        self.source.reject(example, reason)

    def report(self) -> dict[str, Any]:
        """The source's, and how many lines (an item counts in each language) were over the caps."""
        report = self.source.report()
        if not self._left_out:
            return report
        return {**report, "left_out": {**report.get("left_out", {}), "lines over the caps": self._left_out}}


class _Smallest:
    """The smallest different numbers of a stream, so many at most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[int] = []  # negated, the greatest first
        self._kept: set[int] = set()

    def add(self, number: int) -> None:
        if number in self._kept:
            return
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, -number)
        elif number < -self._heap[0]:
            self._kept.remove(-heapq.heapreplace(self._heap, -number))
        else:
            return
        self._kept.add(number)

    def __contains__(self, number: int) -> bool:
        return number in self._kept


def _hash(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")
