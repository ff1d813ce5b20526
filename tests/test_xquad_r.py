"""XQuAD-R: the loader on the real files, and all metrics against a second implementation that shares no code."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_ir.config import EvaluationConfig, XquadRBenchmarkConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks import lareqa, load_benchmark
from hybrid_ir.evaluation.benchmarks.lareqa import download, lareqa_benchmark
from hybrid_ir.evaluation.benchmarks.xquad_r import RELEASE
from hybrid_ir.evaluation.engine import evaluate

# Counts of sentences in LAReQA's published files.
SENTENCES = {
    "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244, "ru": 1219, "th": 852, "tr": 1167,
    "vi": 1209, "zh": 1196,
}  # fmt: skip


@pytest.fixture(scope="session")
def folder(shared: Path) -> Path:
    return shared / "data" / "xquad-r"


def load(**section: Any) -> Any:
    return load_benchmark("xquad_r", XquadRBenchmarkConfig(**section))


# ------------------------------------------------------------------------------------------------- the real files


def test_counts_are_the_published_ones(folder: Path) -> None:
    benchmark = load(path=str(folder))
    languages = benchmark.languages
    assert languages == tuple(SENTENCES)
    assert Counter(languages[i] for i in benchmark.document_languages) == SENTENCES
    assert len(benchmark.documents) == 13_014
    assert Counter(languages[i] for i in benchmark.query_languages) == dict.fromkeys(SENTENCES, 1190)
    assert len(set(benchmark.query_ids)) == 1190
    assert len(set(benchmark.document_ids)) == 13_014
    # Each version of a question has one relevant sentence in each language.
    per_query = Counter((q, languages[benchmark.document_languages[d]]) for q, d, _ in benchmark.judgments.tolist())
    assert len(per_query) == 13_090 * 11
    assert set(per_query.values()) == {1}
    assert benchmark.info["sha256"] == RELEASE.sha256


def test_relevant_sentences_hold_the_answers(folder: Path) -> None:
    """For every question, the sentence judged relevant has the answer's text, but where the answer spans sentences."""
    benchmark = load(path=str(folder))
    relevant = {(q, benchmark.document_languages[d]): d for q, d, _ in benchmark.judgments.tolist()}
    row = held = 0
    for index, language in enumerate(benchmark.languages):
        content = json.loads((folder / f"{language}.json").read_text())
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    assert benchmark.query_ids[row] == question["id"]
                    held += question["answers"][0]["text"].strip() in benchmark.documents[relevant[row, index]]
                    row += 1
    assert row == 13_090
    assert held / row > 0.98


def test_texts_are_clean_and_pairs_hold_the_paragraph(folder: Path) -> None:
    alone = load(path=str(folder))
    pairs = load(path=str(folder), candidate="sentence_with_paragraph")
    assert [sentence for sentence, _ in pairs.documents] == alone.documents
    texts = [*alone.queries, *alone.documents, *(paragraph for _, paragraph in pairs.documents)]
    assert all(text and text == text.strip() and not text.startswith("\ufeff") for text in texts)
    differing = [sentence for sentence, paragraph in pairs.documents if sentence not in paragraph]
    assert len(differing) <= 2  # two Turkish sentences differ from their paragraph in the published file


def test_languages_and_limit(folder: Path) -> None:
    benchmark = load(path=str(folder), languages=["th", "de"], limit=7)
    assert benchmark.languages == ("de", "th")
    assert len(benchmark.query_ids) == 14
    assert len(set(benchmark.query_ids)) == 7
    assert len(benchmark.documents) == SENTENCES["de"] + SENTENCES["th"]
    assert len(benchmark.judgments) == 28
    with pytest.raises(DataError, match=r"fi\.json: does not exist; there are ar, de"):
        load(path=str(folder), languages=["fi"])
    with pytest.raises(DataError, match="is not a folder"):
        load(path=str(folder / "none"))


# --------------------------------------------------------------------------------------------- an independent look


class OneLayer:
    """The first layer of a real encoder. Embeddings are rounded to multiples of 1/256: inner products of them are exact
    in fp32, so that both implementations see the same scores, and many ties."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
        self.model.encoder.layer = self.model.encoder.layer[:1]

    @torch.no_grad()
    def encode(self, texts: Sequence[str | tuple[str, str]], kind: str) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embedded = torch.empty(len(texts), self.model.config.hidden_size)
        for start in range(0, len(texts), 64):
            rows = order[start : start + 64]
            batch = self.tokenizer(
                [f"{kind}: {texts[i]}" for i in rows], max_length=32, truncation=True, padding=True, return_tensors="pt"
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            embedded[rows] = mean
        return (embedded * 256).round() / 256


def plain_metrics(ranked: list[str], relevant: set[str], union: bool) -> dict[str, float]:
    """All metrics of one ranking, as their definitions say."""
    ranks = [place for place, document in enumerate(ranked, start=1) if document in relevant]
    values = {"map": sum(i / rank for i, rank in enumerate(ranks, start=1)) / len(relevant)}
    for k in (1, 10, 100):
        values[f"recall@{k}"] = len([rank for rank in ranks if rank <= k]) / len(relevant)
    values["precision@10"] = len([rank for rank in ranks if rank <= 10]) / 10
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(10, len(relevant)) + 1))
    values["ndcg@10"] = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10) / ideal
    values["mrr@10"] = 1 / ranks[0] if ranks[0] <= 10 else 0.0
    if union:
        values |= {"rank_distance": ranks[-1] - ranks[0], "max_rank": ranks[-1]}
    return values


def test_all_metrics_equal_a_second_implementation(folder: Path, e5_small: Path) -> None:
    languages, limit = ["ar", "th", "zh"], 12
    benchmark = load(path=str(folder), languages=languages, limit=limit)
    encoder = OneLayer(e5_small)
    results = evaluate(encoder, benchmark, EvaluationConfig(shard_size=1000), 0)

    # The second implementation reads the files itself, scores in float64 and sorts every pool.
    candidates: dict[str, list[str]] = {}
    gold: dict[tuple[str, str], str] = {}
    questions: dict[str, dict[str, str]] = {language: {} for language in languages}
    for language in languages:
        texts: list[str] = []
        for article in json.loads((folder / f"{language}.json").read_text())["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    start = question["answers"][0]["answer_start"]
                    inside = [i for i, (a, b) in enumerate(paragraph["sentence_breaks"]) if a <= start < b]
                    gold[question["id"], language] = f"{language} {len(texts) + inside[0]}"
                    questions[language][question["id"]] = question["question"].strip()
                texts += [sentence.strip().strip("\ufeff").strip() for sentence in paragraph["sentences"]]
        candidates[language] = texts
    names = [f"{language} {i}" for language in languages for i in range(len(candidates[language]))]
    embedded = []
    flat = [text for language in languages for text in candidates[language]]
    for start in range(0, len(flat), 1000):
        embedded.append(encoder.encode(flat[start : start + 1000], "passage"))
    documents = torch.cat(embedded).double()
    chosen = list(questions["th"])[:limit]
    queries = encoder.encode([questions[language][q] for language in languages for q in chosen], "query").double()

    # Ties: descending order of the ids that the benchmark gives its documents.
    place_of_id = {name: benchmark.document_ids[i] for i, name in enumerate(names)}
    expected: dict[tuple[str, str, str, str], float] = {}
    ties = 0
    for row, (language, question) in enumerate((language, q) for language in languages for q in chosen):
        scores = dict(zip(names, (documents @ queries[row]).tolist(), strict=True))
        ranked = sorted(names, key=lambda name: (scores[name], place_of_id[name]), reverse=True)
        ties += len(scores) - len(set(scores.values()))
        for corpus in [*languages, "all"]:
            pool = [name for name in ranked if corpus in ("all", name.split()[0])]
            relevant = {gold[question, other] for other in languages if corpus in ("all", other)}
            for metric, value in plain_metrics(pool, relevant, corpus == "all").items():
                expected[language, corpus, question, metric] = value
        own = [name.split()[0] == language for name in ranked[:10]]
        expected[language, "all", question, "own_language_share@10"] = sum(own) / 10
    assert ties > 0
    ours = {
        (r["query_language"], r["corpus_language"], r["query_id"], r["metric"]): r["value"]
        for r in results.per_query.to_pylist()
        if r["metric"] != "mrc@10"  # of pairs of queries; test_language_bias.py compares it
    }
    assert ours.keys() == expected.keys()
    assert all(abs(ours[key] - expected[key]) < 1e-12 for key in expected)
    # Macro means, from the second implementation's values.
    for setting, pairs in {
        "monolingual": [(a, a) for a in languages],
        "cross_lingual": [(a, b) for a in languages for b in languages if a != b],
        "multilingual": [(a, "all") for a in languages],
    }.items():
        macro = results.macro()["xquad_r"][setting]
        assert macro.keys() - {"mrc@10"} == {metric for a, b, _, metric in expected if (a, b) in pairs}
        for metric, value in macro.items():
            if metric == "mrc@10":
                continue
            cells = [sum(expected[a, b, q, metric] for q in chosen) / limit for a, b in pairs]
            assert value == pytest.approx(sum(cells) / len(cells), abs=1e-9), (setting, metric)


# ------------------------------------------------------------------------------------------- ragged and malformed


def content(language: str, ids: Sequence[str] = ("a", "b")) -> dict[str, Any]:
    first, second = f"\ufeffOne {language}. ", f"Two {language}."
    breaks = [[0, len(first)], [len(first), len(first) + len(second)]]
    starts = {"a": 1, "b": len(first), "c": len(first) + 2}
    questions = [
        {"id": i, "question": f" {i} in {language}?", "answers": [{"text": "x", "answer_start": starts[i]}]}
        for i in ids
    ]
    paragraph = {"context": first + second, "qas": questions, "sentences": [first, second], "sentence_breaks": breaks}
    return {"version": 1.0, "data": [{"title": "t", "paragraphs": [paragraph]}]}


def write(folder: Path, **languages: dict[str, Any]) -> dict[str, Path]:
    for language, value in languages.items():
        (folder / f"{language}.json").write_text(json.dumps(value))
    return {language: folder / f"{language}.json" for language in languages}


def test_a_question_counts_only_against_corpora_that_answer_it(tmp_path: Path) -> None:
    files = write(tmp_path, de=content("de", ("a", "b", "c")), en=content("en", ("b",)))
    benchmark = lareqa_benchmark("mlqa_r", files, "sentence_with_paragraph")
    judged = {
        (benchmark.query_ids[q], benchmark.languages[benchmark.query_languages[q]], benchmark.documents[d][0])
        for q, d, _ in benchmark.judgments.tolist()
    }
    assert judged == {
        ("a", "de", "One de."), ("b", "de", "Two de."), ("b", "de", "Two en."), ("c", "de", "Two de."),
        ("b", "en", "Two de."), ("b", "en", "Two en."),
    }  # fmt: skip
    assert benchmark.documents[0] == ("One de.", "One de. Two de.")
    assert benchmark.queries[0] == "a in de?"


def test_two_answers_in_two_sentences_are_both_relevant(tmp_path: Path) -> None:
    value = content("de", ("a",))
    answers = value["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    answers += [{"text": "x", "answer_start": 10}, {"text": "x", "answer_start": 2}]
    benchmark = lareqa_benchmark("one", write(tmp_path, de=value), "sentence")
    assert benchmark.judgments.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert benchmark.settings == ("monolingual",)


def paragraph_of(value: dict[str, Any]) -> dict[str, Any]:
    return value["data"][0]["paragraphs"][0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("data"), "the file: has no 'data'"),
        (lambda v: v.update(data={}), "data: is an object instead of a list"),
        (lambda v: v.update(data=[]), "holds no question"),
        (lambda v: paragraph_of(v).pop("sentence_breaks"), r"data\[0\]\.paragraphs\[0\]: has no 'sentence_breaks'"),
        (lambda v: paragraph_of(v)["sentences"].pop(), r"paragraphs\[0\]: has 1 sentences and 2 sentence_breaks"),
        (lambda v: paragraph_of(v)["sentence_breaks"].__setitem__(1, [3]), r"sentence_breaks\[1\]: is not a pair"),
        (lambda v: paragraph_of(v)["qas"][1].update(id="a"), r"qas\[1\]: repeats the question id a"),
        (lambda v: paragraph_of(v)["qas"][1].update(question=None), r"qas\[1\]\.question: is null instead of a text"),
        (lambda v: paragraph_of(v)["qas"][1].update(answers=[]), r"qas\[1\]: has no answer"),
        (
            lambda v: paragraph_of(v)["qas"][1]["answers"][0].update(answer_start=999),
            r"qas\[1\]\.answers\[0\]: answer_start 999 is inside 0 of the sentence_breaks",
        ),
        (
            lambda v: paragraph_of(v)["qas"][0]["answers"][0].update(answer_start="1"),
            r"answer_start: is a text instead of a whole number",
        ),
    ],
)
def test_malformed_files_are_errors_with_their_position(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    value = copy.deepcopy(content("de"))
    spoil(value)
    files = write(tmp_path, de=value)
    with pytest.raises(DataError, match=message) as caught:
        lareqa_benchmark("x", files, "sentence")
    assert str(caught.value).startswith(str(files["de"]))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_json(tmp_path: Path) -> None:
    files = write(tmp_path, de=content("de"))
    files["de"].write_text('{"data": [\n1, }')
    with pytest.raises(DataError, match=r"de\.json:2: is not JSON at column 4"):
        lareqa_benchmark("x", files, "sentence")
    files["de"].write_bytes(b'{"data": "\xff"}')
    with pytest.raises(DataError, match=r"de\.json: is not UTF-8 at byte 10"):
        lareqa_benchmark("x", files, "sentence")


# ------------------------------------------------------------------------------------------------------- download


KEY = "benchmark.xquad_r.path"


def test_download_verifies_and_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source.json", tmp_path / "cache" / "xquad-r" / "en.json"
    source.write_bytes(b"the bytes")
    expected = hashlib.sha256(b"the bytes").hexdigest()
    assert download(source.as_uri(), target, expected, KEY) == target
    assert target.read_bytes() == b"the bytes"
    source.unlink()
    assert download(source.as_uri(), target, expected, KEY) == target  # needs no source any more
    assert [path.name for path in target.parent.iterdir()] == ["en.json"]
    target.write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"en\.json: has not the expected SHA-256"):
        download(source.as_uri(), target, expected, KEY)


def test_download_that_fails_says_how_to_place_the_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source.json", tmp_path / "cache" / "en.json"
    remedy = r"by hand to .*cache.en\.json, or set benchmark\.xquad_r\.path to a folder that has en\.json"
    with pytest.raises(DataError, match=rf"en\.json: cannot be downloaded from file://.*source\.json .*{remedy}"):
        download(source.as_uri(), target, "0" * 64, KEY)
    source.write_bytes(b"not what was published")
    with pytest.raises(DataError, match=rf"source\.json sent has SHA-256 .*expected 0000.*{remedy}"):
        download(source.as_uri(), target, "0" * 64, KEY)
    assert not target.exists()


def test_the_eleven_files_from_their_address(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "repository" / RELEASE.revision
    published.mkdir(parents=True)
    (published / "xquad-r").symlink_to(folder.resolve())
    monkeypatch.setattr(lareqa, "REPOSITORY", published.parent.as_uri())
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    assert len(load(languages=["en", "zh"]).documents) == SENTENCES["en"] + SENTENCES["zh"]
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.json")) == ["en.json", "zh.json"]
    with pytest.raises(ConfigError, match=r"benchmark\.xquad_r\.languages=sw: XQuAD-R does not have it"):
        load(languages=["en", "sw"])
