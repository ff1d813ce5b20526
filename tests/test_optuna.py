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
    optuna = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=2"]
    return ["-m", *optuna, *few, *drawn, "trainer.max_steps=30", "trainer.val_check_interval=30", *settings]


@pytest.mark.slow
def test_a_search_sees_what_jobs_reach_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that fails is a failed trial. The same command with more trials draws the same values and runs the rest;
    what an experiment sets for all trials is as if it were in the command."""
    monkeypatch.chdir(tmp_path)
    experiments = tmp_path / "conf" / "experiment"
    experiments.mkdir(parents=True)
    of_all = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      loss.temperature: 0.06\n"
    (experiments / "of_all.yaml").write_text(of_all)
    settings = search(write_corpus(tmp_path), "experiment=of_all", "sweep=s")
    command = [sys.executable, TRAIN, "--config-dir", str(tmp_path / "conf"), *settings]
    done = subprocess.run([*command, "hydra.sweeper.n_trials=3"], capture_output=True, text=True, check=False)
    folder = tmp_path / "sweeps" / "s"
    first = read_sweep(folder)
    assert {job["state"] for job in first} == {"completed", "failed"}, done.stdout + done.stderr
    assert done.returncode == 2  # as of any sweep with such jobs
    assert "sweep " + str(folder) + ": 3 jobs" in done.stdout
    assert {dict(o.split("=", 1) for o in job["overrides"])["batch_size"]: job["exit_code"] for job in first} == {
        "8": 0,
        "400": 2,
    }
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert all("loss.temperature=0.06" in job["overrides"] for job in first)
    reached = {job["name"]: job["monitor_value"] for job in first if job["state"] == "completed"}
    assert len(reached) == 2
    assert best["best_value"] == max(reached.values()) != min(reached.values())
    assert reached[f"sampler.mono_ratio={best['best_params']['sampler.mono_ratio']},batch_size=8"] == best["best_value"]

    before = {path: path.stat().st_mtime_ns for name in reached for path in (folder / name).rglob("*")}
    again = subprocess.run([*command, "hydra.sweeper.n_trials=4"], capture_output=True, text=True, check=False)
    assert len(read_sweep(folder)) == 4, again.stdout + again.stderr
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
    assert done.stderr.splitlines()[-1] == "error: hydra/sweeper: no trial has a value of its monitor, there is no best"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_grid_has_no_more_trials_than_combinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number is asked for; that none has a value is found at its end."""
    monkeypatch.chdir(tmp_path)
    drawn = ("sampler.mono_ratio=", "batch_size=", "hydra/sweeper/sampler=", "hydra.sweeper.sampler.")
    few = [setting for setting in search(write_corpus(tmp_path)) if not setting.startswith(drawn)]
    grid = ["hydra/sweeper/sampler=grid", "batch_size=choice(400,404)", "hydra.sweeper.n_trials=5", "sweep=g"]
    command = [sys.executable, TRAIN, *few, *grid]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"sweep {tmp_path / 'sweeps' / 'g'}: 2 jobs" in done.stdout
    assert done.stderr.splitlines()[-1] == "error: hydra/sweeper: no trial has a value of its monitor, there is no best"
    assert "Traceback" not in done.stderr
    names = [job["name"] for job in read_sweep(tmp_path / "sweeps" / "g")]
    assert sorted(names) == ["batch_size=400", "batch_size=404"]


@pytest.mark.slow
def test_a_trial_that_is_drawn_twice_has_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the same command finds both."""
    monkeypatch.chdir(tmp_path)
    drawn = ("sampler.mono_ratio=", "batch_size=")
    few = [setting for setting in search(write_corpus(tmp_path)) if not setting.startswith(drawn)]
    twice = ["batch_size=choice(8,8)", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "sweep=t"]
    command = [sys.executable, TRAIN, *few, *twice]
    for said in ("2 jobs", "complete before"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
        jobs = read_sweep(tmp_path / "sweeps" / "t")
        assert [job["name"] for job in jobs] == ["batch_size=8", "batch_size=8,job=1"]
        assert all((tmp_path / "sweeps" / "t" / job["name"] / "summary.json").exists() for job in jobs)


def test_mistakes_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*settings: str, command: str = "train") -> str:
        words = ["-m", "hydra/sweeper=optuna", *settings]
        return refused_line(lambda given: run_command(command, given), capsys, *words)  # type: ignore[arg-type]

    assert "sampler.mono_ratio=2.0: must be" in refused("sampler.mono_ratio=interval(0,2)")
    assert "write the smaller end first" in refused("sampler.mono_ratio=interval(1,0)")
    assert "sampler.mono_ratio=1.2: must be" in refused("sampler.mono_ratio=range(0,1.2,0.4)")  # its stop is drawn too
    assert "an interval draws any number between its ends" in refused("batch_size=interval(16,64)")
    assert "has one trial at least" in refused("seed=choice(1,2)", "hydra.sweeper.n_trials=0")
    assert "use hydra.sweeper.direction=maximize" in refused("seed=choice(1,2)", "hydra.sweeper.direction=minimize")
    said = refused("seed=choice(1,2)", "checkpoint.mode=min", "hydra.sweeper.direction=maximize")
    assert "use hydra.sweeper.direction=minimize" in said
    said = refused("seed=choice(1,2)", "data.validation.queries_per_language=0")
    assert "nothing is held out and checkpoint.monitor is null, so a search has nothing to go by" in said
    assert "hydra.sweeper.n_trialz=3" in refused("seed=choice(1,2)", "hydra.sweeper.n_trialz=3")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    named = [f"model.name_or_path={model}", "benchmark=[cldr]", "evaluation.shard_size=choice(8,16)"]
    assert "an evaluation has no monitor" in refused(*named, command="evaluate")
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_optuna_sweeper", None)
    assert "run pip install 'hybrid-ir[optuna]'" in refused("seed=choice(1,2)")
    assert list(tmp_path.iterdir()) == [model]
