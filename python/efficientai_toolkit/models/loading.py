"""Loading of models."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


def load(
    path_or_id: str | os.PathLike[str] | None = None,
    adapter_path: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    *,
    bits: int | None = None,
    group_size: int = 64,
    sparse: Literal["auto", "never"] = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> "tuple[Model, Tokenizer]":
    """Load a model and its tokenizer.

    Parameters
    ----------
    path_or_id
        Folder in Hugging Face format, GGUF file, or hub id ``org/name[@revision]``; ``None`` for the small
        bundled model.
    adapter_path
        Folder or hub id of LoRA adapters to apply, in mlx-lm or PEFT format. Further adapters can be loaded
        with ``model.load_adapter(path, name)`` and activated or combined with ``model.set_adapter``.
    dtype
        Data type ``float32``, ``float16`` or ``bfloat16``, or ``auto`` for that of the checkpoint; by default
        float32 on a CPU and that of the checkpoint on a GPU.
    bits
        Quantize weights to 2, 3, 4, 5, 6 or 8 bits; by default they keep the format of the checkpoint.
        Matrices that are quantized in a format of MLX stay so.
    group_size
        Quantization group size: 32, 64 or 128.
    sparse
        Hold layers without their zeros where this speeds up decoding on this CPU (``auto``, see
        ``model.sparse_layers``), or ``never``.
    chat_template_kwargs
        Options of the chat template for all conversations, such as ``{"enable_thinking": False}``.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    model, tokenizer
        ``model(ids)`` maps an integer array ``[batch, time]`` to float32 logits ``[batch, time, vocab]``.

    Raises
    ------
    ConfigError
        If ``dtype``, ``bits``, ``group_size``, ``sparse`` or ``chat_template_kwargs`` is invalid.
    ModelLoadingError
        If a file is missing, corrupt or of an unsupported type.
    """
    from efficientai_toolkit._engine.core import core

    folder = MODEL if path_or_id is None else hub.resolve(path_or_id, show_progress=show_progress)
    adapter = None if adapter_path is None else hub.resolve(adapter_path, show_progress=show_progress)
    return core.models.load(
        str(folder),
        None if adapter is None else str(adapter),
        dtype,
        bits,
        group_size,
        None if chat_template_kwargs is None else dict(chat_template_kwargs),
        sparse,
    )
