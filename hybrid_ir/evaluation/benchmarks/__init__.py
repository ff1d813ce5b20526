"""Benchmarks by name; a loader is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from hybrid_ir.evaluation.benchmarks.base import Benchmark, Loader

BENCHMARK_LOADERS: dict[str, str] = {
    "cldr": "hybrid_ir.evaluation.benchmarks.cldr:load",
    "xquad_r": "hybrid_ir.evaluation.benchmarks.xquad_r:load",
}
"""``module:function`` of each benchmark's loader, by the key under ``benchmark`` in the configuration."""


def load_benchmark(name: str, config: Any) -> Benchmark:
    """Loads a benchmark, cut to its ``limit``.

    Args:
        name: key under ``benchmark``.
        config: its validated section.

    Raises:
        KeyError: there is no such benchmark.
        DataError: its files are missing or malformed.
    """
    module, function = BENCHMARK_LOADERS[name].split(":")
    loader: Loader = getattr(importlib.import_module(module), function)
    return loader(config).limited(config.limit)
