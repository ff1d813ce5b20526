"""The command lines ``train`` and ``evaluate``: check, compose, validate, claim a folder, and only then import torch.

Exit codes: 0 done; 1 a fault of the program; 2 a fault of the configuration, the data or the machine, said on one line;
130 and 143 after SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import RangeSweep
from hydra.types import RunMode
from omegaconf import OmegaConf

from hybrid_ir.cache import write_atomic
from hybrid_ir.composition import (
    GROUPS,
    SCHEMAS,
    Command,
    Composer,
    composer,
    conf_dir,
    one_line,
    parse_settings,
    quote,
    quote_path,
    said,
    show,
    sweep_jobs,
    swept_values,
)
from hybrid_ir.config import EvaluateConfig, SlurmLauncherConfig, TrainConfig
from hybrid_ir.errors import EXIT_USAGE, ConfigError, UserError
from hybrid_ir.launching.cluster import check_queue, check_slurm
from hybrid_ir.launching.costs import announcement
from hybrid_ir.launching.devices import gpu_slots, gpus
from hybrid_ir.launching.faults import report_is_mine, reported
from hybrid_ir.launching.processes import available_threads
from hybrid_ir.launching.ranks import already_launched, check_launched, global_rank, run_ranks
from hybrid_ir.launching.search import check_monitor, check_search, check_sweeper, direction, searches, trials
from hybrid_ir.launching.sweep import (
    SESSION,
    Job,
    Session,
    job_names,
    known_names,
    log_summary,
    monitor_value,
    print_table,
    run_settings,
    sweep_exit_code,
    sweeper_params,
    swept_keys,
)
from hybrid_ir.launching.sweep_folder import SWEEP_FILE, is_begun, is_complete, sweep_folder
from hybrid_ir.resume import MAY_CHANGE, NOT_KEPT, prepare_resume
from hybrid_ir.run_folder import (
    CONFIG_FILE,
    OVERRIDES_FILE,
    SUMMARY_FILE,
    check_output_dir,
    claim,
    read_run_config,
    release,
    unique_dir,
    write_run_files,
)
from hybrid_ir.run_lock import hold
from hybrid_ir.schema_keys import flatten, nearest_key, schema_keys

Config = TrainConfig | EvaluateConfig

_FILE_FAULTS = {
    errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.EFBIG,
}  # fmt: skip
"""Faults of the disk, of rights or of paths, which are the user's to mend."""


def report_errors(action: Callable[[], int]) -> int:
    """Runs ``action`` and returns its exit code; a ``UserError`` becomes one line on stderr and exit code 2."""
    try:
        return action()
    except UserError as error:
        if report_is_mine():
            print(f"error: {one_line(error, 2000)}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    except OSError as error:
        if error.errno not in _FILE_FAULTS:
            raise
        if report_is_mine():
            said = f"{error.filename or 'a file'}: {error.strerror}; free space or allow it"
            print(f"error: {said}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    except Exception:
        if reported():  # the connection to the process that has reported is gone
            return EXIT_USAGE
        raise


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code.

    Args:
        command: ``train`` or ``evaluate``.
        argv: arguments; None takes the process's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return report_errors(lambda: _run(command, arguments))


def execute(config: Config, overrides: Sequence[str]) -> int:
    """Runs a validated configuration in this process."""
    if isinstance(config, TrainConfig):
        from hybrid_ir.training import run_training

        run_training(config, list(overrides))
    else:
        from hybrid_ir.evaluation.run import run_evaluation

        run_evaluation(config, list(overrides))
    return 0


# -------------------------------------------------------------------------------------------------------- arguments


def parse_arguments(command: Command, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses Hydra's flags, our ``--dry-run``, and the settings.

    Returns:
        The parsed arguments, and the flags among ``argv`` (without the settings).

    Raises:
        ConfigError: a flag is unknown.
    """
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError(_unknown_flag(command, message))

    parser.error = fail
    argv = list(argv)
    if "--dry-run" in argv and command == "train":
        argv = ["dry_run=true" if argument == "--dry-run" else argument for argument in argv]
    options = parser.parse_intermixed_args(argv)
    flags = list(argv)
    for setting in options.overrides:
        flags.remove(setting)
    if options.config_path is not None:
        raise ConfigError(f"--config-path={options.config_path}: not taken; add a folder with --config-dir instead")
    return options, flags


def _unknown_flag(command: Command, message: str) -> str:
    flag = next((word for word in message.split() if word.startswith("-")), None)
    if not message.startswith("unrecognized arguments") or flag is None:
        return one_line(message)
    name, _, value = flag.lstrip("-").partition("=")
    near = nearest_key(name.replace("-", "_"), [*schema_keys(SCHEMAS[command]), *GROUPS[command]])
    hint = f'; settings have no dashes, did you mean "{near}={value or "..."}"?' if near else "; --help lists the flags"
    return f"{flag}: no such flag{hint}"


# ------------------------------------------------------------------------------------------------------------- runs


def prepare(composing: Composer, settings: Sequence[str]) -> tuple[Config, list[str]]:
    """Checks, composes and validates one run.

    Args:
        composing: composer of the command.
        settings: settings of the command line.

    Returns:
        The configuration with absolute paths and a number of threads, and the settings to keep with the run.

    Raises:
        ConfigError: anything in it is wrong.
    """
    overrides = parse_settings(settings)
    composing.check(overrides)
    resumed = [o for o in overrides if o.key_or_group == "resume" and o.value() is not None]
    named = [o for o in overrides if o.key_or_group == "sweep" and o.value() is not None]
    if named:
        raise ConfigError(f"{said(named[-1])}: names a sweep, and this is one run; add -m, or leave it out")
    own = [(s, o) for s, o in zip(settings, overrides, strict=True) if not o.key_or_group.startswith("hydra")]
    if resumed and composing.command == "train":
        others = [s for s, o in own if o.key_or_group != "resume"]
        return prepare_resume(composing, str(resumed[-1].value()), others)
    config = composing.validate(composing.compose(settings))
    if config.output_dir is not None and global_rank() == 0:
        check_output_dir(config.output_dir)
    return with_threads(config), [s for s, _ in own]


def with_threads(config: Config) -> Config:
    """The configuration with ``threads`` as a number: by default all cores, shared by the processes on this machine."""
    if config.threads is not None:
        return config
    processes = config.trainer.devices if isinstance(config, TrainConfig) else config.devices
    share = available_threads() if already_launched() else max(1, available_threads() // processes)
    return config.model_copy(update={"threads": share})


def check_sweep(composing: Composer, settings: Sequence[str], hydra_config: Any) -> dict[tuple[str, ...], Config]:
    """Validates every job of a sweep.

    Returns:
        The configuration of each job, by its settings, in order.

    Raises:
        ConfigError: a job is wrong, or a setting does not go with a sweep.
    """
    overrides = parse_settings(settings)
    for override in overrides:
        if override.key_or_group == "output_dir":
            raise ConfigError(f"{said(override)}: each job of a sweep has a folder of its own; use hydra.sweep.dir=DIR")
        if override.key_or_group == "resume":
            raise ConfigError(f"{said(override)}: a sweep starts new runs; resume one run at a time, without -m")
    for override in overrides:
        if override.key_or_group == "experiment" and override.is_sweep_override():
            for option in swept_values(override):
                if sweeper_params(composing.hydra_config([f"experiment={option}"])):
                    raise ConfigError(
                        f"{said(override)}: experiment={option} is a sweep itself, of what its file says; make a sweep "
                        f"of each"
                    )
    params = sweeper_params(hydra_config)
    basic = not searches(hydra_config)
    if not basic and composing.command == "evaluate":
        raise ConfigError("hydra/sweeper: an evaluation has no monitor to search by; list the values, or use train.py")
    for override in [*parse_settings([f"{key}={value}" for key, value in params.items()]), *overrides]:
        if basic and override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(
                f"{said(override)}: an interval needs a sweeper that draws values (hydra/sweeper=optuna); list the "
                f"values instead, e.g. {override.key_or_group}=1,2,3"
            )
    few, jobs = sweep_jobs([o for o in overrides if not o.key_or_group.startswith("hydra")], params)
    for override in overrides:
        if not basic and isinstance(override.value(), RangeSweep):  # Optuna draws the stop of a range too
            stop = parse_settings([f"{override.get_key_element()}={override.value().stop}"])
            others = [o for o in overrides if o is not override and not o.key_or_group.startswith("hydra")]
            few.append(sweep_jobs([*others, *stop], params)[0][0])
    seen: dict[tuple[str, ...], Config] = {}
    for job in [*few, *jobs]:  # a few first in which every value occurs: a mistake shows up early in a large sweep
        if tuple(job) not in seen:
            composing.check(parse_settings(job))
            try:
                config = composing.validate(composing.compose(job))
            except ConfigError as error:
                if basic or "whole number" not in str(error):
                    raise
                raise ConfigError(
                    f"{error}; an interval draws any number between its ends, a range whole ones"
                ) from None
            if config.output_dir is not None:
                raise ConfigError(
                    f"output_dir={config.output_dir}: each job of a sweep has a folder of its own; use "
                    "hydra.sweep.dir=DIR"
                )
            seen[tuple(job)] = config
    _check_one_launcher(seen.values())
    return {tuple(job): seen[tuple(job)] for job in jobs}


def _check_one_launcher(configs: Iterable[Config]) -> None:
    """Raises ConfigError where the jobs of a sweep ask for different launchers: it has one for all."""
    launchers = [flatten(config.launcher.model_dump()) for config in configs]
    for key in launchers[0]:
        values = list(dict.fromkeys(show(launcher.get(key)) for launcher in launchers))
        if len(values) > 1:
            raise ConfigError(
                f"launcher.{key}={','.join(values)}: takes one value for the whole sweep; make a sweep of each"
            )


def _check_sweep_dir(sweep_dir: str, names: Sequence[str]) -> None:
    path = Path(sweep_dir)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"hydra.sweep.dir={sweep_dir}: is a file; name a folder")
    for name in names:
        try:
            check_output_dir(str(path / name))
        except ConfigError as error:
            reason = str(error).split(": ", 1)[1]
            raise ConfigError(
                f"hydra.sweep.dir={sweep_dir}: the folder of job {name} {reason}; sweep={sweep_dir} instead goes on "
                f"with the sweep in it"
            ) from None


def _known_names(folder: Path, jobs: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """Names of jobs, those that a sweep has already under the names that they have there: a key that takes several
    values only now is not in them.

    Raises:
        ConfigError: two jobs would have the same name.
    """
    known = known_names(folder)
    found = [known.get(frozenset(run_settings(job)), name) for job, name in zip(jobs, names, strict=True)]
    for name in found:
        if found.count(name) > 1:
            raise ConfigError(f"sweep={folder}: two jobs would be named {name}; name another sweep")
    return found


def _continue_sweep(
    composing: Composer, folder: Path, jobs: Mapping[tuple[str, ...], Config], names: Sequence[str]
) -> set[str]:
    """Checks that what the folder of a sweep holds are these jobs.

    Args:
        composing: of the command.
        folder: of the sweep.
        jobs: their configurations, by their settings.
        names: of their folders.

    Returns:
        Names of the jobs that are complete.

    Raises:
        ConfigError: a job has been run with other settings.
    """
    complete = set()
    for (settings, asked), name in zip(jobs.items(), names, strict=True):
        path = folder / name
        if not (is_complete(path) or is_begun(path)):
            try:
                check_output_dir(str(path))
            except ConfigError as error:
                raise ConfigError(f"sweep={folder}: job {name}: {str(error).split(': ', 1)[1]}") from None
        elif composing.command == "train":
            try:
                config, _ = prepare_resume(composing, str(path), settings)
            except ConfigError as error:
                raise ConfigError(f"sweep={folder}: job {name}: {error}") from None
            _check_same_job(folder, name, config.model_dump(mode="json"), asked)
            if is_complete(path) and not _asks_for_more(path, config):
                complete.add(name)
        elif is_complete(path):
            _check_same_job(folder, name, read_run_config(path), asked)
            complete.add(name)
    return complete


_MAY_DIFFER = (*NOT_KEPT, *MAY_CHANGE, "threads", "logger", "launcher", "accelerator", "devices")
"""Keys, and sections, of where and with what a job runs."""


def _check_same_job(folder: Path, name: str, stored: Mapping[str, Any], asked: Config) -> None:
    """Compares a job that a sweep has with the one that is asked for, also in what is not asked for any more.

    Raises:
        ConfigError: they differ.
    """
    may_differ = [*_MAY_DIFFER, *(["benchmark"] if isinstance(asked, TrainConfig) else [])]
    there, here = flatten(stored), flatten(asked.model_dump(mode="json"))
    for key in [*here, *(key for key in there if key not in here and key.startswith("benchmark."))]:
        if any(key == free or key.startswith(f"{free}.") for free in may_differ):
            continue
        # a key that the stored configuration does not have is of a later version, or of another benchmark
        if there.get(key) != here.get(key) and (key in there or key.startswith("benchmark.")):
            raise ConfigError(
                f"sweep={folder}: job {name}: {key}={show(here.get(key))}, it has {show(there.get(key))} there; ask "
                f"for the same, or name another sweep"
            )


def _asks_for_more(folder: Path, config: TrainConfig) -> bool:
    """Whether a complete run lacks steps or benchmarks that its settings now ask for; resuming it says what to do."""
    summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    more = summary["steps"] < config.trainer.max_steps and not summary["stopped_early"]
    return more or not set(config.benchmark) <= set(summary["benchmarks"])


def _run(command: Command, argv: Sequence[str]) -> int:
    options, flags = parse_arguments(command, argv)
    if options.hydra_help or options.shell_completion:
        return _inform(command, [*flags, *options.overrides])
    settings = [quote_path(setting) for setting in options.overrides]
    searchpath = [options.config_dir] if options.config_dir else []
    with composer(command, config_name=options.config_name, searchpath=searchpath) as composing:
        if options.help:
            print(help_text(composing))
            return 0
        composing.check(parse_settings(settings))
        check_sweeper(settings)
        whole = composing.hydra_config(settings)
        prepared = composing.prepared(settings)
        if options.cfg or options.info:
            if options.multirun:
                raise ConfigError("--multirun: --cfg and --info show the configuration of one run; leave -m out")
            composing.compose([s for s in settings if not s.startswith("hydra.")])
            sweep = False
        else:
            mode = whole.hydra.mode
            sweep = options.multirun or mode == RunMode.MULTIRUN
        if sweep:
            jobs = check_sweep(composing, _without(settings, "sweep"), whole)
            first = next(iter(jobs.values()))
            if isinstance(first, TrainConfig) and isinstance(first.launcher, SlurmLauncherConfig):
                check_slurm(jobs.values(), first.dry_run)
            if isinstance(first, TrainConfig) and first.dry_run:
                return _dry_run_of_sweep(composing, settings, whole, jobs)
            sweep_arguments, session = _prepare_sweep(composing, settings, flags, whole, jobs)
        elif not (options.cfg or options.info):
            config, kept = prepare(composing, settings)
            _check_launcher_of_one_run(config, settings)
            _say_that_it_is_a_sweep(whole, settings)
    if options.cfg or options.info:
        return _inform(command, [*flags, *prepared])
    if sweep:
        return _sweep(command, sweep_arguments, session)
    return run_one(config, kept)


def _without(settings: Sequence[str], key: str) -> list[str]:
    return [s for s, o in zip(settings, parse_settings(settings), strict=True) if o.key_or_group != key]


def _say_that_it_is_a_sweep(whole: Any, settings: Sequence[str]) -> None:
    """A note where one run is asked for of an experiment that is a sweep; a job of the sweep says hydra.mode=RUN."""
    params = sweeper_params(whole)
    named = [o for o in parse_settings(settings) if o.key_or_group in ("experiment", "hydra.mode", "resume")]
    if params and [o.key_or_group for o in named] == ["experiment"]:
        varied = ", ".join(f"{key}={value}" for key, value in params.items())
        print(
            f"note: {said(named[0])} is a sweep ({varied}), and this is one run; add -m for all its jobs",
            file=sys.stderr,
        )


def _check_launcher_of_one_run(config: Config, settings: Sequence[str]) -> None:
    """Raises ConfigError where a launcher of sweeps is asked for that one run would not use.

    A job of a sweep says hydra.mode=RUN: an experiment may bring its sweep's launcher with it.
    """
    if not isinstance(config, TrainConfig) or config.resume is not None:
        return
    job = any(o.key_or_group == "hydra.mode" for o in parse_settings(settings))
    if isinstance(config.launcher, SlurmLauncherConfig) and not job:
        raise ConfigError("launcher=slurm: is how the jobs of a sweep run, and this is one run; add -m")


def _swept(settings: Sequence[str], whole: Any, jobs: Sequence[Sequence[str]]) -> set[str]:
    """Keys that take several values in a sweep."""
    own = [setting for setting in _without(settings, "sweep") if not setting.startswith("hydra")]
    return swept_keys(own, sweeper_params(whole), jobs)


def _folder_and_names(
    settings: Sequence[str], whole: Any, jobs: Sequence[Sequence[str]]
) -> tuple[Path | None, list[str]]:
    """Folder of a sweep, None where it gets a new one, and names of its jobs.

    Raises:
        ConfigError: the folder is named twice, or two jobs would have the same name.
    """
    parsed = parse_settings(settings)
    named = [o for o in parsed if o.key_or_group == "sweep" and o.value() is not None]
    given = [o for o in parsed if o.key_or_group == "hydra.sweep.dir"]
    if named and given:
        raise ConfigError(f"{said(named[-1])}: hydra.sweep.dir={given[-1].value()} names its folder too; keep one")
    names = job_names(jobs, _swept(settings, whole, jobs))
    if named:
        folder = sweep_folder(str(named[-1].value()))
        return folder, names if searches(whole) else _known_names(folder, jobs, names)
    return (Path(str(whole.hydra.sweep.dir)) if given else None), names  # with what Hydra puts in for ${...}


def _dry_run_of_sweep(
    composing: Composer, settings: Sequence[str], whole: Any, jobs: Mapping[tuple[str, ...], Config]
) -> int:
    """Measures one job, with the threads that it will have, and says what all that are to run take; for a cluster,
    shows the batch script instead."""
    jobs = {tuple(_without(job, "dry_run")): config for job, config in jobs.items()}
    folder, names = _folder_and_names(settings, whole, [list(job) for job in jobs])
    number = trials(whole, len(jobs)) if searches(whole) else len(jobs)
    todo = dict(zip(names, jobs.items(), strict=True))
    if folder is not None and folder.is_dir() and not searches(whole):
        complete = _continue_sweep(composing, folder, jobs, names)
        todo = {name: job for name, job in todo.items() if name not in complete}
        number = len(todo)
    if not todo:
        print(f"sweep {folder}: all {len(jobs)} jobs are complete")
        return 0
    name, (first, config) = next(iter(todo.items()))
    assert isinstance(config, TrainConfig)
    if isinstance(config.launcher, SlurmLauncherConfig):
        from hybrid_ir.launching.slurm import show_batch

        folder = folder or Path(str(whole.hydra.sweep.dir))
        if searches(whole):  # an array for each draw
            number = min(number, int(whole.hydra.sweeper.get("n_jobs") or 1))
        job = Job(names.index(name), name, folder.absolute() / name, [], first)
        print(show_batch(config, folder.absolute(), job, number))
        return 0
    import torch
    from rich.console import Console

    from hybrid_ir.training.dry_run import dry_run

    torch.set_num_threads(config.threads or max(1, available_threads() // config.launcher.jobs))
    dry_run(config, Console(), number)
    return 0


def _prepare_sweep(
    composing: Composer,
    settings: Sequence[str],
    flags: Sequence[str],
    whole: Any,
    jobs: Mapping[tuple[str, ...], Config],
) -> tuple[list[str], Session]:
    """Finds the folder of a sweep and what it holds, and says what it will need.

    Returns:
        Hydra's arguments, and what the launcher is to know.
    """
    every = [list(job) for job in jobs]
    asked, names = _folder_and_names(settings, whole, every)
    named = any(o.key_or_group == "sweep" and o.value() is not None for o in parse_settings(settings))
    settings = _without(settings, "sweep")
    configs = list(jobs.values())
    session = Session(slots=_slots(configs))
    first = configs[0]
    if isinstance(first, TrainConfig) and isinstance(first.launcher, SlurmLauncherConfig):
        session.batch = first
    prepared = composing.prepared(_without(settings, "hydra.sweep.dir"))
    if searches(whole):
        session.trials = trials(whole, len(jobs))
        prepared += direction(settings, whole, cast(TrainConfig, first))
        check_monitor(cast(list[TrainConfig], configs))
    if asked is not None and named:
        folder = asked
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder, 0.0, "sweep")
        check_queue(folder)
        if session.trials is not None:
            params = [f"{key}={value}" for key, value in sweeper_params(whole).items()]
            check_search(folder, [*params, *settings], {*_swept(settings, whole, every), *_MAY_DIFFER})
        else:
            session.names = dict(zip(jobs, names, strict=True))
            session.complete = _continue_sweep(composing, folder, jobs, names)
        prepared.append(f"hydra.sweep.dir={quote(str(folder))}")
    elif asked is not None:
        folder = asked
        prepared.append(f"hydra.sweep.dir={quote(str(folder.absolute()))}")
        if session.trials is not None and (folder / SWEEP_FILE).exists():
            raise ConfigError(f"hydra.sweep.dir={folder}: holds a sweep; sweep={folder} instead goes on with it")
        _check_sweep_dir(str(folder), [] if session.trials is not None else names)
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder, 0.0, "hydra.sweep.dir")
        check_queue(folder, "hydra.sweep.dir")
    else:
        folder = unique_dir("sweeps")
        hold(folder)
        prepared.append(f"hydra.sweep.dir={quote(str(folder))}")
    todo = [config for config, name in zip(configs, names, strict=True) if name not in session.complete]
    begun = sum(is_begun(folder / name) for name in names)
    if session.trials is not None:
        todo, begun = [first] * session.trials, 0
    print(announcement(folder, todo, len(session.complete), begun), flush=True)
    if "-m" not in flags and "--multirun" not in flags:
        flags = [*flags, "-m"]
    return [*flags, *prepared], session


def _slots(configs: Sequence[Config]) -> list[dict[str, str]]:
    """What divides this machine's GPUs among the jobs that run side by side; empty where there is nothing to divide."""
    if any(isinstance(c, TrainConfig) and isinstance(c.launcher, SlurmLauncherConfig) for c in configs):
        return []
    parallel = max(c.launcher.jobs for c in configs)
    places = [c.trainer if isinstance(c, TrainConfig) else c for c in configs]
    wanted = [place for place in places if place.accelerator != "cpu"]
    if parallel == 1 or not wanted or (all(place.accelerator == "auto" for place in wanted) and not gpus()):
        return []
    return gpu_slots(parallel, max(place.devices for place in wanted))


def run_one(config: Config, overrides: Sequence[str]) -> int:
    """Claims the run's folder, writes its configuration, and runs it in as many processes as it has devices.

    Raises:
        UserError: the folder is in use, or the run finds a fault in the data or the machine.
    """
    command = "train" if isinstance(config, TrainConfig) else "evaluate"
    resume = isinstance(config, TrainConfig) and config.resume is not None
    dry_run = isinstance(config, TrainConfig) and config.dry_run
    processes = config.trainer.devices if isinstance(config, TrainConfig) else config.devices
    nodes = config.trainer.num_nodes if isinstance(config, TrainConfig) else 1
    launched = already_launched()
    if launched and isinstance(config, TrainConfig):  # an evaluation takes as many as there are
        check_launched(processes, nodes)
    if nodes > 1 and not launched:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: start it on every machine with torchrun --nnodes={nodes} "
            f"--nproc_per_node={processes} -m hybrid_ir.train ... output_dir=DIR"
        )
    if launched and config.output_dir is None and not dry_run:
        raise ConfigError("output_dir=null: the processes of torchrun need one folder to agree on; set output_dir")
    if dry_run:
        if processes == 1 or launched:
            return execute(config, overrides)
        with tempfile.TemporaryDirectory() as scratch:
            write_run_files(config, overrides, scratch)
            return _start_ranks(command, Path(scratch), processes, config.threads, ["--dry-run"])
    made = config.output_dir is None or not os.path.isdir(config.output_dir)
    if resume:
        folder = Path(cast(str, config.output_dir))
    elif global_rank() == 0:
        folder = claim(config.output_dir)
    else:
        folder = Path(cast(str, config.output_dir))
    config = config.model_copy(update={"output_dir": str(folder)})
    if resume and global_rank() == 0 and (processes == 1 or launched):  # else the process that trains takes it
        hold(folder)
    put_back = _what_resumes(folder) if resume and global_rank() == 0 else None
    if global_rank() == 0:
        write_run_files(config, overrides, folder)
    try:
        if processes > 1 and not launched:
            code = _start_ranks(command, folder, processes, config.threads, ["--resume"] if resume else [])
        else:
            code = execute(config, overrides)
    except (UserError, OSError):
        if put_back is not None:
            put_back()
        if not resume and not launched:
            _release(folder, made)
        raise
    except BaseException:
        # An evaluation that was interrupted goes on by the same command: its folder must be free again.
        if command == "evaluate" and not launched:
            _release(folder, made)
        raise
    if put_back is not None and code == EXIT_USAGE:
        put_back()
    if not resume and (code == EXIT_USAGE or (code and command == "evaluate")):
        _release(folder, made)
    return code


def _what_resumes(folder: Path) -> Callable[[], None]:
    """Puts a run's configuration back as it is now, unless something has been trained by then."""

    def checkpoints() -> set[Path]:
        return set((folder / "checkpoints").glob("*.ckpt"))

    files = [path for path in (folder / CONFIG_FILE, folder / OVERRIDES_FILE) if path.exists()]
    before, kept = checkpoints(), {path: path.read_bytes() for path in files}

    def put_back() -> None:
        if checkpoints() == before:
            for path, content in kept.items():
                write_atomic(path, content)

    return put_back


def _release(folder: Path, made: bool) -> None:
    """Frees the folder of a run that found a fault before its first step; one that the user made stays, empty."""
    release(folder)
    if not made:
        folder.mkdir(parents=True, exist_ok=True)


def _start_ranks(command: str, folder: Path, processes: int, threads: int | None, flags: Sequence[str]) -> int:
    worker = [sys.executable, "-m", "hybrid_ir.launching.worker", command, str(folder), *flags]
    return run_ranks(worker, processes, threads)


# ------------------------------------------------------------------------------------------------------------ Hydra


def _sweep(command: Command, argv: Sequence[str], session: Session) -> int:
    SESSION.results, SESSION.complete = [], session.complete
    SESSION.names, SESSION.slots = session.names, session.slots
    SESSION.trials, SESSION.batch = session.trials, session.batch
    stopped: int | None = None
    try:
        code = _hydra(command, argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        stopped = code
    if SESSION.results:
        print_table(SESSION.results)
    if stopped is None:
        log_summary(SESSION.results)
    return stopped or code or sweep_exit_code(SESSION.results)


def help_text(composing: Composer) -> str:
    """The help of a command: the configuration's own text with the options of each group."""
    template = str(composing.hydra_config([]).hydra.help.template)
    groups = [f"{group}: {', '.join(composing.options(group))}\n" for group in sorted(GROUPS[composing.command])]
    return template.replace("$APP_CONFIG_GROUPS", "".join(groups))


def _inform(command: Command, argv: Sequence[str]) -> int:
    try:
        return _hydra(command, argv)
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _hydra(command: Command, argv: Sequence[str]) -> int:
    """Hands the command line, checked, to Hydra: its help and information flags, and its sweepers."""
    import hydra

    def task(config: Any) -> Any:
        return _task(command, config)

    before = sys.argv
    sys.argv = [before[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()
    finally:
        sys.argv = before
    return 0


def _task(command: Command, config: Any) -> float | None:
    """A job that another launcher than ours runs in this process, in the folder that Hydra gives it."""
    from hydra.core.hydra_config import HydraConfig

    from hybrid_ir.composition import validate, with_paths

    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    runtime = HydraConfig.get()
    raw["output_dir"] = str(runtime.runtime.output_dir)
    checked = validate(SCHEMAS[command], with_paths(raw))
    kept = [str(setting) for setting in runtime.overrides.task]
    if code := run_one(with_threads(checked), kept):
        raise UserError(f"{raw['output_dir']}: the job has ended with exit code {code}")
    return monitor_value(Path(raw["output_dir"]))
