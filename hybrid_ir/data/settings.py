"""What commands about the data take of a training command's settings: the data and the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import field_validator

from hybrid_ir.composition import composer, parse_settings, quote_path, validate, with_paths
from hybrid_ir.config import BenchmarkConfigBase, DataConfig, Section, validate_benchmark
from hybrid_ir.errors import ConfigError


class DataSettings(Section):
    """Rules between data and batches are not looked at: nothing is trained."""

    data: DataConfig
    benchmark: dict[str, Any]

    @field_validator("benchmark", mode="after")
    @classmethod
    def _benchmarks(cls, value: dict[str, Any]) -> dict[str, BenchmarkConfigBase]:
        return {name: validate_benchmark(name, section) for name, section in value.items()}


def taken(settings: Sequence[str], key: str) -> tuple[str | None, list[str]]:
    """The value that is given to a key of the command's own, as it was typed, and the other settings.

    Raises:
        ConfigError: it is given twice.
    """
    values = [setting.partition("=")[2] for setting in settings if setting.startswith(f"{key}=")]
    if len(values) > 1:
        raise ConfigError(f"{key}={values[1]}: given more than once; keep one")
    return (values[0] if values else None), [setting for setting in settings if not setting.startswith(f"{key}=")]


def data_settings(settings: Sequence[str]) -> DataSettings:
    """Data and benchmarks of the settings of ``train.py``, the paths in them absolute.

    Raises:
        ConfigError: a key or value is wrong, or a file is not there.
    """
    settings = [quote_path(setting) for setting in settings]
    with composer("train") as composing:
        composing.check(parse_settings(settings))
        raw = composing.compose(settings)
    raw = {name: raw[name] for name in DataSettings.model_fields}
    checked = validate(DataSettings, raw).model_dump(mode="json")
    return cast(DataSettings, validate(DataSettings, with_paths(checked)))
