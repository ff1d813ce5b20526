"""``python -m hybrid_ir.analysis.compare A B ...``: evaluated runs beside each other, with intervals and tests.

Takes folders of runs; imports no torch. What is computed, and how, stands in ``comparison.py`` and ``significance.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.analysis.arguments import Parser, output_folder
from hybrid_ir.analysis.comparison import System, compare
from hybrid_ir.analysis.tables import print_comparison, write_comparison
from hybrid_ir.cli import report_errors
from hybrid_ir.composition import existing_parts
from hybrid_ir.errors import ConfigError

_DESCRIPTION = """Compares evaluated runs: differences with intervals and paired tests over question ids.

Each system is the folder of a run, or NAME=FOLDER, or NAME=FOLDER1,FOLDER2,... for runs of one system with different
seeds; the same NAME= given again adds runs. The first system is the baseline.

  python -m hybrid_ir.analysis.compare runs/x_x_mono runs/hybrid
  python -m hybrid_ir.analysis.compare x_x_mono=runs/m1,runs/m2 hybrid=runs/h1,runs/h2 --output tables
  python -m hybrid_ir.analysis.compare mono=SWEEP/sampler=x_x_mono,seed={1,2} hybrid=SWEEP/sampler=hybrid,seed={1,2}
"""


def parse_systems(arguments: Sequence[str]) -> list[System]:
    """Systems from ``FOLDER``, ``NAME=FOLDER`` and ``NAME=FOLDER1,FOLDER2,...``; a ``NAME=`` given again adds runs.

    A folder's name may itself hold ``=`` and ``,``, as those of a sweep do: what exists as a whole is one folder.

    Raises:
        ConfigError: a folder is not there.
    """
    systems: list[System] = []
    named: dict[str, int] = {}
    for argument in arguments:
        if os.path.isdir(os.path.expanduser(argument)):
            folder = Path(argument).expanduser()
            systems.append(System(folder.resolve().name, (folder,)))
            continue
        name, equals, rest = argument.partition("=")
        if not equals or not name or "/" in name:
            raise ConfigError(f"{argument}: no such folder; give the folder of a run, or NAME=FOLDER")
        parts = existing_parts(rest)
        if parts is None:
            raise ConfigError(
                f"{argument}: no such folder, nor is {rest or 'an empty name'} one; give NAME=FOLDER1,FOLDER2,..."
            )
        folders = tuple(Path(part).expanduser() for part in parts)
        if name in named:
            systems[named[name]] = System(name, (*systems[named[name]].folders, *folders))
        else:
            named[name] = len(systems)
            systems.append(System(name, folders))
    return systems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    folder = None if options.output is None else output_folder(options.output, [])
    comparison = compare(
        parse_systems(options.systems),
        metric=options.metric,
        benchmarks=options.benchmark,
        baseline=options.baseline,
        all_pairs=options.all_pairs,
        permutations=options.permutations,
        resamples=options.resamples,
        seed=options.seed,
    )
    print_comparison(comparison)
    if folder is not None:
        write_comparison(comparison, folder)
        print(f"tables: {folder / 'comparison.csv'}, {folder / 'comparison.tex'}")
    return 0


def _parser() -> Parser:
    parser = Parser("hybrid_ir.analysis.compare", _DESCRIPTION)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="FOLDER or NAME=FOLDER1,FOLDER2,...")
    parser.add_argument("--metric", default="map", help="the metric that is compared (default: map)")
    parser.add_argument(
        "--benchmark", action="append", metavar="NAME", help="may be repeated (default: all that are common)"
    )
    parser.add_argument("--baseline", metavar="NAME", help="the system that others are compared with (default: first)")
    parser.add_argument("--all-pairs", action="store_true", help="compare each pair of systems")
    parser.add_draws()
    parser.add_argument("--output", metavar="DIR", help="also write comparison.csv and comparison.tex into this folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
