"""Overlap of training data with benchmarks: against loops over all runs of words, in many scripts, in real runs."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from small_runs import small_run
from test_corpus import write_lines

from hybrid_ir.cli import prepare as prepare_settings
from hybrid_ir.cli import run_command
from hybrid_ir.composition import composer
from hybrid_ir.config import TrainConfig
from hybrid_ir.data import overlap as command
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.exclusion import COLUMNS, benchmark_texts, exclusion, overlap
from hybrid_ir.data.ngrams import LISTED, UNITS_PER_WORD, RunIndex, run_length, units
from hybrid_ir.data.settings import data_settings
from hybrid_ir.data.sources.jsonl import ParallelJsonlSource
from hybrid_ir.evaluation.benchmarks.base import BenchmarkText
from hybrid_ir.evaluation.benchmarks.lareqa import read_lareqa
from hybrid_ir.training.run import prepare

# ------------------------------------------------------------------------------------------------------ units, runs

RUN_TOGETHER = (
    "CJK UNIFIED",
    "IDEOGRAPHIC ITERATION",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)


def naive_units(text: str) -> list[str]:
    """By the names of the characters, one after the other."""
    found: list[str] = []
    word = ""
    for c in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        kind = unicodedata.category(c)
        if kind == "Cf":
            continue
        alone = kind[0] in "LMN" and unicodedata.name(c).startswith(RUN_TOGETHER)
        if kind[0] in "LMN" and not alone:
            word += c
            continue
        if word:
            found.append(word)
            word = ""
        if alone:
            found.append(c)
    return [*found, word] if word else found


characters = st.sampled_from("abZÄßéİ١٢3５Ⅻ बाकि한국ไทยที่ກາភាမြ中文々かなカ、。.,!-'’\u200c\u200d\u00ad\ufeff \n\t")


@given(st.text(characters, max_size=60))
def test_units_are_those_of_a_loop_over_characters(text: str) -> None:
    assert units(text) == naive_units(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The “Quick” brown—fox", "the quick, BROWN fox!"),
        ("Straße ＡＢＣ １２", "STRASSE abc 12"),
        ("می‌شود", "میشود"),  # a zero-width non-joiner
        ("ありがとう、東京。", "ありがとう 東京"),
        ("ﬁne", "fine"),
    ],
)
def test_what_is_written_differently_is_the_same(one: str, other: str) -> None:
    assert units(one) == units(other)


def test_different_texts_stay_different() -> None:
    assert units("कि") != units("का")  # vowel signs are marks, and count
    assert units("在 NFL 打球") == ["在", "nfl", "打", "球"]


def naive_pairs(indexed: Sequence[str], texts: Sequence[str], n: int) -> dict[tuple[int, int], list[tuple[str, ...]]]:
    """Shared runs of each pair, in the order of the text; texts shorter than a run by equality."""

    def runs(text: str) -> list[tuple[str, ...]]:
        split = naive_units(text)
        if len(split) < n:
            return [(*split, "whole")] if split else []
        return [tuple(split[i : i + n]) for i in range(len(split) - n + 1)]

    known = [set(runs(text)) for text in indexed]
    pairs = {
        (t, i): [run for run in runs(text) if run in own] for t, text in enumerate(texts) for i, own in enumerate(known)
    }
    return {pair: shared for pair, shared in pairs.items() if shared}


words = st.lists(st.sampled_from(["a", "b", "ab", "中", "文", "ไท", "ย", "c"]), max_size=14).map(" ".join)


@settings(max_examples=300)
@given(st.lists(words, max_size=7), st.lists(words, max_size=7), st.integers(2, 5))
def test_what_is_found_is_what_is_there(indexed: list[str], texts: list[str], n: int) -> None:
    index = RunIndex(indexed, n)
    half = len(texts) // 2
    found: dict[tuple[int, int], str] = {}
    for low, part in ((0, texts[:half]), (half, texts[half:])):  # what was found does not depend on the parts
        pairs = index.find(part)
        assert pairs.texts.tolist() == sorted(pairs.texts.tolist())
        for text, place, run in zip(pairs.texts.tolist(), pairs.indexed.tolist(), pairs.runs, strict=True):
            assert (low + text, place) not in found
            found[low + text, place] = run
    expected = naive_pairs(indexed, texts, n)
    assert set(found) == set(expected)
    for pair, run in found.items():
        first = [unit for unit in expected[pair][0] if unit != "whole"]
        assert naive_units(run) == first
    touched = {place for _, place in expected}
    assert index.touched().tolist() == [place in touched for place in range(len(indexed))]


def test_a_phrase_of_many_texts_is_listed_a_few_times_and_counted_in_all() -> None:
    index = RunIndex([f"one two three four {n}" for n in range(50)], 4)
    assert len(index.find(["Zero one two three four."]).texts) == LISTED
    assert index.touched().all()


def test_lengths_of_runs_say_as_much_as_words(shared: Path) -> None:
    """Units of XQuAD's parallel questions and paragraphs in each script, by those of English."""
    counts = {}
    for code in ("en", "th", "zh"):
        file = read_lareqa(shared / "data" / "xquad-r" / f"{code}.json")
        counts[code] = sum(len(units(text)) for text in [*file.paragraphs, *(q.text for q in file.questions)])
    for code, script in (("th", "Thai"), ("zh", "Hans")):
        assert counts[code] / counts["en"] == pytest.approx(UNITS_PER_WORD[script], rel=0.02)
    assert [run_length(code, 8) for code in ("en", "ko", "zh", "ja", "th")] == [8, 8, 13, 19, 42]


# ---------------------------------------------------------------------------------------------- corpora, benchmarks

SENTENCES = {
    "en": "The river that crosses the old town freezes nearly every winter, they say.",
    "de": "Der Fluss, der durch die alte Stadt fließt, friert fast jeden Winter zu, heißt es.",
    "ar": "يقال إن النهر الذي يعبر المدينة القديمة يتجمد في كل شتاء تقريبا هنا.",
    "hi": "कहते हैं कि पुराने शहर से होकर बहने वाली नदी लगभग हर सर्दी में जम जाती है।",
    "ko": "사람들은 오래된 마을을 가로지르는 강이 거의 매년 겨울마다 완전히 얼어붙는다고 말한다.",
    "ja": "古い町を流れる川はほとんど毎年の冬に凍ると言われています。",
    "th": "ว่ากันว่าแม่น้ำที่ไหลผ่านเมืองเก่าจะกลายเป็นน้ำแข็งเกือบทุกฤดูหนาว",
    "zh": "据说穿过老城的那条河流几乎每年冬天都会结冰，令人惊讶。",
}


def disguised(code: str) -> str:
    """The sentence inside another text, written differently."""
    text = unicodedata.normalize("NFD", SENTENCES[code].upper()).replace(",", " –").replace("，", " ")
    return f"Xx yy. «{text}» zz 12"


def plain_rows(code: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{code}-{number}",
        "passage_id": f"{code}-p{number}",
        "language": code,
        "query": f"{number} {code} {number}?",
        "passage": " ".join(f"{code}{number}w{n}" for n in range(15)),
    }


@pytest.mark.parametrize("kind", ["query", "passage"])
@pytest.mark.parametrize("other", ["query", "document"])
def test_planted_overlaps_are_found_in_each_script_and_no_others(tmp_path: Path, kind: str, other: Any) -> None:
    rows = [plain_rows(code, number) for code in SENTENCES for number in range(3)]
    for code in SENTENCES:
        next(row for row in rows if row["id"] == f"{code}-1")[kind] = disguised(code)
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    texts = [BenchmarkText(other, f"b-{code}", code, text) for code, text in SENTENCES.items()]
    texts += [BenchmarkText(other, "sw", "sw", SENTENCES["en"])]  # a language that the data does not have
    found = overlap(corpus, "own", texts, 8)
    assert {corpus.item_ids([i])[0] for i in np.flatnonzero(found.items)} == {f"{code}-1" for code in SENTENCES}
    assert set(found.languages) == set(SENTENCES)
    name = "queries" if other == "query" else "documents"
    for counts in found.languages.values():
        assert (counts["items"], counts["items_touched"], counts[f"{name}_touched"]) == (3, 1, 1)
    listed = list(csv.reader(found.file.open(encoding="utf-8", newline="")))
    assert [(r[0], r[2], r[3], r[5], r[6]) for r in listed] == [
        (f"{code}-1", code, kind, other, f"b-{code}") for code in SENTENCES
    ]
    for line in listed:
        shared, whole = naive_units(line[-1]), naive_units(SENTENCES[line[2]])
        assert len(shared) == run_length(line[2], 8)
        assert any(whole[i : i + len(shared)] == shared for i in range(len(whole)))


def test_one_word_fewer_is_no_overlap(tmp_path: Path) -> None:
    seven = " ".join(SENTENCES["en"].split()[:7])
    rows = [{**plain_rows("en", 0), "passage": f"{seven} something else"}, {**plain_rows("en", 1), "query": seven}]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    texts = [BenchmarkText("document", "d", "en", SENTENCES["en"])]
    assert not overlap(corpus, "own", texts, 8).items.any()
    assert overlap(corpus, "own", texts, 7).items.all()
    short = [BenchmarkText("query", "q", "en", f"{seven}?")]  # shorter than a run: equal as a whole
    assert overlap(corpus, "own", short, 8).items.tolist() == [False, True]


def test_a_version_that_overlaps_takes_all_versions_along(tmp_path: Path) -> None:
    rows = [
        {**plain_rows("en", 0), "id": "a", "passage_id": "p", "passage": SENTENCES["en"]},
        {**plain_rows("de", 0), "id": "a", "passage_id": "p", "passage": "Ganz anders gesagt."},
        {**plain_rows("sw", 0), "id": "b", "passage_id": "p", "passage": "Kwa Kiswahili."},  # its passage overlaps
        {**plain_rows("de", 1), "id": "c", "passage_id": "q", "query": SENTENCES["de"]},
        {**plain_rows("en", 1), "id": "c", "passage_id": "q"},
        {**plain_rows("en", 2), "id": "d", "passage_id": "q", "passage": "On the passage of c, with another question."},
        {**plain_rows("en", 3), "id": "e", "negatives": [{"text": SENTENCES["en"] + " Really."}, "harmless"]},
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    texts = [BenchmarkText("document", code, code, text) for code, text in SENTENCES.items()]
    found = overlap(corpus, "own", texts, 8)
    assert dict(zip(corpus.item_ids(range(5)), found.items.tolist(), strict=True)) == {
        "a": True, "b": True, "c": True, "d": False, "e": False,
    }  # fmt: skip
    barred = {text for text, out in zip(corpus.passages, found.passages, strict=True) if out}
    assert barred == {SENTENCES["en"], "Ganz anders gesagt.", "Kwa Kiswahili.", SENTENCES["en"] + " Really."}
    report = exclusion(corpus, {"own": texts}, 8).report()
    assert (report["items"], report["languages"], report["sources"]) == (3, {"de": 2, "en": 2, "sw": 1}, {"a": 3})


corpora = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["en", "zh"]),
        st.lists(st.sampled_from("abc中文"), min_size=1, max_size=8).map(" ".join),
        st.lists(st.sampled_from("abc中文"), min_size=1, max_size=8).map(" ".join),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda line: line[:2],
)
benchmarks = st.lists(
    st.tuples(
        st.sampled_from(["query", "document"]),
        st.sampled_from(["en", "zh"]),
        st.lists(st.sampled_from("abc中文"), min_size=1, max_size=8).map(" ".join),
    ),
    max_size=4,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, benchmarks, st.integers(3, 4))
def test_items_of_any_corpus_against_loops(
    tmp_path: Path, lines: list[tuple[int, str, str, str]], known: list[tuple[Any, str, str]], words: int
) -> None:
    rows = [
        {"id": f"i{i}", "passage_id": f"p{i // 2}", "language": code, "query": q, "passage": p}
        for i, code, q, p in lines
    ]
    corpus = ParallelCorpus.build(ParallelJsonlSource(str(write_lines(tmp_path / "a.jsonl", rows))))
    texts = [BenchmarkText(kind, str(n), code, text) for n, (kind, code, text) in enumerate(known)]
    found = overlap(corpus, "own", texts, words)

    def shared(code: str, text: str) -> set[str]:
        own = [t for t in texts if t.language == code]
        pairs = naive_pairs([t.text for t in own], [text], run_length(code, words))
        return {own[place].id for _, place in pairs}

    passages = {i // 2 for i, code, _, p in lines if shared(code, p)}
    queries = {i for i, code, q, _ in lines if shared(code, q)}
    expected = {f"i{i}" for i, *_ in lines if i // 2 in passages or i in queries}
    assert {corpus.item_ids([i])[0] for i in np.flatnonzero(found.items)} == expected
    listed = {(r[0], r[2], r[3], r[6]) for r in csv.reader(found.file.open(encoding="utf-8", newline=""))}
    assert listed == {
        (f"i{i}", code, kind, name)
        for i, code, q, p in lines
        for kind, text in (("query", q), ("passage", p))
        for name in shared(code, text)
    }


# ------------------------------------------------------------------------------------------------------------ runs


def write_benchmark(folder: Path, documents: dict[str, str], queries: dict[str, str]) -> Path:
    """A benchmark of one's own in English: each query's document has its number."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl", [{"_id": i, "title": "", "text": t, "language": "en"} for i, t in documents.items()]
    )
    write_lines(folder / "queries.jsonl", [{"_id": i, "text": t, "language": "en"} for i, t in queries.items()])
    judged = "".join(f"{q}\t{d}\t1\n" for q, d in zip(queries, documents, strict=False))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def overlapping_corpus(folder: Path, negatives: bool = False) -> tuple[Path, set[str]]:
    """80 items in two languages, five on a passage that holds a benchmark's sentence in English; ids of those."""
    rows: list[dict[str, Any]] = []
    for number in range(80):
        for code in ("de", "en"):
            line = {**plain_rows(code, number), "id": f"i{number}", "passage_id": f"p{number // 2}"}
            line["passage"] = " ".join(f"{code}{number // 2}w{n}" for n in range(15))
            if code == "en" and number in (6, 7, 14, 15, 40):
                line["query" if number == 40 else "passage"] = disguised("en")
            if negatives:
                other = 3 if number % 3 else (number // 2 + 1) % 40
                text = disguised("en") if code == "en" and other in (3, 7) else f"{code}{other}w0 negative"
                line["negatives"] = [{"passage_id": f"p{other}", "text": text}, f"free {code} {number}"]
            rows.append(line)
    return write_lines(folder / "train.jsonl", rows), {"i6", "i7", "i14", "i15", "i40"}


@pytest.fixture
def own_benchmark(tmp_path: Path) -> Path:
    documents = {"d0": SENTENCES["en"], "d1": "Nothing that the training data has in it at all, not even in parts."}
    return write_benchmark(tmp_path / "beir", documents, {"q0": "What freezes in winter?", "q1": "What is not there?"})


def settings_of(data: Path, out: Path, benchmark: Path) -> list[str]:
    run = [setting for setting in small_run(data, out) if not setting.startswith("benchmark=")]
    return [
        *run,
        "benchmark=[beir]",
        f"benchmark.beir.path={benchmark}",
        "data.exclude_overlap_with=[beir]",
        "trainer.max_steps=4",
        "trainer.val_check_interval=null",
    ]


def composed(given: list[str]) -> TrainConfig:
    with composer("train") as composing:
        config, _ = prepare_settings(composing, given)
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("num_negatives", [0, 2])
def test_what_overlaps_is_in_no_batch(tmp_path: Path, own_benchmark: Path, num_negatives: int) -> None:
    data, out = overlapping_corpus(tmp_path, negatives=num_negatives > 0)
    given = [*settings_of(data, tmp_path / "out", own_benchmark), f"loss.num_negatives={num_negatives}"]
    prepared = prepare(composed(given), Console(quiet=True), with_benchmarks=False)
    corpus = prepared.corpus
    assert prepared.validation is not None
    assert not any("freezes" in str(text).casefold() for text in prepared.validation.documents)
    held_out = set(prepared.validation.document_ids)
    shown: set[str] = set()
    negatives: set[int] = set()
    for _ in range(120):
        rows = prepared.data.locate(prepared.plan.next())
        shown |= set(corpus.item_ids(rows.items))
        if rows.negative_rows is not None:
            negatives |= set(rows.negative_rows.reshape(-1).tolist())
    assert not shown & out
    assert len(shown) > 40
    assert {f"i{n}" for n in range(80)} - out - shown, "the hold-out stays out too"
    assert bool(negatives) == (num_negatives > 0)
    for row in negatives:
        assert "freezes" not in corpus.passages[row].casefold()
        assert f"{corpus.languages[corpus.passages.language[row]]}:{row}" not in held_out


@pytest.mark.usefixtures("signals_stay")
def test_a_run_says_what_it_left_out_and_stays_the_same_run(
    tmp_path: Path, own_benchmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = overlapping_corpus(tmp_path)
    folder = tmp_path / "run"
    given = [*settings_of(data, folder, own_benchmark), "optimizer.schedule=constant", "checkpoint.keep_optimizer=true"]
    assert run_command("train", given) == 0, capsys.readouterr().err
    said = " ".join(capsys.readouterr().out.split())
    assert "left out, overlap with beir: 5 of 80 items; per language: de 5, en 5; by source: train 5" in said
    with (folder / "excluded_overlap.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert {line["item_id"] for line in lines} == out
    assert {(line["benchmark"], line["benchmark_id"], line["language"]) for line in lines} == {("beir", "d0", "en")}
    report = json.loads((folder / "environment.json").read_text())["data"]["report"]["excluded_overlap"]
    assert report == {
        "benchmarks": ["beir"], "words": 8, "items": 5, "languages": {"de": 5, "en": 5}, "sources": {"train": 5},
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text())["excluded_overlap"] == 5
    # other files of the benchmark leave other items out: the run would not be the same
    (folder / "summary.json").unlink()
    corpus = own_benchmark / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("freezes", "thaws"))
    assert run_command("train", [f"resume={folder}", "trainer.max_steps=6"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "items left out by data.exclude_overlap_with" in error


@pytest.mark.usefixtures("signals_stay")
def test_mistakes_are_one_line(tmp_path: Path, own_benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = overlapping_corpus(tmp_path)
    train = settings_of(data, tmp_path / "out", own_benchmark)
    cases = [
        (["data.exclude_overlap_with=[xquad_r]"], "xquad_r is not among the chosen benchmarks; add it"),
        (["data.exclude_overlap_with=[squad]"], "'squad' is no benchmark"),
        (["data.exclude_overlap_with=[beir,beir]"], "names a benchmark twice"),
        (["data.overlap_words=1"], "data.overlap_words=1: must be a whole number from 3 to 100"),
    ]
    for more, message in cases:
        assert run_command("train", [*train, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    everything = write_benchmark(tmp_path / "all", {"d": "d " + " ".join(f"en0w{n}" for n in range(15))}, {"q": "q"})
    rows = [{**plain_rows("en", n), "passage": " ".join(f"en0w{k}" for k in range(15))} for n in range(20)]
    same = write_lines(tmp_path / "same.jsonl", rows)
    assert run_command("train", [*settings_of(same, tmp_path / "out", everything), "sampler=x_x_mono"]) == 2
    assert "every item of the data overlaps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------- command


def test_command(tmp_path: Path, own_benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = overlapping_corpus(tmp_path)
    listed = tmp_path / "lists" / "overlap.csv"
    given = ["data=parallel_jsonl", f"data.path={data}", "benchmark=[beir]", f"benchmark.beir.path={own_benchmark}"]
    for _ in range(2):  # the second time from the cache
        assert command.main([*given, f"output={listed}"]) == 0
        said = capsys.readouterr().out
        row = next(line for line in said.splitlines() if line.strip("│ ").startswith("en"))
        assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
            "en",
            "8",
            "0 of 2",
            "1 of 2",
            "5 of 80",
            "6.25%",
        ]
        assert "not compared, beir has no texts in them: de" in said
        assert "5 of 80 items (6.25%) overlap" in " ".join(said.split())
        assert {line["item_id"] for line in csv.DictReader(io.StringIO(listed.read_text()))} == out
        listed.unlink()
    for more, message in [
        (["data.pth=x"], 'did you mean "data.path"?'),
        (["benchmark.beir.path=/nowhere"], "no such folder"),
        (["output="], "output=: is empty"),
        ([f"output={tmp_path}"], "is a folder"),
        (["output=a", "output=b"], "given more than once"),
        (["--nonsense"], "--nonsense"),
    ]:
        assert command.main([*given, *more]) == 2, more
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert command.main(["data=parallel_jsonl", f"data.path={data}", "benchmark=[]"]) == 2
    assert "nothing to compare with" in capsys.readouterr().err


def test_texts_of_benchmarks(shared: Path) -> None:
    """All queries and relevant documents, whatever the limit; a pair's two parts."""
    given = [
        "benchmark=[xquad_r]",
        f"benchmark.xquad_r.path={shared / 'data' / 'xquad-r'}",
        "benchmark.xquad_r.limit=3",
    ]
    config = data_settings(given)
    texts = benchmark_texts("xquad_r", config.benchmark["xquad_r"])
    assert sum(text.kind == "query" for text in texts) == 11 * 1190
    answers = {text.id for text in texts if text.kind == "document"}
    english = {text for text in answers if text.startswith("en-")}
    file = read_lareqa(shared / "data" / "xquad-r" / "en.json")
    assert len(english) == len({place for question in file.questions for place in question.answers})
    pairs = data_settings([*given, "benchmark.xquad_r.candidate=sentence_with_paragraph"])
    both = benchmark_texts("xquad_r", pairs.benchmark["xquad_r"])
    assert {t.text for t in both if t.kind == "document"} > {t.text for t in texts if t.kind == "document"}


def test_texts_of_a_task_of_mteb() -> None:
    import mteb_small_task as small  # takes seconds to import

    from hybrid_ir.evaluation.benchmarks.mteb import MtebBenchmark

    documents, queries, judgments = small.content()
    relevant = {document for judged in judgments.values() for document, gain in judged.items() if gain}
    texts = set(MtebBenchmark([small.SmallParallelRetrieval()]).texts())
    assert texts == {
        BenchmarkText("query", f"{small.NAME}/{query['id']}", code, query["text"])
        for code, own in queries.items()
        for query in own
    } | {
        BenchmarkText("document", f"{small.NAME}/{own[d]['id']}", code, f"{own[d]['title']} {own[d]['text']}".strip())
        for code, own in documents.items()
        for d in relevant
    }


def test_the_built_in_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Its questions are made of templates, which training and benchmark share."""
    chosen = ["data.languages=[en,sw]", "benchmark=[cldr]", "benchmark.cldr.languages=[en,sw]"]
    assert command.main([*chosen, "data.overlap_words=20"]) == 0
    assert "cldr: what shares a run" in capsys.readouterr().out
