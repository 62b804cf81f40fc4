"""`Successive halving <https://arxiv.org/abs/1502.07943>`_ of candidates."""

import math
from collections.abc import Callable, Sequence

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.short_run import ShortRun

_ETA = 3
"""Reduction factor of the number of candidates per round."""


def halve(
    budgets: Sequence[Sequence[Candidate]], run: Callable[[Candidate, int, int], ShortRun], steps: int
) -> list[ShortRun]:
    """Find the best candidate for each budget.

    In each round every budget keeps the best third of its candidates, and the number of steps doubles. Runs
    start from scratch and use the full learning-rate schedule.

    Parameters
    ----------
    budgets
        Candidates by budget.
    run
        Function that trains a candidate, given the round, from 1, and the number of steps.
    steps
        Number of steps in the first round.

    Returns
    -------
    list
        Runs of the last round, one per budget, in order.

    Raises
    ------
    TrainingError
        If all runs of a round failed.
    """
    number = 1
    while True:
        rounds = [[run(candidate, number, steps) for candidate in budget] for budget in budgets]
        runs = [run for budget in rounds for run in budget]
        if all(run.loss is None for run in runs):
            message = f"none of {len(runs)} short runs succeeded; the first: {runs[0].reason}"
            raise TrainingError(message)
        if all(len(budget) == 1 for budget in rounds):
            return runs
        best_first = [sorted(budget, key=_loss) for budget in rounds]
        budgets = [
            [run.candidate for run in budget[: math.ceil(len(budget) / _ETA)]] for budget in best_first
        ]
        number, steps = number + 1, 2 * steps


def plan_steps(budgets: Sequence[Sequence[Candidate]], steps: int) -> list[list[int]]:
    """Return the steps of each run of :func:`halve`, by round."""
    counts = [len(budget) for budget in budgets]
    rounds: list[list[int]] = []
    while True:
        rounds.append([steps] * sum(counts))
        if all(count == 1 for count in counts):
            return rounds
        counts, steps = [math.ceil(count / _ETA) for count in counts], 2 * steps


def _loss(run: ShortRun) -> float:
    return math.inf if run.loss is None else run.loss
