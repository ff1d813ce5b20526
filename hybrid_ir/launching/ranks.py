"""The processes of one run on several devices of this machine.

They get the environment that ``torchrun`` would give them. torchrun itself is not used here because it answers every
failure with exit code 1 and a report of many lines, imports torch in the parent, and so hides the one-line errors and
the exit codes of a run. On several machines start ``torchrun -m hybrid_ir.train ... output_dir=DIR`` on each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_ir.errors import EXIT_USAGE, ConfigError
from hybrid_ir.launching.faults import ERROR_FILE
from hybrid_ir.launching.processes import (
    GRACE_SECONDS,
    SignalRelay,
    child_environment,
    exit_code,
    kill_group,
    send,
    start,
)

PEER_SECONDS = 20.0
"""How long the other processes may take to end after one has failed."""
_SAID = (EXIT_USAGE, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of processes that have said on one line why they end."""
NOTICE_SECONDS = 5.0
"""How long they are left alone: most find the connection gone and end by themselves, with what they have to say."""


def already_launched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun or SLURM's srun has started this process as one of several.

    A batch script that SLURM runs is one process, whatever number of tasks the job has.
    """
    environment = os.environ if environment is None else environment
    return "LOCAL_RANK" in environment or _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1


def check_launched(devices: int, nodes: int, environment: Mapping[str, str] | None = None) -> None:
    """Compares the processes that were started with those that the configuration asks for.

    Args:
        devices: processes on each machine, as configured.
        nodes: machines, as configured.
        environment: where torchrun or SLURM has put its numbers; None is this process's.

    Raises:
        ConfigError: they differ: each process would train on the whole batch, or wait for others that never come.
    """
    environment = os.environ if environment is None else environment
    if "LOCAL_RANK" in environment:
        launcher, each = "torchrun", _number(environment, "LOCAL_WORLD_SIZE", devices)
        machines = _number(environment, "WORLD_SIZE", devices * nodes) // max(each, 1)
    else:
        launcher, tasks = "srun", _number(environment, "SLURM_STEP_NUM_TASKS", 1)
        machines = _number(environment, "SLURM_STEP_NUM_NODES", 1)
        each = tasks // max(machines, 1)
        # Without them Lightning does not take the processes for SLURM's.
        if "SLURM_NTASKS_PER_NODE" not in environment:
            raise ConfigError(
                f"trainer.devices={devices}: srun has started {tasks} processes without a number for each machine; "
                f"give srun --ntasks-per-node={each}"
            )
        if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
            raise ConfigError(
                f"trainer.devices={devices}: processes of a job named {environment['SLURM_JOB_NAME']} are not taken "
                f"for one run; give srun --job-name=NAME"
            )
    if (each, machines) != (devices, nodes):
        raise ConfigError(
            f"trainer.devices={devices} trainer.num_nodes={nodes}: {launcher} has started {each} "
            f"process{'es' if each > 1 else ''} on each of {machines} machine{'s' if machines > 1 else ''}; set "
            f"trainer=ddp trainer.devices={each} trainer.num_nodes={machines}"
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else default


def global_rank(environment: Mapping[str, str] | None = None) -> int:
    """Rank of this process among all of the run; 0 when it is the only one."""
    environment = os.environ if environment is None else environment
    return int(environment.get("RANK", environment.get("SLURM_PROCID", environment.get("LOCAL_RANK", "0"))) or 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(command: Sequence[str], count: int, threads: int | None = None) -> int:
    """Runs ``command`` in ``count`` processes that form one process group.

    When one fails the others are stopped, and a line on stderr says which it was unless it has said so itself; SIGINT
    and SIGTERM go to all.

    Args:
        command: what each runs.
        count: number of processes.
        threads: CPU threads of each.

    Returns:
        Exit code of the first that failed, else 0; 128 + the signal's number after a signal.
    """
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # How torch and Lightning recognise processes that somebody else has started.
        "TORCHELASTIC_RUN_ID": "hybrid_ir",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
    if threads is not None:
        shared["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory(prefix="hybrid_ir_") as errors, SignalRelay() as relay:
        for rank in range(count):
            if relay.received is None:
                own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                own[ERROR_FILE] = str(Path(errors, str(rank), "error.json"))
                Path(own[ERROR_FILE]).parent.mkdir()
                relay.children.append(start(command, child_environment(own)))
        return _wait(relay)


def _wait(relay: SignalRelay) -> int:
    failed: int | None = None
    kill_at: float | None = None
    stop_at = 0.0
    told: set[int] = set()
    while [child for child in relay.children if child.poll() is None]:  # a list: every child is polled, not the first
        if failed is None:
            failed = _first_failure(relay)
        if kill_at is None and (failed is not None or relay.received is not None):
            kill_at = time.monotonic() + (PEER_SECONDS if relay.received is None else GRACE_SECONDS)
            stop_at = time.monotonic() + NOTICE_SECONDS
        if failed is not None and relay.received is None and time.monotonic() > stop_at:
            _stop_peers(relay.children, told)
        if kill_at is not None and time.monotonic() > kill_at:
            for child in relay.children:
                if child.poll() is None:
                    kill_group(child)
        time.sleep(0.05)
    if failed is None:
        failed = _first_failure(relay)
    if failed is None:
        return 0 if relay.received is None else 128 + relay.received
    return exit_code(failed)


def _first_failure(relay: SignalRelay) -> int | None:
    """Return code of a process that has failed, or None; says which it is where the process cannot have done so."""
    failures = [(rank, child.returncode) for rank, child in enumerate(relay.children) if child.returncode]
    if not failures:
        return None
    # A process that is killed takes its peers' connections along, so that they may fail in the same moment.
    rank, code = min(failures, key=lambda failure: (failure[1] > 0, failure[0]))
    if relay.received is None and code not in _SAID:
        which = f"process {rank} of {len(relay.children)}"
        if code < 0:
            hint = "; that is how a system ends a process when memory is full" if -code == signal.SIGKILL else ""
            said = f"{which} was ended by {signal.Signals(-code).name}{hint}; the others are stopped"
        else:
            said = f"{which} failed with exit code {code}, see its traceback; the others are stopped"
        print(f"error: {said}", file=sys.stderr, flush=True)
    return code


def _stop_peers(children: Sequence[subprocess.Popen[bytes]], told: set[int]) -> None:
    for child in children:
        if child.poll() is None and child.pid not in told:
            told.add(child.pid)
            send(child, signal.SIGTERM)
