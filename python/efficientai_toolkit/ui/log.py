"""Lines of the log of a job."""

from collections.abc import Callable, Mapping
from typing import Any

from efficientai_toolkit._base.units import format_duration, format_size

Event = Mapping[str, Any]


def describe_event(event: Event) -> str | None:
    """Return the line of an event; ``None`` if it has none."""
    describe = _LINES.get(event["event"])
    return None if describe is None else describe(event)


def _state(event: Event) -> str:
    error = event.get("error")
    return f"{event['state']}: {error}" if error else str(event["state"])


def _started(event: Event) -> str:
    share = event["trainable_parameters"] / max(event["total_parameters"], 1)
    return f"training {event['trainable_parameters']:,} parameters ({share:.2%} of the model)"


def _measured(event: Event) -> str:
    if event.get("error"):
        return f"{event['method']}: {event['error']}"
    taken = format_duration(event["seconds"])
    return f"{event['method']}: validation loss {event['loss_after']:.4f} after {taken}"


_LINES: Mapping[str, Callable[[Event], str]] = {
    "state": _state,
    "started": _started,
    "measured": _measured,
    "estimated": lambda event: (
        f"needs about {format_size(event['peak'])} of {format_size(event['available'])} memory"
    ),
    "step": lambda event: (
        f"step {event['step']}/{event['steps']}  loss {event['loss']:.4f}  learning rate {event['lr']:.2e}"
    ),
    "evaluated": lambda event: f"step {event['step']}  validation loss {event['loss']:.4f}",
    "out_of_memory": lambda event: (
        f"step {event['step']}: out of memory, {event['rows']} rows at once from now on"
    ),
    "overflow": lambda event: f"step {event['step']}: skipped, its gradients overflowed in float16",
    "stopped": lambda event: f"stopped early at step {event['step']}: the validation loss no longer falls",
    "checkpoint": lambda event: f"checkpoint at step {event['step']}",
    "log": lambda event: str(event["line"]),
}
