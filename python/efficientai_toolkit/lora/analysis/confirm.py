"""A choice is looked at again in longer runs before it stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.forecast import Forecast, choose, forecast, get_loss
from efficientai_toolkit.lora.analysis.short_run import ShortRun


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
    will do. Forecasts from the shorter runs err by more than neighbouring sizes differ, so they rule nobody
    out.

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
        As in :func:`~efficientai_toolkit.lora.analysis.forecast.choose`.

    Returns
    -------
    Outcome

    Raises
    ------
    TrainingError
        No candidate is left whose runs have all succeeded.
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
