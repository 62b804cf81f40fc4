"""Robust statistics of small samples: spread, exact rank tests, bootstrap intervals.

scipy has the tests too, at 113 MB; the tests of this module compare every value with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EXACT = 60
"""Largest number of values, of both samples together, with an exact Mann-Whitney test."""

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Location and spread of a sample."""

    count: int
    median: float
    q1: float
    """First quartile."""
    q3: float
    """Third quartile."""
    mad: float
    """Median absolute deviation from the median, not scaled."""


def summarize(values: Sequence[float]) -> Spread:
    """Compute location and spread of at least one value."""
    sample = np.asarray(values, np.float64)
    q1, median, q3 = (float(x) for x in np.quantile(sample, (0.25, 0.5, 0.75)))
    mad = float(np.median(np.abs(sample - median)))
    return Spread(count=len(sample), median=median, q1=q1, q3=q3, mad=mad)


def wilcoxon_signed_rank(differences: Sequence[float]) -> float:
    """Compute the exact two-sided p-value of Wilcoxon's signed-rank test (Wilcoxon 1945).

    Zeros are dropped and ties have their mean rank. The null distribution is that of the observed ranks
    under all 2ⁿ assignments of signs, so that it is exact with ties as well.

    Parameters
    ----------
    differences
        Differences of pairs.
    """
    sample = np.asarray(differences, np.float64)
    sample = sample[sample != 0]
    # Twice the ranks are whole numbers, also for ties.
    ranks = _double_ranks(np.abs(sample))
    counts: Floats = np.zeros(int(ranks.sum()) + 1)
    counts[0] = 1.0
    for rank in ranks:
        counts[rank:] += counts[:-rank].copy()
        # As probabilities: 2ⁿ has no place in a float from 1024 pairs on.
        counts /= 2.0
    return _two_sided(counts, int(ranks[sample > 0].sum()))


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the two-sided p-value of the Mann-Whitney U test (Mann and Whitney 1947).

    It is exact for up to 60 values, with ties as well; above, the normal approximation with corrections for
    ties and continuity is used.

    Parameters
    ----------
    a, b
        Independent samples, each with at least one value.
    """
    ranks = _double_ranks(np.concatenate([np.asarray(a, np.float64), np.asarray(b, np.float64)]))
    total = int(ranks[: len(a)].sum())
    if len(ranks) > _EXACT:
        return _normal_mann_whitney(ranks, len(a), total)
    # counts[k, s]: choices of k of the ranks seen so far that sum to s.
    counts: Floats = np.zeros((len(a) + 1, int(ranks.sum()) + 1))
    counts[0, 0] = 1.0
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, :-rank].copy()
    return _two_sided(counts[len(a)] / counts[len(a)].sum(), total)


def _normal_mann_whitney(ranks: NDArray[np.int64], first: int, total: int) -> float:
    n = len(ranks)
    second = n - first
    _, ties = np.unique(ranks, return_counts=True)
    correction = float((ties**3 - ties).sum()) / (n * (n - 1))
    deviation = math.sqrt(first * second / 12 * (n + 1 - correction))
    if deviation == 0:
        return 1.0
    distance = abs(total / 2 - first * (n + 1) / 2) - 0.5
    return min(math.erfc(distance / deviation / math.sqrt(2)), 1.0)


def _double_ranks(values: Floats) -> NDArray[np.int64]:
    """Return twice the mean ranks, which start at 1."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    doubled: NDArray[np.int64] = (2 * ends - counts + 1)[places]
    return doubled


def _two_sided(probabilities: Floats, statistic: int) -> float:
    """Return twice the smaller tail, including the statistic itself."""
    low, high = probabilities[: statistic + 1].sum(), probabilities[statistic:].sum()
    return min(2 * float(min(low, high)), 1.0)


def estimate_ratio(
    a: Sequence[float], b: Sequence[float], *, paired: bool, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Compute how many times larger ``b`` is, with a percentile bootstrap interval (Efron 1979).

    That is the ratio of the medians. Of pairs it is the median of the ratios, in which what changed from one
    pair to the next cancels.

    Parameters
    ----------
    a, b
        Samples of positive numbers.
    paired
        Whether values at the same place are pairs.
    confidence
        Confidence level.

    Returns
    -------
    tuple
        The ratio, and the lower and upper end of the interval.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if paired:
        first, second = np.ones(1), second / first
    estimate = float(np.median(second) / np.median(first))
    rng = np.random.default_rng(0)
    medians: list[Floats] = [
        np.median(sample[rng.integers(len(sample), size=(_RESAMPLES, len(sample)))], axis=1)
        for sample in (first, second)
    ]
    ratios = medians[1] / medians[0]
    low, high = np.quantile(ratios, ((1 - confidence) / 2, (1 + confidence) / 2))
    return estimate, float(low), float(high)
