"""Exporting models."""

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from efficientai_toolkit import hub
from efficientai_toolkit.callbacks.base import Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.config import ExportConfig
from efficientai_toolkit.exports.formats import FORMATS, Format
from efficientai_toolkit.exports.outputs import check_output, check_replaced
from efficientai_toolkit.exports.result import ExportResult
from efficientai_toolkit.exports.writer import Job, Writer

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


def export(
    model: "str | os.PathLike[str] | Model | ExportConfig | None" = None,
    *,
    tokenizer: "Tokenizer | None" = None,
    callback: Callback | Callable[[Event], object] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> ExportResult:
    """Write a model in the format of another program.

    >>> import efficientai_toolkit as eat
    >>> eat.export("org/name", format="gguf", type="q4_k_m", output="model.gguf")  # doctest: +SKIP

    Parameters
    ----------
    model
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, a whole
        :class:`ExportConfig`, or a loaded model, whose adapters in use are merged.
    tokenizer
        Tokenizer of a loaded model.
    callback
        Receives all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as ``ProgressBar()``, or
        a function. By default events are ignored.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`ExportConfig`: ``format``, ``type``, ``output``, ``adapter_path``,
        ``calibration``, ``verify``, …

    Returns
    -------
    ExportResult

    Raises
    ------
    ConfigError
        If a setting is invalid, or the format cannot express the model.
    DatasetError, ModelLoadingError
        If the calibration text or the model cannot be read.
    DeploymentError
        If the output exists, or holds what is exported. After any error, nothing is left behind.
    """
    begin = time.perf_counter()
    given = None
    if isinstance(model, ExportConfig):
        config = model.with_values(settings)
    elif model is None or isinstance(model, str | os.PathLike):
        path = None if model is None else os.fspath(model)
        config = ExportConfig(model_path=path, **settings)
    else:
        given = _pair(model, tokenizer)
        config = ExportConfig(model_path=str(model.path), **settings)
    config = config.with_defaults_filled()
    output = Path(str(config.output))
    chosen = FORMATS[config.format]
    check_output(output, chosen, overwrite=config.overwrite)
    receiver = as_callback(callback)

    def observe(text: str) -> None:
        receiver.on(parse_event(text))

    try:
        source = hub.resolve(str(config.model_path), show_progress=show_progress)
        adapter = config.adapter_path and hub.resolve(config.adapter_path, show_progress=show_progress)
        check_replaced(output, source, *([Path(adapter)] if adapter else []))
        job = Job(
            config=config,
            source=source,
            adapter=adapter or None,
            output=output,
            observe=observe,
            given=given,
        )
        writer = _find_writer(chosen)(job)
        writer.check()
        written = writer.write()
        verified = writer.verify() if config.verify == "on" else None
    finally:
        receiver.close()
    return ExportResult(
        path=output,
        format=config.format,
        type=str(config.type),
        types=written.types,
        size_before=_measure(source if config.merge_adapter or adapter is None else Path(adapter)),
        size_after=_measure(output),
        exact=None if verified is None else verified.largest_difference == 0,
        largest_difference=None if verified is None else verified.largest_difference,
        compared=None if verified is None else verified.compared,
        seconds=time.perf_counter() - begin,
        notes=written.notes,
    )


def _pair(model: "Model", tokenizer: "Tokenizer | None") -> "tuple[Model, Tokenizer]":
    if tokenizer is None:
        message = "a loaded model is exported with its tokenizer: give `tokenizer` too"
        raise ConfigError(message)
    return model, tokenizer


def _find_writer(chosen: Format) -> type[Writer]:
    module, _, name = chosen.module.partition(":")
    return cast("type[Writer]", getattr(import_module(f"{__package__}.{module}"), name))


def _measure(path: Path) -> int:
    """Return the size of a file, or of the weights in a folder, in bytes."""
    if path.is_file():
        return path.stat().st_size
    found = list(path.glob("*.safetensors"))
    files = found or [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
