"""MFAQ (De Bruyn et al. 2021, arXiv 2109.12870): questions and answers of the web's FAQ pages, 21 languages.

A line holds a page with its pairs. Pages are each language's own: no item is parallel. ``valid.jsonl`` is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hybrid_ir.config import MfaqConfig
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.published import PublishedSource
from hybrid_ir.hub import HubFile
from hybrid_ir.lines import identifier, json_object, numbered_lines

REPOSITORY = "clips/mfaq"
_CODES = "cs da de en es fi fr he hr hu id it nl no pl pt ro ru sv tr vi"


class MfaqSource(PublishedSource):
    """Pairs of a question and its answer.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that MFAQ does not have.
        DataError: a file is not there.
    """

    name = "mfaq"
    license = "cc0-1.0"
    languages_by_name: ClassVar[Mapping[str, str]] = {code: code for code in _CODES.split()}
    config: MfaqConfig

    def language_files(self, code: str) -> list[HubFile]:
        """One file."""
        return [HubFile(REPOSITORY, self.config.revision, f"data/{code}/train.jsonl")]

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the languages; pairs are in the files' order.

        Raises:
            DataError: a file is missing or cannot be read, or a line is bad.
        """
        return map(self._examples, self.languages)

    def _examples(self, code: str) -> Iterator[Example]:
        file = self.files[self.language_files(code)[0].name][0]
        for number, line in numbered_lines(file):
            where = f"{file}:{number}"
            try:
                page = json_object(line)
                pairs = list(_pairs(page))
                name = identifier(page.get("id"), "id")
            except ValueError as error:
                self.bad_lines.leave_out(where, str(error))
                continue
            for place, (question, answer) in enumerate(pairs):
                if not question or not answer:  # of which the web has some
                    self.count(f"pairs without a question or an answer in {code}")
                    continue
                yield Example(f"{code}/{name}/{place}", code, question, answer, None, self.name, where=where)


def _pairs(page: dict[str, Any]) -> Iterator[tuple[str, str]]:
    listed = page.get("qa_pairs")
    if not isinstance(listed, list):
        raise ValueError("'qa_pairs' is no list")
    for pair in listed:
        if not isinstance(pair, dict):
            raise ValueError(f"'qa_pairs' has a {type(pair).__name__}, not an object")
        texts = [pair.get("question"), pair.get("answer")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a pair of 'qa_pairs' has no 'question' or no 'answer'")
        yield str(texts[0]).strip(), str(texts[1]).strip()
