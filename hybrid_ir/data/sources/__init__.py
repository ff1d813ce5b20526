"""Sources of training data by name; a source's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from hybrid_ir.config import CldrDataConfig, DataConfig, ParallelJsonlConfig, PublishedDataConfig
from hybrid_ir.data.sources.base import Source
from hybrid_ir.errors import DataError

_SOURCES: dict[str, str] = {
    "hf": "hybrid_ir.data.sources.hub_dataset:HubDatasetSource",
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
    if isinstance(config, CldrDataConfig):
        from hybrid_ir.data.sources.cldr import CldrSource

        return CldrSource(config.languages or [], split="train")
    if isinstance(config, ParallelJsonlConfig):
        from hybrid_ir.data.sources.jsonl import ParallelJsonlSource

        return ParallelJsonlSource(config.path, config.languages, config.on_bad_line, config.max_items)
    return _class_of(config)(config)


def _class_of(config: DataConfig) -> Any:
    module, name = _SOURCES[config.source].split(":")
    return getattr(importlib.import_module(module), name)


def licenses(config: DataConfig, sources: Sequence[str]) -> dict[str, str | None]:
    """The licence of each source by name, None where nobody has stated it.

    Args:
        config: what the data was read with.
        sources: names of the corpus' sources.

    Raises:
        DataError: a licence is stated for a source that is not there.
    """
    if isinstance(config, CldrDataConfig):
        from hybrid_ir.data.sources.cldr import LICENSE

        return dict.fromkeys(sources, LICENSE)
    if isinstance(config, PublishedDataConfig):
        return dict.fromkeys(sources, _class_of(config).license)
    for name in config.licenses:
        if name not in sources:
            raise DataError(f"data.licenses.{name}: no source of that name; the data has {', '.join(sources)}")
    return {name: config.licenses.get(name) for name in sources}
