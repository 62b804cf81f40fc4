"""What the engine is to the server: requests join and leave between steps, which return events.

This is the only module that names the engine's class.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from efficientai_toolkit.server.config import ServeConfig

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

Adapter = str | tuple[tuple[str, float], ...]
"""Name of an adapter, or names and weights of several that are blended."""

LOWEST = -9999.0
"""Log-probability of what is impossible: JSON has no infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """A token with the likeliest ones in its place."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What one step gave to one request."""

    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    """Of all tokens of the prompt but the first, in the first event, if they are asked for."""
    finish_reason: str | None = None
    """``stop``, ``length``, ``cancelled``, ``error`` or, for a request that is at fault, ``refused``."""
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class Backend(Protocol):
    """What generates."""

    def add(self, prompt: list[int], settings: dict[str, Any], adapter: Adapter | None) -> int:
        """Take a request and return its number; without an adapter it has what is on the model."""
        ...

    def cancel(self, number: int) -> None:
        """Let a request leave at the next step."""

    def step(self) -> list[tuple[int, Event]]:
        """Compute one step for all requests and return their events by number."""
        ...

    def count_cached_bytes(self) -> int:
        """Return the size of the states of earlier prompts."""
        ...

    def close(self) -> None:
        """Finish what is still being written; nothing is computed afterwards."""


class EngineBackend:
    """The compiled engine, which computes a batch at once.

    Parameters
    ----------
    model, tokenizer
        What generates.
    config
        Size of the batch, precision, memory and files for earlier prompts.
    draft
        Small model that proposes tokens.

    Raises
    ------
    ConfigError
        If the small model cannot propose tokens for the other one.
    """

    def __init__(
        self, model: "Model", tokenizer: "Tokenizer", config: ServeConfig, draft: "Model | None" = None
    ) -> None:
        from efficientai_toolkit._engine.core import core

        folder = config.prompt_cache_dir
        settings = {
            "max_batch": config.max_batch,
            "prompt_cache_bytes": config.prompt_cache_bytes,
            "prompt_cache_dir": None if folder is None else str(Path(folder).expanduser()),
            "prompt_cache_disk_bytes": config.prompt_cache_disk_bytes,
        }
        self._engine = core.generate.Engine(
            model, tokenizer, json.dumps(settings), accuracy=config.accuracy, draft=draft
        )

    def add(self, prompt: list[int], settings: dict[str, Any], adapter: Adapter | None) -> int:
        """Take a request; what is wrong with its settings is a ``ConfigError``."""
        weights: Any = dict(adapter) if isinstance(adapter, tuple) else adapter
        return self._engine.add(prompt, json.dumps(settings), add_special_tokens=False, adapter=weights)

    def cancel(self, number: int) -> None:
        """Let a request leave at the next step."""
        self._engine.cancel(number)

    def step(self) -> list[tuple[int, Event]]:
        """Compute one step."""
        return [_read(values) for values in json.loads(self._engine.step())]

    def count_cached_bytes(self) -> int:
        """Return the size of the states of earlier prompts."""
        return self._engine.prompt_cache_bytes

    def close(self) -> None:
        """Finish what is still being written to files."""
        self._engine.close()


def _read(values: dict[str, Any]) -> tuple[int, Event]:
    event = Event(
        text=values["text"],
        tokens=values["tokens"],
        logprobs=_read_logprobs(values["logprobs"]),
        prompt_logprobs=_read_logprobs(values["prompt_logprobs"]),
        finish_reason=values["finish_reason"],
        error=values["error"],
        prompt_tokens=values["prompt_tokens"],
        cached_tokens=values["cached_tokens"],
        generated_tokens=values["generated_tokens"],
    )
    return values["id"], event


def _read_logprobs(given: list[dict[str, Any]]) -> list[TokenLogprob]:
    return [
        TokenLogprob(
            id=one["id"],
            logprob=_finite(one["logprob"]),
            top=[(token, _finite(logprob)) for token, logprob in one["top"]],
        )
        for one in given
    ]


def _finite(logprob: float | None) -> float:
    # The engine writes infinity as null.
    return LOWEST if logprob is None else max(logprob, LOWEST)


def create_backend(
    model: "Model", tokenizer: "Tokenizer", config: ServeConfig, draft: "Model | None" = None
) -> Backend:
    """Create what generates with a model, and with a small one that proposes tokens."""
    return EngineBackend(model, tokenizer, config, draft)
