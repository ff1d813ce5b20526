"""Token ids of all texts of a corpus, made once and memory-mapped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from hybrid_ir import cache
from hybrid_ir.data.progress import RowsProgress

_IDS = "ids.int32"


class Tokenize(Protocol):
    """Texts to token ids: prefix put before, truncated, special tokens added."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]: ...


class TokenStore:
    """Token ids of texts, by row.

    Attributes:
        offsets: [texts + 1] int64; the ids of row r are ``ids[offsets[r]:offsets[r + 1]]``.
    """

    def __init__(self, folder: Path, made_now: bool) -> None:
        self.made_now = made_now
        self.ids = np.memmap(folder / _IDS, dtype="<i4", mode="r")
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows (of all without), [n] int64."""
        if rows is None:
            return np.diff(self.offsets)
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def padded(self, rows: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of rows, padded to the longest of them: both [n, longest] int64."""
        lengths = self.lengths(rows)
        width = int(lengths.max(initial=1))
        mask = np.arange(width) < lengths[:, None]
        ids = np.full((len(rows), width), pad, dtype=np.int64)
        starts = self.offsets[rows]
        source = (starts[:, None] + np.arange(width))[mask]
        ids[mask] = self.ids[source]
        return ids, mask.astype(np.int64)

    @classmethod
    def build(
        cls,
        chunks: Iterable[list[str]],
        tokenize: Tokenize,
        key: dict[str, Any],
        verify: bool = False,
        total: int | None = None,
    ) -> TokenStore:
        """The ids of texts, from the cache if they were made before; one who was killed goes on where he was.

        Args:
            chunks: the texts in order, some at a time; the same ones every time.
            tokenize: used only when the ids are not in the cache.
            key: what decides the ids: texts, tokenizer, prefix, maximum length.
            total: texts there are, for the time that is left.
        """

        def make(folder: Path) -> dict[str, Any]:
            partial = folder.with_name(f"{folder.name}.partial")
            partial.mkdir(exist_ok=True)
            counts = _tokenize(chunks, tokenize, partial, total)
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            np.save(folder / "offsets.npy", offsets)
            (partial / _IDS).replace(folder / _IDS)
            shutil.rmtree(partial)
            return {"texts": len(counts), "tokens": int(offsets[-1])}

        folder, made = cache.entry("tokens", key, make, verify=verify)
        return cls(folder, made)


def _tokenize(chunks: Iterable[list[str]], tokenize: Tokenize, folder: Path, total: int | None) -> np.ndarray:
    """Adds the ids of texts to a folder's, which may have those of the first texts; returns tokens of each text."""
    with (
        (folder / _IDS).open("a+b") as ids,
        (folder / "lengths.int64").open("a+b") as lengths,
        RowsProgress("tokenising") as progress,
    ):
        lengths.seek(0)
        there = np.fromfile(lengths, dtype="<i8")  # whole numbers only, should a machine have gone down
        if ids.seek(0, os.SEEK_END) < 4 * there.sum():  # they were moved to an entry that was not completed
            there = there[:0]
        lengths.truncate(there.nbytes)
        done, tokens = len(there), int(there.sum())
        ids.truncate(4 * tokens)  # ids are written before their lengths
        seen = 0
        for chunk in chunks:
            texts = chunk[max(done - seen, 0) :]
            seen += len(chunk)
            if not texts:
                continue
            rows = tokenize(texts)
            counts = np.fromiter(map(len, rows), dtype="<i8", count=len(rows))
            ids.write(np.fromiter(chain.from_iterable(rows), dtype="<i4", count=int(counts.sum())).tobytes())
            _keep(ids)
            lengths.write(counts.tobytes())
            _keep(lengths)
            progress(len(texts), None if total is None else seen / total)
        lengths.seek(0)
        return np.frombuffer(lengths.read(), dtype="<i8")


def _keep(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
