"""``python -m hybrid_ir.analysis.paper SWEEP ...``: the tables of arXiv 2408.10536 beside those of a sweep.

Imports no torch. What is put beside what, and which of the paper's findings hold, stands in ``reproduction.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from hybrid_ir.analysis.aggregation import Aggregate, Estimate
from hybrid_ir.analysis.arguments import Parser, output_folder
from hybrid_ir.analysis.reproduction import (
    BATCHINGS,
    MODELS,
    NAMES,
    Reproduction,
    Row,
    Table,
    aggregate_for_paper,
    batchings_in,
    findings,
    orders_in_words,
    reproduce,
)
from hybrid_ir.analysis.sweep_tables import csv_text
from hybrid_ir.analysis.sweeps import read_sweeps
from hybrid_ir.analysis.tables import (
    SETTING_NAMES,
    Grid,
    escaped,
    interval_text,
    latex,
    mark,
    metric_name,
    number,
    p_text,
    rich_table,
    signed,
)
from hybrid_ir.cache import write_atomic
from hybrid_ir.cli import report_errors
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER

WIDTH = 120
"""Columns where the output is not a terminal."""
NARROW = 114
"""A terminal with fewer columns is shown no orders of single languages."""
LEGEND = (
    "diff.: ours less the paper's, ▲ better, ▼ worse: the paper's value is outside of our 95 % interval over questions "
    "· between batchings ▲ better, ▼ worse: our paired test over question ids shows it (p Holm below .05 and 0 outside "
    "the interval) · order: whether the better of two batchings is the same one as in the paper, yes or no; in "
    "brackets where no difference is shown · Mo. query and corpus in one language · Cr. mean over pairs of different "
    "languages · Mul. all languages' documents in one pool"
)

_DESCRIPTION = """The tables of arXiv 2408.10536 (hybrid batch training) beside those of a sweep, differences marked.

Writes paper.csv, paper_orders.csv and paper.tex (default: SWEEP/tables).

  python -m hybrid_ir.analysis.paper sweeps/paper
  python -m hybrid_ir.analysis.paper sweeps/paper --model labse --output tables
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


# ------------------------------------------------------------------------------------------------------------ grids


def beside_grid(table: Table, model: str, narrow: bool = False) -> Grid:
    """Each query language: the paper's three values, ours, the differences, and whether the orders are the paper's;
    where it is narrow without the orders."""
    heads = [f"{who}\n{NAMES[batching]}" for who in (model, "ours", "diff.") for batching in BATCHINGS]
    orders = [f"order\n{NAMES[order.first]},\n{NAMES[order.second]}" for order in table.mean.orders]
    rows = [_beside(row, table.metric, narrow) for row in (*table.languages, table.mean)]
    return Grid(
        f"{_measured(table)}: table {table.number} of the paper ({model}) and ours",
        ("", *heads, *([] if narrow else orders)),
        rows,
    )


def _beside(row: Row, metric: str, narrow: bool) -> tuple[str, ...]:
    assert row.paper is not None
    cells = [row.language, *(number(value, metric) for value in row.paper)]
    cells += ["–" if estimate is None else number(estimate.value, metric) for estimate in row.ours]
    for paper, estimate in zip(row.paper, row.ours, strict=True):
        if estimate is None:
            cells.append("–")
            continue
        difference = estimate.value - paper
        cells.append(signed(difference, metric) + mark(_outside(paper, estimate), difference, metric))
    return (*cells, *([] if narrow else (order.holds for order in row.orders)))


def orders_grid(reproduction: Reproduction, benchmark: str) -> Grid:
    """The differences between batchings on macro means: the paper's, where it has the benchmark, and ours."""
    tables = [table for table in reproduction.tables if table.benchmark == benchmark]
    in_paper = any(table.number for table in tables)
    body = []
    for table in tables:
        for order in table.mean.orders:
            ours = order.ours
            cells = [
                SETTING_NAMES[table.setting],
                metric_name(table.metric),
                f"{NAMES[order.first]} less {NAMES[order.second]}",
            ]
            if in_paper:
                cells.append("–" if order.paper is None else signed(order.paper, table.metric))
            if ours is None:
                cells += ["–"] * 3
            else:
                cells += [
                    signed(ours.difference, table.metric) + mark(ours.shown, ours.difference, table.metric),
                    interval_text(ours.low, ours.high, table.metric),
                    p_text(ours.p_holm),
                ]
            body.append((*cells, order.holds) if in_paper else tuple(cells))
    what = f"the paper's ({MODELS[reproduction.model]}) and ours" if in_paper else "not in the paper"
    head = ["setting", "metric", "batchings", *(["paper"] if in_paper else []), "ours", "95 % interval", "p Holm"]
    title = f"{benchmark}: differences between batchings, macro means, {what}"
    return Grid(title, (*head, *(["paper's order"] if in_paper else [])), body, left=3)


def beside_grids(reproduction: Reproduction, benchmark: str, narrow: bool = False) -> list[Grid]:
    """The paper's tables of a benchmark beside ours; none where the paper has not the benchmark."""
    return [
        beside_grid(table, MODELS[reproduction.model], narrow)
        for table in reproduction.tables
        if table.benchmark == benchmark and table.number is not None
    ]


def _measured(table: Table) -> str:
    lower = ", lower is better" if table.metric in LOWER_IS_BETTER else ""
    return f"{table.benchmark}, {SETTING_NAMES[table.setting]} {metric_name(table.metric)}{lower}"


def _outside(paper: float, estimate: Estimate) -> bool:
    return not estimate.low <= paper <= estimate.high


# ------------------------------------------------------------------------------------------------------------ files


def write_paper_tables(found: Aggregate, reproductions: Sequence[Reproduction], folder: Path) -> list[Path]:
    """Writes ``paper.csv`` (a row for each value), ``paper_orders.csv`` (for each two batchings of a mean) and
    ``paper.tex`` into a folder (made if absent), each atomically.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values, orders, grids = [], [], []
    for reproduction in reproductions:
        for table in reproduction.tables:
            for row in (*table.languages, table.mean):
                about = {
                    "variant": reproduction.variant,
                    "encoder": reproduction.encoder,
                    "paper_model": "" if table.number is None else MODELS[reproduction.model],
                    "paper_table": table.number,
                    "benchmark": table.benchmark,
                    "setting": table.setting,
                    "metric": table.metric,
                    "query_language": row.language,
                }
                values += [{**about, **record} for record in _value_records(found, reproduction, row)]
                orders += [{**about, **record} for record in _order_records(row)]
        for benchmark in reproduction.benchmarks:
            grids += [*beside_grids(reproduction, benchmark), orders_grid(reproduction, benchmark)]
    legend = f"% needs \\usepackage{{booktabs}}\n% {escaped(LEGEND)}\n\n"
    contents = {
        "paper.csv": csv_text(values),
        "paper_orders.csv": csv_text(orders),
        "paper.tex": legend + "\n".join(latex(grid) for grid in grids),
    }
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]


def _value_records(found: Aggregate, reproduction: Reproduction, row: Row) -> list[dict[str, Any]]:
    records = []
    for place, batching in enumerate(BATCHINGS):
        paper, ours = None if row.paper is None else row.paper[place], row.ours[place]
        group = reproduction.groups.get(batching)
        records.append(
            {
                "batching": batching,
                "ratio": None if group is None else group.ratio,
                "paper": paper,
                "ours": ours and ours.value,
                "low": ours and ours.low,
                "high": ours and ours.high,
                "seeds": 0 if group is None else len(found.groups[group]),
                "difference": None if paper is None or ours is None else ours.value - paper,
                "paper_outside": None if paper is None or ours is None else _outside(paper, ours),
            }
        )
    return records


def _order_records(row: Row) -> list[dict[str, Any]]:
    names = ("difference", "low", "high", "p", "p_holm", "smallest_detectable", "seeds")
    return [
        {
            "batching": order.first,
            "less": order.second,
            "paper_difference": order.paper,
            **{name: None if order.ours is None else getattr(order.ours, name) for name in names},
            "paper_order": order.holds,
        }
        for order in row.orders
    ]


# ---------------------------------------------------------------------------------------------------------- command


def print_reproduction(reproduction: Reproduction, console: Console) -> None:
    """Prints the tables, the differences between batchings, and what of the paper's findings holds."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    narrow = console.width < NARROW
    console.rule(reproduction.title)
    for benchmark in reproduction.benchmarks:
        grids = [*beside_grids(reproduction, benchmark, narrow), orders_grid(reproduction, benchmark)]
        for grid in grids:
            console.print(Text(grid.title, style="bold"))
            console.print(rich_table(grid))
    console.print(Text(LEGEND, style="dim"))
    for benchmark in reproduction.benchmarks:
        there = findings(reproduction, benchmark)
        if not there:
            continue
        console.print()
        console.print(Text(f"What of the paper's findings holds on {benchmark}", style="bold"))
        for finding in there:
            say(f"- {finding.claim}: {finding.verdict}")
            for text in finding.numbers:
                say(f"    {text}")
        counted = orders_in_words(reproduction, benchmark)
        if counted:
            say(counted)
    console.print()
    for note in reproduction.notes:
        say(f"note: {note}")


def _run(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    folder = output_folder(options.output, options.sweeps, "tables")
    sweep = read_sweeps([Path(name).expanduser() for name in options.sweeps])
    found = aggregate_for_paper(sweep, options.permutations, options.resamples, options.seed)
    reproductions = reproduce(found, options.model)
    if not reproductions:
        names = ", ".join(map(str, sweep.folders))
        if not batchings_in(found):
            why = "no complete job of one of the paper's batchings; sweep over sampler=x_x_mono,x_y,hybrid"
        else:
            why = f"{', '.join(found.reported)}: evaluated in none of the paper's languages; evaluate some of them"
        raise DataError(f"{names}: {why}")
    written = write_paper_tables(found, reproductions, folder)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for reproduction in reproductions:
        print_reproduction(reproduction, console)
    for job in sweep.incomplete():
        console.print(f"not in the numbers: {job.name} ({job.state})", highlight=False, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    print(f"tables: {', '.join(str(path) for path in written)}")
    return 0


def _parser() -> Parser:
    parser = Parser("hybrid_ir.analysis.paper", _DESCRIPTION)
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="folder of a sweep; several are joined")
    parser.add_argument(
        "--model",
        choices=list(MODELS),
        help="the paper's encoder to put beside (default: the one that the runs' encoder is named after, else xlmr)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the tables (default: SWEEP/tables)")
    parser.add_draws()
    return parser


if __name__ == "__main__":
    sys.exit(main())
