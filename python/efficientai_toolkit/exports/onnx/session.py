"""Answering prompts through onnxruntime."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.onnx import genai
from efficientai_toolkit.exports.onnx.runner import Cache, Runner
from efficientai_toolkit.exports.onnx.stopping import TextStream
from efficientai_toolkit.models.chat import Messages, render_messages
from efficientai_toolkit.models.generation import GenerateConfig, Prompt

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_OF_THE_ENGINE = ("accuracy", "kv_bits", "logprobs", "prompt_logprobs", "response_format")
"""Settings of generation that onnxruntime does not have."""

_PIECE = 512
"""Tokens of a prompt that are read at once."""


class Session:
    """A model that was exported to ONNX, run by onnxruntime.

    >>> session = Session("model-onnx")  # doctest: +SKIP
    >>> session.generate([{"role": "user", "content": "Hello!"}], max_tokens=64)  # doctest: +SKIP

    Parameters
    ----------
    folder
        Folder that ``export(…, format="onnx")`` wrote.
    providers
        Execution providers of onnxruntime, in the order of preference.
    threads
        Threads of each operator; by default one for each physical core.
    session_options
        Further entries of onnxruntime's configuration, such as ``{"session.intra_op.allow_spinning": "0"}``.
    chat_template_kwargs
        Options of the chat template.

    Raises
    ------
    DependencyError
        If onnxruntime is missing.
    ModelLoadingError
        If a file is missing or damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int | None = None,
        session_options: Mapping[str, str] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        from efficientai_toolkit._engine.core import core

        self.path = Path(folder).expanduser()
        name, self.context_length, self.vocab_size = genai.read_sizes(self.path)
        self._runner = Runner(
            self.path / name, providers=providers, threads=threads, entries=session_options or {}
        )
        self.providers = self._runner.providers
        options = None if chat_template_kwargs is None else dict(chat_template_kwargs)
        self.tokenizer = core.models.load_tokenizer(str(self.path), options)

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r}, providers={self.providers})"

    def logits(self, ids: "ArrayLike", attention_mask: "ArrayLike | None" = None) -> "NDArray[np.float32]":
        """Return the logits of token ids, ``[batch, time]`` → ``[batch, time, vocab]``.

        Shorter rows are filled up at their end, where ``attention_mask`` is 0.
        """
        rows = self._check(ids)
        mask = None if attention_mask is None else np.asarray(attention_mask, np.int64)
        return self._runner.run(rows, self._runner.new_cache(*rows.shape), mask=mask)

    def logits_in_pieces(self, ids: "ArrayLike", sizes: Sequence[int]) -> "NDArray[np.float32]":
        """As :meth:`logits`, for one row that is read in pieces of these sizes, with a cache between them."""
        rows = self._check(np.asarray(ids)[None])
        cache = self._runner.new_cache(1, rows.shape[1])
        ends = np.cumsum([0, *sizes])
        pieces = [
            self._runner.run(rows[:, start:end], cache)
            for start, end in pairwise(ends)
            if start < rows.shape[1]
        ]
        return np.concatenate(pieces, axis=1)

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
                message = f"onnxruntime has no `{name}`: leave it out, or generate with the model itself"
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

    def _tokens(self, prompt: list[int], settings: GenerateConfig) -> Iterator[int]:
        """Choose tokens one after the other, until one ends the text."""
        from efficientai_toolkit._engine.core import core

        sampler = core.generate.Sampler(settings.to_json())
        limit = min(settings.max_tokens, self.context_length - len(prompt))
        ends = () if settings.ignore_eos else self.tokenizer.eos_token_ids
        tokens = list(prompt)
        cache = self._runner.new_cache(1, len(prompt) + limit)
        for _ in range(limit):
            token = sampler.sample(self._read(tokens, cache), tokens, len(prompt))
            if token in ends:
                return
            tokens.append(token)
            yield token

    def _read(self, tokens: list[int], cache: Cache) -> "NDArray[np.float32]":
        """Read the tokens that ``cache`` does not hold, and return the logits of the last."""
        while True:
            ids = np.array([tokens[cache.length : cache.length + _PIECE]], np.int64)
            logits = self._runner.run(ids, cache, first=-1)
            if cache.length == len(tokens):
                last: NDArray[np.float32] = logits[0, -1]
                return last

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
        return [int(each) for each in self._check(np.array([ids]))[0]]

    def _check(self, ids: "ArrayLike") -> "NDArray[np.int64]":
        """Return ids as onnxruntime takes them.

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
