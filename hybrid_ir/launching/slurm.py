"""The jobs of a sweep as batch jobs of a Slurm cluster, by submitit: one task on each node starts the node's processes.

submitit writes the batch script and pickles the tasks. Before a job's time is up, or when it is preempted, Slurm sends
it a signal: the run then saves its state, the job is put in the queue again, and the same task goes on with the run.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from submitit.core.utils import UncompletedJobError

from hybrid_ir.cache import write_atomic
from hybrid_ir.config import SlurmLauncherConfig, TrainConfig
from hybrid_ir.launching.display import Display
from hybrid_ir.launching.processes import (
    SignalRelay,
    available_threads,
    child_environment,
    exit_code,
    kill_group,
    start,
)
from hybrid_ir.launching.sweep import (
    LOG_FILE,
    TRAIN,
    Job,
    JobResult,
    begin,
    job_arguments,
    last_lines,
    monitor_value,
    summary,
)
from hybrid_ir.launching.sweep_folder import BATCH_FOLDER, is_begun, is_complete
from hybrid_ir.run_folder import CONFIG_FILE

_POLL_SECONDS = 0.2
_WATCH_SECONDS = 2.0
"""How often the sweep's own process, on a machine that many share, looks at its jobs."""
_RESULT_SECONDS = 2
"""How long the result of a job that Slurm says has ended may take to show on a shared file system."""
_AGREE_SECONDS = 300.0
"""How long a node waits for the first to say whether the run goes on."""
_END_SECONDS = 900.0
"""How long a task that was told to end waits for Slurm to end it."""
_MARGIN_SECONDS = 10
"""What remains of ``launcher.signal_seconds`` for putting the job in the queue again."""


@dataclass
class BatchTask:
    """What runs on each node of a batch job.

    Attributes:
        folder: of the run.
        overrides: the run's settings.
        flags: Hydra's.
        devices: processes on each node.
        nodes: machines.
        save_seconds: how long the run may take to save its state.
        complete: the run was complete when the job was submitted: it is to be prolonged.
    """

    folder: Path
    overrides: list[str]
    flags: list[str]
    devices: int
    nodes: int
    save_seconds: float
    complete: bool = False
    _child: int | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)
    _passed_on: bool = field(default=False, init=False)

    def command(self, begun: bool, *, node: str, address: str, port: str) -> list[str]:
        """The processes of one node.

        Args:
            begun: whether the run goes on.
            node: its number.
            address: the first node.
            port: a port of the first node at which all meet.
        """
        run = [TRAIN, *job_arguments(self.overrides, self.folder, begun, self.flags)]
        if self.devices * self.nodes == 1:
            return [sys.executable, "-m", *run]
        if self.nodes == 1:
            meeting = ["--standalone"]
        else:
            meeting = [f"--nnodes={self.nodes}", f"--node-rank={node}"]
            meeting += [f"--master-addr={address}", f"--master-port={port}"]
        # torchrun by the name of its module: the program may not be on a node's PATH
        return [sys.executable, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={self.devices}", "-m", *run]

    def __call__(self) -> int:
        """Runs the node's processes until they end; returns their exit code, 0 for a run that is complete already."""
        task = submitit.JobEnvironment()
        self._child, self._told, self._passed_on = None, False, False
        if is_complete(self.folder) and not self.complete:  # when it was told to save its state
            return 0
        command = self.command(
            self._begun(task),
            node=str(task.node),
            address=task.hostnames[0],
            port=str(20_000 + int(task.raw_job_id) % 20_000),
        )
        signal.signal(signal.SIGTERM, self._end)
        log = None  # other nodes say little; it is in the batch job's own log
        if task.global_rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            log = open(self.folder / LOG_FILE, "ab")  # noqa: SIM115 - the child's, until this process ends
        threads = {"OMP_NUM_THREADS": str(max(1, available_threads() // self.devices))}
        process = start(command, child_environment(threads), log)
        self._child = process.pid
        if self._told:
            self._pass_on()
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
        kill_group(process)
        code = exit_code(process.returncode)
        until = time.monotonic() + _END_SECONDS
        while code and self._told and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)  # a job that ended by itself would not be put in the queue again
        return code

    def _begun(self, task: Any) -> bool:
        """Whether the run goes on: of several nodes the first decides it, before it changes the run's folder."""
        if self.nodes == 1:
            return (self.folder / CONFIG_FILE).is_file()
        start_number = os.environ.get("SLURM_RESTART_COUNT", "0")
        said = Path(task.paths.folder, f"{task.job_id}_start_{start_number}.json")
        if task.global_rank == 0:
            write_atomic(said, json.dumps((self.folder / CONFIG_FILE).is_file()))
        until = time.monotonic() + _AGREE_SECONDS
        while not said.exists():
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{said}: not written by the first node; the folder must be one that all nodes share"
                )
            time.sleep(_POLL_SECONDS)
        return bool(json.loads(said.read_text(encoding="utf-8")))

    def _end(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: the job is preempted or cancelled."""
        self._told = True
        self._pass_on()

    def _pass_on(self) -> None:
        """Tells the run to end, once: it takes a second signal for one not to wait for its state."""
        if self._child is not None and not self._passed_on:
            self._passed_on = True
            # torchrun would pass it on, and leave its processes 30 seconds for what may take them longer
            ranks = _children(self._child) if self.devices * self.nodes > 1 else []
            for pid in ranks or [self._child]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def checkpoint(self) -> Any:
        """Lets the run save its state; submitit calls it in a signal handler, then puts the job in the queue again.

        The child is not waited for through its ``Popen``, whose lock the interrupted code may hold.
        """
        if self._child is not None:
            self._end(signal.SIGTERM, None)
            until = time.monotonic() + self.save_seconds
            with suppress(ChildProcessError):
                while time.monotonic() < until:
                    if os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                        break
                    time.sleep(_POLL_SECONDS)
        return submitit.helpers.DelayedSubmission(dataclasses.replace(self))


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


class _Executor(submitit.SlurmExecutor):
    """submitit's, made on any machine for its script; that there is Slurm is checked before jobs are submitted."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def make_executor(config: TrainConfig, sweep_dir: Path) -> Any:
    """submitit's executor with the parameters of ``launcher=slurm``, in the schema of hydra-submitit-launcher."""
    launcher, trainer = config.launcher, config.trainer
    assert isinstance(launcher, SlurmLauncherConfig)
    gpus = launcher.gpus_per_node
    if gpus is None:
        gpus = 0 if trainer.accelerator == "cpu" else trainer.devices
    paths = child_environment().get("PYTHONPATH")
    queue = SlurmQueueConf(
        name=sweep_dir.name,
        nodes=trainer.num_nodes,
        tasks_per_node=1,
        gpus_per_node=gpus or None,
        cpus_per_task=launcher.cpus_per_node,
        mem_gb=launcher.memory_gb,
        timeout_min=launcher.walltime_minutes,
        partition=launcher.partition,
        account=launcher.account,
        qos=launcher.qos,
        constraint=launcher.constraint,
        array_parallelism=launcher.jobs,
        signal_delay_s=launcher.signal_seconds,
        stderr_to_stdout=True,
        setup=[*launcher.setup, *([f"export PYTHONPATH={shlex.quote(paths)}"] if paths else [])],
        additional_parameters={k: v for k, v in {"requeue": True, **launcher.sbatch}.items() if v is not False},
    )
    here = ("_target_", "submitit_folder", "max_num_timeout")
    parameters = {k: v for k, v in dataclasses.asdict(queue).items() if v is not None and k not in here}
    if launcher.cpus_per_node is not None:  # since Slurm 22.05 srun does not take it over from sbatch
        parameters["srun_args"] = [f"--cpus-per-task={launcher.cpus_per_node}"]
    executor = _Executor(folder=sweep_dir / BATCH_FOLDER / "%j", max_num_timeout=launcher.max_timeouts)
    executor.update_parameters(**executor._convert_parameters(parameters))
    return executor


def make_task(config: TrainConfig, folder: Path, overrides: Sequence[str], flags: Sequence[str] = ()) -> BatchTask:
    """What a batch job of one run does."""
    assert isinstance(config.launcher, SlurmLauncherConfig)
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    save_seconds = config.launcher.signal_seconds - _MARGIN_SECONDS
    return BatchTask(folder, list(overrides), list(flags), devices, nodes, save_seconds, is_complete(folder))


def batch_script(executor: Any, jobs: int) -> str:
    """What sbatch is given for ``jobs`` jobs."""
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def show_batch(config: TrainConfig, folder: Path, job: Job, jobs: int) -> str:
    """The batch script of a sweep, and what each of its tasks runs for the first job."""
    task = make_task(config, job.folder, job.overrides)
    begun = (job.folder / CONFIG_FILE).is_file()
    command = task.command(begun, node="NODE", address="FIRST_NODE", port="PORT")
    how = "torchrun" if task.devices * task.nodes > 1 else "one process"
    script = batch_script(make_executor(config, folder), jobs)
    return f"{script}\n# what a task does ({how}), here of {job.name}:\n# {shlex.join(command)}"


def run_batch_jobs(
    jobs: Sequence[Job],
    config: TrainConfig,
    common: Sequence[str],
    flags: Sequence[str],
    sweep_dir: Path,
    *,
    display: Display,
    changed: Callable[[Sequence[JobResult]], None],
    complete: Collection[str],
) -> tuple[list[JobResult], int | None]:
    """Submits jobs as one array and waits until they end; a signal cancels them.

    Args:
        jobs: of the sweep.
        config: of one of them; all have its devices.
        common: settings that the sweep gives to all.
        flags: Hydra's.
        sweep_dir: where submitit keeps scripts, pickles and logs.
        display: where starts and ends are shown.
        changed: called with all results whenever a job starts or ends.
        complete: names of jobs that are not run.

    Returns:
        A result for each job, in the same order, and the signal that ended the sweep early (None when none did).

    Raises:
        SystemExit: sbatch refuses the jobs.
    """
    results = begin(jobs, complete, display)
    waiting = [result for result in results if not result.skipped]
    tasks = [make_task(config, r.job.folder, [*r.job.overrides, *common], flags) for r in waiting]
    with SignalRelay() as relay, display:
        batch = dict(zip((r.job.name for r in waiting), _submit(make_executor(config, sweep_dir), tasks), strict=True))
        for result in waiting:
            result.batch_job = str(batch[result.job.name].job_id)
            display.queued(result.job, f"Slurm job {result.batch_job}")
        changed(results)
        began: dict[str, float] = {}
        while waiting and relay.received is None:
            time.sleep(_WATCH_SECONDS)
            for result in list(waiting):
                if relay.received is not None:
                    break
                one = batch[result.job.name]
                if result.job.name not in began and one.paths.stdout.exists():
                    began[result.job.name] = time.monotonic()
                    result.state = "running"
                    display.started(result.job, result.job.folder / LOG_FILE)
                    changed(results)
                if one.done():
                    waiting.remove(result)
                    result.seconds = time.monotonic() - began.get(result.job.name, time.monotonic())
                    _finish(result, one)
                    display.ended(result.job, result.state, summary(result), result.seconds)
                    changed(results)
            display.tick()
        if waiting:  # each saves its state within the time that Slurm leaves it
            cancel = ["scancel", *(str(result.batch_job) for result in waiting)]
            subprocess.run(cancel, check=False, start_new_session=True)  # a second Ctrl-C does not reach it
        for result in waiting:
            result.state = "interrupted" if result.job.name in began else "not started"
        changed(results)
    return results, relay.received


def _submit(executor: Any, tasks: Sequence[BatchTask]) -> list[Any]:
    """The batch jobs of the tasks."""
    if not tasks:
        return []
    try:
        with redirect_stderr(io.StringIO()), _signals_wait():  # submitit repeats there what sbatch says
            return list(executor.submit_array(tasks))
    except (submitit.core.utils.FailedSubmissionError, UncompletedJobError, OSError) as error:
        folder = Path(executor.folder).parent
        for left in [*folder.glob("*.pkl"), *folder.glob(".submission_file_*.sh")]:
            left.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:500]
        said = f"launcher=slurm: sbatch refuses the jobs ({reason}); mend launcher.*, --dry-run shows the script"
        print(f"error: {said}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


@contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM come when this ends, and not to children: sbatch would end by Ctrl-C, and leave jobs of which
    nobody knows the numbers."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _finish(result: JobResult, one: Any) -> None:
    folder = result.job.folder
    task = one.task(0)
    task._results_timeout_s = _RESULT_SECONDS
    try:
        result.exit_code = int(task.result())
    except UncompletedJobError:  # killed, or out of time once too often
        result.state = "interrupted" if is_begun(folder) else "failed"
    else:
        result.state = "completed" if result.exit_code == 0 else "failed"
    if result.state == "completed":
        result.monitor_value = monitor_value(folder)
    else:
        result.last_lines = last_lines(folder / LOG_FILE) or last_lines(one.paths.stdout)
