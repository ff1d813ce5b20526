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
import time
from collections.abc import Mapping, Sequence

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


def already_launched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun or SLURM has started this process as one of several."""
    environment = os.environ if environment is None else environment
    return "LOCAL_RANK" in environment or int(environment.get("SLURM_NTASKS", "1") or 1) > 1


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

    When one fails the others are stopped; SIGINT and SIGTERM go to all.

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
    with SignalRelay() as relay:
        for rank in range(count):
            if relay.received is None:
                own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                relay.children.append(start(command, child_environment(own)))
        return _wait(relay)


def _wait(relay: SignalRelay) -> int:
    failed: int | None = None
    kill_at: float | None = None
    told: set[int] = set()
    while [child for child in relay.children if child.poll() is None]:  # a list: every child is polled, not the first
        if failed is None:
            failed = next((child.returncode for child in relay.children if child.returncode), None)
        if kill_at is None and (failed is not None or relay.received is not None):
            kill_at = time.monotonic() + (PEER_SECONDS if relay.received is None else GRACE_SECONDS)
        if failed is not None and relay.received is None:
            _stop_peers(relay.children, told)
        if kill_at is not None and time.monotonic() > kill_at:
            for child in relay.children:
                if child.poll() is None:
                    kill_group(child)
        time.sleep(0.05)
    if failed is None:
        failed = next((child.returncode for child in relay.children if child.returncode), None)
    if failed is None:
        return 0 if relay.received is None else 128 + relay.received
    return exit_code(failed)


def _stop_peers(children: Sequence[subprocess.Popen[bytes]], told: set[int]) -> None:
    for child in children:
        if child.poll() is None and child.pid not in told:
            told.add(child.pid)
            send(child, signal.SIGTERM)
