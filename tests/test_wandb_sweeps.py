"""Sweeps on Weights & Biases: their summaries, a saved view of a project, and sweeps that its agents run."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import wandb
import yaml
from small_runs import refused_line, small_run, write_corpus
from synthetic_sweeps import RATIOS, base_config, changed, scores, write_job, write_sweep
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.wandb_agent import Agent
from wandb_files import SECRET, environment, parts, records, wandb_table
from wandb_server import WandbServer
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from hybrid_ir.analysis import report
from hybrid_ir.analysis.aggregation import aggregate
from hybrid_ir.analysis.sweep_tables import write_tables
from hybrid_ir.analysis.sweeps import read_sweeps
from hybrid_ir.cli import check_sweep, prepare
from hybrid_ir.composition import composer, conf_dir, quote_path
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS
from hybrid_ir.languages import MIRACL
from hybrid_ir.launching.sweep import Job, JobResult, log_summary
from hybrid_ir.run_folder import claim
from hybrid_ir.tracking import workspace
from hybrid_ir.tracking.wandb_start import STEP, begin

FEW = ["--permutations", "100", "--resamples", "100"]
LOGGED = {"logger.name": "wandb", "logger.group": "first", "logger.project": "ratios"}
REPOSITORY = conf_dir().parent


# -------------------------------------------------------------------------------------------------------- summaries


def summarise(home: Path, sweep: Path, *arguments: str, **more: str) -> str:
    """Runs the command; returns what it printed."""
    command = [sys.executable, "-m", "hybrid_ir.tracking.summary", str(sweep), *FEW, *arguments]
    env = environment(home, **more)
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torch" not in done.stderr
    return done.stdout


def add_job(sweep: Path, ratio: float, seed: int) -> None:
    """One more complete job of a sweep."""
    overrides = [f"sampler.mono_ratio={ratio:g}", f"seed={seed}"]
    config = changed(base_config(), {"sampler.mono_ratio": ratio, "seed": seed, **LOGGED})
    write_job(sweep / ",".join(overrides), overrides, config, scores(ratio, seed))


@pytest.fixture(scope="module")
def summarised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a failed job and its summary, kept for a server."""
    home = tmp_path_factory.mktemp("summarised")
    sweep = home / "ratios"
    write_sweep(sweep, seeds=(1, 2), failed=[(0.5, 2)], settings=LOGGED)
    printed = summarise(home, sweep, WANDB_MODE="offline")
    assert printed.endswith(f"wandb sync {sweep / 'wandb'}\n")
    assert printed.count("\n") == 1
    return sweep


def test_a_summary_is_a_run_in_the_group_of_the_jobs(summarised: Path) -> None:
    (part,) = parts(summarised)
    run = records(part, "run")[-1]
    assert (run.run_group, run.job_type, run.display_name, run.project) == ("first", "summary", "ratios", "ratios")
    assert run.run_id == (summarised / "wandb_run_id").read_text()
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    assert (config["jobs"], config["complete"], config["swept"]) == (6, 5, ["sampler.mono_ratio"])
    assert [record.exit_code for record in records(part, "exit")] == [0]


def same(shown: Any, written: str) -> bool:
    """Whether a cell of a table on Weights & Biases is that of a CSV file."""
    if shown is None or written == "":
        return shown in (None, "") and written == ""
    return float(written) == pytest.approx(shown) if isinstance(shown, int | float) else shown == written


def test_a_summary_has_the_tables_of_the_aggregate(summarised: Path, tmp_path: Path) -> None:
    found = aggregate(read_sweeps([summarised]), permutations=100, resamples=100)
    write_tables(found, tmp_path)
    (part,) = parts(summarised)
    for name in ("aggregate", "jobs", "exposure", "language_bias"):
        columns, rows = wandb_table(part, f"summary/{name}")
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            expected = [row for row in csv.DictReader(file) if row.get("scope") != "pair"]
        assert len(rows) == len(expected) > 0
        for row, line in zip(rows, expected, strict=True):
            assert columns == list(line)
            assert all(same(cell, line[column]) for column, cell in zip(columns, row, strict=True)), (row, line)
    columns, rows = wandb_table(part, "summary/cldr/language_pairs")
    with (tmp_path / "aggregate.csv").open(newline="") as file:
        pairs = [row for row in csv.DictReader(file) if (row["scope"], row["metric"]) == ("pair", "map")]
    assert len(pairs) == len(RATIOS) * 4 * 3
    key = ("group", "query_language", "corpus_language")
    shown = {tuple(row[columns.index(name)] for name in key): row[columns.index("value")] for row in rows}
    assert shown == {tuple(row[name] for name in key): pytest.approx(float(row["value"])) for row in pairs}


def test_a_summary_has_curves_and_all_figures_of_the_report(summarised: Path, tmp_path: Path) -> None:
    (part,) = parts(summarised)
    charts = [each for record in records(part, "config") for each in record.update if "visualize" in each.nested_key]
    (chart,) = charts
    assert chart.nested_key[-1] == "summary/cldr/curve"
    fields = json.loads(chart.value_json)["panel_config"]["fieldSettings"]
    columns, rows = wandb_table(part, "summary/cldr/curve_table")
    drawn = [dict(zip(columns, row, strict=True)) for row in rows]
    found = aggregate(read_sweeps([summarised]), permutations=100, resamples=100)
    expected = {
        (line, group.ratio): pytest.approx(estimate.value)
        for setting, line in zip(SETTINGS, ("Mo.", "Cr.", "Mul."), strict=True)
        for group in found.groups
        if (estimate := found.get(group, "cldr", setting, "map")) is not None
    }
    assert len(expected) == 9
    assert {(row[fields["stroke"]], row[fields["x"]]): row[fields["y"]] for row in drawn} == expected

    report.write_report(found, tmp_path, resamples=100, permutations=100)
    names = {path.name.removesuffix(".cldr.png") for path in (tmp_path / "figures").glob("*.cldr.png")}
    assert {"curves", "pairs", "bias"} < names
    images = part / "files" / "media" / "images" / "summary" / "cldr"
    for name in names:
        (image,) = (path for path in images.glob("*.png") if path.name.rpartition("_0_")[0] == name)
        theirs = matplotlib.image.imread(tmp_path / "figures" / f"{name}.cldr.png")
        assert (matplotlib.image.imread(image) == theirs).all()
    assert len(list(images.iterdir())) == len(names)


def test_the_summary_of_a_sweep_that_has_grown_is_the_same_run(summarised: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "ratios"
    shutil.copytree(summarised, sweep, symlinks=True)
    (first,) = parts(sweep)
    add_job(sweep, 0.75, 1)
    summarise(tmp_path, sweep, WANDB_MODE="offline")
    (second,) = parts(sweep)
    assert [path.name for path in (sweep / "wandb" / "superseded").iterdir()] == [first.name]
    assert records(second, "run")[-1].run_id == (summarised / "wandb_run_id").read_text()
    columns, rows = wandb_table(second, "summary/jobs")
    assert 0.75 in {row[columns.index("ratio")] for row in rows}


@pytest.mark.slow
def test_a_server_has_one_summary_of_a_sweep_that_has_grown(tmp_path: Path) -> None:
    sweep = tmp_path / "ratios"
    write_sweep(sweep, seeds=(1,), settings=LOGGED)
    with WandbServer() as server:
        printed = summarise(tmp_path, sweep, "--entity", "somebody", WANDB_BASE_URL=server.url)
        (run_id,) = server.runs
        assert printed.strip().endswith(f"/somebody/ratios/runs/{run_id}")
        add_job(sweep, 0.75, 1)
        summarise(tmp_path, sweep, "--entity", "somebody", WANDB_BASE_URL=server.url)
        (stored,) = server.runs.values()
        assert (stored.group, stored.job_type, stored.exit_code) == ("first", "summary", 0)
        assert [row["_step"] for row in stored.history] == [0, 1]
        shown = json.loads(stored.summary)["summary/jobs"]
        assert (shown["_type"], shown["nrows"]) == ("table-file", 4)
        assert json.loads(stored.config)["complete"]["value"] == 4
    out = summarise(tmp_path, sweep, WANDB_BASE_URL=server.url)  # nobody listens there any more
    assert f"wandb sync {sweep / 'wandb'}" in out
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_summary_of_jobs_in_several_projects_is_refused(tmp_path: Path) -> None:
    sweep = tmp_path / "ratios"
    write_sweep(sweep, ratios=(0.0,), seeds=(1,), settings=LOGGED)
    write_sweep(sweep, ratios=(1.0,), seeds=(1,), settings={**LOGGED, "logger.project": "other"})
    command = [sys.executable, "-m", "hybrid_ir.tracking.summary", str(sweep), *FEW]
    env = environment(tmp_path, WANDB_MODE="offline")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --project: the jobs log to ratios, other; name one\n"
    assert not (sweep / "wandb").exists()


def foreign(files: Path) -> Path:
    """What another run has kept offline in the same folder."""
    quiet = wandb.Settings(silent=True)
    with wandb.init(project="other", dir=str(files.parent), mode="offline", settings=quiet) as run:
        run.log({"loss": 1.0})
        return Path(run.dir).parent


def test_a_summary_beside_other_runs_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path / "ratios", ratios=(0.0, 1.0), seeds=(1,), settings=LOGGED)
    theirs = foreign(tmp_path / "wandb")
    for number in (1, 2):
        summarise(tmp_path, tmp_path / "ratios", "--output", str(tmp_path), WANDB_MODE="offline")
        assert len(parts(tmp_path)) == 2, f"after summary {number}: theirs, and the last of ours"
        assert list(theirs.glob("*.wandb"))


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_that_is_refused_leaves_its_folder_as_it_was(tmp_path: Path, beside: bool) -> None:
    theirs = foreign(tmp_path / "wandb") if beside else None
    before = {path for path in tmp_path.rglob("*") if not path.is_symlink()}

    def start(mode: str, run_id: str) -> None:
        wandb.init(id=run_id, dir=str(tmp_path), mode="offline", settings=wandb.Settings(silent=True)).finish()
        raise wandb.errors.UsageError("not so")

    with pytest.raises(UserError, match="not so; mend it"):
        begin(tmp_path, "new", start, "offline")
    assert {path for path in tmp_path.rglob("*") if not path.is_symlink()} == before
    if theirs is None:
        assert claim(str(tmp_path)) == tmp_path


# ------------------------------------------------------------------------------------------------- ends of sweeps


def ended(sweep: Path) -> list[JobResult]:
    """The jobs of a sweep as they are at its end."""
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    return [JobResult(Job(i, path.name, path, []), state="completed", exit_code=0) for i, path in enumerate(folders)]


def test_a_summary_that_fails_is_one_line_at_the_end_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "ratios"
    write_sweep(sweep, ratios=(0.0, 1.0), seeds=(1,), settings=LOGGED)
    lost = next(sweep.glob("*/per_query.parquet"))
    lost.unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_summary(ended(sweep))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"warning: the sweep has no summary on Weights & Biases ({lost.parent}: has ")
    assert shown.err.endswith(f"); make it with: python -m hybrid_ir.tracking.summary {sweep}\n")
    assert shown.err.count("\n") == 1
    assert not (sweep / "wandb").exists()


def test_a_sweep_that_does_not_log_to_weights_and_biases_has_no_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, ratios=(0.0, 1.0), seeds=(1,))
    log_summary(ended(tmp_path))
    log_summary([])
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "wandb").exists()


# ------------------------------------------------------------------------------------------------------ saved views


def view(tmp_path: Path, *arguments: str) -> Workspace:
    """The view that a command writes, as the library reads it back."""
    assert workspace.main([*arguments, "--json", str(tmp_path / "view.json")]) == 0
    spec = json.loads((tmp_path / "view.json").read_text())
    assert spec["project"] == arguments[0]
    return Workspace._from_model(View.model_validate(spec))


def axes(section: Any) -> list[tuple[str, str]]:
    return [(panel.x.name, panel.y.name) for panel in section.panels if hasattr(panel.y, "name")]


def test_a_view_has_a_panel_for_each_language_in_each_setting(tmp_path: Path) -> None:
    made = view(tmp_path, "ratios")
    *settings, training = made.sections
    assert len(settings) == 3
    for section, setting in zip(settings, SETTINGS, strict=True):
        names = [f"final/cldr/{setting}/map", *(f"final/cldr/{setting}/{code}/map" for code in MIRACL)]
        assert axes(section) == [("sampler.mono_ratio", name) for name in names]
    assert ("sampler.mono_ratio", "measured/samples_per_second") in axes(training)
    lines = {panel.y[0].name: panel for panel in training.panels if isinstance(panel.y, list)}
    assert "train/loss" in lines
    assert {(line.x.name, line.groupby.name) for line in lines.values()} == {(STEP, "sampler.mono_ratio")}


def test_a_view_of_other_benchmarks_metrics_languages_and_sweeps(tmp_path: Path) -> None:
    options = ["--benchmark", "xquad_r", "mlqa_r", "--metric", "recall@10", "rank_distance", "--languages", "de", "sw"]
    made = view(tmp_path, "p", "--entity", "us", "--group", "first", "second", *options)
    assert made.entity == "us"
    assert [len(section.panels) for section in made.sections[:-1]] == [3, 3, 6] * 2
    assert axes(made.sections[0])[1] == ("sampler.mono_ratio", "final/xquad_r/monolingual/de/recall_at_10")
    assert axes(made.sections[5])[3] == ("sampler.mono_ratio", "final/mlqa_r/multilingual/rank_distance")
    shown = made.runset_settings.filters.replace('"', "'")
    assert shown == "Metric('JobType') != 'summary' and Metric('Group') in ['first', 'second']"


def test_names_in_a_view_are_those_that_runs_log(tmp_path: Path) -> None:
    """Of a run with the view's benchmark, languages and metric, and of its configuration."""
    names = {name for section in view(tmp_path, "p").sections[:3] for _, name in axes(section)}
    written = write_sweep(tmp_path / "sweep", ratios=(0.5,), seeds=(1,), languages=MIRACL, questions=4, absent=0)
    logged = {"final" + name.removeprefix("val") for name in written[0.5, 1].logged()}
    assert names <= logged
    assert "mono_ratio" in base_config().model_dump(mode="json")["sampler"]


def test_a_view_is_saved_on_a_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hybrid_ir.tracking.workspace", "ratios", "--languages", "de"]
    with WandbServer() as server:
        env = environment(tmp_path, WANDB_BASE_URL=server.url)
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (saved,) = server.views
    assert (saved["entityName"], saved["projectName"]) == ("somebody", "ratios")
    sections = json.loads(saved["spec"])["section"]["panelBankConfig"]["sections"]
    assert [len(section["panels"]) for section in sections] == [2, 2, 2, 8]
    assert "/somebody/ratios?nw=" in done.stdout
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2  # nobody listens there any more
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("wandb:"))
    assert line.startswith("error: Weights & Biases: the view is not saved (")


def test_without_a_login_a_view_is_not_asked_for(tmp_path: Path) -> None:
    env = environment(tmp_path)
    del env["WANDB_API_KEY"]
    command = [sys.executable, "-m", "hybrid_ir.tracking.workspace", "ratios"]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: Weights & Biases: not logged in; log in with: wandb login, or --json FILE writes the view to a file"
    )


def test_a_view_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    line = refused_line(workspace.main, capsys, "ratios", "--dry-run")
    assert line.endswith("; pip install 'hybrid-ir[workspaces]'\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ratios", "--metric", "recall"], "'recall' is no metric; known: map,"),
        (["us/ratios"], "'us/ratios' is no name"),
        (["ratios", "--languages", "de", "de"], "--languages de de: names one twice"),
        ([], "required: PROJECT"),
    ],
)
def test_mistakes_in_what_a_view_is_of(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused_line(workspace.main, capsys, *arguments)


# ----------------------------------------------------------------------------------------------------------- agents


AGENTS = yaml.safe_load((REPOSITORY / "examples" / "wandb_sweep" / "wandb_sweep.yaml").read_text())


def command_line(values: Mapping[str, Any]) -> list[str]:
    """What an agent starts: its own code puts the values of a job, and the environment, into the command."""
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(AGENTS["command"])):
        place = word.startswith("${") and word.endswith("}")
        words += arguments.get(word[2:-1], [word]) if place else [word]
    return words


def test_all_command_lines_of_the_sweep_that_agents_run_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_PROJECT", "agents")
    monkeypatch.setenv("WANDB_ENTITY", "somebody")
    assert AGENTS["method"] == "grid"
    grid = list(product(*(of_key["values"] for of_key in AGENTS["parameters"].values())))
    seen = set()
    with composer("train") as composing:
        for number, values in enumerate(grid):
            monkeypatch.setenv("WANDB_RUN_ID", f"r{number}")
            env, interpreter, program, *settings = command_line(dict(zip(AGENTS["parameters"], values, strict=True)))
            assert (env, interpreter, program) == ("${env}", "${interpreter}", "${program}")
            config, _ = prepare(composing, [quote_path(setting) for setting in settings])
            assert isinstance(config, TrainConfig)
            assert (config.logger.name, config.logger.group) == ("wandb", "s1")
            assert (config.logger.project, config.logger.entity) == ("agents", "somebody")
            assert config.output_dir == str(tmp_path / "sweeps" / "s1" / f"r{number}")
            seen.add((config.sampler.mono_ratio, config.seed))
        given = ["sampler.mono_ratio=0,0.25,0.5,0.75,1", "seed=1,2,3"]
        ours = check_sweep(composing, given, composing.hydra_config(given)).values()
    assert seen == {(config.sampler.mono_ratio, config.seed) for config in ours if isinstance(config, TrainConfig)}
    assert (REPOSITORY / AGENTS["program"]).is_file()


@pytest.mark.slow
def test_an_agent_runs_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is the one that the agent has begun, in a folder that analyses read as a sweep's."""
    shutil.copy(REPOSITORY / AGENTS["program"], tmp_path)
    small = dict(setting.split("=", 1) for setting in small_run(write_corpus(tmp_path), Path("out")))
    del small["output_dir"]
    monkeypatch.chdir(tmp_path)
    env = environment(tmp_path, WANDB_MODE="offline", WANDB_SWEEP_ID="s1", WANDB_PROJECT="agents")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("WANDB_DIR")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    agent = Agent(api=None, queue=None, sweep_id="s1")
    agent._sweep_command = list(AGENTS["command"])
    first = {name: of_key["values"][1] for name, of_key in AGENTS["parameters"].items()}
    values = {**first, "trainer.max_steps": 2, **small}
    arguments = {name: {"value": value} for name, value in values.items()}
    command = {"type": "run", "run_id": "r1", "program": AGENTS["program"], "args": arguments}
    assert "exception" not in agent._process_command(command)
    assert agent._run_processes["r1"].wait() == 0
    run = tmp_path / "sweeps" / "s1" / "r1"
    (part,) = parts(run)
    described = records(part, "run")[-1]
    assert (described.run_id, described.sweep_id, described.project) == ("r1", "s1", "agents")
    assert described.run_group == "s1"
    assert described.display_name.startswith("sampler.mono_ratio=0.25,seed=2,")
    assert {"mono_ratio=0.25", "seed=2"} < set(described.tags)
    config = {each.key: json.loads(each.value_json) for each in described.config.update}
    assert config["sampler"]["mono_ratio"] == 0.25
    assert (run / "wandb_run_id").read_text() == "r1"
    (job,) = read_sweeps([run.parent]).jobs
    assert (job.group, job.seed) == ((None, 0.25), 2)
