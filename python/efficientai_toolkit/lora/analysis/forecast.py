"""Extrapolation of short runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.short_run import ShortRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Forecast of a candidate's final loss."""

    candidate: Candidate
    loss: float | None
    """Validation loss after the full run in nats per token; ``None`` if short runs failed."""


def forecast(runs: Sequence[ShortRun], candidate: Candidate, steps: int) -> Forecast:
    """Extrapolate the loss of ``candidate`` to ``steps``.

    Losses follow `power laws <https://arxiv.org/abs/1712.00409>`_. The curve ``a + b / √steps`` is fitted to
    the two longest runs, since small candidates learn fast at first and are overtaken later.

    Parameters
    ----------
    runs
        Short runs of all candidates.
    candidate
        Candidate to extrapolate.
    steps
        Number of steps of the full run.

    Returns
    -------
    Forecast
        The loss of the longest run if there is only one or it is as long as the full run.
    """
    own = sorted((run for run in runs if run.candidate == candidate), key=lambda run: run.steps)
    if not own or own[-1].loss is None:
        return Forecast(candidate=candidate, loss=None)
    last, loss = own[-1].steps, own[-1].loss
    shorter = [(run.steps, run.loss) for run in own if run.steps < last and run.loss is not None]
    if not shorter or steps <= last:
        return Forecast(candidate=candidate, loss=loss)
    steps_before, loss_before = shorter[-1]
    slope = (loss_before - loss) / (steps_before**-0.5 - last**-0.5)
    return Forecast(candidate=candidate, loss=loss - slope * (last**-0.5 - steps**-0.5))


def choose(forecasts: Sequence[Forecast], references: Sequence[Forecast], tolerance: float) -> Candidate:
    """Choose the candidate with the fewest parameters that is good enough.

    Its loss is within ``tolerance`` % of the best of ``references``, which are candidates too. If all
    references failed, the best of ``forecasts`` is the baseline.
    """
    target = min(map(get_loss, references))
    if math.isinf(target):
        target = min(map(get_loss, forecasts))
    # A forecast may be negative where a loss fell fast.
    limit = target + abs(target) * tolerance / 100
    fit = (one.candidate for one in [*forecasts, *references] if get_loss(one) <= limit)
    return min(fit, key=lambda candidate: candidate.parameters)


def get_loss(forecast: Forecast) -> float:
    """Return the loss, or infinity if the short runs failed."""
    return math.inf if forecast.loss is None else forecast.loss
