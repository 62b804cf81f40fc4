"""Confirmation of a choice by longer runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.forecast import Forecast, choose, forecast, get_loss
from efficientai_toolkit.lora.analysis.short_run import ShortRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Outcome of all short runs."""

    forecasts: list[Forecast]
    """Forecasts of the candidates."""
    references: list[Forecast]
    """Forecasts of the given run with common uniform ranks."""
    choice: Candidate


def confirm(
    runs: Sequence[ShortRun],
    found: Sequence[Candidate],
    references: Sequence[Candidate],
    run: Callable[[Candidate, int, int], ShortRun],
    *,
    whole: int,
    tolerance: float,
) -> Outcome:
    """Choose a candidate by as few runs of twice the steps as possible.

    The best reference is trained first, then candidates in order of increasing parameters until one is good
    enough. Forecasts of shorter runs are too inaccurate to exclude candidates.

    Parameters
    ----------
    runs
        Short runs so far.
    found
        One candidate per budget.
    references
        Baselines that the choice must match.
    run
        Function that trains a candidate, given the round and the number of steps.
    whole
        Number of steps of the full run, an upper bound for short runs.
    tolerance
        As in :func:`~efficientai_toolkit.lora.analysis.forecast.choose`.

    Returns
    -------
    Outcome

    Raises
    ------
    TrainingError
        If no candidate is left whose runs all succeeded.
    """
    known = list(runs)
    number, longest = max((one.round, one.steps) for one in runs)
    steps = min(2 * longest, whole)
    fewest_first = sorted([*found, *references], key=lambda candidate: candidate.parameters)
    asked: list[Candidate] = []
    while True:
        expected = [forecast(known, candidate, whole) for candidate in found]
        usual = [forecast(known, candidate, whole) for candidate in references]
        failed = [one.candidate for one in [*expected, *usual] if one.loss is None]
        if len(failed) == len(fewest_first):
            message = f"no short run of {steps} steps succeeded; the last: {known[-1].reason}"
            raise TrainingError(message)
        choice = choose(expected, usual, tolerance)
        best = min(usual, key=get_loss).candidate
        deciding = [best, *(one for one in fewest_first if one.parameters <= choice.parameters)]
        asking = next((one for one in deciding if one not in asked and one not in failed), None)
        if steps <= longest or asking is None:
            return Outcome(forecasts=expected, references=usual, choice=choice)
        asked.append(asking)
        known.append(run(asking, number + 1, steps))
