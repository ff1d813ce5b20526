"""MIRACL: the real judgments and a real sample through the loader, and what is said of files that are wrong."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_ir.composition import conf_dir
from hybrid_ir.config import MiraclBenchmarkConfig
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks import load_benchmark, miracl
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.miracl import read_judgments, read_topics
from hybrid_ir.languages import LANGUAGES, MIRACL

# Queries, judgments and positive judgments of the published dev sets.
DEV = {
    "ar": (2896, 29197, 5658), "bn": (411, 4206, 863), "de": (305, 3144, 811), "en": (799, 8350, 2326),
    "es": (648, 6443, 2987), "fa": (632, 6571, 1314), "fi": (1271, 12008, 2447), "fr": (343, 3429, 731),
    "hi": (350, 3494, 752), "id": (960, 9668, 3088), "ja": (860, 8354, 1790), "ko": (213, 3057, 547),
    "ru": (1252, 13100, 3560), "sw": (482, 5092, 910), "te": (828, 1606, 854), "th": (733, 7573, 1343),
    "yo": (119, 1188, 144), "zh": (393, 3928, 994),
}  # fmt: skip

TOPICS, JUDGMENTS = "topics/topics.miracl-v1.0-sw-dev.tsv", "qrels/qrels.miracl-v1.0-sw-dev.tsv"
SAMPLE_NOTE = "sw: 2 of 131,924 passages: scores are not comparable with published MIRACL"


def load(path: Path, **section: Any) -> Benchmark:
    benchmark = load_benchmark("miracl", MiraclBenchmarkConfig(path=str(path), **section))
    assert isinstance(benchmark, Benchmark)
    return benchmark


def write(
    folder: Path,
    language: str = "sw",
    topics: str = "1#0\tSwali moja?\n2\tSwali mbili?\n",
    judgments: str = "1#0\tQ0\t7#1\t1\n1#0\tQ0\t7#0\t0\n2\tQ0\t7#0\t1\n",
    passages: Sequence[Mapping[str, Any]] = (
        {"docid": "7#0", "title": "Kichwa", "text": "Maandishi."},
        {"docid": "7#1", "title": "", "text": " Mengine. "},
    ),
    split: str = "dev",
) -> Path:
    """A folder in MIRACL's layout."""
    own = folder / f"miracl-v1.0-{language}"
    for kind, text in (("topics", topics), ("qrels", judgments)):
        path = own / kind / f"{kind}.miracl-v1.0-{language}-{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    write_corpus(folder, "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in passages).encode(), language)
    return folder


def write_corpus(folder: Path, lines: bytes, language: str = "sw", number: int = 0) -> Path:
    path = folder / f"miracl-corpus-v1.0-{language}" / f"docs-{number}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines))
    return path


def judged(benchmark: Benchmark) -> list[tuple[str, str, int]]:
    return [(benchmark.query_ids[q], benchmark.document_id(d), r) for q, d, r in benchmark.judgments.tolist()]


# ------------------------------------------------------------------------------------------------- the real files


def test_the_real_judgments_of_all_languages(shared: Path, tmp_path: Path) -> None:
    """Every published dev topic and judgment, against corpora of the judged passages and one more."""
    for language in MIRACL:
        for kind in ("topics", "qrels"):
            name = f"{kind}.miracl-v1.0-{language}-dev.tsv"
            target = tmp_path / f"miracl-v1.0-{language}" / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(shared / "data" / "miracl-judgments" / kind / name)
        lines = (tmp_path / f"miracl-v1.0-{language}" / "qrels" / name).read_text().split("\n")[:-1]
        ids = list(dict.fromkeys(line.split("\t")[2] for line in lines))
        rows = [json.dumps({"docid": i, "title": language, "text": i}) for i in [*ids[1:], "new#0", ids[0]]]
        cut = len(rows) // 3  # two files
        write_corpus(tmp_path, "\n".join(rows[:cut]).encode(), language, 0)
        write_corpus(tmp_path, "\n".join(rows[cut:]).encode(), language, 1)
    benchmark = load(tmp_path)
    assert benchmark.languages == MIRACL == tuple(DEV)
    assert benchmark.settings == ("monolingual",)
    assert len(benchmark.queries) == len(benchmark.query_ids) == 13_495
    assert len(benchmark.judgments) == 130_408
    language_of_query = benchmark.query_languages[benchmark.judgments[:, 0]]
    assert (benchmark.document_languages[benchmark.judgments[:, 1]] == language_of_query).all()
    documents = list(benchmark.document_ids)
    relevant = benchmark.judgments[:, 2] > 0
    for number, (language, expected) in enumerate(DEV.items()):
        own = language_of_query == number
        assert ((benchmark.query_languages == number).sum(), own.sum(), (own & relevant).sum()) == expected
        # Ids as published, the same in topics, judgments and corpus.
        lines = (tmp_path / f"miracl-v1.0-{language}/qrels/qrels.miracl-v1.0-{language}-dev.tsv").read_text()
        mine = [(benchmark.query_ids[q], documents[d], r) for q, d, r in benchmark.judgments[own].tolist()]
        assert "".join(f"{q}\tQ0\t{d}\t{r}\n" for q, d, r in mine) == lines
        (first, last) = np.flatnonzero(benchmark.document_languages == number)[[0, -1]].tolist()
        assert benchmark.document_order is not None
        order = np.asarray(benchmark.document_order[first : last + 1])
        assert [documents[first + i] for i in np.argsort(order)] == sorted(documents[first : last + 1])
    assert any("#" in query for query in benchmark.query_ids)
    assert len(benchmark.notes) == 1  # nothing is missing; only the corpora are samples
    assert benchmark.notes[0].endswith("passages: scores are not comparable with published MIRACL")


def test_the_real_sample(shared: Path) -> None:
    folder = shared / "data" / "miracl-sample"
    benchmark = load(folder, depth=100)
    assert benchmark.languages == ("sw", "th")
    assert np.bincount(benchmark.query_languages).tolist() == [446, 739]
    assert np.bincount(benchmark.document_languages).tolist() == [1981, 1904]
    assert len(benchmark.documents) == len(benchmark.document_ids) == 3885
    assert benchmark.depth == 100
    assert benchmark.notes == (
        "sw: 1,981 of 131,924 passages, th: 1,904 of 542,166 passages: scores are not comparable with published MIRACL",
    )
    for number, language in enumerate(benchmark.languages):
        own = np.flatnonzero(benchmark.document_languages == number)
        with gzip.open(folder / f"miracl-corpus-v1.0-{language}" / "docs-0.jsonl.gz") as file:
            rows = [json.loads(line) for line in file]
        assert [benchmark.document_ids[i] for i in own.tolist()] == [row["docid"] for row in rows]
        texts = [(row["title"] + " " + row["text"]).strip() for row in rows]
        assert benchmark.documents[own[0] : own[-1] + 1] == texts
    alone = load(folder, languages=["th"], limit=5)
    assert alone.languages == ("th",)
    assert alone.queries == benchmark.queries[446:451]
    assert list(alone.documents) == list(benchmark.documents[1981:])
    assert alone.corpus_fingerprint != benchmark.corpus_fingerprint
    assert load(folder, languages=["th"]).corpus_fingerprint == alone.corpus_fingerprint


@pytest.mark.slow
@pytest.mark.torch
def test_a_part_of_the_sample_through_the_command_line(shared: Path, e5_small: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shared / "data" / "miracl-sample" / "miracl-v1.0-sw", data / "miracl-v1.0-sw")
    with gzip.open(shared / "data" / "miracl-sample" / "miracl-corpus-v1.0-sw" / "docs-0.jsonl.gz") as file:
        write_corpus(data, b"".join(islice(file, 40)))
    done = evaluate(data, tmp_path / "out", "evaluation.save_runs=true", "benchmark.miracl.limit=200", e5_small)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "relevant documents missing from the corpus, counted as not retrieved: sw" in said
    assert "sw: 40 of 131,924 passages: scores are not comparable with published MIRACL" in said
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        values = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    # Recall by hand: what the run file retrieved of all that is judged relevant, in the corpus or not.
    topics = list(read_topics(data / "miracl-v1.0-sw" / TOPICS))[:200]
    relevant: dict[str, set[str]] = {topic: set() for topic in topics}
    for (topic, passage), relevance in read_judgments(data / "miracl-v1.0-sw" / JUDGMENTS).items():
        if topic in relevant and relevance > 0:
            relevant[topic].add(passage)
    ranked: dict[str, list[str]] = {}
    for line in (tmp_path / "out" / "runs" / "miracl.sw-sw.trec").read_text().splitlines():
        ranked.setdefault(line.split()[0], []).append(line.split()[2])
    recalls = [len(own & set(ranked[topic][:10])) / len(own) for topic, own in relevant.items() if own]
    assert 0 < values["recall@10"] < 1
    assert values["recall@10"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)


# --------------------------------------------------------------------------------------- what does not fit together


def test_texts_ids_and_judgments(tmp_path: Path) -> None:
    benchmark = load(write(tmp_path))
    assert list(benchmark.documents) == ["Kichwa Maandishi.", "Mengine."]
    assert benchmark.query_ids == ["1#0", "2"]
    assert benchmark.queries == ["Swali moja?", "Swali mbili?"]
    assert judged(benchmark) == [("1#0", "7#1", 1), ("1#0", "7#0", 0), ("2", "7#0", 1)]
    assert benchmark.notes == (SAMPLE_NOTE,)
    assert benchmark.info["split"] == "dev"


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    topics = "1#0\tSwali\u2028moja\u0085na\x0b tab\there\r?\n2\tSwali mbili?"  # and none at the end
    text = "a\u2028b\u0085c"
    passages = [{"docid": "7#0", "text": text}, {"docid": "7#1", "title": text, "text": text}]
    benchmark = load(write(tmp_path, topics=topics, passages=passages))
    assert benchmark.queries == ["Swali\u2028moja\u0085na\x0b tab\there\r?", "Swali mbili?"]
    assert list(benchmark.documents) == [text, f"{text} {text}"]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_ids_and_texts(tmp_path: Path) -> None:
    folder = write(
        tmp_path, topics="1\tSwali?\n", judgments="1\tQ0\t7#0\t1\n", passages=[{"docid": "7#0", "text": "t"}]
    )
    for path in (*folder.rglob("topics.*"), *folder.rglob("qrels.*.tsv")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    benchmark = load(folder)
    assert (benchmark.query_ids, benchmark.queries) == (["1"], ["Swali?"])
    assert benchmark.judgments.tolist() == [[0, 0, 1]]


def test_what_is_missing_is_counted_as_trec_eval_does(tmp_path: Path) -> None:
    write(
        tmp_path,
        topics="1\ta\n2\tb\n3\tc\n4\td\n",
        judgments="1\tQ0\t7#0\t1\n1\tQ0\t9#9\t1\n1\tQ0\t9#8\t0\n2\tQ0\t7#1\t0\n3\tQ0\t9#9\t2\n5\tQ0\t7#0\t1\n",
    )
    write(tmp_path, "yo", topics="1\ta\n", judgments="1\tQ0\t9#9\t1\n")
    benchmark = load(tmp_path)
    # A judgment of an absent passage changes nothing where it says not relevant; else the passage is never retrieved.
    assert judged(benchmark) == [("1", "7#0", 1), ("1", "9#9", 1), ("2", "7#1", 0), ("3", "9#9", 2), ("1", "9#9", 1)]
    assert (benchmark.judgments[:, 1] < 0).tolist() == [False, True, False, True, True]
    assert benchmark.judgments[1, 1] == benchmark.judgments[3, 1] != benchmark.judgments[4, 1]
    assert benchmark.notes[:3] == (
        "queries without a relevant document, not counted: sw 2 of 4",
        "judgments of queries that are not among the queries, left out: sw 1 of 6",
        "relevant documents missing from the corpus, counted as not retrieved: sw 2 of 3, yo 1 of 1",
    )
    assert benchmark.info["languages"]["sw"] == {
        "queries": 4, "judgments": 6, "relevant": 3, "queries_without_relevant": 2, "judgments_of_unknown_queries": 1,
        "missing_relevant": 2, "missing_not_relevant": 1, "passages": 2, "published_passages": 131924,
    }  # fmt: skip


def test_languages_are_those_with_topics_and_corpus(tmp_path: Path) -> None:
    for language in ("de", "sw", "th", "yo"):
        write(tmp_path, language)
    shutil.rmtree(tmp_path / "miracl-corpus-v1.0-th")
    shutil.rmtree(tmp_path / "miracl-v1.0-de")
    benchmark = load(tmp_path)
    assert benchmark.languages == ("sw", "yo")
    assert benchmark.notes[:2] == (
        "left out, with a corpus but no dev topics: de",
        "left out, with dev topics but no corpus: th",
    )
    write(tmp_path, "sw", topics="9\tq\n", judgments="9\tQ0\t7#0\t1\n", split="train")
    assert load(tmp_path, split="train").query_ids == ["9"]


def test_files_of_a_corpus_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path)
    for number in range(12):
        line = json.dumps({"docid": f"{number}#0", "text": "x"}).encode()
        write_corpus(tmp_path, line, number=number)
    assert list(load(tmp_path).document_ids) == [f"{number}#0" for number in range(12)]
    (tmp_path / "miracl-corpus-v1.0-sw" / "docs-3.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"docs-3\.jsonl\.gz: does not exist; add it, or leave sw out of"):
        load(tmp_path)


# ---------------------------------------------------------------------------------------------------- wrong files

BAD_TABLES = [
    (TOPICS, b"1#0 a question\n", "has 1 of the 2 columns topic<TAB>text"),
    (TOPICS, b"1\ta\n\n2\tb\n", "has 1 of the 2 columns"),
    (TOPICS, b"1\ta\n2\tb\n1\tc\n", "repeats the topic '1'"),
    (TOPICS, b"1\ta\n2\t\n", "topic '2' has no text"),
    (TOPICS, b"1\ta\n\tb\n", "the topic '' is empty or has a space"),
    (TOPICS, b"1\ta\n2\t\xff\n", "not UTF-8 (byte 2 of the line)"),
    (TOPICS, b"", "is empty"),
    (JUDGMENTS, b"1#0\tQ0\t7#0\t1\n2\t7#0\t1\n", "has 3 of the 4 columns topic<TAB>Q0<TAB>passage<TAB>relevance"),
    (JUDGMENTS, b"1#0 Q0 7#0 1\n", "has 1 of the 4 columns"),
    (JUDGMENTS, b"1#0\tQ0\t7#0\t1\n2\tQ0\t7#0\t0.5\n", "the relevance '0.5' is not a whole number"),
    (JUDGMENTS, b"1#0\tQ0\t7#0\t1\n1#0\tQ0\t7#0\t1\n", "judges document '7#0' for query '1#0' again"),
    (JUDGMENTS, b"1#0\tQ0\t7#0\t1\n1#0\tQ0\t7#0\t0\n", "judges document '7#0' for query '1#0' again"),
    (JUDGMENTS, b"", "is empty"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_TABLES)
def test_bad_topics_and_judgments(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path) / "miracl-v1.0-sw" / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    lines = content.removesuffix(b"\n").split(b"\n")
    # The line at fault is the last, but for the blank one in the middle.
    at = f"{path}:{2 if b'' in lines else len(lines)}: " if content else f"{path}: "
    assert str(caught.value).startswith(at + message)
    assert "\n" not in str(caught.value)


GOOD = b'{"docid": "1#0", "title": "a", "text": "b"}\n'
BAD_PASSAGES = [
    (b'{"docid": "2#0", "title": "a", "text": "b"', "not JSON (Expecting ',' delimiter at column 43)"),
    (b"<html>", "not JSON (Expecting value at column 1)"),
    (b'["2#0", "a", "b"]', "a JSON list, not an object"),
    (b'{"id": "2#0", "text": "b"}', "no key 'docid', there is 'id', 'text'; expected a MIRACL passage"),
    (b'{"docid": "2#0", "contents": "b"}', "no key 'text', there is 'docid', 'contents'"),
    (b'{"docid": 2, "text": "b"}', "'docid' is a int, not a text"),
    (b'{"docid": "2#0", "title": null, "text": "b"}', "'title' is a NoneType, not a text"),
    (b'{"docid": "2#0", "title": "a", "text": ["b"]}', "'text' is a list, not a text"),
    (b'{"docid": "2#0", "text": "\xe9"}', "not UTF-8 (byte 26 of the line)"),
    (b'{"docid": "2#0", "text": "\\ud83d"}', "half a character"),
    (b'{"docid": "", "text": "b"}', "the id '' is empty or has a space"),
    (b'{"docid": "2 0", "text": "b"}', "the id '2 0' is empty or has a space"),
]


@pytest.mark.parametrize(("line", "message"), BAD_PASSAGES)
def test_bad_passages(tmp_path: Path, line: bytes, message: str) -> None:
    path = write_corpus(write(tmp_path), GOOD + line + b"\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), ": holds no document"),
        (lambda path: path.write_bytes(gzip.compress(b"")), ": holds no document"),
        (lambda path: path.write_bytes(b"version https://git-lfs"), ":1: not JSON"),
        (lambda path: path.write_bytes(gzip.compress(GOOD * 2)), ":2: repeats the id '1#0' of "),
        (lambda path: path.write_bytes(gzip.compress(GOOD)[:-10]), ":1: the gzip data is damaged or cut off"),
        (lambda path: path.unlink(), ": does not exist; add it, or leave sw out of benchmark.miracl.languages"),
    ],
)
def test_bad_corpora(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    path = write_corpus(write(tmp_path), GOOD)
    spoil(path)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("name", ["miracl-v1.0-th/" + file.replace("sw", "th") for file in (TOPICS, JUDGMENTS)])
def test_a_language_asked_for_that_lacks_a_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, "th")
    (tmp_path / name).unlink()
    write(tmp_path, "sw")
    with pytest.raises(DataError, match=rf"{name}: does not exist; add it, or leave th out"):
        load(tmp_path, languages=["sw", "th"])


def test_folders_of_other_kinds(tmp_path: Path) -> None:
    expected = (
        r"expected miracl-v1\.0-<language>/topics/.*-dev\.tsv and miracl-corpus-v1\.0-<language>/docs-0\.jsonl\.gz, "
    )
    for name in ("ar", "de", "el", "en", "es"):
        (tmp_path / f"{name}.json").touch()
    with pytest.raises(DataError, match=expected + r"found ar\.json, de\.json, el\.json, en\.json …; give"):
        load(tmp_path)
    inside = write(tmp_path / "miracl") / "miracl-v1.0-sw"
    with pytest.raises(DataError, match=expected + r"found qrels, topics; give"):
        load(inside)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=expected + "found an empty folder"):
        load(tmp_path / "empty")
    with pytest.raises(DataError, match=r"en\.json: is not a folder"):
        load(tmp_path / "en.json")
    shutil.rmtree(tmp_path / "miracl" / "miracl-corpus-v1.0-sw")
    with pytest.raises(DataError, match="no language can be evaluated; left out, with dev topics but no corpus: sw"):
        load(tmp_path / "miracl")


# ------------------------------------------------------------------------------------------------ the command line


def evaluate(path: Path | None, out: Path, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    *settings, model = arguments
    script = conf_dir().parent / "evaluate.py"
    located = [] if path is None else [f"benchmark.miracl.path={path}"]
    named = [f"model.name_or_path={model}", "benchmark=[miracl]", *located, *settings, f"output_dir={out}"]
    return subprocess.run(
        [sys.executable, str(script), *named],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["passage", "folder"])
@pytest.mark.torch
def test_faults_are_one_line_and_leave_no_folder(tmp_path: Path, fault: str) -> None:
    data, model = write(tmp_path / "data"), tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")  # never read: benchmarks come first
    if fault == "passage":
        expected = f"{write_corpus(data, GOOD + b'{')}:2: not JSON"
    else:
        data = tmp_path / "other"
        data.mkdir()
        (data / "corpus.jsonl").touch()
        expected = f"benchmark.miracl.path={data}: expected "
    done = evaluate(data, tmp_path / "out", model, HYBRID_IR_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").rglob("*.parquet"))


# --------------------------------------------------------------------------------------------------------- the hub


def run_loader(**environment: str) -> subprocess.CompletedProcess[str]:
    """Loads from the hub's cache in a process of its own, since the hub's client reads its settings when imported."""
    code = (
        "from hybrid_ir.config import MiraclBenchmarkConfig as Config\n"
        "from hybrid_ir.evaluation.benchmarks import load_benchmark\n"
        "b = load_benchmark('miracl', Config(languages=['sw', 'th'], path=None))\n"
        "print(b.languages, len(b.queries), len(b.documents), b.info['source'])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_files_in_the_hubs_cache(shared: Path, tmp_path: Path) -> None:
    sample = shared / "data" / "miracl-sample"
    snapshots = {
        repository: tmp_path / f"datasets--{repository.replace('/', '--')}" / "snapshots" / revision
        for repository, revision in (
            (miracl.TOPICS_REPOSITORY, miracl.TOPICS_REVISION),
            (miracl.CORPUS_REPOSITORY, miracl.CORPUS_REVISION),
        )
    }
    for folder in sample.iterdir():
        kind = miracl.CORPUS_REPOSITORY if "corpus" in folder.name else miracl.TOPICS_REPOSITORY
        shutil.copytree(folder, snapshots[kind] / folder.name, copy_function=shutil.copyfile)
    done = run_loader(HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 1
    missing = "miracl-corpus-v1.0-th/docs-1.jsonl.gz"
    assert f"DataError: {missing}: cannot be downloaded from https://huggingface.co/datasets/miracl/" in done.stderr
    assert f"/resolve/{miracl.CORPUS_REVISION}/{missing} (" in done.stderr
    assert f"put it by hand as {missing} into a folder and set benchmark.miracl.path" in done.stderr
    corpus = snapshots[miracl.CORPUS_REPOSITORY]
    (corpus / missing).write_bytes(gzip.compress(GOOD))
    done = run_loader(HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    revisions = f"miracl/miracl@{miracl.TOPICS_REVISION}, miracl/miracl-corpus@{miracl.CORPUS_REVISION}"
    assert done.stdout == f"('sw', 'th') 1185 3886 {revisions}\n"


def test_every_language_has_its_published_corpus() -> None:
    assert tuple(miracl.CORPUS_FILES) == MIRACL
    assert sum(miracl.CORPUS_FILES.values()) == 222
    # The hub's files hold about half a million passages each.
    for language, files in miracl.CORPUS_FILES.items():
        passages = LANGUAGES[language].miracl_passages
        assert passages is not None
        assert (files - 1) * 500_000 <= passages <= files * 500_000 * 1.1
