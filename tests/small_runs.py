"""What tests of real commands share: a small corpus, a run of seconds on it, a tiny model and its evaluation."""

from __future__ import annotations

import csv
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hybrid_ir.cli import run_command
from hybrid_ir.config import SmallModelConfig
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model

LANGUAGES = ("de", "en", "sw", "zh")
WORDS = tuple("ant bee cat dog elk fox gnu hen ibis jay kite lark mole newt owl pig quail rat seal toad".split())  # noqa: SIM905


def write_corpus(folder: Path) -> Path:
    """120 items in four languages, ragged, two questions a passage."""
    draw = random.Random(0)
    with (folder / "facts.jsonl").open("w") as file:
        for item in range(120):
            for language in LANGUAGES:
                if draw.random() < 0.85:
                    words = [f"{language}{WORDS[(item // 2 * k + k) % len(WORDS)]}" for k in range(1, 5)]
                    row = {
                        "id": f"i{item}",
                        "passage_id": f"p{item // 2}",
                        "language": language,
                        "query": f"{words[item % 2]} {words[2]} {item}?",
                        "passage": " ".join(words) + f" {item // 2}.",
                    }
                    file.write(json.dumps(row) + "\n")
    return folder / "facts.jsonl"


def small_run(data: Path, out: Path) -> list[str]:
    """Settings of a tiny encoder with dropout, so that random states matter."""
    return [
        "data=parallel_jsonl",
        f"data.path={data}",
        "data.validation.queries_per_language=5",
        "benchmark=[]",
        "model.vocab_size=600",
        "model.hidden_size=32",
        "model.intermediate_size=64",
        "model.dropout=0.1",  # random states matter
        "batch_size=8",
        "threads=1",
        "checkpoint.export=last",
        f"output_dir={out}",
    ]


def refused_line(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command prints."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out
    return err


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def exported_model(folder: Path) -> Path:
    """A model as a run exports it."""
    torch.manual_seed(0)
    config = SmallModelConfig(vocab_size=300, hidden_size=16, num_heads=2, num_layers=1, intermediate_size=16)
    save_model(BiEncoder.from_config(config, ["What is the currency of Kenya?"] * 3), folder)
    return folder


def evaluate(folder: Path, out: Path) -> int:
    """Exit code of ``evaluate.py`` of a model's folder, in this process, whose signals stay as they are."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    settings = ["benchmark=[cldr]", "benchmark.cldr.languages=[en]", "benchmark.cldr.limit=2", "threads=1"]
    paths = [f"model.name_or_path={folder}", f"output_dir={out}", "accelerator=cpu"]
    try:
        return run_command("evaluate", [*paths, *settings])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
