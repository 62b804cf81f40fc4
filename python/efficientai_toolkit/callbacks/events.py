"""The union of all events and its JSON format."""

import json

from efficientai_toolkit.callbacks.training import (
    Checkpoint,
    Estimated,
    Evaluated,
    Finished,
    Indexed,
    OutOfMemory,
    Overflow,
    Referenced,
    Started,
    Step,
    Stopped,
)

Event = (
    Indexed
    | Referenced
    | Started
    | Estimated
    | Step
    | Overflow
    | OutOfMemory
    | Evaluated
    | Stopped
    | Checkpoint
    | Finished
)
"""Any event."""

_EVENTS: dict[str, type[Event]] = {
    "indexed": Indexed,
    "referenced": Referenced,
    "started": Started,
    "estimated": Estimated,
    "step": Step,
    "overflow": Overflow,
    "out_of_memory": OutOfMemory,
    "evaluated": Evaluated,
    "stopped": Stopped,
    "checkpoint": Checkpoint,
    "finished": Finished,
}
_NAMES = {event: name for name, event in _EVENTS.items()}


def parse_event(text: str) -> Event:
    """Parse an event from the engine's JSON, an object with the event's name under ``event``."""
    values = json.loads(text)
    return _EVENTS[values.pop("event")](**values)


def event_to_json(event: Event) -> str:
    """Serialize an event as a line of JSON; the inverse of :func:`parse_event`."""
    # Not `asdict`, which copies deeply: events hold plain values only.
    values = {name: getattr(event, name) for name in event.__slots__}
    return json.dumps({"event": _NAMES[type(event)], **values})
