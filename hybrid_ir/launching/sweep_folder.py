"""The folder of a sweep: which jobs it has, how far each came, and who works on it.

``sweep.json`` lists the jobs with their settings and how each ended, so that a job that failed before it wrote anything
is still known. What a job's own folder holds decides whether it is complete: the process that writes ``sweep.json`` may
have been killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.cache import write_atomic
from hybrid_ir.errors import ConfigError
from hybrid_ir.run_folder import CONFIG_FILE, SUMMARY_FILE

SWEEP_FILE = "sweep.json"
BATCH_FOLDER = ".slurm"
"""Scripts, pickles and logs of a cluster's batch jobs."""


def sweep_folder(name: str) -> Path:
    """Folder of the sweep that ``sweep=NAME`` means: a path as it is, a plain name under ``sweeps/``.

    Raises:
        ConfigError: the name is empty, or names a file.
    """
    if not name.strip():
        raise ConfigError("sweep=: is empty; name a sweep, or leave it out")
    path = Path(os.path.expanduser(name))
    folder = path if len(path.parts) > 1 or path.is_absolute() or name in (".", "..") else Path("sweeps", name)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"sweep={name}: {folder} is a file; name a sweep")
    return folder.absolute()


def is_complete(folder: Path) -> bool:
    """Whether a job's folder holds a complete run."""
    return (folder / SUMMARY_FILE).is_file()


def is_begun(folder: Path) -> bool:
    """Whether a job's folder holds a run that can go on."""
    return (folder / CONFIG_FILE).is_file() and not is_complete(folder)


def read_sweep(folder: Path) -> list[dict[str, Any]]:
    """The jobs of a sweep, in order: ``name``, ``overrides``, ``state``, ``exit_code``, ``seconds``, ``monitor_value``.

    Empty where ``sweep.json`` is absent.

    Raises:
        ConfigError: the file is not one that the launcher wrote.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return []
    try:
        jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        return [dict(job, name=str(job["name"])) for job in jobs]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: cannot be read ({reason}); remove it, the jobs' own folders are whole") from None


def record(folder: Path, command: str, jobs: Sequence[dict[str, Any]]) -> None:
    """Writes ``sweep.json``; jobs that are there under other names stay.

    Args:
        folder: of the sweep.
        command: ``train`` or ``evaluate``.
        jobs: as ``read_sweep`` gives them.
    """
    mine = {job["name"] for job in jobs}
    kept = [job for job in read_sweep(folder) if job["name"] not in mine]
    text = json.dumps({"command": command, "jobs": [*kept, *jobs]}, indent=1, ensure_ascii=False)
    write_atomic(folder / SWEEP_FILE, text)
