"""Sources of training data by name."""

from __future__ import annotations

from hybrid_ir.config import CldrDataConfig, ParallelJsonlConfig
from hybrid_ir.data.sources.base import Source


def make_source(config: CldrDataConfig | ParallelJsonlConfig) -> Source:
    """The source that a data configuration describes.

    Raises:
        DataError: its files are missing.
    """
    if isinstance(config, CldrDataConfig):
        from hybrid_ir.data.sources.cldr import CldrSource

        return CldrSource(config.languages or [], split="train")
    from hybrid_ir.data.sources.jsonl import ParallelJsonlSource

    return ParallelJsonlSource(config.path, config.languages, config.on_bad_line, config.max_items)
