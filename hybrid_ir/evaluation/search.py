"""Exact search over shards of a corpus: a running top k, and ranks that are counted instead of sorted.

Order is decided on one integer per query and document (``ranking_keys``), in which the score and the tie rule are one
comparison. Two things follow. A running top k is exact whatever the order in which shards come: it is the k largest
integers. And the rank of a document is one plus the number of larger integers, which can be summed over shards and
processes without ever holding the pool.

Results are bitwise equal for any number of processes: a product sees one shard and one chunk of queries, both of which
depend on sizes in the configuration only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.evaluation.encoding import exchange_device, world

CHUNK = 512
"""Queries that are multiplied with a shard at a time."""
NO_KEY = torch.iinfo(torch.int64).min
"""Below every key: an empty place of a ranking."""
NO_DOCUMENT = torch.iinfo(torch.int64).max
"""Above every key: no document stands above it."""
_SCORE_BITS = 32


def scores(queries: Tensor, documents: Tensor) -> Tensor:
    """[queries, documents] inner products in full fp32: no autocast, no TF32, whatever the training runs with.

    Args:
        queries: [queries, dim] float32.
        documents: [documents, dim] float32.
    """
    with _full_precision(queries.device):
        return queries @ documents.T


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# ------------------------------------------------------------------------------------------------------------ keys


def ranking_keys(values: Tensor, order: Tensor) -> Tensor:
    """One integer per score whose order is the ranking's: by score, then by document id, both descending.

    The upper 32 bits hold the fp32 score, mapped to an integer of the same order (the bits of a negative number are
    flipped but for its sign); the lower 32 hold the document's place in ascending order of ids. trec_eval breaks ties
    the same way. Keys of one query are distinct.

    Args:
        values: [..., documents] float32 scores, finite.
        order: [documents] int64: place of each document in ascending order of ids.

    Returns:
        [..., documents] int64.
    """
    bits = (values + 0.0).view(torch.int32)  # adding 0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << _SCORE_BITS) + order


def key_scores(keys: Tensor) -> Tensor:
    """The float32 scores inside ``ranking_keys``."""
    ordered = (keys >> _SCORE_BITS).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def tie_order(ids: Sequence[str]) -> np.ndarray:
    """[documents] int64: place of each id in ascending order of code points, which is that of UTF-8 bytes."""
    order = np.empty(len(ids), dtype=np.int64)
    order[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return order


# ---------------------------------------------------------------------------------------------------------- counts


def count_above(keys: Tensor, thresholds: Tensor) -> Tensor:
    """How many of the documents stand above each threshold.

    A threshold must be the key of its document as it came out of the product of its shard with the same chunk: a score
    computed anew might differ in its last bit, and a document would then stand above or below itself.

    Args:
        keys: [queries, documents] from ``ranking_keys``.
        thresholds: [queries, R] keys of documents of any shard, padded with ``NO_DOCUMENT``.

    Returns:
        [queries, R] int64; 0 at padding.
    """
    n, width = thresholds.shape
    ascending, place = thresholds.sort(dim=1)
    below = torch.searchsorted(ascending, keys, side="left")  # thresholds below each document; not itself
    below += torch.arange(n, device=keys.device).unsqueeze(1) * (width + 1)
    histogram = torch.bincount(below.flatten(), minlength=n * (width + 1)).view(n, width + 1)
    # A document above j + 1 thresholds or more is above the j-th.
    above_sorted = histogram.flip(1).cumsum(1).flip(1)[:, 1:]
    return torch.zeros_like(above_sorted).scatter_(1, place, above_sorted)


# ----------------------------------------------------------------------------------------------------------- top k


class TopK:
    """The best documents of each query among all that were shown to it.

    Documents that beat a query's last place, as it was when places were last sorted out, are appended to a buffer;
    when a buffer is full, places are sorted out again. After the first shards few documents pass that comparison, so
    that a shard costs little more than its product.

    Args:
        queries: number of queries.
        depth: documents to keep for each.
        device: where.
    """

    def __init__(self, queries: int, depth: int, device: torch.device | str = "cpu") -> None:
        self.depth = depth
        self.room = max(depth, 256)
        self.keys = torch.full((queries, depth + self.room), NO_KEY, dtype=torch.int64, device=device)
        self.documents = torch.full((queries, depth + self.room), -1, dtype=torch.int64, device=device)
        self.filled = torch.zeros(queries, dtype=torch.int64, device=device)
        self.floor = torch.full((queries,), -torch.inf, device=device)

    def update(self, rows: slice, values: Tensor, order: Tensor, documents: Tensor) -> None:
        """Shows documents to some queries.

        Args:
            rows: the queries.
            values: [rows, n] float32 scores.
            order: [n] int64: place of each document in ascending order of ids.
            documents: [n] int64: what the documents are called in the result.
        """
        passing = values >= self.floor[rows].unsqueeze(1)
        counts = passing.sum(dim=1)
        if int((self.filled[rows] + counts).max()) > self.room:
            if bool(self.filled[rows].any()):
                self._sort_out(rows)
                passing = values >= self.floor[rows].unsqueeze(1)
                counts = passing.sum(dim=1)
            if int(counts.max()) > self.room:
                self._update_whole(rows, values, order, documents)
                return
        row, column = passing.nonzero(as_tuple=True)
        first = counts.cumsum(0) - counts
        place = self.depth + (self.filled[rows] - first)[row] + torch.arange(len(row), device=row.device)
        self.keys[rows][row, place] = ranking_keys(values[row, column], order[column])
        self.documents[rows][row, place] = documents[column]
        self.filled[rows] += counts

    def _update_whole(self, rows: slice, values: Tensor, order: Tensor, documents: Tensor) -> None:
        best = ranking_keys(values, order).topk(min(self.depth, values.shape[1]), dim=1)
        self._keep(
            rows,
            torch.cat([self.keys[rows, : self.depth], best.values], dim=1),
            torch.cat([self.documents[rows, : self.depth], documents[best.indices]], dim=1),
        )

    def _sort_out(self, rows: slice) -> None:
        used = self.depth + int(self.filled[rows].max())
        self._keep(rows, self.keys[rows, :used], self.documents[rows, :used])

    def _keep(self, rows: slice, keys: Tensor, documents: Tensor) -> None:
        best = keys.topk(self.depth, dim=1)
        self.documents[rows, : self.depth] = documents.gather(1, best.indices)
        self.keys[rows, : self.depth] = best.values
        self.keys[rows, self.depth :] = NO_KEY
        self.filled[rows] = 0
        last = best.values[:, -1]
        self.floor[rows] = torch.where(last == NO_KEY, -torch.inf, key_scores(last))

    def state(self) -> dict[str, Tensor]:
        """What is kept so far; ``load`` goes on from it."""
        self._sort_all()
        return {name: getattr(self, name)[:, : self.depth].cpu().clone() for name in ("keys", "documents")}

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from ``state()``."""
        device = self.keys.device
        self._keep(slice(None), state["keys"].to(device), state["documents"].to(device))

    def _sort_all(self) -> None:
        for start in range(0, len(self.filled), CHUNK):
            self._sort_out(slice(start, start + CHUNK))

    def ranking(self) -> tuple[Tensor, Tensor]:
        """The best documents of all ranks together, best first. Collective.

        Returns:
            Keys [queries, depth] int64, ``NO_KEY`` where there are fewer, and documents [queries, depth] int64, there
            -1; both on the CPU.
        """
        self._sort_all()
        _, size = world()
        if size > 1 and len(self.filled):
            device = exchange_device()
            parts = []
            for mine in (self.keys, self.documents):
                mine = mine[:, : self.depth].to(device).contiguous()
                gathered = [torch.empty_like(mine) for _ in range(size)]
                dist.all_gather(gathered, mine)
                parts.append(torch.cat(gathered, dim=1).to(self.keys.device))
            self._keep(slice(None), *parts)
        return self.keys[:, : self.depth].cpu(), self.documents[:, : self.depth].cpu()
