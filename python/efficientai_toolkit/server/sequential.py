"""One request after the other, on the engine's function that generates a whole text.

Requests for what that function does not have, such as log-probabilities, are sampled here from the logits of
the whole text so far.
"""

import json
import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.generation import GenerateConfig

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

_OWN = (
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "ignore_eos",
    "skip_special_tokens",
)
"""Settings that are computed here."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _CancelledError(Exception):
    """Ends a generation."""


class SequentialBackend:
    """A backend that computes one request at a time.

    Parameters
    ----------
    model, tokenizer
        What generates.
    """

    def __init__(self, model: "Model", tokenizer: "Tokenizer") -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._waiting: deque[tuple[int, list[int], dict[str, Any]]] = deque()
        self._cancelled: set[int] = set()
        self._current: tuple[int, Iterator[dict[str, Any]]] | None = None
        self._number = 0

    def add(self, prompt: list[int] | str, request: str, add_special_tokens: bool = True) -> int:  # noqa: FBT001, FBT002
        """Check a request and queue it."""
        settings = json.loads(request)
        if settings.pop("response_format", None) is not None:
            message = "this engine cannot constrain what a model writes: leave `response_format` out"
            raise ConfigError(message)
        GenerateConfig().with_values({key: value for key, value in settings.items() if key not in _OWN})
        ids = self._tokenizer.encode(prompt, add_special_tokens) if isinstance(prompt, str) else prompt
        if not ids or max(ids) >= int(self._model.config["vocab_size"]):
            message = "the prompt needs token ids of the vocabulary"
            raise ConfigError(message)
        self._number += 1
        self._waiting.append((self._number, ids, settings))
        return self._number

    def cancel(self, number: int) -> None:
        """Let a request leave at the next step."""
        self._cancelled.add(number)

    def step(self) -> str:
        """Return the next events of the oldest request."""
        self._waiting = deque(item for item in self._waiting if item[0] not in self._cancelled)
        if self._current is not None and self._current[0] in self._cancelled:
            self._current[1].close()  # type: ignore[attr-defined]  # a generator
            self._current = None
        self._cancelled.clear()
        if self._current is None and self._waiting:
            number, ids, settings = self._waiting.popleft()
            own = {key: settings.pop(key) for key in _OWN if settings.get(key) is not None}
            skips = own.pop("skip_special_tokens", True)
            work = (
                self._sample(ids, settings, own, skips=skips)
                if own or not skips
                else self._generate(ids, settings)
            )
            self._current = (number, work)
        if self._current is None:
            return "[]"
        number, events = self._current
        event = next(events)
        if event["finish_reason"] is not None:
            self._current = None
        return json.dumps([{"id": number, **event}])

    def _generate(self, ids: list[int], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Generate in a thread of its own, which hands over each piece of text."""
        from efficientai_toolkit._engine.core import core

        pieces: queue.Queue[str | dict[str, Any] | Exception] = queue.Queue()
        is_cancelled = threading.Event()

        def tell(piece: str) -> None:
            if is_cancelled.is_set():
                raise _CancelledError
            pieces.put(piece)

        def work() -> None:
            try:
                report = core.generate.generate(self._model, self._tokenizer, ids, json.dumps(settings), tell)
                pieces.put(json.loads(report))
            except Exception as error:  # noqa: BLE001 (raised where it is waited for)
                pieces.put(error)

        thread = threading.Thread(target=work, name="generate", daemon=True)
        thread.start()
        count = 0
        try:
            while isinstance(piece := pieces.get(), str):
                count += 1
                yield _event(ids, piece, count)
        finally:
            is_cancelled.set()
            thread.join()
        if isinstance(piece, Exception):
            raise piece
        yield _event(ids, "", piece["generated_tokens"], reason=piece["finish_reason"])

    def _sample(
        self, ids: list[int], settings: dict[str, Any], own: dict[str, Any], *, skips: bool
    ) -> Iterator[dict[str, Any]]:
        """Generate token by token."""
        config = GenerateConfig().with_values(settings)
        rng = np.random.default_rng(config.seed)
        text = ""
        new: list[int] = []
        while True:
            raw = np.asarray(self._model(np.array([[*ids, *new]])))[0, -1].astype(np.float64)
            token = _choose(_penalize(raw, ids, new, config, own), config, rng)
            new.append(token)
            logprobs = [] if own.get("logprobs") is None else [describe_token(raw, token, own["logprobs"])]
            is_end = token in self._tokenizer.eos_token_ids and not own.get("ignore_eos")
            whole = self._tokenizer.decode(new[:-1] if is_end else new, skip_special_tokens=skips)
            stop = min((at for each in config.stop if (at := whole.find(each)) >= 0), default=None)
            reason = (
                "stop" if is_end or stop is not None else "length" if len(new) >= config.max_tokens else None
            )
            final = whole[:stop]
            if reason is None:
                final = _settled(final, config.stop)
            event = _event(ids, final[len(text) :], len(new), reason=reason)
            text = final
            yield {**event, "tokens": [token], "logprobs": logprobs}
            if reason is not None:
                return


def _event(ids: list[int], text: str, count: int, *, reason: str | None = None) -> dict[str, Any]:
    return {
        "text": text,
        "tokens": [],
        "logprobs": [],
        "finish_reason": reason,
        "error": None,
        "prompt_tokens": len(ids),
        "cached_tokens": 0,
        "generated_tokens": count,
    }


def _settled(text: str, stops: list[str]) -> str:
    """Return the text that no later token changes: whole characters, no beginning of a stop string."""
    text = text.rstrip(_REPLACEMENT)
    held = max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
        default=0,
    )
    return text[: len(text) - held]


def _penalize(
    logits: NDArray[np.float64], ids: list[int], new: list[int], config: GenerateConfig, own: dict[str, Any]
) -> NDArray[np.float64]:
    logits = logits.copy()
    biases: dict[str, float] = own.get("logit_bias") or {}
    for key, bias in biases.items():
        logits[int(key)] += bias
    for token in set(new):
        logits[token] -= own.get("presence_penalty") or 0.0
        logits[token] -= (own.get("frequency_penalty") or 0.0) * new.count(token)
    if config.repetition_context:
        for token in set([*ids, *new][-config.repetition_context :]):
            factor = config.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    return logits


def _choose(logits: NDArray[np.float64], config: GenerateConfig, rng: np.random.Generator) -> int:
    if config.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits)
    scaled = np.exp((logits[order] - logits[order[0]]) / config.temperature)
    probabilities = scaled / scaled.sum()
    kept = np.cumsum(probabilities) - probabilities < config.top_p
    kept &= probabilities >= config.min_p * probabilities[0]
    if config.top_k:
        kept[config.top_k :] = False
    probabilities = np.where(kept, probabilities, 0)
    return int(rng.choice(order, p=probabilities / probabilities.sum()))


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return natural logarithms of probabilities; ``logits`` and result: ``[…, vocab]``."""
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logprobs


def describe_token(logits: NDArray[np.float64], token: int, count: int) -> dict[str, Any]:
    """Return the log-probability of a token and of the ``count`` likeliest; ``logits``: ``[vocab]``."""
    logprobs = log_softmax(logits)
    best = np.argsort(-logprobs, kind="stable")[:count]
    return {
        "id": token,
        "logprob": float(logprobs[token]),
        "top": [[int(each), float(logprobs[each])] for each in best],
    }
