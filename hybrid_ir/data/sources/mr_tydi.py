"""Mr. TyDi v1.1's train set (Zhang et al. 2021, arXiv 2108.08787): TyDi QA's questions and passages, 11 languages.

A line of ``train.jsonl.gz`` holds a question with its passages, and negatives from BM25's top 30. Questions are each
language's own, so no item is parallel. The dev and test files are evaluation data and never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from hybrid_ir.config import MrTydiConfig
from hybrid_ir.data.sources.base import Example, Negative
from hybrid_ir.data.sources.published import PublishedSource, joined, numbered
from hybrid_ir.hub import HubFile
from hybrid_ir.lines import identifier, json_object, numbered_lines

REPOSITORY = "castorini/mr-tydi"
_LINES_LOOKED_AT = 100


class MrTydiSource(PublishedSource):
    """Pairs of a train question and a passage that answers it.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that Mr. TyDi does not have.
        DataError: a file is not there.
    """

    name = "mr_tydi"
    license = "apache-2.0"
    languages_by_name: ClassVar[Mapping[str, str]] = {
        "ar": "arabic",
        "bn": "bengali",
        "en": "english",
        "fi": "finnish",
        "id": "indonesian",
        "ja": "japanese",
        "ko": "korean",
        "ru": "russian",
        "sw": "swahili",
        "te": "telugu",
        "th": "thai",
    }
    config: MrTydiConfig

    def language_files(self, code: str) -> list[HubFile]:
        """One file."""
        name = f"mrtydi-v1.1-{self.languages_by_name[code]}/train.jsonl.gz"
        return [HubFile(REPOSITORY, self.config.revision, name)]

    def settings(self) -> dict[str, Any]:
        """How many negatives are kept, besides what every published source has."""
        return {**super().settings(), "negatives": self.config.negatives}

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the languages; pairs are in the files' order.

        Raises:
            DataError: a file is missing or cannot be read, or a line is bad.
        """
        return map(self._language, self.languages)

    def text_bytes(self) -> int:
        """Bytes of the files' text, about, less the negatives that are not kept, by the first lines."""
        kept = listed = 1
        for _, line in islice(numbered_lines(next(iter(self.files.values()))[0]), _LINES_LOOKED_AT):
            negatives = line.count(b'"docid"') - 1
            kept += 1 + min(max(negatives, 0), self.config.negatives)
            listed += 1 + max(negatives, 0)
        return super().text_bytes() * kept // listed

    def _language(self, code: str) -> Iterator[Example]:
        file = self.files[self.language_files(code)[0].name][0]
        # first the ids alone: which passages belong together is known after the last line
        pairs = []
        for _, line in numbered_lines(file):
            try:
                row = json_object(line)
                pairs += [(_id(row, "query_id"), _id(passage, "docid")) for passage in row["positive_passages"]]
            except (ValueError, TypeError, KeyError):
                continue  # said below
        questions, _ = numbered(question for question, _ in pairs)
        places, passages = numbered(passage for _, passage in pairs)
        companion = dict(zip(passages, (passages[i] for i in joined(questions, places).tolist()), strict=True))
        for number, line in numbered_lines(file):
            try:
                yield from self._examples(json_object(line), code, companion, f"{file}:{number}")
            except ValueError as error:
                self.bad_lines.leave_out(f"{file}:{number}", str(error))

    def _examples(self, row: dict[str, Any], code: str, companion: dict[str, str], where: str) -> list[Example]:
        question = _id(row, "query_id")
        query = row.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ValueError("'query' is no text")
        positives = _passages(row, "positive_passages")
        if not positives:
            raise ValueError("'positive_passages' is empty")
        own = {companion[passage] for passage, _ in positives}
        negatives = [
            Negative(text, f"{code}/{companion.get(passage, passage)}")
            for passage, text in _passages(row, "negative_passages")
            if companion.get(passage) not in own
        ]
        return [
            Example(
                item_id=f"{code}/{question}/{passage}",
                language=code,
                query=query.strip(),
                passage=text,
                passage_id=f"{code}/{companion[passage]}",
                source=self.name,
                negatives=tuple(negatives[: self.config.negatives]),
                where=where,
            )
            for passage, text in positives
        ]


def _passages(row: dict[str, Any], key: str) -> list[tuple[str, str]]:
    """Id and text (title, a space, text) of each passage of a list."""
    listed = row.get(key)
    if not isinstance(listed, list):
        raise ValueError(f"{key!r} is no list")
    passages = []
    for passage in listed:
        if not isinstance(passage, dict):
            raise ValueError(f"{key!r} has a {type(passage).__name__}, not an object")
        parts = [passage.get("title", ""), passage.get("text")]
        if not all(isinstance(part, str) for part in parts) or not parts[1].strip():
            raise ValueError(f"a passage of {key!r} has no text; dev and test files have none, and are for evaluation")
        passages.append((_id(passage, "docid"), " ".join(parts).strip()))
    return passages


def _id(row: Any, key: str) -> str:
    if not isinstance(row, dict) or key not in row:
        raise ValueError(f"no key {key!r}")
    return identifier(row[key], key)
