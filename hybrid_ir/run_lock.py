"""One process at a time trains in a run's folder, or works on a sweep's.

The lock is the operating system's, on a file of the folder. It belongs to a process and ends with it, however it ends;
the workers of a loader, which may outlive a killed process by some seconds, do not hold it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import IO

from hybrid_ir.errors import ConfigError

LOCK_FILE = ".lock"
WAIT_SECONDS = 10.0
"""How long a resume waits: processes whose parent was killed save their state before they end."""

_HALF_WRITTEN = (".*.partial", "*.yaml.part", ".model.*")
_held: dict[Path, IO[str]] = {}
"""Open files, by path: closing any descriptor of a file ends the lock that the process has on it."""


def hold(run_dir: Path, wait_seconds: float = WAIT_SECONDS, setting: str = "resume") -> None:
    """Takes the folder for this process until it ends, and removes what a killed process has left half written.

    Args:
        run_dir: the run's folder, or the sweep's.
        wait_seconds: how long to wait for another process to end.
        setting: what names the folder, for the message.

    Raises:
        ConfigError: another process works in the folder.
    """
    path = run_dir.resolve() / LOCK_FILE
    if path in _held:
        return
    file = _locked(path, f"{setting}={run_dir}", wait_seconds)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    _held[path] = file
    for folder in (run_dir, run_dir / "checkpoints"):
        for left in [path for pattern in _HALF_WRITTEN for path in folder.glob(pattern)]:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def wait_until_free(run_dir: Path, wait_seconds: float = WAIT_SECONDS) -> None:
    """Returns when no other process trains in a folder.

    Raises:
        ConfigError: another process still does after ``wait_seconds``.
    """
    path = run_dir.resolve() / LOCK_FILE
    if path.exists() and path not in _held:
        _locked(path, f"resume={run_dir}", wait_seconds).close()


def _locked(path: Path, said: str, wait_seconds: float) -> IO[str]:
    """The open file, locked."""
    file = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ConfigError(
                f"{said}: another process works in this folder ({holder}); wait until it has ended, or stop it "
                f"(SIGTERM saves its state)"
            ) from None
        except OSError:  # a file system without locks
            pass
        return file
