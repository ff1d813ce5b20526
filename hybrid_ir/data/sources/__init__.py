"""Sources of training data by name; a source's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_ir.config import (
    CldrDataConfig,
    DataConfig,
    MixtureConfig,
    ParallelJsonlConfig,
    PartConfig,
    PublishedDataConfig,
    said_of_part,
)
from hybrid_ir.data.sources.base import Source
from hybrid_ir.errors import DataError

_SOURCES: dict[str, str] = {
    "hf": "hybrid_ir.data.sources.hub_dataset:HubDatasetSource",
    "mixture": "hybrid_ir.data.sources.mixture:MixtureSource",
    "mfaq": "hybrid_ir.data.sources.mfaq:MfaqSource",
    "miracl_train": "hybrid_ir.data.sources.miracl:MiraclTrainSource",
    "mlqa_translate_train": "hybrid_ir.data.sources.mlqa:MlqaTranslateTrainSource",
    "mmarco": "hybrid_ir.data.sources.mmarco:MmarcoSource",
    "mr_tydi": "hybrid_ir.data.sources.mr_tydi:MrTydiSource",
    "sentence_pairs": "hybrid_ir.data.sources.sentence_pairs:SentencePairsSource",
    "swim_ir": "hybrid_ir.data.sources.swim_ir:SwimIrSource",
}
"""``module:class`` of the sources that take their section of the configuration, by ``data.source``."""


def make_source(config: DataConfig) -> Source:
    """The source that a data configuration describes. Nothing is read or downloaded yet.

    Raises:
        ConfigError: a language that the data set does not have.
        DataError: its files are missing.
    """
    source = _whole_source(config)
    if config.cap is None and config.cap_per_language is None:
        return source
    from hybrid_ir.data.sources.capped import CappedSource

    return CappedSource(source, config.cap, config.cap_per_language)


def _whole_source(config: DataConfig) -> Source:
    if isinstance(config, CldrDataConfig):
        from hybrid_ir.data.sources.cldr import CldrSource

        return CldrSource(config.languages or [], split="train")
    if isinstance(config, ParallelJsonlConfig):
        from hybrid_ir.data.sources.jsonl import ParallelJsonlSource

        return ParallelJsonlSource(config.path, config.languages, config.on_bad_line, config.max_items)
    return source_class(config)(config)


def source_class(config: DataConfig) -> Any:
    """The class of the sources that take their section of the configuration."""
    module, name = _SOURCES[config.source].split(":")
    return getattr(importlib.import_module(module), name)


def licenses(
    config: DataConfig, sources: Sequence[str], of_parts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str | None]:
    """The licence of each source (of a mixture: of each part, also one all of whose items are another's) by name, None
    where nobody has stated it.

    Args:
        config: what the data was read with.
        sources: names of the corpus' sources.
        of_parts: of a mixture, whose parts are its sources: the sources that each part was read from.

    Raises:
        DataError: a licence is stated for a source that is not there.
    """
    if isinstance(config, MixtureConfig):
        return {
            name: _license_of_part(name, part, (of_parts or {}).get(name, ())) for name, part in config.parts.items()
        }
    if isinstance(config, CldrDataConfig):
        from hybrid_ir.data.sources.cldr import LICENSE

        return dict.fromkeys(sources, LICENSE)
    if isinstance(config, PublishedDataConfig):
        return dict.fromkeys(sources, source_class(config).license)
    for name in config.licenses:
        if name not in sources:
            raise DataError(f"data.licenses.{name}: no source of that name; the data has {', '.join(sources)}")
    return {name: config.licenses.get(name) for name in sources}


def _license_of_part(name: str, part: PartConfig, sources: Sequence[str]) -> str | None:
    """One licence if all its sources have the same, else each with its source."""
    try:
        stated = licenses(part, sources)
    except DataError as error:
        raise DataError(said_of_part(name, str(error))) from None
    if len(set(stated.values())) == 1:
        return next(iter(stated.values()))
    return ", ".join(f"{source}: {of or 'not stated'}" for source, of in stated.items())
