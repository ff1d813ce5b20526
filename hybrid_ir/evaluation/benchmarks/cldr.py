"""Benchmark of the built-in CLDR world facts: questions on what was held out of training.

Half of the questions are about held-out entities (of every kind), the others are of held-out kinds about entities that
were trained on. The choice of questions and of the pool is by hash and does not depend on the languages asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hybrid_ir.config import CldrBenchmarkConfig
from hybrid_ir.data.sources.cldr import check_locales
from hybrid_ir.data.sources.cldr.generate import (
    HELD_OUT_KINDS,
    Item,
    all_items,
    hashed,
    is_held_out,
    items,
    passages,
)
from hybrid_ir.data.sources.cldr.wording import template_languages
from hybrid_ir.evaluation.benchmarks.base import Benchmark

ENTITY_QUESTIONS = 100
"""Questions about held-out entities; a language has those of them that it has names for."""
KIND_QUESTIONS = 100
"""Questions of held-out kinds about entities that were trained on."""
POOL_PASSAGES = 600
"""Passages in the pool, counted before languages leave out those that they lack names for."""


def load(config: CldrBenchmarkConfig) -> Benchmark:
    """Makes the benchmark; ``config.limit`` is the caller's to apply (``Benchmark.limited``).

    A passage version is relevant if it is about what the question seeks and states the fact that answers: a language
    that lacks the fact's name has a passage that does not answer.

    Raises:
        ConfigError: CLDR has no locale for a language.
    """
    languages = tuple(config.languages or template_languages())
    check_locales("benchmark.cldr.languages", languages)
    chosen = _questions()
    pool = _pool(chosen)
    document_ids: list[str] = []
    document_languages: list[int] = []
    documents: list[str] = []
    answering: dict[tuple[str, str], list[int]] = {}
    texts: list[dict[str, str]] = []
    for index, language in enumerate(languages):
        wanted = {item.item_id for item in chosen}
        texts.append({item.item_id: item.query for item in items(language) if item.item_id in wanted})
        for passage_id, passage in passages(language).items():
            if passage_id in pool:
                for fact in passage.facts:
                    answering.setdefault((passage_id, fact), []).append(len(documents))
                document_ids.append(f"{language}:{passage_id}")
                document_languages.append(index)
                documents.append(passage.text)
    query_ids: list[str] = []
    query_languages: list[int] = []
    queries: list[str] = []
    judgments: list[tuple[int, int, int]] = []
    # Question by question, so that the first N question ids are the same in any selection of languages.
    for item in chosen:
        for index in range(len(languages)):
            if item.item_id in texts[index]:
                judgments += [(len(queries), found, 1) for found in answering[item.passage_id, item.fact]]
                query_ids.append(item.item_id)
                query_languages.append(index)
                queries.append(texts[index][item.item_id])
    return Benchmark(
        name="cldr",
        query_ids=query_ids,
        query_languages=np.array(query_languages, dtype=np.int64),
        queries=queries,
        document_ids=document_ids,
        document_languages=np.array(document_languages, dtype=np.int64),
        documents=documents,
        judgments=np.array(judgments, dtype=np.int64).reshape(-1, 3),
        languages=languages,
        notes=(
            "CLDR world facts: questions and passages from templates, not natural text; numbers compare batchings, "
            "they do not predict retrieval on real data",
        ),
        info={
            "held_out_kinds": sorted(HELD_OUT_KINDS),
            "question_ids": len(set(query_ids)),
            "pool_passages": len(pool),
        },
    )


def _questions() -> list[Item]:
    """The questions, the two halves in turn; within each half the kinds in turn, so that no kind outweighs."""
    held_out = [item for item in all_items() if item.held_out]
    halves = (
        _by_kind([item for item in held_out if is_held_out(item.entity)], ENTITY_QUESTIONS),
        _by_kind([item for item in held_out if not is_held_out(item.entity)], KIND_QUESTIONS),
    )
    longest = max(map(len, halves))
    return [half[turn] for turn in range(longest) for half in halves if turn < len(half)]


def _by_kind(candidates: list[Item], count: int) -> list[Item]:
    queues: dict[str, list[Item]] = {}
    for item in sorted(candidates, key=lambda item: hashed(f"benchmark/{item.item_id}")):
        queues.setdefault(item.kind, []).append(item)

    def in_turn() -> Iterator[Item]:
        for turn in range(max(map(len, queues.values()))):
            for kind in sorted(queues):
                if turn < len(queues[kind]):
                    yield queues[kind][turn]

    return [item for item, _ in zip(in_turn(), range(count), strict=False)]


def _pool(chosen: list[Item]) -> set[str]:
    """Passage ids: those of the questions' entities first, then of held-out ones, then of others; entities stay whole,
    so that the sheets on an entity's other topics are among the distractors."""
    by_entity: dict[str, list[str]] = {}
    for item in all_items():
        known = by_entity.setdefault(item.entity, [])
        if item.passage_id not in known:
            known.append(item.passage_id)
    asked = {item.entity for item in chosen}
    order = sorted(
        by_entity, key=lambda entity: (entity not in asked, not is_held_out(entity), hashed(f"pool/{entity}"))
    )
    pool: set[str] = set()
    for entity in order:
        if len(pool) >= POOL_PASSAGES and entity not in asked:
            break
        pool.update(by_entity[entity])
    return pool
