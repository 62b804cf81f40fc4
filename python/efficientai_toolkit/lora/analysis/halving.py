"""Runs that grow longer as fewer candidates are left (`successive halving <https://arxiv.org/abs/1502.07943>`_)."""

import math
from collections.abc import Callable, Sequence

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.short_run import ShortRun

_ETA = 3
"""One of so many candidates is left after a round."""


def halve(
    budgets: Sequence[Sequence[Candidate]], run: Callable[[Candidate, int, int], ShortRun], steps: int
) -> list[ShortRun]:
    """Find the best way to spend each budget, then run these for the longest.

    In each round every budget keeps the best third of its candidates, and runs have twice the steps of the
    round before, from the start and through the whole course of the learning rate.

    Parameters
    ----------
    budgets
        Candidates by budget.
    run
        Trains a candidate, given the number of the round, from 1, and its steps.
    steps
        Of the first round.

    Returns
    -------
    list
        The last round: one run per budget, in their order.

    Raises
    ------
    TrainingError
        Every run of a round failed.
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


def _loss(run: ShortRun) -> float:
    return math.inf if run.loss is None else run.loss
