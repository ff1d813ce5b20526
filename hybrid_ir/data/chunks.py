"""Chunks: the rows of a batch that go through the encoder together, formed by length after the batch is drawn.

What a batch holds does not change by this, only the order in which its rows are encoded, what they are padded to, and
how many of them have their activations in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Chunk(NamedTuple):
    """Padded texts of a batch, in the order in which they are encoded."""

    input_ids: Tensor
    """``[rows, tokens]`` int64, padded on the right to the longest of the chunk."""
    attention_mask: Tensor
    """``[rows, tokens]`` int64: 1 at tokens, 0 at padding."""
    rows: Tensor
    """``[rows]`` int64: each text's place in the batch."""


def length_chunks(
    lengths: Sequence[int] | np.ndarray, max_rows: int | None = None, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Divides texts into chunks of like length.

    Args:
        lengths: tokens of each text.
        max_rows: texts of a chunk at most.
        max_tokens: tokens of a chunk at most, padding included; a text that is longer stands alone.

    Returns:
        Places of the texts in ``lengths``, int64, a chunk each; every text once. Longest first, so that memory runs
        out in the first chunk or never; texts of equal length keep their order. Without any limit one chunk, in the
        order of ``lengths``.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if max_rows is None and max_tokens is None:
        return [np.arange(len(lengths))] if len(lengths) else []
    order = np.argsort(-lengths, kind="stable")
    chunks, start = [], 0
    while start < len(order):
        widest = max(int(lengths[order[start]]), 1)
        size = len(order) if max_tokens is None else max(max_tokens // widest, 1)
        if max_rows is not None:
            size = min(size, max_rows)
        chunks.append(order[start : start + size])
        start += size
    return chunks
