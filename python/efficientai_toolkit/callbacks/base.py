"""Callbacks."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TextIO

from efficientai_toolkit.callbacks.events import Event, event_to_json


class Callback(ABC):
    """Base class of callbacks, which receive the events of a run."""

    @abstractmethod
    def on(self, event: Event) -> None:
        """Handle an event."""

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


def as_callback(callback: Callback | Callable[[Event], object] | None) -> Callback:
    """Wrap a function in a callback; ``None`` becomes :class:`Silent`."""
    if callback is None:
        return Silent()
    return callback if isinstance(callback, Callback) else _Function(callback)
