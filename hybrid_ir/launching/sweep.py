"""The jobs of a sweep: each a child process in a folder named by the swept keys; a failed job stops no other.

A sweep that is begun again skips the jobs that are complete and resumes those that were interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Literal

from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.display import Display
from hybrid_ir.launching.processes import (
    GRACE_SECONDS,
    SignalRelay,
    available_threads,
    child_environment,
    exit_code,
    kill_group,
    send,
    start,
)
from hybrid_ir.launching.sweep_folder import is_complete, read_sweep, record
from hybrid_ir.run_folder import CONFIG_FILE, SUMMARY_FILE, read_run_config

TRAIN, EVALUATE = "hybrid_ir.train", "hybrid_ir.evaluate"
SUMMARY = "hybrid_ir.tracking.summary"
LOG_FILE = "job.log"
STOP_SECONDS = 30.0
"""How long a job may take to end after its time limit before its process group is killed."""

State = Literal["not started", "running", "completed", "failed", "timed out", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One combination of a sweep.

    Attributes:
        number: position in the sweep, from 0.
        name: swept keys and values; name of the folder.
        folder: where the job writes.
        command: the child process, where it is one of this machine's.
        overrides: the job's settings.
    """

    number: int
    name: str
    folder: Path
    command: Sequence[str]
    overrides: Sequence[str] = ()


@dataclass
class JobResult:
    """How a job ended.

    Attributes:
        exit_code: as a shell gives it; None for a job that was not started.
        seconds: wall time.
        monitor_value: the value that the job's ``summary.json`` states, or None.
        last_lines: end of the log of a job that did not complete.
        skipped: it was complete before this sweep began.
        batch_job: number of the batch job that runs it on a cluster.
    """

    job: Job
    state: State = "not started"
    exit_code: int | None = None
    seconds: float = 0.0
    monitor_value: float | None = None
    last_lines: list[str] = field(default_factory=list)
    skipped: bool = False
    batch_job: str | None = None

    def as_record(self) -> dict[str, Any]:
        """What ``sweep.json`` keeps of it."""
        return {
            "name": self.job.name,
            "overrides": list(self.job.overrides),
            "state": self.state,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
            "monitor_value": self.monitor_value,
            **({} if self.batch_job is None else {"batch_job": self.batch_job}),
        }


@dataclass
class _Running:
    job: Job
    result: JobResult
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    limit: float | None
    slot: int
    kill_at: float | None = None


@dataclass
class Session:
    """What the command line knows of the sweep that Hydra's sweeper, in the same process, calls `launch_batch` for.

    Attributes:
        results: of the jobs so far; the final table is made of it.
        complete: names of the jobs that need not run.
        names: names of the jobs by their settings, where the sweep has them already.
        slots: environments of the jobs that run side by side, one for each; empty where they need none.
        trials: how many jobs a sweeper that searches will ask for; None where all jobs are known.
        batch: a job's configuration, of which all have the devices, where jobs run on a cluster.
    """

    results: list[JobResult] = field(default_factory=list)
    complete: set[str] = field(default_factory=set)
    names: dict[tuple[str, ...], str] = field(default_factory=dict)
    slots: list[dict[str, str]] = field(default_factory=list)
    trials: int | None = None
    batch: TrainConfig | None = None


SESSION = Session()


def run_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    time_limit: float | None = None,
    environment: Mapping[str, str] | None = None,
    slots: Sequence[Mapping[str, str]] = (),
    display: Display | None = None,
    changed: Callable[[Sequence[JobResult]], None] = lambda results: None,
    complete: Collection[str] = (),
) -> tuple[list[JobResult], int | None]:
    """Runs jobs as child processes, ``parallel`` at a time, each with its output in ``<folder>/job.log``.

    Args:
        jobs: in the order in which they are started.
        parallel: how many run side by side.
        time_limit: seconds after which a job is stopped; None has no limit.
        environment: additions to the children's environment.
        slots: further additions, one for each job that runs side by side: a job has the slot's until it ends.
        display: where starts, ends and what happens between are shown.
        changed: called with all results whenever a job starts or ends.
        complete: names of jobs that are not run: their folders hold complete runs.

    Returns:
        A result for each job, in the same order, and the signal that ended the sweep early (None when none did).
    """
    display = display or Display(len(jobs))
    results = begin(jobs, complete, display)
    waiting = [result for result in results if not result.skipped]
    running: list[_Running] = []
    free = list(range(parallel))
    changed(results)
    with SignalRelay() as relay, display:
        while running or (waiting and relay.received is None):
            while waiting and free and relay.received is None:
                result, slot = waiting.pop(0), free.pop(0)
                own = {**(environment or {}), **(slots[slot] if slots else {})}
                running.append(_start(result, own, time_limit, slot))
                relay.children = [r.process for r in running]
                if relay.received is not None:  # it came while the child was being started
                    send(running[-1].process, relay.received)
                display.started(result.job, result.job.folder / LOG_FILE)
                changed(results)
            time.sleep(0.05)
            for one in list(running):
                _enforce(one, relay.received)
                if one.process.poll() is not None:
                    running.remove(one)
                    free.append(one.slot)
                    relay.children = [r.process for r in running]
                    _finish(one, relay.received)
                    display.ended(one.result.job, one.result.state, summary(one.result), one.result.seconds)
                    changed(results)
            display.tick()
    return results, relay.received


def begin(jobs: Sequence[Job], complete: Collection[str], display: Display) -> list[JobResult]:
    """A result for each job, those of the complete ones with what they hold."""
    results = [JobResult(job) for job in jobs]
    for result in results:
        if result.job.name in complete:
            result.state, result.exit_code, result.skipped = "completed", 0, True
            result.monitor_value = monitor_value(result.job.folder)
            display.ended(result.job, "complete", "before")
    return results


def _start(result: JobResult, environment: Mapping[str, str], limit: float | None, slot: int) -> _Running:
    folder = result.job.folder
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / LOG_FILE, "ab")  # noqa: SIM115 - open as long as the job runs
    process = start(result.job.command, child_environment(environment), log)
    result.state = "running"
    return _Running(result.job, result, process, log, time.monotonic(), limit, slot)


def _enforce(one: _Running, received: int | None) -> None:
    now = time.monotonic()
    if one.kill_at is None:
        if received is not None:
            one.kill_at = now + GRACE_SECONDS
        elif one.limit is not None and now - one.started > one.limit:
            one.result.state = "timed out"
            send(one.process, signal.SIGTERM)
            one.kill_at = now + STOP_SECONDS
    elif now > one.kill_at:
        kill_group(one.process)


def _finish(one: _Running, received: int | None) -> None:
    kill_group(one.process)  # whatever the job has left behind in its group
    one.log.close()
    result = one.result
    result.seconds = time.monotonic() - one.started
    result.exit_code = exit_code(one.process.returncode)
    if result.state != "timed out":
        interrupted = received is not None and result.exit_code != 0
        result.state = "completed" if result.exit_code == 0 else "interrupted" if interrupted else "failed"
    result.monitor_value = monitor_value(one.job.folder) if result.state == "completed" else None
    if result.state != "completed":
        result.last_lines = last_lines(one.job.folder / LOG_FILE)


def summary(result: JobResult) -> str:
    """Time, monitor and exit code of a job that has ended."""
    monitor = "" if result.monitor_value is None else f", monitor {result.monitor_value:.4f}"
    code = "" if not result.exit_code else f", exit code {result.exit_code}"
    return f"{result.seconds:.0f} s{monitor}{code}"


def monitor_value(folder: Path) -> float | None:
    """What the ``summary.json`` of a complete run says about its monitor; None without one."""
    try:
        value = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["monitor_value"]
        return float(value) if value is not None and math.isfinite(value) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The last lines of a log that hold anything; of a line that a progress bar has rewritten, its last state."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line.strip()][-count:]


# ------------------------------------------------------------------------------------------------------------ names


def swept_keys(settings: Sequence[str], params: Mapping[str, Any], jobs: Sequence[Sequence[str]] = ()) -> set[str]:
    """Keys that take several values: those with a sweep as value, and those that differ in ``jobs``."""
    from hybrid_ir.composition import parse_settings

    given = [*[f"{key}={value}" for key, value in params.items()], *settings]
    swept = {bare(str(o.key_or_group)) for o in parse_settings(given) if o.is_sweep_override()}
    values: dict[str, set[str]] = {}
    for job in jobs:
        for setting in job:
            key, _, value = setting.partition("=")
            values.setdefault(bare(key), set()).add(value)
    return swept | {key for key, seen in values.items() if len(seen) > 1}


def sweeper_params(hydra_config: Any) -> dict[str, Any]:
    """``hydra.sweeper.params``: settings of a sweep that stand in its configuration."""
    from omegaconf import OmegaConf

    params = OmegaConf.to_container(hydra_config.hydra.sweeper.get("params") or OmegaConf.create({}), resolve=True)
    assert isinstance(params, dict)
    return {str(key): value for key, value in params.items()}


def known_names(folder: Path) -> dict[frozenset[str], str]:
    """Names of the jobs that a sweep has, by their settings; of a job that is there twice, the first."""
    names: dict[frozenset[str], str] = {}
    for job in read_sweep(folder):
        names.setdefault(frozenset(run_settings(job["overrides"])), job["name"])
    return names


def job_names(jobs: Sequence[Sequence[str]], swept: set[str], first: int = 0) -> list[str]:
    """A folder name for each job: the swept keys with their values, e.g. ``sampler.mono_ratio=0.25,seed=1``.

    Characters that a file system or a shell takes for something else become ``_``; names that are too long or are
    given twice get a number.
    """
    names: list[str] = []
    for number, job in enumerate(jobs, start=first):
        parts = []
        for setting in job:
            key, _, value = setting.partition("=")
            if bare(key) in swept:
                parts.append(f"{bare(key)}={_clean(value)}")
        name = ",".join(parts) or f"job={number}"
        if len(name.encode()) > 200:
            digest = hashlib.sha256(",".join(job).encode()).hexdigest()[:10]
            name = name.encode()[:180].decode(errors="ignore") + "," + digest
        names.append(f"{name},job={number}" if name in names else name)
    return names


def run_settings(settings: Sequence[str]) -> list[str]:
    """A job's settings without those of the launcher, which say nothing about the run."""
    return [s for s in settings if bare(s.partition("=")[0]).partition(".")[0] != "launcher"]


def bare(key: str) -> str:
    """A key or group as a name of the configuration, without what Hydra lets it begin with."""
    return key.lstrip("+~").replace("/", ".")


def _clean(value: str) -> str:
    return re.sub(r"[^\w.+,@-]+", "_", value).strip("_") or "_"


# ------------------------------------------------------------------------------------------------- Hydra's launcher


def job_arguments(overrides: Sequence[str], folder: Path, begun: bool, flags: Sequence[str] = ()) -> list[str]:
    """What the command of a job is given: the same as for one run, in its own folder, which goes on if it has begun."""
    from hybrid_ir.composition import quote

    key = "resume" if begun else "output_dir"
    return [*flags, *run_settings(overrides), f"{key}={quote(str(folder))}", "hydra.mode=RUN"]


def launch_batch(config: Any, job_overrides: Sequence[Sequence[str]], initial_number: int) -> list[Any]:
    """Runs the jobs that Hydra's sweeper asks for.

    Args:
        config: the composed configuration, Hydra's part included.
        job_overrides: settings of each job.
        initial_number: number of the first.

    Returns:
        A ``JobReturn`` for each job with the value of its monitor, which is what a sweeper that searches optimises.

    Raises:
        SystemExit: a signal ended the sweep (130, 143).
    """
    from hydra.core.utils import JobReturn, JobStatus

    sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
    settings = [str(s) for s in config.hydra.overrides.task]
    jobs_settings = [list(job) for job in job_overrides]
    swept = swept_keys(settings, sweeper_params(config), jobs_settings)
    names = [
        SESSION.names.get(tuple(job), name)
        for job, name in zip(jobs_settings, job_names(jobs_settings, swept, initial_number), strict=True)
    ]
    complete = set(SESSION.complete)
    if SESSION.trials is not None:  # what a search asks for is not known before: it may have been run already
        known = known_names(sweep_dir)
        names = [known.get(frozenset(run_settings(job)), name) for job, name in zip(jobs_settings, names, strict=True)]
        names = [  # a draw may have a trial twice
            f"{name},job={initial_number + offset}" if name in names[:offset] else name
            for offset, name in enumerate(names)
        ]
        there = {job["name"] for job in read_sweep(sweep_dir)}
        complete |= {name for name in names if name in there and is_complete(sweep_dir / name)}
    training = "trainer" in config
    sources = config.hydra.runtime.config_sources
    flags = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    flags.append(f"--config-name={config.hydra.job.config_name}")
    common = []
    if training and config.logger.group is None:
        from hybrid_ir.composition import quote

        common = [f"logger.group={quote(sweep_dir.name)}"]

    def job(offset: int) -> Job:
        name, overrides = names[offset], jobs_settings[offset]
        folder, command = sweep_dir / name, []
        if SESSION.batch is None:
            begun = training and (folder / CONFIG_FILE).is_file()
            arguments = job_arguments([*overrides, *common], folder, begun, flags)
            command = [sys.executable, "-m", TRAIN if training else EVALUATE, *arguments]
        return Job(initial_number + offset, name, folder, command, overrides)

    jobs = [job(offset) for offset in range(len(names))]
    launcher = config.get("launcher") or {}
    parallel = int(launcher.get("jobs", 1))
    sweep_dir.mkdir(parents=True, exist_ok=True)

    def changed(results: Sequence[JobResult]) -> None:
        known = {job["name"]: job["state"] for job in read_sweep(sweep_dir)}
        # what is known of a job that was complete before, its time above all, stays
        new = [r.as_record() for r in results if not (r.skipped and known.get(r.job.name) == "completed")]
        try:
            record(sweep_dir, "train" if training else "evaluate", new)
        except OSError as error:  # a full disk, which the jobs that run will find themselves
            said = f"warning: {sweep_dir}: the list of jobs is not written ({error.strerror})"
            print(said, file=sys.stderr, flush=True)

    display = Display(max(initial_number + len(jobs), SESSION.trials or 0), parallel)
    if SESSION.batch is not None:
        from hybrid_ir.launching.slurm import run_batch_jobs

        results, received = run_batch_jobs(
            jobs, SESSION.batch, common, flags, sweep_dir, display=display, changed=changed, complete=complete
        )
    else:
        minutes = launcher.get("time_limit_minutes")
        extra = {"OMP_NUM_THREADS": str(max(1, available_threads() // parallel))} if parallel > 1 else {}
        results, received = run_jobs(
            jobs,
            parallel=parallel,
            time_limit=None if minutes is None else 60.0 * float(minutes),
            environment=extra,
            slots=SESSION.slots,
            display=display,
            changed=changed,
            complete=complete,
        )
    SESSION.results.extend(results)
    if received is not None:
        raise SystemExit(128 + received)
    last = SESSION.trials is not None and initial_number + len(jobs) >= SESSION.trials
    if last and all(result.monitor_value is None for result in SESSION.results):  # the sweeper would look for the best
        said = "error: hydra/sweeper: no trial has a value of its monitor, there is no best"
        print(said, file=sys.stderr, flush=True)
        raise SystemExit(sweep_exit_code(SESSION.results) or 1)
    returns = []
    for result in results:
        returned = JobReturn(overrides=list(result.job.overrides), working_dir=str(result.job.folder))
        # Hydra's sweeper raises at the first failed job, before later batches; a search takes None for a failed trial.
        returned.status = JobStatus.COMPLETED
        returned.return_value = result.monitor_value
        returns.append(returned)
    return returns


def sweep_exit_code(results: Sequence[JobResult]) -> int:
    """0 when every job completed; 2 when all failures are mistakes of the configuration or the data; else 1."""
    codes = {result.exit_code for result in results if result.state != "completed"}
    return 0 if not codes else 2 if codes == {2} else 1


def print_table(results: Sequence[JobResult]) -> None:
    """Prints how each job ended, and the last lines of the logs of those that did not complete."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None)
    for column in ("job", "state", "exit code", "monitor", "seconds"):
        table.add_column(column, justify="left" if column in ("job", "state") else "right", overflow="fold")
    for result in results:
        table.add_row(
            Text(result.job.name),
            Text("complete before" if result.skipped else result.state),
            "" if result.exit_code is None else str(result.exit_code),
            "" if result.monitor_value is None else f"{result.monitor_value:.4f}",
            f"{result.seconds:.0f}",
        )
    console = Console(soft_wrap=False)
    console.print(table)
    for result in results:
        if result.last_lines:
            console.print(Text(f"{result.job.name}: {result.state}; the end of {result.job.folder / LOG_FILE}:"))
            for line in result.last_lines:
                console.print(Text("    " + line))


def log_summary(results: Sequence[JobResult]) -> None:
    """Makes the summary of a sweep whose jobs log to Weights & Biases there, in a process of its own: whatever happens
    to it is said on one line, and changes nothing about the sweep."""
    folder = next((result.job.folder for result in results if result.state == "completed"), None)
    if folder is None:
        return
    command = ["-m", SUMMARY, str(folder.parent)]
    try:
        if read_run_config(folder).get("logger", {}).get("name") != "wandb":
            return
        with NamedTemporaryFile() as log, SignalRelay() as relay:
            child = start([sys.executable, *command], child_environment(), log)
            relay.children = [child]
            code = exit_code(child.wait())
            said = "".join(last_lines(Path(log.name), 1)) or f"exit code {code}"
    except (OSError, ConfigError) as error:
        code, said = 1, str(error)
    if code == 0:
        print(f"summary: {said}", flush=True)
    else:
        said = said.removeprefix("error: ")
        print(
            f"warning: the sweep has no summary on Weights & Biases ({said}); make it with: "
            f"{shlex.join(['python', *command])}",
            file=sys.stderr,
        )
