"""The parallel corpus: what a source yields comes back, joined as documented."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_ir import cache
from hybrid_ir.config import ValidationConfig
from hybrid_ir.data import corpus as corpus_module
from hybrid_ir.data import validation
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import mix
from hybrid_ir.data.sources.cldr import CldrSource
from hybrid_ir.data.sources.jsonl import ParallelJsonlSource
from hybrid_ir.data.validation import held_out, validation_benchmark
from hybrid_ir.errors import ConfigError, DataError


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def row(item: str, language: str, **more: Any) -> dict[str, Any]:
    return {
        "id": item,
        "language": language,
        "query": f"q {item} {language}",
        "passage": f"p {item} {language}",
        **more,
    }


def entry_of(corpus: ParallelCorpus, item: int, code: str) -> int:
    return int(corpus.entry(np.array([item]), np.array([corpus.languages.index(code)]))[0])


texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip() == t)
corpora = st.dictionaries(
    st.tuples(st.text("abcxyz", min_size=1, max_size=3), st.sampled_from(["de", "en", "sw", "th", "yo"])),
    st.tuples(texts, texts, st.none() | st.sampled_from(["p1", "p2", "p3"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora)
def test_every_line_comes_back(tmp_path: Path, lines: dict[tuple[str, str], tuple[str, str, str | None]]) -> None:
    path = tmp_path / "data.jsonl"
    write_lines(
        path,
        [
            {"id": i, "language": code, "query": q, "passage": p, **({"passage_id": g} if g else {})}
            for (i, code), (q, p, g) in lines.items()
        ],
    )
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    items, languages = corpus.entries()
    found = {}
    for entry, (item, language) in enumerate(zip(items.tolist(), languages.tolist(), strict=True)):
        assert entry_of(corpus, item, corpus.languages[language]) == entry
        query = int(corpus.query_rows(np.array([entry]))[0])
        passage = int(corpus.passage_rows(np.array([entry]))[0])
        assert corpus.queries.language[query] == corpus.passages.language[passage] == language
        assert corpus.passage_groups(np.array([passage]))[0] == corpus.table.passage[item]
        found[corpus.item_ids([item])[0], corpus.languages[language]] = (
            corpus.queries[query],
            corpus.passages[passage],
        )
    assert found == {key: (q, p) for key, (q, p, _) in lines.items()}
    assert list(corpus.languages) == sorted({code for _, code in lines})
    # joined passages: the same id, or without one the same text in the same language; and all of an item's
    expected: dict[Any, set[str]] = {}
    for (i, code), (_, p, g) in lines.items():
        expected.setdefault(g or (code, p), set()).add(i)
    merged: list[set[str]] = []
    for group in expected.values():
        overlapping = [m for m in merged if m & group]
        merged = [m for m in merged if not m & group] + [set().union(group, *overlapping)]
    ids = corpus.item_ids(range(len(corpus)))
    actual: dict[int, set[str]] = {}
    for item, group_number in enumerate(np.asarray(corpus.table.passage).tolist()):
        actual.setdefault(group_number, set()).add(ids[item])
    assert sorted(map(sorted, actual.values())) == sorted(map(sorted, merged))


def test_texts_are_stored_once(tmp_path: Path) -> None:
    rows = [row(f"i{n}", code, passage=f"shared {code}", passage_id="p") for n in range(5) for code in ("en", "de")]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    assert (len(corpus), len(corpus.passages), len(corpus.queries)) == (5, 2, 10)


def test_negatives_come_back_with_their_passages(tmp_path: Path) -> None:
    rows = [
        row("a", "en", passage_id="pa", negatives=["text only", {"text": "p b en", "passage_id": "pb"}]),
        row("b", "en", passage_id="pb"),
        row("c", "en", negatives=["text only"]),
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    ids = corpus.item_ids(range(3))
    entries = {name: entry_of(corpus, ids.index(name), "en") for name in "abc"}
    assert corpus.passages.take(corpus.negatives(entries["a"])) == ["text only", "p b en"]
    assert corpus.passages.take(corpus.negatives(entries["b"])) == []
    assert corpus.negatives(entries["c"])[0] == corpus.negatives(entries["a"])[0]
    assert corpus.passage_groups(corpus.negatives(entries["a"]))[1] == corpus.table.passage[ids.index("b")]


def test_a_negative_given_as_a_text_is_the_passage_of_that_text(tmp_path: Path) -> None:
    """So that it is masked where that passage is the answer, and not drawn where that passage is held out."""
    lines = [
        row("a", "en", passage="one", passage_id="p1", negatives=["two", "other"]),
        row("b", "en", passage="two", passage_id="p2", negatives=["one"]),
        row("b", "de", passage="zwei", passage_id="p2", negatives=["two"]),  # in German it is another text
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", lines))))
    group = {
        (text, corpus.languages[language]): int(corpus.passage_groups(np.array([place]))[0])
        for place, (text, language) in enumerate(zip(corpus.passages, corpus.passages.language.tolist(), strict=True))
    }
    first, second = (corpus.negatives(entry_of(corpus, item, "en")) for item in (0, 1))
    assert corpus.passage_groups(first).tolist() == [group["two", "en"], group["other", "en"]]
    assert corpus.passage_groups(second).tolist() == [group["one", "en"]]
    own = corpus.passage_groups(corpus.passage_rows(np.array([entry_of(corpus, item, "en") for item in (0, 1)])))
    assert own.tolist() == [group["one", "en"], group["two", "en"]]
    german = corpus.negatives(entry_of(corpus, 1, "de"))
    assert not set(corpus.passage_groups(german).tolist()) & set(own.tolist())


def test_a_line_with_further_negatives_is_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    same = row("a", "en", negatives=["n1", "n2"])
    write_lines(path, [same, same, row("a", "en", negatives=["n2"])])
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    assert corpus.report["repeated_lines"] == 2
    write_lines(path, [same, row("a", "en", negatives=["n3"])])
    with pytest.raises(DataError, match=r"a.jsonl:2: .*with other negatives; give all negatives"):
        ParallelCorpus.build(ParallelJsonlSource(str(path)))


def test_real_data(shared: Path) -> None:
    pattern = str(shared / "data" / "parallel-qa" / "*.jsonl.gz")
    corpus = ParallelCorpus.build(ParallelJsonlSource(pattern, max_items={"edgeai": 100}))
    lines: dict[tuple[str, str], tuple[str, str]] = {}
    edge: list[str] = []
    for file in sorted((shared / "data" / "parallel-qa").glob("*.jsonl.gz")):
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            d = json.loads(line)
            if file.name.startswith("edgeai"):
                if d["id"] not in edge and len(edge) == 100:
                    continue
                edge.append(d["id"])
                edge = list(dict.fromkeys(edge))
            lines[d["id"], d["language"]] = (d["query"].strip(), d["passage"].strip())
    items, languages = corpus.entries()
    assert len(items) == len(lines)
    ids = corpus.item_ids(items)
    queries = corpus.queries.take(corpus.query_rows(np.arange(len(items))))
    passages = corpus.passages.take(corpus.passage_rows(np.arange(len(items))))
    for i, language, query, passage in zip(ids, languages, queries, passages, strict=True):
        assert lines[i, corpus.languages[language]] == (query, passage)


# ------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json\n", "not JSON"),
        (b'["a", "list"]\n', "a JSON list, not an object"),
        (b'{"id": "a", "language": "en", "query": "q"}\n', "no key 'passage'"),
        (b'{"id": "a", "language": "en", "question": "q", "passage": "p"}\n', "no key 'query' .*'question'"),
        (b'{"id": "a", "language": "english", "query": "q", "passage": "p"}\n', "unknown language code.*en"),
        (b'{"id": "a", "language": "en", "query": "  ", "passage": "p"}\n', "'query' is empty"),
        (b'{"id": "a", "language": "en", "query": 3, "passage": "p"}\n', "'query' is a int, not a text"),
        (b'{"id": ["a"], "language": "en", "query": "q", "passage": "p"}\n', "'id' is a list"),
        (b'{"id": "a", "language": "en", "query": "q", "passage": "p", "negatives": "n"}\n', "'negatives' is a str"),
        (b'{"id": "a", "language": "en", "query": "\xff", "passage": "p"}\n', "not UTF-8"),
        (b'{"id": "a", "language": "en", "query": "\\ud800", "passage": "p"}\n', "half a character"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(row("good", "en")).encode() + b"\n"
    path = tmp_path / "bad.jsonl"
    path.write_bytes(good + line)
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: {reason}") as error:
        ParallelCorpus.build(ParallelJsonlSource(str(path)))
    assert "\n" not in str(error.value)
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(path), on_bad_line="skip"))
    assert len(corpus) == 1
    assert corpus.report["bad_lines"] == {"bad.jsonl": 1}
    assert "bad.jsonl:2" in corpus.report["first_bad_lines"][0]


def test_cut_off_gzip_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl.gz", [row(str(n), "en") for n in range(3000)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: the gzip data is damaged or cut off"):
        ParallelCorpus.build(ParallelJsonlSource(str(path)))


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row("a", "en")) + "\nbroken\n")
    with pytest.raises(DataError):
        ParallelCorpus.build(ParallelJsonlSource(str(path)))
    assert [p for p in (tmp_path / "cache" / "corpora").iterdir() if p.is_dir()] == []


def test_an_id_twice_in_a_language_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("a", "en"), row("a", "en", query="another")])
    with pytest.raises(DataError, match=r"a\.jsonl:2: id 'a' stands twice in language 'en'"):
        ParallelCorpus.build(ParallelJsonlSource(str(path)))
    skipped = ParallelCorpus.build(ParallelJsonlSource(str(path), on_bad_line="skip"))
    assert list(skipped.queries) == ["q a en"], "nothing of the second line is kept"
    assert skipped.report["bad_lines"] == {"a.jsonl": 1}
    twice = write_lines(tmp_path / "b.jsonl", [row("a", "en"), row("a", "en")])
    assert ParallelCorpus.build(ParallelJsonlSource(str(twice))).report["repeated_lines"] == 1


@pytest.mark.parametrize("paths", ["missing.jsonl", "*.nothing", ["a.jsonl", "a.jsonl"]])
def test_paths_that_give_no_or_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "a.jsonl", [row("a", "en")])
    with pytest.raises(DataError, match=r"data\.path"):
        ParallelJsonlSource(paths)


def test_a_name_with_glob_characters_is_a_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "b=[1].jsonl.gz", [row("a", "en")])
    assert ParallelJsonlSource(str(path)).files == [path]


# ---------------------------------------------------------------------------------------------------------- cache


def test_cache_is_found_again_and_follows_the_content(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("a", "en")])
    first = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    again = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    assert (first.made_now, again.made_now, again.folder) == (True, False, first.folder)
    write_lines(path, [row("b", "en"), row("c", "en")])
    changed = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    assert changed.made_now
    assert len(changed) == 2


def test_an_unfinished_or_damaged_entry_is_made_again(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("a", "en")])
    folder = ParallelCorpus.build(ParallelJsonlSource(str(path))).folder
    (folder / cache.MANIFEST).unlink()  # as a process that was killed leaves it
    assert ParallelCorpus.build(ParallelJsonlSource(str(path))).made_now
    array = folder / "arrays" / "item_pattern.npy"
    content = array.read_bytes()
    array.write_bytes(content[:-1])
    assert ParallelCorpus.build(ParallelJsonlSource(str(path))).made_now
    array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size: only the full hash can tell
    assert not ParallelCorpus.build(ParallelJsonlSource(str(path))).made_now
    assert ParallelCorpus.build(ParallelJsonlSource(str(path)), verify_cache=True).made_now


def test_the_corpus_is_the_same_in_another_process(tmp_path: Path) -> None:
    rows = [row(str(n), code, passage_id=f"p{n // 2}") for n in range(40) for code in ("en", "de", "th")]
    path = write_lines(tmp_path / "a.jsonl", rows)
    program = (
        "import sys; from hybrid_ir.data.corpus import ParallelCorpus; "
        "from hybrid_ir.data.sources.jsonl import ParallelJsonlSource; "
        "print(ParallelCorpus.build(ParallelJsonlSource(sys.argv[1])).fingerprint)"
    )
    prints = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "HYBRID_IR_CACHE": str(tmp_path / f"cache{seed}")}
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=True
        )
        prints.add(done.stdout.strip())
    assert len(prints) == 1


@pytest.mark.parametrize("source", ["cldr", "jsonl"])
def test_a_corpus_of_another_format_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Sources have a number for their own format, which must not hide the corpus's."""
    path = write_lines(tmp_path / "a.jsonl", [row(str(n), "en") for n in range(20)])
    made = ParallelJsonlSource(str(path)) if source == "jsonl" else CldrSource(["en"], "evaluation")
    first = ParallelCorpus.build(made)
    assert ParallelCorpus.build(made).folder == first.folder
    monkeypatch.setattr(corpus_module, "_FORMAT", corpus_module._FORMAT + 1)
    other = ParallelCorpus.build(made)
    assert other.made_now
    assert other.folder != first.folder
    assert other.fingerprint == first.fingerprint


# ----------------------------------------------------------------------------------------------------- validation


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.integers(1, 30), st.floats(0.05, 0.5))
def test_no_passage_is_on_both_sides(tmp_path: Path, seed: int, queries: int, share: float) -> None:
    random = np.random.default_rng(7)
    rows = [
        row(str(n), code, passage=f"p{n // 3} {code}", passage_id=f"p{n // 3}")
        for n in range(200)
        for code in ("en", "de", "sw")
        if random.random() < 0.7
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    config = ValidationConfig(queries_per_language=queries, max_share=share, seed=seed)
    held = held_out(corpus, config)
    passage = np.asarray(corpus.table.passage)
    assert not set(passage[held]) & set(passage[~held])
    benchmark = validation_benchmark(corpus, held, config)
    assert benchmark is not None
    per_language = np.bincount(benchmark.query_languages, minlength=3)
    assert (per_language <= queries).all()
    assert (per_language > 0).all()
    training = {corpus.passages[r] for r in corpus.passage_rows(np.flatnonzero(~held[corpus.entries()[0]]))}
    assert not training & set(benchmark.documents)
    relevant = {(q, d) for q, d, _ in benchmark.judgments.tolist()}
    for q, text in enumerate(benchmark.queries):
        wanted = f"p{int(text.split()[1]) // 3} "
        assert {d for d, document in enumerate(benchmark.documents) if document.startswith(wanted)} == {
            d for p, d in relevant if p == q
        }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 15)), min_size=1, max_size=60),
    st.integers(1, 8),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
def test_the_first_of_the_order_are_those_of_the_whole_order(
    tmp_path: Path, items: list[tuple[int, int]], queries: int, share: float, seed: int
) -> None:
    rows = [
        row(str(n), code, passage=f"{passage} {code}", passage_id=str(passage))
        for n, (passage, languages) in enumerate(items)
        for bit, code in enumerate(("de", "en", "sw", "th"))
        if languages >> bit & 1
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    table = corpus.table
    salt = np.random.SeedSequence([seed, 0x76616C]).generate_state(1, np.uint64)[0]
    position = mix(np.asarray(table.passage).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt)
    expected = np.zeros(len(corpus), dtype=bool)
    for language in range(len(table.languages)):
        has = table.patterns[:, language][np.asarray(table.pattern)]
        quota = min(queries, int(share * has.sum()))
        if quota:
            expected |= has & (position <= np.sort(position[has])[quota - 1])
    expected = np.isin(table.passage, np.asarray(table.passage)[expected])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_AT_A_TIME", 7)
        patch.setattr(validation, "_TRIED", 1)  # often too few, so that all are looked at
        config = ValidationConfig(queries_per_language=queries, max_share=share, seed=seed)
        np.testing.assert_array_equal(held_out(corpus, config), expected)


def test_validation_in_some_languages_alone(tmp_path: Path) -> None:
    rows = [
        row(str(n), code, passage=f"p{n} {code}", passage_id=f"p{n}") for n in range(60) for code in ("de", "en", "sw")
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    config = ValidationConfig(queries_per_language=6, languages=["sw", "de"])
    held = held_out(corpus, config)
    benchmark = validation_benchmark(corpus, held, config)
    assert benchmark is not None
    in_all = validation_benchmark(corpus, held, ValidationConfig(queries_per_language=6))
    assert in_all is not None
    assert corpus.languages == ("de", "en", "sw")
    for part, everything in (
        (benchmark.query_languages, in_all.query_languages),
        (benchmark.document_languages, in_all.document_languages),
    ):
        np.testing.assert_array_equal(np.bincount(part, minlength=3), np.bincount(everything) * [1, 0, 1])
    assert set(benchmark.documents) < set(in_all.documents)
    assert len(benchmark.judgments) == 2 * len(benchmark.queries)
    with pytest.raises(
        ConfigError, match=r"data\.validation\.languages: the training data has no th; it has de, en, sw"
    ):
        held_out(corpus, ValidationConfig(queries_per_language=6, languages=["th"]))


def test_validation_can_be_switched_off(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row(str(n), "en") for n in range(20)])
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(path)))
    config = ValidationConfig(queries_per_language=0)
    held = held_out(corpus, config)
    assert not held.any()
    assert validation_benchmark(corpus, held, config) is None
