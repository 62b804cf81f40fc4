"""Verdicts that know the noise: better, worse, or "cannot tell"."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.benchmark.config import ENOUGH_PROCESSES
from efficientai_toolkit.benchmark.statistics import estimate_ratio, mann_whitney, wilcoxon_signed_rank

ALPHA = 0.01
"""Significance level: so often is equal speed called a difference."""

ENOUGH_PAIRS = 8
"""Fewest pairs whose signed-rank test can reach ``ALPHA``: 2 / 2⁸ = 0.008."""

Answer = Literal["faster", "slower", "better", "worse", "cannot tell"]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Verdict(Displayed):
    """How the second of two sides compares with the first."""

    case: str
    metric: str
    answer: Answer
    ratio: float | None
    """How many times larger the second side is: the ratio of the medians, or for pairs the median of the
    ratios; ``None`` without positive values."""
    low: float | None
    """Lower end of the 95 % bootstrap interval of the ratio."""
    high: float | None
    p: float | None
    """p-value of the rank test; ``None`` if a side has a single value."""
    reason: str
    noise: float | None = None
    """Largest ratio between processes of the baseline, which measured the same thing (A/A)."""


def judge_pairs(
    case: str, metric: str, a: Sequence[float], b: Sequence[float], *, higher_is_better: bool = False
) -> Verdict:
    """Compare two sides that were measured in turns, one value per round and side.

    Wilcoxon's signed-rank test on the logarithms of the ratios of each round: what slows both sides of a
    round cancels.

    Parameters
    ----------
    case, metric
        What was measured.
    a, b
        Values of both sides by round.
    higher_is_better
        Whether a higher value is better.
    """
    if len(a) < ENOUGH_PAIRS:
        p, reason = None, f"{len(a)} rounds are too few for p < {ALPHA:g}; take {ENOUGH_PAIRS} or more"
    else:
        positive = _are_positive(a, b)
        p = wilcoxon_signed_rank([math.log(y / x) if positive else y - x for x, y in zip(a, b, strict=True)])
        reason = f"signed-rank test over {len(a)} rounds"
    return _judge(case, metric, a, b, p=p, reason=reason, paired=True, higher_is_better=higher_is_better)


def judge_stored(
    case: str,
    metric: str,
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    *,
    higher_is_better: bool = False,
) -> Verdict:
    """Compare stored runs; the first one is the baseline, whose processes measured the same thing (A/A).

    The samples of one process share its memory layout and its moment, so that the medians of processes are
    what is compared. A change counts only if the Mann-Whitney test over them finds it and it is larger than
    the largest one between two processes of the baseline.

    Parameters
    ----------
    case, metric
        What was measured.
    a, b
        Samples of each process.
    higher_is_better
        Whether a higher value is better.
    """
    first, second = ([statistics.median(samples) for samples in side] for side in (a, b))
    least = min(len(first), len(second))
    noise = max(first) / min(first) if len(first) > 1 and _are_positive(first) else None
    if len(first) == len(second) == len(a[0]) == len(b[0]) == 1:
        p, reason = None, "measured once: a single value says nothing about the noise"
    elif least < ENOUGH_PROCESSES:
        p = None
        reason = (
            f"{len(first)} and {len(second)} processes say too little about the noise between them; "
            f"take --processes {ENOUGH_PROCESSES}"
        )
    else:
        p = mann_whitney(first, second)
        reason = f"rank test over {len(first)} and {len(second)} processes"
    verdict = _judge(
        case,
        metric,
        first,
        second,
        p=p,
        reason=reason,
        paired=False,
        higher_is_better=higher_is_better,
        noise=noise,
    )
    if verdict.answer == "cannot tell" or noise is None or verdict.ratio is None:
        return verdict
    if max(verdict.ratio, 1 / verdict.ratio) > noise:
        return verdict
    reason = f"within the noise of the baseline, whose equal processes differ by {noise - 1:.1%}"
    return replace(verdict, answer="cannot tell", reason=reason)


def _judge(
    case: str,
    metric: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    p: float | None,
    reason: str,
    paired: bool,
    higher_is_better: bool,
    noise: float | None = None,
) -> Verdict:
    ratio = low = high = None
    if not _are_positive(a, b):
        reason = "only positive values have a ratio"
    else:
        ratio, low, high = estimate_ratio(a, b, paired=paired)
    answer: Answer = "cannot tell"
    # Both: with few rounds the rank test may find what the medians do not show.
    if p is not None and p < ALPHA and low is not None and high is not None and not low <= 1 <= high:
        answer = _name(metric, is_better=(low > 1) is higher_is_better)
    return Verdict(
        case=case, metric=metric, answer=answer, ratio=ratio, low=low, high=high, p=p, reason=reason,
        noise=noise,
    )  # fmt: skip


def _name(metric: str, *, is_better: bool) -> Answer:
    if metric == "seconds":
        return "faster" if is_better else "slower"
    return "better" if is_better else "worse"


def _are_positive(*sides: Sequence[float]) -> bool:
    return all(value > 0 for side in sides for value in side)
