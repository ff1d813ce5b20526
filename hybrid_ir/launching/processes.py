"""Child processes that do not outlive their parent, and signals passed on to them once."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import hybrid_ir

GRACE_SECONDS = 300.0
"""How long a child may take to save its state after a signal before its process group is killed."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, in which a child finds this package from any working folder."""
    environment = dict(os.environ)
    root = Path(hybrid_ir.__file__).resolve().parents[1]
    if (root / "hydra_plugins" / "hybrid_ir_launcher").is_dir():
        paths = [str(root), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra or {})
    return environment


def available_threads() -> int:
    """CPU threads that this process may use: ``OMP_NUM_THREADS`` where set, else the cores that it may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a child in a session of its own: Ctrl-C in a terminal then reaches it only through its parent, once."""
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        preexec_fn=_prepare_child,
    )


def _prepare_child() -> None:
    # A shell starts background jobs with SIGINT ignored, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Slurm sends them to all processes of a job before it stops it; the one that it has started answers.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if _LIBC is not None:  # a child whose parent is killed saves its state and ends
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a child and all that it started in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def send(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a child, if it still runs."""
    with suppress(ProcessLookupError):
        process.send_signal(number)


def exit_code(returncode: int) -> int:
    """Exit code as a shell gives it: 128 + the signal's number for a process that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode


class SignalRelay:
    """While entered, passes SIGINT and SIGTERM on to the children; a second signal kills them.

    Attributes:
        received: number of the first signal, or None.
        children: the running children.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.children: list[subprocess.Popen[bytes]] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalRelay:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        alive = [child for child in self.children if child.poll() is None]  # only after an error of our own
        for child in alive:
            send(child, signal.SIGTERM)
        for child in alive:
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
            kill_group(child)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            for child in self.children:
                send(child, number)
        else:
            for child in self.children:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
