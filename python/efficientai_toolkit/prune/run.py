"""Pruning a model folder."""

import os
from typing import Any

from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.prune.config import PruneConfig
from efficientai_toolkit.prune.result import PruneResult
from efficientai_toolkit.study.model_run import run_on_model


def prune(
    model_path: str | os.PathLike[str] | PruneConfig | None = None,
    *,
    callback: AnyCallback | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> PruneResult:
    """Prune a model and save it as a folder in Hugging Face format, like the original.

    >>> from efficientai_toolkit.prune import prune
    >>> result = prune("org/name", sparsity=0.5, calibration="data.jsonl", output="sparse")  # doctest: +SKIP

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`PruneConfig`.
    callback
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
        By default events are ignored.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`PruneConfig`: ``method``, ``sparsity``, ``pattern``, ``calibration``, ``output``, …

    Returns
    -------
    PruneResult

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, the calibration text or the model cannot be used; nothing is written.
    TrainingError
        If the output folder holds another run or cannot be written.
    """
    if isinstance(model_path, PruneConfig):
        config = model_path.with_values(settings)
    else:
        path = None if model_path is None else os.fspath(model_path)
        config = PruneConfig(model_path=path, **settings)
    config = config.with_defaults_filled()
    return run_on_model(
        config, "prune", PruneResult.from_report, callback=callback, show_progress=show_progress
    )
