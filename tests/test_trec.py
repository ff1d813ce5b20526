"""Run and qrels files: read as written, refused with file and line, scored as trec_eval and ranx do."""

from __future__ import annotations

import csv
import gzip
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import ContextEncoder, make_benchmark

from hybrid_ir.config import EvaluationConfig
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.metrics import metrics_of
from hybrid_ir.evaluation.score import main
from hybrid_ir.evaluation.trec import Qrels, Run, read_qrels, read_run, score_run, write_qrels, write_run
from hybrid_ir.languages import MIRACL

DEPTHS = (1, 5, 10, 20, 100, 1000)
TREC_NAMES = {
    "map": "map",
    **{f"recall@{k}": f"recall_{k}" for k in DEPTHS},
    **{f"precision@{k}": f"P_{k}" for k in DEPTHS},
    **{f"ndcg@{k}": f"ndcg_cut_{k}" for k in DEPTHS},
    "mrr@999999": "recip_rank",  # trec_eval has it without a depth
}
TREC_MEASURES = {"map", "recip_rank", *(f"{kind}.{','.join(map(str, DEPTHS))}" for kind in ("recall", "P", "ndcg_cut"))}

RunDict = dict[str, dict[str, float]]
QrelsDict = dict[str, dict[str, int]]


def run_dict(run: Run) -> RunDict:
    return {
        query: {run.document_ids[d]: score for d, score in zip(documents, scores, strict=True) if d >= 0}
        for query, documents, scores in zip(run.query_ids, run.documents.tolist(), run.scores.tolist(), strict=True)
    }


def qrels_dict(qrels: Qrels) -> QrelsDict:
    judgments: QrelsDict = {}
    for q, d, relevance in zip(qrels.queries.tolist(), qrels.documents.tolist(), qrels.relevance.tolist(), strict=True):
        judgments.setdefault(qrels.query_ids[q], {})[qrels.document_ids[d]] = relevance
    return judgments


def arrays(rows: RunDict) -> Run:
    """The other way round: rankings of different lengths, padded."""
    names = sorted({name for row in rows.values() for name in row})
    index = {name: i for i, name in enumerate(names)}
    depth = max(map(len, rows.values()))
    documents = np.full((len(rows), depth), -1)
    scores = np.full(documents.shape, -np.inf, dtype=np.float32)
    for i, row in enumerate(rows.values()):
        documents[i, : len(row)] = [index[name] for name in row]
        scores[i, : len(row)] = list(row.values())
    return Run(list(rows), names, documents, scores)


# --------------------------------------------------------------------------------------------------- real judgments


def real_qrels(shared: Path, language: str) -> Qrels:
    return read_qrels(shared / f"data/miracl-judgments/qrels/qrels.miracl-v1.0-{language}-dev.tsv")


def real_run(qrels: Qrels, ties: bool, seed: int) -> Run:
    """1,000 documents for each query, four of five judged ones somewhere among them; scores from -1 to 1.

    With ties, scores are rounded, some to few values and some (by 2**-24) to neighbours that fp32 does not tell apart.
    """
    rng = np.random.default_rng(seed)
    queries, depth = len(qrels.query_ids), 1000
    names = [*qrels.document_ids, *(f"{i}#x{i % 7}" for i in range(20_000))]
    documents = np.stack([rng.choice(20_000, depth, replace=False) for _ in range(queries)]) + len(qrels.document_ids)
    places = np.stack([rng.permutation(depth) for _ in range(queries)])
    number = np.zeros(queries, dtype=np.int64)
    for query, document in zip(qrels.queries.tolist(), qrels.documents.tolist(), strict=True):
        if rng.random() < 0.8:
            # Judged documents tend to stand high, as a retriever puts them.
            place = places[query, number[query]]
            documents[query, place if rng.random() < 0.5 else number[query]] = document
            number[query] += 1
    scores = -np.sort(-rng.uniform(-1, 1, (queries, depth)), axis=1)
    if ties:
        rounded = rng.integers(0, 3, (queries, 1))
        scores = np.where(rounded == 0, np.round(scores, 2), np.where(rounded == 1, np.round(scores, 4), scores))
        scores += rng.integers(0, 2, scores.shape) * 2.0**-26
    return without_repetition(Run(qrels.query_ids, names, documents, scores.astype(np.float32)))


def without_repetition(run: Run) -> Run:
    """Only the first occurrence of a document in a row is kept."""
    documents, scores = run.documents.copy(), run.scores.copy()
    for row in range(len(documents)):
        _, first = np.unique(documents[row], return_index=True)
        repeated = np.setdiff1d(np.arange(documents.shape[1]), first)
        documents[row, repeated], scores[row, repeated] = -1, -np.inf
    return replace(run, documents=documents, scores=scores)


def assert_equal_to_trec_eval(run: Run, qrels: Qrels) -> None:
    expected = pytrec_eval.RelevanceEvaluator(qrels_dict(qrels), TREC_MEASURES).evaluate(run_dict(run))
    scores = score_run(run, qrels, list(TREC_NAMES))
    assert set(scores.query_ids) == set(expected)
    table = np.array([[expected[query][name] for name in TREC_NAMES.values()] for query in scores.query_ids])
    assert table[:, 0].any()
    np.testing.assert_allclose(scores.values, table, rtol=0, atol=1e-9)


def assert_equal_to_ranx(run: Run, qrels: Qrels) -> None:
    import ranx

    relevant = {q: {d: gain for d, gain in row.items() if gain > 0} for q, row in qrels_dict(qrels).items()}
    expected = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run_dict(run)), "mrr@10", return_mean=False)
    scores = score_run(run, qrels, ["mrr@10"])
    order = np.argsort(scores.query_ids)  # ranx sorts the queries
    assert scores.values.any()
    np.testing.assert_allclose(scores.values[order, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("language", ["yo", "ko"])
def test_real_judgments_equal_to_trec_eval(shared: Path, language: str) -> None:
    qrels = real_qrels(shared, language)
    assert_equal_to_trec_eval(real_run(qrels, ties=True, seed=1), qrels)


@pytest.mark.slow
@pytest.mark.parametrize("language", MIRACL)
def test_real_judgments_of_all_languages_equal_to_trec_eval_and_ranx(shared: Path, language: str) -> None:
    qrels = real_qrels(shared, language)
    assert_equal_to_trec_eval(real_run(qrels, ties=True, seed=2), qrels)
    assert_equal_to_ranx(real_run(qrels, ties=False, seed=3), qrels)


# ------------------------------------------------------------------------------------------------------- properties

names = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=4)
values = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.25, 1e-40, -3e38]), st.floats(-1, 1, width=32), st.integers(-3, 3).map(float)
)
run_dicts = st.dictionaries(names, st.dictionaries(names, values, min_size=1, max_size=12), min_size=1, max_size=5)
qrels_dicts = st.dictionaries(
    names, st.dictionaries(names, st.integers(-1, 3), min_size=1, max_size=8), min_size=1, max_size=5
)


def judged(rows: QrelsDict) -> Qrels:
    documents = sorted({name for row in rows.values() for name in row})
    entries = [(q, documents.index(d), gain) for q, row in enumerate(rows.values()) for d, gain in row.items()]
    return Qrels(list(rows), documents, *np.array(entries).T)


@settings(max_examples=200)
@given(run_dicts, qrels_dicts, st.data())
def test_any_run_and_judgments_equal_to_trec_eval(rows: RunDict, judgments: QrelsDict, data: st.DataObject) -> None:
    # Half of the judgments are moved to queries and documents of the run.
    for query in list(judgments)[::2]:
        target = data.draw(st.sampled_from(list(rows)))
        judgments[target] = {data.draw(st.sampled_from(list(rows[target]))): 1, **judgments.pop(query)}
    run, qrels = arrays(rows), judged(judgments)
    expected = pytrec_eval.RelevanceEvaluator(judgments, TREC_MEASURES).evaluate(rows)
    scores = score_run(run, qrels, list(TREC_NAMES))
    assert scores.query_ids == [query for query in judgments if query in rows]
    assert scores.missing == [query for query in judgments if query not in rows]
    assert scores.unjudged == [query for query in rows if query not in judgments]
    for query, row in zip(scores.query_ids, scores.values.tolist(), strict=True):
        assert row == pytest.approx([expected[query][name] for name in TREC_NAMES.values()], abs=1e-9)

    whole = score_run(run, qrels, list(TREC_NAMES), complete=True)
    assert whole.query_ids == list(judgments)
    kept = [query in rows for query in judgments]
    assert np.array_equal(whole.values[kept], scores.values)
    assert not whole.values[~np.array(kept)].any()


@settings(max_examples=100)
@given(run_dicts, qrels_dicts, st.sampled_from(["", ".gz"]))
def test_files_are_read_as_they_were_written(rows: RunDict, judgments: QrelsDict, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_file, qrels_file = Path(folder, f"a/x.trec{ending}"), Path(folder, f"x.qrels{ending}")
        run, qrels = arrays(rows), judged(judgments)
        write_run(run_file, run)
        write_qrels(qrels_file, qrels)
        assert sorted(p.name for p in Path(folder).rglob("*")) == sorted(["a", run_file.name, qrels_file.name])
        back = run_dict(read_run(run_file))
        written = run_dict(run)
        assert back.keys() == written.keys()
        for query, row in written.items():
            assert {d: np.float32(s).tobytes() for d, s in back[query].items()} == {
                d: np.float32(s).tobytes() for d, s in row.items()
            }
            # Best first, in trec_eval's order.
            assert list(back[query]) == sorted(row, key=lambda d: (row[d], d.encode()), reverse=True)
        assert qrels_dict(read_qrels(qrels_file)) == judgments


def test_equal_content_gives_an_equal_file(tmp_path: Path) -> None:
    run = arrays({"q": {"a": 0.5, "b": 0.1}})
    write_run(tmp_path / "one.gz", run)
    write_run(tmp_path / "two.gz", run)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == (
        b"q Q0 a 1 0.5 hybrid_ir\nq Q0 b 2 0.100000001 hybrid_ir\n"
    )


def test_lines_in_any_order_and_layout_mean_the_same(tmp_path: Path) -> None:
    lines = ["q1 Q0 a 1 0.9 t", "q1\tQ0\tb\t1\t0.8\tt", "  q2   Q0 a 7 -1e-3 t", "q1 Q0 c 99 .9 t "]
    expected = {"q1": {"a": 0.9, "b": 0.8, "c": 0.9}, "q2": {"a": -1e-3}}
    for i, permutation in enumerate(itertools.permutations(lines)):
        file = tmp_path / f"{i}.trec"
        file.write_text(("\r\n" if i % 2 else "\n\n").join(permutation) + ("\n" if i % 3 else ""))
        read = run_dict(read_run(file))
        assert read.keys() == expected.keys()
        assert all(read[query] == pytest.approx(row) for query, row in expected.items())


def test_files_that_an_evaluation_wrote_give_its_results(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(shard_size=16, save_runs=True, run_depth=10**6, metrics=["recall@5"])
    results = evaluate(ContextEncoder(), make_benchmark(), evaluation, 0, tmp_path)
    metrics = metrics_of("monolingual", evaluation.metrics)
    expected = {
        (row["query_language"], row["corpus_language"], row["query_id"], row["metric"]): row["value"]
        for row in results.per_query.to_pylist()
        if row["metric"] in metrics
    }
    found = {}
    for file in (tmp_path / "runs").glob("*.trec"):
        scores = score_run(read_run(file), read_qrels(file.with_suffix(".qrels")), metrics)
        languages = file.stem.removeprefix("toy.").split("-")
        for query, values in zip(scores.query_ids, scores.values.tolist(), strict=True):
            found |= {(*languages, query, name): value for name, value in zip(metrics, values, strict=True)}
    assert found == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------ faults

GOOD_RUN = b"q Q0 a 1 0.5 t\n"
GOOD_QRELS = b"q 0 a 1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"run: is empty"),
        (b"\n \n", r"run: is empty"),
        (GOOD_RUN + b"q Q0 b 2 0.4\n", r"run:2: has 5 columns instead of the 6 of `query Q0 document rank score tag`"),
        (GOOD_RUN + b"\nq Q0 b c 2 0.4 t\n", r"run:3: has 7 columns"),
        (GOOD_RUN + b"q Q0 b 2 high t\n", r"run:2: score 'high' is not a finite number"),
        (GOOD_RUN + b"q Q0 b 2 nan t\n", r"run:2: score 'nan' is not a finite number"),
        (GOOD_RUN + b"q Q0 b 2 -inf t\n", r"run:2: score '-inf' is not a finite number"),
        (GOOD_RUN + b"q Q0 b 2 1e39 t\n", r"run:2: score '1e39' is not a finite number"),  # not in fp32
        (GOOD_RUN + b"q Q0 b 2 1 t\n\nq Q0 a 3 1 t\n", r"run:4: document a is listed twice for query q"),
        (GOOD_RUN + b"q Q0 \xff 2 1 t\n", r"run:2: is not UTF-8"),
        (GOOD_RUN + b"\xe9 Q0 a 2 1 t\n", r"run:2: is not UTF-8"),
        (gzip.compress(GOOD_RUN * 3, mtime=0)[:-9], r"run:.*gzip data is damaged or cut off"),
    ],
)
def test_a_bad_run_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"qrels: is empty"),
        (b"query-id\tcorpus-id\tscore\n", r"qrels:1: has 3 columns instead of the 4 of `query 0 document relevance`"),
        (GOOD_QRELS + b"q 0 b 0.5\n", r"qrels:2: relevance '0.5' is not a whole number"),
        (GOOD_QRELS + b"q 0 b 99999999999\n", r"qrels:2: relevance '99999999999' is not a whole number"),
        (GOOD_QRELS + b"p 0 a 1\nq Q0 a 0\n", r"qrels:3: document a is judged twice for query q"),
        (GOOD_QRELS + b"q 0 \xc3 1\n", r"qrels:2: is not UTF-8"),
    ],
)
def test_bad_judgments_are_refused_with_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "qrels").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_qrels(tmp_path / "qrels")


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: cannot be opened"):
        read_run(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x\.trec: cannot be written"):
        write_run(tmp_path / "file" / "x.trec", arrays({"q": {"a": 1.0}}))


@pytest.mark.parametrize("name", ["", "a b", "a\u00a0b", "a\n"])
def test_an_id_that_a_file_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    for bad in ({"q": {name: 1}}, {name: {"a": 1}}):
        with pytest.raises(DataError, match="is empty or has white space"):
            write_run(file, arrays(bad))
        with pytest.raises(DataError, match="is empty or has white space"):
            write_qrels(file, judged(bad))
    with pytest.raises(DataError, match="is empty or has white space"):
        write_run(file, arrays({"q": {"a": 1}}), tag=name)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    "change",
    [
        {"query_ids": ["q", "r"]},
        {"documents": np.array([[0, 1, 1]])},
        {"documents": np.array([[0, 2]])},
        {"documents": np.array([[-2, 1]])},
        {"documents": np.array([[-1, 1]])},
        {"scores": np.array([[0.5, 0.25]])},
        {"scores": np.array([[0.5, np.nan]], dtype=np.float32)},
        {"scores": np.array([[0.5, -np.inf]], dtype=np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    run = Run(["q"], ["a", "b"], np.array([[0, 1]]), np.array([[0.5, 0.25]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"score|rankings|index"):
        replace(run, **change)  # type: ignore[arg-type]


def test_a_relevant_document_that_is_twice_among_the_ids_is_refused() -> None:
    run = Run(["q"], ["a", "b", "a"], np.array([[0, 1, 2]]), np.array([[3, 2, 1]], dtype=np.float32))
    with pytest.raises(ValueError, match="twice among those of the run"):
        score_run(run, judged({"q": {"a": 1}}), ["map"])


def test_metrics_of_a_whole_pool_are_not_those_of_a_run() -> None:
    for name in ("rank_distance", "max_rank"):
        with pytest.raises(ValueError, match="need the whole pool ranked"):
            score_run(arrays({"q": {"a": 1.0}}), judged({"q": {"a": 1}}), [name])


# ----------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    write_run(tmp_path / "r.trec", arrays({"q1": {"a": 0.9, "b": 0.8}, "q2": {"b": 0.9, "c": 0.1}, "q4": {"a": 1.0}}))
    write_qrels(tmp_path / "j.qrels", judged({"q1": {"b": 1}, "q2": {"b": 1, "x": 1}, "q3": {"a": 1}}))
    return str(tmp_path / "r.trec"), str(tmp_path / "j.qrels")


def test_the_command_prints_means_and_says_what_is_left_out(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--per-query", str(tmp_path / "out" / "values.csv")]) == 0
    printed = capsys.readouterr().out
    means = dict(line.split() for line in printed.splitlines() if len(line.split()) == 2 and "." in line.split()[1])
    assert list(means)[-7:] == list(metrics_of("monolingual"))
    assert means["map"] == "0.5000"
    assert means["recall@10"] == "0.7500"
    assert "r.trec, 2 queries" in printed
    assert "judged, but not in the run: 1 (query q3); left out (--complete" in printed
    assert "in the run, but not judged: 1 (query q4); left out" in printed
    with (tmp_path / "out" / "values.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["query_id"]: float(row["value"]) for row in rows if row["metric"] == "ndcg@10"} == pytest.approx(
        {"q1": 1 / np.log2(3), "q2": 1 / (1 + 1 / np.log2(3))}
    )

    assert main([*files, "--complete", "--metrics", "mrr@5", "recall@20"]) == 0
    printed = capsys.readouterr().out
    assert "r.trec, 3 queries" in printed
    assert [line.split() for line in printed.splitlines() if "@" in line] == [
        ["mrr@5", "0.5000"],
        ["recall@20", "0.5000"],
    ]
    assert "1 (query q3); counted as 0" in printed


def test_the_command_reports_a_mistake_in_one_line(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, qrels = files
    write_qrels(tmp_path / "other.qrels", judged({"z": {"b": 1}}))
    (tmp_path / "bad").write_text("q Q0 a 1 x t\n")
    for arguments, message in {
        (run,): "the following arguments are required: qrels",
        (run, qrels, "--metric"): "expected at least one argument",
        (run, qrels, "--depth=3"): "unrecognized arguments: --depth=3",
        (run, qrels, "--metrics", "ndcg@10", "f1@3"): "--metrics: 'f1@3' is no metric; give map",
        (run, qrels, "--metrics", "max_rank"): "'max_rank' needs the whole pool ranked",
        (run, str(tmp_path / "none")): "none: does not exist",
        (str(tmp_path), qrels): "is not a file",
        (str(tmp_path / "bad"), qrels): "bad:1: score 'x' is not a finite number",
        (run, str(tmp_path / "other.qrels")): "none of its queries (first: q1) is judged in",
        (run, qrels, "--per-query", str(tmp_path / "bad" / "x.csv")): "x.csv: cannot be written",
    }.items():
        assert main(arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err
