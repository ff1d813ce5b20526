"""``python -m hybrid_ir.config validate|dump|describe``: what a command would run, and what every key means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, cast

from hydra.types import RunMode

from hybrid_ir.cli import check_sweep, prepare, report_errors
from hybrid_ir.composition import SCHEMAS, Command, composer, parse_settings, quote_path, show
from hybrid_ir.errors import ConfigError
from hybrid_ir.run_folder import to_yaml
from hybrid_ir.schema_keys import Key, flatten, nearest_key, part_keys, schema_keys

_DESCRIPTION = """\
validate   check the settings of a command without running it: prints OK, or the error line and exit code 2
dump       print the whole configuration that a command would run, as YAML
describe   print every key with its type, value and meaning; words without "=" choose keys by their beginning
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hybrid_ir.config",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["validate", "dump", "describe"])
    parser.add_argument("settings", nargs="*", help="settings as the command takes them, e.g. sampler=x_y seed=2")
    parser.add_argument("--command", choices=list(SCHEMAS), default="train", help="whose configuration (train)")
    parser.add_argument("--config-dir", default=None, help="a further folder of configuration groups")
    parser.add_argument("-m", "--multirun", action="store_true", help="the settings are a sweep's (validate)")
    options = parser.parse_intermixed_args(arguments)
    return report_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    command = cast(Command, options.command)
    settings = [quote_path(setting) for setting in options.settings]
    searchpath = [options.config_dir] if options.config_dir else []
    with composer(command, searchpath=searchpath) as composing:
        if options.action == "describe":
            return _describe(composing, command, settings)
        composing.check(parse_settings(settings))
        whole = composing.hydra_config(settings)
        if options.multirun or whole.hydra.mode == RunMode.MULTIRUN:
            jobs = check_sweep(composing, settings, whole)
            if options.action == "dump":
                raise ConfigError("-m: a sweep has a configuration for each job; dump one job at a time")
            print(f"OK ({len(jobs)} jobs)")
            return 0
        config, _ = prepare(composing, settings)
    if options.action == "dump":
        sys.stdout.write(to_yaml(config))
    else:
        print("OK")
    return 0


def _describe(composing: Any, command: Command, settings: Sequence[str]) -> int:
    from rich.console import Console
    from rich.text import Text

    prefixes = [setting for setting in settings if "=" not in setting]
    given = [setting for setting in settings if "=" in setting]
    composing.check(parse_settings(given))
    # What must be given still has no value here.
    placeholders = {"model.name_or_path": "NAME", "data.path": "FILE"}
    named = {override.key_or_group for override in parse_settings(given)}
    current: dict[str, Any] = {}
    keys = schema_keys(SCHEMAS[command])
    for attempt in ({}, {"model.name_or_path": "NAME"}, {"data.path": "FILE"}, placeholders):
        extra = [f"{key}={value}" for key, value in attempt.items() if key not in named]
        try:
            raw = composing.compose([*given, *extra])
            keys |= part_keys(raw)
            current = flatten(raw)
        except ConfigError as error:
            if "must be given" in str(error) or (extra and "belongs to" in str(error)):
                continue
            raise
        current = {key: value for key, value in current.items() if key not in attempt or key in named}
        break
    chosen = [k for k in keys.values() if not prefixes or any(_begins(k.name, prefix) for prefix in prefixes)]
    if not chosen:
        near = nearest_key(prefixes[0], keys)
        raise ConfigError(f"{prefixes[0]}: no key begins so" + (f'; did you mean "{near}"?' if near else ""))
    console = Console(highlight=False)
    for key in chosen:
        line = Text()
        line.append(key.name, style="bold")
        line.append(f" = {_value(key, current)}", style="green")
        line.append(f"   {key.type}")
        if key.options:
            line.append(f"   only with {' or '.join(key.options)}", style="yellow")
        console.print(line, soft_wrap=True)
        console.print(Text("    " + key.doc), soft_wrap=True)
    return 0


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith((prefix + ".", prefix))


def _value(key: Key, current: dict[str, Any]) -> str:
    value = current.get(key.name, key.default)
    return "(must be given)" if value is ... else '""' if value == "" else show(value)
