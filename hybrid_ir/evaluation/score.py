"""``python -m hybrid_ir.evaluation.score RUN QRELS``: metrics of a run file, whoever wrote it (e.g. a reranker)."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hybrid_ir.cli import report_errors
from hybrid_ir.config import METRIC
from hybrid_ir.errors import ConfigError, DataError, UserError
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER

_DESCRIPTION = """\
Scores a TREC run file by a TREC qrels file, both plain or gzip; the values are trec_eval's. Documents are ordered by
score, equal scores by document id, descending; the rank column is not looked at.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help says what can be given")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = _Parser(prog="python -m hybrid_ir.evaluation.score", description=_DESCRIPTION)
    parser.add_argument("run", type=Path, help="lines `query Q0 document rank score tag`")
    parser.add_argument("qrels", type=Path, help="lines `query 0 document relevance`")
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        help="map, or recall, precision, ndcg or mrr at any depth, e.g. ndcg@10 recall@20 (those of results.csv)",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="count judged queries that the run does not have, as 0 (trec_eval's -c); else they are left out",
    )
    parser.add_argument("--per-query", type=Path, metavar="FILE.csv", help="write each query's values into this file")
    options = parser.parse_args(arguments)
    for path in (options.run, options.qrels):
        if not path.is_file():
            raise DataError(f"{path}: {'is not a file' if path.exists() else 'does not exist'}; give a file")
    for name in options.metrics or ():  # before torch is imported
        if name in LOWER_IS_BETTER:
            raise ConfigError(f"--metrics: {name!r} needs the whole pool ranked; a run file does not have that")
        if name != "map" and not METRIC.fullmatch(name):
            raise ConfigError(
                f"--metrics: {name!r} is no metric; give map, or recall@k, precision@k, ndcg@k or mrr@k with k from 1"
            )

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from hybrid_ir.evaluation.console import make_console
    from hybrid_ir.evaluation.metrics import metrics_of
    from hybrid_ir.evaluation.trec import read_qrels, read_run, score_run

    names = list(dict.fromkeys(options.metrics or metrics_of("monolingual")))
    run, qrels = read_run(options.run), read_qrels(options.qrels)
    scores = score_run(run, qrels, names, options.complete)
    if len(scores.unjudged) == len(run.query_ids):
        raise DataError(
            f"{options.run}: none of its queries (first: {run.query_ids[0]}) is judged in {options.qrels} (first: "
            f"{qrels.query_ids[0]}); give the judgments of these queries"
        )
    if options.per_query is not None:
        _write_per_query(options.per_query, scores.query_ids, scores.metrics, scores.values.tolist())

    console = make_console()
    console.print(Text(f"{options.run.name}, {len(scores.query_ids):,} queries", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in scores.means().items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    judged = {qrels.document_ids[document] for document in qrels.documents.tolist()}
    if judged.isdisjoint(run.document_ids):
        console.print(Text("none of the judged documents is in the run: are these the judgments of this corpus?"))
    if scores.missing:
        treated = "counted as 0" if options.complete else "left out (--complete counts them as 0)"
        console.print(Text(f"judged, but not in the run: {_some(scores.missing)}; {treated}"))
    if scores.unjudged:
        console.print(Text(f"in the run, but not judged: {_some(scores.unjudged)}; left out"))
    return 0


def _some(ids: Sequence[str]) -> str:
    return f"{len(ids):,} (query {', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})"


def _write_per_query(path: Path, query_ids: Sequence[str], metrics: Sequence[str], values: list[list[float]]) -> None:
    from hybrid_ir.cache import write_atomic

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query_id", "metric", "value"))
    for column, name in enumerate(metrics):
        writer.writerows((query, name, row[column]) for query, row in zip(query_ids, values, strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or allow it") from error


if __name__ == "__main__":
    sys.exit(main())
