"""GradCache: peak resident memory of a small and a large batch at one chunk size, and time beside an unchunked step.

Memory is that of a process of its own for each batch, which trains two steps (the first makes the optimiser's moments).
Time is of steps in turn in one process, the same batches: in one piece, padded to the longest; in chunks of like length
in one graph; and with GradCache.

    python bench/large_batch.py --model DIR --data DIR_OF_PARALLEL_JSONL
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.runs import configuration, files, one_language, pretrained
from hybrid_ir.config import TrainConfig
from hybrid_ir.training.run import build_module, build_trainer, prepare


def settings_of(args: argparse.Namespace, file: str, batch: int, *more: str) -> TrainConfig:
    settings = pretrained(args.model, [file], args.length, args.query_length)
    chunks = [f"trainer.chunk_tokens={args.chunk_tokens}", "trainer.grad_cache=true"]
    return configuration(*settings, *chunks, f"batch_size={batch}", "sampler.mono_ratio=1", *more)


def memory(args: argparse.Namespace) -> None:
    """Trains ``args.child`` rows a step and prints the peak of resident memory, MiB, and seconds of the last step."""
    config = settings_of(args, args.file, args.child, "trainer.max_steps=2")
    prepared = prepare(config, Console(quiet=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), [])
        begin = time.perf_counter()
        trainer.fit(build_module(config, prepared, Path(folder)), datamodule=prepared.data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before": before, "peak": peak, "seconds": time.perf_counter() - begin}))


def seconds(args: argparse.Namespace, file: str) -> dict[str, list[float]]:
    """Seconds of a step, each way, the rounds in turn."""
    config = settings_of(args, file, args.small, "trainer.max_steps=1000")
    torch.set_num_threads(config.threads or torch.get_num_threads())
    prepared = prepare(config, Console(quiet=True))
    module = build_module(config, prepared, Path())
    optimizer = module.configure_optimizers()["optimizer"]
    start = prepared.data.state_at(0)
    ways = {
        "in one piece": (None, False),
        "chunks by length, one graph": (args.chunk_tokens, False),
        "GradCache": (args.chunk_tokens, True),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, (tokens, cached) in ways.items():
            prepared.data.load_state_dict(start)
            prepared.data.chunk_tokens, module.grad_cache = tokens, cached
            begin = time.perf_counter()
            batch = next(iter(prepared.data.loader()))
            optimizer.zero_grad()
            module.compute_gradients(batch)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            if number:  # the first round allocates
                taken[name].append(time.perf_counter() - begin)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of parallel JSONL files")
    parser.add_argument("--small", type=int, default=256)
    parser.add_argument("--large", type=int, default=4096)
    parser.add_argument("--chunk-tokens", type=int, default=4096)
    parser.add_argument("--query-length", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        memory(args)
        return
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        file = str(one_language(files(args.data), args.large, Path(folder) / "rows.jsonl"))
        table = Table(title=f"{args.query_length} + {args.length} tokens, chunks of {args.chunk_tokens} tokens")
        for name in ("batch", "peak resident MiB", "before training", "two steps s"):
            table.add_column(name, justify="right")
        peaks = []
        for batch in (args.small, args.large):
            command = [sys.executable, "-m", "bench.large_batch", *sys.argv[1:], "--child", str(batch), "--file", file]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            said = json.loads(printed.splitlines()[-1])
            peaks.append(said["peak"])
            table.add_row(f"{batch:,}", f"{said['peak']:,.0f}", f"{said['before']:,.0f}", f"{said['seconds']:.0f}")
        console.print(table)
        console.print(f"peak memory, {args.large:,} rows to {args.small:,}: {peaks[1] / peaks[0]:.3f}")
        taken = seconds(args, file)
    table = Table(title=f"seconds of a step of {args.small} rows, {args.rounds} rounds in turn", title_justify="left")
    for name in ("", "rounds", "median", "to one piece"):
        table.add_column(name, justify="left" if not name else "right")
    whole = statistics.median(taken["in one piece"])
    for name, values in taken.items():
        median = statistics.median(values)
        table.add_row(name, " ".join(f"{v:.2f}" for v in values), f"{median:.2f}", f"{median / whole:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
