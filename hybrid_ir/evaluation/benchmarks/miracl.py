"""MIRACL (Zhang et al. 2023, TACL, arXiv 2210.09984): monolingual retrieval of Wikipedia passages in 18 languages.

Topics and judgments (``miracl-v1.0-<language>/``) and corpora (``miracl-corpus-v1.0-<language>/``) are read as they are
published, from a folder or from the Hugging Face hub. A query is searched in the corpus of its own language alone.

What does not fit together is counted, noted, and treated as trec_eval treats it (``judgments.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir import cache
from hybrid_ir.config import MiraclBenchmarkConfig
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.document_store import (
    Concatenated,
    ConcatenatedArrays,
    Document,
    DocumentStore,
    check_space,
)
from hybrid_ir.evaluation.benchmarks.judgments import (
    Counts,
    Judgments,
    collect,
    join,
    notes_on,
    places_in,
    rows_of_table,
)
from hybrid_ir.hub import HubFile, download
from hybrid_ir.languages import LANGUAGES, MIRACL
from hybrid_ir.lines import json_object

TOPICS_REPOSITORY = "miracl/miracl"
TOPICS_REVISION = "5be20db9509754dadad47689368639fcec739c00"
"""Commit of the topics and judgments on the hub that published evaluations name; a later one may exist."""
CORPUS_REPOSITORY = "miracl/miracl-corpus"
CORPUS_REVISION = "d921ec7e349ce0d28daf30b2da9da5ee698bef0d"
"""Commit of the corpora on the hub that published evaluations name; a later one may exist."""

CORPUS_FILES = {
    "ar": 5,
    "bn": 1,
    "de": 32,
    "en": 66,
    "es": 21,
    "fa": 5,
    "fi": 4,
    "fr": 30,
    "hi": 2,
    "id": 3,
    "ja": 14,
    "ko": 3,
    "ru": 20,
    "sw": 1,
    "te": 2,
    "th": 2,
    "yo": 1,
    "zh": 10,
}
"""Files of each language's corpus, ``docs-0.jsonl.gz`` and so on."""

WITHOUT_TRAIN = ("de", "yo")
"""Languages that have dev topics alone."""

PASSAGE_LAYOUT = "miracl: title, text"
"""Name of what ``parse_passage`` does, for the store of a corpus."""

_SHOWN_ENTRIES = 4


def load(config: MiraclBenchmarkConfig) -> Benchmark:
    """MIRACL from ``config.path``, or from the Hugging Face hub's cache, into which missing files are downloaded.

    The first time, each corpus is brought into a form that can be searched without being in memory
    (:class:`~hybrid_ir.evaluation.benchmarks.document_store.DocumentStore`). ``config.limit`` is left to the caller.

    Raises:
        DataError: a file is missing, malformed (file and line) or cannot be downloaded.
        UserError: the disk has not the space for the corpora.
    """
    notes: list[str] = []
    if config.path is None:
        languages = config.languages or [code for code in MIRACL if config.split == "dev" or code not in WITHOUT_TRAIN]
        files = _hub_files(languages, config.split)
        source = f"{TOPICS_REPOSITORY}@{TOPICS_REVISION}, {CORPUS_REPOSITORY}@{CORPUS_REVISION}"
    else:
        folder = Path(config.path).expanduser()
        files, notes = _local_files(folder, config.languages, config.split)
        source = str(folder)
    return miracl_benchmark(files, config.depth, notes, {"split": config.split, "source": source})


# -------------------------------------------------------------------------------------------------------- benchmark


@dataclass(frozen=True, slots=True)
class LanguageFiles:
    """Where the files of one language lie."""

    topics: Path
    judgments: Path
    corpus: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class _Counts(Counts):
    """What a reader of one language's numbers must know."""

    passages: int
    published_passages: int | None
    """Passages of the published corpus."""


def miracl_benchmark(
    files: Mapping[str, LanguageFiles], depth: int, notes: Sequence[str] = (), info: Mapping[str, Any] | None = None
) -> Benchmark:
    """A benchmark from files in MIRACL's layout.

    Args:
        files: files of each language.
        depth: documents retrieved for a query.
        notes: notes to put before those on what does not fit together.
        info: what else to record of the benchmark.

    Raises:
        DataError: a file is malformed (file and line).
        UserError: the disk has not the space for the corpora.
    """
    languages = tuple(sorted(files))
    # Small files first: a fault in them is found before hours go into a corpus.
    topics = [read_topics(files[language].topics) for language in languages]
    judgments = [read_judgments(files[language].judgments) for language in languages]
    check_space((files[language].corpus for language in languages), PASSAGE_LAYOUT)
    stores = [DocumentStore.build(files[language].corpus, parse_passage, PASSAGE_LAYOUT) for language in languages]

    rows: list[np.ndarray] = []
    missing_ids: list[str] = []
    counts: dict[str, _Counts] = {}
    first_query = first_document = 0
    for language, own_topics, own_judgments, store in zip(languages, topics, judgments, stores, strict=True):
        place = {topic: [first_query + i] for i, topic in enumerate(own_topics)}
        joined = join(own_judgments, place, places_in(store, own_judgments, first_document), len(missing_ids))
        rows.append(joined.table)
        missing_ids += joined.missing_ids
        counts[language] = _Counts(
            **asdict(joined.counts), passages=len(store), published_passages=LANGUAGES[language].miracl_passages
        )
        first_query += len(own_topics)
        first_document += len(store)
    numbers = np.arange(len(languages), dtype=np.uint8)  # one byte for each of the documents
    return Benchmark(
        name="miracl",
        query_ids=[topic for own in topics for topic in own],
        query_languages=np.repeat(numbers, [len(own) for own in topics]),
        queries=[text for own in topics for text in own.values()],
        document_ids=Concatenated([store.ids for store in stores]),
        document_languages=np.repeat(numbers, [len(store) for store in stores]),
        documents=Concatenated([store.texts for store in stores]),
        judgments=np.concatenate(rows),
        languages=languages,
        settings=("monolingual",),
        notes=(*notes, *_notes(counts)),
        info={**(info or {}), "languages": {language: asdict(each) for language, each in counts.items()}},
        document_order=ConcatenatedArrays([store.order for store in stores]),
        depth=depth,
        corpus_fingerprint=cache.fingerprint([store.fingerprint for store in stores]),
        missing_ids=missing_ids,
    )


def _notes(counts: Mapping[str, _Counts]) -> Iterator[str]:
    """A line for each kind of thing that does not fit together, with the languages' numbers."""
    yield from notes_on(counts)
    samples = [
        f"{language}: {each.passages:,} of {each.published_passages:,} passages"
        for language, each in counts.items()
        if each.published_passages is not None and each.passages != each.published_passages
    ]
    if samples:
        yield f"{', '.join(samples)}: scores are not comparable with published MIRACL"


# ---------------------------------------------------------------------------------------------------------- reading


def parse_passage(line: bytes) -> Document:
    """Id and text of a line of a corpus, ``{"docid": …, "title": …, "text": …}``: the text is the title, a space and
    the text, stripped. A passage may lack a title.

    Raises:
        ValueError: the line is not such an object.
    """
    row = json_object(line)
    for name in ("docid", "text"):
        if name not in row:
            there = ", ".join(map(repr, list(row)[:5])) or "none"
            raise ValueError(f"no key {name!r}, there is {there}; expected a MIRACL passage")
    for name in ("docid", "title", "text"):
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"{name!r} is a {type(row[name]).__name__}, not a text")
    return Document(row["docid"], f"{row.get('title', '')} {row['text']}".strip())


def read_topics(path: Path) -> dict[str, str]:
    """Topics of a TSV file, ``id<TAB>text`` a line: text by id, in the file's order.

    Raises:
        DataError: the file cannot be read, a line is not of that form, an id stands twice, or there is no line.
    """
    topics: dict[str, str] = {}
    for where, (topic, text) in rows_of_table(path, ("topic", "text")):
        if topic in topics:
            raise DataError(f"{where}: repeats the topic {topic!r}; keep one of the two")
        if not text.strip():
            raise DataError(f"{where}: topic {topic!r} has no text; give one, or leave the line out")
        topics[topic] = text
    return topics


def read_judgments(path: Path) -> Judgments:
    """Judgments of a TSV file in TREC's form, ``topic<TAB>Q0<TAB>passage<TAB>relevance`` a line: relevance by topic and
    passage, in the file's order.

    Raises:
        DataError: the file cannot be read, a line is not of that form, a pair is judged twice, or there is no line.
    """
    rows = rows_of_table(path, ("topic", "Q0", "passage", "relevance"))
    return collect((where, topic, passage, relevance) for where, (topic, _, passage, relevance) in rows)


# ------------------------------------------------------------------------------------------------------------ files


def topics_file(language: str, split: str) -> str:
    """Published name of a language's topics."""
    return f"miracl-v1.0-{language}/topics/topics.miracl-v1.0-{language}-{split}.tsv"


def judgments_file(language: str, split: str) -> str:
    """Published name of a language's judgments."""
    return f"miracl-v1.0-{language}/qrels/qrels.miracl-v1.0-{language}-{split}.tsv"


def corpus_folder(language: str) -> str:
    """Published name of the folder of a language's corpus."""
    return f"miracl-corpus-v1.0-{language}"


def _local_files(
    folder: Path, languages: Sequence[str] | None, split: str
) -> tuple[dict[str, LanguageFiles], list[str]]:
    """Files of the languages asked for, or of all that have topics and a corpus; and a note on those that lack one."""
    if not folder.is_dir():
        raise DataError(
            f"benchmark.miracl.path={folder}: is not a folder; give the folder with miracl-v1.0-<language> and "
            f"miracl-corpus-v1.0-<language>, or null to download them"
        )
    topics = {code for code in MIRACL if (folder / topics_file(code, split)).is_file()}
    corpora = {code for code in MIRACL if (folder / corpus_folder(code)).is_dir()}
    if not topics and not corpora:
        there = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(there[:_SHOWN_ENTRIES]) + (" …" if len(there) > _SHOWN_ENTRIES else "")
        raise DataError(
            f"benchmark.miracl.path={folder}: expected {topics_file('<language>', split)} and "
            f"{corpus_folder('<language>')}/docs-0.jsonl.gz, found {shown or 'an empty folder'}; give the folder that "
            f"holds those two"
        )
    notes = []
    if languages is None:
        languages = [code for code in MIRACL if code in topics & corpora]
        without = {
            f"a corpus but no {split} topics": corpora - topics,
            f"{split} topics but no corpus": topics - corpora,
        }
        notes = [f"left out, with {what}: {', '.join(sorted(codes))}" for what, codes in without.items() if codes]
        if not languages:
            raise DataError(f"benchmark.miracl.path={folder}: no language can be evaluated; {'; '.join(notes)}")
    files = {}
    for code in languages:
        files[code] = LanguageFiles(
            topics=_there(folder / topics_file(code, split), code),
            judgments=_there(folder / judgments_file(code, split), code),
            corpus=_corpus_files(folder / corpus_folder(code), code),
        )
    return files, notes


def _corpus_files(folder: Path, language: str) -> tuple[Path, ...]:
    """Files of a corpus in the order of their numbers, which are not padded with zeros."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("docs-*.jsonl.gz")
        if (match := re.fullmatch(r"docs-(\d+)\.jsonl\.gz", path.name))
    }
    count = max(numbered, default=0) + 1
    return tuple(_there(numbered.get(i, folder / f"docs-{i}.jsonl.gz"), language) for i in range(count))


def _there(path: Path, language: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: does not exist; add it, or leave {language} out of benchmark.miracl.languages")
    return path


def _hub_files(languages: Sequence[str], split: str) -> dict[str, LanguageFiles]:
    """Files in the hub's cache, downloaded if they are not there."""
    wanted = {
        code: [
            HubFile(TOPICS_REPOSITORY, TOPICS_REVISION, topics_file(code, split)),
            HubFile(TOPICS_REPOSITORY, TOPICS_REVISION, judgments_file(code, split)),
            *(
                HubFile(CORPUS_REPOSITORY, CORPUS_REVISION, f"{corpus_folder(code)}/docs-{i}.jsonl.gz")
                for i in range(CORPUS_FILES[code])
            ),
        ]
        for code in languages
    }
    found = iter(download([file for files in wanted.values() for file in files], "benchmark.miracl.path"))
    paths = {code: [next(found) for _ in files] for code, files in wanted.items()}
    return {code: LanguageFiles(own[0], own[1], tuple(own[2:])) for code, own in paths.items()}
