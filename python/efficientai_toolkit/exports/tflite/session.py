"""Answering prompts through LiteRT."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.exports.session import TextSession
from efficientai_toolkit.exports.tflite.decoder import IDS, LOGITS
from efficientai_toolkit.exports.tflite.graph import SIGNATURE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MODEL_FILE = "model.tflite"


class Session(TextSession):
    """A model that was exported to LiteRT, run by its interpreter.

    Each token takes as long as the whole text, of which nothing is remembered.

    >>> session = Session("model-tflite")  # doctest: +SKIP
    >>> session.generate([{"role": "user", "content": "Hello!"}], max_tokens=64)  # doctest: +SKIP

    Parameters
    ----------
    folder
        Folder that ``export(…, format="tflite")`` wrote.
    threads
        Threads of each operator; by default as many as LiteRT chooses.
    chat_template_kwargs
        Options of the chat template.

    Raises
    ------
    DependencyError
        If LiteRT is missing.
    ModelLoadingError
        If a file is missing or damaged.
    """

    runtime: ClassVar[str] = "LiteRT"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        from efficientai_toolkit._engine.core import core

        self.path = Path(folder).expanduser()
        self._runner, logits = _load(self.path / MODEL_FILE, threads)
        _, self.context_length, self.vocab_size = logits
        options = None if chat_template_kwargs is None else dict(chat_template_kwargs)
        self.tokenizer = core.models.load_tokenizer(str(self.path), options)

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r}, context_length={self.context_length})"

    def logits(self, ids: "ArrayLike") -> "NDArray[np.float32]":
        """Return the logits of token ids, ``[batch, time]`` → ``[batch, time, vocab]``."""
        rows = self.check_ids(ids).astype(np.int32)
        return np.stack([self._read(row) for row in rows])

    def reader(self, limit: int) -> "Callable[[list[int]], NDArray[np.float32]]":  # noqa: ARG002
        """Return a function of all tokens so far, at most ``limit``, that returns the logits of the last."""
        return lambda tokens: self._read(np.array(tokens, np.int32))[-1]

    def _read(self, row: "NDArray[np.int32]") -> "NDArray[np.float32]":
        """Return the logits of one text, ``[time, vocab]``."""
        filled = np.zeros((1, self.context_length), np.int32)
        filled[0, : len(row)] = row
        logits: NDArray[np.float32] = self._runner(**{IDS: filled})[LOGITS]
        return logits[0, : len(row)]


def _load(path: Path, threads: int | None) -> tuple[Any, tuple[int, int, int]]:
    """Return what runs a file, and the shape of its logits."""
    module = require("ai_edge_litert.interpreter", extra="tflite", purpose="running a LiteRT export")
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner(SIGNATURE)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
    except (OSError, RuntimeError, ValueError) as error:
        message = f"{path}: LiteRT cannot load it: {error}"
        raise ModelLoadingError(message) from error
    if (
        set(inputs) != {IDS}
        or set(outputs) != {LOGITS}
        or inputs[IDS]["dtype"] is not np.int32
        or tuple(inputs[IDS]["shape"]) != tuple(outputs[LOGITS]["shape"][:2])
        or len(outputs[LOGITS]["shape"]) != 3  # noqa: PLR2004
    ):
        message = f"{path}: it has {sorted(inputs)} and {sorted(outputs)}, no decoder that the export wrote"
        raise ModelLoadingError(message)
    batch, length, size = (int(each) for each in outputs[LOGITS]["shape"])
    return runner, (batch, length, size)
