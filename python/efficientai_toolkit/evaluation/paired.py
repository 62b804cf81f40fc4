"""Paired tests: what two models make of the same texts and questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4000
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """A difference with its interval."""

    value: float
    low: float
    """Lower end of the interval at the level of 95 %."""
    high: float
    """Upper end."""
    count: int
    """Number of pairs."""
    p: float | None = None
    """Two-sided p-value, where the test has one."""

    @property
    def is_found(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


def compare_losses(
    losses: Sequence[float], reference: Sequence[float], tokens: Sequence[int]
) -> PairedDifference:
    """Compare the perplexities of two models on the same sequences.

    Sequences are resampled (percentile bootstrap, Efron 1979), since tokens of one depend on each other.

    Parameters
    ----------
    losses, reference
        Negative log-likelihood of each sequence by both models; at least one sequence.
    tokens
        Number of tokens of each sequence.

    Returns
    -------
    PairedDifference
        The relative increase of the perplexity; 0.01 is 1 %.
    """
    sums = np.asarray(losses, np.float64) - np.asarray(reference, np.float64)
    counts = np.asarray(tokens, np.float64)
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    increases = np.expm1(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(increases, ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2))
    value = math.expm1(float(sums.sum() / counts.sum()))
    return PairedDifference(value=value, low=float(low), high=float(high), count=len(sums))


def compare_answers(answers: Sequence[bool], reference: Sequence[bool]) -> PairedDifference:
    """Compare the accuracies of two models on the same questions.

    The p-value is that of McNemar's exact test (`McNemar 1947 <https://doi.org/10.1007/BF02295996>`_), the
    interval that of Agresti and Min (`2005 <https://doi.org/10.1002/sim.1781>`_): Wald's, with half a
    question added to each of the four outcomes.

    Parameters
    ----------
    answers, reference
        Whether each question is answered right by both models; at least one question.

    Returns
    -------
    PairedDifference
        The accuracy less that of the reference.
    """
    count = len(reference)
    won = sum(one and not other for one, other in zip(answers, reference, strict=True))
    lost = sum(other and not one for one, other in zip(answers, reference, strict=True))
    a, b, n = won + 0.5, lost + 0.5, count + 2
    middle = (a - b) / n
    reach = 1.959964 / n * math.sqrt(a + b - (a - b) ** 2 / n)
    return PairedDifference(
        value=(won - lost) / count,
        low=max(middle - reach, -1.0),
        high=min(middle + reach, 1.0),
        count=count,
        p=_mcnemar(won, lost),
    )


def _mcnemar(won: int, lost: int) -> float:
    """Return the two-sided p-value of the sign test of discordant pairs."""
    total = won + lost
    # As logarithms: 2ⁿ has no place in a float from 1024 pairs on.
    tail = sum(
        math.exp(_log_choose(total, fewer) - total * math.log(2)) for fewer in range(min(won, lost) + 1)
    )
    return min(2 * tail, 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
