"""``python -m hybrid_ir.data.describe`` counts what the corpus holds and what a run would draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid_ir.data import describe, description


@pytest.mark.torch
def test_describe_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "id": f"i{n}",
            "passage_id": f"p{n // 2}",
            "language": code,
            "query": f"what is {n}",
            "passage": f"{code} says {n // 2}",
        }
        for n in range(60)
        for code in ("de", "en", "sw")
        if code != "sw" or n < 20
    ]
    rows += [{"id": f"alone{n}", "language": "yo", "query": f"kini {n}", "passage": f"eyi ni {n}"} for n in range(30)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = describe.main(
        [
            "data=parallel_jsonl",
            f"data.path={path}",
            "data.validation.queries_per_language=0",
            "model.vocab_size=500",
            "batch_size=4",
            "trainer.max_steps=50",
        ]
    )
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "de 60, en 60, sw 20, yo 30" in shown
    assert "passages with several questions: 30 of 60 (most: 2 questions)" in shown
    assert "languages without a pair: yo" in shown
    assert "drawn in 50 steps of 4 rows" in shown
    pairs = shown.split("items in two languages")[1].splitlines()
    german = next(line.split() for line in pairs[2:] if line.split()[:1] == ["de"])
    assert german == ["de", "·", "60", "20", "0"], pairs


def test_counts_are_four_characters_at_most() -> None:
    for n in (0, 7, 999, 1000, 9949, 9999, 10_000, 999_499, 1_000_000, 39_780_811, 2_000_000_000):
        assert len(description._short(n)) <= 4, n
    assert description._short(39_780_811) == "40M"


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main(["data=parallel_jsonl", "data.path=/nowhere.jsonl"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
