"""MLQA-R (LAReQA, arXiv 2004.05484): the questions of MLQA's dev set, 7 languages, 20,534 candidate sentences.

It is ragged: every question is asked in English, and has versions in 1 to 3 of the other languages; it counts against
the corpora that answer it. The folder left LAReQA's repository later, hence the commit.

Licence: CC BY-NC 4.0, non-commercial use only (MLQA itself is CC BY-SA 3.0). Never train on MLQA's dev set.
"""

from __future__ import annotations

from dataclasses import replace

from hybrid_ir.config import MlqaRBenchmarkConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.benchmarks.lareqa import Release, load_release

RELEASE = Release(
    benchmark="mlqa_r",
    name="MLQA-R",
    folder="mlqa-r",
    revision="354d67d1cd066854cdfbf5ad0e6105528976141d",
    sha256={
        "ar": "2132fbc03208535c0fe01f2e2c5121d06f9c2aa799af93b0a719dbc105bdf137",
        "de": "ce9454dc5aa6f2d85c23cd6e49cb367fbb7c4c6e62d7f71e355c6b5dae4d0886",
        "en": "fedd9a5cc0848dda80caf84aa36f482adaae230526a3f6e9e86926a93ef3b1e4",
        "es": "70ecba276b8c96a692b120693a595d076ce94ad21d4b28311538a9fcbfe0f9d7",
        "hi": "4dd0fb3c06f737a5481d705bc1dcac7876712a5815c9265908fbb3a0696cb654",
        "vi": "9d3baff6ba03e6793b25594217265ea59a136b9733833dca8a9582a84a78ff85",
        "zh": "57f01d2fff50cf3392805635b01445339f225ad5bf28ba8443b12f8dbd1e69dc",
    },
)
LICENCE = "MLQA-R is licensed CC BY-NC 4.0: non-commercial use only"


def load(config: MlqaRBenchmarkConfig) -> Benchmark:
    """MLQA-R from ``config.path`` (a folder or an http address), or downloaded into the cache.

    ``config.limit`` is left to the caller.

    Raises:
        ConfigError: a language that MLQA-R does not have.
        DataError: a file is missing, malformed, or cannot be downloaded.
    """
    benchmark = load_release(RELEASE, config)
    return replace(benchmark, notes=(*benchmark.notes, LICENCE))
