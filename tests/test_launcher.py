"""Child processes of sweeps and of runs on several devices: real ones, small."""

from __future__ import annotations

import json
import os
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

from hybrid_ir.composition import conf_dir
from hybrid_ir.launching import sweep
from hybrid_ir.launching.processes import available_threads
from hybrid_ir.launching.ranks import run_ranks
from hybrid_ir.launching.sweep import Job, job_names, last_lines, run_jobs, sweep_exit_code, swept_keys

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
    said: list[str] = []
    summary = tmp_path / "job=3" / "summary.json"
    jobs = [
        job(tmp_path, 0, "print('fine')"),
        job(tmp_path, 1, "import sys; print('almost'); sys.exit('it broke')"),
        job(tmp_path, 2, "import os; os.abort()"),
        job(tmp_path, 3, f"open({str(summary)!r}, 'w').write('{{\"monitor_value\": 0.25}}')"),
    ]
    results, received = run_jobs(jobs, say=said.append)
    assert received is None
    assert [r.state for r in results] == ["completed", "failed", "failed", "completed"]
    assert [r.exit_code for r in results] == [0, 1, 128 + signal.SIGABRT, 0]
    assert [r.monitor_value for r in results] == [None, None, None, 0.25]
    assert results[1].last_lines == ["almost", "it broke"]
    assert (tmp_path / "job=0" / "job.log").read_text() == "fine\n"
    assert len(said) == 2 * len(jobs)
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
    results, _ = run_jobs(jobs, parallel=2, time_limit=20, say=lambda line: None)
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
    results, _ = run_jobs([job(tmp_path, 0, code), job(tmp_path, 1, "")], time_limit=2, say=lambda line: None)
    assert [r.state for r in results] == ["timed out", "completed"]
    assert results[0].exit_code == 128 + signal.SIGKILL
    assert results[0].seconds < 20
    grandchild = int((tmp_path / "job=0" / "job.log").read_text())
    wait_for(lambda: gone(grandchild))


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
    wait_for(lambda: all(log.exists() and "ready" in log.read_text() for log in logs))
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
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sw" / "seed=1").exists()


@pytest.mark.slow
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
def test_a_job_that_fails_in_a_real_sweep(tmp_path: Path) -> None:
    """More rows than passages: found with the data at hand, by the job."""
    done = train(tmp_path, "-m", "batch_size=4,128", *[s for s in small_data(tmp_path) if "batch_size" not in s])
    assert done.returncode == 2
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert (folder / "batch_size=4" / "results.csv").is_file()
    assert "error: " in (folder / "batch_size=128" / "job.log").read_text()
    assert "failed" in done.stdout


@pytest.mark.slow
def test_two_processes_from_the_command_line(tmp_path: Path) -> None:
    done = train(tmp_path, *small_data(tmp_path), "trainer=ddp", "trainer.precision=32", "output_dir=out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "results.csv").is_file()


@pytest.mark.slow
def test_a_fault_found_by_two_processes_is_one_line(tmp_path: Path) -> None:
    settings = [s for s in small_data(tmp_path) if "batch_size" not in s]
    done = train(tmp_path, *settings, "trainer=ddp", "trainer.precision=32", "batch_size=128", "output_dir=out")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not (tmp_path / "out").exists()
