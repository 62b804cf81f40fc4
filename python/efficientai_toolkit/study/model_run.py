"""Runs of the engine that change a whole model and save it to a folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output
from efficientai_toolkit.study.record import Recorder


class _Result(Protocol):
    def summary(self) -> Mapping[str, float]:
        """Return the final metrics."""
        ...


_R = TypeVar("_R", bound=_Result)


def run_on_model(
    config: Config,
    room: str,
    read: Callable[[str], _R],
    *,
    callback: AnyCallback | None,
    show_progress: bool,
) -> _R:
    """Load the model and run the engine's function that is named like ``room``.

    Parameters
    ----------
    config
        Configuration with ``model_path``, ``output`` and ``calibration`` filled in.
    room
        Room of the engine, such as ``quantize``.
    read
        Reads the engine's JSON report.
    callback
        Receives all events.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    object
        What ``read`` returns.

    Raises
    ------
    ToolkitError
        If the run cannot start, or fails.
    """
    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.models.loading import load

    values = config.to_dict()
    output, calibration = Path(values["output"]), values["calibration"]
    recorder = Recorder(
        output,
        kind=room,
        configuration=values,
        data=[] if calibration is None else [Path(calibration)],
        resume=values["resume"],
        callback=callback,
    )
    try:
        with recorder:
            check_output(config, room)
            # In the data type of the checkpoint, which the result keeps.
            model, tokenizer = load(values["model_path"], dtype="auto", show_progress=show_progress)
            engine = getattr(core, room)
            report: str = getattr(engine, room)(model, tokenizer, config.to_json(), recorder.observe)
            result = read(report)
            recorder.result = result.summary()
    finally:
        release(output)
    return result
