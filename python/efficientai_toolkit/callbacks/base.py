"""Who receives events."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TextIO

from efficientai_toolkit.callbacks.events import Event, event_to_json


class Callback(ABC):
    """Receives the events of a run."""

    @abstractmethod
    def on(self, event: Event) -> None:
        """Take one event, in the order drawn above."""

    def close(self) -> None:  # noqa: B027
        """Give back what the callback holds; called once, also after an error."""


class Silent(Callback):
    """Says nothing."""

    def on(self, event: Event) -> None:
        """Ignore the event."""


class JsonLines(Callback):
    """Writes one JSON object per event and line, for programs that watch a run.

    Parameters
    ----------
    stream
        Where to write; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def on(self, event: Event) -> None:
        """Write the event at once."""
        self._stream.write(event_to_json(event) + "\n")
        self._stream.flush()


class _Function(Callback):
    def __init__(self, function: Callable[[Event], object]) -> None:
        self._function = function

    def on(self, event: Event) -> None:
        self._function(event)


def as_callback(callback: Callback | Callable[[Event], object] | None) -> Callback:
    """A function becomes a callback; ``None`` says nothing."""
    if callback is None:
        return Silent()
    return callback if isinstance(callback, Callback) else _Function(callback)
