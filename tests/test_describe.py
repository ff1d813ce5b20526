"""``python -m hybrid_ir.data.describe`` counts what the corpus holds and what a run would draw."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hybrid_ir.config import SamplerConfig
from hybrid_ir.data import describe, description
from hybrid_ir.data.items import ItemTable
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.planned import planned, say_plan


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
    shares = shown.split("% of the rows, by query language (lines)")[1].splitlines()[2:6]
    cells = [line.split()[1:] for line in shares]
    # six ordered pairs of de, en and sw, and each language with itself; yo has items with no other
    assert [[cell == "·" for cell in line] for line in cells] == [[False] * 3 + [True]] * 3 + [[True] * 3 + [False]]
    assert sum(float(cell) for line in cells for cell in line if cell != "·") == pytest.approx(100, abs=0.1)
    assert "6 pairs of languages have " in shown


def test_shares_are_four_characters_at_most() -> None:
    shown = [description._percent(share) for share in (0, 0.00114, 0.0999, 0.09996, 0.5, 0.9994, 0.9996, 1)]
    assert shown == ["0.00", "0.11", "9.99", "10.0", "50.0", "99.9", "100", "100"]


def test_shares_of_many_languages_are_their_extremes() -> None:
    """Thirty languages: a line for each with its least and most, which are those of the drawn rows."""
    languages = tuple(f"{a}{b}" for a in "abc" for b in "abcdefghij")
    everything = np.ones((1, 30), dtype=bool)
    zero = np.zeros(400, dtype=np.int64)
    table = ItemTable(languages, ("s",), everything, zero, zero, np.arange(400))
    found = planned(BatchPlan(table.restricted(), SamplerConfig(), 16, 1), 300, 10**6, 10**6)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(description._shares_table(found))
    say_plan(found, console)
    shown = console.export_text()
    share = found.share.sum(0)
    for i, code in enumerate(languages):
        line = next(text for text in shown.splitlines() if text.startswith(f"│ {code} "))
        others = np.delete(share[i], i)
        assert f"{share[i, i]:.2%}" in line
        assert f"{others.min():.2%}" in line
        assert f"{others.max():.2%}" in line
    assert "870 pairs of languages have" in shown
    assert "30 languages, least and most" in shown


def test_counts_are_four_characters_at_most() -> None:
    for n in (0, 7, 999, 1000, 9949, 9999, 10_000, 999_499, 1_000_000, 39_780_811, 2_000_000_000):
        assert len(description._short(n)) <= 4, n
    assert description._short(39_780_811) == "40M"


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main(["data=parallel_jsonl", "data.path=/nowhere.jsonl"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_batches_of_x_x_are_not_called_monolingual() -> None:
    zero = np.zeros(200, dtype=np.int64)
    table = ItemTable(("de", "en", "sw"), ("s",), np.ones((1, 3), dtype=bool), zero, zero, np.arange(200))
    for preset, said in (
        ("x_x", "plan of 50 steps: every row is of one language, batches mix languages; rows deferred"),
        ("x_x_mono", "plan of 50 steps: 100.0% of the batches monolingual; rows deferred"),
    ):
        sampler = SamplerConfig.model_validate({"preset": preset, "mono_ratio": 1.0})
        plan = BatchPlan(table.restricted(), sampler, 16, 1)
        console = Console(width=200, record=True, file=io.StringIO())
        say_plan(planned(plan, 50, 10**6, 10**6), console)
        assert console.export_text().startswith(said)
        assert {batch.monolingual for batch in (plan.next() for _ in range(50))} == {preset == "x_x_mono"}
