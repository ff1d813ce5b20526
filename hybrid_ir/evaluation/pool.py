"""What the multilingual pool's rankings look like: handed from search to the measures of language bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PoolRanking:
    """Rankings of the union of all languages' documents, for the queries that count."""

    queries: np.ndarray
    """[n] int64, ascending: index of each query in the benchmark."""
    top: np.ndarray
    """[n, k] int64: the best documents (indices in the benchmark), best first."""
    relevant: np.ndarray
    """[n, R] int64: relevant documents, padded with -1."""
    ranks: np.ndarray
    """[n, R] int64: their ranks in the pool, from 1, padded with 0."""
