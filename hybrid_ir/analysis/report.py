"""``python -m hybrid_ir.analysis.report SWEEP ...``: one page that answers with numbers, intervals and tests.

Writes ``report.html``, which asks for nothing from outside, ``tables/`` and ``figures/``. Imports no torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hybrid_ir.analysis import plots
from hybrid_ir.analysis.aggregate import print_aggregate, read_and_aggregate
from hybrid_ir.analysis.aggregation import Aggregate, exposure
from hybrid_ir.analysis.answer import Answer, answers
from hybrid_ir.analysis.arguments import Parser, output_folder
from hybrid_ir.analysis.paper import LEGEND as PAPER_LEGEND
from hybrid_ir.analysis.paper import beside_grids, orders_grid, write_paper_tables
from hybrid_ir.analysis.reproduction import (
    Finding,
    Reproduction,
    aggregate_for_paper,
    batchings_in,
    findings,
    orders_in_words,
    reproduce,
)
from hybrid_ir.analysis.sweep_tables import (
    MARKS,
    SETTINGS_EXPLAINED,
    exposure_grid,
    group_grid,
    group_title,
    jobs_grid,
    language_grid,
    macro_grid,
    metrics_grid,
    primary,
    write_tables,
)
from hybrid_ir.analysis.tables import Grid, metric_name
from hybrid_ir.cache import write_atomic
from hybrid_ir.cli import report_errors
from hybrid_ir.composition import show
from hybrid_ir.errors import ConfigError
from hybrid_ir.schema_keys import flatten

REPORT_FILE = "report.html"

_DESCRIPTION = """One page that answers how much monolingual and how much cross-lingual batch a retriever needs.

Writes report.html, tables/ and figures/ (default: into SWEEP).

  python -m hybrid_ir.analysis.report sweeps/ratios
  python -m hybrid_ir.analysis.report sweeps/ratios sweeps/more_seeds --output report --metric ndcg@10 recall@100
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


@dataclass(frozen=True)
class _Part:
    """One benchmark on the page."""

    benchmark: str
    macro: Grid
    plots: list[plots.Plot]
    tables: list[Grid]

    @property
    def anchor(self) -> str:
        return f"benchmark-{re.sub(r'[^0-9A-Za-z]+', '-', self.benchmark)}"


def write_report(
    found: Aggregate,
    folder: Path,
    tolerance: float = 0.01,
    resamples: int = 10_000,
    permutations: int = 10_000,
    further: Sequence[str] = (),
    seed: int = 0,
) -> list[Answer]:
    """Writes ``report.html``, ``tables/`` and ``figures/`` into a folder (made if absent), each file atomically.

    Args:
        found: the aggregate.
        folder: where to.
        tolerance: how much of the primary metric the best mix may lose within a language.
        resamples: of the intervals, as stated on the page.
        permutations: of the tests, as stated on the page.
        further: metrics beside the primary one that the answers speak of too.
        seed: of permutations and resamples of the paper's metrics, which the aggregate may not have.

    Returns:
        The answers that are on the page.
    """
    benchmarks = found.reported
    said = answers(found, benchmarks, tolerance, further)
    parts = [_part(found, benchmark) for benchmark in benchmarks]
    of_paper, reproductions = _reproductions(found, permutations, resamples, seed)
    shown = exposure(found)
    groups = len(found.groups)
    complete = sum(len(jobs) for jobs in found.groups.values())
    page = (
        _environment()
        .get_template(REPORT_FILE)
        .render(
            title=_title(found),
            about=(
                f"{', '.join(path.resolve().name for path in found.sweep.folders)}: {complete} complete "
                f"{'run' if complete == 1 else 'runs'} of {len(found.sweep.jobs)}, {groups} "
                f"{'setting' if groups == 1 else 'settings'} of {group_title(found)}. Primary metric: "
                f"{metric_name(found.metrics[0])}."
            ),
            answers=said,
            incomplete=found.sweep.incomplete(),
            notes=found.notes,
            parts=parts,
            paper=[_BesidePaper.of(reproduction) for reproduction in reproductions],
            paper_notes=[note for note in of_paper.notes if note not in found.notes],
            paper_legend=PAPER_LEGEND,
            marks=MARKS,
            settings=SETTINGS_EXPLAINED,
            exposure=exposure_grid(found, shown) if shown else None,
            jobs=jobs_grid(found),
            varied=_varied(found),
            common=_common(found),
            environment=_environments(found),
            intervals=plots.intervals_explained(found),
            resamples=resamples,
            permutations=permutations,
        )
    )
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for part in parts:
        for plot in part.plots:
            plot.save(folder / "figures")
    write_tables(found, folder / "tables")
    if reproductions:
        write_paper_tables(of_paper, reproductions, folder / "tables")
    write_atomic(folder / REPORT_FILE, page)
    return said


def _part(found: Aggregate, benchmark: str) -> _Part:
    settings = found.settings(benchmark, primary(found, benchmark))
    return _Part(
        benchmark,
        macro_grid(found, benchmark),
        plots.of_benchmark(found, benchmark),
        [
            *(group_grid(found, benchmark, setting) for setting in settings),
            *(language_grid(found, benchmark, setting) for setting in settings),
            metrics_grid(found, benchmark),
        ],
    )


@dataclass(frozen=True)
class _PaperBenchmark:
    """One benchmark beside the paper."""

    name: str
    findings: list[Finding]
    counted: str
    orders: Grid
    tables: list[Grid]


@dataclass(frozen=True)
class _BesidePaper:
    """What a sweep has of the paper's tables, on the page."""

    title: str
    benchmarks: list[_PaperBenchmark]
    notes: list[str]

    @classmethod
    def of(cls, reproduction: Reproduction) -> _BesidePaper:
        """With all tables of the benchmarks on which something is found or that the paper has."""
        benchmarks = [
            _PaperBenchmark(
                name,
                findings(reproduction, name),
                orders_in_words(reproduction, name),
                orders_grid(reproduction, name),
                beside_grids(reproduction, name),
            )
            for name in reproduction.benchmarks
        ]
        shown = [benchmark for benchmark in benchmarks if benchmark.findings or benchmark.tables]
        return cls(reproduction.title, shown, reproduction.notes)


def _reproductions(
    found: Aggregate, permutations: int, resamples: int, seed: int
) -> tuple[Aggregate, list[Reproduction]]:
    """The sweep beside the paper; nothing where it has not two of the paper's batchings, or nothing would be said."""
    if not any(len(groups) > 1 for _, groups in batchings_in(found)):
        return found, []
    of_paper = aggregate_for_paper(found.sweep, permutations, resamples, seed, found)
    return of_paper, [found for found in reproduce(of_paper) if _BesidePaper.of(found).benchmarks]


def _title(found: Aggregate) -> str:
    if found.sweep.dial:
        return "How much monolingual and how much cross-lingual batch?"
    return f"What {group_title(found)} changes" if len(found.groups) > 1 else "One setting, several seeds"


# ----------------------------------------------------------------------------------------------- what was run, and how


def _varied(found: Aggregate) -> Grid:
    """Keys that differ between complete runs, with their values."""
    configs = [job.config for jobs in found.groups.values() for job in jobs]
    body = []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = list(dict.fromkeys(show(config.get(key)) for config in configs))
        if len(values) > 1 and key != "output_dir":
            body.append((key, ", ".join(values)))
    return Grid("What varies between complete runs", ("key", "values"), body, left=2)


def _common(found: Aggregate) -> dict[str, str]:
    configs = [job.config for jobs in found.groups.values() for job in jobs]
    return {
        key: show(value) for key, value in configs[0].items() if all(config.get(key) == value for config in configs)
    }


def _environments(found: Aggregate) -> dict[str, str]:
    """Versions, data and machine; several values where runs differ."""
    values: dict[str, dict[str, None]] = {}
    for jobs in found.groups.values():
        for job in jobs:
            for key, value in flatten(dict(job.environment)).items():
                if not key.startswith(("data.report", "data.languages")):
                    values.setdefault(key, {})[show(value)] = None
    return {key: " · ".join(of_key) for key, of_key in values.items()}


# --------------------------------------------------------------------------------------------------------- template


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hybrid_ir.analysis", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(prose=_prose, cell=_cell, swatch=_swatch)
    return environment


def _prose(text: str) -> Markup:
    """Text with true minus signs, and names that no line is broken in."""
    text = re.sub(r"(?<![\w-])-(?=[.\d])", "−", text)
    return Markup(re.sub(r"X-(?:X-mono|X|Y)\b", r'<span class="whole">\g<0></span>', str(escape(text))))


def _cell(text: str) -> Markup:
    """A table's cell, with its mark in colour."""
    for sign, name in (("▲", "better"), ("▼", "worse")):
        if text.endswith(sign):
            return Markup('{}<span class="{}">{}</span>').format(_prose(text[:-1]), name, sign)
    return _prose(text)


_SHAPES = {
    "o": '<circle cx="15" cy="6" r="4"/>',
    "s": '<rect x="11.5" y="2.5" width="7" height="7"/>',
    "^": '<path d="M15 1.5l4.5 8.5h-9z"/>',
    "D": '<path d="M15 1l5 5-5 5-5-5z"/>',
    "v": '<path d="M15 10.5l4.5-8.5h-9z"/>',
    "P": '<path d="M13 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z"/>',
}
_DASHES = {"-": "none", "--": "5 2", ":": "1.5 2", "-.": "5 2 1.5 2"}


def _swatch(key: plots.Key) -> Markup:
    """A legend's line and marker."""
    colour = f"var(--{plots.ROLES[key.colour]})"
    return Markup(
        f'<svg viewBox="0 0 30 12" aria-hidden="true" style="fill:{colour};stroke:{colour}">'
        f'<path d="M0 6h30" style="stroke-width:2;stroke-dasharray:{_DASHES[key.dashes]}"/>'
        f"{_SHAPES.get(key.marker, '')}</svg>"
    )


# ---------------------------------------------------------------------------------------------------------- command


def _run(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    if not 0 <= options.tolerance < 1:
        raise ConfigError(f"--tolerance {options.tolerance:g}: give a share of the metric, from 0 to 1")
    folder = output_folder(options.output, options.sweeps)
    found = read_and_aggregate(options)
    further = list(dict.fromkeys(options.metric or []))[1:]
    said = write_report(
        found, folder, options.tolerance, options.resamples, options.permutations, further, options.seed
    )
    print_aggregate(found)
    for answer in said:
        print(f"{answer.title}: {answer.headline}")
    print(f"report: {folder / REPORT_FILE}, with {folder / 'tables'} and {folder / 'figures'}")
    return 0


def _parser() -> Parser:
    parser = Parser("hybrid_ir.analysis.report", _DESCRIPTION)
    parser.add_sweeps()
    parser.add_argument("--output", metavar="DIR", help="folder of the report (default: SWEEP)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="X",
        help="how much of the primary metric the best mix may lose within a language (0.01)",
    )
    parser.add_draws()
    return parser


if __name__ == "__main__":
    sys.exit(main())
