"""Small data sets in the layouts of the published ones: what tests of several modules read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: Path, content: str | bytes) -> Path:
    """A file, in folders that are made; gzip where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line of JSON for each row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_mmarco(folder: Path, languages: Mapping[str, str] | None = None, items: int = 40) -> Path:
    """Question ``i`` is answered by passage ``1000 + i``; its negatives are the next three questions' passages.

    Args:
        folder: where to write.
        languages: codes and published names; None writes German and Hindi.
        items: questions.
    """
    for code, name in (languages or {"de": "german", "hi": "hindi"}).items():
        questions = "".join(f"{i}\t{code} question {i}?\n" for i in range(items))
        passages = "".join(f"{1000 + i}\t{code} passage {i}.\n" for i in range(items))
        write(folder / f"data/google/queries/train/{name}_queries.train.tsv", questions)
        write(folder / f"data/google/collections/{name}_collection.tsv", passages)
    triples = [(i, 1000 + i, 1000 + (i + n) % items) for i in range(items) for n in (1, 2, 3)]
    write(
        folder / "data/triples.train.ids.small.tsv", "".join("\t".join(map(str, triple)) + "\n" for triple in triples)
    )
    return folder


def squad(questions: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """A file in SQuAD's format: id and text of the questions of each paragraph."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": name, "question": text, "answers": [{"text": context[:3], "answer_start": 0}]}
                for name, text in asked
            ],
        }
        for context, asked in questions.items()
    ]
    return json.dumps({"version": 1.1, "data": [{"title": "A title", "paragraphs": paragraphs}]})


def write_mlqa(folder: Path, codes: Sequence[str] = ("ar", "de"), items: int = 40) -> Path:
    """Two questions to a paragraph, in each language; English where it is asked for."""
    for code in codes:
        name = (
            "train-v1.1.json" if code == "en" else f"mlqa-translate-train/{code}_squad-translate-train-train-v1.1.json"
        )
        asked = {
            f"{code} paragraph {i}.": [(f"q{i}a", f"{code} question {i} a?"), (f"q{i}b", f"{code} question {i} b?")]
            for i in range(items // 2)
        }
        write(folder / name, squad(asked))
    return folder


def write_miracl(folder: Path, codes: Sequence[str] = ("sw", "te"), split: str = "train", items: int = 40) -> Path:
    """Topic ``i#0`` has the relevant passage ``i#0`` and a not relevant one, in two files of a corpus."""
    for code in codes:
        name = f"miracl-v1.0-{code}-{split}.tsv"
        own = folder / f"miracl-v1.0-{code}"
        write(own / "topics" / f"topics.{name}", "".join(f"{i}#0\t{code} question {i}?\n" for i in range(items)))
        judged = "".join(f"{i}#0\tQ0\t{i}#0\t1\n{i}#0\tQ0\t{(i + 1) % items}#0\t0\n" for i in range(items))
        write(own / "qrels" / f"qrels.{name}", judged)
        passages = [{"docid": f"{i}#0", "title": f"Title {i}", "text": f"{code} passage {i}."} for i in range(items)]
        for part in range(2):
            corpus = folder / f"miracl-corpus-v1.0-{code}"
            write(corpus / f"docs-{part}.jsonl.gz", lines(passages[part * items // 2 : (part + 1) * items // 2]))
    return folder


def write_mr_tydi(folder: Path, names: Mapping[str, str] | None = None, items: int = 40) -> Path:
    """Question ``i`` with one passage and a negative, in Swahili and Telugu if no languages are named."""
    for code, name in (names or {"sw": "swahili", "te": "telugu"}).items():
        rows = [
            {
                "query_id": str(i),
                "query": f"{code} question {i}?",
                "positive_passages": [{"docid": f"{i}#0", "title": f"Title {i}", "text": f"{code} passage {i}."}],
                "negative_passages": [{"docid": f"{i}#9", "title": "", "text": f"{code} no answer {i}."}],
            }
            for i in range(items)
        ]
        write(folder / f"mrtydi-v1.1-{name}/train.jsonl.gz", lines(rows))
    return folder


def write_swim_ir(folder: Path, codes: Sequence[str] = ("bn", "yo"), items: int = 40) -> Path:
    """Two Parquet files for each language."""
    for code in codes:
        rows = [
            {
                "_id": str(i),
                "lang": code,
                "code": code,
                "query": f"{code} question {i}?",
                "title": f"Title {i}",
                "text": f"{code} passage {i}.",
            }
            for i in range(items)
        ]
        (folder / code).mkdir(parents=True, exist_ok=True)
        for part in range(2):
            half = rows[part * items // 2 : (part + 1) * items // 2]
            pq.write_table(pa.Table.from_pylist(half), folder / code / f"train-0000{part}-of-00002.parquet")
    return folder


def write_mfaq(folder: Path, codes: Sequence[str] = ("fi", "no"), items: int = 40) -> Path:
    """Two pairs to a page."""
    for code in codes:
        pages = [
            {
                "id": page,
                "language": code,
                "num_pairs": 2,
                "domain": "example.org",
                "qa_pairs": [
                    {
                        "question": f"{code} question {page} {n}?",
                        "answer": f"{code} answer {page} {n}.",
                        "language": code,
                    }
                    for n in range(2)
                ],
            }
            for page in range(items // 2)
        ]
        write(folder / f"data/{code}/train.jsonl", lines(pages))
    return folder


def write_moses(folder: Path, codes: Sequence[str] = ("en", "sw"), items: int = 40) -> Path:
    """Aligned files of sentences."""
    for code in codes:
        write(folder / f"talks.{code}", "".join(f"{code} sentence {i}.\n" for i in range(items)))
    return folder


def write_table(path: Path, codes: Sequence[str] = ("de", "en"), items: int = 40) -> Path:
    """A Parquet file of questions and passages in some languages."""
    rows = [
        {
            "qid": i,
            "lang": code,
            "question": f"{code} question {i}?",
            "answer": f"{code} answer {i}.",
            "others": [f"{code} other {i}."],
        }
        for i in range(items)
        for code in codes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tables(folder: Path) -> Path:
    """A folder of one."""
    write_table(folder / "train-00000-of-00001.parquet")
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "hf": write_tables,
    "mfaq": write_mfaq,
    "miracl_train": write_miracl,
    "mlqa_translate_train": write_mlqa,
    "mmarco": write_mmarco,
    "mr_tydi": write_mr_tydi,
    "sentence_pairs": write_moses,
    "swim_ir": write_swim_ir,
}
"""What writes a folder for each option of ``data`` that reads a data set."""

SETTINGS = {
    "hf": [f"data.columns.{key}" for key in ("query=question", "passage=answer", "id=qid", "language=lang")],
    "mfaq": ["sampler=x_x_mono"],
    "miracl_train": ["sampler=x_x_mono"],
    "mr_tydi": ["sampler=x_x_mono"],
    "sentence_pairs": ["sampler=x_y"],
    "swim_ir": ["sampler=x_x_mono"],
}
"""Settings that an option needs besides its path."""


def settings_of(option: str, folder: Path) -> list[str]:
    """Settings with which an option reads what is written into a folder now."""
    path = WRITERS[option](folder / option)
    files = "/talks.*" if option == "sentence_pairs" else ""
    return [f"data={option}", f"data.path={path}{files}", *SETTINGS.get(option, ())]
