"""Answering prompts through onnxruntime."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from efficientai_toolkit.exports.onnx import genai
from efficientai_toolkit.exports.onnx.runner import Cache, Runner
from efficientai_toolkit.exports.session import TextSession

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_PIECE = 512
"""Tokens of a prompt that are read at once."""


class Session(TextSession):
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

    runtime: ClassVar[str] = "onnxruntime"

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
        rows = self.check_ids(ids)
        mask = None if attention_mask is None else np.asarray(attention_mask, np.int64)
        return self._runner.run(rows, self._runner.new_cache(*rows.shape), mask=mask)

    def logits_in_pieces(self, ids: "ArrayLike", sizes: Sequence[int]) -> "NDArray[np.float32]":
        """As :meth:`logits`, for one row that is read in pieces of these sizes, with a cache between them."""
        rows = self.check_ids(np.asarray(ids)[None])
        cache = self._runner.new_cache(1, rows.shape[1])
        ends = np.cumsum([0, *sizes])
        pieces = [
            self._runner.run(rows[:, start:end], cache)
            for start, end in pairwise(ends)
            if start < rows.shape[1]
        ]
        return np.concatenate(pieces, axis=1)

    def reader(self, limit: int) -> "Callable[[list[int]], NDArray[np.float32]]":
        """Return a function of all tokens so far, at most ``limit``, that returns the logits of the last."""
        cache = self._runner.new_cache(1, limit)
        return lambda tokens: self._read(tokens, cache)

    def _read(self, tokens: list[int], cache: Cache) -> "NDArray[np.float32]":
        """Read the tokens that ``cache`` does not hold, and return the logits of the last."""
        while True:
            ids = np.array([tokens[cache.length : cache.length + _PIECE]], np.int64)
            logits = self._runner.run(ids, cache, first=-1)
            if cache.length == len(tokens):
                last: NDArray[np.float32] = logits[0, -1]
                return last
