"""MIRACL's train set (Zhang et al. 2023, TACL, arXiv 2210.09984): questions by native speakers, judged passages.

16 languages: German and Yoruba have dev topics alone. Questions are each language's own, so no item is parallel. A
passage judged relevant makes a pair, passages judged not relevant are its negatives. Only files named ``-train`` are
read: dev and test topics are evaluation data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hybrid_ir.config import MiraclTrainConfig
from hybrid_ir.data.sources.base import Example, Negative
from hybrid_ir.data.sources.published import PublishedSource, joined, numbered
from hybrid_ir.evaluation.benchmarks import miracl
from hybrid_ir.evaluation.benchmarks.document_store import DocumentStore, Selected, check_space
from hybrid_ir.hub import HubFile, say
from hybrid_ir.languages import MIRACL

_PASSAGE_BYTES = 1200
"""Of one, about."""


class MiraclTrainSource(PublishedSource):
    """Pairs of a train question and a passage judged relevant to it.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language without train questions.
        DataError: a file is not there.
    """

    name = "miracl_train"
    license = "apache-2.0 (the hub's tag); the passages are Wikipedia's, cc-by-sa"
    languages_by_name: ClassVar[Mapping[str, str]] = {code: code for code in MIRACL if code not in miracl.WITHOUT_TRAIN}
    config: MiraclTrainConfig

    def language_files(self, code: str) -> list[HubFile]:
        """Topics, judgments, and the files of the corpus: as many as are published, or as a folder has."""
        judged = [miracl.topics_file(code, "train"), miracl.judgments_file(code, "train")]
        corpus = miracl.corpus_folder(code)
        last = miracl.CORPUS_FILES[code] - 1
        if self.folder is not None:
            there = [path.name for path in (self.folder / corpus).glob("docs-*.jsonl.gz")]
            last = max((int(name[5:-9]) for name in there if name[5:-9].isdigit()), default=0)
        passages = [f"{corpus}/docs-{number}.jsonl.gz" for number in range(last + 1)]
        return [
            *(HubFile(miracl.TOPICS_REPOSITORY, self.config.revision, name) for name in judged),
            *(HubFile(miracl.CORPUS_REPOSITORY, self.config.corpus_revision, name) for name in passages),
        ]

    def settings(self) -> dict[str, Any]:
        """How many negatives are kept, besides what every published source has."""
        return {**super().settings(), "negatives": self.config.negatives}

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the languages; pairs are in the order of the judgments.

        Raises:
            DataError: a file is missing or malformed (file and line).
            UserError: the disk has not the space for the corpora.
        """
        files = {code: [self.files[file.name][0] for file in self.language_files(code)] for code in self.languages}
        # small files first: a fault in them is found before hours go into a corpus
        read = {code: (miracl.read_topics(own[0]), miracl.read_judgments(own[1])) for code, own in files.items()}
        check_space((own[2:] for own in files.values()), miracl.PASSAGE_LAYOUT)
        for code, (topics, judgments) in read.items():
            yield self._examples(code, files[code], topics, judgments)

    def _examples(
        self,
        code: str,
        files: Sequence[Path],
        topics: Mapping[str, str],
        judgments: Mapping[tuple[str, str], int],
    ) -> Iterator[Example]:
        say(f"MIRACL: reading {code}")
        texts = _texts(files[2:], [document for _, document in judgments])
        relevant = [(topic, passage) for (topic, passage), relevance in judgments.items() if relevance > 0]
        others: dict[str, list[str]] = {}
        for (topic, passage), relevance in judgments.items():
            if relevance <= 0:
                others.setdefault(topic, []).append(passage)
        questions, _ = numbered(topic for topic, _ in relevant)
        places, passages = numbered(passage for _, passage in relevant)
        companion = dict(zip(passages, (passages[i] for i in joined(questions, places).tolist()), strict=True))
        for topic, passage in relevant:
            if topic not in topics or passage not in texts:
                what = "passages missing from the corpus" if topic in topics else "judgments of unknown topics"
                self.count(f"{what} in {code}")
                continue
            own = companion[passage]
            negatives = [
                Negative(texts[other], f"{code}/{companion.get(other, other)}")
                for other in others.get(topic, ())
                if other in texts and companion.get(other) != own
            ]
            yield Example(
                item_id=f"{code}/{topic}/{passage}",
                language=code,
                query=topics[topic].strip(),
                passage=texts[passage],
                passage_id=f"{code}/{own}",
                source=self.name,
                negatives=tuple(negatives[: self.config.negatives]),
                where=f"{files[1]}:topic {topic}",
            )

    def text_bytes(self) -> int:
        """Bytes of the relevant passages with their negatives, about: of a corpus no other is taken."""
        files = (self.files[self.language_files(code)[1].name][0] for code in self.languages)
        relevant = sum(relevance > 0 for file in files for relevance in miracl.read_judgments(file).values())
        return relevant * (1 + self.config.negatives) * _PASSAGE_BYTES


def _texts(corpus: Sequence[Path], judged: Sequence[str]) -> dict[str, str]:
    """Texts of the judged passages that a corpus has."""
    store = DocumentStore.build(corpus, miracl.parse_passage, miracl.PASSAGE_LAYOUT)
    wanted = list(dict.fromkeys(judged))
    places = store.find(wanted)
    order = np.argsort(places, kind="stable")  # in the corpus' order, so that each piece of it is read once
    order = order[places[order] >= 0]
    return dict(zip((wanted[i] for i in order), Selected(store.texts, places[order]), strict=True))
