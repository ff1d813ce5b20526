"""The folder of a run: claimed before anything is imported, its configuration written first, read again by a resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.run_lock import LOCK_FILE

CONFIG_FILE = "config.yaml"
OVERRIDES_FILE = "overrides.yaml"
PER_QUERY_FILE = "per_query.parquet"
SUMMARY_FILE = "summary.json"
"""Written last: a run's folder that has it is complete."""
PROGRESS_FILE = "progress.json"
"""How far a run has come, while it trains."""
EXCLUDED_FILE = "excluded_overlap.csv"
"""Items that were left out for their overlap with benchmarks, and what they share."""

_LAUNCHER_FILES = {"job.log"}  # written by the launcher before its job starts
_START_FILES = {CONFIG_FILE, OVERRIDES_FILE, "environment.json", "plan.csv", "train.log", EXCLUDED_FILE, LOCK_FILE}


def to_yaml(config: TrainConfig | EvaluateConfig) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def check_output_dir(output_dir: str) -> None:
    """Refuses a folder that a new run cannot have.

    Raises:
        ConfigError: it is not a folder, is not empty, or its nearest existing parent is not writable.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output_dir={output_dir}: is a file; name a folder that is empty or absent")
    if path.is_dir() and set(os.listdir(path)) - _LAUNCHER_FILES:
        trained = (path / CONFIG_FILE).is_file() and (path / "train.log").is_file()  # an evaluation has no log
        hint = f"; continue it with resume={output_dir}, or" if trained else ";"
        raise ConfigError(f"output_dir={output_dir}: is not empty{hint} name another folder")
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir={output_dir}: cannot write in {parent}; name another folder")


def unique_dir(parent: str) -> Path:
    """Makes a folder ``<parent>/<date>_<time>``, with a number added where another process was first.

    Raises:
        ConfigError: the folder cannot be made.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        while True:
            folder = Path(parent, stamp if number == 1 else f"{stamp}_{number}").absolute()
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise ConfigError(f"output_dir={parent}/{stamp}: cannot be made ({error.strerror}); set output_dir") from None


def claim(output_dir: str | None) -> Path:
    """Makes the folder of a new run: the one given, or ``outputs/<date>_<time>`` in the working folder.

    Raises:
        ConfigError: it is in use or cannot be made.
    """
    if output_dir is None:
        return unique_dir("outputs")
    check_output_dir(output_dir)
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir={output_dir}: cannot be made ({error.strerror}); name another") from None
    return Path(output_dir).absolute()


def release(folder: Path) -> None:
    """Removes what the start of a run wrote if it got no further, so that the mended command finds its folder free."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if any(str(path.relative_to(folder)) not in _START_FILES | _LAUNCHER_FILES for path in files):
        return
    for path in files:
        if path.name not in _LAUNCHER_FILES:
            path.unlink()
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        path.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()


def write_run_files(config: TrainConfig | EvaluateConfig, overrides: Sequence[str], run_dir: str | Path) -> None:
    """Writes ``config.yaml`` (resolved, first) and ``overrides.yaml`` (the settings as given), each atomically.

    What belongs to one start only (``resume``, ``dry_run``) is not kept.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(config, TrainConfig):
        config = config.model_copy(update={"resume": None, "dry_run": False})
    _write(folder / CONFIG_FILE, to_yaml(config))
    _write(folder / OVERRIDES_FILE, yaml.safe_dump(list(overrides), allow_unicode=True, width=1000))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(path)  # which a failed write does not know
        raise


def read_run_files(run_dir: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration and the settings that a run's folder holds.

    Raises:
        ConfigError: the folder is not a run's.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise ConfigError(f"resume={run_dir}: {what}; give the folder of a run")
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"resume={run_dir}: not a run's folder (it has no {CONFIG_FILE}); give the folder of a run")
    config = _read(run_dir, folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise ConfigError(f"resume={run_dir}: {CONFIG_FILE} holds no configuration; start a new run")
    if "batch_size" not in config:
        raise ConfigError(f"resume={run_dir}: a folder of evaluate.py; only runs of train.py can be continued")
    # A run killed between the two files has taken its configuration from the first alone.
    overrides = _read(run_dir, folder / OVERRIDES_FILE) if (folder / OVERRIDES_FILE).is_file() else []
    if not isinstance(overrides, list) or not all(isinstance(line, str) for line in overrides):
        raise ConfigError(f"resume={run_dir}: {OVERRIDES_FILE} holds no list of settings; start a new run")
    return config, overrides


def read_run_config(folder: Path) -> dict[str, Any]:
    """``config.yaml`` of a folder of either command.

    Raises:
        ConfigError: it cannot be read.
    """
    config = _read(str(folder), folder / CONFIG_FILE)
    return config if isinstance(config, dict) else {}


def _read(run_dir: str, path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"resume={run_dir}: {path.name} cannot be read ({reason}); start a new run") from None
