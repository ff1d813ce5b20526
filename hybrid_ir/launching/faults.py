"""Which of a run's processes says what went wrong: the first that fails, whatever its rank, and it alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with a file for each process, in folders that stand side by side, as torchrun sets it."""


def report_is_mine() -> bool:
    """Whether this process is to report a fault that ends the run: the first on its machine to ask is, no other.

    Most faults are found by all processes at once and need saying once; some by one process only, of any rank. Where
    nothing is shared (processes that SLURM starts) every process reports.
    """
    folder = _shared_folder()
    if folder is None:
        return True
    try:
        _marker(folder).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def reported() -> bool:
    """Whether another process on this machine has reported a fault: what fails from then on follows from it."""
    folder = _shared_folder()
    return folder is not None and _marker(folder).exists()


def _marker(folder: Path) -> Path:
    """Of this start: a launcher's processes are the children of one, and the folder may be there for the next start."""
    return folder / f"reported.{os.getppid()}"


def _shared_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    environment = os.environ if environment is None else environment
    name = environment.get(ERROR_FILE)
    # a process alone may have inherited the variable
    return Path(name).parent.parent if name and "LOCAL_RANK" in environment else None
