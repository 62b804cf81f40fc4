"""Answering prompts through the runtime of an exported model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.stopping import TextStream
from efficientai_toolkit.models.chat import Messages, render_messages
from efficientai_toolkit.models.generation import GenerateConfig, Prompt

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from efficientai_toolkit._core.models import Tokenizer

_OF_THE_ENGINE = ("accuracy", "kv_bits", "logprobs", "prompt_logprobs", "response_format")
"""Settings of generation that no other runtime has."""


class TextSession(ABC):
    """A model that was exported, and its tokenizer."""

    runtime: ClassVar[str]
    """Name of what runs it."""
    path: Path
    """The folder."""
    tokenizer: "Tokenizer"
    context_length: int
    """Most tokens of a text."""
    vocab_size: int

    @abstractmethod
    def reader(self, limit: int) -> "Callable[[list[int]], NDArray[np.float32]]":
        """Return a function of all tokens so far, at most ``limit``, that returns the logits of the last."""

    def generate(
        self,
        prompt: Prompt,
        *,
        config: GenerateConfig | None = None,
        stream: Callable[[str], object] | None = None,
        **overrides: Any,
    ) -> str:
        """Continue a text, or answer in a conversation, as :func:`efficientai_toolkit.generate` does.

        Parameters
        ----------
        prompt
            Text, token ids or messages.
        config
            Sampling parameters; greedy decoding by default.
        stream
            Called with each piece of text as soon as it is final.
        **overrides
            Fields of :class:`~efficientai_toolkit.GenerateConfig` that override ``config``.

        Raises
        ------
        ConfigError
            If a setting is invalid or only the engine has it, or the prompt is too long.
        """
        pieces: list[str] = []
        for piece in self.stream(prompt, config=config, **overrides):
            pieces.append(piece)
            if stream is not None:
                stream(piece)
        return "".join(pieces)

    def stream(
        self, prompt: Prompt, *, config: GenerateConfig | None = None, **overrides: Any
    ) -> Iterator[str]:
        """Iterate over the text that :meth:`generate` returns."""
        settings = (config or GenerateConfig()).with_values(overrides)
        defaults = GenerateConfig()
        for name in _OF_THE_ENGINE:
            if getattr(settings, name) != getattr(defaults, name):
                message = f"{self.runtime} has no `{name}`: leave it out, or generate with the model itself"
                raise ConfigError(message)
        text = TextStream(self.tokenizer, settings)
        for token in self._tokens(self._encode(prompt), settings):
            piece = text.add(token)
            if piece:
                yield piece
            if text.stopped:
                return
        rest = text.finish()
        if rest:
            yield rest

    def check_ids(self, ids: "ArrayLike") -> "NDArray[np.int64]":
        """Return ids as an array.

        Raises
        ------
        ConfigError
            If they are not integers ``[batch, time]`` of the vocabulary, or too many.
        """
        rows = np.asarray(ids)
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "iu":  # noqa: PLR2004
            message = (
                f"ids are {rows.dtype} {rows.shape}, expected integers [batch, time], at least one token"
            )
            raise ConfigError(message)
        if rows.min() < 0 or rows.max() >= self.vocab_size:
            message = f"ids hold {rows.min()} to {rows.max()}, expected 0 to {self.vocab_size - 1}"
            raise ConfigError(message)
        if rows.shape[1] > self.context_length:
            message = (
                f"{rows.shape[1]} tokens are more than the {self.context_length} that the model has room for"
            )
            raise ConfigError(message)
        return rows.astype(np.int64)

    def _tokens(self, prompt: list[int], settings: GenerateConfig) -> Iterator[int]:
        """Choose tokens one after the other, until one ends the text."""
        from efficientai_toolkit._engine.core import core

        sampler = core.generate.Sampler(settings.to_json())
        limit = min(settings.max_tokens, self.context_length - len(prompt))
        ends = () if settings.ignore_eos else self.tokenizer.eos_token_ids
        tokens = list(prompt)
        read = self.reader(len(prompt) + limit)
        for _ in range(limit):
            token = sampler.sample(read(tokens), tokens, len(prompt))
            if token in ends:
                return
            tokens.append(token)
            yield token

    def _encode(self, prompt: Prompt) -> list[int]:
        ids: Sequence[int]
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
            # A completion follows.
            while len(ids) > 1 and ids[-1] in self.tokenizer.eos_token_ids:
                ids = ids[:-1]
        elif any(isinstance(part, Mapping) for part in prompt):
            text = render_messages(self.tokenizer, cast("Messages", prompt))
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        else:
            ids = [int(cast("int", part)) for part in prompt]
        return [int(each) for each in self.check_ids(np.array([ids]))[0]]
