"""The union of all events and its JSON format."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from efficientai_toolkit.callbacks.rounds import Round
from efficientai_toolkit.callbacks.training import (
    Checkpoint,
    Estimated,
    Evaluated,
    Finished,
    OutOfMemory,
    Overflow,
    Started,
    Step,
    Stopped,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Part of a long stage is done, of whatever kind of work; reported about ten times."""

    stage: str
    """``index`` and the path of a streamed file, or ``reference``."""
    done: int
    """Units processed so far: bytes of the file for ``index``, pairs for ``reference``."""
    total: int
    """Total number of units."""


Event = (
    Progress
    | Started
    | Estimated
    | Step
    | Overflow
    | OutOfMemory
    | Evaluated
    | Stopped
    | Checkpoint
    | Finished
    | Round
)
"""Any event."""

_NAMES: dict[type[Event], str] = {
    event: re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower() for event in get_args(Event)
}
_EVENTS = {name: event for event, name in _NAMES.items()}


def parse_event(text: str) -> Event:
    """Parse an event from the engine's JSON, an object with the event's name under ``event``."""
    values = json.loads(text)
    return _EVENTS[values.pop("event")](**values)


def read_event(values: Mapping[str, Any]) -> Event | None:
    """Return the event of an object with further values, or ``None`` if it is none of these."""
    kind = _EVENTS.get(values["event"])
    if kind is None:
        return None
    known = {name: value for name, value in values.items() if name in kind.__slots__}
    try:
        return kind(**known)
    except TypeError:
        # Of another version of this package.
        return None


def event_to_json(event: Event) -> str:
    """Serialize an event as a line of JSON; the inverse of :func:`parse_event`."""
    # Not `asdict`, which copies deeply: events hold plain values only.
    values = {name: getattr(event, name) for name in event.__slots__}
    return json.dumps({"event": _NAMES[type(event)], **values})
