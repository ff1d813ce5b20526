"""The batch plan at size: 10 million items in 7 languages, ids only.

Prints seconds to the first batch (after imports), rows planned a second, and anonymous resident memory.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from hybrid_ir.config import SamplerConfig
from hybrid_ir.data.items import ItemTable
from hybrid_ir.data.plan import BatchPlan

LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")


def make_table(items: int, ragged: bool) -> ItemTable:
    """Items that all languages have, or random sets of languages; two questions a passage."""
    random = np.random.default_rng(0)
    zero = np.zeros(items, dtype=np.int16)
    passage = (np.arange(items) // 2).astype(np.int32)
    if not ragged:
        return ItemTable(LANGUAGES, ("synthetic",), np.ones((1, 7), dtype=bool), zero, zero, passage)
    patterns = np.unique(random.random((200, 7)) < 0.6, axis=0)
    patterns = patterns[patterns.any(1)]
    return ItemTable(
        LANGUAGES, ("synthetic",), patterns, random.integers(0, len(patterns), items).astype(np.int16), zero, passage
    )


def anonymous_gb() -> float:
    """Anonymous resident memory of this process, GB."""
    memory = psutil.Process().memory_full_info()
    return (memory.rss - getattr(memory, "shared", 0)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    args = parser.parse_args()
    table = Table(title=f"batch plan, {args.items:,} items x {len(LANGUAGES)} languages", title_justify="left")
    for name in ("data", "ratio", "batch", "first batch s", "rows/s (median)", "anonymous GB"):
        table.add_column(name, justify="right")
    for ragged in (False, True):
        items = make_table(args.items, ragged)
        for ratio in (0.0, 0.5, 1.0):
            for batch_size in (128, 1024):
                begin = time.perf_counter()
                plan = BatchPlan(items.restricted(), SamplerConfig(mono_ratio=ratio), batch_size, seed=1)
                plan.next()
                first = time.perf_counter() - begin
                rates = []
                for _ in range(args.rounds):
                    begin, batches = time.perf_counter(), 0
                    while time.perf_counter() - begin < args.seconds:
                        plan.next()
                        batches += 1
                    rates.append(batches * batch_size / (time.perf_counter() - begin))
                table.add_row(
                    "ragged" if ragged else "parallel",
                    f"{ratio:g}",
                    f"{batch_size}",
                    f"{first:.2f}",
                    f"{statistics.median(rates):,.0f}",
                    f"{anonymous_gb():.2f}",
                )
    Console().print(table)


if __name__ == "__main__":
    main()
