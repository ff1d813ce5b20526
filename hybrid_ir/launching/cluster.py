"""Whether the jobs of a sweep can be submitted to a Slurm cluster; asked before anything is. Imports no submitit."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.sweep_folder import is_complete, read_sweep


def check_slurm(configs: Iterable[TrainConfig | EvaluateConfig], dry_run: bool) -> None:
    """Checks that batch jobs can be submitted, all with the same devices.

    Raises:
        ConfigError: they cannot.
    """
    for module in ("submitit", "hydra_plugins.hydra_submitit_launcher"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError("launcher=slurm: submitit is not installed; run pip install 'hybrid-ir[slurm]'")
    missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
    if missing and not dry_run:
        raise ConfigError(
            f"launcher=slurm: there is no {missing[0]} on this machine; start the sweep on one from which the cluster "
            f"takes jobs, or use launcher=local"
        )
    trainers = [config.trainer for config in configs if isinstance(config, TrainConfig)]
    for key in ("devices", "num_nodes", "accelerator"):
        values = dict.fromkeys(getattr(trainer, key) for trainer in trainers)
        if len(values) > 1:
            raise ConfigError(
                f"trainer.{key}={','.join(map(str, values))}: with launcher=slurm all jobs of a sweep have the same; "
                f"make a sweep of each"
            )


def check_queue(folder: Path, setting: str = "sweep") -> None:
    """Checks that no job of a sweep is in Slurm's queue, whatever runs its jobs now.

    Args:
        folder: of the sweep.
        setting: what names the folder, for the message.

    Raises:
        ConfigError: one is, of a sweep whose process has ended before its jobs; or nobody can say.
    """
    jobs = [job for job in read_sweep(folder) if job.get("batch_job") and not is_complete(folder / job["name"])]
    if not jobs:
        return
    try:
        asked = ["squeue", "--me", "--noheader", "--format=%F"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False)
        unknown = " ".join(listed.stderr.split())[:200] or f"exit code {listed.returncode}"
        queued = None if listed.returncode else set(listed.stdout.split())
    except OSError as error:
        unknown, queued = str(error.strerror), None
    if queued is None and any(job["state"] in ("not started", "running") for job in jobs):
        raise ConfigError(
            f"{setting}={folder}: jobs were submitted, and squeue does not say whether they have ended ({unknown}); "
            f"try again where it answers"
        )
    for job in jobs:
        number = str(job["batch_job"])
        if number.partition("_")[0] in (queued or ()):
            raise ConfigError(
                f"{setting}={folder}: job {job['name']} was submitted as {number}, which has not ended; wait, or stop "
                f"it: scancel {number.partition('_')[0]}"
            )
