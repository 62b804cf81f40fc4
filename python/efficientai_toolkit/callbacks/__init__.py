"""Events of long-running work, and callbacks that receive them.

::

    Started ─► Estimated ─► Evaluated(0) ─► ┌ Step ┐* ─► Evaluated ─► Checkpoint ─► … ─► Finished
                                            └──────┘

``Overflow`` replaces a ``Step`` whose gradients overflowed. ``OutOfMemory`` may precede a ``Step`` or an
``Evaluated``, and ``Stopped`` follows the last ``Evaluated`` after early stopping. ``Progress`` reports long
stages before ``Started``: reading streamed data, and scoring pairs with the reference model.

A custom callback is a function that takes an event, a subclass of :class:`Callback`, or a list of them. An
exception raised in it stops the work and propagates to the caller.
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
        Progress,
        event_to_json,
        parse_event,
    )
    from efficientai_toolkit.callbacks.progress_bar import (
        ProgressBar,
    )
    from efficientai_toolkit.callbacks.rounds import (
        Round,
    )
    from efficientai_toolkit.callbacks.run import (
        Run,
    )
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

__all__ = [
    "Callback",
    "Checkpoint",
    "Estimated",
    "Evaluated",
    "Event",
    "Finished",
    "JsonLines",
    "OutOfMemory",
    "Overflow",
    "Progress",
    "ProgressBar",
    "Round",
    "Run",
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
            "JsonLines": "callbacks.base:JsonLines",
            "OutOfMemory": "callbacks.training:OutOfMemory",
            "Overflow": "callbacks.training:Overflow",
            "Progress": "callbacks.events:Progress",
            "ProgressBar": "callbacks.progress_bar:ProgressBar",
            "Round": "callbacks.rounds:Round",
            "Run": "callbacks.run:Run",
            "Silent": "callbacks.base:Silent",
            "Started": "callbacks.training:Started",
            "Step": "callbacks.training:Step",
            "Stopped": "callbacks.training:Stopped",
            "as_callback": "callbacks.base:as_callback",
            "event_to_json": "callbacks.events:event_to_json",
            "parse_event": "callbacks.events:parse_event",
        },
    )
