"""``python -m hybrid_ir.analysis.aggregate SWEEP ...``: the jobs of sweeps as tidy tables.

Imports no torch. What is computed, and how, stands in ``aggregation.py`` and ``significance.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hybrid_ir.analysis.aggregation import Aggregate, aggregate
from hybrid_ir.analysis.arguments import Parser, output_folder
from hybrid_ir.analysis.sweep_tables import MARKS, SETTINGS_EXPLAINED, macro_grid, write_tables
from hybrid_ir.analysis.sweeps import read_sweeps
from hybrid_ir.analysis.tables import WIDTH, rich_table
from hybrid_ir.cli import report_errors

_DESCRIPTION = """Means over seeds of the jobs of sweeps, with intervals and differences to both ends of the dial.

Writes jobs.csv, aggregate.csv and .parquet, exposure.csv, language_bias.csv and tables.tex (default: SWEEP/tables).

  python -m hybrid_ir.analysis.aggregate sweeps/ratios
  python -m hybrid_ir.analysis.aggregate sweeps/ratios sweeps/more_seeds --output tables --metric ndcg@10 recall@100
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def read_and_aggregate(options: argparse.Namespace) -> Aggregate:
    """What the options of ``Parser.add_sweeps`` and ``Parser.add_draws`` ask for.

    Raises:
        DataError: the folders hold no runs that can be compared.
    """
    return aggregate(
        read_sweeps([Path(folder).expanduser() for folder in options.sweeps]),
        metrics=options.metric,
        benchmarks=options.benchmark,
        permutations=options.permutations,
        resamples=options.resamples,
        seed=options.seed,
    )


def print_aggregate(found: Aggregate, console: Console | None = None) -> None:
    """Prints macro means, the jobs that are not in them, and what a reader must know."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=WIDTH))
    for benchmark in found.benchmarks:
        grid = macro_grid(found, benchmark, narrow=console.width < 160)
        console.print(Text(grid.title, style="bold"))
        console.print(rich_table(grid))
    console.print(Text(f"{MARKS} {SETTINGS_EXPLAINED}", style="dim"))
    complete = sum(len(jobs) for jobs in found.groups.values())
    say = console.print
    say(f"{complete} of {len(found.sweep.jobs)} jobs are complete", highlight=False)
    for job in found.sweep.incomplete():
        reason = f": {job.reason}" if job.reason else ""
        say(f"not in the numbers: {job.name} ({job.state}{reason})", highlight=False, markup=False, soft_wrap=True)
    for note in found.notes:
        say(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _run(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    folder = output_folder(options.output, options.sweeps, "tables")
    found = read_and_aggregate(options)
    written = write_tables(found, folder)
    print_aggregate(found)
    print(f"tables: {', '.join(str(path) for path in written)}")
    return 0


def _parser() -> Parser:
    parser = Parser("hybrid_ir.analysis.aggregate", _DESCRIPTION)
    parser.add_sweeps()
    parser.add_argument("--output", metavar="DIR", help="folder of the tables (default: SWEEP/tables)")
    parser.add_draws()
    return parser


if __name__ == "__main__":
    sys.exit(main())
