"""The jobs of sweeps: what was varied, how far each job came, and whether their runs can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from hybrid_ir.composition import GROUPS, parse_settings, show
from hybrid_ir.config import key_of_part
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.launching.sweep import LOG_FILE, State, last_lines
from hybrid_ir.launching.sweep_folder import is_complete, read_sweep
from hybrid_ir.run_folder import CONFIG_FILE, OVERRIDES_FILE, PER_QUERY_FILE, SUMMARY_FILE
from hybrid_ir.run_lock import wait_until_free
from hybrid_ir.schema_keys import flatten

ENVIRONMENT_FILE = "environment.json"
RATIO = "sampler.mono_ratio"
PRESET = "sampler.preset"
SEED = "seed"
MODEL = "model.name_or_path"
COMPLETED: Literal["completed"] = "completed"

Value = str | int | float | bool | None

_DIAL = ("hybrid", "x_x_mono", "x_y")
"""Presets that are points of the one dial, the ratio; the others are batchings of their own."""
_PRESET_NAMES = {"x_x": "X-X", "english": "English only"}
_ENDS = {0.0: "X-Y", 1.0: "X-X-mono"}
_TRAINING = ("seed", "batch_size", "sampler", "loss", "optimizer", "data", "trainer.max_steps")
"""What an evaluation takes from the configuration of the run whose model it is of."""
_BOOKKEEPING = ("output_dir", "resume", "dry_run", "sweep", "hydra", "logger", "launcher", "threads")
_NOT_COMPARED = (
    "accelerator", "devices", "data.path", "data.num_workers", "data.verify_cache", "trainer.name",
    "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.log_every_n_steps",
    "trainer.chunk_tokens", "trainer.chunk_rows", "trainer.grad_cache", "checkpoint.every_n_steps",
    "checkpoint.keep_optimizer", "evaluation.tokens_per_batch", "evaluation.save_runs", "evaluation.run_depth",
    "evaluation.at_start", "evaluation.cache_embeddings", "model.gradient_checkpointing", "model.compile",
)  # fmt: skip
"""Keys, and beginnings of keys, of how and where something is computed: runs that differ in them measure the same. Data
and benchmarks are compared by their content."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep: a run's folder, or what is known of a run that there is none of."""

    name: str
    folder: Path | None
    """None for a job that was never started."""
    state: State | Literal["missing"]
    """``missing``: other settings were trained with this seed, these were not."""
    settings: Mapping[str, str]
    """As given, by key."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """By dotted key; empty where the run did not begin."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Last line of the log of a job that did not complete."""

    @property
    def complete(self) -> bool:
        """Whether it is a complete run."""
        return self.state == COMPLETED

    def value(self, key: str) -> Value:
        """Value of a key: the configuration's, else the one given; of a group (``model``) the option given."""
        if key == "sampler":
            key = PRESET
        if key in self.config:
            found = self.config[key]
            return found if isinstance(found, str | int | float | bool) or found is None else show(found)
        given = self.settings.get("sampler" if key == PRESET else key)
        if given is None:
            return "default" if key in GROUPS["train"] else None
        try:  # numbers, true, null and quotes as in a configuration
            read = parse_settings([f"x={given}"])[0].value()
        except ConfigError:
            return given
        return read if isinstance(read, str | int | float | bool) or read is None else given

    @property
    def seed(self) -> Value:
        """Seed of the run."""
        return self.value(SEED)

    @property
    def group(self) -> tuple[str | None, float | None]:
        """Preset where it is not on the dial, and ratio where it is."""
        preset = self.value(PRESET)
        if preset not in (None, *_DIAL):
            return str(preset), None
        ratio = self.value(RATIO)
        if ratio is None:
            ratio = {"x_x_mono": 1.0, "x_y": 0.0}.get(str(preset))
        return None, None if ratio is None else float(ratio)


def short(value: Value) -> str:
    """A value as it would be typed; of a path its last two parts."""
    return show("/".join(Path(value).parts[-2:]) if isinstance(value, str) and "/" in value else value)


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seed alone."""

    ratio: float | None
    """Share of monolingual batches; None where the batching is not on this dial, or nothing was trained."""
    preset: str | None
    """Batching that is not on the dial (``x_x``, ``english``)."""
    variant: tuple[tuple[str, Value], ...]
    """Other swept keys with their values."""

    @property
    def batching(self) -> str:
        """``0.5``, ``1 (X-X-mono)``, ``X-X``."""
        if self.preset is not None:
            return _PRESET_NAMES.get(self.preset, self.preset)
        if self.ratio is None:
            return ""
        end = _ENDS.get(self.ratio)
        return f"{self.ratio:g} ({end})" if end else f"{self.ratio:g}"

    @property
    def variant_name(self) -> str:
        """``batch_size=64, optimizer.lr=0.001``; empty where nothing but the batching was varied."""
        return ", ".join(f"{key}={short(value)}" for key, value in self.variant)


@dataclass
class Sweep:
    """The jobs of one or several sweeps, and what was varied in them."""

    folders: tuple[Path, ...]
    jobs: list[Job]
    """In the order of their groups and seeds, those of other sweeps among them."""
    swept: tuple[str, ...]
    """Keys that take several values, except the seed; ``sampler`` and ``sampler.mono_ratio`` are both the batching."""
    notes: list[str] = field(default_factory=list)

    @property
    def dial(self) -> bool:
        """Whether batchings were varied."""
        return len({job.group for job in self.jobs}) > 1

    @property
    def variant_keys(self) -> tuple[str, ...]:
        """Swept keys other than the batching's."""
        return tuple(key for key in self.swept if key not in ("sampler", PRESET, RATIO))

    def group_of(self, job: Job) -> Group:
        """The group that a job belongs to."""
        preset, ratio = job.group
        return Group(ratio, preset, tuple((key, job.value(key)) for key in self.variant_keys))

    def groups(self) -> dict[Group, list[Job]]:
        """Complete jobs by group, both in order."""
        found: dict[Group, list[Job]] = {}
        for job in self.jobs:
            if job.complete:
                found.setdefault(self.group_of(job), []).append(job)
        return found

    def incomplete(self) -> list[Job]:
        """Jobs that no number is made of."""
        return [job for job in self.jobs if not job.complete]

    def name(self, group: Group) -> str:
        """A group in a table: its batching where that was varied, and what else was."""
        parts = [group.batching] if self.dial or not group.variant else []
        return ", ".join([*parts, *([group.variant_name] if group.variant else [])]) or "the runs"

    def said(self, group: Group) -> str:
        """A group in a sentence: ``ratio 0.5``."""
        return f"ratio {self.name(group)}" if self.dial and group.ratio is not None else self.name(group)


def read_sweeps(folders: Sequence[Path]) -> Sweep:
    """Reads the jobs of sweeps.

    Args:
        folders: of sweeps; the folders in them that hold runs are the jobs.

    Raises:
        DataError: a folder is not a sweep's, none of its jobs is complete, two jobs are the same run of the same
            settings, or complete runs cannot be compared.
    """
    jobs = [job for folder in dict.fromkeys(folder.resolve() for folder in folders) for job in _jobs_in(folder)]
    given = dict.fromkeys(key for job in jobs for key in job.settings if key != SEED and not _under(key, _BOOKKEEPING))
    swept = tuple(sorted(key for key in given if len({job.value(key) for job in jobs}) > 1))
    sweep = Sweep(tuple(folders), jobs, swept)
    _join_twins(sweep)
    if not any(job.complete for job in jobs):
        states = ", ".join(sorted({job.state for job in jobs}))
        raise DataError(
            f"{', '.join(map(str, folders))}: none of {len(jobs)} jobs is complete ({states}); wait for them, or begin "
            "the sweep again"
        )
    _check_comparable(sweep)
    _add_missing(sweep)
    sweep.jobs.sort(key=lambda job: (_order(sweep.group_of(job)), _sortable(job.seed), job.name))
    return sweep


def _jobs_in(folder: Path) -> list[Job]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of a sweep")
    recorded = {str(job["name"]): job for job in read_sweep(folder)}
    here = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _is_run(path)}
    if not recorded and not here:
        what = "is the folder of one run" if _is_run(folder) else "has no folders of jobs"
        raise DataError(f"{folder}: {what}; give the folder of a sweep")
    jobs = [_read_job(name, here.get(name), recorded.get(name, {})) for name in {**recorded, **here}]
    begun = [job for job in jobs if job.config]
    config, settings = _common([job.config for job in begun]), _common([job.settings for job in begun])
    # What is known of the others is what they were given, or their name; the rest they share with those that began.
    return [
        job
        if job.config
        else replace(job, settings={**settings, **job.settings}, config=_not_given(config, job.settings))
        for job in jobs
    ]


def _common(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all mappings have alike."""
    if not mappings:
        return {}
    return {key: value for key, value in mappings[0].items() if all(other.get(key) == value for other in mappings)}


def _not_given(config: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """The configuration without the keys that settings name, or are below one."""
    return {key: value for key, value in config.items() if not _under(key, settings)}


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG_FILE, LOG_FILE))


def _read_job(name: str, folder: Path | None, recorded: Mapping[str, Any]) -> Job:
    given = recorded.get("overrides")
    config: dict[str, Any] = {}
    if folder is not None and (folder / CONFIG_FILE).is_file():
        config = flatten(_read(folder / CONFIG_FILE, dict))
        if given is None and (folder / OVERRIDES_FILE).is_file():
            given = _read(folder / OVERRIDES_FILE, list)
    if given is None:  # a run that found a fault before its first step leaves its log alone
        given = re.split(r",(?=[\w.@+~-]+=)", name)
    pairs = [str(setting).partition("=")[::2] for setting in given if "=" in str(setting)]
    settings = {key.lstrip("+~").replace("/", "."): value for key, value in pairs}
    trained, environment = _training_of(config)
    if trained:  # the run that an evaluation is of says more than its path
        config = {**config, **trained}
        settings.pop(MODEL, None)
        del config[MODEL]
    if folder is None or not is_complete(folder):
        state, reason = _how_it_ended(folder, recorded.get("state"))
        return Job(name, folder, state, settings, config, reason=reason)
    if not (folder / PER_QUERY_FILE).is_file():
        raise DataError(f"{folder}: has {SUMMARY_FILE} but no {PER_QUERY_FILE}; evaluate the run again")
    return Job(
        name,
        folder,
        COMPLETED,
        settings,
        config,
        _read(folder / SUMMARY_FILE, dict),
        {**environment, **_environment(folder)},
    )


def _training_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration of the run whose model an evaluation is of, and what is known of its data; empty where the model is
    not that of a run."""
    name = config.get(MODEL)
    if RATIO in config or not isinstance(name, str):
        return {}, {}
    for folder in (Path(name), Path(name).parent):
        if (folder / CONFIG_FILE).is_file():
            trained = flatten(_read(folder / CONFIG_FILE, dict))
            if RATIO in trained:
                kept = {
                    key: value for key, value in trained.items() if _under(key, _TRAINING) and not _under(key, [MODEL])
                }
                return kept, {key: value for key, value in _environment(folder).items() if key == "data"}
    return {}, {}


def _environment(folder: Path) -> dict[str, Any]:
    path = folder / ENVIRONMENT_FILE
    return _read(path, dict) if path.is_file() else {}


def _how_it_ended(folder: Path | None, recorded: str | None) -> tuple[State, str]:
    """State and last line of the log of a job that is not complete."""
    lines = last_lines(folder / LOG_FILE, 1) if folder is not None else []
    if folder is not None and _is_held(folder):
        return "running", "".join(lines)
    if recorded == "running" and folder is not None and not _is_held(folder.parent):  # whoever wrote so was killed
        return "interrupted", "".join(lines)
    if recorded in get_args(State) and recorded != COMPLETED:
        return recorded, "".join(lines)  # type: ignore[return-value]
    stopped = any("stopped by a signal" in line for line in lines)
    return "interrupted" if stopped else "failed", "".join(lines)


def _is_held(folder: Path) -> bool:
    """Whether a process works in the folder of a run, or of a sweep."""
    try:
        with suppress(OSError):  # a folder that cannot be written in
            wait_until_free(folder, wait_seconds=0)
    except ConfigError:
        return True
    return False


def _read(path: Path, kind: type) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read ({reason}); move the job's folder away") from None
    if not isinstance(content, kind):
        raise DataError(f"{path}: is not what a run writes; move the job's folder away")
    return content


# ----------------------------------------------------------------------------------------------------------- checks


def _join_twins(sweep: Sweep) -> None:
    """Of jobs with the same settings and seed, one complete is kept, with a note, in place of those that are not."""
    kept: dict[tuple[Group, Value], Job] = {}
    for job in sweep.jobs:
        key = (sweep.group_of(job), job.seed)
        other = kept.setdefault(key, job)
        if other is job:
            continue
        if other.complete and job.complete:
            raise DataError(
                f"{job.folder}: the same settings and seed as {other.folder} ({sweep.name(key[0])}, seed {job.seed}); "
                "leave one out"
            )
        kept[key] = job if job.complete else other
        sweep.notes.append(f"{other.name} is there twice; {kept[key].folder} counts ({kept[key].state})")
    sweep.jobs = list(kept.values())


def _check_comparable(sweep: Sweep) -> None:
    first: Job | None = None
    of_group: dict[Group, Job] = {}
    between = [*sweep.swept, PRESET, RATIO, *(["loss", "optimizer"] if "model" in sweep.swept else [])]
    for job in sweep.jobs:
        if not job.complete:
            continue
        first = first or job
        alike = of_group.setdefault(sweep.group_of(job), job)
        _check_settings(alike, job, [PRESET])
        if "experiment" not in sweep.swept:  # which may set anything
            _check_settings(first, job, between)
        # A sweep over data or benchmarks compares them on purpose; its seeds have the same.
        for what, key in (("data", "data"), ("benchmarks", "benchmark")):
            on_purpose = any(name.split(".")[0] in (key, "experiment") for name in sweep.swept)
            _check_content(alike if on_purpose else first, job, what)


def _check_settings(one: Job, other: Job, allowed: Collection[str]) -> None:
    for key in dict.fromkeys([*one.config, *other.config]):
        if (
            key == SEED
            or _under(key, [*_BOOKKEEPING, *allowed, "benchmark"])
            or _under(key_of_part(key), _NOT_COMPARED)
        ):
            continue
        # a key that only one of them has is of another version, or of a benchmark
        if key in one.config and key in other.config and one.config[key] != other.config[key]:
            raise DataError(
                f"{key}: {show(other.config[key])} in {other.folder}, {show(one.config[key])} in {one.folder}, and it "
                "was not swept over; their results cannot be compared, leave one out"
            )


def _check_content(one: Job, other: Job, what: str) -> None:
    here, there = one.environment.get(what) or {}, other.environment.get(what) or {}
    parts = [(what, here, there)] if what == "data" else [(f"benchmark {b}", here[b], there.get(b)) for b in here]
    for name, ours, theirs in parts:
        if not ours or not theirs:
            continue
        hashes = [content.get("content_sha256") or json.dumps(content, sort_keys=True) for content in (ours, theirs)]
        if hashes[0] != hashes[1]:
            raise DataError(
                f"{other.folder}: {name} is not that of {one.folder} (content {hashes[1][:12]} and {hashes[0][:12]}); "
                "their results cannot be compared, leave one out"
            )


def _under(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _add_missing(sweep: Sweep) -> None:
    """A job for each group and seed that nothing is known of, though the seed was used with another group."""
    known: dict[Group, dict[Value, Job]] = {}
    for job in sweep.jobs:
        known.setdefault(sweep.group_of(job), {})[job.seed] = job
    seeds = sorted({seed for jobs in known.values() for seed in jobs}, key=_sortable)
    for group, jobs in known.items():
        for seed in seeds:
            if seed not in jobs:
                like = next(iter(jobs.values()))
                settings = {**like.settings, SEED: str(seed)}
                config = _not_given(like.config, [SEED])
                sweep.jobs.append(Job(f"{sweep.name(group)}, seed={seed}", None, "missing", settings, config))


def _order(group: Group) -> tuple[Any, ...]:
    off_dial = group.preset is not None
    variant = tuple(_sortable(value) for _, value in group.variant)
    return variant, off_dial, group.ratio if group.ratio is not None else -1.0, group.preset or ""


def _sortable(value: Value) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value)
