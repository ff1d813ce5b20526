"""A retrieval task made with mteb's own classes, in English and Swahili and across them, and the same as our benchmark.

Not a test itself. Importing it leaves mteb's registry alone; ``register`` adds the task.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from hybrid_ir.evaluation.benchmarks.base import Benchmark

NAME = "SmallParallelRetrieval"
LANGUAGES = {"en": "eng-Latn", "sw": "swh-Latn"}
WORDS = {
    "en": ("river", "bread", "king", "market", "rain", "lion", "book", "road", "night", "song", "ship", "tree"),
    "sw": ("mto", "mkate", "mfalme", "soko", "mvua", "simba", "kitabu", "njia", "usiku", "wimbo", "meli", "mti"),
}
DOCUMENTS, QUERIES = 60, 25


def content() -> tuple[dict[str, list[dict[str, str]]], dict[str, list[dict[str, str]]], dict[int, dict[int, int]]]:
    """Documents and queries of each language, the same things in both, and judgments ``{query: {document: gain}}``."""
    draw = random.Random(7)
    picked = [draw.choices(range(12), k=8) for _ in range(DOCUMENTS)]
    asked = [draw.choices(range(12), k=3) for _ in range(QUERIES)]
    documents, queries = {}, {}
    for language, words in WORDS.items():
        documents[language] = [
            {
                "id": f"{language}-d{i}",
                "title": " ".join(words[w] for w in chosen[:2]) if i % 3 else "",  # not every document has one
                "text": " ".join(words[w] for w in chosen[2:]) + f" {i}",
            }
            for i, chosen in enumerate(picked)
        ]
        queries[language] = [
            {"id": f"q{i}", "text": " ".join(words[w] for w in chosen) + "?"} for i, chosen in enumerate(asked)
        ]
    # Graded, some judged not relevant, one to four relevant.
    judgments = {}
    for query in range(QUERIES):
        drawn = draw.sample(range(DOCUMENTS), 6)
        relevant = draw.randint(1, 4)
        judgments[query] = {d: (draw.choice((1, 2)) if rank < relevant else 0) for rank, d in enumerate(drawn)}
    return documents, queries, judgments


class SmallParallelRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name=NAME,
        description="Words in two languages.",
        dataset={"path": "nobody/nothing", "revision": "0"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        # As in most of mteb's tasks: the corpus' language first.
        eval_langs={f"{c}-{q}": [LANGUAGES[c], LANGUAGES[q]] for c in LANGUAGES for q in LANGUAGES},
        main_score="ndcg_at_5",
    )

    def load_data(self, **kwargs: Any) -> None:
        documents, queries, judgments = content()
        self.dataset = {
            f"{corpus}-{query}": {
                "test": {
                    "corpus": Dataset.from_list(documents[corpus]),
                    "queries": Dataset.from_list(queries[query]),
                    "relevant_docs": {
                        f"q{q}": {f"{corpus}-d{d}": gain for d, gain in judged.items()}
                        for q, judged in judgments.items()
                    },
                    "top_ranked": None,
                }
            }
            for corpus in LANGUAGES
            for query in LANGUAGES
            if f"{corpus}-{query}" in self.hf_subsets
        }
        self.data_loaded = True


def register() -> None:
    """Adds the task to mteb's registry, which has no public way in."""
    importlib.import_module("mteb.get_tasks")._TASKS_REGISTRY[NAME] = SmallParallelRetrieval


def benchmark() -> Benchmark:
    """The same queries, documents and judgments for our own search and metrics."""
    documents, queries, judgments = content()
    codes = tuple(LANGUAGES)
    return Benchmark(
        name=f"mteb_{NAME}",
        query_ids=[query["id"] for code in codes for query in queries[code]],
        query_languages=np.repeat(np.arange(len(codes)), QUERIES),
        queries=[query["text"] for code in codes for query in queries[code]],
        document_ids=[document["id"] for code in codes for document in documents[code]],
        document_languages=np.repeat(np.arange(len(codes)), DOCUMENTS),
        documents=[f"{d['title']} {d['text']}".strip() for code in codes for d in documents[code]],
        judgments=np.array(
            [
                (language * QUERIES + q, pool * DOCUMENTS + d, gain)
                for language in range(len(codes))
                for pool in range(len(codes))
                for q, judged in judgments.items()
                for d, gain in judged.items()
            ]
        ),
        languages=codes,
        settings=("monolingual", "cross_lingual"),
    )
