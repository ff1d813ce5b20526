"""LAReQA's format (arXiv 2004.05484), and the data sets that are published in it: XQuAD-R and MLQA-R.

A file holds one language: SQuAD's layout with each paragraph's ``sentences`` and their ``sentence_breaks``. Every
sentence of every paragraph is a candidate; a question's relevant sentence is the one whose interval [start, end) holds
the answer's ``answer_start``. The language versions of a question share its id, and each language's answer is relevant
to every version, so a question counts against a corpus only where that corpus answers it (MLQA-R is ragged).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.cache import cache_dir, file_sha256, write_atomic
from hybrid_ir.config import Candidate, LareqaBenchmarkConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks.base import Benchmark, Text

REPOSITORY = "https://raw.githubusercontent.com/google-research-datasets/lareqa"
"""Address of the repository's files: ``/<commit>/<path>`` follows."""
TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Release:
    """A data set as it is published in LAReQA's repository: a folder with ``<language>.json`` files."""

    benchmark: str
    """Its key under ``benchmark``."""
    name: str
    """What it is called."""
    folder: str
    """The folder's name, in the repository and in the cache."""
    revision: str
    """Commit that has the folder."""
    sha256: Mapping[str, str]
    """SHA-256 of each language's file at that commit."""

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"{REPOSITORY}/{self.revision}/{self.folder}"


def load_release(release: Release, config: LareqaBenchmarkConfig) -> Benchmark:
    """A published data set from ``config.path`` (a folder or an http address), or downloaded into the cache.

    ``config.limit`` is left to the caller.

    Raises:
        ConfigError: a language that the data set does not have.
        DataError: a file is missing, malformed, or cannot be downloaded.
    """
    if config.path is None:
        folder = cache_dir() / release.folder / release.revision
        files = _download_languages(release, release.url, config.languages, folder)
    elif config.path.startswith(("http://", "https://")):
        url = config.path.rstrip("/")
        folder = cache_dir() / release.folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        files = _download_languages(release, url, config.languages, folder, verify=False)
    else:
        files = _files(release, Path(config.path).expanduser(), config.languages)
    return lareqa_benchmark(release.benchmark, files, config.candidate)


def lareqa_benchmark(name: str, files: Mapping[str, Path], candidate: Candidate) -> Benchmark:
    """A benchmark from files in LAReQA's format.

    Args:
        name: the benchmark's name.
        files: file of each language.
        candidate: text of a candidate: the sentence, or the pair (sentence, paragraph).

    Raises:
        DataError: a file is malformed (file and position).
    """
    languages = tuple(sorted(files))
    parts = [read_lareqa(files[language]) for language in languages]
    document_ids: list[str] = []
    documents: list[Text] = []
    answers: dict[str, list[int]] = {}
    for language, part in zip(languages, parts, strict=True):
        offset = len(documents)
        for sentence in part.sentences:
            document_ids.append(f"{language}-{sentence.paragraph:04d}-{sentence.place:03d}")
            text, paragraph = _clean(sentence.text), _clean(part.paragraphs[sentence.paragraph])
            documents.append(text if candidate == "sentence" else (text, paragraph))
        for question in part.questions:
            answers.setdefault(question.id, []).extend(offset + s for s in question.answers)
    query_ids = [question.id for part in parts for question in part.questions]
    judgments = [(row, document, 1) for row, query in enumerate(query_ids) for document in answers[query]]
    return Benchmark(
        name=name,
        query_ids=query_ids,
        query_languages=np.repeat(np.arange(len(languages)), [len(part.questions) for part in parts]),
        queries=[_clean(question.text) for part in parts for question in part.questions],
        document_ids=document_ids,
        document_languages=np.repeat(np.arange(len(languages)), [len(part.sentences) for part in parts]),
        documents=documents,
        judgments=np.array(judgments, dtype=np.int64).reshape(-1, 3),
        languages=languages,
        settings=("monolingual", "cross_lingual", "multilingual") if len(languages) > 1 else ("monolingual",),
        info={"candidate": candidate, "sha256": {language: file_sha256(files[language]) for language in languages}},
    )


def _clean(text: str) -> str:
    # Some contexts begin with U+FEFF. Offsets count it, so it goes only from what a model is given.
    return text.strip().strip("\ufeff").strip()


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Sentence:
    """A candidate."""

    text: str
    paragraph: int
    """Index of its paragraph in the file."""
    place: int
    """Index in the paragraph."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the sentences that answer it."""

    id: str
    text: str
    answers: tuple[int, ...]
    """Indices of the relevant sentences in the file."""


@dataclass(frozen=True, slots=True)
class LareqaFile:
    """One language, texts as they stand in the file."""

    paragraphs: list[str]
    sentences: list[Sentence]
    questions: list[Question]


def read_lareqa(path: Path) -> LareqaFile:
    """Reads a file in LAReQA's format.

    Raises:
        DataError: it is not readable, not JSON, or not of this shape; names the file and the position.
    """
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; get the file again") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: is not JSON at column {error.colno} ({error.msg}); get the file again"
        ) from error
    paragraphs: list[str] = []
    sentences: list[Sentence] = []
    questions: list[Question] = []
    seen: set[str] = set()
    for article in _Node(path, "", root).list("data"):
        for paragraph in article.list("paragraphs"):
            first = len(sentences)
            texts = [node.text() for node in paragraph.list("sentences")]
            breaks = [node.interval() for node in paragraph.list("sentence_breaks")]
            if len(texts) != len(breaks):
                raise paragraph.wrong(f"has {len(texts)} sentences and {len(breaks)} sentence_breaks")
            sentences += [Sentence(text, len(paragraphs), place) for place, text in enumerate(texts)]
            paragraphs.append(paragraph.get("context").text())
            for question in paragraph.list("qas"):
                identifier = question.get("id").text()
                if identifier in seen:
                    raise question.wrong(f"repeats the question id {identifier}")
                seen.add(identifier)
                answers = [_sentence_at(answer, breaks) for answer in question.list("answers")]
                if not answers:
                    raise question.wrong("has no answer")
                relevant = tuple(first + place for place in dict.fromkeys(answers))
                questions.append(Question(identifier, question.get("question").text(), relevant))
    if not questions:
        raise DataError(f"{path}: holds no question; expected LAReQA's format: data[].paragraphs[].qas[]")
    return LareqaFile(paragraphs, sentences, questions)


def _sentence_at(answer: _Node, breaks: Sequence[tuple[int, int]]) -> int:
    start = answer.get("answer_start").integer()
    holding = [place for place, (begin, end) in enumerate(breaks) if begin <= start < end]
    if len(holding) != 1:
        raise answer.wrong(f"answer_start {start} is inside {len(holding)} of the sentence_breaks, not 1")
    return holding[0]


class _Node:
    """A JSON value that knows where it stands, for error messages."""

    __slots__ = ("path", "value", "where")

    def __init__(self, path: Path, where: str, value: Any) -> None:
        self.path, self.where, self.value = path, where, value

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: {self.where or 'the file'}: {what}; expected LAReQA's format")

    def get(self, key: str) -> _Node:
        if not isinstance(self.value, dict):
            raise self.wrong(f"is {_kind(self.value)} instead of an object")
        if key not in self.value:
            raise self.wrong(f"has no {key!r}")
        return _Node(self.path, f"{self.where}.{key}" if self.where else key, self.value[key])

    def list(self, key: str) -> list[_Node]:
        node = self.get(key)
        if not isinstance(node.value, list):
            raise node.wrong(f"is {_kind(node.value)} instead of a list")
        return [_Node(self.path, f"{node.where}[{i}]", value) for i, value in enumerate(node.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong(f"is {_kind(self.value)} instead of a text")
        return self.value

    def integer(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong(f"is {_kind(self.value)} instead of a whole number")
        return self.value

    def interval(self) -> tuple[int, int]:
        value = self.value
        if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
            raise self.wrong("is not a pair of whole numbers")
        return value[0], value[1]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# ----------------------------------------------------------------------------------------------------------- files


def _files(release: Release, folder: Path, languages: Sequence[str] | None) -> dict[str, Path]:
    key = f"benchmark.{release.benchmark}"
    if not folder.is_dir():
        raise DataError(
            f"{key}.path={folder}: is not a folder; give the folder with <language>.json files, or null to download "
            f"them"
        )
    there = {path.stem: path for path in sorted(folder.glob("*.json")) if languages or path.stem in release.sha256}
    if languages is None:
        if not there:
            raise DataError(f"{key}.path={folder}: has no <language>.json of {release.name}, such as en.json")
        return there
    for language in languages:
        if language not in there:
            raise DataError(
                f"{folder / language}.json: does not exist; there are {', '.join(there) or 'none'}: leave {language} "
                f"out of {key}.languages, or add the file"
            )
    return {language: there[language] for language in languages}


def _download_languages(
    release: Release, url: str, languages: Sequence[str] | None, folder: Path, verify: bool = True
) -> dict[str, Path]:
    known = ", ".join(sorted(release.sha256))
    for language in languages or ():
        if verify and language not in release.sha256:
            raise ConfigError(
                f"benchmark.{release.benchmark}.languages={language}: {release.name} does not have it; it has {known}"
            )
    return {
        language: download(
            f"{url}/{language}.json",
            folder / f"{language}.json",
            release.sha256[language] if verify else None,
            f"benchmark.{release.benchmark}.path",
        )
        for language in languages or sorted(release.sha256)
    }


def download(url: str, target: Path, sha256: str | None, key: str) -> Path:
    """Downloads a file unless it stands there already.

    Several processes may do so at once: each writes its own partial file, and the last rename wins.

    Args:
        url: its address.
        target: where it is put.
        sha256: its expected hash, 64 hex digits; None accepts any.
        key: setting that names a folder of one's own.

    Returns:
        ``target``.

    Raises:
        DataError: the file cannot be downloaded, or is not the expected one; says how to place it by hand.
    """
    if target.exists():
        if sha256 in (None, file_sha256(target)):
            return target
        raise DataError(f"{target}: has not the expected SHA-256 {sha256}; delete it, or put {url} there")
    by_hand = f"download it by hand to {target}, or set {key} to a folder that has {target.name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            data: bytes = response.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = str(getattr(error, "reason", error))
        raise DataError(f"{target.name}: cannot be downloaded from {url} ({reason}); {by_hand}") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise DataError(f"{target.name}: what {url} sent has SHA-256 {found}, expected {sha256}; {by_hand}")
    try:
        os.makedirs(target.parent, exist_ok=True)
        write_atomic(target, data)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}); set HYBRID_IR_CACHE to a folder that can be"
        ) from error
    return target
