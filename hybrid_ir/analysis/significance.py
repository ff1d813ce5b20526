"""Paired tests and intervals over question ids, in float64.

Values of queries stand in a matrix ``values`` [questions, cells]. A cell is a group of queries that has a mean of its
own: one query language against one pool. A question that does not count in a cell is NaN there. The language versions
of a question depend on each other (the same question, often the same answer), so the question is what is drawn: a
permutation flips the sign of its whole row, a resample takes its whole row.

A statistic is a weighted mean of the means of cells. ``weights`` [cells, statistics] has a column for each, which sums
to one: equal weights for all cells are the macro mean, equal weights for the cells of one query language that
language's mean. All statistics are computed from the same permutations and resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Coverage of intervals; tests are at 1 - ``LEVEL``."""

EXACT_QUESTIONS = 14
"""Up to so many questions all sign patterns are enumerated (16,384 at most)."""

_CHUNK = 2**22
"""Numbers in a chunk of permutations or resamples (32 MiB)."""


def statistics(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of the cells' means.

    Args:
        values: [questions, cells], NaN where a question does not count; each cell has a question.
        weights: [cells, statistics].

    Returns:
        [statistics] float64.
    """
    return np.nanmean(values, axis=0) @ weights


def permutation_test(
    differences: np.ndarray, weights: np.ndarray, permutations: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Two-sided paired permutation test (Fisher's randomisation test: Smucker, Allan and Carterette, CIKM 2007).

    If the two systems do not differ, the sign of a question's row of differences is arbitrary. Up to
    ``EXACT_QUESTIONS`` questions that differ at all, every sign pattern is enumerated; beyond, patterns are drawn and
    the observed one is counted among them: p = (1 + as extreme) / (1 + permutations), which keeps the test's level
    (Phipson and Smyth 2010).

    Args:
        differences: [questions, cells] of the two systems, NaN where a question does not count.
        weights: [cells, statistics].
        permutations: sign patterns drawn.
        seed: of the draw.

    Returns:
        [statistics] p values.
    """
    # Cells' sizes do not change with the signs, so a statistic is a sum of one contribution for each question.
    contributions = (np.nan_to_num(differences) / _present(differences).sum(axis=0)) @ weights
    contributions = contributions[np.any(contributions != 0, axis=1)]
    questions = len(contributions)
    observed = np.abs(contributions.sum(axis=0))
    # Patterns that give the observed value up to rounding are as extreme as it.
    threshold = observed - 1e-12 * np.abs(contributions).sum(axis=0)
    if questions <= EXACT_QUESTIONS:
        patterns = np.arange(2**questions)[:, None] >> np.arange(questions) & 1
        return np.asarray((np.abs((1.0 - 2.0 * patterns) @ contributions) >= threshold).mean(axis=0))
    rng = np.random.default_rng(seed)
    extreme = np.zeros(weights.shape[1], dtype=np.int64)
    for size in _chunks(permutations, questions):
        signs = rng.integers(0, 2, (size, questions), dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ contributions) >= threshold).sum(axis=0)
    return (1 + extreme) / (1 + permutations)


def bootstrap_interval(
    differences: np.ndarray, weights: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over questions (Efron and Tibshirani 1993, chapter 13).

    A resample draws as many questions as there are, with replacement, each with all its cells, and computes the cells'
    means anew. A cell that no drawn question is in has no mean: it is left out of that resample.

    Args:
        differences: [questions, cells] of the two systems (or values of one), NaN where a question does not count.
        weights: [cells, statistics].
        resamples: how many.
        seed: of the draw.

    Returns:
        Lower and upper ends, both [statistics], of intervals with coverage ``LEVEL``.
    """
    return interval(resampled([differences[None]], weights, resamples, seed)[0])


def hierarchical_interval(
    baseline: np.ndarray, system: np.ndarray, weights: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over seeds and questions (Davison and Hinkley 1997, section 3.8).

    A resample draws questions, the same for both systems, and for each system, independently, as many of its seeds as
    it has. The interval is for a training with other seeds and for other questions. It is too short with few seeds: the
    variance over S seeds comes out (S - 1) / S as large, and a normal quantile stands for t's. Where only seeds differ
    it misses 0 in 12 % of cases with five seeds each, in 8 % with ten; ``by_seeds_alone`` in 5 %.

    Args:
        baseline: [seeds, questions, cells], NaN where a question does not count (alike in all).
        system: [its seeds, questions, cells].
        weights: [cells, statistics].
        resamples: how many.
        seed: of the draw.

    Returns:
        Lower and upper ends of system minus baseline, both [statistics].
    """
    first, second = resampled([baseline, system], weights, resamples, seed, seeds_too=True)
    return interval(second - first)


def resampled(
    systems: Sequence[np.ndarray],
    weights: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
    seeds_too: bool = False,
) -> np.ndarray:
    """Statistics of systems in bootstrap resamples, which draw the same questions for all of them: what two systems
    differ by in a resample is a resample of their difference.

    Args:
        systems: arrays [seeds, questions, cells], NaN where a question does not count (alike in all).
        weights: [cells, statistics].
        resamples: how many.
        seed: of the draw.
        seeds_too: draw each system's seeds as well, on their own; else a question's value is its mean over the seeds.

    Returns:
        [systems, resamples, statistics].
    """
    rng, rng_of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    present = _present(systems[0][0])
    questions = len(present)
    values = [np.nan_to_num(runs if seeds_too else runs.mean(axis=0, keepdims=True)) for runs in systems]
    drawn = np.empty((len(systems), resamples, weights.shape[1]))
    done = 0
    for size in _chunks(resamples, questions):
        counts = _resample(rng, size, questions)
        sizes = counts @ present
        drawn_weights = (sizes > 0) @ weights
        for system, runs in enumerate(values):
            shares = _resample(rng_of_seeds, size, len(runs)) / len(runs) if seeds_too else np.ones((size, 1))
            sums = np.zeros_like(sizes)
            for i, run in enumerate(runs):
                sums += shares[:, [i]] * (counts @ run)
            means = np.divide(sums, sizes, out=sums, where=sizes > 0)
            with np.errstate(invalid="ignore"):
                drawn[system, done : done + size] = (means @ weights) / drawn_weights
        done += size
    return drawn


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the middle ``LEVEL`` of resamples [resamples, statistics], both [statistics]."""
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def standard_error(differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard error of the statistics over questions, from each question's influence on them: with one cell s / √n,
    with several the linearised variance of a sum of ratios, questions being the clusters (Cochran 1977, chapter 6).

    Args:
        differences: [questions, cells], NaN where a question does not count.
        weights: [cells, statistics].

    Returns:
        [statistics]; NaN with fewer than two questions.
    """
    present = _present(differences)
    residuals = np.nan_to_num(differences - np.nanmean(differences, axis=0))
    influence = (residuals / present.sum(axis=0)) @ weights
    questions = num_questions(differences, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.square(influence).sum(axis=0) * questions / (questions - 1))


def num_questions(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Question ids that count in at least one cell of each statistic. [statistics] int."""
    return ((_present(values) @ (weights != 0)) > 0).sum(axis=0)


def smallest_detectable(error: np.ndarray, power: float = 0.8) -> np.ndarray:
    """Smallest true difference that a two-sided test at 1 - ``LEVEL`` shows with probability ``power``.

    By the normal distribution (Cohen 1988, chapter 2): (z of the level + z of the power) standard errors, which is
    1.96 + .84 at .05 and .8. A smaller difference may be there and not be shown.
    """
    return np.asarray((ndtri((1 + LEVEL) / 2) + ndtri(power)) * error)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Step-down corrected p values that keep the probability of any false finding (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, is at least the corrected one before it and at most 1.

    Args:
        p: [tests] raw p values.

    Returns:
        [tests] in the same order.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    steps = np.minimum(1.0, raw[order] * np.arange(len(raw), 0, -1))
    corrected = np.empty_like(raw)
    corrected[order] = np.maximum.accumulate(steps)
    return corrected


def is_shown(p: float, low: float, high: float) -> bool:
    """Whether a difference is shown: corrected p below 1 - ``LEVEL``, and 0 outside the interval."""
    return p < 1 - LEVEL and not low <= 0 <= high


def pooled_standard_deviation(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation within groups: square root of the summed squares over the summed degrees of freedom.

    Args:
        groups: arrays [seeds, statistics], one for each system.

    Returns:
        [statistics]; NaN where no group has two seeds.
    """
    squares = sum(np.square(group - group.mean(axis=0)).sum(axis=0) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return np.sqrt(squares / freedom) if freedom else np.full(groups[0].shape[1], np.nan)


def by_seeds_alone(deviation: np.ndarray, freedom: int, *seeds: int) -> np.ndarray:
    """Least difference of two means over seeds that a t test at 1 - ``LEVEL`` shows: what seeds alone can do.

    Args:
        deviation: [statistics] standard deviation over seeds, pooled.
        freedom: its degrees of freedom.
        seeds: of each of the two means.

    Returns:
        [statistics]; NaN without a degree of freedom.
    """
    error = deviation * np.sqrt(sum(1 / count for count in seeds))
    return np.asarray(stdtrit(freedom, (1 + LEVEL) / 2) * error if freedom else np.full_like(error, np.nan))


def _present(values: np.ndarray) -> np.ndarray:
    return (~np.isnan(values)).astype(np.float64)


def _chunks(total: int, width: int) -> Iterator[int]:
    size = max(1, _CHUNK // max(1, width))
    for start in range(0, total, size):
        yield min(size, total - start)


def _resample(rng: np.random.Generator, size: int, of: int) -> np.ndarray:
    """[size, of] float64: how often each of ``of`` is drawn when ``of`` are drawn with replacement."""
    drawn = rng.integers(0, of, (size, of)) + of * np.arange(size)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=size * of).reshape(size, of).astype(np.float64)
