"""Own data in BEIR's layout: languages by line or by folder, results against trec_eval, and faults of the files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ir.composition import composer, conf_dir, validate
from hybrid_ir.config import BeirBenchmarkConfig, EvaluateConfig, EvaluationConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.engine import evaluate

Line = tuple[str, str, str | None]
"""Id, text and language."""


def load(path: Path, **section: Any) -> Benchmark:
    benchmark = load_benchmark("beir", BeirBenchmarkConfig(path=str(path), **section))
    assert isinstance(benchmark, Benchmark)
    return benchmark


def write(
    folder: Path,
    corpus: Iterable[Line],
    queries: Iterable[Line],
    judgments: Iterable[tuple[str, str, int]],
    split: str = "test",
) -> Path:
    """A folder in BEIR's layout; a language of None is not written."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, lines in (("corpus", corpus), ("queries", queries)):
        rows = [{"_id": i, "text": text, **({"language": c} if c else {}), "metadata": {}} for i, text, c in lines]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    rows_ = "".join(f"{query}\t{document}\t{score}\n" for query, document, score in judgments)
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows_)
    return folder


def judged(benchmark: Benchmark) -> set[tuple[str, str, str, int]]:
    """Query id, its language, document id, relevance."""
    return {
        (benchmark.query_ids[q], benchmark.languages[benchmark.query_languages[q]], benchmark.document_id(d), r)
        for q, d, r in benchmark.judgments.tolist()
    }


def documents(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    """Language and text by id."""
    codes = [benchmark.languages[i] for i in benchmark.document_languages]
    return dict(zip(benchmark.document_ids, zip(codes, benchmark.documents, strict=True), strict=True))


class IntegerEncoder:
    """Embeddings of small whole numbers, decided by the text: scores are exact, with many ties."""

    def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
        seeds = [int.from_bytes(hashlib.sha256(repr(text).encode()).digest()[:8]) for text in texts]
        rows = [np.random.default_rng(seed).integers(-2, 3, 6) for seed in seeds]
        return torch.tensor(np.array(rows), dtype=torch.float32)


# ------------------------------------------------------------------------------------------- languages of the lines

CORPUS: list[Line] = [
    ("d1", "moja", "sw"), ("d2", "eins", "de"), ("d3", "mbili", "sw"), ("d4", "zwei", "de"), ("d5", "one", "en"),
    ("d6", "tatu", "sw"), ("d7", "drei", "de"),
]  # fmt: skip
QUERIES: list[Line] = [
    ("q1", "moja?", "sw"), ("q1", "eins?", "de"), ("q2", "two?", "en"), ("q3", "tatu?", "sw"), ("other", "x", "th"),
]  # fmt: skip
JUDGMENTS = [("q1", "d1", 2), ("q1", "d2", 1), ("q1", "d7", 0), ("q2", "d3", 1), ("q2", "d4", 1), ("q3", "d6", 1)]


def test_one_folder_whose_lines_have_a_language(tmp_path: Path) -> None:
    benchmark = load(write(tmp_path, CORPUS, QUERIES, JUDGMENTS))
    assert benchmark.languages == ("de", "en", "sw")  # the query that is not judged is of another split
    assert benchmark.settings == ("monolingual", "cross_lingual", "multilingual")
    assert documents(benchmark) == {i: (language, text) for i, text, language in CORPUS}
    assert np.all(np.diff(benchmark.document_languages) >= 0)
    order = np.argsort(np.asarray(benchmark.document_order))
    assert [benchmark.document_ids[i] for i in order.tolist()] == ["d1", "d2", "d3", "d4", "d5", "d6", "d7"]
    # Both versions of a question have its judgments.
    assert judged(benchmark) == {
        ("q1", "sw", "d1", 2), ("q1", "sw", "d2", 1), ("q1", "sw", "d7", 0), ("q1", "de", "d1", 2),
        ("q1", "de", "d2", 1), ("q1", "de", "d7", 0), ("q2", "en", "d3", 1), ("q2", "en", "d4", 1),
        ("q3", "sw", "d6", 1),
    }  # fmt: skip
    assert benchmark.queries == ["moja?", "eins?", "two?", "tatu?"]
    assert benchmark.notes == ()
    assert len(load(tmp_path, limit=1).queries) == 2


def test_a_selection_of_languages(tmp_path: Path) -> None:
    write(tmp_path, CORPUS, QUERIES, JUDGMENTS)
    benchmark = load(tmp_path, languages=["sw", "en"])
    assert benchmark.languages == ("en", "sw")
    assert set(benchmark.document_ids) == {"d1", "d3", "d5", "d6"}
    assert judged(benchmark) == {("q1", "sw", "d1", 2), ("q2", "en", "d3", 1), ("q3", "sw", "d6", 1)}
    assert (benchmark.settings, benchmark.notes) == (("monolingual", "cross_lingual"), ())
    assert benchmark.corpus_fingerprint != load(tmp_path).corpus_fingerprint
    alone = load(tmp_path, languages=["de"])
    assert (alone.settings, judged(alone)) == (("monolingual",), {("q1", "de", "d2", 1), ("q1", "de", "d7", 0)})


def test_one_language_that_the_lines_do_not_name(tmp_path: Path) -> None:
    corpus = [(i, text, None) for i, text, _ in CORPUS]
    write(tmp_path, corpus, [(i, text, None) for i, text, _ in QUERIES[1:]], JUDGMENTS)
    benchmark = load(tmp_path, languages=["yo"])
    assert (benchmark.languages, benchmark.settings) == (("yo",), ("monolingual",))
    assert len(benchmark.documents) == 7
    for languages in (None, ["yo", "sw"]):
        with pytest.raises(DataError, match=r"queries\.jsonl:1: no 'language'; give one .*languages=\[xx\]") as caught:
            load(tmp_path, languages=languages)
        assert "\n" not in str(caught.value)


def test_texts_titles_and_compressed_files(tmp_path: Path) -> None:
    folder = write(tmp_path, [], [("1", " a\u2028b\u0085c ", "sw")], [("1", "7", 1)])
    rows: list[dict[str, Any]] = [
        {"_id": 7, "title": "Kichwa", "text": "Maandishi. "},
        {"_id": "8", "title": "", "text": " Mengine "},
        {"_id": "9", "title": None, "text": ""},
    ]
    lines = "\n\n".join(json.dumps({**row, "language": "sw"}) for row in rows).encode()
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + lines))
    judgments = (folder / "qrels" / "test.tsv").read_bytes()
    (folder / "qrels" / "dev.tsv").write_bytes(b"\xef\xbb\xbf" + judgments.replace(b"\n", b"\r\n"))
    for split in ("test", "dev"):
        benchmark = load(folder, split=split)
        assert documents(benchmark) == {
            "7": ("sw", "Kichwa Maandishi."),
            "8": ("sw", "Mengine"),
            "9": ("sw", ""),
        }
        assert benchmark.queries == [" a\u2028b\u0085c "]
        assert judged(benchmark) == {("1", "sw", "7", 1)}


codes = st.sampled_from(["de", "en", "sw"])


@settings(max_examples=40)
@given(st.lists(codes, min_size=1, max_size=8), st.lists(codes, min_size=1, max_size=5), st.data())
def test_settings_are_what_the_judgments_allow(of_documents: list[str], of_queries: list[str], data: Any) -> None:
    pairs = [(q, d) for q in range(len(of_queries)) for d in range(len(of_documents))]
    relevance = {pair: data.draw(st.integers(0, 2)) for pair in data.draw(st.sets(st.sampled_from(pairs), min_size=1))}
    asked = data.draw(st.none() | st.sets(codes, min_size=1))
    with tempfile.TemporaryDirectory() as folder:
        write(
            Path(folder),
            [(f"d{i}", f"text {i}", code) for i, code in enumerate(of_documents)],
            [(f"q{i}", f"query {i}", code) for i, code in enumerate(of_queries)],
            [(f"q{q}", f"d{d}", score) for (q, d), score in relevance.items()],
        )
        kept = {
            (of_queries[q], of_documents[d], q, d, score)
            for (q, d), score in relevance.items()
            if asked is None or {of_queries[q], of_documents[d]} <= asked
        }
        there = {*of_documents, *(of_queries[q] for q, _ in relevance)}
        section = {} if asked is None else {"languages": sorted(asked)}
        if asked is not None and (not asked <= there or not asked & set(of_documents)):
            with pytest.raises(ConfigError, match=r"^benchmark\.beir\.languages=\["):
                load(Path(folder), **section)
            return
        if not any(score for *_, score in kept):
            with pytest.raises(DataError, match="no query has a relevant document in the test judgments"):
                load(Path(folder), **section)
            return
        benchmark = load(Path(folder), **section)
    relevant = [(query, document) for query, document, _, _, score in kept if score]
    expected = {
        "monolingual": any(query == document for query, document in relevant),
        "cross_lingual": any(query != document for query, document in relevant),
        "multilingual": len({document for _, document in relevant}) > 1,
    }
    assert benchmark.settings == tuple(name for name, possible in expected.items() if possible)
    assert judged(benchmark) == {(f"q{q}", query, f"d{d}", score) for query, _, q, d, score in kept}


# ------------------------------------------------------------------------------------------- folders by language


def make_folders(root: Path) -> Path:
    """``sw``, ``de`` and the pair ``de-sw``, whose German questions are partly those of ``de``; each with judged
    documents that are missing from its corpus."""
    swahili: list[Line] = [(f"{i}", f"hati {i}", None) for i in range(30)]
    german: list[Line] = [(f"{i}", f"Dokument {i}", None) for i in range(20)]
    questions: list[Line] = [(f"q{i}", f"Frage {i}", None) for i in range(8)]
    write(root / "sw", swahili, [(f"q{i}", f"swali {i}", None) for i in range(6)], judge(6, 30, 0))
    write(root / "de", german, questions, judge(8, 20, 1))
    write(root / "de-sw", swahili, [*questions[:5], ("q9", "Frage 9", None)], [*judge(5, 30, 2), ("q9", "gone", 1)])
    return root


def judge(queries: int, size: int, seed: int) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(seed)
    found = [
        (f"q{query}", str(document), int(rng.integers(0, 3)))
        for query in range(queries)
        for document in rng.choice(size, 4, replace=False).tolist()
    ]
    return [*found, ("q1", f"gone{seed}", 2), ("q2", "absent", 0), ("unknown", "1", 1)]


def test_folders_by_language_and_pair(tmp_path: Path) -> None:
    benchmark = load(make_folders(tmp_path))
    assert benchmark.languages == ("de", "sw")
    assert benchmark.settings == ("monolingual", "cross_lingual")
    assert len(benchmark.documents) == 50  # one corpus a language
    assert len(benchmark.queries) == 8 + 1 + 6  # a question that stands in two folders is one query
    assert benchmark.missing_ids == ["gone1", "absent", "gone2", "absent", "gone", "gone0", "absent"]
    assert benchmark.missing_languages is not None
    assert benchmark.missing_languages.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert benchmark.notes[-2:] == (
        "judgments of queries that are not among the queries, left out: de 1 of 35, de-sw 1 of 24, sw 1 of 27",
        "relevant documents missing from the corpus, counted as not retrieved: "
        + ", ".join(
            f"{name} {counts['missing_relevant']} of {counts['relevant']}"
            for name, counts in benchmark.info["counts"].items()
        ),
    )
    assert benchmark.info["counts"]["de-sw"]["missing_relevant"] == 2
    assert load(tmp_path, languages=["sw"]).languages == ("sw",)
    assert len(load(tmp_path, languages=["sw"]).documents) == 30
    assert load(tmp_path, settings=["cross_lingual"]).settings == ("cross_lingual",)


@pytest.mark.parametrize("depth", [None, 15])
@pytest.mark.parametrize("layout", ["folders", "lines"])
def test_results_equal_trec_eval_on_the_users_own_judgments(tmp_path: Path, layout: str, depth: int | None) -> None:
    import pytrec_eval

    data = tmp_path / "data"
    judgments: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    if layout == "folders":
        make_folders(data)
        for name in ("sw", "de", "de-sw"):
            rows = (data / name / "qrels" / "test.tsv").read_text().splitlines()[1:]
            codes = name.split("-")
            judgments[codes[0], codes[-1]] = [(q, d, int(score)) for q, d, score in (row.split("\t") for row in rows)]
    else:
        languages = ("de", "en", "sw")
        rng = np.random.default_rng(0)
        corpus: list[Line] = [(f"d{i}", f"text {i}", languages[int(rng.integers(3))]) for i in range(60)]
        queries: list[Line] = [(f"q{i}", f"query {i}", languages[i % 3]) for i in range(9)]
        all_judgments = [
            (query, corpus[document][0], int(rng.integers(0, 3)))
            for query, _, _ in queries
            for document in rng.choice(60, 8, replace=False).tolist()
        ]
        write(data, corpus, queries, all_judgments)
        asked, of_document = {i: code for i, _, code in queries}, {i: code for i, _, code in corpus}
        for query, document, score in all_judgments:
            for pool in (of_document[document], "all"):
                judgments.setdefault((str(asked[query]), str(pool)), []).append((query, document, score))
    benchmark = load(data, depth=depth)
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=1000)
    results = evaluate(IntegerEncoder(), benchmark, evaluation, 0, tmp_path)
    names = {"map": "map", "recall@10": "recall_10", "precision@10": "P_10", "ndcg@10": "ndcg_cut_10"}
    ours = {
        (row["query_language"], row["corpus_language"], row["query_id"], row["metric"]): row["value"]
        for row in results.per_query.to_pylist()
        if row["metric"] in names
    }
    compared = set()
    for (language, corpus_language), rows_ in judgments.items():
        if depth is not None and corpus_language == "all":
            continue
        run: dict[str, dict[str, float]] = {}
        path = tmp_path / "runs" / f"beir.{language}-{corpus_language}.trec"
        for line in path.read_text().splitlines():
            query, _, document, _, score_, _ = line.split(" ")
            run.setdefault(query, {})[document] = float(score_)
        qrels: dict[str, dict[str, int]] = {}
        for query, document, score in rows_:
            qrels.setdefault(query, {})[document] = score
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recall.10", "P.10", "ndcg_cut.10"})
        relevant = {query for query, of_query in qrels.items() if any(of_query.values())}
        assert set(run) == relevant - {"unknown"}
        for query, values in evaluator.evaluate(run).items():
            for metric, theirs in names.items():
                key = (language, corpus_language, query, metric)
                assert ours[key] == pytest.approx(values[theirs], abs=1e-9), key
                compared.add(key)
    assert compared == set(ours)


def test_english_questions_about_a_corpus_in_one_other_language(tmp_path: Path) -> None:
    """No document is in the questions' language; a missing one is missing from the only corpus that there is."""
    corpus: list[Line] = [("d1", "moja", "sw"), ("d2", "mbili", "sw")]
    queries: list[Line] = [("q1", "one?", "en"), ("q2", "two?", "en")]
    write(tmp_path, corpus, queries, [("q1", "d1", 1), ("q1", "gone", 1), ("q2", "gone", 1)])
    benchmark = load(tmp_path)
    assert benchmark.settings == ("cross_lingual",)
    assert benchmark.notes == (
        f"relevant documents missing from the corpus, counted as not retrieved: {tmp_path.name} 2 of 3",
    )
    results = evaluate(IntegerEncoder(), benchmark, EvaluationConfig(save_runs=True), 0, tmp_path)
    recalls = {
        (row["query_id"], row["query_language"], row["corpus_language"]): row["value"]
        for row in results.per_query.to_pylist()
        if row["metric"] == "recall@10"
    }
    assert recalls == {("q1", "en", "sw"): 0.5, ("q2", "en", "sw"): 0.0}


# ------------------------------------------------------------------------------------------------------ bad input


def data(folder: Path) -> Path:
    return write(folder, CORPUS, QUERIES, JUDGMENTS)


GOOD = b'{"_id": "d1", "text": "b", "language": "sw"}\n'
BAD_DOCUMENTS = [
    (b'{"_id": "d2", "text": "b", "language": "sw"', "not JSON (Expecting ',' delimiter at column 44)"),
    (b'["d2", "b"]', "a JSON list, not an object"),
    (b'{"id": "d2", "text": "b"}', "no key '_id', there is 'id', 'text'; expected a document in BEIR's layout"),
    (b'{"_id": "d2", "contents": "b"}', "no key 'text', there is '_id', 'contents'"),
    (b'{"_id": 1.5, "text": "b", "language": "sw"}', "'_id' is a float, not a text or an integer"),
    (b'{"_id": "d2", "text": ["b"], "language": "sw"}', "'text' is a list, not a text"),
    (b'{"_id": "d2", "title": 1, "text": "b", "language": "sw"}', "'title' is a int, not a text"),
    (b'{"_id": "d2", "text": "b"}', "no 'language'; give one on each line, or, where all is in one, benchmark.beir"),
    (b'{"_id": "d2", "text": "b", "language": null}', "no 'language'; give one on each line"),
    (b'{"_id": "d2", "text": "b", "language": ["sw"]}', "'language' is a list, not a text"),
    (b'{"_id": "d2", "text": "b", "language": "swa"}', "unknown language code 'swa'; did you mean 'sw'?"),
    (b'{"_id": "d 2", "text": "b", "language": "sw"}', "the id 'd 2' is empty or has a space"),
    (b'{"_id": "", "text": "b", "language": "sw"}', "'_id' is empty"),
    (b'{"_id": "d2", "text": "\xff", "language": "sw"}', "not UTF-8 (byte 23 of the line)"),
    (b'{"_id": "d2", "text": "\\ud800", "language": "sw"}', "half a character"),
    (b'{"_id": "d1", "text": "b", "language": "de"}', "repeats the id 'd1' of "),
]


@pytest.mark.parametrize(("line", "message"), BAD_DOCUMENTS)
def test_bad_documents(tmp_path: Path, line: bytes, message: str) -> None:
    path = data(tmp_path) / "corpus.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


BAD_QUERIES = [
    (b'{"_id": "q1", "text": "b", "language": "sw"', "not JSON"),
    (b'{"query": "b"}', "no key '_id', there is 'query'; expected a query in BEIR's layout"),
    (b'{"_id": "q1", "text": " ", "language": "sw"}', "query 'q1' has no text"),
    (b'{"_id": "q3", "text": "b", "language": "xx"}', "unknown language code 'xx'"),
    (b'{"_id": "q2", "text": "b", "language": "sw"}', "repeats the query 'q2' of line 1 in sw"),
]


@pytest.mark.parametrize(("line", "message"), BAD_QUERIES)
def test_bad_queries(tmp_path: Path, line: bytes, message: str) -> None:
    path = data(tmp_path) / "queries.jsonl"
    path.write_bytes(b'{"_id": "q2", "text": "a", "language": "sw"}\n' + line)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert str(caught.value).endswith("; mend the line")


HEADER = b"query-id\tcorpus-id\tscore\n"
BAD_JUDGMENTS = [
    (b"", 0, "is empty"),
    (HEADER, 0, "holds no judgment"),
    (b"q1\td1\t1\n", 1, "the header 'q1<TAB>d1<TAB>1' is not query-id<TAB>corpus-id<TAB>score"),
    (b"q1\tQ0\td1\t1\n", 1, "the header 'q1<TAB>Q0<TAB>d1"),
    (b"query-id,corpus-id,score\n", 1, "has 1 of the 3 columns query-id<TAB>corpus-id<TAB>score"),
    (HEADER + b"q1\td1\n", 2, "has 2 of the 3 columns"),
    (HEADER + b"q1\td1\t0.5\n", 2, "the relevance '0.5' is not a whole number"),
    (HEADER + b"q1\td1\t1\nq1\td1\t1\n", 3, "judges document 'd1' for query 'q1' again"),
    (HEADER + b"q 1\td1\t1\n", 2, "the query-id 'q 1' is empty or has a space"),
    (HEADER + b"q1\td1\t1\nq2\tgone\t0\nq2\tgone2\t1\n", 4, "document 'gone2' is not in corpus.jsonl, whose documents"),
]


@pytest.mark.parametrize(("content", "line", "message"), BAD_JUDGMENTS)
def test_bad_judgments(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    path = data(tmp_path) / "qrels" / "test.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}" if line else f"{path}: {message}")
    assert "\n" not in str(caught.value)


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "queries.jsonl").unlink(),
            r"queries\.jsonl: does not exist, nor does queries\.jsonl\.gz",
        ),
        (
            lambda root: (root / "qrels" / "test.tsv").rename(root / "qrels" / "dev.tsv"),
            r"qrels/test\.tsv: does not exist; set benchmark\.beir\.split to one of dev$",
        ),
        (lambda root: (root / "qrels" / "test.tsv").unlink(), r"qrels/test\.tsv: does not exist; add it$"),
        (lambda root: (root / "corpus.jsonl").write_text(""), r"corpus\.jsonl: holds no document"),
        (
            lambda root: (root / "corpus.jsonl").unlink(),
            r"^benchmark\.beir\.path=.*: expected corpus\.jsonl, queries\.jsonl and qrels/test\.tsv, in it or in "
            r"folders named by language \(sw, en-sw\), found qrels, queries\.jsonl; give",
        ),
        (
            lambda root: (root / "queries.jsonl").write_text('{"_id": "x", "text": "y", "language": "sw"}'),
            "no query has a relevant document in the test judgments; nothing to measure",
        ),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(data(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def copy_folder(root: Path, name: str, like: str = "sw") -> Path:
    for file in sorted((root / like).rglob("*.*")):
        target = root / name / file.relative_to(root / like)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return root / name


@pytest.mark.parametrize("name", ["swahili", "zh-CN", "de-de", "en-sw-de"])
def test_folders_with_other_names(tmp_path: Path, name: str) -> None:
    copy_folder(make_folders(tmp_path), name)
    (tmp_path / "notes").mkdir()  # a folder without a corpus is none of ours
    with pytest.raises(DataError, match=rf"{name}: .*; name the folder by its language, e\.g\. sw, or by the lang"):
        load(tmp_path)


def test_folders_that_contradict(tmp_path: Path) -> None:
    root = make_folders(tmp_path)
    corpus = root / "de-sw" / "corpus.jsonl"
    rewrite(corpus, lambda text: text + '{"_id": "new", "text": "x"}\n')
    with pytest.raises(
        DataError, match=r"sw/corpus\.jsonl: differs from .*de-sw/corpus\.jsonl, but a language has one"
    ):
        load(root)
    corpus.unlink()
    corpus.symlink_to(root / "sw" / "corpus.jsonl")
    assert len(load(root).documents) == 50
    queries = [{"_id": "q0", "text": "x", "language": "de"}, {"_id": "q1", "text": "y", "language": "en"}]
    (root / "de" / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    with pytest.raises(DataError, match=r"de/queries\.jsonl:2: language 'en', but the folder's name says 'de'"):
        load(root)


BAD_SECTIONS: list[tuple[Mapping[str, Any], str]] = [
    ({"languages": ["sw", "yo"]}, r"languages=\[sw,yo\]: .* has no judged query and no document in yo; it has de, en"),
    ({"languages": ["en", "yo"]}, r"languages=\[en,yo\]: "),
    ({"settings": ["multilingual"], "languages": ["sw", "en"]}, r"settings=\[multilingual\]: multilingual cannot be"),
    ({"settings": ["cross_lingual"], "languages": ["de"]}, r"settings=\[cross_lingual\]: .*every relevant document is"),
    (
        {"settings": ["monolingual"], "limit": 1, "languages": ["en", "de", "sw"], "split": "cross"},
        "monolingual cannot",
    ),
]


@pytest.mark.parametrize(("section", "message"), BAD_SECTIONS)
def test_what_the_data_do_not_have(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    write(tmp_path, CORPUS, QUERIES, [("q2", "d3", 1)], split="cross")
    with pytest.raises(ConfigError, match=rf"^benchmark\.beir\..*{message}") as caught:
        load(data(tmp_path), **section)
    assert "\n" not in str(caught.value)


def test_folders_cannot_be_pooled(tmp_path: Path) -> None:
    make_folders(tmp_path)
    with pytest.raises(ConfigError, match=r"settings=\[multilingual\]: .* in one folder whose lines have a language"):
        load(tmp_path, settings=["multilingual"])
    with pytest.raises(ConfigError, match=r"languages=\[en\]: .* has no folder of en .*; it has de, de-sw, sw"):
        load(tmp_path, languages=["en"])


BAD_CONFIGS: list[tuple[Mapping[str, Any], str]] = [
    ({}, "benchmark.beir.path: must be given, e.g. benchmark.beir.path=DIR"),
    ({"settings": []}, "benchmark.beir.settings=[]: names none"),
    ({"settings": ["monolingual"] * 2}, "benchmark.beir.settings=[monolingual,monolingual]: names a setting twice"),
    ({"settings": ["multilingual"], "depth": 10}, "benchmark.beir.settings=[multilingual]: the multilingual setting"),
    ({"settings": ["bilingual"]}, "benchmark.beir.settings"),
    ({"split": "../test"}, "benchmark.beir.split=../test: is no file name"),
    ({"depth": 0}, "benchmark.beir.depth=0: must be a whole number >= 1, or null"),
]


@pytest.mark.parametrize(("section", "message"), BAD_CONFIGS)
def test_bad_settings_of_the_configuration(section: dict[str, Any], message: str) -> None:
    raw = {"model": {"name_or_path": "m"}, "benchmark": {"beir": {"path": "x", **section} if section else {}}}
    with pytest.raises(ConfigError) as caught:
        validate(EvaluateConfig, raw)
    assert str(caught.value).startswith(message)


def test_the_folder_is_looked_for_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    start = ["benchmark=[beir]", f"model.name_or_path={tmp_path}"]
    with composer("evaluate") as composing:
        with pytest.raises(ConfigError, match=r"^benchmark\.beir\.path=\?\?\?: must be given, e\.g\. .*=DIR"):
            composing.compose(start)
        with pytest.raises(ConfigError, match=r"^benchmark\.beir\.path=.*none: no such folder"):
            composing.validate(composing.compose([*start, f"benchmark.beir.path={tmp_path / 'none'}"]))
    with pytest.raises(DataError, match=r"^benchmark\.beir\.path=.*: is not a folder"):
        load(tmp_path / "config.json")


# ------------------------------------------------------------------------------------------------ the command line


def run_evaluate(path: Path, out: Path, model: Path) -> subprocess.CompletedProcess[str]:
    arguments = [f"model.name_or_path={model}", "benchmark=[beir]", f"benchmark.beir.path={path}", f"output_dir={out}"]
    return subprocess.run(
        [sys.executable, str(conf_dir().parent / "evaluate.py"), *arguments, "threads=1", "accelerator=cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_through_the_command_line(tmp_path: Path, e5_small: Path) -> None:
    folder = data(tmp_path / "data")
    done = run_evaluate(folder, tmp_path / "out", e5_small)
    assert done.returncode == 0, done.stderr
    assert "beir: 4 queries, 7 documents, 3 languages" in done.stdout
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        cells = {
            (row["setting"], row["query_language"], row["corpus_language"]): int(row["num_queries"])
            for row in csv.DictReader(file)
            if row["metric"] == "map"
        }
    assert cells == {
        ("monolingual", "de", "de"): 1, ("monolingual", "sw", "sw"): 2, ("cross_lingual", "de", "sw"): 1,
        ("cross_lingual", "sw", "de"): 1, ("cross_lingual", "en", "de"): 1, ("cross_lingual", "en", "sw"): 1,
        ("multilingual", "de", "all"): 1, ("multilingual", "en", "all"): 1, ("multilingual", "sw", "all"): 2,
    }  # fmt: skip
    rewrite(folder / "queries.jsonl", lambda text: text + "{\n")
    done = run_evaluate(folder, tmp_path / "other", e5_small)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder / 'queries.jsonl'}:6: not JSON")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()
