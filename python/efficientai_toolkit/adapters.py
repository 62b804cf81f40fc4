"""Merging adapters into models and converting between adapter formats."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.display import Displayed


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FuseResult(Displayed):
    """Result of :func:`fuse`. Differences are root mean squares over the logits of a few texts."""

    output: Path
    """Folder of the merged model."""
    layers: int
    """Number of merged layers."""
    quantized: bool
    """Whether weights of the merged model are quantized."""
    dtype: str
    """Data type of the weights that are not quantized."""
    effect: float
    """Difference between the model with and without the adapter."""
    error: float
    """Difference between the merged model and the model with the adapter."""
    kept: float
    """Fraction of ``effect`` that the merged model retains."""


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
        Folder in Hugging Face format or hub id; ``None`` for the bundled model.
    adapter_path
        Folder or hub id of LoRA adapters in mlx-lm or PEFT format.
    output
        Output folder. The merged model keeps the data type of the model.
    dequantize
        Dequantize all weights. By default quantized weights are quantized again with the same settings.
    overwrite
        Replace an existing model in ``output``.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    FuseResult

    Raises
    ------
    ModelLoadingError
        If a file is corrupt or the adapter does not match the model.
    TrainingError
        If rounding to the model's data type would lose the adapter, or ``output`` contains a model. Nothing
        is written.
    """
    from efficientai_toolkit._engine.core import core

    model = MODEL if model_path is None else hub.resolve(model_path, show_progress=show_progress)
    adapter = hub.resolve(adapter_path, show_progress=show_progress)
    folder = Path(output).expanduser()
    report = core.adapters.fuse(str(model), str(adapter), str(folder), dequantize, overwrite)
    return FuseResult(output=folder, **json.loads(report))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ConvertResult(Displayed):
    """Result of :func:`convert_adapter`."""

    output: Path
    """Folder of the adapter."""
    source: str
    """Format of the input: ``mlx`` or ``peft``."""
    adapter_format: str
    """Format of the output."""
    layers: int
    """Number of layers with an adapter."""


def convert_adapter(
    adapter_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    adapter_format: Literal["mlx", "peft"] | None = None,
    model_path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ConvertResult:
    """Convert an adapter between the formats of mlx-lm and PEFT; data types are preserved.

    mlx-lm supports a single rank and scale per adapter. If the layers of a PEFT adapter differ, smaller
    matrices are padded with zeros, and the difference in scale is multiplied into ``B``.

    Parameters
    ----------
    adapter_path
        Folder or hub id of LoRA adapters.
    output
        Output folder.
    adapter_format
        Target format, ``mlx`` or ``peft``; by default the one that differs from the input.
    model_path
        Folder or hub id of the base model. Required only for adapters of mixture-of-experts layers.
    overwrite
        Replace an existing adapter in ``output``.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    ConvertResult

    Raises
    ------
    ConfigError
        If the base model is required or the format is unknown.
    ModelLoadingError
        If a file is corrupt, the adapter does not match the model, or it is not a plain LoRA adapter.
    TrainingError
        If ``output`` contains an adapter.
    """
    from efficientai_toolkit._engine.core import core

    adapter = hub.resolve(adapter_path, show_progress=show_progress)
    model = None if model_path is None else str(hub.resolve(model_path, show_progress=show_progress))
    folder = Path(output).expanduser()
    report = json.loads(core.adapters.convert(str(adapter), str(folder), adapter_format, model, overwrite))
    return ConvertResult(
        output=folder, source=report["from"], adapter_format=report["to"], layers=report["layers"]
    )
