"""MLQA-R: a ragged sample in its format, counted and ranked by hand, and what is said where the files are not there."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ir.config import EvaluationConfig, MlqaRBenchmarkConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks import lareqa, load_benchmark, mlqa_r
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.mlqa_r import RELEASE
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.languages import MLQA

# Languages that have a version of each question, as in MLQA: all are asked in English.
RAGGED = {
    "q0": ("en", "de"), "q1": ("en", "de", "es"), "q2": ("en", "ar", "es", "de"), "q3": ("en", "ar"),
    "q4": ("en", "es"), "q5": ("en", "de", "es", "ar"), "q6": ("en", "de"),
}  # fmt: skip


def load(**section: Any) -> Benchmark:
    benchmark = load_benchmark("mlqa_r", MlqaRBenchmarkConfig(**section))
    assert isinstance(benchmark, Benchmark)
    return benchmark


def answer(question: str, language: str) -> str:
    return f"ß {language} answers {question}."


def write(folder: Path, versions: Mapping[str, Sequence[str]]) -> Path:
    """Files as they are published, ``{question: its languages}``: a paragraph a question, the answer in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in dict.fromkeys(code for codes in versions.values() for code in codes):
        paragraphs = []
        for question in (question for question, codes in versions.items() if language in codes):
            sentences = [f"\ufeffBefore {question} in {language}. ", answer(question, language), " After."]
            bounds = np.cumsum([0, *map(len, sentences)]).tolist()
            asked = {"id": question, "question": f"{language}: {question}?"}
            asked["answers"] = [{"text": "answers", "answer_start": bounds[1] + 5}]
            paragraphs.append(
                {
                    "context": "".join(sentences),
                    "qas": [asked],
                    "sentences": sentences,
                    "sentence_breaks": [list(pair) for pair in pairwise(bounds)],
                }
            )
        content = {"version": 1.0, "data": [{"title": "T", "paragraphs": paragraphs}]}
        (folder / f"{language}.json").write_text(json.dumps(content))
    return folder


# ---------------------------------------------------------------------------------------------------------- ragged


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.integers(0, 30).map(str),
        st.lists(st.sampled_from(MLQA), min_size=1, max_size=4, unique=True),
        min_size=1,
        max_size=6,
    )
)
def test_a_question_counts_where_it_has_a_version(versions: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        benchmark = load(path=str(write(Path(folder), versions)))
    counting = {
        (benchmark.query_ids[q], benchmark.languages[benchmark.query_languages[q]], benchmark.documents[d])
        for q, d, _ in benchmark.judgments.tolist()
    }
    assert counting == {
        (question, asked, answer(question, answered))
        for question, codes in versions.items()
        for asked in codes
        for answered in codes
    }
    assert len(benchmark.documents) == 3 * sum(map(len, versions.values()))


class IntegerEncoder:
    """Embeddings of small whole numbers, decided by the text: scores are exact, with many ties."""

    def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
        seeds = [int.from_bytes(hashlib.sha256(repr(text).encode()).digest()[:8]) for text in texts]
        rows = [np.random.default_rng(seed).integers(-2, 3, 6) for seed in seeds]
        return torch.tensor(np.array(rows), dtype=torch.float32)


@pytest.mark.parametrize("candidate", ["sentence", "sentence_with_paragraph"])
def test_results_by_hand(tmp_path: Path, candidate: Any) -> None:
    benchmark = load(path=str(write(tmp_path, RAGGED)), candidate=candidate)
    results = evaluate(IntegerEncoder(), benchmark, EvaluationConfig(shard_size=5), 0)
    found = {
        (row["query_id"], row["query_language"], row["corpus_language"]): row["value"]
        for row in results.per_query.to_pylist()
        if row["metric"] == "map"
    }
    # By hand: each pool sorted by score and id, the average precision of each version of each question.
    encoder = IntegerEncoder()
    candidates = []
    for language in ("ar", "de", "en", "es"):
        for number, question in enumerate(q for q, codes in RAGGED.items() if language in codes):
            sentences = [f"Before {question} in {language}.", answer(question, language), "After."]
            paragraph = " ".join(sentences)
            for place, sentence in enumerate(sentences):
                text = sentence if candidate == "sentence" else (sentence, paragraph)
                candidates.append((f"{language}-{number:04d}-{place:03d}", language, question, place == 1, text))
    documents = encoder.encode([text for *_, text in candidates], "passage").numpy()
    expected = {}
    for question, codes in RAGGED.items():
        for asked in codes:
            scores = documents @ encoder.encode([f"{asked}: {question}?"], "query").numpy()[0]
            ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: (pair[0], pair[1][0]), reverse=True)
            for corpus in (*codes, "all"):
                pool = [c for _, c in ranked if corpus in (c[1], "all")]
                ranks = [i for i, (_, _, of, answers, _) in enumerate(pool, 1) if answers and of == question]
                precisions = [n / rank for n, rank in enumerate(ranks, start=1)]
                expected[question, asked, corpus] = sum(precisions) / len(precisions)
    assert found == pytest.approx(expected, abs=1e-12)
    # A cell of the table is the mean over the questions that count there.
    cells = {(row.query_language, row.corpus_language): row for row in results.rows if row.metric == "map"}
    assert cells["ar", "es"].num_queries == 2
    assert cells["de", "es"].value == pytest.approx(np.mean([expected[q, "de", "es"] for q in ("q1", "q2", "q5")]))
    assert "map" in results.macro()["mlqa_r"]["cross_lingual"]


def test_the_licence_is_noted(tmp_path: Path) -> None:
    assert any("CC BY-NC 4.0: non-commercial" in note for note in load(path=str(write(tmp_path, RAGGED))).notes)


# ----------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server of ``tmp_path/www``."""
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_published_files() -> None:
    assert tuple(sorted(RELEASE.sha256)) == MLQA
    assert all(len(value) == 64 for value in RELEASE.sha256.values())
    revision = "354d67d1cd066854cdfbf5ad0e6105528976141d"
    assert RELEASE.url == f"https://raw.githubusercontent.com/google-research-datasets/lareqa/{revision}/mlqa-r"


def test_download(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lareqa, "REPOSITORY", server)
    published = write(tmp_path / "www" / RELEASE.revision / "mlqa-r", RAGGED)
    kept = tmp_path / "cache" / "mlqa-r" / RELEASE.revision
    by_hand = rf"download it by hand to {kept}/de\.json, or set benchmark\.mlqa_r\.path to a folder that has de\.json"
    with pytest.raises(DataError, match=rf"de\.json: what http.*/mlqa-r/de\.json sent has SHA-256 .*; {by_hand}"):
        load(languages=["de", "en"])
    assert not kept.exists()
    hashes = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in published.iterdir()}
    monkeypatch.setattr(mlqa_r, "RELEASE", replace(RELEASE, sha256=hashes))
    assert load(languages=["de", "en"]).languages == ("de", "en")
    assert sorted(path.name for path in kept.iterdir()) == ["de.json", "en.json"]
    assert load().languages == ("ar", "de", "en", "es")
    (kept / "es.json").write_text("{}")
    with pytest.raises(DataError, match=r"es\.json: has not the expected SHA-256 .*; delete it, or put http"):
        load()
    (kept / "es.json").unlink()
    (published / "es.json").unlink()
    with pytest.raises(
        DataError, match=r"es\.json: cannot be downloaded from http.* \(File not found\); download it by"
    ):
        load()


def test_download_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lareqa, "REPOSITORY", "http://127.0.0.1:9")  # nobody listens
    message = r"ar\.json: cannot be downloaded from http.*refused\); download it by hand .*, or set benchmark\.mlqa_r\."
    with pytest.raises(DataError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_languages_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^benchmark\.mlqa_r\.languages=th: MLQA-R does not have it; it has ar, de,"):
        load(languages=["de", "th"])
    folder = write(tmp_path / "data", RAGGED)
    assert load(path=str(folder), languages=["es", "ar"]).languages == ("ar", "es")
    with pytest.raises(DataError, match=r"vi\.json: does not exist; .*leave vi out of benchmark\.mlqa_r\.languages"):
        load(path=str(folder), languages=["en", "vi"])
    with pytest.raises(DataError, match=r"^benchmark\.mlqa_r\.path=.*none: is not a folder"):
        load(path=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"^benchmark\.mlqa_r\.path=.*: has no <language>\.json of MLQA-R"):
        load(path=str(tmp_path))
