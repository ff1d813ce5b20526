"""A part of what a source has: a sample of its items, of given size.

Which items stay depends on their ids alone: those whose hashes are the smallest. So the sample is the same in every run
and wherever the files lie, does not follow the order of the files (languages often come one after the other), has all
language versions of an item or none, and is part of the sample of a greater cap. The size of the data is known only at
its end: it is read twice.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from hybrid_ir import cache
from hybrid_ir.data.progress import RowsProgress
from hybrid_ir.data.sources.base import Example, Source, StretchSource, stretches, text_bytes

_LARGEST = (1 << 64) - 1
_SAID_EVERY = 4096


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

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the source's stretches, less what is over the caps.

        Raises:
            DataError: as the source.
        """
        limits = self._limits
        self._left_out = 0
        return (self._under(limits, stretch) for stretch in stretches(self.source))

    def examples(self) -> Iterator[Example]:
        """Yields the sample, in the source's order.

        Raises:
            DataError: as the source.
        """
        return chain.from_iterable(self.stretches())

    def _under(self, limits: _Limits, examples: Iterator[Example]) -> Iterator[Example]:
        for example in examples:
            if _hash(example.item_id) <= min(limits.items, limits.languages.get(example.language, _LARGEST)):
                yield example
            else:
                self._left_out += 1

    @cached_property
    def _limits(self) -> _Limits:
        """From a first reading, which is remembered: it may have been long."""
        path = cache.cache_dir() / "caps" / f"{cache.fingerprint(self.key())[:32]}.json"
        with suppress(OSError, ValueError, KeyError):
            found = json.loads(path.read_text(encoding="utf-8"))
            return _Limits(found["items"], found["languages"], found["bytes"])
        text_bytes(self.source)  # for which caps within it are found first: a progress in this one's would be garbled
        items = None if self.cap is None else _Smallest(self.cap)
        languages: dict[str, _Smallest] = {}
        sizes: Counter[str] = Counter()
        with RowsProgress("choosing what stays under the caps") as progress:
            for count, example in enumerate(self.source.examples(), start=1):
                number = _hash(example.item_id)
                if items is not None:
                    items.add(number)
                if self.cap_per_language is not None:
                    languages.setdefault(example.language, _Smallest(self.cap_per_language)).add(number)
                texts = (example.query, example.passage, *(negative.text for negative in example.negatives))
                sizes[example.language] += sum(len(text.encode()) for text in texts)
                if count % _SAID_EVERY == 0:
                    progress(_SAID_EVERY, None)
        limits = _Limits(
            _LARGEST if items is None else items.limit,
            {code: kept.limit for code, kept in languages.items()},
            dict(sizes),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        cache.write_atomic(path, json.dumps(asdict(limits)))
        return limits

    def text_bytes(self) -> int:
        """Bytes of text of each language, as far as the caps leave them: hashes are even."""
        limits = self._limits
        kept = (size * min(limits.items, limits.languages.get(code, _LARGEST)) for code, size in limits.bytes.items())
        return round(sum(kept) / _LARGEST)

    def state(self) -> dict[str, Any]:
        """The source's, and how many lines were over the caps."""
        inner = self.source.state() if isinstance(self.source, StretchSource) else {}
        return {"source": inner, "over": self._left_out}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state."""
        if isinstance(self.source, StretchSource):
            self.source.restore(state["source"])
        self._left_out = state["over"]

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


@dataclass(frozen=True, slots=True)
class _Limits:
    """The greatest hashes that stay: of items, and of those in a language; and how much text there is."""

    items: int
    languages: dict[str, int]
    bytes: dict[str, int]
    """Of all text in a language, under the caps or over."""


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

    @property
    def limit(self) -> int:
        """The greatest number that is kept; of a stream that has not so many different ones, the greatest there is."""
        return -self._heap[0] if len(self._heap) == self._count else _LARGEST


def _hash(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")
