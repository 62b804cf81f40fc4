"""Quantizing a model folder."""

import os
from collections.abc import Callable
from typing import Any

from efficientai_toolkit.callbacks.base import Callback
from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.quantize.config import QuantizeConfig
from efficientai_toolkit.quantize.result import QuantizeResult
from efficientai_toolkit.study.model_run import run_on_model


def quantize(
    model_path: str | os.PathLike[str] | QuantizeConfig | None = None,
    *,
    callback: Callback | Callable[[Event], object] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> QuantizeResult:
    """Quantize a model and save it in MLX's format, which :func:`efficientai_toolkit.load` and mlx-lm read.

    >>> from efficientai_toolkit.quantize import quantize
    >>> result = quantize("org/name", bits=4, calibration="data.jsonl", output="model-4bit")  # doctest: +SKIP

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`QuantizeConfig`.
    callback
        Receives all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as ``ProgressBar()``, or
        a function. By default events are ignored.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`QuantizeConfig`: ``technique``, ``bits``, ``group_size``, ``calibration``,
        ``output``, …

    Returns
    -------
    QuantizeResult

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, the calibration text or the model cannot be used; nothing is written.
    TrainingError
        If the output folder holds another run or cannot be written.
    """
    if isinstance(model_path, QuantizeConfig):
        config = model_path.with_values(settings)
    else:
        path = None if model_path is None else os.fspath(model_path)
        config = QuantizeConfig(model_path=path, **settings)
    config = config.with_defaults_filled()
    return QuantizeResult.from_report(run_on_model(config, "quantize", callback, show_progress=show_progress))
