"""A choice is looked at again in longer runs before it stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficientai_toolkit.ranks.candidates import Candidate
from efficientai_toolkit.ranks.forecast import Forecast, choose, forecast, loss_of
from efficientai_toolkit.ranks.short_run import ShortRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What all short runs together say."""

    forecasts: list[Forecast]
    """Of the candidates."""
    references: list[Forecast]
    """Of the run as it is with each of the usual ranks."""
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
    """Choose, run the choice and what it is measured against for twice the steps, and choose again.

    Most forecasts are about candidates that nobody takes, so only those that decide get the longer run. It
    ends when the forecasts of both the choice and the best reference come from such runs: at the latest when
    every candidate has had one.

    Parameters
    ----------
    runs
        So far.
    found
        One candidate per budget.
    references
        What the choice must be as good as.
    run
        Trains a candidate, given the number of the round and its steps.
    whole
        Steps of the whole run; no short run is longer.
    tolerance
        As in :func:`~efficientai_toolkit.ranks.forecast.choose`.
    """
    known = list(runs)
    number, longest = max((one.round, one.steps) for one in runs)
    steps = min(2 * longest, whole)
    asked: list[Candidate] = []
    while True:
        expected = [forecast(known, candidate, whole) for candidate in found]
        usual = [forecast(known, candidate, whole) for candidate in references]
        choice = choose(expected, usual, tolerance)
        deciding = (choice, min(usual, key=loss_of).candidate)
        asking = next((candidate for candidate in deciding if candidate not in asked), None)
        if asking is None or steps <= longest:
            return Outcome(forecasts=expected, references=usual, choice=choice)
        asked.append(asking)
        known.append(run(asking, number + 1, steps))
