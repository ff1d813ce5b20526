"""From command-line settings to a validated configuration, without torch and without touching the disk.

Settings are checked one by one (is there such a key, such an option?), composed by Hydra, validated as a whole by the
schema, and the files that they name are looked for. Each fault is a ``ConfigError`` of one line:
``key=value: what is wrong; remedy``.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError

import hybrid_ir
from hybrid_ir.config import (
    API_KEY,
    BENCHMARKS,
    PART_SECTIONS,
    DataConfig,
    EvaluateConfig,
    HubDatasetConfig,
    MixtureConfig,
    PublishedDataConfig,
    SentencePairsConfig,
    TrainConfig,
    said_of_part,
)
from hybrid_ir.errors import ConfigError
from hybrid_ir.schema_keys import Key, flatten, nearest, nearest_key, part_keys, schema_keys

Command = Literal["train", "evaluate"]

SCHEMAS: dict[str, type[TrainConfig] | type[EvaluateConfig]] = {"train": TrainConfig, "evaluate": EvaluateConfig}
"""Schema of each command's configuration."""

GROUPS: dict[str, tuple[str, ...]] = {
    "train": (
        "data", "sampler", "model", "loss", "optimizer", "trainer", "benchmark", "logger", "launcher", "experiment",
    ),
    "evaluate": ("model", "benchmark"),
}  # fmt: skip
"""Groups of options that each command has."""

_PATH_KEY = re.compile(
    r"^(\+{0,2})(model\.name_or_path|resume|output_dir|sweep|data\.(?:parts\.\w+\.)?path|"
    r"benchmark\.\w+\.(?:path|queries|passage_queries)|hydra\.(?:sweep|run)\.dir)=(.*)$",
    re.S,
)
_EXAMPLES = {
    "benchmark.beir.path": "benchmark.beir.path=DIR",
    "data.path": "data.path=train.jsonl.gz",
    "model.name_or_path": "model.name_or_path=intfloat/multilingual-e5-small",
}
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_MODEL_FILES = ("config.json", "modules.json", "model/config.json", "model/modules.json")


def conf_dir() -> Path:
    """Folder of the shipped configuration: the checkout's ``conf``, or the copy inside an installed package."""
    package = Path(hybrid_ir.__file__).resolve().parent
    checkout = package.parent / "conf"
    # site-packages may hold somebody else's folder named conf: only a checkout has train.py beside it.
    if (checkout / "train.yaml").is_file() and (package.parent / "train.py").is_file():
        return checkout
    return package / "conf"


def one_line(text: object, limit: int = 300) -> str:
    """The text on one line, cut at ``limit`` characters; without an API key that was pasted as a value."""
    line = " ".join(str(text).split())
    secret = os.environ.get("WANDB_API_KEY", "")
    if len(secret) >= 20:  # as any key; a shorter text would stand in half of all messages
        line = line.replace(secret, "(not shown)")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def show(value: Any) -> str:
    """A value as it would be typed on the command line, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return one_line("[" + ",".join(show(item) for item in value) + "]", 100)
    return one_line(value, 160)


# ----------------------------------------------------------------------------------------------------- the settings


def quote(value: str) -> str:
    """The value in quotes that Hydra's grammar takes apart again to exactly this text."""
    escaped = re.sub(r"(\\*)'", lambda m: m.group(1) * 2 + "\\'", value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def quote_path(setting: str) -> str:
    """Quotes the value of a path-valued setting where Hydra's grammar would not read it as that path.

    A run's folder is named by its swept keys (``sampler.mono_ratio=0,seed=1``): pasted as it is, ``=`` is a syntax
    error and ``,`` a sweep. Values in quotes are left alone, and lists and sweeps that are written as such.
    """
    match = _PATH_KEY.match(setting)
    if match is None or match.group(3)[:1] in ("'", '"'):
        return setting
    prefix, key, value = match.groups()
    if not value:
        return setting
    quoted = f"{prefix}{key}={quote(value)}"
    exists = os.path.exists(os.path.expanduser(value))
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        brackets = value.startswith("[") and value.endswith("]")
        parts = None if exists else existing_parts(value[1:-1] if brackets else value)
        if parts is None:
            return quoted
        inner = ",".join(quote(part) for part in parts)
        return f"{prefix}{key}=[{inner}]" if brackets else f"{prefix}{key}={inner}"
    if not parsed.is_sweep_override() and parsed.value() == value:
        return setting
    if exists:
        return quoted
    if parsed.is_sweep_override():
        parts = existing_parts(value)
        return setting if parts is None else f"{prefix}{key}=" + ",".join(quote(part) for part in parts)
    return setting if parsed.value() is None or isinstance(parsed.value(), list) else quoted


def existing_parts(value: str) -> list[str] | None:
    """Splits at commas into paths that exist (a path may hold commas itself); None when that fails."""
    parts: list[str] = []
    current = ""
    for piece in value.split(","):
        current = f"{current},{piece}" if current else piece
        if os.path.exists(os.path.expanduser(current.strip())):
            parts.append(current.strip())
            current = ""
    return None if current or not parts else parts


def parse_settings(settings: Sequence[str]) -> list[Override]:
    """Parses settings by Hydra's grammar.

    Raises:
        ConfigError: one is not of the form ``key=value``, or its value is not well-formed.
    """
    parser = OverridesParser.create()
    parsed = []
    for setting in settings:
        try:
            parsed.append(parser.parse_override(setting))
        except HydraException as error:
            key, equals, value = setting.partition("=")
            if not equals:
                raise ConfigError(f"{one_line(setting)}: not a setting; write key=value") from None
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{key}={show(value)}: the value cannot be read ({one_line(reason, 120)}); put it in quotes, "
                f"e.g. \"{key}='...'\""
            ) from None
    return parsed


def swept_values(override: Override) -> list[str]:
    """The values that a setting takes over the jobs of a sweep, as Hydra text.

    Of an interval both ends, and one between them that is no whole number.

    Raises:
        ConfigError: there is none.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if isinstance(override.value(), Glob):
        raise ConfigError(f"{said(override)}: write the values out, e.g. {_element(override)}=a,b,c")
    if override.is_discrete_sweep():
        if not (values := list(override.sweep_string_iterator())):
            raise ConfigError(
                f"{said(override)}: has no values; a range ends before its stop, which is the second number"
            )
        return values
    interval = cast(Any, override.value())
    if not interval.start < interval.end:
        raise ConfigError(f"{said(override)}: has no values; write the smaller end first")
    return [str(interval.start), str(interval.end), str(interval.start + (interval.end - interval.start) * 0.4321)]


# ---------------------------------------------------------------------------------------------------------- compose


class Composer:
    """Composes and validates the configurations of one command; made by ``composer``."""

    def __init__(self, command: Command, config_name: str | None, searchpath: Sequence[str]) -> None:
        self.command = command
        self.config_name = config_name or command
        self.schema = SCHEMAS[command]
        self.keys = schema_keys(self.schema)
        self._searchpath = [f"hydra.searchpath=[{','.join(quote('file://' + p) for p in searchpath)}]"]
        if not searchpath:
            self._searchpath = []
        self._hydra: Any = GlobalHydra.instance().hydra
        self._loader = self._hydra.config_loader
        self._extra = [Path(p) for p in searchpath]

    # -- names

    def options(self, group: str) -> list[str]:
        """Options of a group, those in added config folders included."""
        found = set(self._loader.get_group_options(group, ObjectType.CONFIG))
        for folder in self._extra:
            found |= {path.stem for path in (folder / group).glob("*.yaml")}
        if group == "model":
            found = {name for name in found if (name == "saved") == (self.command == "evaluate")}
        return sorted(found)

    def _is_group(self, name: str) -> bool:
        return bool(self._loader.get_group_options(name, ObjectType.CONFIG)) or any(
            (folder / name).is_dir() for folder in self._extra
        )

    def _other_command(self) -> str:
        return "evaluate" if self.command == "train" else "train"

    def check(self, overrides: Sequence[Override]) -> None:
        """Checks that every setting names a key of the command or an option of a group.

        Raises:
            ConfigError: one does not; the message suggests what may be meant.
        """
        for override in overrides:
            name = override.key_or_group
            if name == "hydra" or name.startswith(("hydra.", "hydra/")):
                continue
            if self._is_group(name):
                self._check_option(override)
            elif name not in self.keys and not self._is_section(name) and self._mapping_of(name) is None:
                raise self._unknown(name, _text_of(override))

    def _is_section(self, name: str) -> bool:
        return any(key.startswith(name + ".") for key in self.keys)

    def _mapping_of(self, name: str) -> Key | None:
        return next((k for k in self.keys.values() if k.mapping and name.startswith(k.name + ".")), None)

    def _adds_entries(self, override: Override) -> bool:
        """Whether a setting is one entry of a free mapping, or a whole one."""
        key = self.keys.get(override.key_or_group)
        whole = key is not None and key.mapping and isinstance(override.value(), dict)
        return whole or self._mapping_of(override.key_or_group) is not None

    def _check_option(self, override: Override) -> None:
        group, options = override.key_or_group, self.options(override.key_or_group)
        said = f"{group}={_text_of(override)}"
        if group not in GROUPS[self.command] and not override.is_add():
            raise ConfigError(
                f"{said}: {self.command}.py has no group {group}, {self._other_command()}.py has; leave it out"
            )
        if override.is_delete():
            return
        values: list[Any] = []
        for text in swept_values(override) if override.is_sweep_override() else [None]:
            value = override.value() if text is None else parse_settings([f"{group}={text}"])[0].value()
            values.extend(value if isinstance(value, list) and group == "benchmark" else [value])
        for value in values:
            if isinstance(value, str) and value in options:
                continue
            if group == "model" and isinstance(value, str):
                if value in self._loader.get_group_options(group, ObjectType.CONFIG):
                    use = (
                        "model.name_or_path=<folder or hub name>" if self.command == "evaluate" else "model=pretrained"
                    )
                    raise ConfigError(f"{said}: an option of {self._other_command()}.py; use {use}")
                if "/" in value:
                    start = "" if self.command == "evaluate" else "model=pretrained "
                    raise ConfigError(f"{said}: no such option of model; use {start}model.name_or_path={value}")
            near = nearest(str(value), options)
            hint = f'did you mean "{near}"? ' if near else ""
            if isinstance(value, (dict, list)):
                hint = f"set its keys as {group}.<key>=<value>; "
            raise ConfigError(f"{said}: no such option of {group}; {hint}options: {', '.join(options)}")

    def _unknown(self, name: str, value: str) -> ConfigError:
        value = API_KEY.sub("(not shown)", value)  # pasted beside a key that was guessed
        said = f"{name}={value}" if value else name
        if name.startswith("benchmark."):
            benchmark = name.split(".")[1]
            if benchmark not in BENCHMARKS:
                near = nearest(benchmark, BENCHMARKS)
                hint = f'did you mean "{name.replace(benchmark, near, 1)}"? ' if near else ""
                return ConfigError(f"{said}: no benchmark {benchmark}; {hint}benchmarks: {', '.join(BENCHMARKS)}")
        other = self._other_command()
        groups = [group for group in GROUPS[self.command] if group != "experiment"]
        if name in schema_keys(SCHEMAS[other]) or name in GROUPS[other]:
            here = name.rpartition(".")[2] if self.command == "evaluate" else f"trainer.{name}"
            instead = f'did you mean "{here}"?' if here in self.keys else "leave it out"
            return ConfigError(f"{said}: a key of {other}.py, not of {self.command}.py; {instead}")
        near = nearest_key(name, [*self.keys, *groups, *{key.rsplit(".", 1)[0] for key in self.keys if "." in key}])
        if near is None:
            return ConfigError(f"{said}: no such key; `python -m hybrid_ir.config describe` lists them")
        return ConfigError(f'{said}: no such key; did you mean "{near}"?')

    # -- composing

    def hydra_config(self, settings: Sequence[str]) -> DictConfig:
        """The whole configuration, Hydra's own part included, with swept settings left out.

        Raises:
            ConfigError: Hydra cannot compose it.
        """
        with self._one_line_errors(settings):
            return cast(
                DictConfig,
                self._hydra.compose_config(
                    config_name=self.config_name,
                    overrides=[*self.prepared(settings), *self._searchpath],
                    run_mode=RunMode.MULTIRUN,
                    with_log_configuration=False,
                    validate_sweep_overrides=False,
                    from_shell=False,
                ),
            )

    def prepared(self, settings: Sequence[str]) -> list[str]:
        """Settings as Hydra is to see them: entries of free mappings may be added without a ``+``."""
        prepared = []
        for setting, override in zip(settings, parse_settings(settings), strict=True):
            free = override.type is not None and not override.is_add() and not override.is_delete()
            if free and not override.is_force_add() and self._adds_entries(override):
                setting = "++" + setting
            prepared.append(setting)
        return prepared

    def compose(self, settings: Sequence[str]) -> dict[str, Any]:
        """Composes one run's configuration, resolved, without Hydra's own part.

        Raises:
            ConfigError: a value is missing, or Hydra cannot compose it.
        """
        overrides = parse_settings(settings)
        for override in overrides:
            if override.is_sweep_override() and not override.key_or_group.startswith("hydra"):
                raise ConfigError(
                    f"{override.key_or_group}={_text_of(override)}: several values make a sweep; add -m, or choose one "
                    "(a value with a comma in it needs quotes)"
                )
        with self._one_line_errors(settings):
            config = self._hydra.compose_config(
                config_name=self.config_name,
                overrides=[*self.prepared(settings), *self._searchpath],
                run_mode=RunMode.RUN,
                with_log_configuration=False,
                from_shell=False,
            )
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            for key in sorted(OmegaConf.missing_keys(config)):
                example = f", e.g. {_EXAMPLES[key]}" if key in _EXAMPLES else ""
                raise ConfigError(f"{key}=???: must be given{example}")
            raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        for override in overrides:
            # An experiment's settings of a benchmark bring its section back after benchmark=[...] left it out.
            if override.key_or_group == "benchmark" and not override.is_delete():
                value = override.value()
                chosen = {_benchmark_of(str(option)) for option in (value if isinstance(value, list) else [value])}
                raw["benchmark"] = {k: v for k, v in (raw.get("benchmark") or {}).items() if k in chosen}
        return raw

    @contextmanager
    def _one_line_errors(self, settings: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except yaml.YAMLError as error:
            raise ConfigError(f"a configuration file is not valid YAML: {one_line(error)}") from None
        except ConfigError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise self._translated(error, settings) from None

    def _translated(self, error: Exception, settings: Sequence[str]) -> ConfigError:
        text = str(error)
        match = re.search(r"Could not (?:override|append|delete)[^']*'([^'=]+)", text)
        name = match.group(1).lstrip("+~") if match else None
        for override in parse_settings(settings):
            if name is not None and override.key_or_group == name:
                said = f"{name}={_text_of(override)}"
                if name.startswith("hydra"):
                    return ConfigError(f"{said}: Hydra has no such key or option; --hydra-help explains its settings")
                parts = name.split(".")
                if parts[0] == "benchmark" and len(parts) > 1:
                    return ConfigError(
                        f"{said}: {parts[1]} is not among the chosen benchmarks; add it, e.g. 'benchmark=[{parts[1]}]'"
                    )
                if name in self.keys and self.keys[name].options:
                    return ConfigError(f"{said}: {_belongs(self.keys[name])}")
                if "Multiple values" in text:
                    return ConfigError(f"{said}: given more than once; keep one")
        match = re.search(r"Multiple values for (\S+?)[.\s]", text)
        if match:
            return ConfigError(f"{match.group(1)}: given more than once; keep one")
        match = re.search(r"Could not find '([^']+)'", text)
        if match:
            group, _, option = match.group(1).rpartition("/")
            near = nearest(option, self.options(group)) if group else None
            hint = f'did you mean "{near}"?' if near else "`--help` lists the options"
            return ConfigError(f"{group or 'config'}={option}: no such configuration file; {hint}")
        cause = error.__cause__
        lines = [line.strip() for line in (str(cause) if cause else text).splitlines() if line.strip()]
        key = getattr(error, "full_key", None) or getattr(cause, "full_key", None)
        given = [override for override in parse_settings(settings) if key and override.key_or_group == key]
        said = f"{key}={_text_of(given[-1])}: " if given else f"{key}: " if key else ""
        return ConfigError(said + one_line(lines[0] if lines else type(error).__name__))

    # -- validating

    def validate(self, raw: Mapping[str, Any]) -> TrainConfig | EvaluateConfig:
        """Validates a composed configuration and makes the paths in it absolute.

        Raises:
            ConfigError: a value is wrong, or a file is not there.
        """
        config = validate(self.schema, raw)
        located = with_paths(config.model_dump(mode="json"))
        return validate(self.schema, located)


@contextmanager
def composer(command: Command, *, config_name: str | None = None, searchpath: Sequence[str] = ()) -> Iterator[Composer]:
    """Starts Hydra's composition on the shipped ``conf`` and leaves no trace of it afterwards.

    Args:
        command: whose configuration.
        config_name: another primary configuration than the command's.
        searchpath: further folders of configuration groups, searched last.

    Raises:
        ConfigError: a folder does not exist.
    """
    for folder in searchpath:
        if not os.path.isdir(folder):
            raise ConfigError(f"--config-dir={folder}: no such folder")
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name=command):
            yield Composer(command, config_name, [os.path.abspath(folder) for folder in searchpath])
    finally:
        GlobalHydra.instance().hydra = outer


def sweep_jobs(overrides: Sequence[Override], params: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """The jobs of a sweep as lists of settings.

    Args:
        overrides: the command line's settings.
        params: ``hydra.sweeper.params``, which the command line overrides.

    Returns:
        A few jobs in which every value occurs, and all of them (the product; without the ends of intervals, which only
        the sweeper can fill in).
    """
    everything = [*parse_settings([f"{key}={value}" for key, value in params.items()]), *overrides]
    values: dict[str, list[str]] = {}
    for override in everything:
        values[_element(override)] = [f"{_element(override)}={value}" for value in swept_values(override)]
        if override.is_delete():
            values[_element(override)] = [str(override.input_line)]
    first = [options[0] for options in values.values()]
    few = [first]
    for index, options in enumerate(values.values()):
        few.extend([*first[:index], option, *first[index + 1 :]] for option in options[1:])
    discrete = [o for o in everything if not (o.is_sweep_override() and not o.is_discrete_sweep())]
    return few, BasicSweeper.split_arguments(discrete, None)[0]


def _element(override: Override) -> str:
    return str(override.get_key_element())


def said(override: Override) -> str:
    """A setting as the user typed it, for a message."""
    return f"{_element(override)}={_text_of(override)}"


def _text_of(override: Override) -> str:
    """The value as the user typed it, without the quotes that ``quote_path`` may have put around it."""
    text = (override.input_line or "").partition("=")[2]
    if text.startswith("'") and not override.is_sweep_override() and isinstance(override.value(), str):
        text = str(override.value())
    return one_line(text, 160)


def _belongs(key: Key) -> str:
    options = " or ".join(key.options)
    return f"belongs to {options}; add {key.options[0]}, or leave this key out"


def _benchmark_of(option: str) -> str:
    """The benchmark that an option of the group sets: ``mteb_low_resource`` is a choice of tasks for ``mteb``."""
    of = [name for name in BENCHMARKS if option == name or option.startswith(f"{name}_")]
    return max(of, key=len, default=option)


# --------------------------------------------------------------------------------------------------------- validate


def validate(schema: type[BaseModel], raw: Mapping[str, Any]) -> Any:
    """Validates ``raw`` and words the first fault as ``key=value: what is wrong; remedy``.

    Raises:
        ConfigError: a key or value is wrong, or two contradict each other.
    """
    keys = schema_keys(schema) | part_keys(raw)
    for name, value in flatten(raw).items():
        # pydantic takes true for 1 where a number is asked for
        if isinstance(value, bool) and name in keys and keys[name].type.startswith(("a whole number", "a number")):
            raise ConfigError(f"{name}={show(value)}: must be {keys[name].type}")
    for name, section in (raw.get("benchmark") or {}).items():
        if name in BENCHMARKS:
            try:
                BENCHMARKS[name].model_validate(section or {})
            except ValidationError as error:
                raise _worded(error, keys, raw, ("benchmark", name)) from None
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise _worded(error, keys, raw, ()) from None


def _worded(
    error: ValidationError, keys: Mapping[str, Key], raw: Mapping[str, Any], prefix: tuple[str, ...]
) -> ConfigError:
    details = error.errors(include_url=False)
    # A key that is not there explains faults of the whole; a wrong value explains rules between keys, and comes before
    # what is still to be given.
    present = [d for d in details if d["type"] != "missing"] or details
    fault = next((d for d in present if d["type"] == "extra_forbidden"), present[0])
    name, value = _locate(raw, (*prefix, *fault["loc"]), missing=fault["type"] == "missing")
    # A section that another option of the group has: what was given is a key of it.
    while fault["type"] == "extra_forbidden" and any(known.startswith(f"{name}.") for known in keys):
        if not isinstance(value, Mapping) or not value:
            break
        part, value = next(iter(value.items()))
        name = f"{name}.{part}"
    said = f"{name}={show(value)}" if name else ""
    key = keys.get(name) or next((k for k in keys.values() if k.mapping and name.startswith(k.name + ".")), None)
    if fault["type"] == "value_error":
        message = one_line(fault["ctx"]["error"], 600)
        if name.startswith("data.parts."):
            message = said_of_part(name.split(".")[2], message)
        return ConfigError(message if not said or re.match(r"^[a-z_][\w.]*=", message) else f"{said}: {message}")
    if fault["type"] == "missing":
        example = f", e.g. {_EXAMPLES[name]}" if name in _EXAMPLES else ""
        if re.fullmatch(r"data\.parts\.\w+\.path", name):
            example = f", e.g. {name}=train.jsonl.gz"
        return ConfigError(f"{name}: must be given{example}")
    if fault["type"] == "extra_forbidden":
        if key is not None and key.options and "mixture" not in fault["loc"]:
            return ConfigError(f"{said}: {_belongs(key)}")
        near = nearest_key(name, keys)
        return ConfigError(f"{said}: no such key; " + (f'did you mean "{near}"?' if near else "leave it out"))
    if fault["type"].startswith("union_tag"):
        # pydantic reports the section; what is wrong is the key that tells its kinds apart
        tag = f"{name}.{fault['ctx']['discriminator'].strip(chr(39))}"
        found = value.get(tag.rpartition(".")[2]) if isinstance(value, Mapping) else value
        return ConfigError(f"{tag}={show(found)}: must be {keys[tag].type}; choose it with {name}=<option>")
    if key is None:
        inner = next((known for known in keys if known.startswith(f"{name}.")), None)
        reason = f"is a section; set its keys, e.g. {inner}=..." if inner else one_line(fault["msg"])
        return ConfigError(f"{said}: {reason}")
    near = nearest(str(value), key.type.removeprefix("one of ").split(", ")) if key.type.startswith("one of") else None
    return ConfigError(f"{said}: must be {key.type}" + (f'; did you mean "{near}"?' if near else ""))


def _locate(raw: Mapping[str, Any], loc: tuple[int | str, ...], *, missing: bool) -> tuple[str, Any]:
    """Dotted key and value of a fault; the parts of ``loc`` that only name a member of a union are left out."""
    node: Any = raw
    names: list[str] = []
    for index, part in enumerate(loc):
        if isinstance(node, Mapping):
            if part in node:
                names.append(str(part))
                node = node[part]
            elif missing and index == len(loc) - 1:
                names.append(str(part))
                node = None
    return ".".join(names), node


# ------------------------------------------------------------------------------------------------------------ paths


def with_paths(raw: dict[str, Any]) -> dict[str, Any]:
    """A validated configuration with every path in it absolute.

    Raises:
        ConfigError: a file or folder is not there, or an optional package.
    """
    raw = {**raw}
    if raw.get("data") is not None:
        raw["data"] = _data_with_paths(raw["data"])
    model = raw.get("model") or {}
    if model.get("name_or_path") is not None:
        raw["model"] = {**model, "name_or_path": _model_path(model["name_or_path"])}
    rank = (model.get("lora") or {}).get("rank")
    if rank and importlib.util.find_spec("peft") is None:  # importing it would import torch
        raise ConfigError(f"model.lora.rank={rank}: peft is not installed; run pip install 'hybrid-ir[peft]'")
    benchmarks = {}
    for name, section in (raw.get("benchmark") or {}).items():
        path = section.get("path")
        if isinstance(path, str) and "://" not in path:
            section = {**section, "path": _folder(f"benchmark.{name}.path", path)}
        for key in ("queries", "passage_queries"):
            if section.get(key) is not None:
                section = {**section, key: _file(f"benchmark.{name}.{key}", section[key])}
        benchmarks[name] = section
    raw["benchmark"] = benchmarks
    for key in ("output_dir", "resume"):
        if raw.get(key) is not None:
            if not raw[key].strip():
                raise ConfigError(f"{key}=: is empty; name a folder, or leave it out")
            raw[key] = _absolute(raw[key])
    return raw


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _data_with_paths(data: dict[str, Any]) -> dict[str, Any]:
    """A validated section ``data`` with absolute paths; what it names is there, or can be downloaded."""
    if data["source"] == "mixture":
        located = {}
        for name, part in data["parts"].items():
            try:
                located[name] = _located(part)
            except ConfigError as error:
                raise ConfigError(said_of_part(name, str(error))) from None
        data = {**data, "parts": located}
    else:
        data = _located(data)
    config: DataConfig = TypeAdapter(DataConfig).validate_python(data)
    if isinstance(config, (MixtureConfig, PublishedDataConfig, SentencePairsConfig, HubDatasetConfig)):
        from hybrid_ir.data.sources import make_source

        make_source(config)
    return data


def _located(data: dict[str, Any]) -> dict[str, Any]:
    """A validated section of one data set with absolute paths."""
    if "path" not in data:
        return data
    path = data["path"]
    section = PART_SECTIONS[data["source"]]
    if issubclass(section, HubDatasetConfig):
        local = os.path.exists(_absolute(path))
        if not local and (path.startswith((".", "/", "~")) or not _HUB_NAME.match(path)):
            raise ConfigError(f"data.path={path}: no such folder or file{_near_file(_absolute(path))}")
        located: Any = _absolute(path) if local else path
    elif issubclass(section, PublishedDataConfig):
        located = path if path is None else _folder("data.path", path)
    else:
        located = [_data_path(each) for each in path] if isinstance(path, list) else _data_path(path)
    return {**data, "path": located}


def _data_path(path: str) -> str:
    full = _absolute(path)
    if "://" in path or os.path.isfile(full):
        return path if "://" in path else full
    if os.path.isdir(full):
        raise ConfigError(f"data.path={path}: is a folder; give its files, e.g. data.path='{path.rstrip('/')}/*.jsonl'")
    if glob.has_magic(full):
        if not any(os.path.isfile(found) for found in glob.iglob(full, recursive=True)):
            raise ConfigError(f"data.path={path}: matches no file; check the pattern")
        return full
    raise ConfigError(f"data.path={path}: no such file{_near_file(full)}")


def _folder(key: str, path: str) -> str:
    full = _absolute(path)
    if not os.path.isdir(full):
        what = "not a folder" if os.path.exists(full) else f"no such folder{_near_file(full)}"
        raise ConfigError(f"{key}={path}: {what}")
    return full


def _file(key: str, path: str) -> str:
    full = _absolute(path)
    if not os.path.isfile(full):
        what = "not a file" if os.path.exists(full) else f"no such file{_near_file(full)}"
        raise ConfigError(f"{key}={path}: {what}")
    return full


def _model_path(name: str) -> str:
    full = _absolute(name)
    if os.path.isdir(full):
        if not any(os.path.isfile(os.path.join(full, file)) for file in _MODEL_FILES):
            run = os.path.isfile(os.path.join(full, "config.yaml"))
            why = "a run that has not written its model/ yet" if run else "has no config.json or modules.json"
            raise ConfigError(f"model.name_or_path={name}: {why}; give a folder of a model or of a complete run")
        return full
    if name.startswith((".", "/", "~")) or not _HUB_NAME.match(name):
        what = "not a folder" if os.path.exists(full) else f"no such folder{_near_file(full)}"
        raise ConfigError(f"model.name_or_path={name}: {what}; give a folder of a model, or a name on the hub")
    return name


def _near_file(full: str) -> str:
    parent, name = os.path.split(full.rstrip("/"))
    if not os.path.isdir(parent):
        return f" (nor is there {parent})"
    try:
        near = nearest(name, os.listdir(parent))
    except OSError:
        return f" (cannot read {parent})"
    return f'; did you mean "{os.path.join(parent, near)}"?' if near else f" in {parent}"
