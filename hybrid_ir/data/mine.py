"""``python -m hybrid_ir.data.mine model.name_or_path=MODEL [settings] output=FILE``: hard negatives for training data.

Data is set as for ``train.py``, the model as for ``evaluate.py``. A mistake is found before torch is imported.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hybrid_ir.analysis.arguments import Parser
from hybrid_ir.cli import prepare, report_errors
from hybrid_ir.composition import composer, one_line, parse_settings, quote_path
from hybrid_ir.config import DataConfig, EvaluateConfig
from hybrid_ir.data.settings import data_settings, taken
from hybrid_ir.errors import ConfigError

_DESCRIPTION = """\
Mines hard negatives for every line of training data: passages in the line's language that a model ranks high for its
query. Writes parallel JSONL with a key `negatives`, which data=parallel_jsonl loss.num_negatives=N trains on.

  python -m hybrid_ir.data.mine model.name_or_path=MODEL data=parallel_jsonl data.path=FILE output=MINED.jsonl.gz

Settings: data as in train.py; model, accelerator, precision, threads, seed (of the draws), evaluation.shard_size,
evaluation.tokens_per_batch and evaluation.cache_embeddings (true here) as in evaluate.py.
"""
_TAKEN = re.compile(
    r"model(\..+)?|accelerator|precision|threads|seed|"
    r"evaluation\.(shard_size|tokens_per_batch|cache_embeddings)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(arguments))


def _parser() -> Parser:
    parser = Parser("hybrid_ir.data.mine", _DESCRIPTION)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, and output=FILE")
    found_by = parser.add_mutually_exclusive_group()
    found_by.add_argument("--within", action="store_true", help="search with the line's own query (the default)")
    found_by.add_argument(
        "--across", action="store_true", help="search with the item's query in another language, drawn for each line"
    )
    parser.add_argument("--negatives", type=_count, default=4, metavar="N", help="of each line (4)")
    parser.add_argument(
        "--ranks", type=_ranks, default=(10, 100), metavar="FIRST-LAST", help="window that they are drawn from (10-100)"
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--ratio", type=_ratio, default=None, metavar="R", help="a negative scores at most R times the positive (0.95)"
    )
    limit.add_argument(
        "--margin", type=_margin, default=None, metavar="M", help="a negative scores at most the positive less M"
    )
    limit.add_argument("--any-score", action="store_true", help="no limit to a negative's score")
    return parser


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    output, settings = taken(options.settings, "output")
    if not output:
        raise ConfigError("output: must be given, e.g. output=MINED.jsonl.gz")
    file = Path(output).expanduser()
    if file.exists():
        raise ConfigError(f"output={output}: is there already; name another file, or remove it")
    of_data = [s for s in settings if re.match(r"\+{0,2}data[.=]", s)]
    data = data_settings([*of_data, "benchmark=[]"]).data
    if data.exclude_overlap_with:
        raise ConfigError(
            "data.exclude_overlap_with: is for training, which leaves such passages out as negatives too; leave it out"
        )
    config = _model_settings([s for s in settings if s not in of_data])
    return _mine(file, data, config, options)


def _model_settings(settings: Sequence[str]) -> EvaluateConfig:
    settings = [quote_path(setting) for setting in settings]
    if not any(setting.startswith("evaluation.cache_embeddings=") for setting in settings):
        settings.append("evaluation.cache_embeddings=true")
    with composer("evaluate") as composing:
        config, _ = prepare(composing, settings)
    for override in parse_settings(settings):
        if not _TAKEN.fullmatch(override.key_or_group):
            raise ConfigError(f"{one_line(override.input_line)}: has no effect on mining; leave it out")
    return cast(EvaluateConfig, config)


def _mine(file: Path, data: DataConfig, config: EvaluateConfig, options: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from rich.table import Table
    from transformers.utils import logging as transformers_logging

    from hybrid_ir.data.corpus import ParallelCorpus
    from hybrid_ir.data.mining import Miner, Rules, mined_lines
    from hybrid_ir.data.sources import make_source
    from hybrid_ir.evaluation.console import make_console
    from hybrid_ir.evaluation.encoding import EmbeddingCache
    from hybrid_ir.evaluation.progress import EvaluationProgress
    from hybrid_ir.evaluation.run import find_device
    from hybrid_ir.lines import write_lines
    from hybrid_ir.modeling.encoder import BiEncoder
    from hybrid_ir.training.interrupt import SignalHandler

    SignalHandler().install()  # so that a file that is being written is taken away
    rules = Rules(
        options.negatives,
        first_rank=options.ranks[0],
        last_rank=options.ranks[1],
        margin=options.margin,
        ratio=0.95 if options.ratio is None and options.margin is None and not options.any_score else options.ratio,
        across=options.across,
        seed=config.seed,
    )
    console = make_console()
    torch.set_num_threads(cast(int, config.threads))
    device = find_device(config.accelerator)
    corpus = ParallelCorpus.build(make_source(data), data.verify_cache)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    encoder = BiEncoder.from_config(config.model).to(device)
    encoder.tokens_per_batch = config.evaluation.tokens_per_batch
    if config.precision == "64":
        encoder.double()
    console.print(f"{Path(config.model.name_or_path).name}: {encoder.extra_repr()}", highlight=False, markup=False)
    lines = int(corpus.items_per_language().sum())
    console.print(
        f"{lines:,} lines, {len(corpus.passages):,} passages in {len(corpus.languages)} languages",
        highlight=False,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryFile(dir=file.parent) as scratch,
        torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
        EvaluationProgress(console, "mining") as progress,
    ):
        chosen = np.memmap(scratch, dtype=np.int32, mode="w+", shape=(lines, rules.negatives))
        chosen[:] = -1
        cache = None
        if config.evaluation.cache_embeddings:
            cache = EmbeddingCache.of(encoder.fingerprint())
            cache.check_space(len(corpus.passages) + len(corpus.queries), encoder.dim)
        counts = Miner(corpus, encoder, rules, config.evaluation.shard_size, cache, progress).mine(chosen)
        write_lines(file, mined_lines(corpus, chosen))

    table = Table(title="lines by language", title_justify="left")
    for i, name in enumerate(
        (
            "", "lines", f"{rules.negatives} negatives", "fewer", "none", "positives\nleft out", "score\ntoo high",
            "score of\npositives", "score of\nnegatives",
        )
    ):  # fmt: skip
        table.add_column(name, justify="right" if i else "left")
    for code, n in counts.items():
        numbers = (n.lines, n.full, n.fewer, n.none, n.by_id, n.by_score)
        means = (n.positive_score, n.negative_score)
        table.add_row(code, *(f"{number:,}" for number in numbers), *("-" if m != m else f"{m:.3f}" for m in means))
    console.print(table)
    console.print(
        "positives left out: other passages that the data pairs with the query, up to the last rank\n"
        "score too high: passages in the window of ranks that come too close to the positive's score\n"
        "fewer, none: the line is written with what it has; training leaves out items that have none in a language\n"
        f"train with: python train.py data=parallel_jsonl data.path={file} loss.num_negatives={rules.negatives}",
        highlight=False,
        markup=False,
    )
    return 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 1000")
    return int(text)


def _ranks(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,5})-([1-9][0-9]{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text} is not a window of ranks such as 10-100")
    return int(match[1]), int(match[2])


def _ratio(text: str) -> float:
    return _number(text, 0.0, 1.0)


def _margin(text: str) -> float:
    return _number(text, 0.0, 2.0)


def _number(text: str, low: float, high: float) -> float:
    with_point = re.fullmatch(r"[0-9]*\.?[0-9]+", text)
    if with_point is None or not low <= float(text) <= high:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {low:g} to {high:g}")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
