"""What the data is and what a run would draw from it, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_ir.config import TrainConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.planned import MIXED, Planned, counted, extremes, planned
from hybrid_ir.data.tokens import TokenStore

_SHOWN_PAIRS = 24
_PLANNED_ROWS, _PLANNED_STEPS = 20_000_000, 400_000


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
    found = planned(plan, config.trainer.max_steps, _PLANNED_ROWS, _PLANNED_STEPS)
    console.print(_drawn_table(found, plan))
    if len(found.sources) > 1:
        console.print(_sources_table(found))
    console.print("% of the rows, by query language (lines) and passage language (columns)", style="italic")
    console.print(_shares_table(found))
    if extremes(found):
        console.print(extremes(found), highlight=False)
    batches = MIXED if found.mixed else f"{found.counts['monolingual']:,} monolingual batches"
    console.print(
        f"in {found.steps:,} steps: {batches}; {counted(found)}; rows by source: "
        + ", ".join(f"{name} {n:,}" for name, n in zip(found.sources, found.rows.sum((1, 2)), strict=True)),
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


def _drawn_table(found: Planned, plan: BatchPlan) -> Table:
    of = f"{found.steps:,} steps" if found.whole else f"the first {found.steps:,} of {found.run_steps:,} steps"
    table = _table(
        f"drawn in {of} of {found.batch_size} rows",
        ["language", "items", "as query", "", "as passage", "", "monolingual", "times each question"],
    )
    items, rows, share = found.items.sum(0).diagonal(), found.rows.sum(0), found.share.sum(0)
    for i, code in enumerate(found.languages):
        if plan.eligible.allowed[i]:
            table.add_row(
                code,
                f"{items[i]:,}",
                f"{rows[i].sum():,}",
                f"{share[i].sum():.1%}",
                f"{rows[:, i].sum():,}",
                f"{share[:, i].sum():.1%}",
                f"{rows[i, i]:,}",
                f"{found.query_times[i]:.2f}",
            )
    return table


def _sources_table(found: Planned) -> Table:
    table = _table("by source", ["source", "items", "rows", "", "monolingual", "cross-lingual", "times each item"])
    for s, name in enumerate(found.sources):
        rows, items = found.rows[s].sum(), found.source_items[s]
        within = found.rows[s].trace()
        table.add_row(
            name,
            f"{items:,}",
            f"{rows:,}",
            f"{found.share[s].sum():.1%}",
            f"{within:,}",
            f"{rows - within:,}",
            f"{found.times(rows, items):.2f}",
        )
    return table


def _shares_table(found: Planned) -> Table:
    share, possible = found.share.sum(0), found.items.sum(0) > 0
    if len(found.languages) > _SHOWN_PAIRS:
        table = _table("", ["query language", "with itself", "with another: least", "most", "no items with"])
        for i, code in enumerate(found.languages):
            others = np.delete(share[i], i)[np.delete(possible[i], i)]
            least, most = (f"{others.min():.2%}", f"{others.max():.2%}") if len(others) else ("-", "-")
            table.add_row(code, f"{share[i, i]:.2%}", least, most, f"{int((~np.delete(possible[i], i)).sum())}")
        return table
    table = Table(box=None, padding=(0, 0, 0, 1))
    for name in ("", *found.languages):
        table.add_column(name, justify="right", no_wrap=True)
    for i, code in enumerate(found.languages):
        table.add_row(code, *(_percent(share[i, j]) if possible[i, j] else "·" for j in range(len(found.languages))))
    return table


def _percent(share: float) -> str:
    """Percent in at most four characters."""
    value = 100 * share
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else "100"
