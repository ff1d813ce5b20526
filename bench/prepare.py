"""Preparing text: rows a second and peak memory of the corpus and of the token ids of millions of rows.

The rows are parallel-qa's over and over. Each time ids, passage ids, queries and passages get the number of the
repetition, so that every item and every text is a new one: joining equal texts makes nothing smaller. The file is
gzip; it, the cache and all else lie in a temporary folder and are removed. 5 million rows take about 10 GB there.

Memory is that of all processes together, looked at five times a second: resident pages, those of files among them
that the system may take back, and anonymous pages, which it may not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.sources.jsonl import ParallelJsonlSource
from hybrid_ir.data.tokens import TokenStore
from hybrid_ir.launching.processes import available_threads

MAX_LENGTH = {"query": 32, "passage": 128}


def repeat(data: Path, rows: int, file: Path) -> int:
    """Writes a file of so many rows; returns their bytes of text."""
    written = size = 0
    with gzip.open(file, "wb", 1) as out:
        for repetition in range(rows):
            for source in sorted(data.glob("*.jsonl.gz")):
                with gzip.open(source, "rt", encoding="utf-8") as lines:
                    for line in lines:
                        row = json.loads(line)
                        for name in ("id", "passage_id", "query", "passage"):
                            if row.get(name) is not None:
                                row[name] = f"{row[name]} {repetition}"
                        size += out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                        written += 1
                        if written == rows:
                            return size
    return size


def first(chunks: Iterable[list[str]], limit: int) -> Iterator[list[str]]:
    """The first texts of chunks."""
    for chunk in chunks:
        if limit <= 0:
            return
        yield chunk[:limit]
        limit -= len(chunk)


def make_corpus(file: Path) -> int:
    """Reads the file into a corpus; returns the rows."""
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(file)))
    return int(corpus.items_per_language().sum())


def make_tokens(file: Path, model: Path, limit: int) -> int:
    """Tokenises the first queries and passages as an encoder does; returns how many."""
    from tokenizers import Tokenizer

    corpus = ParallelCorpus.build(ParallelJsonlSource(str(file)))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    done = 0
    for kind, texts in (("query", corpus.queries), ("passage", corpus.passages)):
        tokenizer.enable_truncation(MAX_LENGTH[kind])

        def tokenize(chunk: list[str], kind: str = kind) -> list[list[int]]:
            ids = []
            for low in range(0, len(chunk), 4096):
                encoded = tokenizer.encode_batch_fast([f"{kind}: {text}" for text in chunk[low : low + 4096]])
                ids.extend([encoding.ids for encoding in encoded])
            return ids

        key = {"corpus": corpus.fingerprint, "kind": kind, "limit": limit}
        done += len(TokenStore.build(first(texts.chunks(), limit), tokenize, key))
    return done


def measure(command: list[str], cache: Path) -> tuple[int, float, float, float]:
    """Rows that a command prints, its seconds, and the peaks of resident and anonymous memory, GB."""
    begin = time.perf_counter()
    resident = anonymous = 0.0
    environment = {**os.environ, "HYBRID_IR_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while process.poll() is None:
            pages = [0, 0]
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                try:
                    status = Path(f"/proc/{one.pid}/status").read_text()
                except OSError:  # it has ended
                    continue
                for i, name in enumerate(("VmRSS:", "RssAnon:")):
                    if name in status:
                        pages[i] += 1024 * int(status.split(name)[1].split()[0])
            resident, anonymous = max(resident, pages[0] / 1e9), max(anonymous, pages[1] / 1e9)
            time.sleep(0.2)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return int(said), time.perf_counter() - begin, resident, anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of parallel-qa")
    parser.add_argument("--model", type=Path, help="folder of a model whose tokenizer is used; without, no tokens")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--token-rows", type=int, default=100_000, help="queries, and passages, that are tokenised")
    parser.add_argument("--folder", type=Path, help="on whose disk; default: the system's temporary folder")
    parser.add_argument("--step", choices=["corpus", "tokens"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step is not None:
        print(make_corpus(args.data) if args.step == "corpus" else make_tokens(args.data, args.model, args.token_rows))
        return
    table = Table(title=f"preparing text with {available_threads()} threads", title_justify="left")
    for name in ("step", "rows", "MB of text", "seconds", "rows/s", "resident GB", "anonymous GB"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder) / "rows.jsonl.gz"
        size = repeat(args.data, args.rows, file)
        for step in ["corpus", *(["tokens"] if args.model is not None else [])]:
            command = [sys.executable, __file__, "--step", step, "--data", str(file)]
            command += ["--token-rows", str(args.token_rows), *(["--model", str(args.model)] if args.model else [])]
            rows, seconds, resident, anonymous = measure(command, Path(folder) / "cache")
            text = f"{size / 1e6:,.0f}" if step == "corpus" else ""
            numbers = f"{seconds:,.1f}", f"{rows / seconds:,.0f}", f"{resident:.2f}", f"{anonymous:.2f}"
            table.add_row(step, f"{rows:,}", text, *numbers)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
