"""Published data sets in their own layouts: examples, what is parallel, what is recorded, what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_layouts import (
    WRITERS,
    lines,
    settings_of,
    squad,
    write,
    write_mfaq,
    write_miracl,
    write_mlqa,
    write_mmarco,
    write_moses,
    write_mr_tydi,
    write_swim_ir,
    write_table,
)
from pydantic import TypeAdapter
from small_runs import small_run

from hybrid_ir.cli import prepare, run_command
from hybrid_ir.composition import composer, conf_dir, quote_path
from hybrid_ir.config import BeirBenchmarkConfig, DataConfig, SamplerConfig, TrainConfig
from hybrid_ir.data import corpus_writer
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.corpus_writer import write_corpus
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.sources import licenses, make_source, mlqa, squad_shifts
from hybrid_ir.data.sources.base import Example, says_evaluation
from hybrid_ir.errors import ConfigError, DataError, UserError
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.base import Benchmark

MMARCO = {"de": "german", "en": "english", "hi": "hindi"}
PARALLEL = {"hf", "mlqa_translate_train", "mmarco", "sentence_pairs"}


def section(source: str, path: Path | str | None, **more: Any) -> Any:
    """A section ``data``."""
    raw = {"source": source, "path": None if path is None else str(path), **more}
    return TypeAdapter(DataConfig).validate_python(raw)


def examples(source: str, path: Path | str | None, **more: Any) -> list[Example]:
    return list(make_source(section(source, path, **more)).examples())


def composed(*words: str) -> TrainConfig:
    with composer("train") as composing:
        config, _ = prepare(composing, [quote_path(word) for word in words])
    assert isinstance(config, TrainConfig)
    return config


def refused(*words: str) -> str:
    """The one line that a command with these settings ends with."""
    with pytest.raises(UserError) as caught:
        composed(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unreadable(source: str, path: Path | str, **more: Any) -> str:
    """The one line that reading ends with."""
    with pytest.raises(UserError) as caught:
        examples(source, path, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- all of them


def test_all_options_are_here() -> None:
    shipped = {path.stem for path in (conf_dir() / "data").glob("*.yaml")}
    assert set(WRITERS) == shipped - {"cldr", "mixture", "parallel_jsonl"}


@pytest.mark.parametrize("option", WRITERS)
def test_batches_of_an_option(option: str, tmp_path: Path) -> None:
    """What the plan draws are questions with their own passages, in two languages where items are parallel."""
    config = composed(*settings_of(option, tmp_path))
    corpus = ParallelCorpus.build(make_source(config.data))
    assert list(corpus.counts()) == sorted(corpus.languages)
    assert len(corpus.languages) == 2
    assert len(corpus) == (40 if option in PARALLEL else 80)
    sampler = SamplerConfig(preset="x_y", mono_ratio=0) if option in PARALLEL else config.sampler
    plan = BatchPlan(corpus.table.restricted(np.ones(len(corpus), dtype=bool)), sampler, 8, 1)
    for _ in range(6):
        batch = plan.next()
        query_codes, passage_codes = batch.query_language, batch.passage_language
        assert (query_codes != passage_codes).all() if option in PARALLEL else (query_codes == passage_codes).all()
        queries = corpus.queries.take(corpus.query_rows(corpus.entry(batch.items, query_codes)))
        passages = corpus.passages.take(corpus.passage_rows(corpus.entry(batch.items, passage_codes)))
        for query, passage, asked, answered in zip(queries, passages, query_codes, passage_codes, strict=True):
            assert re.search(rf"\b{corpus.languages[asked]} (question|sentence) ", query)
            assert re.search(rf"\b{corpus.languages[answered]} (passage|paragraph|answer|sentence) ", passage)
            assert set(re.findall(r"\d+", passage)) == set(re.findall(r"\d+", query))


@pytest.mark.parametrize("option", WRITERS)
def test_what_is_recorded(option: str, tmp_path: Path) -> None:
    """Names, sizes and hashes of exactly the files that are read, and the same of a copy elsewhere."""
    config = composed(*settings_of(option, tmp_path / "a"))
    key = make_source(config.data).key()
    assert len(key["files"]) == len(key["bytes"]) > 0
    for (name, sha256), size in zip(key["files"], key["bytes"], strict=True):
        (path,) = (tmp_path / "a" / option).rglob(name)
        assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) == (sha256, size)
    assert len({name for name, _ in key["files"]}) == len(key["files"])
    again = composed(*settings_of(option, tmp_path / "b"))
    if option not in ("miracl_train", "mr_tydi"):  # gzip writes the time
        assert make_source(again.data).key() == key
    sources = {example.source for example in make_source(config.data).examples()}
    stated = licenses(config.data, sorted(sources))
    assert set(stated) == sources
    assert all(stated.values()) == (option not in ("hf", "sentence_pairs"))


@pytest.mark.parametrize("option", WRITERS)
def test_stretches_can_be_passed_over(option: str, tmp_path: Path) -> None:
    """With the state after them, reading goes on as if they had been read, and says the same at its end."""
    config = composed(*settings_of(option, tmp_path))

    def source() -> Any:
        return make_source(config.data)

    whole = source()
    read, states = [], []
    for stretch in whole.stretches():
        read.append(list(stretch))
        states.append(json.loads(json.dumps(whole.state())))
    assert [example for stretch in read for example in stretch] == list(source().examples())
    assert (len(read) > 1) == (option not in ("hf", "sentence_pairs"))
    for passed in range(1, len(read) + 1):
        other = source()
        rest = []
        for place, stretch in enumerate(other.stretches()):
            if place < passed:
                other.restore(states[place])
            else:
                rest += list(stretch)
        assert rest == [example for stretch in read[passed:] for example in stretch]
        assert (other.state(), other.report()) == (whole.state(), whole.report())


@pytest.mark.parametrize("option", WRITERS)
def test_the_disk_is_looked_at_before_anything_is_written(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is said is no less than what the texts take; a source may take little of its files, so it is not refused."""
    config = composed(*settings_of(option, tmp_path))
    texts = sum(len((e.query + e.passage).encode()) for e in make_source(config.data).examples())
    folder = tmp_path / "corpus"
    folder.mkdir()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - texts, texts))
        patch.setattr(corpus_writer, "_size", str)
        assert write_corpus(make_source(config.data), folder)["languages"]
    need = r"the texts need at most about ([\d.]+) in (.*), which has (\d+) free; should"
    (said,) = re.findall(need, capsys.readouterr().err)
    assert (said[1], said[2]) == (str(tmp_path), str(texts))
    assert float(said[0]) >= texts


@pytest.mark.parametrize("option", sorted(set(WRITERS) - {"hf", "sentence_pairs"}))
def test_a_file_that_is_missing(option: str, tmp_path: Path) -> None:
    """Each file that is read: its name, where it is to be had and where to put it, before anything is read."""
    words = settings_of(option, tmp_path)
    codes = ",".join(make_source(composed(*words).data).languages)  # type: ignore[attr-defined]
    for name, path in make_source(composed(*words).data).recorded():  # type: ignore[attr-defined]
        if name.endswith("docs-1.jsonl.gz"):  # the last file of a corpus: a sample has fewer
            continue
        content = path.read_bytes()
        path.unlink()
        message = refused(*words, f"data.languages=[{codes}]")
        assert "https://" in message or "add the others" in message
        assert Path(name).name in message or "-of-" in name
        path.write_bytes(content)
    composed(*words)


def test_a_missing_file_ends_a_command_at_once(tmp_path: Path) -> None:
    folder = write_mmarco(tmp_path / "data", MMARCO)
    (folder / "data/google/collections/hindi_collection.tsv").unlink()
    command = [sys.executable, "-m", "hybrid_ir.train", "data=mmarco", f"data.path={folder}", "data.languages=[de,hi]"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has no data/google/collections/hindi_collection.tsv" in done.stderr
    assert "resolve/6d039c4638c0ba3e46a9cb7b498b145e7edc6230/data/google/collections/hindi" in done.stderr


def test_languages_of_a_folder(tmp_path: Path) -> None:
    folder = write_mmarco(tmp_path, MMARCO)
    assert {e.language for e in examples("mmarco", folder)} == {"de", "en", "hi"}
    assert {e.language for e in examples("mmarco", folder, languages=["hi", "de"])} == {"de", "hi"}
    assert "data=mmarco has no training data in it; it has ar, de" in refused("data=mmarco", "data.languages=[sw,de]")
    assert "data=miracl_train has no training data in it" in refused(
        "data=miracl_train", "sampler=x_x_mono", "data.languages=[yo]"
    )
    (tmp_path / "empty").mkdir()
    assert "has no data/google/queries/train/<language>_queries.train.tsv" in refused(
        "data=mmarco", f"data.path={tmp_path / 'empty'}"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=swim_ir"], "sampler.mono_ratio=0.5: cross-lingual rows need items in two languages"),
        (["data=sentence_pairs", "data.path=x"], "a sentence would be its own passage; use sampler=x_y"),
        (["data=mmarco", "loss.num_negatives=2"], "data.negatives=0 keeps fewer of each question"),
        (["data=mmarco", "data.revision=main"], "data.revision=main: is not a commit; give its 40 hex digits"),
        (["data=hf", "data.path=a/b"], "nothing says which language a row is in"),
        (["data=hf", "data.path=a/b", "data.columns.language=l"], "data.revision=null: a/b is no file or folder here"),
        (["data=hf", "data.path=./b", "data.columns.language=l"], "data.path=./b: no such folder or file"),
        (["data=hf", "data.path=a/b", "data.columns.language=l", f"data.revision={'0' * 40}"], "HF_HUB_OFFLINE is set"),
        (["data=mmarco"], "cannot be downloaded from https://huggingface.co/datasets/unicamp-dl/"),
        (["data=mlqa_translate_train"], "cannot be downloaded from https://dl.fbaipublicfiles.com/MLQA/"),
        (["data=mmarco", "data.positives=qrels"], "put https://msmarco.z22.web.core.windows.net/"),
        (["data=mmarco", "data.path=/no/such"], "data.path=/no/such: no such folder"),
    ],
)
def test_settings_that_cannot_work(words: list[str], message: str) -> None:
    assert message in refused(*words)


# ------------------------------------------------------------------------------------------- evaluation data


def test_names_of_evaluation_data() -> None:
    for name in ("dev.jsonl", "topics.miracl-v1.0-sw-dev.tsv", "test-a", "testA", "validation", "x_valid.jsonl"):
        assert says_evaluation(name)
    for name in ("newstest2014.de", "flores200.devtest.en", "tst2010.en", "DevSet.tsv", "myEvalSet.jsonl"):
        assert says_evaluation(name)
    for name in ("train", "latest.jsonl", "contest", "devices.tsv", "retrieval", "Latest"):
        assert not says_evaluation(name)


@pytest.mark.parametrize("words", [["data=hf", "data.columns.language=language"], ["data=sentence_pairs"]])
def test_a_folder_that_is_named_as_a_split_is_not_trained_on(tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "test_of_mine" / "Validation"
    folder.mkdir(parents=True)
    (folder / "0000.en").write_text("one\n")
    (folder / "0000.sw").write_text("moja\n")
    path = folder if words[0] == "data=hf" else f"{folder}/0000.*"
    message = refused(*words, f"data.path={path}", "sampler=x_y")
    assert "'Validation' says that it is for evaluation" in message


def test_a_renamed_folder_is_other_data(tmp_path: Path) -> None:
    """The folder's name says the language of a column."""
    found = []
    for code in ("sv", "sw"):
        file = tmp_path / f"en-{code}" / "train-00000-of-00001.jsonl"
        file.parent.mkdir()
        file.write_text(json.dumps({"english": "one", "non_english": "moja"}) + "\n")
        corpus = ParallelCorpus.build(make_source(section("sentence_pairs", str(file))))
        found.append(corpus.languages)
    assert found == [("en", "sv"), ("en", "sw")]


def test_dev_topics_are_never_trained_on(tmp_path: Path) -> None:
    dev = write_miracl(tmp_path / "dev", split="dev")
    message = refused("data=miracl_train", f"data.path={dev}", "sampler=x_x_mono")
    assert "is evaluation data, which is never trained on" in message
    alone = examples("miracl_train", write_miracl(tmp_path / "train", items=10))
    write_miracl(tmp_path / "train", items=10)
    own = tmp_path / "train" / "miracl-v1.0-sw" / "topics" / "topics.miracl-v1.0-sw-dev.tsv"
    write(own, "777\tA dev topic?\n")
    both = examples("miracl_train", tmp_path / "train")
    assert [e.query for e in both] == [e.query for e in alone]


def test_evaluation_splits_and_files_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "facts" / "test-00000-of-00001.parquet")
    columns = ["data.columns.query=question", "data.columns.passage=answer", "data.columns.language=lang"]
    for words in (
        [f"data.path={table}"],
        [f"data.path={table.parent}", "data.split=test"],
        ["data.path=facebook/mlqa", f"data.revision={'1' * 40}", "data.split=validation"],
    ):
        assert "evaluation data is never trained on" in refused("data=hf", *columns, *words)
    moses = write_moses(tmp_path / "moses")
    for code in ("en", "sw"):
        (moses / f"talks.{code}").rename(moses / f"flores.dev.{code}")
    assert "evaluation data is never trained on" in refused(
        "data=sentence_pairs", "sampler=x_y", f"data.path={moses}/flores.*"
    )
    write(tmp_path / "mlqa/mlqa-translate-train/ar_squad-translate-train-dev-v1.1.json", squad({"c": [("q", "?")]}))
    assert "is evaluation data, which is never trained on" in refused(
        "data=mlqa_translate_train", f"data.path={tmp_path / 'mlqa'}"
    )


# ---------------------------------------------------------------------------------------------------------- mMARCO


def tsv(rows: Mapping[int, str], end: str = "\n") -> str:
    return "".join(f"{number}\t{text}{end}" for number, text in rows.items())


def test_mmarco_as_it_is_found(tmp_path: Path) -> None:
    """Ragged, Unicode, Windows' line ends, gzip, texts that are empty, questions with several passages."""
    folder = tmp_path / "data"
    google = folder / "google"
    write(
        google / "queries/train/german_queries.train.tsv",
        tsv({1: "Fräge\u2028eins?", 2: " zwei? ", 3: "drei?"}, "\r\n"),
    )
    write(google / "collections/german_collection.tsv", tsv({10: "zehn", 11: "elf", 12: "zwölf\tmit Tab", 13: "13"}))
    write(google / "queries/train/hindi_queries.train.tsv", tsv({1: "एक?", 3: "तीन?", 9: "नौ?"}))
    write(google / "collections/hindi_collection.tsv", tsv({10: "दस", 11: "   ", 12: "बारह", 13: "तेरह", 99: "x"}))
    triples = [(1, 10, 12), (2, 12, 13), (1, 11, 13), (1, 10, 13), (1, 10, 11), (3, 12, 10), (1, 10, 12)]
    content = "".join(f"{q}\t{p}\t{n}\n" for q, p, n in triples).encode()
    (folder / "triples.train.ids.small.tsv").write_bytes(gzip.compress(content))
    source = make_source(section("mmarco", tmp_path, negatives=3))
    found = {(e.item_id, e.language): e for e in source.examples()}
    assert {key: (e.query, e.passage) for key, e in found.items()} == {
        ("1/10", "de"): ("Fräge\u2028eins?", "zehn"),
        ("1/11", "de"): ("Fräge\u2028eins?", "elf"),
        ("2/12", "de"): ("zwei?", "zwölf\tmit Tab"),
        ("3/12", "de"): ("drei?", "zwölf\tmit Tab"),
        ("1/10", "hi"): ("एक?", "दस"),
        ("3/12", "hi"): ("तीन?", "बारह"),
    }
    # both passages of question 1 are one to the batches; the negative 11, which answers it, is none
    assert {key: e.passage_id for key, e in found.items() if key[1] == "de"} == {
        ("1/10", "de"): "10",
        ("1/11", "de"): "10",
        ("2/12", "de"): "12",
        ("3/12", "de"): "12",
    }
    negatives = {key: [(n.text, n.passage_id) for n in e.negatives] for key, e in found.items()}
    assert negatives["1/10", "de"] == [("zwölf\tmit Tab", "12"), ("13", "13")] == negatives["1/11", "de"]
    assert negatives["1/10", "hi"] == [("बारह", "12"), ("तेरह", "13")]
    assert negatives["3/12", "hi"] == [("दस", "10")]
    assert source.report() == {"left_out": {"pairs without a text in hi": 2}}
    corpus = ParallelCorpus.build(source)
    assert corpus.counts()["de"]["items"] == 4
    assert len(corpus) == 4
    both = np.asarray(corpus.table.patterns)[np.asarray(corpus.table.pattern)].all(1)
    assert [corpus.item_ids([i])[0] for i in np.flatnonzero(both)] == ["1/10", "3/12"]


ids = st.integers(0, 9)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=25), st.integers(0, 3), st.booleans())
def test_mmarco_is_the_join_of_its_files(
    tmp_path: Path, triples: list[tuple[int, int, int]], negatives: int, qrels: bool
) -> None:
    """Against a join in memory, word for word."""
    folder = write_mmarco(tmp_path, {"de": "german"})
    passages = "".join(f"{i}\tpassage {i}\n" for i in range(10))
    write(folder / "data/google/collections/german_collection.tsv", passages)
    write(folder / "data/triples.train.ids.small.tsv", "".join(f"{q}\t{p}\t{n}\n" for q, p, n in triples))
    write(folder / "data/qrels.train.tsv", "".join(f"{q}\t0\t{p}\t1\n{q}\t0\t{n}\t0\n" for q, p, n in triples))
    positives = "qrels" if qrels else "triples"
    found = examples("mmarco", folder, negatives=negatives, positives=positives)
    assert [e.item_id for e in found] == [f"{q}/{p}" for q, p in sorted({(q, p) for q, p, _ in triples})]

    group = {p: {p} for _, p, _ in triples}
    for q, p, _ in triples * 10:  # until nothing changes
        for other_q, other_p, _ in triples:
            if q == other_q:
                merged = group[p] | group[other_p]
                for each in merged:
                    group[each] = merged
    for e in found:
        question, passage = map(int, e.item_id.split("/"))
        assert (e.query, e.passage) == (f"de question {question}?", f"passage {passage}")
        assert e.passage_id == str(min(group[passage]))
        others = dict.fromkeys(n for q, _, n in triples if q == question and n not in group[passage])
        kept = list(others)[:negatives]
        expected = [(f"passage {n}", str(min(group.get(n, {n})))) for n in kept]
        assert [(n.text, n.passage_id) for n in e.negatives] == expected


def test_mmarco_of_which_nothing_is_there(tmp_path: Path) -> None:
    folder = write_mmarco(tmp_path, {"de": "german"}, items=5)
    write(folder / "data/google/collections/german_collection.tsv", tsv({7: "another"}))
    source = make_source(section("mmarco", folder))
    assert list(source.examples()) == []
    assert source.report() == {"left_out": {"pairs without a text in de": 5}}
    with pytest.raises(DataError, match=r"^source mmarco: no examples"):
        ParallelCorpus.build(source)


def test_mmarco_says_where_a_line_is_wrong(tmp_path: Path) -> None:
    folder = write_mmarco(tmp_path, {"de": "german"}, items=5)
    triples = folder / "data/triples.train.ids.small.tsv"
    good = triples.read_text()
    for bad in ("1\t2", "1\t2\tx", "1\t2\t-3", f"1\t2\t{1 << 31}", "1\t\t2"):
        write(triples, good + bad + "\n")
        assert f"{triples}:16: is not question<TAB>passage<TAB>negative in numbers" in unreadable("mmarco", folder)
    write(triples, good)
    collection = folder / "data/google/collections/german_collection.tsv"
    text = collection.read_bytes()
    for bad, why in (
        (b"no tab\n", "is not a number"),
        (b"1000\tagain\n", "repeats the id 1000"),
        (b"1004\t\xff\n", ""),
    ):
        collection.write_bytes(text.replace(b"1004\tde passage 4.\n", b"") + bad)
        assert f"{collection}:5: {why}" in unreadable("mmarco", folder)
        source = make_source(section("mmarco", folder, on_bad_line="skip"))
        assert len(list(source.examples())) == 4
        assert source.report()["bad_lines"] == {"german_collection.tsv": 1}


# ---------------------------------------------------------------------------------------------- the other layouts


def test_mlqa_joins_by_question_over_ragged_languages(tmp_path: Path) -> None:
    files = {
        "ar": {"فقرة": [("q1", "سؤال ١؟"), ("q2", "سؤال ٢؟")]},
        "de": {"\ufeffEin Absatz.": [("q2", "Frage 2?"), ("q3", "Frage 3?")], "Noch einer.": [("q4", "Frage 4?")]},
        "en": {"A paragraph.": [("q1", "1?"), ("q2", "2?"), ("q3", "3?")], "Another.": [("q4", "4?")]},
    }
    write_mlqa(tmp_path, ())
    for code, asked in files.items():
        name = (
            "train-v1.1.json" if code == "en" else f"mlqa-translate-train/{code}_squad-translate-train-train-v1.1.json"
        )
        write(tmp_path / name, squad(asked))
    corpus = ParallelCorpus.build(make_source(section("mlqa_translate_train", tmp_path)))
    assert corpus.counts()["ar"]["items"] == 2
    assert sorted(corpus.item_ids(range(len(corpus)))) == ["q1", "q2", "q3", "q4"]
    by_id = dict(zip(corpus.item_ids(range(4)), np.asarray(corpus.table.passage).tolist(), strict=True))
    assert by_id["q1"] == by_id["q2"] == by_id["q3"] != by_id["q4"]  # one paragraph, through the language that has all
    texts = set(corpus.passages)
    assert "Ein Absatz." in texts  # without the byte order mark


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"data": []}', "holds no question"),
        ('{"data": [{"paragraphs": 1}]}', "data[0].paragraphs: is no list"),
        ('{"data": [{"paragraphs": [{"context": "", "qas": [{}]}]}]}', "data[0].paragraphs[0].context: is no text"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [3]}]}]}', "qas[0]: is no object"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1"}]}]}]}', "qas[0].question: is no text"),
    ],
)
def test_a_file_that_is_not_squad(content: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "mlqa-translate-train/de_squad-translate-train-train-v1.1.json", content)
    assert message in unreadable("mlqa_translate_train", tmp_path)


def test_miracl_takes_what_is_judged(tmp_path: Path) -> None:
    """Ids with #, a topic with two passages, judgments that do not fit; the same ids in two languages are others."""
    write_miracl(tmp_path, ("sw", "te"), items=10)
    own = tmp_path / "miracl-v1.0-sw"
    write(own / "topics/topics.miracl-v1.0-sw-train.tsv", "1#0\tSwali moja?\r\n2\tSwali mbili?\r\n")
    judged = ["1#0 Q0 3#0 1", "1#0 Q0 4#0 1", "1#0 Q0 5#0 0", "2 Q0 4#0 1", "2 Q0 6#0 0", "2 Q0 99#0 1", "7 Q0 3#0 1"]
    write(own / "qrels/qrels.miracl-v1.0-sw-train.tsv", "".join(line.replace(" ", "\t") + "\n" for line in judged))
    source = make_source(section("miracl_train", tmp_path, negatives=5))
    found = {e.item_id: e for e in source.examples()}
    swahili = {name: e for name, e in found.items() if e.language == "sw"}
    assert {name: (e.query, e.passage, e.passage_id) for name, e in swahili.items()} == {
        "sw/1#0/3#0": ("Swali moja?", "Title 3 sw passage 3.", "sw/3#0"),
        "sw/1#0/4#0": ("Swali moja?", "Title 4 sw passage 4.", "sw/3#0"),
        "sw/2/4#0": ("Swali mbili?", "Title 4 sw passage 4.", "sw/3#0"),
    }
    assert [n.passage_id for n in swahili["sw/1#0/3#0"].negatives] == ["sw/5#0"]
    assert [n.text for n in swahili["sw/2/4#0"].negatives] == ["Title 6 sw passage 6."]
    assert found["te/3#0/3#0"].passage_id == "te/3#0"
    assert source.report() == {
        "left_out": {"passages missing from the corpus in sw": 1, "judgments of unknown topics in sw": 1}
    }
    assert all(not e.negatives for e in examples("miracl_train", tmp_path))  # none are asked for


def test_mr_tydi_and_its_bad_lines(tmp_path: Path) -> None:
    folder = write_mr_tydi(tmp_path, {"sw": "swahili"}, items=3)
    path = folder / "mrtydi-v1.1-swahili/train.jsonl.gz"
    row = {
        "query_id": 3,
        "query": "Swali?",
        "positive_passages": [{"docid": "0#0", "title": "", "text": " a "}, {"docid": "8#0", "text": "b"}],
        "negative_passages": [{"docid": d, "title": "", "text": d} for d in ("0#0", "1#0", "9#1", "9#2")],
    }
    good = gzip.decompress(path.read_bytes()).decode()
    write(path, good + lines([row]))
    found = {e.item_id: e for e in examples("mr_tydi", folder, negatives=2)}
    assert [(n.text, n.passage_id) for n in found["sw/3/8#0"].negatives] == [("1#0", "sw/1#0"), ("9#1", "sw/9#1")]
    assert found["sw/3/8#0"].passage_id == found["sw/3/0#0"].passage_id == found["sw/0/0#0"].passage_id == "sw/0#0"
    bad: list[tuple[dict[str, Any], str]] = [
        ({**row, "query": " "}, "'query' is no text"),
        ({**row, "positive_passages": []}, "'positive_passages' is empty"),
        ({**row, "positive_passages": [{"docid": "1", "title": "", "text": ""}]}, "dev and test files have none"),
        ({**row, "negative_passages": "x"}, "'negative_passages' is no list"),
        ({k: v for k, v in row.items() if k != "query_id"}, "no key 'query_id'"),
    ]
    for wrong, why in bad:
        write(path, good + lines([wrong]))
        message = unreadable("mr_tydi", folder)
        assert f"{path}:4: " in message
        assert why in message
        source = make_source(section("mr_tydi", folder, on_bad_line="skip"))
        assert len(list(source.examples())) == 3
        assert source.report()["bad_lines"] == {"train.jsonl.gz": 1}
    path.write_bytes(path.read_bytes()[:-12])
    assert "gzip data is damaged or cut off" in unreadable("mr_tydi", folder, on_bad_line="skip")


def test_swim_ir_files(tmp_path: Path) -> None:
    folder = write_swim_ir(tmp_path, ("yo",), items=4)
    first = folder / "yo/train-00000-of-00002.parquet"
    rows = pq.read_table(first).to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows, {**rows[0], "_id": "x", "query": None}]), first)
    assert f"{first}:row 3: has no _id, query or text" in unreadable("swim_ir", folder)
    assert len(examples("swim_ir", folder, on_bad_line="skip")) == 4
    pq.write_table(pa.table({"query": ["a"]}), first)
    assert "has no column '_id'" in unreadable("swim_ir", folder)
    first.write_bytes(b"PAR1")
    assert "cannot be read" in unreadable("swim_ir", folder)


def test_mfaq_pages(tmp_path: Path) -> None:
    folder = write_mfaq(tmp_path, ("fi",), items=4)
    path = folder / "data/fi/train.jsonl"
    page = {"id": 9, "domain": "d", "qa_pairs": [{"question": "K?", "answer": " "}, {"question": "L?", "answer": "V."}]}
    good = path.read_text()
    write(path, good + "\r\n" + lines([page]))
    source = make_source(section("mfaq", folder))
    assert [e.item_id for e in source.examples()][-1] == "fi/9/1"
    assert source.report() == {"left_out": {"pairs without a question or an answer in fi": 1}}
    for wrong, why in ({"id": 1}, "'qa_pairs' is no list"), ({"id": 1, "qa_pairs": [{}]}, "has no 'question'"):
        write(path, good + lines([wrong]))
        assert why in unreadable("mfaq", folder)


def test_squad_shifts_becomes_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every question finds its paragraph, which is a document once."""
    asked = {"\ufeffA review.": [("1", "What?"), ("2", "Who?")], "Another.": [("3", "Why?")]}
    files = [write(tmp_path / f"{name}_v1.0.json", squad(asked)) for name in ("nyt", "reddit")]
    assert squad_shifts.main([str(tmp_path / "out"), *map(str, files)]) == 0
    assert "6 questions" in capsys.readouterr().out
    benchmark = load_benchmark("beir", BeirBenchmarkConfig(path=str(tmp_path / "out")))
    assert isinstance(benchmark, Benchmark)
    found = {
        benchmark.query_ids[q]: (benchmark.queries[q], benchmark.documents[d])
        for q, d, _ in benchmark.judgments.tolist()
    }
    assert found["reddit_v1.0-2"] == ("Who?", "A review.")
    assert (len(found), len(benchmark.documents)) == (6, 2)
    assert squad_shifts.main([str(tmp_path / "out"), *map(str, files)]) == 2
    assert "is not empty" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- bitext, hub


def test_aligned_files(tmp_path: Path) -> None:
    write(tmp_path / "talks.en", "One.\n\nThree\u0085still three.\nFour.\n")
    write(tmp_path / "talks.sw", "Moja.\r\nMbili.\r\nTatu.\r\nNne.\r\n")
    write(tmp_path / "talks.th.gz", "หนึ่ง\nสอง\n\nสี่\n")
    found = examples("sentence_pairs", f"{tmp_path}/talks.*")
    assert all(e.query == e.passage for e in found)
    by_item: dict[str, dict[str, str]] = {}
    for e in found:
        by_item.setdefault(e.item_id, {})[e.language] = e.query
    assert list(by_item.values()) == [
        {"en": "One.", "sw": "Moja.", "th": "หนึ่ง"},
        {"sw": "Mbili.", "th": "สอง"},
        {"en": "Three\u0085still three.", "sw": "Tatu."},
        {"en": "Four.", "sw": "Nne.", "th": "สี่"},
    ]
    assert len(examples("sentence_pairs", f"{tmp_path}/talks.*", languages=["en", "th"])) == 4
    write(tmp_path / "talks.sw", "Moja.\n")
    message = unreadable("sentence_pairs", f"{tmp_path}/talks.*")
    assert f"{tmp_path}/talks.sw: ends after line 1, talks.en goes on: they are not aligned" in message
    assert "has no translation beside it" in unreadable("sentence_pairs", f"{tmp_path}/talks.en")


def test_tables_of_sentences(tmp_path: Path) -> None:
    """TSV, JSONL and the published Parquet give what is in them."""
    pairs = [("One.", "Moja."), ("Two.", "Mbili."), ("Three.", "")]
    tables = {
        "a.tsv": ("".join(f"{i}\t{e}\t{s}\n" for i, (e, s) in enumerate(pairs)), {"en": "2", "sw": "3"}),
        "a.jsonl.gz": (lines([{"x": e, "y": s} for e, s in pairs]), {"en": "x", "sw": "y"}),
    }
    for name, (content, columns) in tables.items():
        path = write(tmp_path / name, content)
        source = make_source(section("sentence_pairs", path, language_columns=columns))
        assert [e.query for e in source.examples()] == ["One.", "Moja.", "Two.", "Mbili."]
        assert source.report() == {"left_out": {"sentences without a translation": 1}}
    published = tmp_path / "en-sw" / "train-00000-of-00001.parquet"
    published.parent.mkdir()
    rows = [{"english": e, "non_english": s} for e, s in pairs]
    pq.write_table(pa.Table.from_pylist(rows), published)
    found = examples("sentence_pairs", published)
    assert [(e.language, e.query, e.source) for e in found[:2]] == [("en", "One.", "en-sw"), ("sw", "Moja.", "en-sw")]

    table = tmp_path / "a.tsv"
    assert "nothing says which column is in which language" in unreadable("sentence_pairs", table)
    columns = {"en": "2", "sw": "9"}
    assert f"{table}:1: has 3 columns, no column 9" in unreadable("sentence_pairs", table, language_columns=columns)
    with pytest.raises(ConfigError, match=r"data\.language_columns\.sw=y: is no column of a TSV file"):
        make_source(section("sentence_pairs", table, language_columns={"en": "1", "sw": "y"}))
    assert "names one language" in refused(
        "data=sentence_pairs", "sampler=x_y", f"data.path={table}", "data.language_columns.en=1"
    )


COLUMNS = {"query": "question", "passage": "answer", "id": "qid", "language": "lang", "negatives": ["others"]}


def test_any_table_that_datasets_reads(tmp_path: Path) -> None:
    """The same rows as Parquet, JSONL and CSV, as a file and as a folder."""
    parquet = write_table(tmp_path / "a" / "facts.parquet", items=5)
    rows = pq.read_table(parquet).to_pylist()
    jsonl = write(tmp_path / "b" / "facts.jsonl", lines(rows))
    csv = [{**row, "others": row["others"][0]} for row in rows]
    text = "\n".join([",".join(csv[0]), *(",".join(map(str, row.values())) for row in csv)]) + "\n"
    found = [examples("hf", path, columns=COLUMNS) for path in (parquet, jsonl, write(tmp_path / "c/facts.csv", text))]
    expected = [(str(r["qid"]), r["lang"], r["question"], r["answer"], tuple(r["others"])) for r in rows]
    for each in found:
        assert [
            (e.item_id, e.language, e.query, e.passage, tuple(n.text for n in e.negatives)) for e in each
        ] == expected
    assert [e.query for e in examples("hf", parquet.parent, columns=COLUMNS)] == [r["question"] for r in rows]


def test_a_configuration_for_each_language(tmp_path: Path) -> None:
    """A folder that says its configurations as the hub does, CSV with a separator of its own, and nested columns."""
    write(
        tmp_path / "README.md",
        "---\nconfigs:\n"
        "- config_name: swahili\n  data_files:\n  - split: train\n    path: sw/*.csv\n  sep: ';'\n"
        "- config_name: yoruba\n  data_files:\n  - split: train\n    path: yo/train.jsonl\n"
        "  - split: test\n    path: yo/other.jsonl\n---\n",
    )
    write(tmp_path / "sw/one.csv", "question;answer\nSwali?;Jibu.\n")
    write(tmp_path / "yo/train.jsonl", lines([{"question": "Ìbéèrè?", "answer": "Ìdáhùn."}]))
    write(tmp_path / "yo/other.jsonl", lines([{"question": "?", "answer": "."}]))
    more = {"columns": {"query": "question", "passage": "answer"}, "configurations": {"sw": "swahili", "yo": "yoruba"}}
    found = examples("hf", tmp_path, **more)
    assert [(e.item_id, e.language, e.query, e.passage) for e in found] == [
        ("swahili/1", "sw", "Swali?", "Jibu."),
        ("yoruba/1", "yo", "Ìbéèrè?", "Ìdáhùn."),
    ]
    assert [e.language for e in examples("hf", tmp_path, languages=["yo"], **more)] == ["yo"]
    assert "datasets cannot read it" in unreadable("hf", tmp_path, **{**more, "configurations": {"sw": "none"}})
    assert "has no such split; it has train" in unreadable("hf", tmp_path, split="training", **more)
    assert "data.columns.passage=reply: " in unreadable(
        "hf", tmp_path, configurations={"sw": "swahili"}, columns={"query": "question", "passage": "reply"}
    )


def test_rows_that_are_no_examples(tmp_path: Path) -> None:
    good = {"question": "Q?", "answer": "P.", "lang": "sw", "qid": "a", "others": {"texts": ["n1", "n2"]}}
    columns = {**COLUMNS, "negatives": ["others.texts"]}
    path = write(tmp_path / "facts.jsonl", lines([good]))
    assert [n.text for n in examples("hf", path, columns=columns)[0].negatives] == ["n1", "n2"]
    wrong = [
        ({"question": " "}, "'question' is no text"),
        ({"lang": "Swahili"}, "'sw'"),
        ({"qid": None}, "not a text or an integer"),
    ]
    for change, why in wrong:
        write(path, lines([good, {**good, **change}]))
        message = unreadable("hf", path, columns=columns)
        assert "facts.jsonl:row 2: " in message
        assert why in message
        source = make_source(section("hf", path, columns=columns, on_bad_line="skip"))
        assert len(list(source.examples())) == 1
        assert source.report()["bad_lines"] == {"facts.jsonl": 1}
    write(path, lines([good]) + "{not json\n")
    assert "datasets cannot read it" in unreadable("hf", path, columns=columns)


# ------------------------------------------------------------------------------------------------------- a real run


def test_a_run_records_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_mmarco(tmp_path / "data", MMARCO, items=60)
    words = [word for word in small_run(folder, tmp_path / "run") if not word.startswith("data=")]
    small = ["data=mmarco", "data.negatives=2", "loss.num_negatives=1", "trainer.max_steps=2"]
    assert run_command("train", [*words, *small]) == 0, capsys.readouterr().err
    data = json.loads((tmp_path / "run/environment.json").read_text())["data"]
    recorded = dict(data["made_from"]["files"])
    path = "data/google/collections/hindi_collection.tsv"
    assert recorded[path] == hashlib.sha256((folder / path).read_bytes()).hexdigest()
    assert data["licenses"]["mmarco"].startswith("apache-2.0 (unverified")
    card = (tmp_path / "run/model/README.md").read_text()
    assert "data.path=DIR" in card
    assert str(tmp_path) not in card


# --------------------------------------------------------------------------------------------------------- downloads

REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(files: Mapping[str, bytes], claimed: int | None = None) -> Iterator[str]:
    """A server that answers what huggingface_hub asks of a data set's files; its address.

    Args:
        files: content by ``repository/name``.
        claimed: size that it says each file has; None says the true one.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def entry(self, name: str, content: bytes) -> dict[str, Any]:
            size = claimed if claimed is not None else len(content)
            return {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(content).hexdigest()}

        def folder(self, name: str) -> dict[str, Any]:
            return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}

        def do_POST(self) -> None:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            match = re.fullmatch(r"/api/datasets/(.+)/paths-info/\w+", self.path)
            assert match, self.path
            own = {n.removeprefix(match[1] + "/"): c for n, c in files.items() if n.startswith(match[1] + "/")}
            found = [self.entry(name, c) for name, c in own.items() if name in asked]
            found += [self.folder(name) for name in asked if any(each.startswith(name + "/") for each in own)]
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].replace("%2F", "/")
            about = re.fullmatch(rf"/api/datasets/(.+?)(?:/revision/{REVISION})?", path)
            tree = re.fullmatch(rf"/api/datasets/(.+?)/tree/{REVISION}/?(.*)", path)
            file = re.fullmatch(rf"/datasets/(.+?)/resolve/{REVISION}/(.+)", path)
            if tree:
                start = f"{tree[1]}/{tree[2]}".rstrip("/") + "/"
                below = {n.removeprefix(tree[1] + "/"): c for n, c in files.items() if n.startswith(start)}
                found = [self.entry(name, content) for name, content in below.items()]
                found += [self.folder(name) for name in {str(Path(name).parent) for name in below} - {".", tree[2]}]
                self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
            elif file and f"{file[1]}/{file[2]}" in files:
                content = files[f"{file[1]}/{file[2]}"]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(200, content, ETag=etag, X_Repo_Commit=REVISION)
            elif about and any(name.startswith(about[1] + "/") for name in files):
                own = [{"rfilename": n.removeprefix(about[1] + "/")} for n in files if n.startswith(about[1] + "/")]
                info = {"id": about[1], "sha": REVISION, "siblings": own, "tags": [], "private": False}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            else:
                self.answer(404, b"{}", X_Error_Code="EntryNotFound")

        do_HEAD = do_GET

    with serving(Handler) as address:
        yield address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


READ = """
import sys
from hybrid_ir.cli import report_errors
from pydantic import TypeAdapter
from hybrid_ir.config import DataConfig
from hybrid_ir.data.sources import make_source

def read():
    source = make_source(TypeAdapter(DataConfig).validate_json(sys.argv[1]))
    key = source.key()
    print(len(list(source.examples())), len(key["files"]), key["published"]["repositories"])
    return 0

sys.exit(report_errors(read))
"""


def read_elsewhere(
    folder: Path, config: Mapping[str, Any], address: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Reads a source in a process whose hub is at an address, with a cache of its own."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": str(int(offline)), "HYBRID_IR_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", READ, json.dumps(config)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def contents(folder: Path, repository: str) -> dict[str, bytes]:
    return {f"{repository}/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("source", "repository", "make", "pairs", "count"),
    [
        ("mr_tydi", "castorini/mr-tydi", lambda f: write_mr_tydi(f, {"sw": "swahili"}), 40, 1),
        ("swim_ir", "nthakur/swim-ir-monolingual", lambda f: write_swim_ir(f, ("yo",)), 40, 2),
    ],
)
def test_files_come_from_the_hub_once(
    source: str, repository: str, make: Callable[[Path], Path], pairs: int, count: int, tmp_path: Path
) -> None:
    files = contents(make(tmp_path / "published"), repository)
    code = "sw" if source == "mr_tydi" else "yo"
    config = {"source": source, "revision": REVISION, "languages": [code]}
    with hub(files) as address:
        first = read_elsewhere(tmp_path, config, address)
        assert first.returncode == 0, first.stderr
        assert f"downloading {count} files of {repository}@{REVISION[:12]}" in first.stderr
    expected = f"{pairs} {count} {{'{repository}': '{REVISION} (unverified)'}}\n"
    assert first.stdout == expected
    again = read_elsewhere(tmp_path, config, "http://127.0.0.1:1", offline=True)
    assert (again.stdout, again.stderr) == (expected, "")


def test_a_configuration_comes_from_the_hub_once(tmp_path: Path) -> None:
    """The files of the configuration and split alone, and without the network the next time."""
    card = ["---", "configs:"]
    for code, splits in (("sw", ("train", "dev")), ("yo", ("train",))):
        card += [f"- config_name: {code}-pair", "  data_files:"]
        card += [f"  - {{split: {split}, path: {code}/{split}-*}}" for split in splits]
    write(tmp_path / "published" / "README.md", "\n".join([*card, "---"]) + "\n")
    for name in ("sw/train-00000-of-00001", "sw/dev-00000-of-00001", "yo/train-00000-of-00001"):
        write_table(tmp_path / "published" / f"{name}.parquet", codes=[name[:2]])
    files = contents(tmp_path / "published", "someone/pairs")
    columns = {"query": "question", "passage": "answer"}
    config = {"source": "hf", "path": "someone/pairs", "revision": REVISION, "columns": columns}
    config |= {"configurations": {"sw": "sw-pair"}}
    with hub(files) as address:
        first = read_elsewhere(tmp_path, config, address)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"40 1 {{'someone/pairs': '{REVISION} (unverified)'}}\n"
    assert [path.parent.name for path in (tmp_path / "hf" / "hub").rglob("*.parquet")] == ["sw"]
    again = read_elsewhere(tmp_path, config, "http://127.0.0.1:1", offline=True)
    assert again.stdout == first.stdout


def test_what_the_hub_does_not_give(tmp_path: Path) -> None:
    """One line: which file, from where, where to put it; nothing is fetched that there is no room for."""
    config = {"source": "mr_tydi", "revision": REVISION, "languages": ["sw"]}
    files = contents(write_mr_tydi(tmp_path / "published", {"sw": "swahili"}), "castorini/mr-tydi")
    with hub({}) as address:
        absent = read_elsewhere(tmp_path, config, address)
    with hub(files, claimed=10**16) as address:
        large = read_elsewhere(tmp_path, config, address)
    nowhere = read_elsewhere(tmp_path, config, "http://127.0.0.1:1")
    name = "mrtydi-v1.1-swahili/train.jsonl.gz"
    from_where = f"https://huggingface.co/datasets/castorini/mr-tydi/resolve/{REVISION}/{name}"
    for done in (absent, nowhere):
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert from_where in line
        assert f"put it by hand as {name} into a folder and set data.path to that folder" in line
    assert large.returncode == 2
    assert "the download needs 10000000.0 GB; free space, or set HF_HOME" in large.stderr.splitlines()[-1]
    assert not list((tmp_path / "hf").rglob("*.gz"))


def test_translate_train_comes_as_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_mlqa(tmp_path / "published", ("ar", "de"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as members:
        members.add(written / "mlqa-translate-train", "mlqa-translate-train")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(archive.getvalue())

    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serving(Handler) as address:
        monkeypatch.setattr(mlqa, "ARCHIVE", f"{address}/mlqa-translate-train.tar.gz")
        assert len(examples("mlqa_translate_train", None, languages=["ar", "de"])) == 80
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(examples("mlqa_translate_train", None, languages=["ar"])) == 40
    with pytest.raises(DataError, match="has no mlqa-translate-train/es_squad-translate-train-train"):
        examples("mlqa_translate_train", None, languages=["es"])  # not in the archive, which is there
    (tmp_path / "cache" / "downloads" / "mlqa-translate-train.tar.gz").unlink()
    with pytest.raises(DataError, match=r"es_squad-translate-train-train.*HF_HUB_OFFLINE"):
        make_source(section("mlqa_translate_train", None, languages=["es"]))
