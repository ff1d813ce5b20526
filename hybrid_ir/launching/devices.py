"""GPUs of this machine, divided among jobs that run side by side. Imports no torch, which takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess

from hybrid_ir.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them; empty without any."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows a wrong one
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.stdout.splitlines() if "GPU " in line)]


def gpu_slots(jobs: int, devices: int) -> list[dict[str, str]]:
    """Environments that give each of ``jobs`` side by side ``devices`` GPUs of its own.

    Raises:
        ConfigError: there are too few.
    """
    found = gpus()
    if len(found) < jobs * devices:
        raise ConfigError(
            f"launcher.jobs={jobs}: jobs of {devices} GPUs each need {jobs * devices}, there are {len(found)}; use "
            f"launcher.jobs={max(1, len(found) // devices)}"
        )
    return [{VISIBLE: ",".join(found[slot * devices : (slot + 1) * devices])} for slot in range(jobs)]
