"""mMARCO (Bonifacio et al. 2021, arXiv 2108.13897): MS MARCO's passages and train questions in 14 languages.

13 machine translations (the ``google`` ones) and the English original. Ids of questions and passages are the same in
all languages, so every pair of a question and its passage is one item in all of them. The triples say which pairs there
are, or MS MARCO's own ``qrels.train.tsv``.

A collection has 8.8 million passages, and there are 40 million triples. The triples are read in blocks of numbers;
of a collection, the passages that the pairs name are copied into a file that is mapped into memory.
"""

from __future__ import annotations

import itertools
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hybrid_ir import cache
from hybrid_ir.config import MmarcoConfig
from hybrid_ir.data.sources.base import Example, Negative
from hybrid_ir.data.sources.published import PublishedSource, joined
from hybrid_ir.errors import DataError
from hybrid_ir.hub import HubFile, say
from hybrid_ir.lines import numbered_lines, utf8

REPOSITORY = "unicamp-dl/mmarco"
TRIPLES = "data/triples.train.ids.small.tsv"
QRELS = "data/qrels.train.tsv"
QRELS_ADDRESS = "https://msmarco.z22.web.core.windows.net/msmarcoranking/qrels.train.tsv"
"""MS MARCO's train judgments, which the repository of mMARCO does not have."""

_TRIPLE = ("question", "passage", "negative")
_BLOCK = 32 << 20
"""Bytes of the triples that are read at a time."""
_LOW = (1 << 32) - 1
_LINES_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which texts are pairs, the same in every language."""

    questions: np.ndarray
    """[pairs] int64, ascending."""
    passages: np.ndarray
    """[pairs] int64."""
    own: np.ndarray
    """[pairs] int64: what the passage is joined as."""
    low: np.ndarray
    high: np.ndarray
    """[pairs] int64: the question's negatives, as a range of those below."""
    negative: np.ndarray
    """[negatives] int64."""
    of_negative: np.ndarray
    """[negatives] int64: what they are joined as."""


class MmarcoSource(PublishedSource):
    """Pairs of a train question and a passage that is relevant to it, in every language that has both.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that mMARCO does not have.
        DataError: a file is not there.
    """

    name = "mmarco"
    license = "apache-2.0 (unverified; MS MARCO's own terms are for non-commercial research)"
    languages_by_name: ClassVar[Mapping[str, str]] = {
        "ar": "arabic",
        "de": "german",
        "en": "english",
        "es": "spanish",
        "fr": "french",
        "hi": "hindi",
        "id": "indonesian",
        "it": "italian",
        "ja": "japanese",
        "nl": "dutch",
        "pt": "portuguese",
        "ru": "russian",
        "vi": "vietnamese",
        "zh": "chinese",
    }
    config: MmarcoConfig

    def language_files(self, code: str) -> list[HubFile]:
        """Train questions and collection."""
        name = self.languages_by_name[code]
        files = (f"queries/train/{name}_queries.train.tsv", f"collections/{name}_collection.tsv")
        return [HubFile(REPOSITORY, self.config.revision, f"data/google/{file}") for file in files]

    def shared_files(self) -> list[HubFile]:
        """The triples where something is taken from them, and the judgments where they are asked for."""
        files = []
        if self.config.positives == "qrels":
            if self.folder is None or not (self.folder / QRELS).is_file():
                raise DataError(
                    f"data.positives=qrels: there is no {QRELS} in data.path={self.config.path or 'null'}, nor on the "
                    f"hub; put {QRELS_ADDRESS} there, beside the other files, or use data.positives=triples"
                )
            files.append(HubFile(REPOSITORY, self.config.revision, QRELS))
        if self.config.positives == "triples" or self.config.negatives:
            files.append(HubFile(REPOSITORY, self.config.revision, TRIPLES))
        return files

    def settings(self) -> dict[str, Any]:
        """Where pairs come from and how many negatives are kept, besides what every published source has."""
        return {
            **super().settings(),
            "positives": self.config.positives,
            "negatives": self.config.negatives,
        }

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the languages; pairs are in the order of the questions' ids.

        Raises:
            DataError: a file is missing or cannot be read, or a line is bad.
        """
        yield from map(self._examples, self.languages)
        self.__dict__.pop("_wanted", None)  # many negatives take some hundred MB

    def text_bytes(self) -> int:
        """Bytes of the pairs' texts, about, by the mean line of each file."""
        pairs, negatives = len(self._wanted.questions), len(self._wanted.negative)
        need = 0.0
        for code in self.languages:
            question_file, collection = (self.files[file.name][0] for file in self.language_files(code))
            need += pairs * _mean_line(question_file) + (pairs + negatives) * _mean_line(collection)
        return round(need)

    @cached_property
    def _wanted(self) -> _Wanted:
        say("mMARCO: reading which passages belong to which questions")
        pairs = self._pairs()
        questions, passages = pairs >> 32, pairs & _LOW
        positives, place = np.unique(passages, return_inverse=True)
        companion = positives[joined(np.unique(questions, return_inverse=True)[1], place)]
        own = companion[place]

        def group(numbers: np.ndarray) -> np.ndarray:  # a negative that is some question's passage is joined as that is
            at = np.minimum(np.searchsorted(positives, numbers), len(positives) - 1)
            return np.where(positives[at] == numbers, companion[at], numbers)

        negatives = self._negatives(questions, own, group)
        of_question, negative = negatives >> 32, negatives & _LOW
        low = np.searchsorted(of_question, questions, side="left")
        high = np.searchsorted(of_question, questions, side="right")
        return _Wanted(questions, passages, own, low, high, negative, group(negative))

    def _examples(self, code: str) -> Iterator[Example]:
        wanted = self._wanted
        say(f"mMARCO: reading the questions and passages in {code}, of {', '.join(self.languages)}")
        question_file, collection = (self.files[file.name][0] for file in self.language_files(code))
        low, high, of_negative = wanted.low.tolist(), wanted.high.tolist(), wanted.of_negative.tolist()
        names = list(zip(wanted.questions.tolist(), wanted.passages.tolist(), strict=True))
        with (
            TextFile(self._texts(question_file, np.unique(wanted.questions))) as queries,
            TextFile(self._texts(collection, np.union1d(wanted.passages, wanted.negative))) as texts,
        ):
            query_rows, passage_rows = queries.rows(wanted.questions), texts.rows(wanted.passages)
            negative_rows = texts.rows(wanted.negative).tolist()
            complete = (query_rows >= 0) & (passage_rows >= 0)
            self.count(f"pairs without a text in {code}", int((~complete).sum()))
            for pair in np.flatnonzero(complete).tolist():
                question, passage = names[pair]
                yield Example(
                    item_id=f"{question}/{passage}",
                    language=code,
                    query=queries[int(query_rows[pair])],
                    passage=texts[int(passage_rows[pair])],
                    passage_id=str(wanted.own[pair]),
                    source=self.name,
                    negatives=tuple(
                        Negative(texts[negative_rows[n]], str(of_negative[n]))
                        for n in range(low[pair], high[pair])
                        if negative_rows[n] >= 0
                    ),
                    where=f"{question_file}:question {question}",
                )

    def _pairs(self) -> np.ndarray:
        """[pairs] int64: question (the upper 32 bits) and relevant passage, each pair once, in ascending order."""
        found = np.empty(0, dtype=np.int64)
        if self.config.positives == "qrels":
            file, columns = self.files[QRELS][0], ("question", "0", "passage", "relevance")
            for block in _numbers(file, columns):
                relevant = block[3] > 0
                found = np.union1d(found, block[0][relevant] << 32 | block[2][relevant])
        else:
            for block in _numbers(self.files[TRIPLES][0], _TRIPLE):
                found = np.union1d(found, block[0] << 32 | block[1])
        if not len(found):
            raise DataError(f"{next(iter(self.files.values()))[0]}: holds no pair; get the file again")
        return found

    def _negatives(
        self, questions: np.ndarray, own: np.ndarray, group: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """[negatives] int64: question (the upper 32 bits) and negative, ordered by question: the first few of each in
        the triples that do not answer it.

        Args:
            questions: [pairs] ascending.
            own: [pairs] what the question's passages are joined as; the same in all pairs of a question.
            group: what passages are joined as.
        """
        kept = np.empty(0, dtype=np.int64)
        if not self.config.negatives:
            return kept
        asked, first_pair = np.unique(questions, return_index=True)
        for block in _numbers(self.files[TRIPLES][0], _TRIPLE):
            place = np.minimum(np.searchsorted(asked, block[0]), len(asked) - 1)
            wanted = (asked[place] == block[0]) & (group(block[2]) != own[first_pair[place]])
            both = np.concatenate([kept, block[0][wanted] << 32 | block[2][wanted]])
            _, first = np.unique(both, return_index=True)
            both = both[np.sort(first)]  # each once, as they come
            both = both[np.argsort(both >> 32, kind="stable")]
            rank = np.arange(len(both)) - np.searchsorted(both >> 32, both >> 32)
            kept = both[rank < self.config.negatives]
        return kept

    def _texts(self, file: Path, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Number and text of those lines ``number<TAB>text`` of a file that are wanted (ascending) and have a text."""
        mine = np.zeros(int(wanted[-1]) + 1, dtype=bool)
        mine[wanted] = True
        there = np.zeros(len(mine), dtype=bool)
        for number, line in numbered_lines(file):
            where = f"{file}:{number}"
            name, tab, text = line.partition(b"\t")
            if not tab or not name.isdigit():
                self.bad_lines.leave_out(where, "is not a number, a tab and a text")
                continue
            row = int(name)
            if row >= len(mine) or not mine[row]:
                continue
            try:
                stripped = utf8(text).strip()
            except ValueError as error:
                self.bad_lines.leave_out(where, str(error))
                continue
            if there[row]:
                self.bad_lines.leave_out(where, f"repeats the id {row}")
                continue
            there[row] = True
            if stripped:  # a translation may be empty
                yield row, stripped.encode()


# ---------------------------------------------------------------------------------------------------------- on disk


class TextFile:
    """Texts by number, in a file of the cache that is mapped into memory and goes with the process.

    Args:
        texts: number and UTF-8 of each, in any order, each number once.
    """

    def __init__(self, texts: Iterable[tuple[int, bytes]]) -> None:
        numbers, ends = array("q"), array("q", [0])
        cache.cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache.cache_dir()) as file:
            for number, text in texts:
                file.write(text)
                numbers.append(number)
                ends.append(ends[-1] + len(text))
            file.flush()
            # which keeps the file until it is closed; an empty one cannot be mapped
            self._bytes: mmap | bytes = mmap(file.fileno(), 0, access=ACCESS_READ) if ends[-1] else b""
        self._ends = ends
        found = np.array(numbers, dtype=np.int64)
        self._order = np.argsort(found)
        self._numbers = found[self._order]

    def __enter__(self) -> TextFile:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._bytes, mmap):
            self._bytes.close()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """[numbers] int64: row of each number, -1 where there is no such text."""
        if not len(self._numbers):
            return np.full(len(numbers), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return np.where(self._numbers[at] == numbers, self._order[at], -1)

    def __getitem__(self, row: int) -> str:
        return self._bytes[self._ends[row] : self._ends[row + 1]].decode()


def _mean_line(file: Path) -> float:
    """Bytes of a file's first lines, on average."""
    lengths = [len(line) for _, line in itertools.islice(numbered_lines(file), _LINES_LOOKED_AT)]
    return sum(lengths) / max(len(lengths), 1)


def _numbers(file: Path, columns: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """Columns, [lines] int64 each, of a file of tab-separated numbers under 2^31, block by block."""
    with file.open("rb") as raw:
        compression = "gzip" if raw.read(2) == b"\x1f\x8b" else None
    try:
        with (
            pa.input_stream(str(file), compression=compression) as stream,
            pa.csv.open_csv(
                stream,
                pa.csv.ReadOptions(column_names=list(columns), block_size=_BLOCK),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.int32()), null_values=[]),
            ) as reader,
        ):
            for batch in reader:
                block = [column.to_numpy().astype(np.int64) for column in batch.columns]
                if any((column < 0).any() for column in block):
                    raise pa.ArrowInvalid("a negative number")
                yield block
    except (pa.ArrowInvalid, OSError) as error:
        raise _bad_numbers(file, columns, error) from None


def _bad_numbers(file: Path, columns: Sequence[str], error: Exception) -> DataError:
    """Where the line is: pyarrow does not say."""
    for number, line in numbered_lines(file):
        fields = line.rstrip(b"\r\n").split(b"\t")
        if len(fields) != len(columns) or not all(field.isdigit() and int(field) < 1 << 31 for field in fields):
            return DataError(f"{file}:{number}: is not {'<TAB>'.join(columns)} in numbers; get the file again")
    return DataError(f"{file}: cannot be read ({str(error).splitlines()[0]}); get the file again")
