"""What a run was made with: versions, revision, data, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid_ir import __version__
from hybrid_ir.cache import read_manifest
from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.exclusion import Exclusion
from hybrid_ir.data.sources import licenses
from hybrid_ir.evaluation.benchmarks.base import Benchmark, ExternalBenchmark

_PACKAGES = (
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pyarrow",
    "babel",
    "mteb",
    "peft",
    "wandb",
)


def describe_environment(
    config: TrainConfig | EvaluateConfig,
    corpus: ParallelCorpus | None,
    benchmarks: Iterable[Benchmark | ExternalBenchmark] = (),
    excluded: Exclusion | None = None,
) -> dict[str, Any]:
    """JSON for ``environment.json``.

    Args:
        config: of the run.
        corpus: its training data.
        benchmarks: what it reports.
        excluded: what is left out of the training data.

    Raises:
        DataError: ``data.licenses`` names a source that the data does not have.
    """
    described: dict[str, Any] = {
        "hybrid_ir": __version__,
        "git_revision": _git_revision(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
    if corpus is not None:
        described["data"] = {
            "content_sha256": corpus.fingerprint,
            "items": len(corpus),
            "sources": list(corpus.sources),
            "languages": list(corpus.languages),
            "counts": corpus.counts(),
            "made_from": read_manifest(corpus.folder)["key"],
            "report": {**corpus.report, **({"excluded_overlap": excluded.report()} if excluded else {})},
        }
        if isinstance(config, TrainConfig):
            described["data"]["licenses"] = licenses(config.data, corpus.sources, corpus.report.get("parts"))
    described["benchmarks"] = {
        b.name: {"content_sha256": _content_sha256(b), **b.info} if isinstance(b, Benchmark) else b.info
        for b in benchmarks
    }
    return described


def _content_sha256(benchmark: Benchmark) -> str:
    """Of ids, texts and judgments: two evaluations with the same one measured the same thing."""
    digest = hashlib.sha256(np.ascontiguousarray(benchmark.judgments, dtype=np.int64).tobytes())
    corpus: tuple[Iterable[object], ...] = (benchmark.document_ids, benchmark.documents)
    if benchmark.corpus_fingerprint is not None:  # reading a corpus from disk for this would take long
        corpus = ([benchmark.corpus_fingerprint],)
    if benchmark.passage_queries:
        corpus = (*corpus, benchmark.passage_queries.items(), [benchmark.passage_queries_weight])
    for values in (benchmark.query_ids, benchmark.queries, *corpus):
        for value in values:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the checkout that this package is in, with ``+changes`` where the tree is dirty."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
