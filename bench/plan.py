"""The batch plan at size: corpora of 1 to 40 million items in 7 languages, ids only, on disk as a corpus lies there.

Each is opened by a process of its own, its files in the page cache. Prints seconds from the imports to the first batch
(the hold-out is chosen before it), the most anonymous resident memory, and rows planned a second by
the share of monolingual batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from hybrid_ir.cache import MANIFEST
from hybrid_ir.config import SamplerConfig, ValidationConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.validation import held_out

LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")
RATIOS = (0.0, 0.5, 1.0)


def write_corpus(folder: Path, items: int, ragged: bool) -> None:
    """Items that all languages have, or random sets of languages; two questions a passage; no texts."""
    random = np.random.default_rng(0)
    patterns = np.ones((1, len(LANGUAGES)), dtype=bool)
    if ragged:
        patterns = np.unique(random.random((200, len(LANGUAGES))) < 0.6, axis=0)
        patterns = patterns[patterns.any(1)]
    (folder / "arrays").mkdir(parents=True)
    pattern = random.integers(0, len(patterns), items, dtype=np.int16)
    passage = np.arange(items, dtype=np.int32) // 2
    entries = int(patterns.sum(1)[pattern].sum())
    arrays = {
        "patterns": patterns,
        "item_pattern": pattern,
        "item_source": np.zeros(items, dtype=np.int16),
        "item_passage": passage,
        "item_offset": np.concatenate([[0], np.cumsum(patterns.sum(1)[pattern])]),
        "entry_query": np.arange(entries, dtype=np.int32),
        "entry_passage": np.arange(entries, dtype=np.int32),
        "passage_group": np.repeat(passage, patterns.sum(1)[pattern]),
        "negative_offset": np.zeros(entries + 1, dtype=np.int64),
        "negative_passage": np.empty(0, dtype=np.int32),
    }
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)
    kinds = {"text": pa.large_string(), "language": pa.int16(), "id": pa.large_string()}
    for name in ("queries", "passages", "items"):
        table = pa.table({column: pa.array([], kind) for column, kind in kinds.items()})
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    manifest = {"languages": LANGUAGES, "sources": ["synthetic"], "report": {}, "files": {}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


class AnonymousMemory:
    """The most anonymous resident memory of this process, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            self.most = max(self.most, 1024 * int(status.split("RssAnon:")[1].split()[0]))
            time.sleep(0.01)


def measure(folder: Path, batch_size: int, rounds: int, seconds: float) -> dict[str, float | list[float]]:
    """What a corpus takes, in this process."""
    memory = AnonymousMemory()
    begin = time.perf_counter()
    corpus = ParallelCorpus(folder)
    held = held_out(corpus, ValidationConfig())
    held_at = time.perf_counter() - begin
    BatchPlan(corpus.table.restricted(~held), SamplerConfig(mono_ratio=0.5), batch_size, seed=1).next()
    first = time.perf_counter() - begin
    rates = []
    for ratio in RATIOS:
        plan = BatchPlan(corpus.table.restricted(~held), SamplerConfig(mono_ratio=ratio), batch_size, seed=1)
        plan.next()
        done = []
        for _ in range(rounds):
            begin, batches = time.perf_counter(), 0
            while time.perf_counter() - begin < seconds:
                plan.next()
                batches += 1
            done.append(batches * batch_size / (time.perf_counter() - begin))
        rates.append(statistics.median(done))
    return {"held_out": held_at, "first": first, "rates": rates, "memory": memory.most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 2_500_000, 10_000_000, 40_000_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(args.measure, args.batch[0], args.rounds, args.seconds)))
        return
    table = Table(title=f"batch plan, items x {len(LANGUAGES)} languages", title_justify="left")
    for name in ("items", "data", "batch", "hold-out s", "first batch s", "anonymous GB"):
        table.add_column(name, justify="right")
    for ratio in RATIOS:
        table.add_column(f"rows/s at {ratio:g}", justify="right")
    for items in args.items:
        for ragged in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                write_corpus(Path(folder) / "corpus", items, ragged)
                for batch in args.batch:
                    command = [sys.executable, __file__, "--measure", f"{folder}/corpus", "--batch", str(batch)]
                    command += ["--rounds", str(args.rounds), "--seconds", str(args.seconds)]
                    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                    table.add_row(
                        f"{items:,}",
                        "ragged" if ragged else "parallel",
                        f"{batch}",
                        f"{found['held_out']:.2f}",
                        f"{found['first']:.2f}",
                        f"{found['memory'] / 1e9:.2f}",
                        *(f"{rate:,.0f}" for rate in found["rates"]),
                    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
