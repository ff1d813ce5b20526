"""BM25 on the CLDR benchmark: mean average precision per language, within it and against all other languages.

Run from the checkout: ``python bench/bm25_cldr.py [--languages en sw yo]``.

Lucene's BM25: ``idf = ln(1 + (N - df + .5) / (df + .5))``, ``tf / (tf + k1 (1 - b + b dl / avgdl))`` with k1 = .9 and
b = .4, as Anserini and MIRACL's baseline use it. Tokens: NFKC, case-folded runs of letters, marks and digits, without
stemming or stop words; character bigrams of the runs in zh, ja and th, which put no spaces between words. Ties are
broken by descending document id, as trec_eval does.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections import Counter

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_ir import languages as known
from hybrid_ir.config import CldrBenchmarkConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.cldr import load

BIGRAMS = {"zh", "ja", "th"}


def tokens(text: str, language: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    runs = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split()
    if language not in BIGRAMS:
        return runs
    return [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]


class BM25:
    """Scores of all documents, dense: fit for pools of thousands."""

    def __init__(self, documents: list[list[str]], k1: float = 0.9, b: float = 0.4) -> None:
        counts = [Counter(document) for document in documents]
        self.terms = {term: i for i, term in enumerate(sorted({term for count in counts for term in count}))}
        tf = np.zeros((len(self.terms), len(documents)), dtype=np.float32)
        for column, count in enumerate(counts):
            for term, times in count.items():
                tf[self.terms[term], column] = times
        length = np.array([len(document) for document in documents], dtype=np.float32)
        df = (tf > 0).sum(axis=1, keepdims=True)
        idf = np.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        self.weights = idf * tf / (tf + k1 * (1 - b + b * length / length.mean()))

    def scores(self, query: list[str]) -> np.ndarray:
        rows = [self.terms[term] for term in query if term in self.terms]
        return np.asarray(self.weights[rows].sum(axis=0))


def average_precision(scores: np.ndarray, ids: np.ndarray, relevant: np.ndarray) -> float:
    """Over the full ranking, ties by descending document id."""
    order = np.lexsort((ids, scores))[::-1]
    ranks = np.flatnonzero(relevant[order]) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def evaluate(benchmark: Benchmark) -> dict[tuple[str, str], float]:
    """(query language, corpus language) -> mean average precision over the queries with a relevant document there."""
    relevant: dict[int, list[int]] = {}
    for query, document, grade in benchmark.judgments.tolist():
        if grade > 0:
            relevant.setdefault(query, []).append(document)
    id_order = np.argsort(np.argsort(np.array(benchmark.document_ids)))
    results: dict[tuple[str, str], float] = {}
    for corpus_index, corpus in enumerate(benchmark.languages):
        pool = np.flatnonzero(benchmark.document_languages == corpus_index)
        index = BM25([tokens(str(benchmark.documents[int(i)]), corpus) for i in pool])
        for query_index, language in enumerate(benchmark.languages):
            values = []
            for query in np.flatnonzero(benchmark.query_languages == query_index):
                hits = np.isin(pool, relevant[int(query)])
                if hits.any():
                    scores = index.scores(tokens(benchmark.queries[int(query)], language))
                    values.append(average_precision(scores, id_order[pool], hits))
            if values:
                results[language, corpus] = float(np.mean(values))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="BM25 on the CLDR benchmark")
    parser.add_argument("--languages", nargs="+", default=list(known.MIRACL), type=known.check_code)
    benchmark = load(CldrBenchmarkConfig(languages=parser.parse_args().languages))
    results = evaluate(benchmark)
    table = Table("language", "tier", "queries", "documents", "Mo. mAP", "Cr. mAP", title="BM25 on the CLDR benchmark")
    mono, cross = [], []
    for i, language in enumerate(benchmark.languages):
        others = [value for (query, corpus), value in results.items() if query == language != corpus]
        mono.append(results[language, language])
        cross += others
        table.add_row(
            language,
            known.get(language).tier or "",
            str(int((benchmark.query_languages == i).sum())),
            str(int((benchmark.document_languages == i).sum())),
            f"{mono[-1]:.3f}",
            f"{np.mean(others):.3f}" if others else "",
        )
    table.add_section()
    table.add_row("mean", "", "", "", f"{np.mean(mono):.3f}", f"{np.mean(cross):.3f}" if cross else "")
    Console().print(table)


if __name__ == "__main__":
    main()
