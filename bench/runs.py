"""What the measurements of training share: a run's configuration, and texts without limits of the batch plan."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from hybrid_ir import cli
from hybrid_ir.composition import composer
from hybrid_ir.config import TrainConfig


def configuration(*settings: str) -> TrainConfig:
    """What ``python train.py`` makes of these settings."""
    with composer("train") as composing:
        config, _ = cli.prepare(composing, list(settings))
    assert isinstance(config, TrainConfig)
    return config


def files(folder: str) -> list[str]:
    """Parallel JSONL files of a folder."""
    found = sorted(str(path) for path in Path(folder).glob("*.jsonl*"))
    if not found:
        raise SystemExit(f"--data {folder}: no *.jsonl or *.jsonl.gz there")
    return found


def pretrained(model: str, data: list[str], length: int, query_length: int | None = None) -> list[str]:
    """Settings of a run of a pretrained encoder with E5's prefixes and without evaluation."""
    return [
        "data=parallel_jsonl",
        f"data.path=[{','.join(data)}]",
        "data.validation.queries_per_language=0",
        "model=pretrained",
        f"model.name_or_path={model}",
        "model.query_prefix='query: '",
        "model.passage_prefix='passage: '",
        f"model.max_query_length={query_length or length}",
        f"model.max_passage_length={length}",
        "sampler.small_languages=drop",
        "benchmark=[]",
        "trainer.val_check_interval=null",
    ]


def one_language(data: list[str], rows: int, target: Path) -> Path:
    """Copies the first rows into one file as items of their own in one language, so that any batch can be drawn."""

    def lines() -> Iterator[dict[str, str]]:
        while True:
            for path in data:
                with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
                    yield from map(json.loads, file)

    with target.open("w") as file:
        for number, line in zip(range(rows), lines(), strict=False):
            row = {"id": str(number), "language": "en", "query": line["query"], "passage": line["passage"]}
            file.write(json.dumps({**row, "passage_id": str(number)}) + "\n")
    return target
