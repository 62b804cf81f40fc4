"""Loading of image–text models."""

import os
from typing import Literal

from efficientai_toolkit import hub
from efficientai_toolkit.clip.model import ClipModel
from efficientai_toolkit.clip.processor import ClipProcessor


def load(
    path_or_id: str | os.PathLike[str],
    adapter_path: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    image_size: int | None = None,
    interpolation: Literal["huggingface", "open_clip"] = "huggingface",
    show_progress: bool = True,
) -> tuple[ClipModel, ClipProcessor]:
    """Load a CLIP or SigLIP model with its processor.

    Parameters
    ----------
    path_or_id
        Folder in the format of Hugging Face or open_clip, or hub id ``org/name[@revision]``. SigLIP 2 at a
        fixed resolution is one of them. Weights that MLX quantized stay so.
    adapter_path
        Folder or hub id of a low-rank adapter to apply, in PEFT's or mlx-lm's format.
    dtype
        Data type ``float32``, ``float16`` or ``bfloat16``, or ``auto`` for that of the checkpoint; by default
        float32 on a CPU and that of the checkpoint on a GPU.
    image_size
        Side of images in pixels; by default that of the checkpoint. For another one the position embeddings
        are interpolated.
    interpolation
        Whose interpolation: ``huggingface`` or ``open_clip``, which is antialiased.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    model, processor

    Raises
    ------
    ConfigError
        If ``dtype``, ``image_size`` or ``interpolation`` is invalid.
    ModelLoadingError
        If a file is missing, corrupt or of an unsupported type.
    """
    from efficientai_toolkit._engine.core import core

    folder = hub.resolve(path_or_id, kind=hub.IMAGE_TEXT_MODEL, show_progress=show_progress)
    adapter = None if adapter_path is None else str(hub.resolve(adapter_path, show_progress=show_progress))
    model, processor = core.clip.load(str(folder), dtype, image_size, interpolation, adapter)
    return ClipModel(model, processor), ClipProcessor(processor)
