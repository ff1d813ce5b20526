"""Streamed search at size: memory of the real evaluation, and time beside one plain matrix product plus top k.

The corpus is synthetic (2 million documents whose ids and texts are made when they are read), and random vectors take
the encoder's place. First the whole evaluation runs over it, and resident memory is looked at after each shard. Then,
shard by shard in turn, the time of the running top k and of a plain product with ``topk`` of each shard (not merged,
which the running top k does) is taken.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from hybrid_ir.config import EvaluationConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.search import CHUNK, TopK, scores

SHARD = 4096


class MadeWhenRead(Sequence[str]):
    """Texts or ids that exist while they are looked at."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | slice) -> str | list[str]:  # type: ignore[override]
        if isinstance(key, slice):
            return [f"{i:010d}" for i in range(*key.indices(self.size))]
        return f"{key:010d}"


class Places:
    """Ascending order of those ids: that of the numbers."""

    def __getitem__(self, key: slice) -> np.ndarray:
        return np.arange(key.start, key.stop)


class RandomEncoder:
    """Random unit vectors; the same for the same texts."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str], kind: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(texts[0]) + (kind == "query"))
        return torch.nn.functional.normalize(torch.randn(len(texts), self.dim, generator=generator), dim=1)


def memory(documents: int, queries: int, dim: int, depth: int) -> tuple[list[float], float]:
    """Resident GB after each shard, and seconds."""
    judgments = np.stack([np.arange(queries), np.arange(queries) * 7 % documents, np.ones(queries, dtype=int)], axis=1)
    benchmark = Benchmark(
        name="synthetic",
        query_ids=[str(i) for i in range(queries)],
        query_languages=np.zeros(queries, dtype=np.uint8),
        queries=[str(i) for i in range(queries)],
        document_ids=MadeWhenRead(documents),
        document_languages=np.zeros(documents, dtype=np.uint8),
        documents=MadeWhenRead(documents),
        judgments=judgments,
        languages=("en",),
        settings=("monolingual",),
        depth=depth,
        document_order=Places(),  # type: ignore[arg-type]
    )
    process, seen = psutil.Process(), []

    def look(what: str, done: int, total: int) -> None:
        if what == "encoding passages":
            seen.append(process.memory_info().rss / 1e9)

    begin = time.perf_counter()
    evaluate(RandomEncoder(dim), benchmark, EvaluationConfig(shard_size=SHARD), 0, progress=look)
    return seen, time.perf_counter() - begin


def ratio(documents: int, queries: int, dim: int, depth: int) -> tuple[float, float]:
    """Seconds of the running top k, and of a plain product and top k, over the same shards."""
    encoder = RandomEncoder(dim)
    asked = encoder.encode([str(i) for i in range(queries)], "query")
    chunks = [slice(start, min(start + CHUNK, queries)) for start in range(0, queries, CHUNK)]
    running = TopK(queries, depth)

    def ours(embeddings: torch.Tensor, order: torch.Tensor) -> None:
        for rows in chunks:
            running.update(rows, scores(asked[rows], embeddings), order, order)

    def plain(embeddings: torch.Tensor, order: torch.Tensor) -> None:
        for rows in chunks:
            (asked[rows] @ embeddings.T).topk(min(depth, len(embeddings)), dim=1)

    spent: dict[Callable[[torch.Tensor, torch.Tensor], None], float] = {ours: 0.0, plain: 0.0}
    for number, start in enumerate(range(0, documents, SHARD)):
        order = torch.arange(start, min(start + SHARD, documents))
        embeddings = encoder.encode([str(i) for i in order.tolist()], "passage")
        for work in (ours, plain) if number % 2 else (plain, ours):
            begin = time.perf_counter()
            work(embeddings, order)
            spent[work] += time.perf_counter() - begin
    begin = time.perf_counter()
    running.ranking()
    return spent[ours] + time.perf_counter() - begin, spent[plain]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=800)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    console = Console(width=100)
    console.print(
        f"{args.documents:,} documents, {args.queries} queries, {args.dim} dimensions, shards of {SHARD}, fp32, "
        f"{torch.get_num_threads()} threads"
    )
    table = Table("depth", "first shard", "a tenth in", "half in", "last", "most", "seconds", title_justify="left")
    table.title = "the whole evaluation: resident memory, GB"
    for depth in args.depth:
        seen, seconds = memory(args.documents, args.queries, args.dim, depth)
        picked = [seen[0], seen[len(seen) // 10], seen[len(seen) // 2], seen[-1], max(seen)]
        table.add_row(str(depth), *(f"{value:.3f}" for value in picked), f"{seconds:.0f}")
    console.print(table)
    table = Table("depth", "running top k, s", "product and top k, s", "ratio, median", "ratios", title_justify="left")
    table.title = "search beside one plain product plus top k"
    for depth in args.depth:
        rounds = [ratio(args.documents, args.queries, args.dim, depth) for _ in range(args.rounds)]
        ratios = [ours / plain for ours, plain in rounds]
        table.add_row(
            str(depth),
            f"{statistics.median(ours for ours, _ in rounds):.1f}",
            f"{statistics.median(plain for _, plain in rounds):.1f}",
            f"{statistics.median(ratios):.2f}",
            " ".join(f"{value:.2f}" for value in ratios),
        )
    console.print(table)


if __name__ == "__main__":
    main()
