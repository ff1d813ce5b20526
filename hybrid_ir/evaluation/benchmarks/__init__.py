"""Benchmarks by name; a loader is imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hybrid_ir.errors import ConfigError
from hybrid_ir.evaluation.benchmarks.base import Benchmark, ExternalBenchmark, Loader
from hybrid_ir.evaluation.benchmarks.hooks import with_passage_queries, with_queries

BENCHMARK_LOADERS: dict[str, str] = {
    "beir": "hybrid_ir.evaluation.benchmarks.beir:load",
    "cldr": "hybrid_ir.evaluation.benchmarks.cldr:load",
    "miracl": "hybrid_ir.evaluation.benchmarks.miracl:load",
    "mlqa_r": "hybrid_ir.evaluation.benchmarks.mlqa_r:load",
    "mteb": "hybrid_ir.evaluation.benchmarks.mteb:load",
    "xquad_r": "hybrid_ir.evaluation.benchmarks.xquad_r:load",
}
"""``module:function`` of each benchmark's loader, by the key under ``benchmark`` in the configuration."""


def load_benchmark(name: str, config: Any) -> Benchmark | ExternalBenchmark:
    """Loads a benchmark, with the texts of ``queries`` and ``passage_queries``, cut to its ``limit``.

    Args:
        name: key under ``benchmark``.
        config: its validated section.

    Raises:
        KeyError: there is no such benchmark.
        ConfigError: a key is set that a benchmark of another library cannot use.
        DataError: its files are missing or malformed.
    """
    module, function = BENCHMARK_LOADERS[name].split(":")
    loader: Loader = getattr(importlib.import_module(module), function)
    benchmark = loader(config)
    if not isinstance(benchmark, Benchmark):
        for key in ("limit", "during_training_limit", "queries", "passage_queries"):
            if (value := getattr(config, key)) is not None:
                raise ConfigError(
                    f"benchmark.{name}.{key}={value}: not for {name}, whose queries and passages stay in its own "
                    f"library; leave it out"
                )
        return benchmark
    # Before the limit, so that files for the whole benchmark serve a part of it.
    if config.queries is not None:
        benchmark = with_queries(benchmark, Path(config.queries))
    if config.passage_queries is not None:
        benchmark = with_passage_queries(benchmark, Path(config.passage_queries), config.passage_queries_weight)
    return benchmark.limited(config.limit)
