"""Callbacks."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TextIO

from efficientai_toolkit.callbacks.events import Event, event_to_json
from efficientai_toolkit.callbacks.run import Run


class Callback(ABC):
    """Base class of callbacks, which receive the events of a run.

    A study, such as a search, is a run too. Those of its parts begin and end in between, one at a time.
    """

    def begin(self, run: Run) -> None:  # noqa: B027
        """Handle the begin of a run, whose output folder exists."""

    @abstractmethod
    def on(self, event: Event) -> None:
        """Handle an event."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Handle metrics that no event has: those of the part ``step`` of a study, from 1."""

    def end(self, run: Run) -> None:  # noqa: B027
        """Handle the end of the run that began last, which now has a status and a result."""

    def close(self) -> None:  # noqa: B027
        """Release resources; called once at the end, also after an error."""


class Silent(Callback):
    """Callback that ignores all events."""

    def on(self, event: Event) -> None:
        """Ignore the event."""


class JsonLines(Callback):
    """Callback that writes each event as a line of JSON.

    Parameters
    ----------
    stream
        Output stream; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def on(self, event: Event) -> None:
        """Write and flush the event."""
        self._stream.write(event_to_json(event) + "\n")
        self._stream.flush()


class _Function(Callback):
    def __init__(self, function: Callable[[Event], object]) -> None:
        self._function = function

    def on(self, event: Event) -> None:
        self._function(event)


class _Several(Callback):
    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def begin(self, run: Run) -> None:
        for callback in self._callbacks:
            callback.begin(run)

    def on(self, event: Event) -> None:
        for callback in self._callbacks:
            callback.on(event)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            callback.log(step, metrics)

    def end(self, run: Run) -> None:
        for callback in self._callbacks:
            callback.end(run)

    def close(self) -> None:
        with ExitStack() as stack:
            # In their order, each of them also after an error of another one.
            for callback in reversed(self._callbacks):
                stack.callback(callback.close)


class Borrowed(Callback):
    """Callback that hands everything but the end on, for one of several runs."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def begin(self, run: Run) -> None:
        """Hand the run on."""
        self._callback.begin(run)

    def on(self, event: Event) -> None:
        """Hand the event on."""
        self._callback.on(event)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics on."""
        self._callback.log(step, metrics)

    def end(self, run: Run) -> None:
        """Hand the end of the run on."""
        self._callback.end(run)


AnyCallback = Callback | Callable[[Event], object] | Iterable[Callback | Callable[[Event], object]]
"""A callback, a function that takes events, or several of them."""


def as_callback(callback: AnyCallback | None) -> Callback:
    """Wrap a function or several callbacks in one; ``None`` becomes :class:`Silent`."""
    if callback is None:
        return Silent()
    if isinstance(callback, Callback):
        return callback
    return _Function(callback) if callable(callback) else _Several(map(as_callback, callback))
