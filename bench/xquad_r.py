"""XQuAD-R with an untrained encoder: our evaluation beside a plain length-sorted loop over the same model, in turn.

The plain loop shares no code with hybrid_ir: transformers' tokenizer and model, batches of texts sorted by length, a
full sort of every query's scores. It is what a careful script does, and the independent check of our numbers.

    python bench/xquad_r.py --model DIR --data DIR_WITH_LANGUAGE_JSON_FILES
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hybrid_ir.config import EvaluationConfig, SavedModelConfig, XquadRBenchmarkConfig
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.modeling.encoder import BiEncoder

METRICS = ("mAP Mo.", "mAP Cr.", "mAP Mul.", "R@1 Mo.", "R@1 Cr.", "R@10 Mul.", "rank distance")


def ours(args: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Macro means and seconds of hybrid_ir, the loading of the model and the data left out."""
    encoder = BiEncoder.from_config(
        SavedModelConfig(
            name_or_path=args.model,
            query_prefix=args.query_prefix,
            passage_prefix=args.passage_prefix,
            max_query_length=args.tokens,
            max_passage_length=args.tokens,
        )
    )
    config = XquadRBenchmarkConfig(path=args.data, languages=args.languages, limit=args.limit)
    benchmark = load_benchmark("xquad_r", config)
    begin = time.perf_counter()
    means = evaluate(encoder, benchmark, EvaluationConfig(), 0).macro()["xquad_r"]
    seconds = time.perf_counter() - begin
    mono, cross, multi = means["monolingual"], means["cross_lingual"], means["multilingual"]
    values = (mono["map"], cross["map"], multi["map"], mono["recall@1"], cross["recall@1"], multi["recall@10"])
    return dict(zip(METRICS, (*values, multi["rank_distance"]), strict=True)), seconds


def read(folder: str, language: str) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """Candidate sentences, and question and answering sentence by question id."""
    sentences: list[str] = []
    questions: dict[str, tuple[str, int]] = {}
    for article in json.loads(Path(folder, f"{language}.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            first = len(sentences)
            sentences += paragraph["sentences"]
            for qa in paragraph["qas"]:
                start = qa["answers"][0]["answer_start"]
                (hit,) = (i for i, (a, b) in enumerate(paragraph["sentence_breaks"]) if a <= start < b)
                questions[qa["id"]] = (qa["question"], first + hit)
    return sentences, questions


def plain(args: argparse.Namespace) -> tuple[dict[str, float], float]:
    """The same by a plain loop."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32, add_pooling_layer=False).eval()
    data = {language: read(args.data, language) for language in args.languages}

    def encode(texts: list[str]) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), model.config.hidden_size)
        for low in range(0, len(texts), 64):
            rows = order[low : low + 64]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=args.tokens, return_tensors="pt"
            )
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            out[rows] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return out

    begin = time.perf_counter()
    documents = encode([args.passage_prefix + s for language in args.languages for s in data[language][0]])
    counts = [len(data[language][0]) for language in args.languages]
    offset = dict(zip(args.languages, np.cumsum([0, *counts[:-1]]), strict=True))
    ids = list(next(iter(data.values()))[1])[: args.limit]
    mono, cross, multi = [], [], []
    for language in args.languages:
        queries = encode([args.query_prefix + data[language][1][i][0] for i in ids])
        for low in range(0, len(ids), 128):
            scores = (queries[low : low + 128] @ documents.T).numpy()
            for row, question in zip(scores, ids[low : low + 128], strict=True):
                gold = [offset[other] + data[other][1][question][1] for other in args.languages]
                ranks = np.empty(len(row), dtype=np.int64)
                ranks[np.argsort(-row, kind="stable")] = np.arange(1, len(row) + 1)
                places = np.sort(ranks[gold])
                precision = np.arange(1, len(gold) + 1) / places
                multi.append((precision.mean(), (places <= 10).sum() / len(gold), places[-1] - places[0]))
                for other, target, count in zip(args.languages, gold, counts, strict=True):
                    pool = row[offset[other] : offset[other] + count]
                    rank = 1 + int((pool > row[target]).sum())
                    (mono if other == language else cross).append((1 / rank, rank == 1))
    seconds = time.perf_counter() - begin
    m, c, u = np.mean(mono, axis=0), np.mean(cross, axis=0), np.mean(multi, axis=0)
    return dict(zip(METRICS, (m[0], c[0], u[0], m[1], c[1], u[1], u[2]), strict=True)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--languages", nargs="+", default="ar de el en es hi ru th tr vi zh".split())  # noqa: SIM905
    parser.add_argument("--query-prefix", default="query: ")
    parser.add_argument("--passage-prefix", default="passage: ")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--limit", type=int, default=None, help="first N question ids")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    found: dict[str, dict[str, float]] = {}
    seconds: dict[str, list[float]] = {"hybrid_ir": [], "plain loop": []}
    for _ in range(args.rounds):
        for name, run in (("plain loop", plain), ("hybrid_ir", ours)):
            found[name], took = run(args)
            seconds[name].append(took)
    title = f"XQuAD-R, fp32, {args.tokens} tokens, {args.threads} threads, {len(args.languages)} languages"
    table = Table(title=title, title_justify="left")
    for name in ("", *METRICS, "seconds"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in found.items():
        cells = [f"{v:.1f}" if k == "rank distance" else f"{v:.4f}" for k, v in values.items()]
        table.add_row(name, *cells, f"{statistics.median(seconds[name]):.0f}")
    Console(width=120).print(table)
    ratios = [a / b for a, b in zip(seconds["plain loop"], seconds["hybrid_ir"], strict=True)]
    print(f"time of the plain loop over ours, median of {args.rounds} rounds: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
