"""The built-in data set: deterministic, parallel, nothing filled in, nothing leaked; and its benchmark."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hybrid_ir.config import CldrBenchmarkConfig
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.cldr import CldrSource
from hybrid_ir.data.sources.cldr.facts import world
from hybrid_ir.data.sources.cldr.generate import HELD_OUT_KINDS, all_items, is_held_out, items, passages
from hybrid_ir.data.sources.cldr.wording import KINDS, LABELS, _folder, template_languages
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks.cldr import load
from hybrid_ir.languages import MIRACL, XQUAD_R

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def train() -> list[Example]:
    return list(CldrSource(MIRACL, "train").examples())


@pytest.fixture(scope="module")
def evaluation() -> list[Example]:
    return list(CldrSource(MIRACL, "evaluation").examples())


def _entity(passage_id: str) -> str:
    return re.sub(r"^(territory-[A-Z]{2})/.*", r"\1", passage_id)


def test_every_miracl_language_has_thousands_of_items(train: list[Example]) -> None:
    count: dict[str, set[str]] = defaultdict(set)
    passage_ids: dict[str, set[str]] = defaultdict(set)
    for example in train:
        count[example.language].add(example.item_id)
        passage_ids[example.language].add(str(example.passage_id))
    assert set(count) == set(MIRACL)
    for language in MIRACL:
        assert len(count[language]) >= 2000, language
        assert len(passage_ids[language]) >= 800, language
    assert sum(len(ids) >= 3000 for ids in count.values()) >= 10


def test_languages_are_parallel(train: list[Example], evaluation: list[Example]) -> None:
    passage_of: dict[str, str | None] = {}
    text_of: dict[tuple[str, str | None], str] = {}
    seen: set[tuple[str, str]] = set()
    for example in train + evaluation:
        assert passage_of.setdefault(example.item_id, example.passage_id) == example.passage_id
        assert text_of.setdefault((example.language, example.passage_id), example.passage) == example.passage
        assert (example.language, example.item_id) not in seen
        seen.add((example.language, example.item_id))
        assert example.query.strip()
        assert "{" not in example.query + example.passage
    languages_of: dict[str, int] = defaultdict(int)
    for _, item_id in seen:
        languages_of[item_id] += 1
    assert sum(n == len(MIRACL) for n in languages_of.values()) >= 1000
    assert set(passage_of) <= {item.item_id for item in all_items()}


def test_a_question_leads_to_one_passage(train: list[Example]) -> None:
    asked: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for example in train:
        asked[example.language, example.query].add(example.passage_id)
    ambiguous = sum(len(found) > 1 for found in asked.values())
    assert ambiguous / len(asked) < 0.005


def test_nothing_leaks_from_evaluation_into_training(train: list[Example], evaluation: list[Example]) -> None:
    assert not {example.item_id for example in train} & {example.item_id for example in evaluation}
    kinds = {item.item_id: item.kind for item in all_items()}
    assert not {kinds[example.item_id] for example in train} & HELD_OUT_KINDS
    held_out = {_entity(str(e.passage_id)) for e in evaluation if kinds[e.item_id] not in HELD_OUT_KINDS}
    assert len(held_out) >= 100
    assert not held_out & {_entity(str(e.passage_id)) for e in train}
    # Nor under another id: a held-out entity's text is no training passage's.
    held_texts = {(e.language, e.passage) for e in evaluation if _entity(str(e.passage_id)) in held_out}
    shared = held_texts & {(e.language, e.passage) for e in train}
    assert not shared
    # Every kind of passage has entities on both sides.
    prefixes = {item.entity.split("-")[0] for item in all_items()}
    for side in (True, False):
        assert {item.entity.split("-")[0] for item in all_items() if is_held_out(item.entity) == side} == prefixes


def test_split_and_texts_do_not_depend_on_the_languages_asked_for(train: list[Example]) -> None:
    alone = list(CldrSource(["yo"], "train").examples())
    assert alone == [example for example in train if example.language == "yo"]


def test_same_in_every_process() -> None:
    program = (
        "import hashlib; from hybrid_ir.data.sources.cldr import CldrSource; digest = hashlib.sha256()\n"
        "for side in ('train', 'evaluation'):\n"
        "    source = CldrSource(['en', 'yo', 'zh', 'cy'], side)\n"
        "    digest.update(repr(source.key()).encode())\n"
        "    for example in source.examples(): digest.update(repr(example).encode())\n"
        "print(digest.hexdigest())"
    )
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=REPOSITORY
        )
        for seed in ("0", "1", "77")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("language", ["ar", "bn", "el", "fa", "hi", "ja", "ko", "ru", "te", "th", "zh"])
def test_no_latin_words_in_other_scripts(language: str) -> None:
    """A name filled in from English would show; CLDR's own names keep a few abbreviations (CFA) and proper names."""
    own = _own_names(language)
    for item in items(language):
        for word in re.findall(r"[A-Za-z]{2,}", item.query + " " + item.passage):
            assert any(word in name for name in own), (word, item)


def _own_names(language: str) -> set[str]:
    """Names in the language's own CLDR file, read without Babel's merging or our reader."""
    import babel

    file = Path(babel.__file__).parent / "locale-data" / f"{language}.dat"
    data = pickle.loads(file.read_bytes())
    names = {
        str(name) for key in ("territories", "languages", "scripts", "currency_names") for name in data[key].values()
    }
    names |= {entry["city"] for entry in data.get("time_zones", {}).values() if "city" in entry}
    return names | {form for entry in data.get("meta_zones", {}).values() for form in entry.get("long", {}).values()}


@pytest.mark.parametrize("language", ["yo", "sw", "nn", "cy", "qu"])
def test_names_are_the_languages_own(language: str) -> None:
    """The head of every passage is a name from the language's own file."""
    own = _own_names(language)
    found = passages(language)
    assert found
    for passage in found.values():
        assert any(passage.text.startswith(name + ".") for name in own), passage.text


def test_lacking_names_leave_items_out_and_are_reported() -> None:
    source = CldrSource(["en", "yo"], "train")
    count: dict[str, int] = defaultdict(int)
    for example in source.examples():
        count[example.language] += 1
    left_out = source.report()["left_out_items"]
    possible = sum(not item.held_out for item in all_items())
    assert {language: possible - n for language, n in count.items()} == left_out
    assert left_out["yo"] > left_out["en"]


def test_years_and_shares_are_written_in_the_languages_digits() -> None:
    kenya = {language: passages(language) for language in ("fa", "bn", "mr", "en")}
    assert "۱۹۶۶" in kenya["fa"]["territory-KE/money"].text
    assert "১৯৬৬" in kenya["bn"]["territory-KE/money"].text
    assert "१९६६" in kenya["mr"]["territory-KE/money"].text
    assert "1966" in kenya["en"]["territory-KE/money"].text


def test_facts_that_are_known_independently() -> None:
    facts = world()
    assert facts.territories["JP"].currency == "JPY"
    assert facts.currencies["JPY"].decimals == 0
    assert facts.currencies["KWD"].decimals == 3
    assert (facts.territories["DE"].former_currency, facts.territories["DE"].former_until) == ("DEM", 2002)
    assert facts.currencies["DEM"].successor == "EUR"
    assert facts.territories["NG"].region == "011"
    assert facts.cities["Asia/Tokyo"].territory == "JP"
    assert facts.languages["te"].script == "Telu"
    assert set(facts.territories["FI"].official) >= {"fi", "sv"}
    assert {city.territory for city in facts.cities.values()} <= set(facts.territories)


def test_regions_cover_the_territories_of_cldr_once() -> None:
    from babel.core import get_global

    from hybrid_ir.data.sources.cldr.facts import _REGIONS

    codes = " ".join(_REGIONS.values()).split()
    assert len(codes) == len(set(codes))
    # What UN M.49 has not as a country: parts of others that CLDR codes by exception (Ascension, Clipperton, Sark,
    # Diego Garcia, Ceuta, the Canaries, Tristan da Cunha), the uninhabited, the unknown.
    outside = {"AC", "CP", "CQ", "DG", "EA", "IC", "TA", "AQ", "BV", "HM", "TF", "UM", "ZZ"}
    assert set(get_global("territory_languages")) - set(codes) <= outside


def test_templates_are_complete_and_alike() -> None:
    import tomllib

    assert set(template_languages()) >= set(MIRACL) | set(XQUAD_R)
    shape: dict[str, set[str]] = {}
    for code in template_languages():
        table = tomllib.loads((_folder() / f"{code}.toml").read_text(encoding="utf-8"))
        assert set(table) == {"text", "labels", "questions"}
        assert set(table["labels"]) == set(LABELS), code
        assert set(table["questions"]) == set(KINDS), code
        for kind, phrasings in table["questions"].items():
            for phrasing in phrasings:
                slots = set(re.findall(r"{(\w+)}", phrasing))
                assert slots == shape.setdefault(kind, slots), (code, phrasing)


@pytest.mark.parametrize(
    "language",
    ["af", "am", "cy", "gu", "ha", "he", "ig", "it", "ka", "mr", "nb", "pl", "pt", "si", "ta", "uk", "ur", "zu"],
)
def test_any_cldr_language_can_be_trained_on(language: str) -> None:
    examples = list(CldrSource([language], "train").examples())
    assert len({example.passage_id for example in examples}) >= 256
    english = {item.item_id: item.query for item in items("en")}
    assert sum(example.query == english.get(example.item_id) for example in examples) < 0.01 * len(examples)


def test_languages_without_data_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"^data.languages=hmn: CLDR has no locale for Hmong"):
        CldrSource(["en", "hmn"], "train")
    with pytest.raises(ValueError, match="did you mean 'he'"):
        CldrSource(["iw"], "train")
    with pytest.raises(DataError, match="too few names in cop"):
        list(CldrSource(["cop"], "train").examples())


def test_key_tells_corpora_apart() -> None:
    keys = [
        CldrSource(["en", "sw"], "train").key(),
        CldrSource(["en"], "train").key(),
        CldrSource(["en"], "evaluation").key(),
    ]
    assert len({repr(key) for key in keys}) == 3
    assert {"babel", "cldr", "generator", "templates"} <= set(keys[0])


# ---------------------------------------------------------------------------------------------------- benchmark


def test_benchmark_judgments_are_right_and_complete() -> None:
    languages = ("en", "sw", "yo", "zh")
    benchmark = load(CldrBenchmarkConfig(languages=list(languages)))
    assert benchmark.languages == languages
    assert len(set(benchmark.document_ids)) == len(benchmark.documents)
    passage_of = {item.item_id: item.passage_id for item in all_items()}
    fact_of = {item.item_id: item.fact for item in all_items()}
    held_out = {item.item_id for item in all_items() if item.held_out}
    pool = {document_id: i for i, document_id in enumerate(benchmark.document_ids)}
    texts = {language: passages(language) for language in languages}
    expected = set()
    for index, query_id in enumerate(benchmark.query_ids):
        assert query_id in held_out
        for language in languages:
            passage = texts[language].get(passage_of[query_id])
            if passage is not None and fact_of[query_id] in passage.facts:
                expected.add((index, pool[f"{language}:{passage_of[query_id]}"], 1))
    assert set(map(tuple, benchmark.judgments.tolist())) == expected
    for query, document, _ in benchmark.judgments.tolist():
        language = languages[int(benchmark.document_languages[document])]
        assert benchmark.documents[document] == texts[language][passage_of[benchmark.query_ids[query]]].text


def test_benchmark_of_all_languages() -> None:
    benchmark = load(CldrBenchmarkConfig())
    for index, language in enumerate(MIRACL):
        queries = np.flatnonzero(benchmark.query_languages == index)
        documents = np.flatnonzero(benchmark.document_languages == index)
        assert 90 <= len(queries) <= 200, language
        assert 350 <= len(documents) <= 1000, language
        # Every query has a relevant document in its own language.
        own = set(documents.tolist())
        answered = {q for q, d, _ in benchmark.judgments.tolist() if d in own}
        assert set(queries.tolist()) <= answered


def test_benchmark_questions_do_not_depend_on_the_languages() -> None:
    pair, alone = (load(CldrBenchmarkConfig(languages=codes)) for codes in (["en", "sw"], ["sw"]))
    swahili = [q for q, language in zip(pair.query_ids, pair.query_languages, strict=True) if language == 1]
    assert swahili == list(alone.query_ids)
    assert (
        load(CldrBenchmarkConfig(languages=["en", "sw"], limit=3)).query_ids == pair.query_ids
    )  # the caller's to apply
    assert len(set(pair.limited(3).query_ids)) == 3


@pytest.fixture(scope="module")
def bm25() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bm25_cldr", REPOSITORY / "bench" / "bm25_cldr.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bm25_agrees_with_its_formula_and_trec_eval(bm25: ModuleType) -> None:
    import math

    import pytrec_eval

    benchmark = load(CldrBenchmarkConfig(languages=["sw"]))
    documents = [bm25.tokens(text, "sw") for text in benchmark.documents]
    mean_length = sum(map(len, documents)) / len(documents)
    index = bm25.BM25(documents)
    run: dict[str, dict[str, float]] = {}
    for query_id, query in zip(benchmark.query_ids[:20], benchmark.queries[:20], strict=True):
        terms = bm25.tokens(query, "sw")
        fast = index.scores(terms)
        for row in range(0, len(documents), 7):
            slow = 0.0
            for term in terms:
                containing = sum(term in document for document in documents)
                frequency = documents[row].count(term)
                idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
                slow += idf * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * len(documents[row]) / mean_length))
            assert fast[row] == pytest.approx(slow, rel=1e-4, abs=1e-6)
        run[query_id] = dict(zip(benchmark.document_ids, fast.astype(float).tolist(), strict=True))
    judgments: dict[str, dict[str, int]] = defaultdict(dict)
    for query, document, grade in benchmark.judgments.tolist():
        if query < 20:
            judgments[benchmark.query_ids[query]][benchmark.document_ids[document]] = grade
    theirs = pytrec_eval.RelevanceEvaluator(dict(judgments), {"map"}).evaluate(run)
    ids = np.argsort(np.argsort(np.array(benchmark.document_ids)))
    for query_id, scores in run.items():
        hits = np.array([document_id in judgments[query_id] for document_id in benchmark.document_ids])
        ours = bm25.average_precision(np.array(list(scores.values()), dtype=np.float32), ids, hits)
        assert ours == pytest.approx(theirs[query_id]["map"], abs=1e-9)


def test_words_alone_neither_solve_the_benchmark_nor_cross_languages(bm25: ModuleType) -> None:
    results = bm25.evaluate(load(CldrBenchmarkConfig(languages=["en", "ru", "te", "zh"])))
    assert all(0.3 < value < 0.85 for (query, corpus), value in results.items() if query == corpus)
    assert all(value < 0.1 for (query, corpus), value in results.items() if query != corpus)
