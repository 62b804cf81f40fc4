"""Curves and log of a running or finished job, from its events."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.ui.log import describe_event

_KEPT = 16
"""Jobs whose events are remembered."""

_POINTS = 400
"""Most points of a curve that are drawn."""

_LINES = 400
"""Lines of a log that are shown."""

Point = dict[str, float]


@dataclass(kw_only=True, slots=True)
class View:
    """What the events of a job tell."""

    last: int = 0
    """Number of the last event."""
    steps: list[Point] = field(default_factory=list[Point])
    """Step with its loss, learning rate, tokens per second and memory in GB."""
    evaluations: list[Point] = field(default_factory=list[Point])
    """Step with its validation loss."""
    total: int = 0
    """Number of steps, or of whatever ``done`` counts."""
    done: int = 0
    stage: str = ""
    seconds_left: float | None = None
    log: list[str] = field(default_factory=list[str])

    def add(self, moment: float, event: Mapping[str, Any]) -> None:
        """Take an event into account."""
        match event["event"]:
            case "started":
                self.total, self.done = event["steps"], event["first_step"]
                # What came after the checkpoint that the run continues from comes again.
                self.steps = [point for point in self.steps if point["step"] <= event["first_step"]]
                self.evaluations = [x for x in self.evaluations if x["step"] <= event["first_step"]]
            case "step":
                self.done, self.total = event["step"], event["steps"]
                self.seconds_left = event.get("seconds_left")
                self.steps.append(
                    {
                        "step": event["step"],
                        "loss": event["loss"],
                        "lr": event["lr"],
                        "tokens_per_second": event["tokens_per_second"],
                        "memory": event["peak_memory"] / 1e9,
                    }
                )
            case "evaluated":
                self.evaluations.append({"step": event["step"], "loss": event["loss"]})
            case "progress":
                self.stage, self.done, self.total = event["stage"], event["done"], event["total"]
                self.seconds_left = event.get("seconds_left", self.seconds_left)
            case _:
                pass
        line = describe_event(event)
        if line is not None:
            self.log = [*self.log[-_LINES:], f"{time.strftime('%H:%M:%S', time.localtime(moment))}  {line}"]


class Monitor:
    """Reads the events of jobs once, however many browsers watch."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._views: OrderedDict[int, View] = OrderedDict()
        self._lock = Lock()

    def read(self, job_id: int) -> View:
        """Return what is known about a job now."""
        with self._lock:
            view = self._views.setdefault(job_id, View())
            self._views.move_to_end(job_id)
            while len(self._views) > _KEPT:
                self._views.popitem(last=False)
            for event in self._jobs.events(job_id, view.last):
                view.add(event.time, event.data)
                view.last = event.number
            return view


def thin(points: list[Point]) -> list[Point]:
    """Return few enough points to draw, the last one among them."""
    stride = -(-len(points) // _POINTS) or 1
    return points[::-1][::stride][::-1]
