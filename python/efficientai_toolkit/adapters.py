"""Adapters on disk: merged into their model, or written in another format."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseResult:
    """How close a merged model is; differences are root mean squares over the logits of a few texts."""

    output: Path
    """Folder of the merged model."""
    layers: int
    """Layers that were merged."""
    quantized: bool
    """Whether matrices of the result are quantized."""
    dtype: str
    """Number format of the result, beside quantized matrices."""
    effect: float
    """Difference that the adapter makes to the model."""
    error: float
    """Difference between the merged model and the model with the adapter."""
    kept: float
    """Share of ``effect`` that the merged model has."""


def fuse(
    model_path: str | os.PathLike[str] | None,
    adapter_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dequantize: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> FuseResult:
    """Merge an adapter into its model: ``W + scale * (A @ B).T``, summed in float32.

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id; ``None`` is the embedded model.
    adapter_path
        Folder or hub id of LoRA adapters, in mlx-lm's or PEFT's format.
    output
        Folder of the result, in the number format of the model.
    dequantize
        Make all matrices dense. By default quantized ones are quantized again in the same way.
    overwrite
        Replace a model in ``output``.
    show_progress
        Show a bar while a hub id is downloaded.

    Returns
    -------
    FuseResult

    Raises
    ------
    ModelLoadingError
        A file is broken, or the adapter does not fit the model.
    TrainingError
        Rounding to the model's number format would lose the adapter, or ``output`` holds a model. Nothing was
        written.
    """
    from efficientai_toolkit._engine.core import core

    model = MODEL if model_path is None else hub.resolve(model_path, show_progress=show_progress)
    adapter = hub.resolve(adapter_path, show_progress=show_progress)
    folder = Path(output).expanduser()
    report = core.fuse_adapter(str(model), str(adapter), str(folder), dequantize, overwrite)
    return FuseResult(output=folder, **json.loads(report))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertResult:
    """What a conversion did."""

    output: Path
    """Folder of the adapter."""
    source: str
    """Format found: ``mlx`` or ``peft``."""
    adapter_format: str
    """Format written."""
    layers: int
    """Layers with an adapter."""


def convert_adapter(
    adapter_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    adapter_format: Literal["mlx", "peft"] | None = None,
    model_path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ConvertResult:
    """Write an adapter in the other format; numbers keep theirs.

    mlx-lm knows one rank and one scale per adapter: where PEFT's layers differ, smaller matrices are filled
    up with zeros, and the difference in scale goes into ``B``.

    Parameters
    ----------
    adapter_path
        Folder or hub id of LoRA adapters.
    output
        Folder of the result.
    adapter_format
        ``mlx`` or ``peft``; ``None`` takes the one that the adapter is not in.
    model_path
        Folder or hub id of its model. Optional, but for experts, whose names only the model tells.
    overwrite
        Replace an adapter in ``output``.
    show_progress
        Show a bar while a hub id is downloaded.

    Returns
    -------
    ConvertResult

    Raises
    ------
    ConfigError
        The model is needed, or there is no such format.
    ModelLoadingError
        A file is broken, or the adapter does not fit the model or is more than low-rank matrices.
    TrainingError
        ``output`` holds an adapter.
    """
    from efficientai_toolkit._engine.core import core

    adapter = hub.resolve(adapter_path, show_progress=show_progress)
    model = None if model_path is None else str(hub.resolve(model_path, show_progress=show_progress))
    folder = Path(output).expanduser()
    report = json.loads(core.convert_adapter(str(adapter), str(folder), adapter_format, model, overwrite))
    return ConvertResult(
        output=folder, source=report["from"], adapter_format=report["to"], layers=report["layers"]
    )
