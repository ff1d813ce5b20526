"""Growing arrays in files, and numbers for keys: what a corpus of any size is built with.

Python's dictionaries take some 150 bytes for a key of 16 bytes. Here a key takes 16 bytes of a file, whose pages can
leave memory, and 7 to 14 bytes of memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import numpy as np

from hybrid_ir.data.plan import mix

_FIRST = 1 << 12
_LOAD = 0.6
"""Share of the slots that are taken at most: beyond, linear probing takes long."""
_AT_A_TIME = 1 << 20


def reserve(file: IO[bytes], size: int) -> None:
    """Makes a file that is to be mapped this long, on disk: a full one is an error here, a write to a hole of the file
    would end the process.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


class Column:
    """A growing array in a file.

    Args:
        path: made anew; of no use after the process that writes it.
        kind: dtype of its values.
        width: values of a row.
    """

    def __init__(self, path: Path, kind: str, width: int = 1) -> None:
        self._kind, self._width = np.dtype(kind), width
        self._file = path.open("w+b")
        self._length = 0
        self._resize(_FIRST)

    def _resize(self, rows: int) -> None:
        reserve(self._file, rows * self._width * self._kind.itemsize)
        shape = (rows, self._width) if self._width > 1 else (rows,)
        self._all = np.memmap(self._file, dtype=self._kind, mode="r+", shape=shape)

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> np.ndarray:
        """[rows] or [rows, width], memory-mapped."""
        return self._all[: self._length]

    def append(self, values: np.ndarray) -> None:
        """Adds rows at the end."""
        end = self._length + len(values)
        if end > len(self._all):
            self._resize(max(end, 2 * len(self._all)))
        self._all[self._length : end] = values
        self._length = end

    def close(self) -> None:
        """Lets go of the file."""
        del self._all
        self._file.close()


class Numbering:
    """Numbers keys from 0 in the order in which they first come: a hash table with linear probing, in whole arrays.

    Args:
        path: a file for the keys.
        width: 64-bit words of a key.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._keys = Column(path, "u8", width)
        self._slots = np.full(_FIRST, -1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of keys, and which of them are new: [n] int64 and [n] bool; of equal new keys the first is.

        Args:
            keys: [n, width] uint64, [n] where the width is 1.
        """
        known = len(self)
        self._reserve(known + len(keys))
        slot = self._home(keys)
        numbers = np.empty(len(keys), dtype=np.int64)
        todo = np.arange(len(keys))
        while len(todo):
            at = slot[todo]
            free = np.flatnonzero(self._slots[at] < 0)
            # Keys compete for a free slot and the first of them gets it: of equal indices numpy assigns the last. Equal
            # keys probe in step, so they meet in one slot.
            self._slots[at[free][::-1]] = known + todo[free][::-1]
            there = self._slots[at].astype(np.int64)
            same = self._equal(there, keys, todo, known)
            numbers[todo[same]] = there[same]
            todo = todo[~same]
            slot[todo] = (slot[todo] + 1) & (len(self._slots) - 1)
        new = numbers == known + np.arange(len(keys))
        final = known + np.cumsum(new) - 1  # so far the number of a new key was its place in these
        late = numbers >= known
        numbers[late] = final[numbers[late] - known]
        self._slots[slot[new]] = numbers[new]
        self._keys.append(keys[new])
        return numbers, new

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of keys, -1 for those that never came: [n] int64."""
        slot = self._home(keys)
        numbers = np.full(len(keys), -1, dtype=np.int64)
        todo = np.arange(len(keys))
        while len(todo):
            there = self._slots[slot[todo]].astype(np.int64)
            todo, there = todo[there >= 0], there[there >= 0]
            same = self._equal(there, keys, todo, len(self))
            numbers[todo[same]] = there[same]
            todo = todo[~same]
            slot[todo] = (slot[todo] + 1) & (len(self._slots) - 1)
        return numbers

    def close(self) -> None:
        """Lets go of the file."""
        self._keys.close()

    def _home(self, keys: np.ndarray) -> np.ndarray:
        first = keys if keys.ndim == 1 else keys[:, 0]
        return (mix(first) & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _equal(self, numbers: np.ndarray, keys: np.ndarray, places: np.ndarray, known: int) -> np.ndarray:
        """Whether the keys of some numbers (from ``known`` on those of places of ``keys``) are those of some places."""
        there = keys[np.maximum(numbers - known, 0)]
        old = numbers < known
        there[old] = self._keys.values[numbers[old]]
        same = there == keys[places]
        return same if same.ndim == 1 else same.all(1)

    def _reserve(self, count: int) -> None:
        if count <= _LOAD * len(self._slots):
            return
        size = len(self._slots)
        while count > _LOAD * size:
            size *= 2
        del self._slots  # before the larger ones are there
        self._slots = np.full(size, -1, dtype=np.int32)
        for low in range(0, len(self), _AT_A_TIME):
            part = self._keys.values[low : low + _AT_A_TIME]
            slot = self._home(part)
            todo = np.arange(len(part))
            while len(todo):
                free = todo[self._slots[slot[todo]] < 0]
                self._slots[slot[free]] = low + free
                todo = todo[self._slots[slot[todo]] != low + todo]
                slot[todo] = (slot[todo] + 1) & (size - 1)
