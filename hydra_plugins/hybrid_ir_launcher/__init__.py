"""Hydra's name for the launcher of sweeps; the work is done in ``hybrid_ir.launching``.

Hydra accepts launcher classes only from the ``hydra_plugins`` namespace and imports every module of it at each start:
nothing heavy may be imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# A plain node, not a dataclass: Hydra executes this module before it is in sys.modules, where dataclasses look it up.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="hybrid_ir",
    node={"_target_": "hydra_plugins.hybrid_ir_launcher.HybridIrLauncher"},
    provider="hybrid_ir_launcher",
)


class HybridIrLauncher(Launcher):
    """Runs each job of a sweep as a child process in a folder named by the swept keys."""

    def __init__(self) -> None:
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hybrid_ir.launching.sweep import launch_batch

        return launch_batch(self.config, job_overrides, initial_job_idx)
