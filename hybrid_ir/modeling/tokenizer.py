"""A tokenizer trained on the corpus, for encoders that start from scratch.

Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over characters, with the bytes of UTF-8 to fall back on:
no text in any script ever becomes ``<unk>``. Byte-pair merges are integer counts with a total order, so the result
depends on the texts alone: not on the number of threads, nor on the order of a hash table, as the sums of a unigram
model do.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_ir.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
SPECIAL_TOKENS = (BOS, PAD, EOS, UNK, MASK)
"""In the order of their ids, which is XLM-RoBERTa's."""

MODEL_MAX_LENGTH = 512
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + 2
"""Special tokens, bytes, the word mark and one character."""

WORD_MARK = "▁"
"""Stands for the space before a word, as in SentencePiece."""

MAX_TOKEN_LENGTH = 16
"""Characters of a token at most: where words are written without spaces, a token must not become a sentence."""

_FILE = "tokenizer.json"
_RECIPE = 1  # raised when the same texts would give another tokenizer: it is part of the cache's key

# A word is letters with their combining marks and joiners: vowel signs (Bengali, Hindi, Telugu, Thai) and the
# zero-width non-joiner of Persian belong to the letter before, so no boundary may fall before a mark. Digits and
# punctuation stand apart, so that "1998)" and "1998" share a token. The space goes with what follows it.
_WORDS = (
    rf"{WORD_MARK}?[\p{{L}}\p{{M}}\p{{Cf}}]+"
    rf"|{WORD_MARK}?\p{{N}}+[\p{{M}}\p{{Cf}}]*"
    rf"|{WORD_MARK}?[^{WORD_MARK}\p{{L}}\p{{M}}\p{{N}}\p{{Cf}}]+[\p{{M}}\p{{Cf}}]*"
    rf"|{WORD_MARK}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-pair tokenizer with byte fallback; the same texts give the same bytes, whatever the process.

    Texts are normalised to NFKC with single spaces. At most half of the vocabulary that special tokens and bytes
    leave is single characters, the most frequent ones; rarer characters become their UTF-8 bytes.

    Args:
        texts: The corpus; read once, kept in memory.
        vocab_size: Size of the vocabulary, special tokens and the 256 bytes included. Smaller when the corpus has
            not enough pairs to merge.

    Returns:
        A tokenizer with ``<s> text </s>`` and ``<s> first </s> </s> second </s>`` and a maximum length of 512.

    Raises:
        DataError: there is no text to train on.
        ValueError: ``vocab_size`` cannot hold the special tokens and the bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size={vocab_size}: needs {MIN_VOCAB_SIZE} at least, for special tokens and bytes")
    # Each text once: the passages of a corpus repeat across items, and a sorted list forgets the order of its rows.
    corpus = sorted(set(texts))
    if not any(text.strip() for text in corpus):
        raise DataError("no text to train the tokenizer on: the corpus is empty")

    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
        ]
    )
    budget = vocab_size - 256
    alphabet = _alphabet(corpus, max(2, (budget - len(SPECIAL_TOKENS)) // 2))
    trainer = trainers.BpeTrainer(
        vocab_size=budget,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=MAX_TOKEN_LENGTH,
        min_frequency=2,
        show_progress=False,
    )
    # Characters outside the alphabet end a word here, so that no merge joins what the encoder would keep apart.
    known = frozenset(alphabet)
    tokenizer.train_from_iterator(_known_only(corpus, known), trainer=trainer, length=len(corpus))

    # The trainer knows no byte tokens: they are appended to the vocabulary of the trained model.
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    tokenizer = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
    bos, eos = vocab[BOS], vocab[EOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=f"{BOS} $A {EOS} {EOS} $B {EOS}", special_tokens=[(BOS, bos), (EOS, eos)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return _wrap(tokenizer)


def cached_tokenizer(texts: Callable[[], Iterable[str]], key: Any, vocab_size: int) -> PreTrainedTokenizerFast:
    """As `train_tokenizer`, trained once and kept in the cache of `hybrid_ir.cache`.

    Args:
        texts: Gives the corpus; not called when the tokenizer is in the cache.
        key: JSON value that decides the texts (the corpus' fingerprint); what else decides the tokenizer is added.
        vocab_size: As of `train_tokenizer`.

    Raises:
        DataError: there is no text to train on.
    """
    from tokenizers import Tokenizer
    from tokenizers import __version__ as tokenizers_version

    from hybrid_ir import cache

    def make(folder: Path) -> dict[str, Any]:
        train_tokenizer(texts(), vocab_size).backend_tokenizer.save(str(folder / _FILE))
        return {}

    whole = {"texts": key, "vocab_size": vocab_size, "recipe": _RECIPE, "tokenizers": tokenizers_version}
    folder, _ = cache.entry("tokenizers", whole, make)
    return _wrap(Tokenizer.from_file(str(folder / _FILE)))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        cls_token=BOS,
        sep_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        mask_token=MASK,
        model_max_length=MODEL_MAX_LENGTH,
        # The encoder has no segments: a tokenizer that returned token type ids would only be told to leave them out.
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
    )


def _alphabet(texts: Iterable[str], limit: int) -> list[str]:
    """The most frequent characters after normalisation, ties by code point; the word mark is always one."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFKC", text))
    for character in [character for character in counts if character.isspace()]:
        del counts[character]
    counts.pop(WORD_MARK, None)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return [WORD_MARK, *ranked[: limit - 1]]


def _known_only(texts: Iterable[str], known: frozenset[str]) -> Iterator[str]:
    for text in texts:
        normal = unicodedata.normalize("NFKC", text)
        yield "".join(character if character in known or character.isspace() else " " for character in normal)
