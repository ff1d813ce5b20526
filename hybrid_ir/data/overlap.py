"""``python -m hybrid_ir.data.overlap [settings]``: what training data has in common with the chosen benchmarks.

Takes the settings of ``train.py`` and imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.analysis.arguments import Parser
from hybrid_ir.cli import report_errors
from hybrid_ir.data.settings import data_settings, taken
from hybrid_ir.errors import ConfigError

_DESCRIPTION = """\
Shows which training passages and queries have a run of words in common with queries or relevant documents of the
chosen benchmarks. Takes the settings of train.py that are about data and benchmarks; data.overlap_words is the length
of a run. data.exclude_overlap_with=[...] then leaves these items out of training.

  python -m hybrid_ir.data.overlap data=parallel_jsonl data.path=FILE 'benchmark=[xquad_r]' benchmark.xquad_r.path=DIR

output=FILE.csv lists what overlaps: ids and the shared run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser("hybrid_ir.data.overlap", _DESCRIPTION)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of train.py")
    output, settings = taken(parser.parse_intermixed_args(arguments).settings, "output")
    if output is not None and (not output or Path(output).expanduser().is_dir()):
        raise ConfigError(f"output={output}: is {'a folder' if output else 'empty'}; name a file")
    config = data_settings(settings)
    if not config.benchmark:
        raise ConfigError("benchmark=[]: nothing to compare with; choose some, e.g. 'benchmark=[xquad_r]'")

    from rich.console import Console
    from rich.table import Table

    from hybrid_ir.data.corpus import ParallelCorpus
    from hybrid_ir.data.exclusion import Overlap, benchmark_texts, exclusion
    from hybrid_ir.data.sources import make_source
    from hybrid_ir.evaluation.progress import EvaluationProgress
    from hybrid_ir.lines import write_lines

    def shown(found: Overlap) -> Table:
        table = Table(title=f"{found.benchmark}: what shares a run", title_justify="left")
        for i, name in enumerate(("language", "run", "queries", "relevant documents", "training items", "share")):
            table.add_column(name, justify="right" if i else "left")
        for code, n in found.languages.items():
            touched = (f"{n[f'{name}_touched']:,} of {n[name]:,}" for name in ("queries", "documents", "items"))
            table.add_row(code, str(n["units"]), *touched, f"{n['items_touched'] / n['items']:.2%}")
        return table

    console = Console() if sys.stdout.isatty() else Console(width=100)
    # benchmarks first: a missing file is found before a large corpus is read
    texts = {name: benchmark_texts(name, section) for name, section in config.benchmark.items()}
    corpus = ParallelCorpus.build(make_source(config.data), config.data.verify_cache)
    with EvaluationProgress(console, "overlap") as progress:
        found = exclusion(corpus, texts, config.data.overlap_words, progress)
    for each in found.overlaps:
        console.print(shown(each))
        alone = sorted(set(corpus.languages) - set(each.languages))
        if alone:
            console.print(f"not compared, {each.benchmark} has no texts in them: {', '.join(alone)}", highlight=False)
    report = found.report()
    console.print(
        f"run: {report['words']} words, or as many characters as say the same; a shorter text counts where it is equal "
        f"as a whole\n{report['items']:,} of {len(corpus):,} items ({report['items'] / len(corpus):.2%}) overlap in "
        f"some language; data.exclude_overlap_with=[{','.join(report['benchmarks'])}] leaves them out"
        + (f"; by source: {', '.join(f'{s} {n:,}' for s, n in report['sources'].items())}" if report["items"] else ""),
        highlight=False,
        markup=False,
    )
    if output is not None:
        write_lines(Path(output).expanduser(), found.lines())
        console.print(f"listed: {output}", highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
