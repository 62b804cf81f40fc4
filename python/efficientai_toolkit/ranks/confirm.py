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
    """Choose among runs of twice the steps, as few as it takes.

    First the best reference runs longer, then the others, those with the fewest parameters first, until one
    will do. Forecasts from the shorter runs err by more than neighbouring sizes differ, so nobody is left out
    for its own.

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
    fewest_first = sorted([*found, *references], key=lambda candidate: candidate.parameters)
    asked: list[Candidate] = []
    while True:
        expected = [forecast(known, candidate, whole) for candidate in found]
        usual = [forecast(known, candidate, whole) for candidate in references]
        choice = choose(expected, usual, tolerance)
        best = min(usual, key=loss_of).candidate
        left = [one for one in fewest_first if one not in asked and one.parameters <= choice.parameters]
        if steps <= longest or not (left or best not in asked):
            return Outcome(forecasts=expected, references=usual, choice=choice)
        asking = left[0] if best in asked else best
        asked.append(asking)
        known.append(run(asking, number + 1, steps))
