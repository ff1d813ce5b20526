"""Encoding speed beside ``SentenceTransformer.encode``: the same weights, type, lengths, prefix and threads, in turn.

Our side is what evaluation does: shards of texts, tokenised in the background, in batches of like length. The other
side encodes with its default batch size and with a few others; its best is named too.

    python bench/encode_speed.py --model DIR --xquad-r DIR_WITH_LANGUAGE_JSON_FILES --data DIR_OF_PARALLEL_JSONL
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers.utils import logging as transformers_logging

from bench.runs import files
from hybrid_ir.config import EvaluationConfig, SavedModelConfig, XquadRBenchmarkConfig
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.encoding import encode_in_shards
from hybrid_ir.modeling.encoder import BiEncoder

SAME_EMBEDDING = {"fp32": 1e-4, "bf16": 3e-2}
"""Numbers of both sides' embeddings may differ by this."""
DEFAULT_BATCH = 32
"""Texts that sentence-transformers encodes at a time unless told otherwise."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def sentences(folder: str) -> list[str]:
    """XQuAD-R's candidates in all languages."""
    documents = load_benchmark("xquad_r", XquadRBenchmarkConfig(path=folder)).documents
    return [text for text in documents if isinstance(text, str)]


def passages(folder: str) -> list[str]:
    """Each passage of parallel JSONL files once, in the order of the files."""

    def lines() -> Iterator[str]:
        for path in files(folder):
            with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
                yield from (json.loads(line)["passage"] for line in file)

    return list(dict.fromkeys(lines()))


def spread(texts: list[str], limit: int | None) -> list[str]:
    """So many of the texts, evenly over all of them."""
    if limit is None or limit >= len(texts):
        return texts
    return [texts[i * len(texts) // limit] for i in range(limit)]


def compare(name: str, texts: list[str], args: argparse.Namespace, console: Console) -> None:
    """Rounds in turn, and their ratios."""
    ours = BiEncoder.from_config(
        SavedModelConfig(name_or_path=args.model, passage_prefix=args.prefix, max_passage_length=args.length)
    )
    evaluation = EvaluationConfig()
    ours.tokens_per_batch = args.tokens_per_batch
    theirs = SentenceTransformer(
        args.model, device="cpu", model_kwargs={"dtype": torch.float32, "add_pooling_layer": False}
    )
    theirs.max_seq_length = args.length

    def encode_ours() -> Tensor:
        return encode_in_shards(ours, texts, "passage", evaluation.shard_size)

    def encode_theirs(batch_size: int) -> Tensor:
        return theirs.encode(
            texts,
            prompt=args.prefix,
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )

    runs: dict[str, Callable[[], Tensor]] = {"ours": encode_ours}
    for size in dict.fromkeys((DEFAULT_BATCH, *args.batch_sizes)):
        runs[f"theirs, batch {size}"] = lambda size=size: encode_theirs(size)  # type: ignore[misc]
    names = list(runs)
    clock = CLOCKS[args.clock]
    seconds: dict[str, list[float]] = {each: [] for each in names}
    embeddings: dict[str, Tensor] = {}
    for number in range(args.rounds):
        for each in names if number % 2 == 0 else reversed(names):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                begin = clock()
                embeddings[each] = runs[each]()
                seconds[each].append(clock() - begin)
    table = Table("", "seconds, median", "texts/s", "ratio, median", "ratios", title_justify="left")
    table.title = (
        f"encoding {len(texts):,} {name}, {args.length} tokens, {args.precision}, {args.threads} threads, "
        f"{args.clock} time; ratio: their time over ours"
    )
    for each in names:
        ratios = [a / b for a, b in zip(seconds[each], seconds[names[0]], strict=True)]
        middle = statistics.median(seconds[each])
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(each, f"{middle:.1f}", f"{len(texts) / middle:.1f}", f"{statistics.median(ratios):.2f}", shown)
    console.print(table)
    pairs = itertools.combinations(embeddings.values(), 2)
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    console.print(f"largest difference of two embeddings: {difference:.1e}", highlight=False)
    if difference > SAME_EMBEDDING[args.precision]:
        raise SystemExit("these are not the same embeddings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--xquad-r", help="folder of XQuAD-R's files: its candidate sentences")
    parser.add_argument("--data", help="folder of parallel JSONL files: their passages")
    parser.add_argument("--prefix", default="passage: ")
    parser.add_argument("--length", type=int, default=128, help="tokens of a text at most")
    parser.add_argument("--limit", type=int, help="so many texts of each, evenly over all; default: all")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[8, 16, 64], help="of theirs, beside its default")
    parser.add_argument("--tokens-per-batch", type=int, help="of ours, else the configuration's")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, where other work runs beside"
    )
    args = parser.parse_args()
    if not args.xquad_r and not args.data:
        parser.error("give --xquad-r, --data, or both")
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    console = Console(width=120)
    if args.xquad_r:
        compare("XQuAD-R sentences", spread(sentences(args.xquad_r), args.limit), args, console)
    if args.data:
        compare("parallel-qa passages", spread(passages(args.data), args.limit), args, console)


if __name__ == "__main__":
    main()
