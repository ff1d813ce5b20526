"""Data of one's own in BEIR's layout (Thakur et al. 2021, arXiv 2104.08663): a corpus, queries and judgments.

A folder has ``corpus.jsonl``, ``queries.jsonl`` (both plain or gzip) and ``qrels/<split>.tsv``. Where the languages
stand:

- One folder whose lines have a ``language``. Ids are of one space, so that queries can be judged for documents of any
  languages, and all documents can be one pool (the multilingual setting).
- A folder for each language (``sw``: queries and corpus) or ordered pair (``en-sw``: English queries, Swahili corpus).
  Each has ids of its own; a corpus is searched alone, so there is no multilingual setting. A language has one corpus:
  folders with the same corpus language hold the same corpus.
- One folder without them, whose language is the only one of ``benchmark.beir.languages``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir import cache
from hybrid_ir.config import BeirBenchmarkConfig
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Benchmark, Setting
from hybrid_ir.evaluation.benchmarks.document_store import (
    Concatenated,
    ConcatenatedArrays,
    Document,
    DocumentStore,
    Selected,
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
from hybrid_ir.languages import check_code
from hybrid_ir.lines import identifier, json_object, numbered_lines

COLUMNS = ("query-id", "corpus-id", "score")
"""Header of the judgments."""

_SHOWN = 4
_WHY_NOT: dict[Setting, str] = {
    "monolingual": "no relevant document is in its query's language",
    "cross_lingual": "every relevant document is in its query's language",
    "multilingual": "that needs relevant documents of two languages in one folder whose lines have a language",
}


def load(config: BeirBenchmarkConfig) -> Benchmark:
    """The data in ``config.path``; ``config.limit`` is left to the caller.

    The first time, each corpus is brought into a form that can be searched without being in memory
    (:class:`~hybrid_ir.evaluation.benchmarks.document_store.DocumentStore`).

    Raises:
        ConfigError: a language or setting that the data do not have.
        DataError: a file is missing or malformed (file and line), or nothing is judged relevant.
        UserError: the disk has not the space for a corpus.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"benchmark.beir.path={config.path}: is not a folder; give the folder of the data")
    pooled = _lines_file(root, "corpus") is not None
    benchmark = _one_folder(root, config) if pooled else _several_folders(root, config)
    return replace(benchmark, settings=_settings(benchmark, config, pooled), depth=config.depth)


def _settings(benchmark: Benchmark, config: BeirBenchmarkConfig, pooled: bool) -> tuple[Setting, ...]:
    """The settings asked for, or all that the judgments allow."""
    relevant = benchmark.judgments[benchmark.judgments[:, 2] > 0]
    if not len(relevant):
        raise DataError(
            f"benchmark.beir.path={config.path}: no query has a relevant document in the {config.split} judgments; "
            f"nothing to measure"
        )
    assert benchmark.missing_languages is not None
    missing = relevant[:, 1] < 0
    of_document = np.empty(len(relevant), dtype=np.int64)
    of_document[~missing] = benchmark.document_languages[relevant[~missing, 1]]
    of_document[missing] = benchmark.missing_languages[-1 - relevant[missing, 1]]
    same = of_document == benchmark.query_languages[relevant[:, 0]]
    possible: dict[Setting, bool] = {
        "monolingual": bool(same.any()),
        "cross_lingual": not same.all(),
        "multilingual": pooled and config.depth is None and len(np.unique(of_document)) > 1,
    }
    for setting in config.settings or ():
        if not possible[setting]:
            raise ConfigError(
                f"benchmark.beir.settings=[{','.join(config.settings or ())}]: {setting} cannot be measured on "
                f"{config.path}: {_WHY_NOT[setting]}; leave it out"
            )
    return tuple(s for s in SETTINGS if possible[s] and (config.settings is None or s in config.settings))


# ------------------------------------------------------------------------------------------------------ one folder


def _one_folder(root: Path, config: BeirBenchmarkConfig) -> Benchmark:
    """A benchmark from one folder, whose lines have a language or are all of the only one of ``config.languages``."""
    files = _Files.of(root, config.split)
    given = config.languages[0] if config.languages is not None and len(config.languages) == 1 else None
    judgments = read_judgments(files.judgments)
    queries = read_queries(files.queries, {query for query, _ in judgments}, given)
    store = _store(files.corpus, given)
    places = places_in(store, judgments)
    if len(store.languages) > 1:
        _refuse_missing(files, judgments, places)

    there = sorted({*store.languages, *(query.language for query in queries)})
    languages = tuple(sorted(config.languages or there))
    for code in languages:
        if code not in there:
            raise ConfigError(
                f"benchmark.beir.languages=[{','.join(languages)}]: {root} has no judged query and no document in "
                f"{code}; it has {', '.join(there)}"
            )
    assert store.document_languages is not None
    number = {code: i for i, code in enumerate(languages)}
    of_document = np.array([number.get(code, -1) for code in store.languages], dtype=np.int16)[store.document_languages]
    # Language by language, whatever the order in the file: each language's documents are then one range.
    index = np.concatenate([np.flatnonzero(of_document == i) for i in range(len(languages))])
    if not len(index):
        raise ConfigError(
            f"benchmark.beir.languages=[{','.join(languages)}]: {files.corpus} has no document in them; it has "
            f"{', '.join(store.languages)}"
        )
    place = np.full(len(store), -1)
    place[index] = np.arange(len(index))
    documents = {document: int(place[i]) for document, i in places.items()}

    chosen = [query for query in queries if query.language in number]
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(chosen):
        rows.setdefault(query.id, []).append(row)
    # What is about languages that are not evaluated is no fault of the judgments: it is not counted.
    elsewhere = {query.id for query in queries} - rows.keys()
    judgments = {
        (query, document): relevance
        for (query, document), relevance in judgments.items()
        if query not in elsewhere and documents.get(document, 0) >= 0
    }
    joined = join(judgments, rows, documents)
    # Relevant ones are missing only where the corpus is of one language; the others change nothing.
    missing_languages = np.full(len(joined.missing_ids), number.get(store.languages[0], 0))
    return _benchmark(
        root,
        config,
        languages,
        chosen,
        document_ids=Selected(store.ids, index),
        documents=Selected(store.texts, index),
        document_languages=of_document[index],
        document_order=np.asarray(store.order)[index],
        judgments=joined.table,
        missing_ids=joined.missing_ids,
        missing_languages=missing_languages,
        counts={root.name: joined.counts},
        corpora=[store.fingerprint, *languages],
    )


def _refuse_missing(files: _Files, judgments: Judgments, places: Mapping[str, int]) -> None:
    """A relevant document that is not in a corpus of several languages would count against an unknown one."""
    missing = {document for (_, document), relevance in judgments.items() if relevance > 0 and document not in places}
    if missing:
        lines = _judgment_lines(files.judgments)
        where, document = next((where, document) for where, _, document, _ in lines if document in missing)
        raise DataError(
            f"{where}: document {document!r} is not in {files.corpus.name}, whose documents are of several languages, "
            f"so that it is not known which corpus lacks it ({len(missing)} such); add it, or remove the judgment"
        )


# ------------------------------------------------------------------------------------------------- several folders


def _several_folders(root: Path, config: BeirBenchmarkConfig) -> Benchmark:
    """A benchmark from a folder for each language or ordered pair of languages."""
    pairs = _pairs(root, config)
    files = {name: _Files.of(root / name, config.split) for name in pairs}
    # Small files first: a fault in them is found before hours go into a corpus.
    judgments = {name: read_judgments(files[name].judgments) for name in pairs}
    queries = {
        name: read_queries(files[name].queries, {query for query, _ in judgments[name]}, language, only=True)
        for name, (language, _) in pairs.items()
    }
    corpora: dict[str, Path] = {}
    for name, (_, language) in pairs.items():
        own, first = files[name].corpus, corpora.setdefault(language, files[name].corpus)
        if cache.source_sha256(own) != cache.source_sha256(first):
            raise DataError(
                f"{own}: differs from {first}, but a language has one corpus; make them the same file, or put the "
                f"folders below different ones and evaluate them apart"
            )
    stores = {language: _store(corpora[language], language, only=True) for language in sorted(corpora)}

    languages = tuple(sorted({code for pair in pairs.values() for code in pair}))
    number = {code: i for i, code in enumerate(languages)}
    sizes = [len(store) for store in stores.values()]
    first_document = dict(zip(stores, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    rows: dict[_Query, int] = {}  # a question that stands in several folders is one query
    tables: list[np.ndarray] = []
    missing_ids: list[str] = []
    missing_languages: list[int] = []
    counts: dict[str, Counts] = {}
    for name, (_, language) in pairs.items():
        own_rows = {query.id: [rows.setdefault(query, len(rows))] for query in queries[name]}
        places = places_in(stores[language], judgments[name], first_document[language])
        joined = join(judgments[name], own_rows, places, len(missing_ids))
        tables.append(joined.table)
        missing_ids += joined.missing_ids
        missing_languages += [number[language]] * len(joined.missing_ids)
        counts[name] = joined.counts
    return _benchmark(
        root,
        config,
        languages,
        list(rows),
        document_ids=Concatenated([store.ids for store in stores.values()]),
        documents=Concatenated([store.texts for store in stores.values()]),
        document_languages=np.repeat(np.array([number[code] for code in stores], dtype=np.int16), sizes),
        document_order=ConcatenatedArrays([store.order for store in stores.values()]),
        judgments=np.concatenate(tables),
        missing_ids=missing_ids,
        missing_languages=np.array(missing_languages, dtype=np.int64),
        counts=counts,
        corpora=[store.fingerprint for store in stores.values()],
    )


def _pairs(root: Path, config: BeirBenchmarkConfig) -> dict[str, tuple[str, str]]:
    """Languages of queries and corpus of each folder that is to be evaluated, by its name."""
    pairs: dict[str, tuple[str, str]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and _lines_file(path, "corpus") is not None):
        codes = folder.name.split("-")
        try:
            for code in codes:
                check_code(code)
            if len(codes) > 2 or (len(codes) == 2 and codes[0] == codes[1]):
                raise ValueError("is no language and no pair of two languages")
        except ValueError as error:
            raise DataError(
                f"{folder}: {error}; name the folder by its language, e.g. sw, or by the languages of queries and "
                f"corpus, e.g. en-sw"
            ) from None
        pairs[folder.name] = (codes[0], codes[-1])
    if not pairs:
        there = sorted(path.name for path in root.iterdir())
        shown = ", ".join(there[:_SHOWN]) + (" …" if len(there) > _SHOWN else "")
        raise DataError(
            f"benchmark.beir.path={config.path}: expected corpus.jsonl, queries.jsonl and qrels/{config.split}.tsv, in "
            f"it or in folders named by language (sw, en-sw), found {shown or 'an empty folder'}; give the folder of "
            f"the data"
        )
    if config.languages is None:
        return pairs
    chosen = {name: pair for name, pair in pairs.items() if set(pair) <= set(config.languages)}
    for code in config.languages:
        if not any(code in pair for pair in chosen.values()):
            raise ConfigError(
                f"benchmark.beir.languages=[{','.join(config.languages)}]: {root} has no folder of {code} with these "
                f"languages; it has {', '.join(pairs)}"
            )
    return chosen


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class _Query:
    language: str
    id: str
    text: str


def read_judgments(path: Path) -> Judgments:
    """Judgments of a TSV file with the header ``query-id``, ``corpus-id``, ``score``: relevance by ids of query and
    document, in the file's order.

    Raises:
        DataError: the file cannot be read, lacks the header, a line is not of that form, a pair is judged twice, or
            there is no judgment.
    """
    judgments = collect(_judgment_lines(path))
    if not judgments:
        raise DataError(f"{path}: holds no judgment; get the file again")
    return judgments


def _judgment_lines(path: Path) -> Iterable[tuple[str, str, str, str]]:
    lines = rows_of_table(path, COLUMNS)
    where, header = next(lines)
    if tuple(field.strip("\ufeff \r") for field in header) != COLUMNS:
        raise DataError(f"{where}: the header {'<TAB>'.join(header)!r} is not {'<TAB>'.join(COLUMNS)}; mend the line")
    return ((where, query, document, score) for where, (query, document, score) in lines)


def read_queries(path: Path, judged: set[str], given: str | None, only: bool = False) -> list[_Query]:
    """Those queries of a JSONL file, ``{"_id": …, "text": …, "language": …}`` a line, that are judged.

    The file may have queries of other splits, and language versions of a question that share its id.

    Args:
        path: plain or gzip.
        judged: ids of the judged queries.
        given: language of lines that name none; None where each must.
        only: lines of another language are faults.

    Raises:
        DataError: the file cannot be read, a line is not of that form, or an id stands twice in a language.
    """
    queries: dict[tuple[str, str], tuple[_Query, int]] = {}
    for number, line in numbered_lines(path):
        try:
            row = _row(line, "query")
            query = _Query(_language(row, given, only), row["_id"], row["text"])
            if query.id not in judged:
                continue
            if not query.text.strip():
                raise ValueError(f"query {query.id!r} has no text")
            _, first = queries.setdefault((query.id, query.language), (query, number))
            if first != number:
                raise ValueError(f"repeats the query {query.id!r} of line {first} in {query.language}")
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}; mend the line") from None
    return [query for query, _ in queries.values()]


def parse_document(line: bytes, given: str | None, only: bool) -> Document:
    """A line of a corpus, ``{"_id": …, "title": …, "text": …, "language": …}``: the text is the title, a space and the
    text, stripped. A document may lack a title.

    Args:
        line: a JSON object.
        given: language of lines that name none; None where each must.
        only: lines of another language are faults.

    Raises:
        ValueError: the line is not such an object.
    """
    row = _row(line, "document")
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise ValueError(f"'title' is a {type(title).__name__}, not a text")
    return Document(row["_id"], f"{title or ''} {row['text']}".strip(), _language(row, given, only))


def _row(line: bytes, kind: str) -> dict[str, Any]:
    row = json_object(line)
    for name in ("_id", "text"):
        if name not in row:
            there = ", ".join(map(repr, list(row)[:5])) or "none"
            raise ValueError(f"no key {name!r}, there is {there}; expected a {kind} in BEIR's layout")
    row["_id"] = identifier(row["_id"], "_id")
    if not isinstance(row["text"], str):
        raise ValueError(f"'text' is a {type(row['text']).__name__}, not a text")
    return row


def _language(row: Mapping[str, Any], given: str | None, only: bool) -> str:
    language = row.get("language")
    if language is None:
        language = given
    if language is None:
        raise ValueError("no 'language'; give one on each line, or, where all is in one, benchmark.beir.languages=[xx]")
    if not isinstance(language, str):
        raise ValueError(f"'language' is a {type(language).__name__}, not a text")
    if only and language != given:
        raise ValueError(f"language {language!r}, but the folder's name says {given!r}")
    return check_code(language)


def _store(corpus: Path, given: str | None, only: bool = False) -> DocumentStore:
    layout = f"beir: title, text, language; given {given}, only {only}"
    return DocumentStore.build([corpus], partial(parse_document, given=given, only=only), layout)


# ------------------------------------------------------------------------------------------------------- the whole


def _benchmark(
    root: Path,
    config: BeirBenchmarkConfig,
    languages: tuple[str, ...],
    queries: Sequence[_Query],
    *,
    counts: Mapping[str, Counts],
    corpora: Sequence[str],
    **content: Any,
) -> Benchmark:
    """A benchmark whose settings are still to be chosen; ``content`` is its documents, judgments and missing ids."""
    number = {code: i for i, code in enumerate(languages)}
    return Benchmark(
        name="beir",
        query_ids=[query.id for query in queries],
        query_languages=np.array([number[query.language] for query in queries], dtype=np.int64),
        queries=[query.text for query in queries],
        languages=languages,
        notes=tuple(notes_on(counts)),
        info={
            "source": str(root),
            "split": config.split,
            "counts": {name: asdict(each) for name, each in counts.items()},
        },
        corpus_fingerprint=cache.fingerprint(corpora),
        **content,
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the files of a folder lie."""

    corpus: Path
    queries: Path
    judgments: Path

    @classmethod
    def of(cls, folder: Path, split: str) -> _Files:
        """Those of a folder that has a corpus."""
        corpus, queries = _lines_file(folder, "corpus"), _lines_file(folder, "queries")
        assert corpus is not None
        if queries is None:
            raise DataError(f"{folder / 'queries.jsonl'}: does not exist, nor does queries.jsonl.gz; add one of them")
        judgments = folder / "qrels" / f"{split}.tsv"
        if not judgments.is_file():
            there = ", ".join(sorted(path.stem for path in judgments.parent.glob("*.tsv")))
            raise DataError(
                f"{judgments}: does not exist; "
                + (f"set benchmark.beir.split to one of {there}" if there else "add it")
            )
        return cls(corpus, queries, judgments)


def _lines_file(folder: Path, stem: str) -> Path | None:
    there = (folder / f"{stem}{suffix}" for suffix in (".jsonl", ".jsonl.gz"))
    return next((path for path in there if path.is_file()), None)
