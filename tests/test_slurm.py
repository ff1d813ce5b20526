"""Sweeps on Slurm: the batch script as text, and jobs that it really runs, on a cluster of one machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import TypeAdapter
from slurm_cluster import write_programs
from small_runs import refused_line, small_run, write_corpus

from hybrid_ir.cli import prepare, run_command
from hybrid_ir.composition import composer, conf_dir
from hybrid_ir.config import LauncherConfig, LocalLauncherConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.cluster import check_queue
from hybrid_ir.launching.processes import child_environment
from hybrid_ir.launching.slurm import BatchTask
from hybrid_ir.launching.sweep_folder import read_sweep, record
from hybrid_ir.run_folder import write_run_files

TRAIN = str(conf_dir().parent / "train.py")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Slurm's programs on the path, and a working folder; what still runs at the end is killed."""
    write_programs(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "slurm"
    for process in processes(str(tmp_path)):
        process.kill()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return refused_line(lambda words: run_command("train", words), capsys, *arguments)


# ------------------------------------------------------------------------------------------------------ the script


def test_the_batch_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On any machine, and nothing is submitted or made."""
    monkeypatch.chdir(tmp_path)
    settings = [
        "launcher=slurm", "launcher.partition=gpu", "launcher.account=lab", "launcher.qos=long", "launcher.jobs=2",
        "launcher.constraint=a100", "launcher.cpus_per_node=64", "launcher.memory_gb=500",
        "launcher.walltime_minutes=90", "launcher.setup=[module load cuda,source env.sh]",
        "launcher.sbatch.mail-type=END", "trainer=ddp", "trainer.devices=16", "trainer.num_nodes=2",
        "sampler.mono_ratio=0,0.5,1", "sweep=NAME",
    ]  # fmt: skip
    assert run_command("train", ["-m", *settings, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "sweeps" / "NAME"
    job = folder / "sampler.mono_ratio=0"
    path = shlex.quote(child_environment()["PYTHONPATH"])
    assert (
        capsys.readouterr().out
        == f"""\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=16
#SBATCH --job-name=NAME
#SBATCH --mail-type=END
#SBATCH --mem=500GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={folder}/.slurm/%A_%a/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90
#SBATCH --wckey=submitit

# setup
module load cuda
source env.sh
export PYTHONPATH={path}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {folder}/.slurm/%A_%a/%A_%a_%t_log.out --cpus-per-task=64 {sys.executable} -u \
-m submitit.core._submit {folder}/.slurm/%j

# what a task does (torchrun), here of sampler.mono_ratio=0:
# {sys.executable} -m torch.distributed.run --nnodes=2 --node-rank=NODE --master-addr=FIRST_NODE --master-port=PORT \
--nproc-per-node=16 -m hybrid_ir.train trainer=ddp trainer.devices=16 trainer.num_nodes=2 sampler.mono_ratio=0 \
{shlex.quote(f"output_dir='{job}'")} hydra.mode=RUN
"""
    )


@pytest.mark.parametrize(
    ("settings", "directives", "command"),
    [
        (["seed=1"], {"nodes": "1"}, "python -m hybrid_ir.train seed=1 "),
        (["trainer=gpu"], {"nodes": "1", "gpus-per-node": "1"}, "python -m hybrid_ir.train trainer=gpu "),
        (["trainer=ddp", "launcher.gpus_per_node=0"], {}, "torch.distributed.run --standalone --nproc-per-node=2 -m "),
    ],
)
def test_what_is_asked_for_without_settings(
    settings: list[str], directives: dict[str, str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", ["-m", "launcher=slurm", *settings, "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert {"gpus-per-node": None} | directives == {key: found.get(key) for key in {"gpus-per-node": "", **directives}}
    assert not {"array", "partition", "account", "mem", "cpus-per-task"} & set(found)
    assert command in lines[-1].replace(sys.executable, "python")


def test_further_options_of_sbatch(capsys: pytest.CaptureFixture[str]) -> None:
    """With a value, without one, and one that is given by default left out."""
    options = ["launcher.sbatch={exclusive: user}", "launcher.sbatch.overcommit=true", "launcher.sbatch.nice=1"]
    assert run_command("train", ["-m", "launcher=slurm", *options, "launcher.sbatch.requeue=false", "--dry-run"]) == 0
    lines = {line.removeprefix("#SBATCH --") for line in capsys.readouterr().out.splitlines()}
    assert {"exclusive=user", "overcommit", "nice=1"} < lines
    assert not [line for line in lines if line.startswith("requeue")]


def test_a_dry_run_is_of_what_the_sweep_lacks(cluster: Path, tmp_path: Path) -> None:
    """A complete job is left out, one that has begun goes on, under the names that they have there."""
    data = write_corpus(tmp_path)
    few = [setting for setting in small_run(data, data) if not setting.startswith("output_dir=")]
    folder = tmp_path / "sweeps" / "s"
    jobs = []
    with composer("train") as composing:
        for seed, name in ((1, "one"), (2, "two")):
            config, kept = prepare(composing, [*few, f"seed={seed}"])
            write_run_files(config, kept, folder / name)
            jobs.append({"name": name, "overrides": kept, "state": "completed"})
    (folder / "one" / "summary.json").write_text('{"steps": 10000, "benchmarks": [], "stopped_early": false}')
    record(folder, "train", jobs)
    command = [sys.executable, TRAIN, "-m", "launcher=slurm", *few, "seed=1,2,3", "sweep=s", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --array=0-1%2" in done.stdout
    what, runs = done.stdout.splitlines()[-2:]
    assert what.endswith("here of two:")
    assert shlex.quote(f"resume='{folder / 'two'}'") in runs
    assert not (folder / ".lock").exists()
    (folder / "two" / "summary.json").write_text((folder / "one" / "summary.json").read_text())
    command[command.index("seed=1,2,3")] = "seed=1,2"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"sweep {folder}: all 2 jobs are complete\n", done.stderr


def test_runs_of_earlier_versions_do_not_state_the_kind_of_launcher() -> None:
    read = TypeAdapter(LauncherConfig).validate_python({"jobs": 2, "time_limit_minutes": None})
    assert read == LocalLauncherConfig(jobs=2)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_found_before_anything_is_submitted(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", "launcher=slurm", "sweep=x"]
    said = refused(capsys, *sweep, "trainer=ddp", "trainer.devices=1,2")
    assert "trainer.devices=1,2: with launcher=slurm all jobs of a sweep have the same" in said
    assert "sampler.mono_ratio=2: must be" in refused(capsys, *sweep, "sampler.mono_ratio=0,2")
    assert "launcher=slurm: is how the jobs of a sweep run" in refused(capsys, "launcher=slurm")
    assert "launcher.partition=a: belongs to launcher=slurm" in refused(
        capsys, "-m", "launcher.partition=a", "seed=1,2"
    )
    assert "launcher.signal_seconds=5: must be" in refused(capsys, *sweep, "launcher.signal_seconds=5")
    said = refused(capsys, *sweep, "launcher.walltime_minutes=1")
    assert "launcher.signal_seconds=120: must be less than launcher.walltime_minutes=1, which are 60 s" in said
    for setting in ("launcher.partition=a,b", "launcher.jobs=1,2", "launcher.jobs=choice(2,3)"):
        assert "takes one value for the whole sweep" in refused(capsys, *sweep, setting)
    assert "launcher.kind=local,slurm: takes one value" in refused(capsys, "-m", "launcher=local,slurm")
    assert "launcher.jobs=1,2: takes one value" in refused(capsys, "-m", "launcher.jobs=1,2", "seed=1,2")
    assert "launcher=slurm: is how the jobs of a sweep run" in refused(capsys, "launcher='slurm'")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "submitit", None)
        assert "run pip install 'hybrid-ir[slurm]'" in refused(capsys, *sweep)
    assert not (tmp_path / "sweeps").exists()

    folder = tmp_path / "sweeps" / "x"
    folder.mkdir(parents=True)
    record(folder, "train", [{"name": "job=0", "overrides": [], "state": "not started", "batch_job": "700_0"}])
    (cluster / "700_0.queued").touch()
    assert "job job=0 was submitted as 700_0, which has not ended; wait, or stop it" in refused(capsys, *sweep)
    # whatever runs the jobs now, and whichever way the folder is named
    assert "job job=0 was submitted as 700_0" in refused(capsys, "-m", "sweep=x")
    named = f"hydra.sweep.dir={folder}"
    assert f"{named}: job job=0 was submitted as 700_0" in refused(capsys, "-m", named)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no sbatch on this machine" in refused(capsys, *sweep)
    said = refused(capsys, "-m", "sweep=x")
    assert "squeue does not say whether they have ended (No such file or directory); try again where it" in said
    record(folder, "train", [{"name": "job=0", "overrides": [], "state": "interrupted", "batch_job": "700_0"}])
    check_queue(folder)  # has ended, as far as anybody knows
    assert not list(cluster.glob("*.job"))


def test_what_squeue_fails_with_is_said(cluster: Path, tmp_path: Path) -> None:
    (cluster / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    jobs = [{"name": name, "overrides": [], "state": "running", "batch_job": "700"} for name in ("a", "b")]
    record(tmp_path, "train", jobs)
    with pytest.raises(ConfigError, match=r"whether they have ended \(Unable to contact slurm controller\)"):
        check_queue(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").touch()
    check_queue(tmp_path)  # all are complete


def test_a_run_is_told_once(tmp_path: Path) -> None:
    """By a preemption's SIGTERM and the SIGUSR2 that follows: a second signal would not wait for its state."""
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("ready", flush=True)
until = time.monotonic() + 1.5
while time.monotonic() < until:
    time.sleep(0.05)
"""
    task = BatchTask(tmp_path, [], [], devices=1, nodes=1, save_seconds=5)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        task._child = run.pid
        task._end(signal.SIGTERM, None)
        time.sleep(0.3)  # signals that wait at the same time are one
        task.checkpoint()
        assert run.stdout.read() == "told\n"


def test_what_sbatch_refuses_is_one_line(cluster: Path, tmp_path: Path) -> None:
    command = [sys.executable, TRAIN, "-m", "launcher=slurm", "launcher.partition=wrong", "seed=1,2", "sweep=x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: launcher=slurm: sbatch refuses the jobs (sbatch: error: invalid partition specified")
    assert not [path for path in (tmp_path / "sweeps" / "x" / ".slurm").rglob("*") if path.is_file()]


def test_ctrl_c_while_jobs_are_submitted_leaves_none(cluster: Path, tmp_path: Path) -> None:
    """A terminal sends it to sbatch as well."""
    command = [sys.executable, TRAIN, "-m", "launcher=slurm", "launcher.partition=slow", "seed=1,2", "sweep=x"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    until = time.monotonic() + 60
    while not (cluster / "asked").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert (cluster / "cancelled").read_text() == "100_0\n100_1\n"
    jobs = read_sweep(tmp_path / "sweeps" / "x")
    assert {(job["state"], job["batch_job"]) for job in jobs} == {("not started", "100_0"), ("not started", "100_1")}


# -------------------------------------------------------------------------------------------------------- real jobs


def sweep_of(data: Path, *settings: str) -> list[str]:
    """A sweep of jobs of seconds."""
    few = [setting for setting in small_run(data, data) if not setting.startswith("output_dir=")]
    return ["-m", "launcher=slurm", *few, "trainer.val_check_interval=null", "sweep=s", *settings]


def processes(word: str) -> list[psutil.Process]:
    """Those that have a text in their command."""
    return [p for p in psutil.process_iter(["cmdline"]) if word in " ".join(p.info["cmdline"] or [])]


def preempt(job: Path, number: int = signal.SIGUSR2) -> set[psutil.Process]:
    """Waits until a job trains, and sends all its processes the signal that Slurm sends before it stops them; returns
    its tasks."""
    until = time.monotonic() + 300
    while not list(job.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < until, [path.read_text() for path in job.glob("*.log")]
        time.sleep(0.02)
    tasks = set(processes("submitit.core._submit")) & {process.parent() for process in processes(f"'{job}'")}
    assert tasks
    for task in tasks:
        for process in [task, *task.children(recursive=True)]:
            process.send_signal(number)
    return tasks


def finished(running: subprocess.Popen[str], folder: Path) -> None:
    out, _ = running.communicate(timeout=600)
    logs = [path.read_text() for path in folder.rglob("*log*") if path.is_file()]
    assert running.returncode == 0, "\n".join([out, *logs])


@pytest.mark.slow
def test_a_job_that_is_put_in_the_queue_again_goes_on(cluster: Path, tmp_path: Path) -> None:
    """Of two jobs that train the same one is preempted: both end with the same bits."""
    few = ["trainer.max_steps=60", "checkpoint.every_n_steps=5", "logger.project=a,b"]
    command = [sys.executable, TRAIN, *sweep_of(write_corpus(tmp_path), *few)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "sweeps" / "s"
    one, other = (folder / f"logger.project={name}" for name in "ab")
    preempt(one)
    finished(running, folder)
    assert "resuming after step" in (one / "job.log").read_text()
    assert "resuming after step" not in (other / "job.log").read_text()
    assert [(job["name"], job["state"], job["exit_code"], job["batch_job"]) for job in read_sweep(folder)] == [
        ("logger.project=a", "completed", 0, "100_0"),
        ("logger.project=b", "completed", 0, "100_1"),
    ]
    first, second = (job / "model" / "model.safetensors" for job in (one, other))
    assert first.read_bytes() == second.read_bytes()

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 jobs, 2 of them complete" in again.stdout
    assert len(list(cluster.glob("*.job"))) == 1


@pytest.mark.slow
def test_a_job_that_the_cluster_preempts_goes_on(cluster: Path, tmp_path: Path) -> None:
    """SIGTERM, some time, the end, and the queue again: the task does not end before, and the run goes on."""
    few = ["trainer.max_steps=60", "checkpoint.every_n_steps=5"]
    command = [sys.executable, TRAIN, *sweep_of(write_corpus(tmp_path), *few)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    job = tmp_path / "sweeps" / "s" / "job=0"
    (task,) = preempt(job, signal.SIGTERM)
    until = time.monotonic() + 60
    while [child for child in task.children() if child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1)
    assert task.is_running()
    (cluster / "100.requeue").touch()
    task.kill()
    finished(running, job.parent)
    assert "resuming after step" in (job / "job.log").read_text()
    assert json.loads((job / "summary.json").read_text())["steps"] == 60


@pytest.mark.slow
def test_a_job_of_two_nodes_goes_on(cluster: Path, tmp_path: Path) -> None:
    """Each node's task starts torchrun; the run is saved by both, and both go on with it."""
    nodes = ["trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", "trainer.accelerator=cpu"]
    few = ["trainer.precision=32", "trainer.max_steps=30", "checkpoint.every_n_steps=5"]
    command = [sys.executable, TRAIN, *sweep_of(write_corpus(tmp_path), *nodes, *few)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "sweeps" / "s"
    preempt(folder / "job=0")
    finished(running, folder)
    assert "resuming after step" in (folder / "job=0" / "job.log").read_text()
    assert json.loads((folder / "job=0" / "summary.json").read_text())["steps"] == 30
    assert [(job["state"], job["exit_code"], job["batch_job"]) for job in read_sweep(folder)] == [
        ("completed", 0, "100")
    ]


@pytest.mark.slow
def test_a_signal_cancels_the_jobs(cluster: Path, tmp_path: Path) -> None:
    """The run ends; its task waits until Slurm ends it, since one that is only preempted has to stay in the queue."""
    few = ["trainer.max_steps=100000", "checkpoint.every_n_steps=5"]
    command = [sys.executable, TRAIN, *sweep_of(write_corpus(tmp_path), *few)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    job = tmp_path / "sweeps" / "s" / "job=0"

    until = time.monotonic() + 200
    while not list(job.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(processes(f"output_dir='{job}'")) == 1
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 143, out
    assert (cluster / "cancelled").read_text() == "100\n"
    assert [record["state"] for record in read_sweep(job.parent)] == ["interrupted"]
    while processes(f"output_dir='{job}'"):
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1)
    assert (cluster / "100.queued").exists()  # until Slurm has ended the task
    early = subprocess.run(command, capture_output=True, text=True, check=False)
    assert early.returncode == 2
    assert "job job=0 was submitted as 100, which has not ended" in early.stderr
    for task in processes("submitit.core._submit"):
        task.kill()
    while (cluster / "100.queued").exists():
        assert time.monotonic() < until
        time.sleep(0.02)

    again = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while "resuming after step" not in (job / "job.log").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    again.send_signal(signal.SIGTERM)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 143, out
    assert "1 to go on with" in out
