"""What the engine is to the server: requests as JSON, steps, events.

This is the only module that knows which engine there is.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

CONSTRAINS = False
"""Whether the engine knows ``response_format``."""

LOWEST = -9999.0
"""Log-probability of what is impossible: JSON has no infinity."""


class Backend(Protocol):
    """What generates: requests join and leave between steps."""

    def add(self, prompt: list[int] | str, request: str, add_special_tokens: bool = True) -> int:  # noqa: FBT001, FBT002
        """Take a request, the JSON of its settings, and return its number."""
        ...

    def cancel(self, number: int) -> None:
        """Let a request leave at the next step."""

    def step(self) -> str:
        """Compute one step for all requests and return the JSON list of their events."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """A sampled token with the likeliest ones in its place."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What one step gave to one request."""

    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish_reason: str | None = None
    """``stop``, ``length``, ``cancelled``, ``error`` (of the request) or ``failed`` in the last event."""
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


def read_event(values: dict[str, Any]) -> Event:
    """Read an event of :meth:`Backend.step`."""
    logprobs = [
        TokenLogprob(
            id=one["id"],
            logprob=max(one["logprob"], LOWEST),
            top=[(int(token), max(float(logprob), LOWEST)) for token, logprob in one["top"]],
        )
        for one in values.get("logprobs") or ()
    ]
    return Event(
        text=values["text"],
        tokens=values["tokens"],
        logprobs=logprobs,
        finish_reason=values["finish_reason"],
        error=values.get("error"),
        prompt_tokens=values["prompt_tokens"],
        cached_tokens=values["cached_tokens"],
        generated_tokens=values["generated_tokens"],
    )


def create_backend(model: "Model", tokenizer: "Tokenizer", *, max_batch: int) -> Backend:  # noqa: ARG001
    """Create what generates with a model."""
    from efficientai_toolkit.server.sequential import SequentialBackend

    return SequentialBackend(model, tokenizer)
