"""Hard negatives: against a search by hand with the same rules, in the files and batches that come of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from small_runs import LANGUAGES, exported_model, small_run, write_corpus
from test_corpus import write_lines
from torch import Tensor

from hybrid_ir.cli import prepare as prepare_settings
from hybrid_ir.cli import run_command
from hybrid_ir.composition import composer
from hybrid_ir.config import TrainConfig, ValidationConfig
from hybrid_ir.data import mine as command
from hybrid_ir.data import mining
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.mining import Counts, Miner, Rules, mined_lines, other_language
from hybrid_ir.data.sources.jsonl import ParallelJsonlSource
from hybrid_ir.data.validation import held_out
from hybrid_ir.training.run import prepare


class Drawn:
    """Embeddings drawn from the hash of each text: any model will do."""

    def __init__(self, dim: int = 6) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[Any], kind: str) -> Tensor:
        seeds = (int.from_bytes(hashlib.sha256(f"{kind} {text}".encode()).digest()[:8], "big") for text in texts)
        drawn = [np.random.default_rng(seed).normal(size=self.dim) for seed in seeds]
        return torch.nn.functional.normalize(torch.tensor(np.array(drawn), dtype=torch.float32), dim=1)


def ragged(items: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two or three items a passage, some passages in two wordings, every seventh question asked of two passages."""
    draw = np.random.default_rng(seed)
    rows = []
    for item in range(items):
        for code in ("de", "en", "sw"):
            if code != "en" and draw.random() < 0.3:
                continue
            wording = f" wording {item % 2}" if item % 5 == 0 else ""
            asked = item - 1 if item % 7 == 1 else item
            line = {
                "id": f"i{item}", "passage_id": f"p{item // 2}", "language": code, "source": f"s{item % 3}",
                "query": f"{code} question {asked}", "passage": f"{code} passage {item // 2}{wording}",
            }  # fmt: skip
            if item % 4 == 0:
                line["negatives"] = [f"{code} negative {item}"]
            rows.append(line)
    return rows


def corpus_of(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> ParallelCorpus:
    return ParallelCorpus.build(ParallelJsonlSource(str(write_lines(folder / name, rows))))


def mined(corpus: ParallelCorpus, rules: Rules, shard_size: int = 7) -> tuple[np.ndarray, dict[str, Counts]]:
    chosen = np.full((len(corpus.entries()[0]), rules.negatives), -1, dtype=np.int32)
    return chosen, Miner(corpus, Drawn(), rules, shard_size).mine(chosen)


# --------------------------------------------------------------------------------------------------------- by hand


def by_hand(corpus: ParallelCorpus, rules: Rules) -> tuple[list[set[int]], dict[str, Counts]]:
    """For each entry the passages that the rules leave, and the counts but for what was drawn."""
    encoder = Drawn()
    items, languages = corpus.entries()
    groups = corpus.passage_groups(np.arange(len(corpus.passages)))
    embedded = encoder.encode(list(corpus.passages), "passage").numpy()
    entry_of = {(i, code): e for e, (i, code) in enumerate(zip(items.tolist(), languages.tolist(), strict=True))}
    texts = corpus.queries.take(corpus.query_rows(np.arange(len(items))))
    paired: dict[tuple[int, str], set[int]] = {}
    for item, code, text in zip(items.tolist(), languages.tolist(), texts, strict=True):
        paired.setdefault((code, text), set()).add(int(corpus.table.passage[item]))
    left: list[set[int]] = []
    counts = {code: Counts() for code in corpus.languages}
    positives: dict[str, list[float]] = {code: [] for code in corpus.languages}
    for entry, (item, code) in enumerate(zip(items.tolist(), languages.tolist(), strict=True)):
        count = counts[corpus.languages[code]]
        count.lines += 1
        language = code
        if rules.across:
            language = int(other_language(corpus, np.array([item]), code, rules.seed)[0])
            if language < 0:
                left.append(set())
                continue
        query = texts[entry_of[item, language]]
        values = embedded @ encoder.encode([query], "query").numpy()[0]
        own = int(corpus.passage_rows(np.array([entry]))[0])
        pool = [row for row in range(len(corpus.passages)) if corpus.passages.language[row] == code]
        asked = [
            (each, texts[entry_of[item, each]]) for each in range(len(corpus.languages)) if (item, each) in entry_of
        ]
        answers = {group for one in asked for group in paired[one]}  # of the item's query in any language
        known = [row for row in pool if int(groups[row]) in answers]
        assert own in known
        ranking = sorted(set(pool) - set(known), key=lambda row: -values[row])
        last = values[ranking[rules.last_rank - 1]] if len(ranking) >= rules.last_rank else -2.0
        count.by_id += sum(values[row] > last for row in known if row != own)
        positives[corpus.languages[code]].append(float(values[own]))
        window = ranking[rules.first_rank - 1 : rules.last_rank]
        highest = np.inf
        if rules.margin is not None:
            highest = values[own] - rules.margin
        if rules.ratio is not None:
            highest = values[own] * rules.ratio if values[own] > 0 else values[own] * (2 - rules.ratio)
        fit = {row for row in window if values[row] <= highest}
        count.by_score += len(window) - len(fit)
        left.append(fit)
    for code, scores in positives.items():
        counts[code].positive_score = float(np.mean(scores)) if scores else float("nan")
    return left, counts


rules = st.builds(
    lambda negatives, first, more, limit, across, seed: Rules(
        negatives, first, first + more, margin=limit.get("margin"), ratio=limit.get("ratio"), across=across, seed=seed
    ),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 25),
    st.sampled_from([{}, {"margin": 0.0}, {"margin": 0.2}, {"ratio": 0.95}, {"ratio": 0.5}]),
    st.booleans(),
    st.integers(0, 3),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules, st.integers(5, 40), st.integers(0, 3), st.integers(3, 50))
def test_negatives_are_those_of_a_search_by_hand(
    tmp_path: Path, rules: Rules, items: int, seed: int, shard_size: int
) -> None:
    corpus = corpus_of(tmp_path, ragged(items, seed))
    chosen, counts = mined(corpus, rules, shard_size)
    left, expected = by_hand(corpus, rules)
    languages = corpus.entries()[1]
    for entry, fit in enumerate(left):
        taken = chosen[entry][chosen[entry] >= 0].tolist()
        assert len(set(taken)) == len(taken) == min(rules.negatives, len(fit))
        assert set(taken) <= fit
        assert (chosen[entry][len(taken) :] == -1).all()
    for number, code in enumerate(corpus.languages):
        sizes = [len(fit) for fit, language in zip(left, languages, strict=True) if language == number]
        assert counts[code].lines == expected[code].lines == len(sizes)
        assert counts[code].full == sum(size >= rules.negatives for size in sizes)
        assert counts[code].none == sum(size == 0 for size in sizes)
        assert counts[code].full + counts[code].fewer + counts[code].none == len(sizes)
        assert counts[code].by_score == expected[code].by_score
        assert counts[code].by_id == expected[code].by_id
        assert counts[code].positive_score == pytest.approx(expected[code].positive_score, abs=1e-6, nan_ok=True)


def test_draws_do_not_depend_on_what_is_searched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(tmp_path, ragged(700))
    rules = Rules(3, 2, 30, ratio=None, seed=5)
    whole, counts = mined(corpus, rules, shard_size=4096)
    monkeypatch.setattr(mining, "PLACES", 1)  # blocks of 512 lines
    parts, again = mined(corpus, rules, shard_size=100)
    np.testing.assert_array_equal(whole, parts)
    for code, count in counts.items():
        assert (count.full, count.fewer, count.none, count.by_id, count.by_score) == (
            again[code].full, again[code].fewer, again[code].none, again[code].by_id, again[code].by_score,
        )  # fmt: skip
        assert count.negative_score == pytest.approx(again[code].negative_score, rel=1e-6)
    assert (mined(corpus, Rules(3, 2, 30, ratio=None, seed=6))[0] != whole).mean() > 0.5


def test_each_rank_of_the_window_is_drawn_alike(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ragged(700))
    chosen, _ = mined(corpus, Rules(1, 3, 12, ratio=None))
    encoder = Drawn()
    items, languages = corpus.entries()
    passages = encoder.encode(list(corpus.passages), "passage").numpy()
    queries = encoder.encode(corpus.queries.take(corpus.query_rows(np.arange(len(items)))), "query").numpy()
    groups = corpus.passage_groups(np.arange(len(corpus.passages)))
    drawn = np.zeros(13)
    for entry in range(len(items)):
        if int(corpus.item_ids([items[entry]])[0][1:]) % 7 < 2:
            continue  # their questions have several passages
        pool = (corpus.passages.language == languages[entry]) & (groups != corpus.table.passage[items[entry]])
        values = passages @ queries[entry]
        drawn[1 + int((values[pool] > values[chosen[entry, 0]]).sum())] += 1
    assert drawn[3:].sum() == drawn.sum() > 1000
    expected = drawn.sum() / 10
    assert ((drawn[3:] - expected) ** 2 / expected).sum() < 40, drawn  # chi-squared with 9 degrees: p < 1e-5


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 100), st.integers(0, 2))
def test_the_other_language_is_one_that_the_item_has(tmp_path: Path, seed: int, language: int) -> None:
    corpus = corpus_of(tmp_path, ragged(60))
    table = corpus.table
    items = np.flatnonzero(table.patterns[:, language][table.pattern])
    other = other_language(corpus, items, language, seed)
    for item, drawn in zip(items.tolist(), other.tolist(), strict=True):
        there = set(np.flatnonzero(table.patterns[table.pattern[item]]).tolist()) - {language}
        assert (drawn in there) if there else drawn == -1
    if language == 0:  # of items that have both others, some go to each
        assert {1, 2} <= set(other.tolist())


# ------------------------------------------------------------------------------------------------- files and batches


def test_a_mined_file_is_the_data_with_negatives(tmp_path: Path) -> None:
    rows = [*ragged(50), {"id": "alone", "language": "sw", "query": "peke yake", "passage": "bila kitambulisho"}]
    corpus = corpus_of(tmp_path, rows)
    chosen, _ = mined(corpus, Rules(3, 1, 10, ratio=None))
    path = tmp_path / "mined.jsonl"
    path.write_text("".join(mined_lines(corpus, chosen)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    before = {(row["id"], row["language"]): row for row in rows}
    assert {(line["id"], line["language"]) for line in lines} == set(before)
    for line in lines:
        original = before[line["id"], line["language"]]
        for key in ("query", "passage", "passage_id"):
            assert line.get(key) == original.get(key)
        assert line["source"] == original.get("source", "rows")
    again = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    items, languages = corpus.entries()
    for name in ("pattern", "source", "passage"):  # the same items and passages, so the same batches and hold-out
        np.testing.assert_array_equal(getattr(again.table, name), getattr(corpus.table, name))
    assert again.item_ids(range(len(again))) == corpus.item_ids(range(len(corpus)))
    config = ValidationConfig(queries_per_language=5)
    np.testing.assert_array_equal(held_out(again, config), held_out(corpus, config))
    for entry in range(len(items)):
        now = again.negatives(entry)
        assert again.passages.take(now) == corpus.passages.take(chosen[entry])
        assert (again.passages.language[now] == languages[entry]).all()
        assert not (again.passage_groups(now) == again.table.passage[items[entry]]).any()


@pytest.mark.usefixtures("signals_stay")
@pytest.mark.parametrize("direction", ["--within", "--across"])
def test_command_batches_and_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], direction: str) -> None:
    """The command's file, in the actual batches: a row's negatives are in the language of its passage."""
    model, data, out = exported_model(tmp_path / "model"), write_corpus(tmp_path), tmp_path / "sub" / "mined.jsonl.gz"
    given = [f"model.name_or_path={model}", "data=parallel_jsonl", f"data.path={data}", "threads=1", "accelerator=cpu"]
    options = [direction, "--negatives", "3", "--ranks", "2-20", "--any-score"]
    assert command.main([*given, f"output={out}", *options]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    lines = [json.loads(line) for line in gzip.decompress(out.read_bytes()).decode().splitlines()]
    read = [json.loads(line) for line in data.read_text().splitlines()]
    assert [(line["id"], line["language"]) for line in lines] == sorted(
        ((row["id"], row["language"]) for row in read), key=lambda key: (int(key[0][1:]), key[1])
    )
    for code in LANGUAGES:
        shown = next(line for line in said.splitlines() if line.strip("│ ").startswith(code))
        counted = [cell.strip() for cell in shown.strip("│ ").split("│")]
        mine = [len(line.get("negatives", [])) for line in lines if line["language"] == code]
        assert counted[1:5] == [
            str(n) for n in (len(mine), mine.count(3), mine.count(1) + mine.count(2), mine.count(0))
        ]

    # again: the same bytes, and not one embedding is made anew
    cached = sorted((Path(os.environ["HYBRID_IR_CACHE"]) / "embeddings").rglob("*.npy"))
    assert cached
    times = {path: path.stat().st_mtime_ns for path in cached}
    second = tmp_path / "second.jsonl.gz"
    assert command.main([*given, f"output={second}", *options]) == 0
    assert second.read_bytes() == out.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert sorted((Path(os.environ["HYBRID_IR_CACHE"]) / "embeddings").rglob("*.npy")) == cached

    train = [*small_run(out, tmp_path / "run"), "loss.num_negatives=2", "trainer.max_steps=3"]
    with composer("train") as composing:
        config, _ = prepare_settings(composing, train)
    assert isinstance(config, TrainConfig)
    prepared = prepare(config, Console(quiet=True))
    corpus, plan = prepared.corpus, prepared.plan
    kinds = set()
    for _ in range(60):
        batch = plan.next()
        rows = prepared.data.locate(batch)
        assert rows.negative_rows is not None
        assert rows.negative_ids is not None
        kinds.add(batch.monolingual)
        language = corpus.passages.language[rows.negative_rows]
        assert (language == rows.passage_language[:, None]).all()
        if batch.monolingual:
            assert (language == rows.query_language[:, None]).all()
        else:
            assert (language != rows.query_language[:, None]).all()
        assert (rows.negative_ids != rows.passage_ids[:, None]).all()
    assert kinds == {True, False}
    assert run_command("train", train) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("signals_stay")
def test_the_hold_out_is_no_negative(tmp_path: Path) -> None:
    """Passages of held-out items may be mined; no batch shows them."""
    model, data, out = exported_model(tmp_path / "model"), write_corpus(tmp_path), tmp_path / "mined.jsonl"
    given = [f"model.name_or_path={model}", "data=parallel_jsonl", f"data.path={data}", "threads=1", "accelerator=cpu"]
    assert command.main([*given, f"output={out}", "--any-score", "--ranks", "1-30", "--negatives", "20"]) == 0
    train = [*small_run(out, tmp_path / "run"), "loss.num_negatives=4"]
    with composer("train") as composing:
        config, _ = prepare_settings(composing, train)
    assert isinstance(config, TrainConfig)
    prepared = prepare(config, Console(quiet=True))
    corpus = prepared.corpus
    held = set(np.asarray(corpus.table.passage)[held_out(corpus, config.data.validation)].tolist())
    listed = {
        int(g) for entry in range(len(corpus.entries()[0])) for g in corpus.passage_groups(corpus.negatives(entry))
    }
    assert held & listed
    for _ in range(60):
        rows = prepared.data.locate(prepared.plan.next())
        assert rows.negative_ids is not None
        assert held.isdisjoint(rows.negative_ids.reshape(-1).tolist())
        assert held.isdisjoint(rows.passage_ids.tolist())


@pytest.mark.usefixtures("signals_stay")
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = exported_model(tmp_path / "model"), write_corpus(tmp_path)
    of_model, of_data = f"model.name_or_path={model}", ["data=parallel_jsonl", f"data.path={data}"]
    out = f"output={tmp_path / 'mined.jsonl'}"
    for arguments, message in [
        ([of_model, *of_data], "output: must be given"),
        ([of_model, *of_data, f"output={data}"], "is there already"),
        ([*of_data, out], "model.name_or_path=???: must be given"),
        ([of_model, "data=parallel_jsonl", out], "data.path=???: must be given"),
        ([of_model, "data=parallel_jsonl", "data.path=nowhere.jsonl", out], "no such file"),
        ([of_model, *of_data, "data.exclude_overlap_with=[xquad_r]", out], "is for training"),
        ([of_model, *of_data, "loss.temperature=1", out], "a key of train.py"),
        ([of_model, *of_data, "language_removal.method=lir", out], "has no effect on mining"),
        ([of_model, *of_data, out, "--ranks", "100-10"], "100-10 is not a window of ranks"),
        ([of_model, *of_data, out, "--ratio", "1.5"], "1.5 is not a number from 0 to 1"),
        ([of_model, *of_data, out, "--margin", "nan"], "nan is not a number"),
        ([of_model, *of_data, out, "--negatives", "0"], "0 is not a whole number"),
        ([of_model, *of_data, out, "--ratio", "0.9", "--margin", "0.1"], "not allowed with"),
        ([of_model, *of_data, out, "--within", "--across"], "not allowed with"),
    ]:
        assert command.main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.jsonl", "model"]


@pytest.mark.usefixtures("signals_stay")
@pytest.mark.slow
def test_a_real_model_ranks_its_positives_above_its_negatives(
    tmp_path: Path, shared: Path, e5_small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mined.jsonl.gz"
    given = [
        f"model.name_or_path={e5_small}", "model.query_prefix='query: '", "model.passage_prefix='passage: '",
        "model.max_passage_length=64", "data=parallel_jsonl", "data.languages=[en,sw]", "threads=1", "accelerator=cpu",
        f"data.path={shared / 'data' / 'parallel-qa' / 'security101.jsonl.gz'}", f"output={out}", "--ranks", "1-50",
    ]  # fmt: skip
    assert command.main([*given, "--across"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    for code in ("en", "sw"):
        shown = next(line for line in said.splitlines() if line.strip("│ ").startswith(code))
        *_, positive, negative = (cell.strip() for cell in shown.strip("│ ").split("│"))
        assert float(positive) > float(negative)
    lines = [json.loads(line) for line in gzip.decompress(out.read_bytes()).decode().splitlines()]
    assert sum(len(line.get("negatives", [])) for line in lines) > len(lines)
