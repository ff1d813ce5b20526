"""A comparison in the terminal, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybrid_ir.analysis.comparison import COLUMNS, Comparison, Row
from hybrid_ir.analysis.runs import MACRO
from hybrid_ir.cache import write_atomic
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, SETTINGS, Setting

_UNDIRECTED = "own_language_share@"
"""Start of the names of metrics of which neither more nor less is better."""

WIDTH = 100
"""Columns where the output is not a terminal."""

LEGEND = (
    "▲ better, ▼ worse than the baseline (* other, where a metric has no better): corrected p below .05 and 0 outside "
    "the interval · no mark: no difference shown · Mo. query and corpus in one language · Cr. mean over pairs of "
    "different languages · Mul. all languages' documents in one pool · p paired permutation test over question ids · "
    "p Holm: p corrected for the number of comparisons (macro means) or of languages · detectable: smallest true "
    "difference that the test shows in 80 % of cases"
)
ONE_SEED = (
    "A system with one run is these very weights: that another training with its settings would differ too is not "
    "shown. Give several seeds; from 5 on, intervals are over seeds and questions."
)

SETTING_NAMES: dict[Setting, str] = {"monolingual": "Mo.", "cross_lingual": "Cr.", "multilingual": "Mul."}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts, for the terminal and LaTeX alike."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: int = 1
    """Columns of names, aligned left."""
    folding: int | None = None
    """The one of them that is wrapped where there is no room."""


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Prints macro means, the spread over seeds, query languages, and each comparison in words."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=WIDTH))
    for grid in _grids(comparison, narrow=console.width < WIDTH):
        console.print(Text(grid.title, style="bold"))
        console.print(rich_table(grid))
    console.print(Text(LEGEND, style="dim"))
    if any(min(row.seeds, row.baseline_seeds) == 1 for row in comparison.rows):
        console.print(Text(ONE_SEED, style="dim"))
    console.print()
    for note in comparison.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    for row in comparison.rows:
        if row.query_language == MACRO:
            console.print(in_words(row), highlight=False, markup=False, soft_wrap=True)


def in_words(row: Row) -> str:
    """A difference as a sentence: ``xquad_r: hybrid against x_x_mono, Mul. mAP: +.0310 [.0220, .0400], p < .001``."""
    corrected = "" if row.p_holm == row.p else " (Holm)"
    value = "< .001" if row.p_holm < 0.001 else f"= {p_text(row.p_holm)}"
    lower = ", lower is better" if row.metric in LOWER_IS_BETTER else ""
    text = (
        f"{row.benchmark}: {row.system} against {row.baseline}, {SETTING_NAMES[row.setting]} "
        f"{metric_name(row.metric)}{lower}: {_difference(row)} {_interval(row)}, p {value}{corrected}"
    )
    if not row.shown:
        text += f": no difference shown (smallest detectable {number(row.smallest_detectable, row.metric)})"
    if not math.isnan(row.seed_deviation):
        text += (
            f"; SD over seeds {number(row.seed_deviation, row.metric)} "
            f"({row.seeds} and {row.baseline_seeds} runs, interval over {row.interval})"
        )
    return text


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes ``comparison.csv`` (all numbers, a row for each statistic) and ``comparison.tex`` (the tables that are
    printed, for LaTeX with the package booktabs) into a folder (made if absent), each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in comparison.rows)
    write_atomic(folder / "comparison.csv", text.getvalue())
    tables = "\n".join(latex(grid) for grid in _grids(comparison))
    write_atomic(folder / "comparison.tex", f"% needs \\usepackage{{booktabs}}\n% {escaped(LEGEND)}\n\n{tables}")


# ------------------------------------------------------------------------------------------------------------ grids


def _grids(comparison: Comparison, narrow: bool = False) -> list[Grid]:
    """All tables; where it is narrow, a table of languages for each setting, and macro means without what is
    detectable."""
    grids = []
    for benchmark in dict.fromkeys(row.benchmark for row in comparison.rows):
        own = [row for row in comparison.rows if row.benchmark == benchmark]
        pairs = list(dict.fromkeys((row.baseline, row.system) for row in own))
        for baseline in dict.fromkeys(baseline for baseline, _ in pairs):
            macro = [row for row in own if row.baseline == baseline and row.query_language == MACRO]
            grids.append(_macro_grid(macro, narrow))
        seeds = {key[1:]: values for key, values in comparison.seeds.items() if key[0] == benchmark}
        if any(len(values) > 1 for values in seeds.values()):
            grids.append(_seed_grid(benchmark, comparison.metric, seeds))
        for pair in pairs:
            rows = [r for r in own if (r.baseline, r.system) == pair and r.query_language != MACRO]
            settings = [setting for setting in SETTINGS if any(row.setting == setting for row in rows)]
            for shown in [[setting] for setting in settings] if narrow else [settings]:
                grids.append(_language_grid(rows, shown))
    return grids


def _macro_grid(rows: Sequence[Row], narrow: bool) -> Grid:
    first = rows[0]
    head = ("", "system", "value", "baseline", "difference", "95 %\ninterval", "p", "p\nHolm", "detectable")
    body = [
        (
            SETTING_NAMES[row.setting],
            row.system,
            number(row.system_value, row.metric),
            number(row.baseline_value, row.metric),
            _difference(row) + _mark(row),
            _interval(row),
            p_text(row.p),
            p_text(row.p_holm),
            number(row.smallest_detectable, row.metric),
        )
        for row in rows
    ]
    title = f"{first.benchmark}, {metric_name(first.metric)}: macro means against {first.baseline}"
    shown = len(head) - narrow
    return Grid(title, head[:shown], [row[:shown] for row in body], left=2, folding=1)


def _seed_grid(benchmark: str, metric: str, seeds: dict[tuple[Setting, str], list[float]]) -> Grid:
    body = []
    for (setting, system), values in seeds.items():
        deviation = number(float(np.std(values, ddof=1)), metric) if len(values) > 1 else "-"
        points = " ".join(number(value, metric) for value in values)
        body.append((SETTING_NAMES[setting], system, points, number(float(np.mean(values)), metric), deviation))
    title = f"{benchmark}, {metric_name(metric)}: macro means of each run"
    return Grid(title, ("", "system", "runs", "mean", "SD"), body, left=3, folding=2)


def _language_grid(rows: Sequence[Row], settings: Sequence[Setting]) -> Grid:
    first = rows[0]
    by_key = {(row.query_language, row.setting): row for row in rows}
    body = []
    for language in sorted({row.query_language for row in rows if row.setting in settings}):
        there = [by_key[language, setting] for setting in settings if (language, setting) in by_key]
        cells = [language, f"{max(row.num_questions for row in there):,}"]
        for setting in settings:
            row = by_key.get((language, setting))
            cells += ["-"] * 3 if row is None else [_difference(row) + _mark(row), p_text(row.p), p_text(row.p_holm)]
        body.append(tuple(cells))
    names = [SETTING_NAMES[setting] for setting in settings]
    head = [part for name in names for part in (f"diff.\n{name}", f"p\n{name}", f"p Holm\n{name}")]
    title = (
        f"{first.benchmark}, {metric_name(first.metric)}: {first.system} against {first.baseline}, by query language"
    )
    return Grid(title, ("query\nlanguage", "questions", *head), body)


def metric_name(metric: str) -> str:
    """A metric as it is written in prose: ``mAP``, ``rank distance``."""
    return "mAP" if metric == "map" else metric.replace("_", " ")


def number(value: float, metric: str) -> str:
    """A value of a metric: ``.7521``; places of a ranking: ``1,925.8``; ``-`` where there is none."""
    if not math.isfinite(value):
        return "-"
    if metric in LOWER_IS_BETTER:  # in places of a ranking, not shares
        return f"{value:,.1f}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.4f}")


def signed(value: float, metric: str) -> str:
    """A difference: ``+.0310``."""
    text = number(value, metric)
    return text if text.startswith("-") else f"+{text}"


def interval_text(low: float, high: float, metric: str) -> str:
    """``[.0220, .0400]``."""
    return f"[{number(low, metric)}, {number(high, metric)}]"


def mark(shown: bool, difference: float, metric: str) -> str:
    """``▲`` better, ``▼`` worse, ``*`` other, a space where no difference is shown: as wide as a mark, so that digits
    stand below each other."""
    if not shown:
        return " "
    if metric.startswith(_UNDIRECTED):
        return "*"
    return "▲" if (difference > 0) != (metric in LOWER_IS_BETTER) else "▼"


def p_text(p: float) -> str:
    """``.013``, ``<.001``."""
    return "<.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}".removeprefix("0")


def _difference(row: Row) -> str:
    return signed(row.difference, row.metric)


def _interval(row: Row) -> str:
    return interval_text(row.low, row.high, row.metric)


def _mark(row: Row) -> str:
    return mark(row.shown, row.difference, row.metric)


# -------------------------------------------------------------------------------------------------------- rendering


def rich_table(grid: Grid) -> Table:
    """The table for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, head in enumerate(grid.head):
        if i == grid.folding:
            table.add_column(head, overflow="fold", min_width=8)
        else:
            table.add_column(head, justify="left" if i < grid.left else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    "▲": r" $\uparrow$", "▼": r" $\downarrow$", "·": r"$\cdot$", "\n": " ",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text for LaTeX."""
    text = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", text).strip()  # a hyphen is too short for a minus


def latex(grid: Grid) -> str:
    """The table for LaTeX with the package booktabs."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(grid.title)}}}",
        rf"\begin{{tabular}}{{{'l' * grid.left}{'r' * (len(grid.head) - grid.left)}}}",
        r"\toprule",
        " & ".join(escaped(cell) for cell in grid.head) + r" \\",
        r"\midrule",
        *(" & ".join(escaped(cell) for cell in row) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)
