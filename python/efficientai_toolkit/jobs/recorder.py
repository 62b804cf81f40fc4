"""Recording of a running job's events: in few transactions, and thinned where there are very many."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

KEPT = 2000
"""Events of one name after which only every second one is kept, then every fourth, and so on."""

_WAIT_SECS = 0.25
"""Time in which further steps are collected before they are written."""

_MAX_LINE = 1000
"""Longest line of a log."""

_OFTEN = frozenset({"step", "progress", "log"})
"""Events that may come many times a second."""


class Recorder:
    """Collects events, of two threads, and hands them to ``write`` in their order.

    Parameters
    ----------
    write
        Called with one or several events.
    counts
        Number of events of each name that are recorded already.
    """

    def __init__(
        self, write: Callable[[Sequence[Mapping[str, Any]]], object], counts: Mapping[str, int]
    ) -> None:
        self._write = write
        self._kept = Counter(counts)
        self._seen: Counter[str] = Counter()
        self._waiting: list[Mapping[str, Any]] = []
        self._written = 0.0
        self._lock = Lock()

    def add(self, event: Mapping[str, Any]) -> None:
        """Record an event."""
        name = str(event["event"])
        with self._lock:
            if not self._is_kept(name, event):
                return
            self._kept[name] += 1
            self._waiting.append({**event, "time": time.time()})
            if name not in _OFTEN or time.monotonic() - self._written > _WAIT_SECS:
                self._flush()

    def add_line(self, line: str) -> None:
        """Record a line of the log."""
        if line.strip():
            self.add({"event": "log", "line": line[:_MAX_LINE]})

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []
            self._written = time.monotonic()

    def _is_kept(self, name: str, event: Mapping[str, Any]) -> bool:
        seen = self._seen[name]
        self._seen[name] += 1
        is_last = "steps" in event and event.get("step") == event["steps"]
        stride: int = 2 ** (self._kept[name] // KEPT)
        return is_last or seen % stride == 0
