"""What long work tells while it runs, and three ways to show it.

::

    Started ─► Estimated ─► Evaluated(0) ─► ┌ Step ┐* ─► Evaluated ─► Checkpoint ─► … ─► Finished
                                            └──────┘

``Overflow`` may stand in the place of a ``Step``, ``OutOfMemory`` before a ``Step`` or an ``Evaluated``,
and ``Stopped`` after the last ``Evaluated``. Before ``Started`` come ``Indexed``, where rows stay
on disk, and ``Referenced``, where the objective measures from the untouched model.

Your own callback is any function that takes an event, or a subclass of :class:`Callback`.
Raising an exception in it stops the work; the exception reaches the caller unchanged.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.base import (
        Callback,
        JsonLines,
        Silent,
        as_callback,
    )
    from efficientai_toolkit.callbacks.events import (
        Event,
        event_to_json,
        parse_event,
    )
    from efficientai_toolkit.callbacks.progress_bar import (
        ProgressBar,
    )
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

__all__ = [
    "Callback",
    "Checkpoint",
    "Estimated",
    "Evaluated",
    "Event",
    "Finished",
    "Indexed",
    "JsonLines",
    "OutOfMemory",
    "Overflow",
    "ProgressBar",
    "Referenced",
    "Silent",
    "Started",
    "Step",
    "Stopped",
    "as_callback",
    "event_to_json",
    "parse_event",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Callback": "callbacks.base:Callback",
            "Checkpoint": "callbacks.training:Checkpoint",
            "Estimated": "callbacks.training:Estimated",
            "Evaluated": "callbacks.training:Evaluated",
            "Event": "callbacks.events:Event",
            "Finished": "callbacks.training:Finished",
            "Indexed": "callbacks.training:Indexed",
            "JsonLines": "callbacks.base:JsonLines",
            "OutOfMemory": "callbacks.training:OutOfMemory",
            "Overflow": "callbacks.training:Overflow",
            "ProgressBar": "callbacks.progress_bar:ProgressBar",
            "Referenced": "callbacks.training:Referenced",
            "Silent": "callbacks.base:Silent",
            "Started": "callbacks.training:Started",
            "Step": "callbacks.training:Step",
            "Stopped": "callbacks.training:Stopped",
            "as_callback": "callbacks.base:as_callback",
            "event_to_json": "callbacks.events:event_to_json",
            "parse_event": "callbacks.events:parse_event",
        },
    )
