"""What the data is and what a run would draw from it, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_ir.config import TrainConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.tokens import TokenStore

_SHOWN_PAIRS = 24


def describe(config: TrainConfig, console: Console) -> None:
    """Prints items per language and pair, lengths in tokens, shared passages, and what ``max_steps`` would draw.

    Raises:
        UserError: what a real run would raise before its first step.
    """
    from hybrid_ir.training.run import prepare

    prepared = prepare(config, console, with_benchmarks=False)
    corpus, plan, data = prepared.corpus, prepared.plan, prepared.data
    console.print(_languages_table(corpus, data.query_tokens, data.passage_tokens))
    console.print("items in two languages", style="italic")
    console.print(_pairs_table(corpus))
    _say_passages(corpus, console)
    _say_pairless(corpus, console)
    _say_truncation(config, data.query_tokens, data.passage_tokens, console)
    steps = config.trainer.max_steps
    plan.advance_to(steps)
    console.print(_drawn_table(plan, steps))
    console.print(
        f"in {steps:,} steps: {plan.counts['monolingual']:,} monolingual batches, rows deferred "
        f"{plan.counts['deferred']:,}, not placed at the end of a pass {plan.counts['unplaced']:,}, drawn again "
        f"{plan.counts['redrawn']:,}; rows by source: "
        + ", ".join(f"{name} {rows:,}" for name, rows in plan.source_rows().items()),
        highlight=False,
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def _languages_table(corpus: ParallelCorpus, queries: TokenStore, passages: TokenStore) -> Table:
    _, languages = corpus.entries()
    table = _table(
        "languages", ["language", "items", "passages", "query tokens (median, p95)", "passage tokens (median, p95)"]
    )
    passage_language = np.asarray(corpus.passages.language)
    query_language = np.asarray(corpus.queries.language)
    for i, code in enumerate(corpus.languages):
        mine = np.flatnonzero(passage_language == i)
        groups = len(np.unique(corpus.passage_groups(mine)))
        table.add_row(
            code,
            f"{int((languages == i).sum()):,}",
            f"{groups:,}",
            _spread(queries.lengths(np.flatnonzero(query_language == i))),
            _spread(passages.lengths(mine)),
        )
    return table


def _spread(lengths: np.ndarray) -> str:
    return f"{np.median(lengths):.0f}, {np.percentile(lengths, 95):.0f}" if len(lengths) else "-"


def _pair_counts(corpus: ParallelCorpus) -> np.ndarray:
    """[languages, languages]: items that have both; the diagonal: items that have the one."""
    patterns = np.asarray(corpus.table.patterns).astype(np.int64)
    sizes = np.bincount(np.asarray(corpus.table.pattern), minlength=len(patterns))
    return patterns.T @ (patterns * sizes[:, None])


def _pairs_table(corpus: ParallelCorpus) -> Table:
    counts = _pair_counts(corpus)
    if len(corpus.languages) > _SHOWN_PAIRS:
        table = _table("", ["language", "with most", "least", "languages with none"])
        for i, code in enumerate(corpus.languages):
            others = np.delete(counts[i], i)
            table.add_row(code, f"{others.max():,}", f"{others.min():,}", f"{int((others == 0).sum())}")
        return table
    # without lines, so that twenty languages fit into a hundred columns
    table = Table(box=None, padding=(0, 0, 0, 1))
    for name in ("", *corpus.languages):
        table.add_column(name, justify="right", no_wrap=True)
    for i, code in enumerate(corpus.languages):
        table.add_row(code, *(_short(int(n)) if j != i else "·" for j, n in enumerate(counts[i])))
    return table


def _short(n: int) -> str:
    """At most four characters."""
    if n < 1000:
        return str(n)
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if round(n / size, 1) < 10:
            return f"{n / size:.1f}{unit}"
        if round(n / size) < 1000:
            return f"{n / size:.0f}{unit}"
    return f"{n:.0e}"


def _say_passages(corpus: ParallelCorpus, console: Console) -> None:
    questions = np.bincount(np.asarray(corpus.table.passage))
    questions = questions[questions > 0]
    several = int((questions > 1).sum())
    console.print(
        f"passages with several questions: {several:,} of {len(questions):,} (most: {int(questions.max())} questions); "
        f"such questions never stand in one batch",
        highlight=False,
    )


def _say_pairless(corpus: ParallelCorpus, console: Console) -> None:
    counts = _pair_counts(corpus)
    np.fill_diagonal(counts, 0)
    alone = [code for i, code in enumerate(corpus.languages) if not counts[i].any()]
    console.print(f"languages without a pair: {', '.join(alone) or 'none'}", highlight=False)


def _say_truncation(config: TrainConfig, queries: TokenStore, passages: TokenStore, console: Console) -> None:
    for name, store, limit in (
        ("queries", queries, config.model.max_query_length),
        ("passages", passages, config.model.max_passage_length),
    ):
        full = float((store.lengths() >= limit).mean())
        console.print(f"{name} at the limit of {limit} tokens (cut, or just as long): {full:.1%}", highlight=False)


def _drawn_table(plan: BatchPlan, steps: int) -> Table:
    table = _table(
        f"drawn in {steps:,} steps of {plan.batch_size} rows",
        ["language", "as query", "as passage", "monolingual", "passes (monolingual)", "passes (cross-lingual, mean)"],
    )
    rows = plan.exposure
    passes: dict[str, list[dict[str, Any]]] = {}
    for stream in plan.passes():
        passes.setdefault(stream["query_language"], []).append(stream)
    for i, code in enumerate(plan.languages):
        if not plan.eligible.allowed[i]:
            continue
        streams = passes.get(code, [])
        mono = _mean_passes([s for s in streams if s["passage_language"] == code])
        cross = _mean_passes([s for s in streams if s["passage_language"] != code])
        table.add_row(code, f"{rows[i].sum():,}", f"{rows[:, i].sum():,}", f"{rows[i, i]:,}", mono, cross)
    return table


def _mean_passes(streams: list[dict[str, Any]]) -> str:
    items = sum(s["items"] for s in streams)
    return f"{sum(s['passes'] * s['items'] for s in streams) / items:.2f}" if items else "-"
