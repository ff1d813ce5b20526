"""Items held out of training, and the benchmark made of them.

Items are held out by passage, so that no text that answers a held-out question is trained on, in any language. The
choice depends on the corpus and the validation seed alone: all runs of a sweep hold out the same items.
"""

from __future__ import annotations

import numpy as np

from hybrid_ir.config import ValidationConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import mix
from hybrid_ir.errors import ConfigError
from hybrid_ir.evaluation.benchmarks.base import Benchmark

NAME = "validation"
_AT_A_TIME = 1 << 20
_TRIED = 4
"""Items looked at for each that is to be held out."""


def held_out(corpus: ParallelCorpus, config: ValidationConfig) -> np.ndarray:
    """[items] bool: which items are held out.

    Passages are taken in a random order; for each of the config's languages until it has ``queries_per_language``
    questions or ``max_share`` of its own. A passage taken for one language is held out in all.

    Raises:
        ConfigError: the corpus does not have one of the config's languages.
    """
    codes = _codes(corpus, config)
    table = corpus.table
    held = np.zeros(len(table), dtype=bool)
    if not config.queries_per_language:
        return held
    count = corpus.items_per_language()
    quota = {code: min(config.queries_per_language, int(config.max_share * count[code])) for code in codes}
    quota = {code: wanted for code, wanted in quota.items() if wanted}
    # The first passages of the order are enough, so that an order of a large corpus is never whole in memory.
    share = max((_TRIED * wanted / count[code] for code, wanted in quota.items()), default=0.0)
    for tried in (share, 1.0):
        items, position = _first_of_order(corpus, config.seed, min(tried, 1.0))
        pattern = table.pattern[items]
        positions = {code: position[table.patterns[:, code][pattern]] for code in quota}
        if all(len(positions[code]) >= wanted for code, wanted in quota.items()):
            break
    for code, wanted in quota.items():
        last = np.partition(positions[code], wanted - 1)[wanted - 1]
        held[items[table.patterns[:, code][pattern] & (position <= last)]] = True
    # other questions on a held-out passage, in whatever languages they exist
    passages = np.zeros(int(np.max(table.passage)) + 1, dtype=bool)
    passages[table.passage[held]] = True
    return np.asarray(passages[table.passage])


def _first_of_order(corpus: ParallelCorpus, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Items whose passages are among the first of the random order, and their positions: [found] int64 and uint64.

    Args:
        corpus: all items.
        seed: of the order.
        share: of the passages, about.
    """
    salt = np.random.SeedSequence([seed, 0x76616C]).generate_state(1, np.uint64)[0]
    last = np.uint64(min(int(share * 2**64), 2**64 - 1))
    found, positions = [], []
    for low in range(0, len(corpus), _AT_A_TIME):
        passage = corpus.table.passage[low : low + _AT_A_TIME].astype(np.uint64)
        position = mix(passage * np.uint64(0x9E3779B97F4A7C15) + salt)
        near = np.flatnonzero(position <= last)
        found.append(low + near)
        positions.append(position[near])
    return np.concatenate(found), np.concatenate(positions)


def validation_benchmark(corpus: ParallelCorpus, held: np.ndarray, config: ValidationConfig) -> Benchmark | None:
    """The held-out questions against the held-out passages, in the config's languages; None where nothing is held out.

    A question's relevant documents are its passage in every language, in every wording. Each language has at most
    ``queries_per_language`` questions.
    """
    if not held.any():
        return None
    items, languages = corpus.entries(held)
    codes = _codes(corpus, config)
    chosen = np.isin(languages, codes)
    items, languages = items[chosen], languages[chosen]
    entries = corpus.entry(items, languages)
    rows = np.unique(corpus.passage_rows(entries))
    groups = corpus.passage_groups(rows)
    document_language = np.asarray(corpus.passages.language)[rows].astype(np.int64)
    kept = np.concatenate([np.flatnonzero(languages == code)[: config.queries_per_language] for code in codes])
    items, languages, entries = items[kept], languages[kept], entries[kept]
    by_group: dict[int, list[int]] = {}
    for document, group in enumerate(groups.tolist()):
        by_group.setdefault(group, []).append(document)
    passage = np.asarray(corpus.table.passage)[items]
    judgments = [(q, d, 1) for q, group in enumerate(passage.tolist()) for d in by_group[group]]
    return Benchmark(
        name=NAME,
        query_ids=corpus.item_ids(items),
        query_languages=languages,
        queries=corpus.queries.take(corpus.query_rows(entries)),
        document_ids=[
            f"{corpus.languages[int(lang)]}:{row}" for lang, row in zip(document_language, rows, strict=True)
        ],
        document_languages=document_language,
        documents=corpus.passages.take(rows),
        judgments=np.array(judgments, dtype=np.int64).reshape(-1, 3),
        languages=corpus.languages,
        notes=("held-out items of the training data; the pool is small",),
    )


def _codes(corpus: ParallelCorpus, config: ValidationConfig) -> list[int]:
    """The numbers of the languages of the held-out questions, in order.

    Raises:
        ConfigError: the corpus does not have one of them.
    """
    if config.languages is None:
        return list(range(len(corpus.languages)))
    missing = [language for language in config.languages if language not in corpus.languages]
    if missing:
        raise ConfigError(
            f"data.validation.languages: the training data has no {', '.join(missing)}; it has "
            f"{', '.join(corpus.languages)}"
        )
    return sorted(corpus.languages.index(language) for language in config.languages)
