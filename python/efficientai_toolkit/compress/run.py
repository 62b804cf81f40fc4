"""Compressing a model: pruning × recovery × quantization, within a budget."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import refuse_link, replace_file
from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.compress.candidates import Candidate
from efficientai_toolkit.compress.choice import Choice, choose
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.compress.measurement import CandidateRow
from efficientai_toolkit.compress.report import write_files
from efficientai_toolkit.compress.result import FOLDER, RESULTS, CompressResult
from efficientai_toolkit.compress.search import Search
from efficientai_toolkit.compress.timetable import Observer, Timetable
from efficientai_toolkit.compress.workshop import StageError, Workshop
from efficientai_toolkit.device import hardware
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import check_unused, describe_environment, release
from efficientai_toolkit.study.record import RECORD, Recorder

STAGES = "stages"
"""Folder of the stages in the folder of the compression."""

_SUMMARY = ("size_ratio", "latency_ratio", "memory_ratio", "perplexity_increase", "accuracy_difference")
"""Fields of the chosen row that the record has."""


def compress(
    model_path: "str | os.PathLike[str] | CompressConfig | None" = None,
    *,
    on_progress: Observer | None = None,
    callback: AnyCallback | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> CompressResult:
    """Make a model smaller and faster with a known loss of quality.

    Combinations of pruning, recovery and quantization are built, cheap ones first, and measured beside the
    original, each in a process of its own; what several share is built once. The best one within budget and
    loss, or the nearest, is copied to ``output``, which is then a model folder. An interrupted compression is
    continued with ``resume=True``.

    >>> import efficientai_toolkit as eat
    >>> result = eat.compress.compress("org/name", budget="size=0.3", output="small")  # doctest: +SKIP
    >>> model, tokenizer = eat.load(result.output)  # doctest: +SKIP

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`CompressConfig`.
    on_progress
        Called when a stage begins, and with its events.
    callback
        Receives the compression as a run, whose parts are its rows: a
        :class:`~efficientai_toolkit.trackers.Tracker`, another callback, or a list of them.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`CompressConfig`: ``budget``, ``max_loss``, ``calibration``, ``data``, ``output``, …

    Returns
    -------
    CompressResult

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, a text or the model cannot be used; nothing is written.
    TrainingError
        If the output folder holds another compression or cannot be written.
    """
    if isinstance(model_path, CompressConfig):
        config = model_path.with_values(settings)
    else:
        path = None if model_path is None else os.fspath(model_path)
        config = CompressConfig(model_path=path, **settings)
    if config.plots:
        require("matplotlib", extra="plots", purpose="`plots` (switch it off, or install it)")
    config = config.with_defaults_filled()
    output = Path(str(config.output))
    try:
        source = hub.resolve(str(config.model_path), show_progress=show_progress)
        timetable = Timetable(on_progress)
        workshop = Workshop(config, source.absolute(), (output / FOLDER / STAGES).absolute(), timetable)
        _prepare(config, source, output)
        paths = [config.calibration, config.heldout, config.task]
        recorder = Recorder(
            output / FOLDER,
            kind="compression",
            configuration=config.to_dict(),
            data=[Path(path) for path in paths if path is not None],
            resume=config.resume,
            callback=callback,
        )
        with recorder:
            recorder.start()
            rows = Search(config, workshop, timetable, _label(config)).run()
            for place, row in enumerate(rows, 1):
                recorder.log(place, asdict(row))
            choice = choose(rows, config.limits, config.largest_loss, config.prefer)
            result = _finish(config, workshop, rows, choice, output)
            recorder.result = {name: getattr(choice.row, name, None) for name in _SUMMARY}
    finally:
        release(output)
    return result


def _label(config: CompressConfig) -> str:
    path = str(config.model_path)
    return "embedded" if path == str(MODEL) else Path(path).name or path


def _prepare(config: CompressConfig, source: Path, output: Path) -> None:
    """Check that the output folder can be written, and clear it of what is replaced."""
    if output.resolve() == source.resolve():
        message = f"`output` {output} is the model itself, which is the reference: choose another folder"
        raise ConfigError(message)
    check_unused(
        output / FOLDER, RECORD, what="a compression", resume=config.resume, overwrite=config.overwrite
    )
    if (output / "config.json").exists() and not (output / FOLDER).exists():
        # A model that a compression did not make is never replaced.
        check_unused(output, "config.json", what="a model", resume=None, overwrite=config.overwrite)
    check_writable(output)
    refuse_link(output / FOLDER)
    if config.overwrite and not config.resume and (output / FOLDER).is_dir():
        shutil.rmtree(output / FOLDER)


def _finish(
    config: CompressConfig, workshop: Workshop, rows: list[CandidateRow], choice: Choice, output: Path
) -> CompressResult:
    exports: list[dict[str, Any]] = []
    (output / FOLDER / RESULTS).unlink(missing_ok=True)
    if choice.row is not None:
        row = choice.row
        chosen = Candidate(pruning=row.pruning, recovery=row.recovery, quantization=row.quantization)
        workshop.deliver(chosen, output, _copy_model)
        exports = [_export(workshop, output, *one) for one in config.list_exports()]
    report = hardware()
    result = CompressResult(
        output=output,
        rows=rows,
        choice=choice,
        config=config.to_dict(),
        exports=exports,
        environment=[
            *describe_environment().items(),
            *((name, str(value)) for name, value in asdict(report).items()),
        ],
    )
    write_files(result, plots=config.plots)
    if not config.keep_models:
        workshop.clear()
    return result


def _copy_model(model: Path, output: Path) -> None:
    """Copy the files of a model, of which ``config.json`` is the last: without it, there is none."""
    files = sorted(
        (file for file in model.iterdir() if file.is_file() and file.name != RECORD),
        key=lambda file: file.name == "config.json",
    )
    (output / "config.json").unlink(missing_ok=True)
    for old in output.glob("*.safetensors"):
        old.unlink()
    for file in files:
        with file.open("rb") as stream:

            def write(target: BinaryIO, stream: BinaryIO = stream) -> None:
                shutil.copyfileobj(stream, target)

            replace_file(output / file.name, write)


def _export(workshop: Workshop, output: Path, text: str, kind: str | None, chosen: str) -> dict[str, Any]:
    from efficientai_toolkit.exports.formats import FORMATS

    path = output / "exports" / f"{text.replace(':', '-')}{FORMATS[chosen].suffix}"
    path.parent.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"format": chosen, "output": str(path), "overwrite": True}
    if kind is not None:
        settings["type"] = kind
    try:
        return {"name": text, **workshop.export(output, text, settings)}
    except StageError as error:
        # Of a model that was found: the report tells.
        return {"name": text, "error": str(error)}
