"""Texts to embeddings, shard by shard: tokenised in the background, shared by processes, kept on disk if asked.

Whatever floating-point arithmetic sees together is one shard, whose texts do not depend on the number of processes:
sorting by length and padding happen inside it. Processes take whole shards in turn, so embeddings are the same to the
last bit for any number of them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.cache import cache_dir, write_atomic
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.benchmarks.base import Benchmark, Text

Kind = Literal["query", "passage"]
Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

PREPARED_SHARDS = 2
"""Shards that are read and tokenised ahead of the one being encoded."""


class TextEncoder(Protocol):
    """What evaluation asks of a model.

    One that also has ``tokenize(texts, kind)`` and ``encode_token_ids(token_ids)``, as ``BiEncoder`` has, is tokenised
    for in the background; one that has ``fingerprint()`` can have its embeddings kept on disk.
    """

    def encode(self, texts: Sequence[Text], kind: Kind) -> Tensor:
        """Embeds texts, without gradient and with dropout off.

        Must work on one process alone: ranks call it a different number of times.

        Returns:
            [texts, dim] float32, each row of length 1, in the order of the texts, on any device.
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


# ---------------------------------------------------------------------------------------------------------- shards


@dataclass(frozen=True)
class Shard:
    """Documents of one language that are encoded, and multiplied with the queries, together."""

    number: int
    language: int
    documents: range | np.ndarray
    """Their indices in the benchmark."""

    def __len__(self) -> int:
        return len(self.documents)

    def of(self, values: Any) -> Any:
        """The shard's part of a sequence or an array over the documents."""
        if isinstance(self.documents, range):
            return values[self.documents.start : self.documents.stop]
        if isinstance(values, np.ndarray):
            return values[self.documents]
        return [values[i] for i in self.documents.tolist()]

    def tensor(self, device: torch.device) -> Tensor:
        """[documents] int64: their indices in the benchmark."""
        if isinstance(self.documents, range):
            return torch.arange(self.documents.start, self.documents.stop, device=device)
        return torch.as_tensor(self.documents, dtype=torch.int64, device=device)


def shard_ranges(size: int, shard_size: int) -> list[range]:
    """Ranges of ``shard_size`` indices that cover ``range(size)``; the last may be shorter."""
    return [range(start, min(start + shard_size, size)) for start in range(0, size, shard_size)]


def document_shards(document_languages: np.ndarray, shard_size: int) -> list[Shard]:
    """Shards that hold one language each, language by language; within it in the order of the documents.

    Where each language's documents follow one another no list of indices is made: a corpus of tens of millions costs
    nothing here.
    """
    if not len(document_languages):
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(document_languages)) + 1])
    stops = [*starts[1:].tolist(), len(document_languages)]
    codes = document_languages[starts].tolist()
    whole: dict[int, range | np.ndarray] = {}
    if len(set(codes)) == len(codes):
        whole = {code: range(start, stop) for code, start, stop in zip(codes, starts.tolist(), stops, strict=True)}
    else:
        whole = {code: np.flatnonzero(document_languages == code) for code in codes}
    parts = [
        (code, documents[part.start : part.stop])
        for code, documents in sorted(whole.items())
        for part in shard_ranges(len(documents), shard_size)
    ]
    return [Shard(number, code, documents) for number, (code, documents) in enumerate(parts)]


# ------------------------------------------------------------------------------------------------ embeddings on disk


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings of shards on disk, found by what they were made of.

    A file is named by the hash of its shard's texts, in a folder named by the hash of the encoder (weights, tokenizer,
    lengths, prefixes, precision): nothing can be out of date. Files are written whole or not at all, so an evaluation
    that was cut off goes on with the first shard that has none.
    """

    folder: Path

    @classmethod
    def of(cls, fingerprint: str) -> EmbeddingCache:
        """That of an encoder with this fingerprint."""
        return cls(cache_dir() / "embeddings" / fingerprint[:32])

    def check_space(self, texts: int, dim: int) -> None:
        """Raises a UserError if the disk cannot hold that many embeddings beside those that are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = 0
        for path in self.folder.glob("[0-9a-f]*.npy"):
            with suppress(FileNotFoundError):
                there += path.stat().st_size
        needed, free = texts * dim * 4 - there, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"evaluation.cache_embeddings=true: {needed / 1e9:.1f} GB of embeddings do not fit in {self.folder} "
                f"({free / 1e9:.1f} GB free); set HYBRID_IR_CACHE to a larger disk, or "
                f"evaluation.cache_embeddings=false"
            )

    def path(self, kind: Kind, texts: Sequence[Text], additional: Mapping[int, Sequence[str]], weight: float) -> Path:
        """Where the embeddings of these texts are."""
        digest = hashlib.sha256(json.dumps([kind, weight if additional else 0]).encode())
        for text in texts:
            for part in (text,) if isinstance(text, str) else text:
                encoded = part.encode(errors="surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(b"|")
        if additional:
            digest.update(json.dumps(sorted((int(i), list(t)) for i, t in additional.items())).encode())
        return self.folder / f"{digest.hexdigest()[:40]}.npy"

    @staticmethod
    def read(path: Path, rows: int) -> Tensor | None:
        """[rows, dim] float32; None where there are none, or a damaged file."""
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return torch.from_numpy(values) if values.ndim == 2 and values.shape[0] == rows else None

    @staticmethod
    def write(path: Path, embeddings: Tensor) -> None:
        """Keeps them.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        content = io.BytesIO()
        np.save(content, embeddings.cpu().numpy())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.getvalue())
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); set HYBRID_IR_CACHE to another folder, or "
                f"evaluation.cache_embeddings=false"
            ) from error


# -------------------------------------------------------------------------------------------------------- encoding


@dataclass
class _Prepared:
    """A shard that is ready for the encoder."""

    size: int
    embeddings: Tensor | None = None
    path: Path | None = None
    texts: Sequence[Text] | None = None
    token_ids: list[list[int]] | None = None
    additional: Mapping[int, Sequence[str]] = field(default_factory=dict)
    additional_ids: list[list[int]] | None = None


class ShardEncoder:
    """Encodes shards of texts, with what can be done ahead done ahead.

    Args:
        encoder: the model.
        kind: whether the texts are queries or passages.
        cache: embeddings on disk, or None.
        weight: of the mean embedding of texts that were generated for a passage.
    """

    def __init__(
        self, encoder: TextEncoder, kind: Kind, cache: EmbeddingCache | None = None, weight: float = 0.5
    ) -> None:
        self.encoder, self.kind, self.cache, self.weight = encoder, kind, cache, weight
        self.separate = hasattr(encoder, "tokenize") and hasattr(encoder, "encode_token_ids")

    def prepare(self, texts: Sequence[Text], additional: Mapping[int, Sequence[str]]) -> _Prepared:
        """Looks for embeddings on disk, else tokenises. Runs beside the encoder.

        Args:
            texts: a shard's.
            additional: texts generated for some of them, by place in ``texts``.
        """
        prepared = _Prepared(len(texts))
        if self.cache is not None:
            prepared.path = self.cache.path(self.kind, texts, additional, self.weight)
            prepared.embeddings = self.cache.read(prepared.path, len(texts))
        if prepared.embeddings is None:
            prepared.additional = additional
            if self.separate:
                tokenize: Callable[..., list[list[int]]] = self.encoder.tokenize  # type: ignore[attr-defined]
                prepared.token_ids = tokenize(texts, self.kind)
                if additional:
                    prepared.additional_ids = tokenize([t for part in additional.values() for t in part], "query")
            else:
                prepared.texts = texts
        return prepared

    def embed(self, prepared: _Prepared) -> Tensor:
        """[texts, dim] float32.

        Raises:
            FloatingPointError: an embedding is not finite; its argument is the place of the first.
        """
        if prepared.embeddings is not None:
            return prepared.embeddings.to(getattr(self.encoder, "device", "cpu"))
        if prepared.token_ids is not None:
            encode_ids: Callable[..., Tensor] = self.encoder.encode_token_ids  # type: ignore[attr-defined]
            embeddings = encode_ids(prepared.token_ids)
        else:
            assert prepared.texts is not None
            embeddings = self.encoder.encode(prepared.texts, self.kind)
        embeddings = embeddings.detach().float()
        if prepared.additional:
            if prepared.additional_ids is not None:
                generated = encode_ids(prepared.additional_ids)
            else:
                generated = self.encoder.encode([t for part in prepared.additional.values() for t in part], "query")
            embeddings = self._averaged(embeddings, generated.detach().float(), prepared.additional)
        finite = torch.isfinite(embeddings).all(dim=1)
        if not bool(finite.all()):
            raise FloatingPointError(int(torch.nonzero(~finite)[0]))
        if prepared.path is not None and self.cache is not None:
            self.cache.write(prepared.path, embeddings)
        return embeddings

    def _averaged(self, embeddings: Tensor, generated: Tensor, additional: Mapping[int, Sequence[str]]) -> Tensor:
        """Passages joined by their generated texts (xQG, arXiv 2305.03950): (1 - w) passage + w mean, normalised."""
        embeddings = embeddings.clone()
        start = 0
        for place, texts in additional.items():
            mean = generated[start : start + len(texts)].mean(dim=0)
            joined = (1 - self.weight) * embeddings[place] + self.weight * mean
            embeddings[place] = torch.nn.functional.normalize(joined, dim=0)
            start += len(texts)
        return embeddings

    def stream(
        self, parts: Sequence[Callable[[], tuple[Sequence[Text], Mapping[int, Sequence[str]]]]]
    ) -> Iterator[Tensor]:
        """Embeddings of each part, in order; a part is read (called) and tokenised while earlier ones are encoded."""

        def work(read: Callable[[], tuple[Sequence[Text], Mapping[int, Sequence[str]]]]) -> _Prepared:
            return self.prepare(*read())

        waiting: deque[Future[_Prepared]] = deque()
        upcoming = iter(parts)
        with ThreadPoolExecutor(1, "tokenise") as background:
            try:
                waiting.extend(background.submit(work, part) for part in itertools.islice(upcoming, PREPARED_SHARDS))
                while waiting:
                    prepared = waiting.popleft().result()
                    waiting.extend(background.submit(work, part) for part in itertools.islice(upcoming, 1))
                    yield self.embed(prepared)
            finally:
                for future in waiting:
                    future.cancel()


def encode_documents(
    encoder: TextEncoder,
    benchmark: Benchmark,
    shards: Sequence[Shard],
    cache: EmbeddingCache | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[Shard, Tensor]]:
    """Each shard with its embeddings [documents, dim], one at a time: memory does not grow with the corpus.

    Raises:
        UserError: an embedding is not finite.
        EvaluationStopped: ``should_stop`` said so.
    """
    coder = ShardEncoder(encoder, "passage", cache, benchmark.passage_queries_weight)

    def read(shard: Shard) -> tuple[Sequence[Text], Mapping[int, Sequence[str]]]:
        additional: dict[int, Sequence[str]] = {}
        if benchmark.passage_queries:
            for place, document in enumerate(shard.documents):
                if int(document) in benchmark.passage_queries:
                    additional[place] = benchmark.passage_queries[int(document)]
        return shard.of(benchmark.documents), additional

    embedded = coder.stream([partial(read, shard) for shard in shards])
    for shard in shards:
        if should_stop is not None and should_stop():
            raise EvaluationStopped
        with finite("passage", len(benchmark.documents), lambda place: int(shard.documents[place])):  # noqa: B023
            embeddings = next(embedded)
        if progress is not None:
            progress("encoding passages", int(shard.documents[-1]) + 1, len(benchmark.documents))
        yield shard, embeddings


@contextmanager
def finite(kind: Kind, texts: int, index: Callable[[int], int]) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise UserError(
            f"{kind} {index(error.args[0])} of {texts} has an embedding that is not finite; the model has diverged: "
            f"use an earlier checkpoint, or train with a smaller optimizer.lr"
        ) from error


def encode_in_shards(
    encoder: TextEncoder,
    texts: Sequence[Text],
    kind: Kind,
    shard_size: int,
    cache: EmbeddingCache | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Embeds all texts; shard ``i`` is encoded by rank ``i % processes`` and sent to all. Collective.

    Returns:
        [texts, dim] float32, the same on every rank.

    Raises:
        UserError: an embedding is not finite.
        EvaluationStopped: ``should_stop`` said so on some rank.
    """

    def read(shard: range) -> tuple[Sequence[Text], Mapping[int, Sequence[str]]]:
        return texts[shard.start : shard.stop], {}

    rank, size = world()
    shards = shard_ranges(len(texts), shard_size)
    mine: dict[int, Tensor] = {}
    with all_ranks():
        numbers = range(rank, len(shards), size)
        embedded = ShardEncoder(encoder, kind, cache).stream([partial(read, shards[i]) for i in numbers])
        for i in numbers:
            if should_stop is not None and should_stop():
                raise EvaluationStopped
            with finite(kind, len(texts), lambda place: shards[i][place]):  # noqa: B023
                part = next(embedded)
            mine[i] = part.to(exchange_device(part.device))
            if progress is not None:
                done = shards[min(i + size, len(shards)) - 1].stop
                progress("encoding queries" if kind == "query" else "encoding passages", done, len(texts))
    if size == 1:
        return torch.cat(list(mine.values())) if mine else torch.zeros(0, 0)
    return share({i: (shards[i], part) for i, part in mine.items()}, shards, len(texts))


def share(mine: Mapping[int, tuple[Any, Tensor]], shards: Sequence[range], texts: int) -> Tensor:
    """[texts, dim] embeddings on every rank, from those of the shards that each rank has. Collective."""
    _, size = world()
    dims: list[int] = [0] * size
    dist.all_gather_object(dims, next(iter(mine.values()))[1].shape[1] if mine else 0)
    embeddings = torch.empty(texts, max(dims), device=exchange_device())
    for i, shard in enumerate(shards):
        block = embeddings[shard.start : shard.stop]
        if i in mine:
            block.copy_(mine[i][1])
        dist.broadcast(block, src=i % size)
    return embeddings
