"""Token ids of all texts of a corpus, made once and memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hybrid_ir import cache


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
        self.ids = np.memmap(folder / "ids.int32", dtype="<i4", mode="r")
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
        cls, chunks: Iterable[list[str]], tokenize: Tokenize, key: dict[str, Any], verify: bool = False
    ) -> TokenStore:
        """The ids of texts, from the cache if they were made before.

        Args:
            chunks: the texts in order, some at a time.
            tokenize: used only when the ids are not in the cache.
            key: what decides the ids: texts, tokenizer, prefix, maximum length.
        """

        def make(folder: Path) -> dict[str, Any]:
            lengths = []
            with (folder / "ids.int32").open("wb") as file:  # as they come: the ids of a large corpus are many GB
                for texts in chunks:
                    rows = tokenize(texts)
                    lengths.append(np.fromiter((len(r) for r in rows), dtype=np.int64, count=len(rows)))
                    np.fromiter((i for r in rows for i in r), dtype="<i4", count=int(lengths[-1].sum())).tofile(file)
            counts = np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int64)
            np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
            return {"texts": len(counts), "tokens": int(counts.sum())}

        folder, made = cache.entry("tokens", key, make, verify=verify)
        return cls(folder, made)
