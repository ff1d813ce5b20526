"""How runs on Weights & Biases begin, those of jobs and of sweeps' summaries. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import wandb

from hybrid_ir.cache import write_atomic
from hybrid_ir.config import API_KEY
from hybrid_ir.errors import UserError

INIT_SECONDS = 30.0
"""How long a server may take to answer at the start, before the run goes on offline."""
FINISH_SECONDS = 60.0
"""How long an upload may take at the end; what is left can be uploaded with ``wandb sync``."""
STEP = "trainer/global_step"
"""The training step, as Lightning's logger names it. Weights & Biases' own step counts calls."""
SUMMARY_JOB = "summary"
"""Job type of the summaries of sweeps, by which they are told from the runs of jobs."""
RUN_ID_FILE = "wandb_run_id"
"""Has the id under which Weights & Biases knows what is in a folder."""

_SUPERSEDED = "superseded"
_Started = TypeVar("_Started")


def begin(
    folder: Path, new_id: str, start: Callable[[str, str], _Started], mode: str | None = None
) -> tuple[_Started, str | None]:
    """Begins the run whose files are in ``folder/wandb``, or goes on with it; offline where no server can be reached.

    Args:
        folder: has the run's id, if it was begun before.
        new_id: id of a new run.
        start: begins it, given mode and id.
        mode: ``online``, ``offline`` or ``disabled``; None asks the environment.

    Returns:
        What ``start`` returned, and why the run is offline where nobody has asked for that.

    Raises:
        UserError: a setting is not accepted, or a variable of the environment has an API key that would be shown.
    """
    _check_environment()
    identity = folder / RUN_ID_FILE
    made = not identity.exists()
    if made:
        write_atomic(identity, new_id)
    run_id = identity.read_text()
    parts = parts_of(folder)
    mode, reason = chosen_mode(mode)
    try:
        try:
            return start(mode, run_id), reason
        except wandb.errors.CommError as error:
            wandb.teardown()  # which holds the run's id
            for part in set(parts_of(folder)) - set(parts):
                put_aside(part)
            return start("offline", run_id), str(error).splitlines()[0]
    except wandb.errors.UsageError as error:
        if made:  # the mended command is to find the folder free
            for part in parts_of(folder):
                shutil.rmtree(part, ignore_errors=True)
            identity.unlink()
            _tidy(folder / "wandb")
        raise UserError(f"Weights & Biases: {error}; mend it, or set WANDB_MODE=offline") from None


def offline_line(folder: Path, reason: str) -> str:
    """Says that a run is offline, and how it is uploaded."""
    files = folder / "wandb"
    return f"Weights & Biases: {reason}; the run is kept in {files}, upload it with: wandb sync {files}"


def agents_run() -> str | None:
    """Id of the run that an agent of a sweep of Weights & Biases has begun for this process; None without an agent."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def chosen_mode(asked: str | None = None) -> tuple[str, str | None]:
    """The mode asked for, else ``WANDB_MODE``, else online where somebody is logged in; and why it is not, where nobody
    has asked for that."""
    asked = asked or os.environ.get("WANDB_MODE", "online")
    if asked not in ("", "online", "run"):
        return asked, None
    try:
        # Without a question, since nobody may be watching, and without asking the server, which may be out of reach.
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return "offline", str(error).rstrip(".")
    return ("online", None) if logged_in else ("offline", "not logged in")


def _check_environment() -> None:
    """Refuses an API key in a variable that Weights & Biases shows.

    Raises:
        UserError: names the variable.
    """
    secret = os.environ.get("WANDB_API_KEY", "")
    for name, value in os.environ.items():
        if not name.startswith("WANDB_") or name in ("WANDB_API_KEY", "WANDB_GIT_COMMIT"):
            continue
        if API_KEY.search(value) or (secret and secret in value):
            raise UserError(
                f"{name}: holds an API key of Weights & Biases, which would be shown with the run; put it into "
                f"WANDB_API_KEY, or log in with: wandb login"
            )


def parts_of(folder: Path) -> list[Path]:
    """Folders of what each start of the run whose id is in ``folder`` has sent or kept; other runs may have theirs in
    the same ``folder/wandb``."""
    identity = folder / RUN_ID_FILE
    if not identity.exists():
        return []
    # wandb numbers starts of the same second
    named = re.compile(rf"(?:offline-)?run-\d+_\d+-{re.escape(identity.read_text())}(?:-\d+)?")
    found = [path for path in (folder / "wandb").glob("*run-*") if named.fullmatch(path.name)]
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _tidy(files: Path) -> None:
    """Removes links to what is not there any more, and the folder if nothing else is in it."""
    for path in files.glob("*"):
        if path.is_symlink() and not path.exists():
            path.unlink()
    with suppress(OSError):
        files.rmdir()


def is_unsent(part: Path) -> bool:
    """Whether nobody but this machine has what is kept there."""
    return part.name.startswith("offline-") and not any(part.glob("*.synced"))


def put_aside(part: Path) -> None:
    """Moves a folder to where ``wandb sync`` does not look."""
    target = part.parent / _SUPERSEDED / part.name
    target.parent.mkdir(exist_ok=True)
    part.rename(target)
