"""Share of padding in what is encoded, before and after chunks are formed by length; the batches are the same.

python bench/padding.py --model DIR --data DIR_OF_PARALLEL_JSONL
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.runs import configuration, files, pretrained
from hybrid_ir.data.chunks import length_chunks
from hybrid_ir.training.run import prepare

CUTS: dict[str, tuple[int | None, int | None]] = {
    "whole batch": (None, None),
    "32 rows": (32, None),
    "8,192 tokens": (None, 8192),
    "4,096 tokens": (None, 4096),
    "2,048 tokens": (None, 2048),
    "1,024 tokens": (None, 1024),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of parallel JSONL files")
    parser.add_argument("--batches", type=int, default=200)
    args = parser.parse_args()
    console = Console()
    table = Table(title=f"padding, mean of {args.batches} batches, mono_ratio .5", title_justify="left")
    for name in ("max length", "batch", "tokens a row", *CUTS):
        table.add_column(name, justify="right")
    for length in (128, 256):
        for batch_size in (64, 256):
            settings = pretrained(args.model, files(args.data), length)
            data = prepare(configuration(*settings, f"batch_size={batch_size}"), Console(quiet=True)).data
            real, padded = 0, dict.fromkeys(CUTS, 0)
            for _ in range(args.batches):
                rows = data.locate(data.plan.next())
                for store, which in ((data.query_tokens, rows.query_rows), (data.passage_tokens, rows.passage_rows)):
                    lengths = store.lengths(which)
                    real += int(lengths.sum())
                    for name, (max_rows, max_tokens) in CUTS.items():
                        chunks = length_chunks(lengths, max_rows, max_tokens)
                        padded[name] += sum(len(chunk) * int(np.max(lengths[chunk])) for chunk in chunks)
            shares = [f"{1 - real / padded[name]:.1%}" for name in CUTS]
            table.add_row(str(length), str(batch_size), f"{real / args.batches / batch_size:.0f}", *shares)
    console.print(table)


if __name__ == "__main__":
    main()
