"""Results in the terminal: macro means, languages, and a map of query language by corpus language."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from hybrid_ir.evaluation.groups import group_means
from hybrid_ir.evaluation.language_bias import bias_table
from hybrid_ir.evaluation.metrics import ALL
from hybrid_ir.evaluation.results import BiasRow, Results

LOG_WIDTH = 100
"""Columns where the output is not a terminal."""

_MEANINGS = {
    "monolingual": "Mo. query and corpus in one language",
    "cross_lingual": "Cr. mean over pairs of different languages",
    "multilingual": "Mul. all languages' documents in one pool",
    "map": "mAP without cut-off (to the depth of the search, where a benchmark has one)",
    "recall": "R@k recall",
    "rank_distance": "rank dist. places between a question's best and worst relevant document in the Mul. pool (lower "
    "is better)",
}
"""What is said below a table, of the settings and metrics that it shows."""

BIAS_LEGEND = (
    "own share: of the first k documents, those in the query's language · in pool: that language's share of all "
    "documents · weak: mean mAP over one-language corpora · strong: mAP in the pool of all · gap: weak - strong · MRC: "
    "correlation of the rankings that a question's language versions get, at most 1"
)

Means = Mapping[str, Mapping[str, float]]
"""{setting: {metric: value}}."""

Column = tuple[str, str, str]
"""Head, setting, metric."""

_MACRO_COLUMNS: tuple[Column, ...] = (
    ("mAP\nMo.", "monolingual", "map"),
    ("mAP\nCr.", "cross_lingual", "map"),
    ("mAP\nMul.", "multilingual", "map"),
    ("R@1\nMo.", "monolingual", "recall@1"),
    ("R@1\nCr.", "cross_lingual", "recall@1"),
    ("R@10\nMul.", "multilingual", "recall@10"),
    ("rank dist.\nMul.", "multilingual", "rank_distance"),
)
_LANGUAGE_COLUMNS: tuple[Column, ...] = (
    *_MACRO_COLUMNS[:-1],
    ("nDCG@10\nMo.", "monolingual", "ndcg@10"),
    ("R@100\nMo.", "monolingual", "recall@100"),
    _MACRO_COLUMNS[-1],
)
_GROUP_COLUMNS: tuple[Column, ...] = (
    ("nDCG@10\nMo.", "monolingual", "ndcg@10"),
    ("R@100\nMo.", "monolingual", "recall@100"),
    *_MACRO_COLUMNS[:3],
)


def make_console() -> Console:
    """A console that is as wide as the terminal, or ``LOG_WIDTH`` columns where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)


def print_results(
    results: Results | Mapping[str, Results] | Iterable[tuple[str, Results]], console: Console | None = None
) -> None:
    """Prints all tables.

    Args:
        results: results, or several by the name of their row, e.g. ``[("untrained", …), ("trained", …)]``; the tables
            by language show the last one's.
        console: where to; default ``make_console()``.
    """
    console = console or make_console()
    named = {"": results} if isinstance(results, Results) else dict(results)
    if not any(each.rows for each in named.values()):
        console.print("no results")
        return
    console.print(macro_table(named))
    console.print(Text(_legend(named.values()), style="dim"))
    label, last = next((label, each) for label, each in reversed(named.items()) if each.rows)
    for benchmark in last.benchmarks():
        console.print()
        console.print(language_table(last, benchmark, label, console.width))
        for table in group_tables(last, benchmark, label, console.width):
            console.print(table)
        for table in language_maps(last, benchmark, label, console.width):
            console.print(table)
        for table in bias_tables(last.bias, benchmark, label, console.width):
            console.print(table)


def _legend(results: Iterable[Results]) -> str:
    rows = [row for each in results for row in each.rows]
    there = {row.setting for row in rows} | {row.metric.partition("@")[0] for row in rows}
    return " · ".join(meaning for name, meaning in _MEANINGS.items() if name in there)


def macro_table(results: Mapping[str, Results]) -> RenderableType:
    """Macro means: a row for each benchmark and each of the results."""
    table = _table()
    # Names give way, numbers do not: a job of a sweep is named by all that was swept.
    table.add_column("benchmark", overflow="fold", min_width=8)
    labelled = any(results)
    if labelled:
        table.add_column("model", overflow="fold", min_width=8)
    macros = {label: each.macro() for label, each in results.items()}
    means_of_all = [means for macro in macros.values() for means in macro.values()]
    # Where languages do not meet, nDCG@10 and R@100 are what is published (MIRACL, MTEB).
    apart = any("multilingual" not in means for means in means_of_all)
    columns = _present(_GROUP_COLUMNS[:2] + _MACRO_COLUMNS if apart else _MACRO_COLUMNS, means_of_all)
    for head, _, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    names = list(dict.fromkeys(name for macro in macros.values() for name in macro))
    for name in names:
        first = True
        for label, macro in macros.items():
            if name not in macro:
                continue
            cells = [_format(macro[name], setting, metric) for _, setting, metric in columns]
            table.add_row(name if first else "", *([label] if labelled else []), *cells)
            first = False
        if len(macros) > 1:
            table.add_section()
    return _titled("Macro means", table)


def language_table(results: Results, benchmark: str, label: str = "", width: int = LOG_WIDTH) -> RenderableType:
    """Means of each query language; cross-lingual ones are means over the corpus languages. Fewer columns where the
    width is below ``LOG_WIDTH``."""
    by_setting = results.by_language()[benchmark]
    languages = list(dict.fromkeys(language for means in by_setting.values() for language in means))
    rows: dict[str, Means] = {
        language: {setting: means[language] for setting, means in by_setting.items() if language in means}
        for language in languages
    }
    columns = _present(_LANGUAGE_COLUMNS if width >= LOG_WIDTH else _MACRO_COLUMNS, list(rows.values()))
    counts: dict[str, int] = {}
    step = max(row.step for row in results.rows if row.benchmark == benchmark)
    for row in results.rows:
        if row.benchmark == benchmark and row.step == step:
            counts[row.query_language] = max(row.num_queries, counts.get(row.query_language, 0))
    table = _table()
    table.add_column("query\nlanguage", no_wrap=True)
    table.add_column("questions", justify="right", no_wrap=True)
    for head, _, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for language in sorted(languages):
        cells = [_format(rows[language], setting, metric) for _, setting, metric in columns]
        table.add_row(language, f"{counts[language]:,}", *cells)
    return _titled(f"{_title(benchmark, label)}: by query language", table)


def group_tables(results: Results, benchmark: str, label: str = "", width: int = LOG_WIDTH) -> list[RenderableType]:
    """Means over groups of query languages: resource tiers, and the families and scripts that several of the languages
    share (of one language alone the table by language says it). Where the width is below ``LOG_WIDTH``, the number of a
    group's languages stands for their codes.

    Returns:
        One table; none where there is no such group but a single tier that is not the low one.
    """
    shown = {
        grouping: {name: means for name, means in groups.items() if grouping == "tier" or len(means["languages"]) > 1}
        for grouping, groups in group_means(results).get(benchmark, {}).items()
    }
    shown = {grouping: groups for grouping, groups in shown.items() if groups}
    if list(shown) in ([], ["tier"]) and len(shown.get("tier", ())) < 2 and "low" not in shown.get("tier", ()):
        return []
    columns = _present(_GROUP_COLUMNS, [means for groups in shown.values() for means in groups.values()])
    table = _table()
    table.add_column("mean over", no_wrap=True)
    wide = width >= LOG_WIDTH
    table.add_column("query\nlanguages", justify="left" if wide else "right", max_width=32)
    for head, _, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for grouping, groups in shown.items():
        for name, means in groups.items():
            codes = means["languages"]
            cells = [_format(means, setting, metric) for _, setting, metric in columns]
            table.add_row(f"{grouping} {name}", " ".join(codes) if wide else str(len(codes)), *cells)
        table.add_section()
    return [_titled(f"{_title(benchmark, label)}: means over resource tiers, language families, scripts", table)]


def language_maps(
    results: Results, benchmark: str, label: str = "", width: int = LOG_WIDTH, metric: str = "map"
) -> list[RenderableType]:
    """A map of a metric: query languages down, corpus languages across, the diagonal monolingual.

    Returns:
        One table, or several where the languages do not fit the width; none where no pair was evaluated.
    """
    pairs = results.pairs(benchmark, metric)
    rows = sorted({query for query, _ in pairs})
    corpora = sorted({corpus for _, corpus in pairs})
    if len(corpora) < 2 or all(query == corpus for query, corpus in pairs):
        return []
    shown = "mAP" if metric == "map" else metric
    title = f"{_title(benchmark, label)}: {shown}, query language (down) by corpus language (across)"
    return _maps(title, pairs, rows, corpora, width)


def bias_tables(
    rows: Iterable[BiasRow], benchmark: str, label: str = "", width: int = LOG_WIDTH
) -> list[RenderableType]:
    """Language bias of a benchmark's multilingual pool: its macro means, and a map of the first documents' languages.

    Returns:
        The macro means, and the map in one table, or in several where the languages do not fit the width; none where
        language bias was not measured.
    """
    rows = [row for row in rows if row.benchmark == benchmark]
    shares = bias_table(rows, benchmark, "language_share")
    if not shares:
        return []
    pool = bias_table(rows, benchmark, "pool_share")
    queries = sorted({query for query, _ in shares} - {ALL})
    own = [(shares[code, code], pool[ALL, code]) for code in queries]
    k = next(row.measure for row in reversed(rows) if row.measure.startswith("language_share@")).partition("@")[2]
    macro = {
        f"own share@{k}": _decimal(sum(share for share, _ in own) / len(own), 3),
        "in pool": _decimal(sum(share for _, share in own) / len(own), 3),
    }
    for head, name in (
        ("weak", "weak_alignment"),
        ("strong", "strong_alignment"),
        ("gap", "alignment_gap"),
        (f"MRC@{k}", "mrc"),
        ("rank dist.", "rank_distance"),
        ("max rank", "max_rank"),
    ):
        value = bias_table(rows, benchmark, name).get((ALL, ALL))
        if value is not None:
            macro[head] = f"{value:,.1f}" if name in ("rank_distance", "max_rank") else _decimal(value, 4)
    table = _table()
    for head in macro:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row(*macro.values())
    title = f"{_title(benchmark, label)}: share of the first {k}, query language (down) by document language (across)"
    shown = {**shares, **{("pool", code): share for (_, code), share in pool.items()}}
    columns = sorted({code for _, code in pool})
    return [
        _titled(f"{_title(benchmark, label)}: language bias in the pool of all languages", table),
        Text(BIAS_LEGEND, style="dim"),
        *_maps(title, shown, [*queries, "pool"], columns, width),
    ]


def _maps(
    title: str, values: Mapping[tuple[str, str], float], rows: Sequence[str], columns: Sequence[str], width: int
) -> list[RenderableType]:
    """Values of 0 to 1 by query language (down) and another language (across), in as many tables as fit the width."""
    cell = max(3, *(len(code) for code in columns)) + 2  # the box and the padding put two spaces beside a cell
    head = max(len("query"), *(len(code) for code in rows)) + 3
    fit = max(1, (width - head) // cell)
    tables: list[RenderableType] = []
    for start in range(0, len(columns), fit):
        part = columns[start : start + fit]
        table = _table()
        table.add_column("query", no_wrap=True)
        for code in part:
            table.add_column(code, justify="right", no_wrap=True)
        for query in rows:
            table.add_row(query, *(_cell(values.get((query, code)), query == code) for code in part))
        tables.append(_titled(title, table))
    return tables


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _titled(title: str, table: Table) -> RenderableType:
    # A table's own title is wrapped to the table's width.
    return Group(Text(title, style="bold"), table)


def _title(benchmark: str, label: str) -> str:
    return f"{benchmark}, {label}" if label else benchmark


def _present(columns: Sequence[Column], means: Sequence[Means]) -> list[Column]:
    return [column for column in columns if any(column[2] in each.get(column[1], {}) for each in means)]


def _format(means: Means, setting: str, metric: str) -> str:
    value = means.get(setting, {}).get(metric)
    if value is None:
        return "-"
    return f"{value:,.1f}" if metric == "rank_distance" else _decimal(value, 4)


def _decimal(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "nan"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def _cell(value: float | None, diagonal: bool) -> Text:
    if value is None:
        return Text("-")
    text = _decimal(value, 2)
    share = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    # White to dark green: lightness carries the value, so that it can be read without seeing colour.
    red, green, blue = (round(high + (low - high) * share) for high, low in ((247, 0), (252, 90), (245, 50)))
    style = Style(color="white" if share > 0.55 else "black", bgcolor=f"rgb({red},{green},{blue})", bold=diagonal)
    return Text("1.0" if text == "1.00" else text, style=style)
