"""The statistics of benchmarks equal scipy's, and verdicts know the noise."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from efficientai_toolkit.benchmark.statistics import (
    estimate_ratio,
    mann_whitney,
    summarize,
    wilcoxon_signed_rank,
)
from efficientai_toolkit.benchmark.verdict import Verdict, judge_pairs, judge_stored

TIED = [1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 5.0]
Rng = np.random.Generator


def every_choice() -> stats.PermutationMethod:
    """All permutations of small samples: exact with ties too."""
    return stats.PermutationMethod(n_resamples=10**6)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13, 30, 50])
def test_the_signed_rank_test_equals_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.4, -1.0):
        sample = rng.normal(shift, 1.0, n)
        expected = stats.wilcoxon(sample, method="exact").pvalue
        assert wilcoxon_signed_rank(sample.tolist()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sample", [[1, 1, -2, 3, 3], [1, -1, 2, -2], [0, 1, 2, -3, 3], TIED, [-1, *TIED]])
def test_the_signed_rank_test_is_exact_with_ties(sample: list[float]) -> None:
    # Zeros are dropped, as scipy does by default.
    without = [value for value in sample if value]
    expected = stats.wilcoxon(without, method=every_choice()).pvalue
    assert wilcoxon_signed_rank(sample) == pytest.approx(expected, rel=1e-10)


def test_no_difference_is_no_evidence() -> None:
    assert wilcoxon_signed_rank([0.0] * 10) == 1.0
    assert wilcoxon_signed_rank([]) == 1.0
    assert mann_whitney([1.0] * 5, [1.0] * 5) == 1.0
    assert mann_whitney([1.0] * 50, [1.0] * 50) == 1.0


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (5, 5), (4, 9), (20, 25), (30, 30)])
def test_the_rank_sum_test_equals_scipy(n: int, m: int) -> None:
    rng = np.random.default_rng(100 * n + m)
    for shift in (0.0, 0.5, 3.0):
        a, b = rng.normal(0.0, 1.0, n), rng.normal(shift, 1.0, m)
        expected = stats.mannwhitneyu(a, b, method="exact").pvalue
        assert mann_whitney(a.tolist(), b.tolist()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("a", "b"), [(TIED, [2.0, 3.0, 4.0]), ([1, 1, 1, 2], [1, 2, 2, 2]), ([5, 5], TIED)])
def test_the_rank_sum_test_is_exact_with_ties(a: list[float], b: list[float]) -> None:
    expected = stats.mannwhitneyu(a, b, method=every_choice()).pvalue
    assert mann_whitney(a, b) == pytest.approx(expected, rel=1e-10)


def test_large_samples_take_the_approximation_of_scipy() -> None:
    rng = np.random.default_rng(1)
    for digits in (1, 8):
        a, b = np.round(rng.normal(0, 1, 80), digits), np.round(rng.normal(0.3, 1, 60), digits)
        expected = stats.mannwhitneyu(a, b, method="asymptotic").pvalue
        assert mann_whitney(a.tolist(), b.tolist()) == pytest.approx(expected, rel=1e-9)


def test_location_and_spread_equal_scipy() -> None:
    sample = np.random.default_rng(2).normal(5.0, 1.0, 31)
    spread = summarize(sample.tolist())
    assert spread.median == np.median(sample)
    assert spread.mad == pytest.approx(stats.median_abs_deviation(sample), rel=1e-12)
    assert spread.q3 - spread.q1 == pytest.approx(stats.iqr(sample), rel=1e-12)
    assert summarize([2.0]).mad == 0.0


def test_the_intervals_of_ratios_resemble_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(10, 1, 40), rng.normal(12, 1, 40)

    def ratio(x: Any, y: Any, axis: int = -1) -> Any:
        return np.median(y, axis=axis) / np.median(x, axis=axis)

    estimate, low, high = estimate_ratio(a.tolist(), b.tolist(), paired=False)
    expected = stats.bootstrap((a, b), ratio, method="percentile", rng=rng).confidence_interval
    assert estimate == np.median(b) / np.median(a)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    estimate, low, high = estimate_ratio(a.tolist(), b.tolist(), paired=True)
    expected = stats.bootstrap((b / a,), np.median, method="percentile", rng=rng).confidence_interval
    assert estimate == np.median(b / a)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


def drifting(rng: Rng, rounds: int, factor: float) -> Verdict:
    """Pairs on a machine that slows down threefold meanwhile, with 1 % of noise."""
    drift = np.linspace(1.0, 3.0, rounds) * rng.lognormal(0.0, 0.2, rounds)
    a, b = (f * drift * rng.lognormal(0.0, 0.01, rounds) for f in (1.0, factor))
    return judge_pairs("case", "seconds", a.tolist(), b.tolist())


def stored(rng: Rng, processes: int, factor: float) -> Verdict:
    """Stored runs whose processes differ by 2 %, their samples by 1 %."""

    def side(scale: float) -> list[list[float]]:
        return [
            (scale * rng.lognormal(0.0, 0.02) * rng.lognormal(0.0, 0.01, 30)).tolist()
            for _ in range(processes)
        ]

    return judge_stored("case", "seconds", side(1.0), side(factor))


@pytest.mark.parametrize(("judge", "count"), [(drifting, 10), (stored, 5)])
def test_equal_sides_cannot_be_told_apart(judge: Callable[[Rng, int, float], Verdict], count: int) -> None:
    rng = np.random.default_rng(4)
    answers = [judge(rng, count, 1.0).answer for _ in range(300)]
    # At the level of 1 %, by definition of the test.
    assert sum(answer != "cannot tell" for answer in answers) <= 6


@pytest.mark.parametrize(
    ("judge", "count", "factor"), [(drifting, 10, 1.05), (drifting, 8, 1.1), (stored, 5, 1.2)]
)
def test_clear_differences_are_found(
    judge: Callable[[Rng, int, float], Verdict], count: int, factor: float
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        slower, faster = judge(rng, count, factor), judge(rng, count, 1 / factor)
        assert (slower.answer, faster.answer) == ("slower", "faster")
        assert slower.ratio is not None
        assert slower.ratio == pytest.approx(factor, rel=0.1)


def test_a_change_within_the_noise_of_the_baseline_does_not_count() -> None:
    baseline = [[x] for x in (1.0, 1.01, 1.02, 1.03, 1.3)]
    change = [[x] for x in (1.31, 1.32, 1.33, 1.34, 1.35)]
    verdict = judge_stored("case", "seconds", baseline, change)
    assert verdict.p is not None
    assert verdict.p < 0.01
    assert verdict.answer == "slower"
    assert verdict.noise == pytest.approx(1.3)
    baseline[0] = [0.9]
    verdict = judge_stored("case", "seconds", baseline, change)
    assert verdict.answer == "cannot tell"
    assert verdict.reason == "within the noise of the baseline, whose equal processes differ by 44.4%"


def test_few_values_are_too_few() -> None:
    verdict = judge_pairs("case", "seconds", [1.0] * 7, [2.0] * 7)
    assert (verdict.answer, verdict.p, verdict.ratio) == ("cannot tell", None, 2.0)
    assert verdict.reason == "7 rounds are too few for p < 0.01; take 8 or more"
    verdict = judge_stored("case", "seconds", [[1.0, 1.0]], [[2.0, 2.0]])
    assert (verdict.answer, verdict.p, verdict.noise) == ("cannot tell", None, None)
    assert verdict.reason.endswith("take --processes 5")


def test_what_is_measured_once_has_a_ratio_only() -> None:
    verdict = judge_stored("case", "perplexity", [[10.0]], [[12.0]])
    assert (verdict.answer, verdict.ratio, verdict.p) == ("cannot tell", 1.2, None)
    assert verdict.reason == "measured once: a single value says nothing about the noise"


def test_scores_are_better_or_worse() -> None:
    low, high = [1.0 + 0.001 * i for i in range(8)], [2.0 + 0.001 * i for i in range(8)]
    assert judge_pairs("case", "perplexity", low, high).answer == "worse"
    assert judge_pairs("case", "gflops", low, high, higher_is_better=True).answer == "better"
    assert judge_pairs("case", "gflops", high, low, higher_is_better=True).answer == "worse"


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_has_no_ratio_has_no_verdict(value: float) -> None:
    verdict = judge_pairs("case", "gain", [value] * 8, [1.0] * 8)
    assert (verdict.answer, verdict.ratio) == ("cannot tell", None)
    assert verdict.reason == "only positive values have a ratio"
    assert not math.isnan(verdict.p or 0.0)
