"""Real training runs: what they write, and that a stopped run ends with the bits of an uninterrupted one."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from safetensors.torch import load_file
from small_runs import LANGUAGES, small_run, write_corpus

from hybrid_ir.cli import run_command
from hybrid_ir.config import OptimizerConfig
from hybrid_ir.modeling.module import decay_groups, rate_factor
from hybrid_ir.tracking.loggers import TidyCsvLogger
from hybrid_ir.training import checkpoint as ckpt
from hybrid_ir.training.interrupt import Interrupted, SignalHandler


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        *small_run(data, out),
        "trainer.max_steps=24",
        "trainer.val_check_interval=6",
        "checkpoint.every_n_steps=4",
        *more,
    ]


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "hybrid_ir.train", *more]


def train(*more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*more), capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_bits(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def metric_rows(run: Path) -> list[tuple[str, str, str]]:
    with (run / "metrics.csv").open() as file:
        return [(r["step"], r["name"], r["value"]) for r in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(*arguments(data, out))
    return out


def test_the_folder_of_a_run(whole: Path) -> None:
    for name in (
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "checkpoints",
        "model",
        "results.csv",
        "per_query.parquet",
        "summary.json",
        "train.log",
        "metrics.csv",
        "exposure.csv",
        "plan.csv",
    ):
        assert (whole / name).exists(), name
    with (whole / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = "benchmark setting query_language corpus_language metric value num_queries step"
    assert " ".join(rows[0]) == columns
    assert {r["setting"] for r in rows} == {"monolingual", "cross_lingual", "multilingual"}
    assert {r["corpus_language"] for r in rows if r["setting"] == "multilingual"} == {"all"}
    assert {int(r["step"]) for r in rows} >= {6, 12, 18, 24}
    summary = json.loads((whole / "summary.json").read_text())
    for name in ("wall_seconds", "samples_per_second", "drawn_mono_share", "masked_share"):
        assert summary[name] >= 0
    last = [r for r in rows if r["step"] == "24" and r["metric"] == "map" and r["setting"] == "monolingual"]
    mean = np.mean([float(r["value"]) for r in last])
    assert summary["validation"]["monolingual"]["map"] == pytest.approx(mean, abs=1e-12)
    per_query = pq.read_table(whole / "per_query.parquet").to_pylist()
    values = [q["value"] for q in per_query if q["metric"] == "map" and q["setting"] == "monolingual"]
    by_language = {r["query_language"]: float(r["value"]) for r in last}
    for code, value in by_language.items():
        mine = [
            q["value"]
            for q in per_query
            if (q["metric"], q["setting"], q["query_language"]) == ("map", "monolingual", code)
        ]
        assert np.mean(mine) == pytest.approx(value, abs=1e-12)
    assert len(values) == sum(int(r["num_queries"]) for r in last)


def test_exposure_counts_every_row(whole: Path) -> None:
    with (whole / "exposure.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["language"] for r in rows] == list(LANGUAGES)
    assert sum(int(r["query_rows"]) for r in rows) == sum(int(r["passage_rows"]) for r in rows) == 24 * 8
    summary = json.loads((whole / "summary.json").read_text())
    assert sum(int(r["monolingual_rows"]) for r in rows) == round(summary["drawn_mono_share"] * 24) * 8
    assert sum(int(r["query_tokens"]) for r in rows) > 24 * 8


def test_a_complete_run_keeps_no_optimizer_state(whole: Path) -> None:
    ((step, path),) = ckpt.checkpoints(whole)
    content = ckpt.load_plain(path)
    assert step == 24
    assert "optimizer_states" not in content
    before = (whole / "results.csv").read_bytes()
    assert "is complete: 24 steps" in train(f"resume={whole}").stdout.replace("\n", " ")
    assert (whole / "results.csv").read_bytes() == before


def test_a_refused_resume_leaves_the_folder_as_it_was(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.glob("[!.]*.*")}
    done = train(f"resume={whole}", "benchmark=[cldr]", check=False)
    assert done.returncode == 2
    assert "is complete without it" in done.stderr
    assert {path: path.read_bytes() for path in whole.glob("[!.]*.*")} == before


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data: Path, whole: Path, tmp_path: Path) -> None:
    train(*arguments(data, tmp_path / "again"))
    assert_same_bits(whole, tmp_path / "again")
    train(*arguments(data, tmp_path / "other", "seed=2"))
    different = weights(tmp_path / "other")
    assert any(not torch.equal(t, different[name]) for name, t in weights(whole).items())


def stop_when(process: subprocess.Popen[Any], ready: Any, number: int, seconds: float = 120) -> int:
    """Sends a signal once a condition holds; returns the exit code."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise AssertionError(f"ended early with {process.returncode}")
        assert time.monotonic() < deadline, "never came so far"
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(timeout=60)


def interrupted(run: Path, *options: str, group: bool = False) -> tuple[int, str]:
    """Starts a run and sends SIGINT after the evaluation at step 6: exit code and output."""
    process = subprocess.Popen(
        command(*options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    send = (lambda number: os.killpg(process.pid, number)) if group else process.send_signal
    deadline = time.monotonic() + 240
    while not ((run / "train.log").exists() and "step 6  validation" in (run / "train.log").read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    send(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def latest_step(run: Path) -> int:
    found = ckpt.checkpoints(run)
    return found[-1][0] if found else -1


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "after"), [(0, 8), (2, 12), (0, -1)])
def test_killed_and_resumed_ends_with_the_same_bits(
    data: Path, whole: Path, tmp_path: Path, workers: int, after: int
) -> None:
    """SIGKILL: after a checkpoint, with loader workers that have prefetched, and before the first checkpoint."""
    run = tmp_path / "run"
    options = arguments(data, run, f"data.num_workers={workers}")
    process = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ready = (lambda: latest_step(run) >= after) if after > 0 else (lambda: (run / "config.yaml").exists())
    assert stop_when(process, ready, signal.SIGKILL) == -signal.SIGKILL
    assert not (run / "summary.json").exists()
    train(f"resume={run}")
    assert_same_bits(whole, run)
    assert metric_rows(run) == metric_rows(whole)
    left = (whole / "exposure.csv").read_text()
    assert left == (run / "exposure.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_state(data: Path, whole: Path, tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    options = arguments(data, run, "checkpoint.every_n_steps=1000", "evaluation.at_start=false")
    process = subprocess.Popen(command(*options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def trained() -> bool:
        return (run / "results.csv").exists()  # after the evaluation at step 6

    assert stop_when(process, trained, number) == code
    assert 6 <= latest_step(run) < 24, "the state was not saved where the run was stopped"
    assert "Traceback" not in (process.stdout.read() if process.stdout else "")
    train(f"resume={run}")
    assert_same_bits(whole, run)


@pytest.mark.usefixtures("signals_stay")
def test_a_signal_after_the_callbacks_of_a_step_saves_the_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own handler would end the run there, with exit code 0 and without its state."""
    run = tmp_path / "run"
    save = _TrainingEpochLoop._save_loggers_on_train_batch_end  # the last thing before Lightning looks for a signal

    def signalled(loop: _TrainingEpochLoop) -> None:
        if loop.trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        save(loop)

    monkeypatch.setattr(_TrainingEpochLoop, "_save_loggers_on_train_batch_end", signalled)
    with pytest.raises(Interrupted):
        run_command("train", arguments(data, run, "checkpoint.every_n_steps=1000", "threads=1"))
    assert latest_step(run) == 8


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_too(data: Path, tmp_path: Path) -> None:
    """A terminal signals the whole process group; a worker that dies of it must not take the step along."""
    run = tmp_path / "run"
    options = arguments(data, run, "data.num_workers=2", "checkpoint.every_n_steps=10000", "trainer.max_steps=5000")
    code, out = interrupted(run, *options, group=True)
    assert code == 130, out
    assert "Traceback" not in out
    assert latest_step(run) >= 6


@pytest.mark.slow
def test_several_processes_stop_after_the_same_step(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32", "trainer.devices=2"]
    longer = ["checkpoint.every_n_steps=10000", "trainer.max_steps=5000", "optimizer.schedule=constant"]
    code, out = interrupted(run, *arguments(data, run, *two, *longer))
    assert code == 130, out
    assert "Traceback" not in out
    assert out.count("stopped by a signal") == out.count("data: ") == 1
    stopped = latest_step(run)
    assert stopped >= 6
    train(f"resume={run}", f"trainer.max_steps={stopped + 3}")
    assert json.loads((run / "summary.json").read_text())["steps"] == stopped + 3


def test_an_evaluation_cut_off_after_the_last_step_is_repeated(data: Path, whole: Path, tmp_path: Path) -> None:
    """A signal in the last step, or in its evaluation: the model that is best may be the last."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "summary.json").unlink()
    ((_, path),) = ckpt.checkpoints(run)
    content = ckpt.load_plain(path)
    content["callbacks"]["EvaluationCallback"]["evaluated_step"] = 18
    content["callbacks"]["Checkpointing"].update(best_value=None, best_step=None)
    ckpt.save_atomic(content, path)
    train(f"resume={run}")
    with (whole / "results.csv").open() as file:
        at_last = [
            r for r in csv.DictReader(file) if (r["step"], r["setting"], r["metric"]) == ("24", "multilingual", "map")
        ]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["monitor_value"] == pytest.approx(np.mean([float(r["value"]) for r in at_last]), abs=1e-12)
    assert_same_bits(whole, run)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val/validation/multilingual/recall@10", "'recall@10' is none of"),
        ("val/validation/multi/map", "'multi' is none of"),
        ("val/validation/monolingual/fr/map", "'fr' is none of"),
        ("val/nothing/monolingual/map", "with a benchmark of validation"),
    ],
)
def test_a_monitor_that_is_never_logged_is_refused(data: Path, tmp_path: Path, name: str, said: str) -> None:
    done = train(*arguments(data, tmp_path / "run", f"checkpoint.monitor={name}"), check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nan_loss_names_the_step_and_keeps_the_batch(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = arguments(data, run, "optimizer.lr=1e30", "optimizer.max_grad_norm=null", "optimizer.warmup_ratio=0")
    done = train(*options, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "the loss is nan at step" in errors[0]
    assert "Traceback" not in done.stderr
    (saved,) = run.glob("nan_batch_step_*.pt")
    batch = torch.load(saved, weights_only=True)
    assert len(batch["item"]) == 8
    assert not (run / "summary.json").exists()


def test_dry_run_writes_nothing(data: Path, tmp_path: Path) -> None:
    done = train(*arguments(data, tmp_path / "run"), "--dry-run")
    assert not (tmp_path / "run").exists()
    for word in ("tokens", "training", "disk", "samples/s"):
        assert word in done.stdout


# ----------------------------------------------------------------------------------------------------- small parts


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedule_warms_up_and_ends(schedule: Any) -> None:
    factor = rate_factor(OptimizerConfig(schedule=schedule, warmup_ratio=0.1), 100)
    values = [factor(k) for k in range(100)]
    assert 0 < values[0] < 0.2
    assert all(a < b for a, b in itertools.pairwise(values[:11]))
    assert max(values) == 1.0
    if schedule == "constant":
        assert set(values[10:]) == {1.0}
    else:
        assert all(a > b for a, b in itertools.pairwise(values[10:]))
        assert factor(100) == pytest.approx(0.0, abs=1e-12)


def test_biases_and_normalisation_are_not_decayed() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    decayed, plain = decay_groups(model, 0.01)
    assert {tuple(p.shape) for p in decayed["params"]} == {(5, 4), (4, 4)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert len(plain["params"]) == 3


def test_a_resume_drops_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n6,a,0.5\n12,a,0.25\n1")
    TidyCsvLogger(path, 6).log_metrics({"a": 0.125}, step=7)
    assert path.read_text() == "step,name,value\n6,a,0.5\n7,a,0.125\n"


def test_signals_of_one_request_count_once() -> None:
    signals = SignalHandler()
    signals.deferred = True
    for _ in range(3):  # a batch system and a parent send each their own
        signals._handle(signal.SIGTERM, None)
    assert signals.received == signal.SIGTERM
    signals._since -= 10
    with pytest.raises(Interrupted):
        signals._handle(signal.SIGTERM, None)


def test_random_states_come_back() -> None:
    states = ckpt.random_states()
    first = (torch.rand(3), np.random.random(3), [random.random() for _ in range(3)])  # noqa: NPY002
    ckpt.restore_random_states(states)
    assert torch.equal(first[0], torch.rand(3))
    assert np.array_equal(first[1], np.random.random(3))  # noqa: NPY002
    assert first[2] == [random.random() for _ in range(3)]


def test_a_strangers_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "step=00000001.ckpt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(Exception, match="not a readable checkpoint"):
        ckpt.load_plain(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(data: Path, tmp_path: Path) -> None:
    """Decision: equality is claimed at dropout 0 and shown in float64; the batches and the results are the same."""
    options = ["model.dropout=0", "trainer.precision=64", "trainer.max_steps=20"]
    train(*arguments(data, tmp_path / "one", *options))
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    train(*arguments(data, tmp_path / "two", *two, *options))
    left, right = (torch.cat([t.flatten() for t in weights(tmp_path / n).values()]) for n in ("one", "two"))
    assert (left - right).norm() <= 1e-9 * left.norm()
    for name in ("exposure.csv", "results.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_bf16_early_stopping_and_the_best_weights(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [
        "trainer.precision=bf16",
        "trainer.max_steps=40",
        "trainer.val_check_interval=2",
        "trainer.early_stopping_patience=1",
        "checkpoint.export=best",
        "optimizer.lr=1e-9",  # nothing is learned: the first evaluation stays the best
        "data.validation.queries_per_language=2",
    ]
    train(*arguments(data, run, *options))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped_early"]
    assert summary["exported_step"] < summary["steps"] < 40
    with (run / "results.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["setting"] == "multilingual" and r["metric"] == "map"]
    by_step: dict[int, list[float]] = {}
    for r in rows:
        by_step.setdefault(int(r["step"]), []).append(float(r["value"]))
    means = {step: float(np.mean(values)) for step, values in by_step.items() if step}
    assert means[summary["exported_step"]] == max(means.values()) == pytest.approx(summary["monitor_value"])


@pytest.mark.slow
def test_a_prolonged_run_keeps_its_warm_up(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    constant = ["optimizer.schedule=constant", "optimizer.warmup_ratio=0.5", "trainer.log_every_n_steps=1"]
    train(*arguments(data, run, *constant, "trainer.max_steps=8", "checkpoint.keep_optimizer=true"))
    train(f"resume={run}", "trainer.max_steps=16")
    rates = {int(step): float(value) for step, name, value in metric_rows(run) if name == "train/lr"}
    assert sorted(rates) == list(range(1, 17))
    assert rates[1] < rates[2] < rates[3] < rates[4]
    assert len({rates[step] for step in range(5, 17)}) == 1, "the rate changed where the run was prolonged"
