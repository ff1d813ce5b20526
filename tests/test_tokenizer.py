"""The trained tokenizer: deterministic, nothing unknown, marks stay with their letters."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ir.errors import DataError
from hybrid_ir.modeling.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, cached_tokenizer, train_tokenizer

TEXTS = [
    "What is the capital of Swaziland?",
    "ما هي عاصمة مصر؟",
    "বাংলাদেশের রাজধানী কী?",
    "Wie heißt die Währung der Schweiz?",
    "¿Cuál es la moneda de México?",
    "پایتخت ایران کجاست؟ می‌خواهم بدانم",
    "Mikä on Suomen pääkaupunki?",
    "Quelle est la monnaie de la France ?",
    "भारत की राजधानी क्या है?",
    "Apa mata uang Indonesia?",
    "日本の通貨は何ですか。",
    "대한민국의 수도는 어디입니까?",
    "Какая столица России?",
    "Mji mkuu wa Kenya ni upi?",
    "భారతదేశ రాజధాని ఏది?",
    "เมืองหลวงของประเทศไทยคืออะไร",
    "Kí ni olú ìlú Nàìjíríà?",
    "中国的首都是哪里？",
]
"""A question in each of MIRACL's languages."""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, 1000)


TRAIN = """
import hashlib, sys
from test_tokenizer import TEXTS
from hybrid_ir.modeling.tokenizer import train_tokenizer
# Many distinct words, so that several threads would share the work.
texts = [f"{text} {i} {text[::-1]}{i % 97}" for i in range(300) for text in TEXTS]
tokenizer = train_tokenizer(texts, 3000)
print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_same_bytes_in_every_process() -> None:
    """Neither the seed of Python's hashes nor the number of threads decides a merge."""
    here = Path(__file__).parent
    digests = set()
    for hash_seed, parallel, threads in (("0", "false", "1"), ("1", "true", "1"), ("2", "true", "3")):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "TOKENIZERS_PARALLELISM": parallel,
            "RAYON_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        }
        done = subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_order_and_repetition_of_the_texts_do_not_matter(tokenizer) -> None:
    other = train_tokenizer(iter([*reversed(TEXTS), *TEXTS]), 1000)
    assert other.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_cache_gives_the_tokenizer_that_training_gives(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path))
    calls: list[int] = []

    def texts() -> list[str]:
        calls.append(1)
        return TEXTS

    for _ in range(2):
        cached = cached_tokenizer(texts, {"corpus": "a"}, 1000)
        assert cached.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        assert cached.special_tokens_map == tokenizer.special_tokens_map
    assert len(calls) == 1
    assert len(cached_tokenizer(texts, {"corpus": "a"}, 300)) == 300
    assert len(calls) == 2


def test_special_tokens_and_templates(tokenizer) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    single = tokenizer("Kenya")["input_ids"]
    assert (single[0], single[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    first, second = tokenizer("Kenya", add_special_tokens=False), tokenizer("France", add_special_tokens=False)
    pair = tokenizer("Kenya", "France")["input_ids"]
    eos = tokenizer.eos_token_id
    assert pair == [tokenizer.bos_token_id, *first["input_ids"], eos, eos, *second["input_ids"], eos]
    assert tokenizer.model_max_length == 512
    assert set(tokenizer("Kenya")) == {"input_ids", "attention_mask"}


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_is_unknown_and_everything_comes_back(tokenizer, text: str) -> None:
    """Any text in any script, seen or not, survives up to NFKC and white space; literal special tokens aside."""
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.unk_token_id not in ids
    # U+2581 is how the space before a word is written.
    normal = " ".join(unicodedata.normalize("NFKC", text).replace("▁", " ").split())
    decoded = " ".join(tokenizer.decode(ids).replace("▁", " ").split())
    assert decoded == " ".join(unicodedata.normalize("NFKC", normal).split())


def test_no_word_begins_with_a_combining_mark(tokenizer) -> None:
    backend = tokenizer.backend_tokenizer
    for text in TEXTS:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            assert not unicodedata.category(word.lstrip("▁")[:1] or "a").startswith("M"), (text, word)


def test_vocabulary_size_is_kept() -> None:
    texts = [f"{text} {i}" for i in range(50) for text in TEXTS]
    assert len(train_tokenizer(texts, 700)) == 700
    # Hardly a character fits beside the bytes: longer, but still nothing unknown.
    tiny = train_tokenizer(texts, MIN_VOCAB_SIZE)
    assert len(tiny) == MIN_VOCAB_SIZE
    assert tiny.unk_token_id not in tiny(TEXTS[2])["input_ids"]
    with pytest.raises(ValueError, match="vocab_size"):
        train_tokenizer(texts, MIN_VOCAB_SIZE - 1)
    with pytest.raises(DataError, match="empty"):
        train_tokenizer(["", "  "], 700)


def test_pieces_are_learned_from_real_text(shared: Path) -> None:
    """On 60,000 real texts in 18 languages: quick, and far fewer tokens than characters in every language."""
    texts: list[str] = []
    by_language: dict[str, list[str]] = {}
    for name in ("security101", "edgeai", "opensource_guide", "bitcoin_org"):
        with gzip.open(shared / "data" / "parallel-qa" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                short = [row["query"], row["passage"][:60]]
                texts += short
                by_language.setdefault(row["language"], []).extend(short)
    texts = texts[:60_000]
    start = time.process_time()
    trained = train_tokenizer(texts, 16_384)
    assert time.process_time() - start < 30  # about 3 s of one core; the bound is loose for busy machines
    for language, some in by_language.items():
        sample = some[:500]
        tokens = sum(len(trained.tokenize(text)) for text in sample)
        assert tokens < 0.8 * sum(map(len, sample)), language
    assert hashlib.sha256(trained.backend_tokenizer.to_str().encode()).hexdigest() == (
        hashlib.sha256(train_tokenizer(texts, 16_384).backend_tokenizer.to_str().encode()).hexdigest()
    )
