"""Whether the jobs of a sweep can be submitted to a Slurm cluster; asked before anything is. Imports no submitit."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.sweep_folder import read_sweep


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


def check_queue(folder: Path) -> None:
    """Checks that no job of a sweep waits in Slurm's queue: a job that runs already holds its folder.

    Raises:
        ConfigError: one does, of a sweep whose process has ended before its jobs.
    """
    submitted = {str(job["batch_job"]): job["name"] for job in read_sweep(folder) if job.get("batch_job")}
    if not submitted:
        return
    listed = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%F"], capture_output=True, text=True, check=False
    )
    queued = set(listed.stdout.split())
    for number, name in submitted.items():
        if number.partition("_")[0] in queued:
            raise ConfigError(
                f"sweep={folder}: job {name} was submitted as {number}, which has not ended; wait, or stop it: scancel "
                f"{number.partition('_')[0]}"
            )
