"""Items as integers, grouped so that any kind of row finds its items as a few contiguous ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ItemTable:
    """Items as integers: all that a plan needs to know of a corpus.

    A *pattern* is a set of languages; many items share one. Passages are integers too: the language versions of a
    passage, and the items that share it, have the same one.
    """

    languages: tuple[str, ...]
    sources: tuple[str, ...]
    patterns: np.ndarray
    """[patterns, languages] bool: which languages an item of the pattern has."""
    pattern: np.ndarray
    """[items] int: the item's pattern."""
    source: np.ndarray
    """[items] int: the item's source."""
    passage: np.ndarray
    """[items] int: the item's passage."""

    def __len__(self) -> int:
        return len(self.pattern)

    def restricted(self, keep_items: np.ndarray | None = None, languages: Sequence[str] | None = None) -> EligibleItems:
        """The items that training may draw, in the languages it may draw."""
        return EligibleItems(self, keep_items, tuple(languages) if languages is not None else self.languages)


class EligibleItems:
    """Items grouped by (source, pattern), so that every stream is a list of contiguous ranges of one array.

    Args:
        table: all items.
        keep: [items] bool, False for items held out of training; None keeps all.
        languages: languages that training may draw.
    """

    def __init__(self, table: ItemTable, keep: np.ndarray | None, languages: tuple[str, ...]) -> None:
        self.table = table
        self.languages = languages
        allowed = np.array([code in languages for code in table.languages], dtype=bool)
        self.allowed = allowed
        self.patterns = table.patterns & allowed
        count = len(self.patterns)
        several = len(table.sources) > 1
        group = table.source.astype(np.int64) * count + table.pattern if several else table.pattern
        groups = len(table.sources) * count
        # 16-bit keys let numpy sort by radix: 10 million items in a fraction of a second
        group = group.astype(np.uint16 if groups <= 1 << 16 else np.int32, copy=False)
        everything = keep is None or bool(keep.all())
        members = None if keep is None or everything else np.flatnonzero(keep).astype(np.int32)
        if members is not None:
            group = group[members]
        sizes = np.bincount(group, minlength=groups)
        if np.count_nonzero(sizes) <= 1:
            self.order = members  # one group: the items are in order already
        else:
            order = np.argsort(group, kind="stable").astype(np.int32)
            self.order = order if members is None else members[order]
        self.group_size = sizes
        self.group_start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.group_source = np.repeat(np.arange(len(table.sources)), count)
        self.group_pattern = np.tile(np.arange(count), len(table.sources))

    def items_at(self, position: np.ndarray) -> np.ndarray:
        """Item at each position of the grouped order."""
        return position if self.order is None else self.order[position]

    def groups_of(self, source: int, having: np.ndarray) -> np.ndarray:
        """Non-empty groups of a source whose pattern is in ``having`` ([patterns] bool)."""
        return np.flatnonzero((self.group_source == source) & having[self.group_pattern] & (self.group_size > 0))

    def items_with_both(self) -> np.ndarray:
        """[sources, languages, languages] int64: items of a source in two languages; the diagonal: in the one."""
        patterns = self.patterns.astype(np.int64)
        sizes = self.group_size.reshape(len(self.table.sources), len(patterns)).astype(np.int64)
        return np.stack([patterns.T @ (patterns * of_pattern[:, None]) for of_pattern in sizes])

    def distinct_passages(self, groups: np.ndarray, enough: int) -> int:
        """Number of different passages in the groups, exact only below ``enough`` (it stops counting there)."""
        seen: np.ndarray = np.empty(0, dtype=np.int64)
        for g in groups:
            start, size = int(self.group_start[g]), int(self.group_size[g])
            step = max(8 * enough, 65536)
            for low in range(start, start + size, step):
                items = self.items_at(np.arange(low, min(low + step, start + size)))
                seen = np.union1d(seen, self.table.passage[items])
                if len(seen) >= enough:
                    return len(seen)
        return len(seen)
