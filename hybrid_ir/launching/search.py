"""Sweepers that choose values by what earlier jobs have reached: the jobs of such a sweep are not known before.

The objective is the run's monitor, ``monitor_value`` in its ``summary.json``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.composition import parse_settings, said
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.sweep import bare
from hybrid_ir.launching.sweep_folder import read_sweep


def searches(hydra_config: Any) -> bool:
    """Whether the sweeper chooses values by what jobs have reached, so that the jobs are not known before."""
    return not str(hydra_config.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper")


def check_sweeper(settings: Sequence[str]) -> None:
    """Raises ConfigError where the sweeper that is asked for is not installed: Hydra would not know the option."""
    chosen = [o.value() for o in parse_settings(settings) if o.key_or_group == "hydra/sweeper"]
    if "optuna" in chosen and importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise ConfigError("hydra/sweeper=optuna: is not installed; run pip install 'hybrid-ir[optuna]'")


def direction(settings: Sequence[str], whole: Any, config: TrainConfig) -> list[str]:
    """The setting that makes Optuna look for more or less of the monitor, as ``checkpoint.mode`` has it; its own
    default is less.

    Raises:
        ConfigError: the opposite is asked for.
    """
    if not str(whole.hydra.sweeper.get("_target_", "")).endswith("OptunaSweeper"):
        return []
    wanted = {"max": "maximize", "min": "minimize"}[config.checkpoint.mode]
    given = [o for o in parse_settings(settings) if o.key_or_group == "hydra.sweeper.direction"]
    if not given:
        return [f"hydra.sweeper.direction={wanted}"]
    if given[-1].value() != wanted:
        raise ConfigError(
            f"{said(given[-1])}: what is optimised is the monitor, with checkpoint.mode={config.checkpoint.mode}; use "
            f"hydra.sweeper.direction={wanted}, or leave it out"
        )
    return []


def trials(whole: Any, jobs: int) -> int:
    """How many trials a search has.

    Args:
        whole: the configuration, Hydra's part included.
        jobs: combinations of the values that are listed; a grid has no more trials.

    Raises:
        ConfigError: none is asked for.
    """
    given = whole.hydra.sweeper.get("n_trials")
    if given is not None and int(given) < 1:
        raise ConfigError(f"hydra.sweeper.n_trials={given}: a search has one trial at least")
    asked = int(given or jobs)
    sampler = whole.hydra.sweeper.get("sampler") or {}
    return min(asked, jobs) if str(sampler.get("_target_", "")).endswith("GridSampler") else asked


def check_monitor(configs: Iterable[TrainConfig]) -> None:
    """Raises ConfigError where a trial would have no value: nothing is held out, and no monitor is named."""
    if any(not c.data.validation.queries_per_language and c.checkpoint.monitor is None for c in configs):
        raise ConfigError(
            "data.validation.queries_per_language=0: nothing is held out and checkpoint.monitor is null, so a search "
            "has nothing to go by; hold questions out, or name a monitor"
        )


def check_search(folder: Path, settings: Sequence[str], free: Collection[str]) -> None:
    """Checks that the jobs in the folder of a search were run with its settings.

    Args:
        folder: of the sweep.
        settings: of the command.
        free: keys and sections that may differ: those that are drawn, and those of where a job runs.

    Raises:
        ConfigError: they were not.
    """

    def fixed(given: Sequence[str]) -> dict[str, str]:
        read = {bare(str(o.get_key_element())): o for o in parse_settings(given)}
        return {
            key: o.get_value_element_as_str()
            for key, o in read.items()
            if not {key, *(key[:place] for place, sign in enumerate(key) if sign == ".")} & set(free)
        }

    here = fixed([setting for setting in settings if not setting.startswith("hydra")])
    for job in read_sweep(folder):
        there = fixed(job["overrides"])
        for key in [*here, *there]:
            if here.get(key) != there.get(key):
                raise ConfigError(
                    f"sweep={folder}: job {job['name']}: {key}={here.get(key, '(not given)')}, it has "
                    f"{there.get(key, '(not given)')} there; ask for the same, or name another sweep"
                )
