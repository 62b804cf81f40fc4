"""Quantizing a model folder."""

import os
from typing import Any

from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.quantize.config import QuantizeConfig
from efficientai_toolkit.quantize.result import QuantizeResult
from efficientai_toolkit.study.model_run import run_on_model


def quantize(
    model_path: str | os.PathLike[str] | QuantizeConfig | None = None,
    *,
    callback: AnyCallback | None = None,
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
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
        By default events are ignored.
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
    return run_on_model(
        config, "quantize", QuantizeResult.from_report, callback=callback, show_progress=show_progress
    )
