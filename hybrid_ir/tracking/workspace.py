"""``python -m hybrid_ir.tracking.workspace PROJECT``: a saved view of a project on Weights & Biases, as code: each
language against the ratio, in each setting; loss and speed. Imports no torch."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_ir.analysis.arguments import Parser
from hybrid_ir.analysis.tables import metric_name
from hybrid_ir.cache import write_atomic
from hybrid_ir.cli import report_errors
from hybrid_ir.composition import one_line
from hybrid_ir.config import METRIC
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, SETTINGS, Setting
from hybrid_ir.evaluation.results import logged_metric
from hybrid_ir.languages import MIRACL
from hybrid_ir.tracking.wandb_start import STEP, SUMMARY_JOB

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

RATIO = "sampler.mono_ratio"
_TITLES: dict[Setting, str] = {
    "monolingual": "within a language (monolingual)",
    "cross_lingual": "across languages (cross-lingual)",
    "multilingual": "all languages in one pool (multilingual)",
}
_DESCRIPTION = """Saves a view of a project on Weights & Biases: a panel for each language with the ratio on the x axis,
in sections for the three settings; and a section of loss and speed. Needs the extra workspaces.

  python -m hybrid_ir.tracking.workspace ratios
  python -m hybrid_ir.tracking.workspace ratios --group first --languages ar de en --metric map recall@10
  python -m hybrid_ir.tracking.workspace ratios --benchmark xquad_r --json view.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def make_workspace(
    project: str,
    entity: str,
    benchmarks: Sequence[str],
    metrics: Sequence[str],
    languages: Sequence[str],
    groups: Sequence[str] = (),
) -> Workspace:
    """The view, not yet saved. Its runs are those of jobs, without the summaries of sweeps.

    Args:
        project: of Weights & Biases.
        entity: that owns the project.
        benchmarks: names; three sections each.
        metrics: as results name them (``recall@10``).
        languages: codes of query languages; a panel each.
        groups: sweeps whose runs are shown; none shows all.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
    except ModuleNotFoundError as error:
        raise UserError(f"hybrid_ir.tracking.workspace: {error}; pip install 'hybrid-ir[workspaces]'") from None

    sections = [
        _against_the_ratio(benchmark, setting, metrics, languages) for benchmark in benchmarks for setting in SETTINGS
    ]
    shown = [expr.Metric("JobType") != SUMMARY_JOB]
    if groups:
        shown.append(expr.Metric("Group").isin(list(groups)))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{', '.join(benchmarks)} against the ratio",
        sections=[section for section in sections if section.panels] + [_training()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(filters=shown, order=[expr.Ordering(expr.Metric("Name"))]),
    )


def _against_the_ratio(benchmark: str, setting: Setting, metrics: Sequence[str], languages: Sequence[str]) -> Section:
    """The mean over languages, then each language: a point for each run."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    panels = []
    for metric in metrics:
        if metric in LOWER_IS_BETTER and setting != "multilingual":
            continue  # rank distances are measured in one pool
        for language in (None, *languages):
            name = "/".join(filter(None, ("final", benchmark, setting, language, logged_metric(metric))))
            panels.append(
                wr.ScatterPlot(
                    title=f"{language or 'mean'}, {metric_name(metric)}",
                    x=wr.Config(RATIO),
                    y=wr.SummaryMetric(name),
                )
            )
    return ws.Section(name=f"{benchmark}: {_TITLES[setting]}", panels=panels, is_open=setting == "multilingual")


def _training() -> Section:
    """Curves over the training steps, the mean over seeds and their range for each ratio; what the runs took."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    curves = {
        "train/loss": "loss",
        "train/accuracy": "accuracy in the batch",
        "train/grad_norm": "gradient norm",
        "train/lr": "learning rate",
        "val/validation/multilingual/map": "held-out items, all languages in one pool, mAP",
    }
    took = {
        "measured/samples_per_second": "rows per second",
        "measured/wall_seconds": "wall time (s)",
        "measured/drawn_mono_share": "share of monolingual batches drawn",
    }
    lines = [
        wr.LinePlot(
            title=title,
            x=wr.Metric(STEP),
            y=[name],
            groupby=wr.Config(RATIO),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for name, title in curves.items()
    ]
    points = [wr.ScatterPlot(title=title, x=wr.Config(RATIO), y=wr.SummaryMetric(name)) for name, title in took.items()]
    return ws.Section(name="loss and speed", panels=[*lines, *points])


# ---------------------------------------------------------------------------------------------------------- command


def _run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    for name in ("benchmark", "metric", "languages", "group"):
        values = getattr(options, name)
        if len(set(values)) < len(values):
            raise ConfigError(f"--{name} {' '.join(values)}: names one twice; leave it out")
    made = make_workspace(
        options.project, options.entity or "", options.benchmark, options.metric, options.languages, options.group
    )
    if options.dry_run:
        print(_json(made), end="")
    elif options.json is not None:
        target = Path(options.json).expanduser()
        if target.is_dir():
            raise ConfigError(f"--json {options.json}: is a folder; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, _json(made))
        print(f"view: {target}")
    else:
        _save(made)
        print(f"view: {made.url}")
    return 0


def _json(made: Workspace) -> str:
    """What would be saved."""
    model = made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(model, indent=1, ensure_ascii=False) + "\n"


def _save(made: Workspace) -> None:
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # what there is to say stands below
    otherwise = "--json FILE writes the view to a file"
    try:
        logged_in = wandb.login(prompt=False, verify=False)
        if logged_in:
            made.entity = made.entity or wandb.Api().default_entity
            made.save()
    except Exception as error:  # of many kinds, from several libraries
        raise UserError(f"Weights & Biases: the view is not saved ({one_line(error)}); {otherwise}") from None
    if not logged_in:
        raise UserError(f"Weights & Biases: not logged in; log in with: wandb login, or {otherwise}")


def _metric(text: str) -> str:
    if text != "map" and text not in LOWER_IS_BETTER and not METRIC.fullmatch(text):
        known = ", ".join(["map", *sorted(LOWER_IS_BETTER), "recall@k, precision@k, ndcg@k", "mrr@k"])
        raise argparse.ArgumentTypeError(f"{text!r} is no metric; known: {known}")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[^\s/]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name")
    return text


def _parser() -> Parser:
    parser = Parser("hybrid_ir.tracking.workspace", _DESCRIPTION)
    parser.add_argument("project", type=_name, metavar="PROJECT", help="of Weights & Biases, as in logger.project")
    parser.add_argument("--entity", type=_name, metavar="NAME", help="that owns the project (default: yours)")
    parser.add_argument(
        "--group", nargs="+", default=[], metavar="SWEEP", help="sweeps whose runs are shown (default: all runs)"
    )
    parser.add_argument(
        "--benchmark", nargs="+", type=_name, default=["cldr"], metavar="NAME", help="sections of each (cldr)"
    )
    parser.add_argument(
        "--metric", nargs="+", type=_metric, default=["map"], metavar="NAME", help="panels of each (map)"
    )
    parser.add_argument(
        "--languages", nargs="+", type=_name, default=list(MIRACL), metavar="CODE",
        help="query languages, a panel each (the 18 of CLDR facts)",
    )  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--dry-run", action="store_true", help="print the view as JSON; nothing is asked of a server")
    output.add_argument("--json", metavar="FILE", help="write the view as JSON; nothing is asked of a server")
    return parser


if __name__ == "__main__":
    sys.exit(main())
