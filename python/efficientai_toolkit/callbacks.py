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

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from efficientai_toolkit._progress_bar import ProgressBar

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """Some of a file whose rows stay on disk was read for the first time."""

    path: str
    bytes: int
    """Bytes so far."""
    total: int
    """All of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Referenced:
    """The untouched model has read some of the pairs from whose log-probabilities training measures."""

    pairs: int
    """Pairs so far."""
    total: int
    """All of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Everything is loaded; the first step follows."""

    steps: int
    """Optimizer steps in the whole run."""
    first_step: int
    """Step this run continues from; 0 for a fresh one."""
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimated:
    """What the run is expected to take of MLX's memory, in bytes."""

    weights: int
    """The model, and what is trained in float32 where the model has another format."""
    optimizer: int
    """Gradients, what the optimizer remembers, and the best weights so far."""
    activations: int
    """What a pass over the longest rows keeps for its gradient."""
    update: int
    """What an update of the parameters takes for a moment."""
    peak: int
    """All of it."""
    available: int
    """What there is: the budget, or else the device's memory."""
    rows: int
    """The longest rows that go through the model at once, at most a batch; the rest of a batch follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimizer step was taken."""

    step: int
    """1-based."""
    steps: int
    """Optimizer steps in the whole run."""
    epoch: float
    """Passes over the data so far."""
    loss: float
    """Of this step's batch; for ``sft`` the mean cross-entropy per target token, in nats."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens_per_second: float
    """Tokens that went through the model, padding not counted, since the last step."""
    peak_memory: int
    """Of MLX's allocator so far, in bytes."""
    reward_accuracy: float | None = None
    """Share of this step's pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean of the chosen answer's reward less the other's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """In place of a :class:`Step` whose gradients overflowed in float16: nothing was changed."""

    step: int
    """1-based."""
    steps: int
    """Optimizer steps in the whole run."""
    loss: float
    """Of this step's batch; for ``sft`` the mean cross-entropy per target token, in nats."""
    loss_scale: float
    """What the loss is multiplied with from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory:
    """Memory ran out: what was computed is computed again, with fewer rows at once."""

    step: int
    """1-based; the step that begins again, or that follows the validation that does."""
    rows: int
    """The longest rows that go through the model at once from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The validation set was scored."""

    step: int
    """Steps taken before; 0 is the untouched model."""
    loss: float
    """For ``sft`` the mean cross-entropy per target token, in nats."""
    perplexity: float | None
    """``exp(loss)``, for ``sft``."""
    reward_accuracy: float | None = None
    """Share of pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean of the chosen answer's reward less the other's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The validation loss has not improved for long enough: there are no more steps."""

    step: int
    """Steps taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The run is complete and its result is on disk."""

    step: int
    path: str


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
"""Any of the events above."""

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
    """Read one event as the engine writes it: a JSON object with its name under ``event``."""
    values = json.loads(text)
    return _EVENTS[values.pop("event")](**values)


def event_to_json(event: Event) -> str:
    """Write an event as one line of JSON; the inverse of :func:`parse_event`."""
    # Not `asdict`, which copies deeply: events hold plain values only.
    values = {name: getattr(event, name) for name in event.__slots__}
    return json.dumps({"event": _NAMES[type(event)], **values})


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


def __getattr__(name: str) -> object:
    if name == "ProgressBar":
        # It needs `rich`, which nobody else should wait for.
        from efficientai_toolkit._progress_bar import ProgressBar

        return ProgressBar
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
