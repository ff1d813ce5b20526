"""Sweeps whose values Optuna chooses by what jobs have reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import refused_line, small_run, write_corpus

from hybrid_ir.cli import run_command
from hybrid_ir.composition import conf_dir
from hybrid_ir.launching.sweep_folder import read_sweep

TRAIN = str(conf_dir().parent / "train.py")


def search(data: Path, *settings: str) -> list[str]:
    """A search over the share of monolingual batches, and a batch size that the data is too small for."""
    few = [setting for setting in small_run(data, data) if not setting.startswith(("output_dir=", "batch_size="))]
    drawn = ["sampler.mono_ratio=interval(0,1)", "batch_size=choice(8,400)"]
    optuna = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=4"]
    return ["-m", *optuna, *few, *drawn, "trainer.max_steps=2", "trainer.val_check_interval=1", *settings]


@pytest.mark.slow
def test_a_search_sees_what_jobs_reach_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that fails is a failed trial. The same command with more trials draws the same values and runs the rest."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, TRAIN, *search(write_corpus(tmp_path), "sweep=s")]
    done = subprocess.run([*command, "hydra.sweeper.n_trials=2"], capture_output=True, text=True, check=False)
    folder = tmp_path / "sweeps" / "s"
    first = read_sweep(folder)
    assert {job["state"] for job in first} == {"completed", "failed"}, done.stdout + done.stderr
    assert done.returncode == 2  # as of any sweep with such jobs
    assert "sweep " + str(folder) + ": 2 jobs" in done.stdout
    assert {dict(o.split("=", 1) for o in job["overrides"])["batch_size"]: job["exit_code"] for job in first} == {
        "8": 0,
        "400": 2,
    }
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    reached = {job["name"]: job["monitor_value"] for job in first if job["state"] == "completed"}
    assert best["best_value"] == max(reached.values())
    assert f"sampler.mono_ratio={best['best_params']['sampler.mono_ratio']},batch_size=8" in reached

    before = {path: path.stat().st_mtime_ns for name in reached for path in (folder / name).rglob("*")}
    again = subprocess.run([*command, "hydra.sweeper.n_trials=3"], capture_output=True, text=True, check=False)
    assert len(read_sweep(folder)) == 3, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for name in reached for path in (folder / name).rglob("*")} == before

    other = subprocess.run([*command, "threads=1", "optimizer.lr=1e-3"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "optimizer.lr=0.001, it has (not given) there" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_search_without_a_value_ends_with_the_exit_code_of_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, TRAIN, *search(write_corpus(tmp_path)), "batch_size=choice(400,404)"]
    done = subprocess.run([*command, "hydra.sweeper.n_trials=1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*settings: str, command: str = "train") -> str:
        words = ["-m", "hydra/sweeper=optuna", *settings]
        return refused_line(lambda given: run_command(command, given), capsys, *words)  # type: ignore[arg-type]

    assert "sampler.mono_ratio=2.0: must be" in refused("sampler.mono_ratio=interval(0,2)")
    assert "use hydra.sweeper.direction=maximize" in refused("seed=choice(1,2)", "hydra.sweeper.direction=minimize")
    said = refused("seed=choice(1,2)", "checkpoint.mode=min", "hydra.sweeper.direction=maximize")
    assert "use hydra.sweeper.direction=minimize" in said
    assert "hydra.sweeper.n_trialz=3" in refused("seed=choice(1,2)", "hydra.sweeper.n_trialz=3")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    named = [f"model.name_or_path={model}", "benchmark=[cldr]", "evaluation.shard_size=choice(8,16)"]
    assert "an evaluation has no monitor" in refused(*named, command="evaluate")
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_optuna_sweeper", None)
    assert "run pip install 'hybrid-ir[optuna]'" in refused("seed=choice(1,2)")
    assert list(tmp_path.iterdir()) == [model]
