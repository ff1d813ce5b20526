"""Exact search: texts are encoded shard by shard, and relevant documents are ranked by counting, not by sorting.

Every number that is reported depends only on the rank of each relevant document within a pool. A rank is one plus the
number of documents above, so the pool need not be sorted, and one pass serves all pools: counts per language give the
rank in one language's documents (that language's count) and in the union (their sum).

Results are bitwise equal for any number of processes. Whatever floating-point arithmetic sees together (texts in a
shard, queries in a chunk, documents in a product) depends on sizes in the configuration only; processes take whole
shards and whole chunks in turn. Order is decided on one integer per query and document (``ranking_keys``), in which
the score and the tie rule are one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.errors import UserError

Kind = Literal["query", "passage"]
Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

CHUNK_ELEMENTS = 2**23
"""Scores held at a time: a chunk has as many queries as keep [queries, documents] below this (8 bytes each)."""
MAX_CHUNK = 512
"""Queries in a chunk at most."""
_SCORE_BITS = 32
_NO_DOCUMENT = torch.iinfo(torch.int64).max


class TextEncoder(Protocol):
    """What evaluation asks of a model."""

    def encode(self, texts: Sequence[str | tuple[str, str]], kind: Kind) -> Tensor:
        """Embeds texts, without gradient and with dropout off.

        Must work on one process alone: ranks call it a different number of times.

        Returns:
            [texts, dim] float32, each row of length 1, in the order of the texts.
        """
        ...


class EvaluationStopped(Exception):
    """The caller's ``should_stop`` asked to give up; raised on all ranks."""


# ------------------------------------------------------------------------------------------------------- processes


def world() -> tuple[int, int]:
    """(rank, number of processes): (0, 1) where torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def exchange_device(tensor_device: torch.device | None = None) -> torch.device:
    """The device on which tensors are exchanged: CUDA for NCCL, the CPU for gloo, else where the tensor is."""
    if world()[1] > 1:
        return (
            torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
        )
    return tensor_device or torch.device("cpu")


@contextmanager
def all_ranks() -> Iterator[None]:
    """Runs one rank's share of the work; if it fails on any rank, raises on every rank. Collective.

    Otherwise the others would wait, until the collective's time-out, for a rank that has gone.

    Raises:
        Exception: this rank's problem, else that of the first rank that has one.
    """
    problem: Exception | None = None
    try:
        yield
    except Exception as error:
        problem = error
    rank, size = world()
    if size > 1:
        told = problem
        if problem is not None and not isinstance(problem, UserError | EvaluationStopped):
            # Not every exception can be pickled.
            told = RuntimeError(f"on rank {rank}: {type(problem).__name__}: {problem}")
        problems: list[Exception | None] = [None] * size
        dist.all_gather_object(problems, told)
        problem = problem or next((p for p in problems if p is not None), None)
    if problem is not None:
        raise problem


# -------------------------------------------------------------------------------------------------------- encoding


def shard_ranges(size: int, shard_size: int) -> list[range]:
    """Ranges of ``shard_size`` indices that cover ``range(size)``; the last may be shorter."""
    return [range(start, min(start + shard_size, size)) for start in range(0, size, shard_size)]


def encode_in_shards(
    encoder: TextEncoder,
    texts: Sequence[str | tuple[str, str]],
    kind: Kind,
    shard_size: int,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Embeds all texts; shard ``i`` is encoded by rank ``i % processes`` and sent to all. Collective.

    Sorting by length and batching happen inside ``encode``, hence inside a shard, so that a text's padding (and with
    it the last bits of its embedding) does not depend on the number of processes.

    Returns:
        [texts, dim] float32, the same on every rank.

    Raises:
        UserError: an embedding is not finite.
        EvaluationStopped: ``should_stop`` said so on some rank.
    """
    rank, size = world()
    shards = shard_ranges(len(texts), shard_size)
    mine: dict[int, Tensor] = {}
    with all_ranks():
        for i in range(rank, len(shards), size):
            if should_stop is not None and should_stop():
                raise EvaluationStopped
            embedded = encoder.encode([texts[t] for t in shards[i]], kind).detach().float()
            finite = torch.isfinite(embedded).all(dim=1)
            if not bool(finite.all()):
                bad = shards[i][int(torch.nonzero(~finite)[0])]
                raise UserError(
                    f"{kind} {bad} of {len(texts)} has an embedding that is not finite; the model has diverged: "
                    f"use an earlier checkpoint, or train with a smaller optimizer.lr"
                )
            mine[i] = embedded.to(exchange_device(embedded.device))
            if progress is not None:
                progress(f"encoding {kind} texts", shards[min(i + size, len(shards)) - 1].stop, len(texts))
    if size == 1:
        return torch.cat(list(mine.values())) if mine else torch.zeros(0, 0)

    dims: list[int] = [0] * size
    dist.all_gather_object(dims, next(iter(mine.values())).shape[1] if mine else 0)
    embeddings = torch.empty(len(texts), max(dims), device=exchange_device())
    for i, shard in enumerate(shards):
        block = embeddings[shard.start : shard.stop]
        if i in mine:
            block.copy_(mine.pop(i))
        dist.broadcast(block, src=i % size)
    return embeddings


# --------------------------------------------------------------------------------------------------------- ranking


def ranking_keys(scores: Tensor, tie_order: Tensor) -> Tensor:
    """One integer per score whose order is the ranking's: by score, then by document id, both descending.

    The upper 32 bits hold the fp32 score, mapped to an integer of the same order (the bits of a negative number are
    flipped but for its sign); the lower 32 hold the document's place in ascending order of ids. trec_eval breaks ties
    the same way. Keys of one query are distinct.

    Args:
        scores: [..., documents] float32, finite.
        tie_order: [documents] int64: place of each document in ascending order of ids.

    Returns:
        [..., documents] int64.
    """
    bits = (scores + 0.0).view(torch.int32)  # adding 0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << _SCORE_BITS) + tie_order


def key_scores(keys: Tensor) -> Tensor:
    """The float32 scores inside ``ranking_keys``."""
    ordered = (keys >> _SCORE_BITS).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def tie_order(ids: Sequence[str]) -> np.ndarray:
    """[documents] int64: place of each id in ascending order of code points, which is that of UTF-8 bytes."""
    order = np.empty(len(ids), dtype=np.int64)
    order[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return order


class ExactSearch:
    """Exact search in a pool of embedded documents.

    Args:
        embeddings: [documents, dim] float32.
        languages: [documents] int: language index of each document.
        num_languages: languages there are.
        ids: unique id of each document.
        shard_size: documents in one matrix product.
    """

    def __init__(
        self, embeddings: Tensor, languages: np.ndarray, num_languages: int, ids: Sequence[str], shard_size: int
    ) -> None:
        if not len(embeddings) == len(languages) == len(ids):
            raise ValueError(f"{len(embeddings)} embeddings, {len(languages)} languages and {len(ids)} ids differ")
        device = embeddings.device
        self.embeddings = embeddings
        self.num_languages = num_languages
        self.languages = torch.as_tensor(languages, dtype=torch.int64, device=device)
        self.tie_order = torch.as_tensor(tie_order(ids), device=device)
        self.shards = shard_ranges(len(ids), shard_size)
        self._of_language: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.embeddings)

    @staticmethod
    def chunk_size(documents: int) -> int:
        """Queries to score at a time in a pool of that many documents: a function of nothing else, so that results
        are the same on every machine."""
        return max(1, min(MAX_CHUNK, CHUNK_ELEMENTS // max(1, documents)))

    def keys(self, queries: Tensor) -> Tensor:
        """[queries, documents] int64 ``ranking_keys`` of the inner products.

        Args:
            queries: [queries, dim] float32.
        """
        keys = torch.empty(len(queries), len(self), dtype=torch.int64, device=self.embeddings.device)
        with _full_precision(self.embeddings.device):
            for shard in self.shards:
                scores = queries @ self.embeddings[shard.start : shard.stop].T
                keys[:, shard.start : shard.stop] = ranking_keys(scores, self.tie_order[shard.start : shard.stop])
        return keys

    def count_above(self, keys: Tensor, documents: Tensor) -> Tensor:
        """Documents of each language that rank above given documents.

        The thresholds are taken from ``keys`` itself: a score computed anew might differ in its last bit from the one
        in the product, and a document would then stand above or below itself.

        Args:
            keys: [queries, documents] from ``keys``.
            documents: [queries, R] int64 indices of documents, padded with -1.

        Returns:
            [queries, R, languages] int64; rows of padding are 0.
        """
        n, width = documents.shape
        padding = documents < 0
        thresholds = keys.gather(1, documents.clamp(min=0)).masked_fill(padding, _NO_DOCUMENT)
        ascending, place = thresholds.sort(dim=1)
        cells = self.num_languages * (width + 1)
        histogram = torch.zeros(n * cells, dtype=torch.int64, device=keys.device)
        rows = torch.arange(n, device=keys.device).unsqueeze(1) * cells
        for shard in self.shards:
            part = slice(shard.start, shard.stop)
            # Thresholds below each document; a document does not count as above itself.
            below = torch.searchsorted(ascending, keys[:, part].contiguous(), side="left")
            below += rows + self.languages[part] * (width + 1)
            histogram += torch.bincount(below.flatten(), minlength=n * cells)
        counts = histogram.view(n, self.num_languages, width + 1)
        # A document above j + 1 thresholds or more is above the j-th.
        above_sorted = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].transpose(1, 2)
        above = torch.zeros_like(above_sorted)
        above.scatter_(1, place.unsqueeze(-1).expand_as(above_sorted), above_sorted)
        return above.masked_fill(padding.unsqueeze(-1), 0)

    def top_k(self, keys: Tensor, k: int, language: int | None = None) -> tuple[Tensor, Tensor]:
        """The best documents of each query, in one language's documents or in all.

        Args:
            keys: [queries, documents] from ``keys``.
            k: documents wanted; fewer are returned where the pool is smaller.
            language: index of the language whose documents are the pool; None for all.

        Returns:
            Document indices [queries, k] int64 and scores [queries, k] float32, best first.
        """
        if language is None:
            best = keys.topk(min(k, len(self)), dim=1)
            return best.indices, key_scores(best.values)
        if language not in self._of_language:
            self._of_language[language] = torch.nonzero(self.languages == language).squeeze(1)
        pool = self._of_language[language]
        best = keys.index_select(1, pool).topk(min(k, len(pool)), dim=1)
        return pool[best.indices], key_scores(best.values)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """fp32 products: no autocast, no TF32, no bf16 whatever the training runs with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
