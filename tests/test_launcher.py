"""Child processes of sweeps and of runs on several devices: real ones, small."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hybrid_ir.composition import conf_dir
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching import sweep
from hybrid_ir.launching.devices import gpu_slots, gpus
from hybrid_ir.launching.display import Display
from hybrid_ir.launching.processes import available_threads
from hybrid_ir.launching.ranks import run_ranks
from hybrid_ir.launching.sweep import Job, job_names, last_lines, run_jobs, sweep_exit_code, swept_keys
from hybrid_ir.launching.sweep_folder import read_sweep, record, sweep_folder

REPOSITORY = conf_dir().parent


def job(folder: Path, number: int, code: str) -> Job:
    return Job(number, f"job={number}", folder / f"job={number}", [sys.executable, "-c", code])


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has waited for has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# ------------------------------------------------------------------------------------------------------------- jobs


def test_a_failed_job_does_not_stop_the_rest(tmp_path: Path) -> None:
    shown = Console(file=io.StringIO(), width=200)
    summary = tmp_path / "job=3" / "summary.json"
    jobs = [
        job(tmp_path, 0, "print('fine')"),
        job(tmp_path, 1, "import sys; print('almost'); sys.exit('it broke')"),
        job(tmp_path, 2, "import os; os.abort()"),
        job(tmp_path, 3, f"open({str(summary)!r}, 'w').write('{{\"monitor_value\": 0.25}}')"),
    ]
    results, received = run_jobs(jobs, display=Display(len(jobs), console=shown))
    assert received is None
    assert [r.state for r in results] == ["completed", "failed", "failed", "completed"]
    assert [r.exit_code for r in results] == [0, 1, 128 + signal.SIGABRT, 0]
    assert [r.monitor_value for r in results] == [None, None, None, 0.25]
    assert results[1].last_lines == ["almost", "it broke"]
    assert (tmp_path / "job=0" / "job.log").read_text() == "fine\n"
    said = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == 2 * len(jobs)
    assert said[2:4] == [
        f"[2/4] started    job=1   {tmp_path / 'job=1' / 'job.log'}",
        f"[2/4] failed     job=1   {results[1].seconds:.0f} s, exit code 1",
    ]
    assert sweep_exit_code(results) == 1
    assert sweep_exit_code([results[0], results[3]]) == 0


def test_jobs_side_by_side(tmp_path: Path) -> None:
    """Each of two jobs waits for a file that the other writes: one after the other they could not end."""
    code = (
        "import pathlib, time; f = pathlib.Path({folder!r}); (f / '{own}').touch()\n"
        "while not (f / '{other}').exists(): time.sleep(0.01)"
    )
    jobs = [
        job(tmp_path, 0, code.format(folder=str(tmp_path), own="a", other="b")),
        job(tmp_path, 1, code.format(folder=str(tmp_path), own="b", other="a")),
    ]
    results, _ = run_jobs(jobs, parallel=2, time_limit=20)
    assert [r.state for r in results] == ["completed", "completed"]


def test_a_job_past_its_time_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "STOP_SECONDS", 0.5)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    results, _ = run_jobs([job(tmp_path, 0, code), job(tmp_path, 1, "")], time_limit=2)
    assert [r.state for r in results] == ["timed out", "completed"]
    assert results[0].exit_code == 128 + signal.SIGKILL
    assert results[0].seconds < 20
    grandchild = int((tmp_path / "job=0" / "job.log").read_text())
    wait_for(lambda: gone(grandchild))


def test_jobs_side_by_side_have_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six jobs on three pairs of GPUs: no two that run at the same time share one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5,6,7")
    assert gpus() == ["0", "2", "3", "5", "6", "7"]
    code = (
        "import os, pathlib, time; mine = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
        "print(*mine)\n"
        f"held = [pathlib.Path({str(tmp_path)!r}, 'gpu' + one) for one in mine]\n"
        "[one.touch(exist_ok=False) for one in held]; time.sleep(0.3); [one.unlink() for one in held]"
    )
    jobs = [job(tmp_path, number, code) for number in range(6)]
    results, _ = run_jobs(jobs, parallel=3, slots=gpu_slots(3, 2))
    assert [r.exit_code for r in results] == [0] * 6
    pairs = {(tmp_path / one.name / "job.log").read_text() for one in jobs}
    assert pairs == {"0 2\n", "3 5\n", "6 7\n"}
    with pytest.raises(ConfigError, match=r"need 8, there are 6; use launcher.jobs=1"):
        gpu_slots(2, 4)


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,0")
    assert gpus() == ["1"]


def test_complete_jobs_are_not_run_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, number, f"print({number})") for number in range(3)]
    for one in jobs[:2]:
        one.folder.mkdir()
        (one.folder / "summary.json").write_text('{"monitor_value": 0.5}')
    seen: list[list[str]] = []
    results, _ = run_jobs(
        jobs, complete={"job=0", "job=1"}, changed=lambda results: seen.append([r.state for r in results])
    )
    assert [(r.state, r.skipped, r.monitor_value) for r in results] == [
        ("completed", True, 0.5),
        ("completed", True, 0.5),
        ("completed", False, None),
    ]
    assert not (tmp_path / "job=0" / "job.log").exists()
    assert [states[2] for states in seen] == ["not started", "running", "completed"]


def test_the_list_of_jobs_outlives_the_process_that_runs_them(tmp_path: Path) -> None:
    jobs = [job(tmp_path, number, "") for number in range(2)]

    def changed(results: list[sweep.JobResult]) -> None:
        record(tmp_path, "train", [result.as_record() for result in results])

    run_jobs(jobs[:1], changed=changed)
    run_jobs([jobs[1], jobs[0]], changed=changed)  # another batch, and one of the first again
    assert [(j["name"], j["state"], j["exit_code"]) for j in read_sweep(tmp_path)] == [
        ("job=1", "completed", 0),
        ("job=0", "completed", 0),
    ]
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sweep.json: cannot be read"):
        read_sweep(tmp_path)


def test_a_sweep_is_named_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep_folder("ratios") == tmp_path / "sweeps" / "ratios"
    assert sweep_folder("here/ratios") == tmp_path / "here" / "ratios"
    assert sweep_folder(str(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(ConfigError, match="is empty"):
        sweep_folder(" ")


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    """Step, value and time left of a job come from the file that it keeps; those of ended jobs from their results."""
    shown = Console(file=io.StringIO(), width=120, height=40, force_terminal=True)
    display = Display(4, 2, shown)
    jobs = [job(tmp_path, number, "") for number in range(3)]
    with display:
        for one in jobs:
            one.folder.mkdir()
            display.started(one, one.folder / "job.log")
        progress = {"step": 30, "max_steps": 1200, "seconds_left": 7200, "loss": 2.5, "value": None}
        (jobs[1].folder / "progress.json").write_text(json.dumps(progress))
        display.ended(jobs[0], "completed", "60 s, monitor 0.5", 600.0)
        shown.print(display._table())
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 4 jobs ended" in text
    assert "30/1,200" in text
    assert "loss 2.500" in text
    assert "2.0 hours" in text
    assert "preparing" in text
    # two run with ten minutes each to go, one has not begun: thirty minutes of work, two at a time
    assert "about 15.0 minutes left" in text


SWEEP = """
import sys
from pathlib import Path
from hybrid_ir.launching.sweep import Job, run_jobs
code = '''
import signal, sys, time
def stop(number, frame):
    print("saved after", number, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
'''
folder = Path(sys.argv[1])
jobs = [Job(n, str(n), folder / str(n), [sys.executable, "-c", code]) for n in range(3)]
results, received = run_jobs(jobs, parallel=2)
print([r.state for r in results], [r.exit_code for r in results])
sys.exit(128 + received)
"""


def start_sweep(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    running = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    logs = [folder / str(n) / "job.log" for n in range(2)]
    wait_for(lambda: all(log.exists() and "ready\n" in log.read_text() for log in logs))
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_running_job_once(tmp_path: Path, number: int) -> None:
    running = start_sweep(tmp_path)
    running.send_signal(number)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    last = out.splitlines()[-1]
    code = 128 + number
    assert last == f"['interrupted', 'interrupted', 'not started'] [{code}, {code}, None]"
    for job_number in range(2):
        assert (tmp_path / str(job_number) / "job.log").read_text() == f"ready\nsaved after {int(number)}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_jobs_do_not_outlive_a_sweep_that_is_killed(tmp_path: Path) -> None:
    running = start_sweep(tmp_path)
    running.kill()
    running.wait()
    wait_for(lambda: all("saved after 15" in (tmp_path / str(n) / "job.log").read_text() for n in range(2)))


def test_the_end_of_a_log_with_a_progress_bar(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n10%\r20%\r30%\n\nlast \xff line\n")
    assert last_lines(log) == ["one", "30%", "last \ufffd line"]
    assert last_lines(tmp_path / "none") == []


# ------------------------------------------------------------------------------------------------------------ names


def test_a_job_is_named_by_the_swept_keys() -> None:
    settings = ["data=cldr", "sampler.mono_ratio=0,0.5", "seed=1,2", "trainer.max_steps=3"]
    jobs = [
        ["data=cldr", f"sampler.mono_ratio={r}", f"seed={s}", "trainer.max_steps=3"] for r in (0, 0.5) for s in (1, 2)
    ]
    assert job_names(jobs, swept_keys(settings, {}, jobs)) == [
        "sampler.mono_ratio=0,seed=1",
        "sampler.mono_ratio=0,seed=2",
        "sampler.mono_ratio=0.5,seed=1",
        "sampler.mono_ratio=0.5,seed=2",
    ]
    # a search asks for one job at a time, and swept keys may come from the configuration
    swept = swept_keys(["seed=1"], {"sampler": "x_y,hybrid"})
    assert job_names([["sampler=x_y", "seed=1"]], swept, 7) == ["sampler=x_y"]
    assert job_names([["seed=1"]], swept_keys(["seed=1"], {}), 7) == ["job=7"]
    folder = [["++model.name_or_path='a/b c'"], ["++model.name_or_path='a b c'"]]
    names = job_names(folder, swept_keys([], {}, folder))
    assert names == ["model.name_or_path=a_b_c", "model.name_or_path=a_b_c,job=1"]


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True))
def test_job_folders_are_plain_and_differ(values: list[str]) -> None:
    jobs = [[f"model.query_prefix={value}"] for value in values]
    names = job_names(jobs, {"model.query_prefix"})
    assert len(set(names)) == len(values)
    for name in names:
        assert len(name.encode()) <= 255
        assert not set(name) & set("/\\\0\n '\"")


# ------------------------------------------------------------------------------------------------------------ ranks

RANK = "import os, sys, time; rank = int(os.environ['RANK']); "


def test_ranks_know_each_other_and_their_threads(tmp_path: Path) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
    code = RANK + (f"import json; json.dump({{n: os.environ[n] for n in {names}}}, open(f'{tmp_path}/{{rank}}', 'w'))")
    assert run_ranks([sys.executable, "-c", code], 3, threads=1) == 0
    seen = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [s["RANK"] for s in seen] == [s["LOCAL_RANK"] for s in seen] == ["0", "1", "2"]
    assert {(s["WORLD_SIZE"], s["LOCAL_WORLD_SIZE"], s["OMP_NUM_THREADS"]) for s in seen} == {("3", "3", "1")}
    assert len({(s["MASTER_ADDR"], s["MASTER_PORT"]) for s in seen}) == 1


def test_the_exit_code_is_that_of_the_rank_that_failed() -> None:
    """The other waits for ever, as in a collective whose peer is gone; it is stopped."""
    began = time.monotonic()
    assert run_ranks([sys.executable, "-c", RANK + "time.sleep(60) if rank else sys.exit(2)"], 2) == 2
    assert time.monotonic() - began < 20


def test_a_rank_behind_the_first_that_fails_stops_the_others() -> None:
    code = RANK + "sys.exit(3) if rank == 1 else time.sleep(60)"
    begin = time.monotonic()
    assert run_ranks([sys.executable, "-c", code], 3) == 3
    assert time.monotonic() - begin < 50


@pytest.mark.torch
def test_ranks_form_a_process_group() -> None:
    code = (
        "import torch, torch.distributed as dist; dist.init_process_group('gloo'); x = torch.ones(1) * dist.get_rank();"
        "dist.all_reduce(x); dist.destroy_process_group(); raise SystemExit(int(x.item()))"
    )
    assert run_ranks([sys.executable, "-c", code], 3, threads=1) == 0 + 1 + 2


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert available_threads() == len(os.sched_getaffinity(0))


# ----------------------------------------------------------------------------------------------------- the commands


def small_data(folder: Path) -> list[str]:
    """A corpus of a few lines and the settings of a run of seconds on it."""
    lines = [
        {"id": str(i), "language": code, "query": f"{code} question {i}", "passage": f"{code} passage {i} of {i * 7}"}
        for i in range(30)
        for code in ("en", "de", "fr")
    ]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return [
        "data=parallel_jsonl", "data.path=a.jsonl", "benchmark=[]", "batch_size=4", "trainer.max_steps=2",
        "trainer.val_check_interval=null", "model.vocab_size=400", "model.hidden_size=16",
        "model.intermediate_size=16", "data.validation.queries_per_language=3", "threads=1",
    ]  # fmt: skip


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_sweep_whose_folder_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sw" / "seed=2").mkdir(parents=True)
    (tmp_path / "sw" / "seed=2" / "config.yaml").write_text("")
    done = train(tmp_path, "-m", "seed=1,2", "hydra.sweep.dir=sw")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: hydra.sweep.dir=sw: the folder of job seed=2 is not empty")
    assert "sweep=sw instead goes on" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sw" / "seed=1").exists()


@pytest.mark.slow
@pytest.mark.torch
def test_a_sweep_from_the_command_line(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "seed=1,2", "sampler.mono_ratio=0,1", "launcher.jobs=2", *small_data(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "sweeps").iterdir()
    names = {f"seed={seed},sampler.mono_ratio={ratio}" for seed in (1, 2) for ratio in (0, 1)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    for name in names:
        assert (folder / name / "results.csv").is_file()
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert f"seed={config['seed']},sampler.mono_ratio={config['sampler']['mono_ratio']:g}" == name
        assert name in done.stdout
    # the folder of a job as it is, with the characters that mean something to Hydra
    again = train(tmp_path, f"resume={(folder / 'seed=1,sampler.mono_ratio=0').relative_to(tmp_path)}")
    assert again.returncode in (0, 2), again.stdout + again.stderr
    assert "cannot be read" not in again.stderr


@pytest.mark.slow
@pytest.mark.torch
def test_a_job_that_fails_in_a_real_sweep(tmp_path: Path) -> None:
    """More rows than passages: found with the data at hand, by the job."""
    done = train(tmp_path, "-m", "batch_size=4,128", *[s for s in small_data(tmp_path) if "batch_size" not in s])
    assert done.returncode == 2
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert (folder / "batch_size=4" / "results.csv").is_file()
    assert "error: " in (folder / "batch_size=128" / "job.log").read_text()
    assert "failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=1", "sweep=x"], "sweep=x: names a sweep, and this is one run; add -m, or leave it out"),
        (["-m", "seed=1,2", "sweep=x", "hydra.sweep.dir=y"], "sweep=x: hydra.sweep.dir=y names its folder too"),
    ],
)
def test_a_sweep_that_cannot_be_named_so(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = train(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.torch
def test_the_same_command_completes_a_sweep(tmp_path: Path) -> None:
    """One job is killed while it trains, one fails; what was complete stays as it is, and all end as if undisturbed."""
    settings = [
        *[s for s in small_data(tmp_path) if "max_steps" not in s],
        "trainer.max_steps=100", "checkpoint.every_n_steps=5", "checkpoint.export=last",
    ]  # fmt: skip
    command = ["-m", "seed=1,2,3", *settings]
    whole = train(tmp_path, *command, "sweep=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = tmp_path / "sweeps" / "broken"
    (folder / "seed=3" / "checkpoints").mkdir(parents=True)
    (folder / "seed=3" / "config.yaml").mkdir()  # nobody can write there
    refused = train(tmp_path, *command, "sweep=broken")
    assert refused.returncode == 2
    assert "job seed=3: is not empty" in refused.stderr
    (folder / "seed=3" / "config.yaml").rmdir()
    (folder / "seed=3" / "checkpoints").rmdir()
    (folder / "seed=3").rmdir()

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    begun = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *command, "sweep=broken"],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for((folder / "seed=1" / "job.log").exists, 120)
    second = train(tmp_path, *command, "sweep=broken")
    assert second.returncode == 2
    assert "another process" in second.stderr
    wait_for(lambda: any((folder / "seed=2" / "checkpoints").glob("*.ckpt")), 120)
    begun.kill()
    begun.wait()
    states = {one["name"]: one["state"] for one in read_sweep(folder)}
    assert states == {"seed=1": "completed", "seed=2": "running", "seed=3": "not started"}
    first = {path: path.stat().st_mtime_ns for path in (folder / "seed=1").rglob("*")}

    other = train(tmp_path, *[s.replace("batch_size=4", "batch_size=6") for s in command], "sweep=broken")
    assert other.returncode == 2
    assert "job seed=1: batch_size=6: a resumed run keeps batch_size=4" in other.stderr

    again = train(tmp_path, *command, "sweep=broken")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 jobs, 1 of them complete, 1 to go on with" in again.stdout
    assert "resuming after step" in (folder / "seed=2" / "job.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in (folder / "seed=1").rglob("*")} == first
    for seed in (1, 2, 3):
        mine, theirs = (tmp_path / "sweeps" / name / f"seed={seed}" / "model" for name in ("broken", "whole"))
        assert (mine / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert [one["state"] for one in read_sweep(folder)] == ["completed"] * 3


@pytest.mark.slow
@pytest.mark.torch
def test_a_sweep_grows_and_keeps_its_jobs(tmp_path: Path) -> None:
    """More seeds later: the jobs that are there keep their names, and what differs from them is refused."""
    settings = small_data(tmp_path)
    first = ["-m", "sampler.mono_ratio=0,1", "sweep=grows", *settings]
    assert train(tmp_path, *first, "seed=1").returncode == 0
    folder = tmp_path / "sweeps" / "grows"
    assert {one["name"] for one in read_sweep(folder)} == {"sampler.mono_ratio=0", "sampler.mono_ratio=1"}
    seconds = [one["seconds"] for one in read_sweep(folder)]
    more = train(tmp_path, *first, "seed=1,2")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "4 jobs, 2 of them complete" in more.stdout
    names = [one["name"] for one in read_sweep(folder)]
    assert names == [
        "sampler.mono_ratio=0", "sampler.mono_ratio=1", "sampler.mono_ratio=0,seed=2", "sampler.mono_ratio=1,seed=2",
    ]  # fmt: skip
    assert [one["seconds"] for one in read_sweep(folder)][:2] == seconds
    without = [setting for setting in first if "intermediate_size" not in setting]
    refused = train(tmp_path, *without, "seed=1,2")
    assert refused.returncode == 2
    assert "model.intermediate_size=" in refused.stderr
    assert "it has 16 there" in refused.stderr
    models = [
        "-m",
        f"model.name_or_path={folder / 'sampler.mono_ratio=0'},{folder / 'sampler.mono_ratio=1'}",
        "sweep=e",
    ]
    evaluations = [*models, "benchmark.cldr.languages=[de,en]", "threads=1"]
    command = [sys.executable, str(REPOSITORY / "evaluate.py"), *evaluations]
    for limit, code, said in (
        (4, 0, "2 jobs"),
        (4, 0, "2 of them complete"),
        (5, 2, "benchmark.cldr.limit=5, it has 4"),
    ):
        done = subprocess.run(
            [*command, f"benchmark.cldr.limit={limit}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert said in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.torch
def test_evaluations_side_by_side(tmp_path: Path) -> None:
    from small_runs import exported_model  # which imports torch

    model = exported_model(tmp_path / "model")
    cldr = ["benchmark=[cldr]", "benchmark.cldr.languages=[en]", "benchmark.cldr.limit=2", "accelerator=cpu"]
    settings = [f"model.name_or_path={model}", *cldr, "evaluation.shard_size=8,16", "launcher.jobs=2", "sweep=e"]
    command = [sys.executable, str(REPOSITORY / "evaluate.py"), "-m", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs, 2 side by side" in done.stdout
    assert done.stdout.index("completed") > done.stdout.rindex("started")
    assert {one["state"] for one in read_sweep(tmp_path / "sweeps" / "e")} == {"completed"}


@pytest.mark.slow
@pytest.mark.torch
def test_jobs_share_what_is_made_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    settings = small_data(tmp_path)
    monkeypatch.setenv("HYBRID_IR_CACHE", str(cache))
    done = train(tmp_path, "-m", "seed=1,2", *settings, "sweep=shared")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [(tmp_path / "sweeps" / "shared" / f"seed={seed}" / "train.log").read_text() for seed in (1, 2)]
    made = [int(re.search(r"(\d+) rows tokenised", log).group(1)) for log in logs]  # type: ignore[union-attr]
    assert made[0] > 0
    assert made[1] == 0
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert train(tmp_path, *settings, "seed=3", "output_dir=third").returncode == 0
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) == size


@pytest.mark.slow
@pytest.mark.torch
def test_a_dry_run_of_a_sweep_measures_one_job(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "seed=1,2,3", "launcher.jobs=2", "--dry-run", *small_data(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 jobs like it" in done.stdout
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
@pytest.mark.torch
def test_two_processes_from_the_command_line(tmp_path: Path) -> None:
    done = train(tmp_path, *small_data(tmp_path), "trainer=ddp", "trainer.precision=32", "output_dir=out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "results.csv").is_file()


@pytest.mark.slow
@pytest.mark.torch
def test_jobs_of_two_processes_in_a_sweep(tmp_path: Path) -> None:
    """Each job starts its own processes: one trains, the other has more rows than the data has passages."""
    settings = [s for s in small_data(tmp_path) if "batch_size" not in s]
    devices = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32"]
    done = train(tmp_path, "-m", "batch_size=4,128", *settings, *devices, "sweep=two")
    assert done.returncode == 2, done.stdout + done.stderr
    folder = tmp_path / "sweeps" / "two"
    assert [(job["name"], job["state"], job["exit_code"]) for job in read_sweep(folder)] == [
        ("batch_size=4", "completed", 0),
        ("batch_size=128", "failed", 2),
    ]
    assert yaml.safe_load((folder / "batch_size=4" / "config.yaml").read_text())["trainer"]["devices"] == 2
    assert (folder / "batch_size=4" / "results.csv").is_file()
    assert (folder / "batch_size=128" / "job.log").read_text().count("error: ") == 1


@pytest.mark.slow
@pytest.mark.torch
def test_a_fault_found_by_two_processes_is_one_line(tmp_path: Path) -> None:
    settings = [s for s in small_data(tmp_path) if "batch_size" not in s]
    done = train(tmp_path, *settings, "trainer=ddp", "trainer.precision=32", "batch_size=128", "output_dir=out")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not (tmp_path / "out").exists()
