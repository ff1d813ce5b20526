"""Rewritten queries and texts generated for passages, from files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_ir.cli import run_command
from hybrid_ir.config import EvaluateConfig, XquadRBenchmarkConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks import BENCHMARK_LOADERS, load_benchmark
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.hooks import SLICE, with_passage_queries, with_queries
from hybrid_ir.training.environment import describe_environment


def benchmark(**changes: Any) -> Benchmark:
    """Questions q0 to q3 in de and sw (without sw's q3); documents whose ids are unique only within a language."""
    fields: dict[str, Any] = {
        "name": "toy",
        "query_ids": ["q0", "q1", "q2", "q3", "q0", "q1", "q2"],
        "query_languages": np.array([0, 0, 0, 0, 1, 1, 1]),
        "queries": [f"de {i}" for i in range(4)] + [f"sw {i}" for i in range(3)],
        "document_ids": ["d0", "d1", "d2", "d0", "d1"],
        "document_languages": np.array([0, 0, 0, 1, 1]),
        "documents": ["a", "b", "c", "d", "e"],
        "judgments": np.array([(i, 0, 1) for i in range(7)]),
        "languages": ("de", "sw"),
    }
    return Benchmark(**{**fields, **changes})


def german() -> Benchmark:
    return benchmark(
        query_ids=["q0", "q1", "7"],
        query_languages=np.zeros(3, dtype=int),
        queries=["a", "b", "c"],
        document_languages=np.zeros(5, dtype=int),
        document_ids=["d0", "d1", "d2", "d3", "7"],
        languages=("de",),
    )


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------- queries


def test_texts_of_one_language_are_replaced(tmp_path: Path) -> None:
    tsv = tmp_path / "queries.tsv"
    tsv.write_bytes("\ufeffq1\tin welchem Jahr?\r\n\r\n7\t  wo ist das  \r\n".encode())
    packed = tmp_path / "queries.tsv.gz"
    packed.write_bytes(gzip.compress(tsv.read_bytes()))
    lines = jsonl(tmp_path / "q.jsonl", {"id": "q1", "text": "in welchem Jahr?"}, {"id": 7, "text": "wo ist das"})
    before = german()
    for path in (tsv, packed, lines):
        after = with_queries(before, path)
        assert after.queries == ["a", "in welchem Jahr?", "wo ist das"]
        assert after.notes == (f"queries: 2 of 3 texts from {path}",)
        assert after.query_ids == before.query_ids
    assert before.queries == ["a", "b", "c"]


def test_a_language_says_which_version(tmp_path: Path) -> None:
    tsv = tmp_path / "queries.tsv"
    tsv.write_text("q0\tsw\tmpya\nq0\tde\tneu\nq2\tsw\tmpya sana\n")
    assert with_queries(benchmark(), tsv).queries == ["neu", "de 1", "de 2", "de 3", "mpya", "sw 1", "mpya sana"]
    lines = jsonl(tmp_path / "q.jsonl", {"id": "q1", "text": "mpya", "language": "sw"}, {"id": "q3", "text": "neu"})
    assert with_queries(benchmark(), lines).queries[3:6] == ["neu", "sw 0", "mpya"]  # q3 is there in one language


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.tsv", "q3\tx\nq9\tx\n", "q.tsv:2: benchmark toy has no query 'q9'"),
        ("q.tsv", "q3\tsw\tx\n", "q.tsv:1: benchmark toy has no query 'q3' in sw"),
        ("q.tsv", "q0\tfr\tx\n", "q.tsv:1: language 'fr' is not evaluated; benchmark toy has de, sw"),
        ("q.tsv", "q3\tx\n\nq0\tx\n", r"q.tsv:3: query 'q0' is there in 2 languages \(de, sw\); say which with a lang"),
        ("q.tsv", "q0\tde\tx\nq0\tde\tx\n", "q.tsv:2: query 'q0' in de is there already, at .*q.tsv:1"),
        ("q.jsonl", '{"id": "q3", "text": "x"}\n{"id": "q3", "language": "de", "text": "y"}', "q.jsonl:2: .*q.jsonl:1"),
        ("q.tsv", "q3\t  \n", "q.tsv:1: 'text' is empty"),
        ("q.tsv", "\tx\n", "q.tsv:1: 'id' is empty"),
        ("q.tsv", "q3\n", "q.tsv:1: 1 columns; give id and text"),
        ("q.tsv", "q3\tde\tx\nq0\tx\n", "q.tsv:2: 2 columns, the first line has 3"),
        ("q.tsv", "q3\tde\tx\ty\n", "q.tsv:1: 4 columns"),
        ("q.tsv", b"q3\tx\nq0\tsw\xff\n", "q.tsv:2: not UTF-8"),
        ("q.tsv", "", "q.tsv: has no line"),
        ("q.txt", "q3\tx\n", r"q.txt: is neither .tsv nor .jsonl \(.gz\)"),
        ("q.jsonl", '{"id": "q3"}', "q.jsonl:1: no key 'text'"),
        ("q.jsonl", '{"id": "q3", "query": "x"}', r"q.jsonl:1: no key 'text' \(there is 'query'\)"),
        ("q.jsonl", '{"id": "q3", "text": 1}', "q.jsonl:1: 'text' is a int, not a text"),
        ("q.jsonl", '{"id": "q3", "text": "\\ud83d"}', "q.jsonl:1: half a character"),
        ("q.jsonl", '{"id": null, "text": "x"}', "q.jsonl:1: 'id' is a NoneType"),
        ("q.jsonl", "q3\tx\n", "q.jsonl:1: not JSON"),
    ],
)
def test_faults_of_query_files(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said) as error:
        with_queries(benchmark(), path)
    assert "\n" not in str(error.value)


def test_gzip_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "q3", "text": "x"}\n')[:-6])
    with pytest.raises(DataError, match=r"q\.jsonl\.gz:\d: the gzip data is damaged or cut off"):
        with_queries(benchmark(), path)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 6), texts, min_size=1), st.booleans(), st.booleans())
def test_any_text_comes_back(tmp_path: Path, new: dict[int, str], packed: bool, as_tsv: bool) -> None:
    toy = benchmark()
    rows = [(toy.query_ids[i], toy.languages[toy.query_languages[i]], text) for i, text in new.items()]
    if as_tsv:
        lines = ["\t".join(row) for row in rows]
    else:
        lines = [json.dumps(dict(zip(("id", "language", "text"), row, strict=True))) for row in rows]
    data = "".join(line + "\n" for line in lines).encode()
    path = tmp_path / f"q.{'tsv' if as_tsv else 'jsonl'}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    expected = [new[i].strip() if i in new else text for i, text in enumerate(toy.queries)]
    assert with_queries(toy, path).queries == expected


# --------------------------------------------------------------------------------------------------------- passages


class Ids(Sequence[str]):
    """Ids that are made when they are read, as those of a corpus on disk are; slices alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.largest = 0

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        assert isinstance(index, slice)
        rows = range(*index.indices(self.size))
        self.largest = max(self.largest, len(rows))
        return [f"d{i}" for i in rows]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("read whole")


def test_texts_are_found_in_a_corpus_that_is_read_in_slices(tmp_path: Path) -> None:
    size = 2 * SLICE + 10
    ids = Ids(size)
    wanted = [size - 1, 0, SLICE, SLICE - 1, 77]
    path = jsonl(tmp_path / "p.jsonl", *({"document_id": f"d{i}", "texts": [f"q {i}", "b"]} for i in wanted))
    large = benchmark(document_ids=ids, document_languages=np.zeros(size, dtype=np.int8))
    found = with_passage_queries(large, path, 0.3)
    assert found.passage_queries == {i: (f"q {i}", "b") for i in wanted}
    assert found.passage_queries_weight == 0.3
    assert found.notes == (f"passage queries: 10 texts for 5 of {size:,} documents from {path}, weight 0.3",)
    assert ids.largest == SLICE
    assert with_passage_queries(german(), jsonl(path, {"document_id": 7, "texts": ["x"]}), 0.5).passage_queries == {
        4: ("x",)
    }


def test_an_id_of_two_languages_needs_the_language(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "p.jsonl",
        {"document_id": "d1", "texts": ["x"], "language": "sw"},
        {"document_id": "d1", "texts": ["y"], "language": "de"},
        {"document_id": "d2", "texts": ["z", "z"]},
    )
    assert with_passage_queries(benchmark(), path, 0.5).passage_queries == {4: ("x",), 1: ("y",), 2: ("z", "z")}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"document_id": "d1", "texts": ["x"]}, r"p.jsonl:2: document 'd1' is there in 2 languages \(de, sw\)"),
        (
            {"document_id": "d2", "texts": ["x"], "language": "sw"},
            "p.jsonl:2: benchmark toy has no document 'd2' in sw",
        ),
        ({"document_id": "d2", "texts": ["x"], "language": "fr"}, "p.jsonl:2: language 'fr' is not evaluated"),
        ({"document_id": "d9", "texts": ["x"]}, "p.jsonl:2: benchmark toy has no document 'd9'"),
        ({"document_id": "d0", "language": "de", "texts": ["x"]}, "p.jsonl:2: .* is there already, at .*p.jsonl:1"),
        ({"document_id": "d2", "texts": []}, "p.jsonl:2: 'texts' is no list"),
        ({"document_id": "d2", "texts": "x"}, "p.jsonl:2: 'texts' is no list"),
        ({"document_id": "d2", "texts": ["x", " "]}, "p.jsonl:2: 'texts' is empty"),
        ({"document_id": "d2", "text": "x"}, r"p.jsonl:2: no key 'texts' \(there is 'text'\)"),
        (["d2", "x"], "p.jsonl:2: a JSON list, not an object"),
    ],
)
def test_faults_of_passage_files(tmp_path: Path, row: object, said: str) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"document_id": "d0", "texts": ["x"], "language": "de"}, row)
    with pytest.raises(DataError, match=said) as error:
        with_passage_queries(benchmark(), path, 0.5)
    assert "\n" not in str(error.value)


def test_a_passage_file_is_jsonl(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("d2\tx\n")
    with pytest.raises(DataError, match=r"is not \.jsonl"):
        with_passage_queries(benchmark(), tmp_path / "p.tsv", 0.5)


# ------------------------------------------------------------------------------------------------- as they are used


def test_benchmarks_are_loaded_with_them(shared: Path, tmp_path: Path) -> None:
    section: dict[str, Any] = {"path": str(shared / "data" / "xquad-r"), "languages": ["de", "th"]}
    plain = load_benchmark("xquad_r", XquadRBenchmarkConfig(**section))
    assert isinstance(plain, Benchmark)
    question, document = plain.query_ids[-1], plain.document_ids[5]
    queries = jsonl(tmp_path / "q.jsonl", {"id": question, "language": "de", "text": "neu"})
    passages = jsonl(tmp_path / "p.jsonl", {"document_id": document, "texts": ["x", "y"]})
    config = XquadRBenchmarkConfig(**section, queries=str(queries), passage_queries=str(passages))
    loaded = load_benchmark("xquad_r", config)
    assert isinstance(loaded, Benchmark)
    changed = [i for i, (old, new) in enumerate(zip(plain.queries, loaded.queries, strict=True)) if old != new]
    assert [(plain.query_ids[i], plain.languages[plain.query_languages[i]]) for i in changed] == [(question, "de")]
    assert loaded.passage_queries == {5: ("x", "y")}
    # a file for the whole benchmark serves a part of it
    few = load_benchmark("xquad_r", config.model_copy(update={"limit": 3}))
    assert isinstance(few, Benchmark)
    assert len(few.queries) == 6
    assert few.passage_queries == {5: ("x", "y")}
    assert few.notes == loaded.notes


def test_a_runs_environment_tells_them_apart(tmp_path: Path) -> None:
    queries = jsonl(tmp_path / "q.jsonl", {"id": "q3", "text": "neu"})
    passages = jsonl(tmp_path / "p.jsonl", {"document_id": "d2", "texts": ["x"]})
    evaluated = [
        benchmark(),
        with_queries(benchmark(), queries),
        with_passage_queries(benchmark(), passages, 0.5),
        with_passage_queries(benchmark(), passages, 0.4),
    ]
    config = EvaluateConfig.model_validate({"model": {"name_or_path": "m"}, "benchmark": {"cldr": {}}})
    noted = [describe_environment(config, None, [each])["benchmarks"]["toy"]["content_sha256"] for each in evaluated]
    assert len(set(noted)) == len(noted)
    assert describe_environment(config, None, [benchmark()])["benchmarks"]["toy"]["content_sha256"] == noted[0]


def test_files_that_are_not_there_are_found_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queries.tsv").write_text("q0\tx\n")
    for key in ("queries", "passage_queries"):
        settings = ["benchmark=[cldr]", f"benchmark.cldr.{key}=querys.tsv"]
        assert run_command("train", settings) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: benchmark.cldr.{key}=querys.tsv: no such file; did you mean ")
        assert line.count("\n") == 1
        assert run_command("train", [*settings[:-1], f"benchmark.cldr.{key}={tmp_path}"]) == 2
        assert capsys.readouterr().err.endswith("not a file\n")


def test_a_benchmark_of_another_library_refuses_what_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        name, notes, info = "elsewhere", (), {}

    monkeypatch.setitem(globals(), "load_elsewhere", lambda config: Elsewhere())
    monkeypatch.setitem(BENCHMARK_LOADERS, "elsewhere", f"{__name__}:load_elsewhere")
    assert load_benchmark("elsewhere", XquadRBenchmarkConfig()).name == "elsewhere"
    for key, value in (("limit", 5), ("queries", "q.tsv"), ("passage_queries", "p.jsonl")):
        with pytest.raises(ConfigError, match=rf"benchmark\.elsewhere\.{key}={value}: not for elsewhere"):
            load_benchmark("elsewhere", XquadRBenchmarkConfig(**{key: value}))
