"""SQuADShifts (Miller et al. 2020, arXiv 2004.14444) as a benchmark: never as training data.

``python -m hybrid_ir.data.sources.squad_shifts OUT FILE...`` writes the published files (``new_wiki_v1.0.json``,
``nyt_v1.0.json``, ``reddit_v1.0.json``, ``amazon_reviews_v1.0.json``) in BEIR's layout: English questions and
their paragraphs. All of SQuADShifts is published as test data. arXiv 2408.10536 watches it during training:
``benchmark=[beir] benchmark.beir.path=OUT benchmark.beir.during_training=true``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.cache import write_atomic
from hybrid_ir.cli import report_errors
from hybrid_ir.data.sources.mlqa import read_squad
from hybrid_ir.errors import EXIT_USAGE, UserError


def write_beir(files: Sequence[Path], out: Path) -> int:
    """Writes files in SQuAD's format as a benchmark in BEIR's layout.

    Args:
        files: what to read; ids begin with a file's name.
        out: a folder, empty or absent.

    Returns:
        Questions written.

    Raises:
        UserError: the folder has something in it.
        DataError: a file is not of SQuAD's format.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; give another folder")
    passages: dict[str, str] = {}
    queries: list[dict[str, Any]] = []
    judgments = ["query-id\tcorpus-id\tscore"]
    for file in files:
        name = file.name.removesuffix(".json").replace(" ", "_")
        for question in read_squad(file):
            passage = passages.setdefault(question.context, f"{name}-{len(passages)}")
            queries.append({"_id": f"{name}-{question.id}", "text": question.text, "language": "en"})
            judgments.append(f"{queries[-1]['_id']}\t{passage}\t1")
    corpus = [{"_id": name, "text": text, "language": "en"} for text, name in passages.items()]
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    for path, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        write_atomic(out / path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_atomic(out / "qrels" / "test.tsv", "\n".join(judgments) + "\n")
    return len(queries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) < 2 or {"-h", "--help"} & set(words):
        print("python -m hybrid_ir.data.sources.squad_shifts OUT FILE...", file=sys.stderr)
        return 0 if {"-h", "--help"} & set(words) else EXIT_USAGE

    def action() -> int:
        count = write_beir([Path(word) for word in words[1:]], Path(words[0]))
        print(f"{words[0]}: {count:,} questions")
        return 0

    return report_errors(action)


if __name__ == "__main__":
    sys.exit(main())
