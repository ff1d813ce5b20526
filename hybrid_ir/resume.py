"""The configuration of a run that is continued: the folder's own, with the few changes that leave it the same run."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hybrid_ir.composition import Composer, parse_settings, said, show, validate, with_paths
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.ranks import global_rank
from hybrid_ir.run_folder import CONFIG_FILE, read_run_files
from hybrid_ir.run_lock import wait_until_free
from hybrid_ir.schema_keys import flatten

NOT_KEPT = ("resume", "output_dir", "dry_run", "sweep")
"""Keys that belong to one start of a run."""
_DEVICES = ("name", "accelerator", "strategy", "devices", "num_nodes")
_CHUNKS = ("chunk_rows", "chunk_tokens", "grad_cache")  # fewer devices have more rows each; the gradient is the same
MAY_CHANGE = {f"trainer.{key}" for key in (*_DEVICES, *_CHUNKS)}
"""Keys of where and in which pieces a run computes, which leave it the same run."""
_ABSENT = object()


def prepare_resume(composer: Composer, run_dir: str, settings: Sequence[str]) -> tuple[TrainConfig, list[str]]:
    """Configuration and settings with which the run in ``run_dir`` goes on.

    ``config.yaml`` of the folder is the truth. New settings are compared as wholes, the stored ones composed against
    the stored and the new ones together, and the difference is applied to it; so relative paths in stored settings
    mean what they meant.

    Args:
        composer: composer of ``train``.
        run_dir: folder of a run.
        settings: the other settings of the command line.

    Raises:
        ConfigError: the folder is not a run's, another process trains in it, or a setting changes what a resumed run
            keeps.
    """
    stored, stored_settings = read_run_files(run_dir)
    stored_settings = [s for s in stored_settings if _key(s) not in NOT_KEPT]
    folder = os.path.abspath(os.path.expanduser(run_dir))
    added = []
    for setting, override in zip(settings, parse_settings(settings), strict=True):
        if override.key_or_group == "output_dir":
            if os.path.abspath(os.path.expanduser(str(override.value()))) != folder:
                raise ConfigError(
                    f"{said(override)}: a resumed run stays in its folder {run_dir}; leave output_dir out"
                )
        elif override.key_or_group == "dry_run":
            if override.value() is not False:
                raise ConfigError(
                    "dry_run=true: a run that is resumed has been measured already; leave one of them out"
                )
        else:
            added.append(setting)
    raw = copy.deepcopy(stored)
    merged = stored_settings
    if added:
        replaced = {_key(s) for s in added}
        merged = [s for s in stored_settings if _key(s) not in replaced] + added
        try:
            before = _normal(composer.compose(stored_settings))
        except ConfigError as error:
            raise ConfigError(
                f"resume={run_dir}: its overrides.yaml can no longer be composed ({error}); resume it without changes"
            ) from None
        after = _normal(composer.compose(merged))
        known = flatten(stored)
        changes = _differences(before, after)
        # an option of a group may set keys of other sections: name what was typed first
        for name in sorted(changes, key=lambda key: key.partition(".")[0] not in replaced):
            new = changes[name]
            old = known.get(name, _ABSENT)
            if new == old:
                continue
            _check_change(name, old, new, stored, replaced)
            _set(raw, name, new)
        raw["benchmark"] = {k: v for k, v in (raw.get("benchmark") or {}).items() if k in after["benchmark"]}
    raw.update(resume=folder, output_dir=folder, dry_run=False)
    try:
        config = cast(TrainConfig, validate(TrainConfig, raw))
    except ConfigError as error:
        if added:
            raise
        raise ConfigError(f"resume={run_dir}: its {CONFIG_FILE} is not valid ({error}); start a new run") from None
    config = cast(TrainConfig, validate(TrainConfig, with_paths(config.model_dump(mode="json"))))
    if global_rank() == 0:  # before its configuration is written anew
        wait_until_free(Path(run_dir))
    return config, merged


def _key(setting: str) -> str:
    return str(parse_settings([setting])[0].key_or_group)


def _normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the types of the schema: 32 and "32" are the same precision."""
    return cast(dict[str, Any], validate(TrainConfig, raw).model_dump(mode="json"))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """New values of the keys that differ."""
    old, new = flatten(before), flatten(after)
    return {
        name: new.get(name, _ABSENT)
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name, _ABSENT) != new.get(name, _ABSENT) and name not in NOT_KEPT
    }


def _check_change(name: str, old: Any, new: Any, stored: Mapping[str, Any], typed: set[str]) -> None:
    if name in MAY_CHANGE or name == "benchmark" or name.startswith(("benchmark.", "logger.", "launcher.")):
        return
    change = f"{name}={_shown(new)}"
    if name == "trainer.max_steps":
        schedule = (stored.get("optimizer") or {}).get("schedule")
        if schedule == "constant":
            return
        raise ConfigError(
            f"{change}: the run has a {schedule} schedule over {_shown(old)} steps, which fixes its learning rates; "
            "only optimizer.schedule=constant can be prolonged"
        )
    group = name.partition(".")[0]
    if name in typed or group not in typed:
        remedy = "leave it out"
    else:  # an option of the group brought it; of a trainer's, some keys may change
        remedy = f"add {name}={_shown(old)}" if group == "trainer" else f"leave {group}=... out"
    raise ConfigError(
        f"{change}: a resumed run keeps {name}={_shown(old)}; {remedy}, or start a new run (what may change: "
        "trainer.max_steps with a constant schedule, devices, nodes, strategy, chunks, logger, benchmarks)"
    )


def _shown(value: Any) -> str:
    return "(absent)" if value is _ABSENT else show(value)


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            if value is _ABSENT:
                return
            tree[section] = {}
        tree = tree[section]
    if value is _ABSENT:
        if not (isinstance(tree.get(last), dict) and tree[last]):  # an empty section is gone where it has been filled
            tree.pop(last, None)
    elif value != {} or not tree.get(last):
        tree[last] = value
