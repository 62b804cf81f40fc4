"""Loading models."""

import os
from typing import TYPE_CHECKING

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL

if TYPE_CHECKING:
    from efficientai_toolkit._core import Model, Tokenizer


def load(
    path_or_id: str | os.PathLike[str] | None = None,
    adapter_path: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    *,
    bits: int | None = None,
    group_size: int = 64,
    show_progress: bool = True,
) -> "tuple[Model, Tokenizer]":
    """Load a model and its tokenizer.

    Parameters
    ----------
    path_or_id
        A folder in Hugging Face format or a hub id ``org/name[@revision]``; ``None`` loads
        the small model inside this package.
    adapter_path
        A folder or hub id with LoRA adapters to put on the model, in mlx-lm's or PEFT's format. More can be
        added with ``model.load_adapter(path, name)`` and exchanged or blended with ``model.set_adapter``.
    dtype
        ``float32``, ``float16`` or ``bfloat16``; ``None`` takes float32 on a CPU and the
        checkpoint's own on a GPU.
    bits
        Quantize matrices to 2, 3, 4, 5, 6 or 8 bits per weight; ``None`` leaves them as they are on disk.
        A checkpoint that MLX quantized stays quantized.
    group_size
        Weights that share a scale: 32, 64 or 128.
    show_progress
        Show a bar while a hub id is downloaded.

    Returns
    -------
    model, tokenizer
        ``model(ids)`` takes an int array ``[batch, time]`` and gives float32 logits
        ``[batch, time, vocab]``.

    Raises
    ------
    ConfigError
        There is no such format.
    ModelLoadingError
        A file is missing, broken or of an unknown kind.
    """
    from efficientai_toolkit._engine.core import core

    folder = MODEL if path_or_id is None else hub.resolve(path_or_id, show_progress=show_progress)
    adapter = None if adapter_path is None else hub.resolve(adapter_path, show_progress=show_progress)
    return core.load(str(folder), None if adapter is None else str(adapter), dtype, bits, group_size)
