"""Events of work as events of a job."""

import json
import time
from collections.abc import Callable
from typing import Any

from efficientai_toolkit.callbacks.events import Event, event_to_json
from efficientai_toolkit.callbacks.training import Evaluated, Started, Step
from efficientai_toolkit.study.job import Emit

Report = Callable[[Event], None]
"""Callback of work."""


def report_to(emit: Emit, **extra: Any) -> Report:
    """Return a callback that emits events with ``extra`` values; steps have the seconds left.

    Parameters
    ----------
    emit
        Function that emits an event of the job.
    **extra
        Further values of each event, such as the name of the run.
    """
    began = (time.monotonic(), 0)

    def report(event: Event) -> None:
        nonlocal began
        values: dict[str, Any] = {**json.loads(event_to_json(event)), **extra}
        if isinstance(event, Started):
            began = (time.monotonic(), event.first_step)
        elif isinstance(event, Evaluated) and event.step == began[1]:
            # The first validation says nothing about the pace of the steps.
            began = (time.monotonic(), event.step)
        elif isinstance(event, Step):
            pace = (time.monotonic() - began[0]) / max(event.step - began[1], 1)
            values["seconds_left"] = round(pace * (event.steps - event.step), 1)
        emit(values)

    return report
