"""Runs on Weights & Biases and TensorBoard, read back from the files that they write and from a server they talk to."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from small_runs import LANGUAGES, small_run, write_corpus
from wandb_files import SECRET, environment, parts, records, wandb_table
from wandb_server import WandbServer

from hybrid_ir.cli import run_command
from hybrid_ir.config import TrainConfig
from hybrid_ir.evaluation.figures import pair_figure
from hybrid_ir.evaluation.results import BIAS_COLUMNS, Results, logged_metric, read_bias
from hybrid_ir.tracking.tables import Table, pair_table
from hybrid_ir.tracking.wandb_run import MAX_NAME, MAX_TAG, STEP, run_name, run_tags

Row = tuple[int, str, float]
"""Step, name, value."""


# ------------------------------------------------------------------------------------------------- runs and readers


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


def settings(data: Path, out: Path, *more: str) -> list[str]:
    steps = ["trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.log_every_n_steps=1"]
    return [*small_run(data, out), *steps, "checkpoint.every_n_steps=4", *more]


def start(home: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hybrid_ir.train", *arguments]
    pipe = subprocess.PIPE
    env = environment(home, **more)
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def train(home: Path, *arguments: str, **more: str) -> str:
    process = start(home, *arguments, **more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out[-2000:]}\n{err[-3000:]}"
    assert SECRET not in out + err
    return out


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)


def csv_rows(run: Path) -> list[Row]:
    with (run / "metrics.csv").open() as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def last_step(run: Path) -> int:
    try:
        return max((step for step, _, _ in csv_rows(run)), default=0)
    except (FileNotFoundError, TypeError, ValueError):  # a line that is being written
        return 0


def history(part: Path) -> list[dict[str, Any]]:
    """The values that were logged, without what describes tables and images (their keys have several parts)."""
    return [
        {
            (each.key or each.nested_key[0]): json.loads(each.value_json)
            for each in record.item
            if not each.nested_key[1:]
        }
        for record in records(part, "history")
    ]


def curve_points(rows: list[dict[str, Any]]) -> list[Row]:
    """The points of all curves, in the order in which they were logged."""
    return [
        (row[STEP], name, value)
        for row in rows
        for name, value in row.items()
        if not name.startswith("_") and name != STEP and isinstance(value, int | float)
    ]


def final_means(run: Path) -> dict[str, float]:
    """Macro means of ``summary.json`` by the name that they are logged under."""
    summary = json.loads((run / "summary.json").read_text())
    return {
        f"final/validation/{setting}/{logged_metric(metric)}": value
        for setting, means in summary["validation"].items()
        for metric, value in means.items()
    }


def read_until_closed(terminal: int, shown: list[bytes]) -> None:
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(terminal, 65536):
            shown.append(part)


def best_and_last(run: Path) -> Any:
    """What the summary has of the curve of the multilingual mean."""
    values = [value for _, name, value in csv_rows(run) if name == "val/validation/multilingual/map"]
    return pytest.approx({"max": max(values), "last": values[-1]})


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def events(run: Path) -> Any:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = {module.SCALARS: 0, module.IMAGES: 0, module.TENSORS: 0}
    return module.EventAccumulator(str(run / "tensorboard"), size_guidance=everything).Reload()


def markdown(accumulator: Any, name: str) -> str:
    (event,) = accumulator.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


# ------------------------------------------------------------------------------------------------ Weights & Biases


@pytest.fixture(scope="module")
def offline(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was kept for Weights & Biases."""
    home = tmp_path_factory.mktemp("offline")
    train(home, *settings(data, home / "run", "logger=wandb", "seed=2"), WANDB_MODE="offline")
    return home / "run"


def test_a_run_is_described(offline: Path) -> None:
    (part,) = parts(offline)
    run = records(part, "run")[-1]
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    config.pop("_wandb", None)
    assert config == yaml.safe_load((offline / "config.yaml").read_text())
    assert run.run_id == (offline / "wandb_run_id").read_text()
    assert run.display_name.startswith("data=parallel_jsonl,data.path=facts.jsonl,")
    assert run.project == "hybrid-ir"
    assert set(run.tags) == {"hybrid", "mono_ratio=0.5", "seed=2", "model=small", "data=facts.jsonl"}
    assert [record.exit_code for record in records(part, "exit")] == [0]


def test_curves_arrive_once_with_their_training_step(offline: Path) -> None:
    (part,) = parts(offline)
    rows = csv_rows(offline)
    assert {f"val/validation/multilingual/{code}/map" for code in LANGUAGES} < {name for _, name, _ in rows}
    assert {step for step, name, _ in rows if name == "train/loss"} == set(range(1, 9))
    assert Counter(curve_points(history(part))) == Counter(rows)
    defined = {record.name: record for record in records(part, "metric") if record.name}
    for name, best in (("map", "max"), ("rank_distance", "min")):
        metric = defined[f"val/validation/multilingual/{name}"]
        assert metric.step_metric == STEP
        assert metric.summary.last
        assert getattr(metric.summary, best)


def test_the_summary_has_the_finished_models_means(offline: Path) -> None:
    (part,) = parts(offline)
    updates = [update for record in records(part, "summary") for update in record.update]
    summary = {(each.key or each.nested_key[0]): json.loads(each.value_json) for each in updates}
    expected = final_means(offline)
    assert len(expected) > 10
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    assert summary["val/validation/multilingual/map"] == best_and_last(offline)
    measured = json.loads((offline / "summary.json").read_text())
    for name in ("samples_per_second", "wall_seconds", "drawn_mono_share", "masked_share"):
        assert summary[f"measured/{name}"] == measured[name]


def test_tables_and_figures(offline: Path) -> None:
    (part,) = parts(offline)
    results = Results.read(offline)

    columns, rows = wandb_table(part, "results/validation")
    by_language = results.by_language()["validation"]
    assert len(rows) == sum(map(len, by_language.values()))
    for row in rows:
        setting, language, *values = row
        shown = {name: value for name, value in zip(columns[2:], values, strict=True) if value is not None}
        assert shown == {logged_metric(n): v for n, v in by_language[setting][language].items()}

    columns, rows = wandb_table(part, "language_pairs/validation/map")
    shown = {(row[0], code): value for row in rows for code, value in zip(columns[1:], row[1:], strict=True)}
    assert {pair: value for pair, value in shown.items() if value is not None} == results.pairs("validation", "map")

    columns, rows = wandb_table(part, "exposure/table")
    with (offline / "exposure.csv").open() as file:
        lines = list(csv.reader(file))
    assert [columns, *([str(cell) for cell in row] for row in rows)] == lines

    columns, rows = wandb_table(part, "language_bias/rows")
    assert columns == list(BIAS_COLUMNS)
    assert [tuple(row) for row in rows] == [
        tuple(getattr(row, name) for name in BIAS_COLUMNS) for row in read_bias(offline / "language_bias.csv")
    ]
    for name in ("language_pairs", "language_bias"):
        (image,) = (part / "files" / "media" / "images" / name).glob("validation_*.png")
        assert image.stat().st_size > 1000


def test_the_key_is_in_no_file(offline: Path) -> None:
    assert files_with((offline / "wandb_run_id").read_text(), offline), "the search finds nothing at all"
    assert files_with(SECRET, offline.parent) == []


ENDS: Mapping[str, int] = {"SIGTERM": 143, "SIGINT": 130, "fault of the user": 2, "fault of the program": 1}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_how_a_run_ended_is_marked(data: Path, tmp_path: Path, end: str) -> None:
    run = tmp_path / "run"
    steps = "trainer.max_steps=40" if end == "fault of the program" else "trainer.max_steps=100000"
    more = ["optimizer.lr=1e38", "optimizer.max_grad_norm=null"] if end == "fault of the user" else []
    process = start(tmp_path, *settings(data, run, "logger=wandb", steps, *more), WANDB_MODE="offline")
    if end != "fault of the user":
        wait_for(process, lambda: last_step(run) > 0)
    if end == "fault of the program":
        (run / "exposure.csv").mkdir()  # a file cannot be written in its place
    elif end != "fault of the user":
        process.send_signal(signal.Signals[end])
    _, err = process.communicate(timeout=300)
    assert process.returncode == ENDS[end], err[-3000:]
    (part,) = parts(run)
    assert [record.exit_code for record in records(part, "exit")] == [ENDS[end]]


def killed(home: Path, run: Path, *arguments: str, until: Callable[[], bool] = lambda: True, **more: str) -> None:
    """A run whose process is killed behind a checkpoint."""
    process = start(home, *arguments, **more)
    wait_for(process, lambda: any((run / "checkpoints").glob("step=*")) and last_step(run) > 5 and until())
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_killed_run_goes_on_offline_with_every_point_once(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(tmp_path, run, *settings(data, run, "logger=wandb", "trainer.max_steps=60"), WANDB_MODE="offline")
    (first,) = parts(run)
    train(tmp_path, f"resume={run}", WANDB_MODE="offline")
    (second,) = parts(run)
    assert [part.name for part in (run / "wandb" / "superseded").iterdir()] == [first.name]
    rows = Counter(csv_rows(run))
    assert set(rows.values()) == {1}
    assert {step for step, name, _ in rows if name == "train/loss"} == set(range(1, 61))
    assert Counter(curve_points(history(second))) == rows
    run_id = (run / "wandb_run_id").read_text()
    assert {record.run_id for record in records(second, "run")} == {run_id}
    with WandbServer() as server:
        env = environment(tmp_path, WANDB_BASE_URL=server.url)
        command = [str(Path(sys.executable).with_name("wandb")), "sync", str(run / "wandb")]
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120)
        assert list(server.runs) == [run_id]
        assert Counter(curve_points(server.runs[run_id].history)) == rows
        assert server.runs[run_id].exit_code == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_online(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.2"}
        arguments = settings(data, run, "logger=wandb", "trainer.max_steps=1000")
        # the server has some rows, the killed process takes others along
        killed(tmp_path, run, *arguments, until=lambda: any(r.lines for r in server.runs.values()), **online)
        run_id = (run / "wandb_run_id").read_text()
        assert server.runs[run_id].exit_code is None
        train(tmp_path, f"resume={run}", **online)
        assert list(server.runs) == [run_id]
        stored = server.runs[run_id]
        assert Counter(curve_points(stored.history)) == Counter(csv_rows(run))
        assert [row["_step"] for row in stored.history] == list(range(len(stored.history)))
        assert stored.exit_code == 0
        summary = json.loads(stored.summary)
        expected = final_means(run)
        assert {name: summary[name] for name in expected} == pytest.approx(expected)
        assert summary["val/validation/multilingual/map"] == best_and_last(run)
    assert files_with(SECRET, tmp_path) == []


@pytest.mark.slow
def test_a_dead_network_does_not_stop_a_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with WandbServer() as server:
        nobody = server.url
    out = train(tmp_path, *settings(data, run, "logger=wandb"), WANDB_BASE_URL=nobody)
    assert "Weights & Biases: " in out
    assert f"wandb sync {run / 'wandb'}" in " ".join(out.split())
    (part,) = parts(run)
    assert part.name.startswith("offline-run-")
    assert Counter(curve_points(history(part))) == Counter(csv_rows(run))
    assert files_with(SECRET, tmp_path) == []


@pytest.mark.slow
def test_a_network_that_dies_does_not_stop_a_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = settings(data, run, "logger=wandb", "trainer.max_steps=60")
    with WandbServer() as server:
        process = start(tmp_path, *arguments, WANDB_BASE_URL=server.url)
        wait_for(process, lambda: last_step(run) > 0)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, f"{out[-2000:]}\n{err[-3000:]}"
    assert (run / "summary.json").exists()
    (part,) = parts(run)
    assert Counter(curve_points(history(part))) == Counter(csv_rows(run)), "not all is there to be uploaded"


@pytest.mark.slow
def test_a_killed_service_does_not_stop_a_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, *settings(data, run, "logger=wandb", "trainer.max_steps=60"), WANDB_MODE="offline")
    wait_for(process, lambda: last_step(run) > 0)
    (service,) = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "wandb-core"]
    service.kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out[-2000:]}\n{err[-3000:]}"
    assert {step for step, name, _ in csv_rows(run) if name == "train/loss"} == set(range(1, 61))
    assert "Weights & Biases failed" in (run / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{}, {"WANDB_MODE": "online"}])
def test_without_a_login_nothing_is_asked(data: Path, tmp_path: Path, mode: dict[str, str]) -> None:
    """Not even where there is a terminal to ask on."""
    run = tmp_path / "run"
    env = environment(tmp_path, **mode)
    del env["WANDB_API_KEY"]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hybrid_ir.train", *settings(data, run, "logger=wandb", "trainer.max_steps=2")]
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown: list[bytes] = []
    threading.Thread(target=read_until_closed, args=(ours, shown), daemon=True).start()
    assert process.wait(timeout=300) == 0
    (part,) = parts(run)
    assert part.name.startswith("offline-run-")
    assert b"Weights & Biases: not logged in" in b"".join(shown)


@pytest.mark.slow
def test_several_processes_are_one_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["logger=wandb", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    train(tmp_path, *settings(data, run, *options), WANDB_MODE="offline")
    (part,) = parts(run)
    assert {record.run_id for record in records(part, "run")} == {(run / "wandb_run_id").read_text()}
    rows = csv_rows(run)
    assert {step for step, name, _ in rows if name == "train/loss"} == set(range(1, 9))
    assert Counter(curve_points(history(part))) == Counter(rows)


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_a_group(data: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "ratios"
    given = [s for s in settings(data, sweep, "logger=wandb", "trainer.max_steps=2") if not s.startswith("output_dir")]
    swept = ["-m", f"hydra.sweep.dir={sweep}", "sampler.mono_ratio=0,1", "seed=3"]
    printed = train(tmp_path, *swept, *given, WANDB_MODE="offline")
    runs = {path.parent for path in sweep.glob("*/config.yaml")}
    assert {run.name for run in runs} == {"sampler.mono_ratio=0", "sampler.mono_ratio=1"}
    for run in runs:
        (part,) = parts(run)
        described = records(part, "run")[-1]
        assert described.run_group == "ratios"
        assert described.display_name == run.name
        assert {run.name.removeprefix("sampler."), "seed=3"} < set(described.tags)
    (part,) = parts(sweep)
    summary = records(part, "run")[-1]
    assert (summary.run_group, summary.job_type, summary.display_name) == ("ratios", "summary", "ratios")
    columns, rows = wandb_table(part, "summary/jobs")
    assert {row[columns.index("ratio")] for row in rows} == {0.0, 1.0}
    assert printed.splitlines()[-1] == (
        f"summary: Weights & Biases: offline; the run is kept in {sweep / 'wandb'}, upload it with: wandb sync "
        f"{sweep / 'wandb'}"
    )


# ----------------------------------------------------------------------------------------------------- TensorBoard


@pytest.fixture(scope="module")
def tensorboard(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed, and went on."""
    home = tmp_path_factory.mktemp("tensorboard")
    killed(home, home / "run", *settings(data, home / "run", "logger=tensorboard", "trainer.max_steps=60"))
    train(home, f"resume={home / 'run'}")
    return home / "run"


@pytest.mark.slow
def test_tensorboard_has_every_point_once(tensorboard: Path) -> None:
    accumulator = events(tensorboard)
    rows = csv_rows(tensorboard)
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in rows:
        expected.setdefault(name, []).append((step, value))
    assert set(accumulator.Tags()["scalars"]) == set(expected)
    for name, points in expected.items():
        found = [(event.step, event.value) for event in accumulator.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


@pytest.mark.slow
def test_tensorboard_has_tables_figures_and_the_configuration(tensorboard: Path) -> None:
    accumulator = events(tensorboard)
    for name in ("language_pairs/validation", "language_bias/validation"):
        (image,) = accumulator.Images(name)
        assert image.step == 60
        assert min(image.width, image.height) > 100
    shown = markdown(accumulator, "config")
    assert (
        "".join(line.removeprefix("    ") for line in shown.splitlines(keepends=True)).strip()
        == (tensorboard / "config.yaml").read_text().strip()
    )
    pairs = Results.read(tensorboard).pairs("validation", "map")
    assert markdown(accumulator, "language_pairs/validation/map") == pair_table(pairs, "validation").markdown()
    for name in ("results/validation", "exposure/table", "language_bias/rows"):
        assert markdown(accumulator, name).startswith("| ")


# -------------------------------------------------------------------------------------------------- keys, pasted


@pytest.mark.parametrize(
    "pasted",
    [
        f"logger.project={SECRET}",
        f"logger.tags=[baseline,{SECRET}]",
        f"logger.entity=wandb_v1_{'Ab1_' * 19}",
        f"model.vocab_size={SECRET}",
        f"logger.api_key={SECRET}",
        f"data.path=/data/{SECRET}.jsonl",
    ],
)
def test_a_key_pasted_as_a_setting_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pasted: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert run_command("train", [*settings(data, tmp_path / "run", "logger=wandb"), pasted]) == 2
    shown = capsys.readouterr()
    assert (SECRET in shown.out + shown.err, "wandb_v1_" in shown.out + shown.err) == (False, False)
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_key_in_another_variable_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, *settings(data, run, "logger=wandb"), WANDB_MODE="offline", WANDB_NOTES=f"key {SECRET}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "error: WANDB_NOTES: holds an API key" in err
    assert SECRET not in out + err
    assert files_with(SECRET, tmp_path) == []


# ------------------------------------------------------------------------------------------- names, tags, tables


def test_names_of_runs(tmp_path: Path) -> None:
    out = tmp_path / "2030-01-01_00-00-00"
    overrides = ["sampler=x_x_mono", "seed=2", f"output_dir={out}", "logger=wandb", "threads=2", "logger.tags=[a]"]
    assert run_name(overrides, out) == "sampler=x_x_mono,seed=2"
    assert run_name(overrides[2:], out) == out.name
    assert run_name(overrides, tmp_path / "sampler.mono_ratio=0,seed=1") == "sampler.mono_ratio=0,seed=1"
    paths = ["data.path=[/a/b.jsonl.gz,'c=/d/e.jsonl']", "model.name_or_path=intfloat/multilingual-e5-small"]
    assert run_name(paths, out) == "data.path=b.jsonl.gz,c_e.jsonl,model.name_or_path=multilingual-e5-small"


WORDS = st.text("abcdefgh_", min_size=1, max_size=80)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20, unique_by=lambda each: each[0]))
def test_long_names_are_cut_and_stay_different(pairs: list[tuple[str, str]]) -> None:
    overrides = [f"data.max_items.{key}={value}" for key, value in pairs]
    name = run_name(overrides, Path("run"))
    assert 0 < len(name) <= MAX_NAME
    other = run_name([*overrides[:-1], overrides[-1] + "x"], Path("run"))
    assert other != name


@given(st.lists(WORDS, min_size=1, max_size=4), WORDS, st.lists(st.text(min_size=1, max_size=MAX_TAG), max_size=3))
def test_tags_are_short_and_distinct(files: list[str], model: str, more: list[str]) -> None:
    config = TrainConfig.model_validate(
        {
            "data": {"source": "parallel_jsonl", "path": [f"/data/{name}.jsonl" for name in files]},
            "model": {"kind": "pretrained", "name_or_path": f"/models/{model}"},
            "logger": {"tags": more},
        }
    )
    tags = run_tags(config)
    assert all(0 < len(tag) <= MAX_TAG for tag in tags)
    assert len(set(tags)) == len(tags)
    assert {"hybrid", "mono_ratio=0.5", "seed=1", f"model={model}"[:MAX_TAG], *more} <= set(tags)


def test_a_table_as_markdown() -> None:
    table = Table("t", ("language", "map", "items"), (("de", 0.123456, 3), ("sw", None, 0)))
    assert table.markdown() == ("| language | map | items |\n| --- | --- | --- |\n| de | 0.1235 | 3 |\n| sw |  | 0 |")


def test_the_map_of_language_pairs_shows_each_pair() -> None:
    pairs = {("de", "de"): 0.5, ("de", "en"): 0.25, ("en", "de"): 1.0, ("sw", "en"): 0.75}
    figure = pair_figure(pairs, "toy")
    axes = figure.axes[0]
    rows, columns = (
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    cells = {
        (rows[round(text.get_position()[1])], columns[round(text.get_position()[0])]): text.get_text()
        for text in axes.texts
        if isinstance(text, Text)
    }
    assert (rows, columns) == (["de", "en", "sw"], ["de", "en"])
    assert {pair: text for pair, text in cells.items() if text != "–"} == {
        pair: f"{value:.2f}".removeprefix("0") for pair, value in pairs.items()
    }
