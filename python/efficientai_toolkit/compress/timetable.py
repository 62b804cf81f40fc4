"""Progress of a compression, and the time that is left."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a compression is doing."""

    stage: str
    """``prune``, ``recover``, ``quantize``, ``quality``, ``speed`` or ``export``."""
    candidate: str
    done: int
    """Stages that have ended."""
    total: int
    """Stages that there are, as far as is known by now."""
    seconds_left: float | None
    """Estimate from the stages so far; ``None`` before the first has ended."""
    event: Mapping[str, Any] | None = None
    """What the stage reports; ``None`` when it begins."""


Observer = Callable[[Progress], object]


class Timetable:
    """Counts stages and estimates how long those that are planned will take.

    Parameters
    ----------
    observer
        Called when a stage begins, and with its events.
    """

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self._times: dict[str, list[float]] = {}
        self._planned: list[str] = []
        self._done = 0

    def plan(self, stages: Iterable[str]) -> None:
        """Replace the stages that are planned."""
        self._planned = list(stages)

    def add(self, stage: str, seconds: float) -> None:
        """Count a stage that has ended."""
        self._done += 1
        self._times.setdefault(stage, []).append(seconds)
        if stage in self._planned:
            self._planned.remove(stage)

    def estimate(self) -> float | None:
        """Return the seconds that are left; stages of a new kind are taken to last as the others."""
        if not self._times:
            return None
        usual = fmean(seconds for times in self._times.values() for seconds in times)
        return sum(fmean(self._times[stage]) if stage in self._times else usual for stage in self._planned)

    @contextmanager
    def during(self, stage: str, candidate: str) -> Generator[Callable[[Mapping[str, Any]], None]]:
        """Tell the observer that a stage begins; what is yielded tells it about events."""

        def tell(event: Mapping[str, Any] | None = None) -> None:
            if self._observer is not None:
                self._observer(
                    Progress(
                        stage=stage,
                        candidate=candidate,
                        done=self._done,
                        total=self._done + max(len(self._planned), 1),
                        seconds_left=self.estimate(),
                        event=event,
                    )
                )

        tell()
        yield tell
