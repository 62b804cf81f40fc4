"""Runs of the engine that change a whole model and save it to a folder."""

from collections.abc import Callable
from pathlib import Path

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.callbacks.base import Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output


def run_on_model(
    config: Config,
    room: str,
    callback: Callback | Callable[[Event], object] | None,
    *,
    show_progress: bool,
) -> str:
    """Load the model and run the engine's function that is named like ``room``.

    Parameters
    ----------
    config
        Configuration with ``model_path`` and ``output`` filled in.
    room
        Room of the engine, such as ``quantize``.
    callback
        Receives all events.
    show_progress
        Show a progress bar during downloads.

    Returns
    -------
    str
        The engine's JSON report.

    Raises
    ------
    ToolkitError
        If the run cannot start, or fails.
    """
    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.models.loading import load

    values = config.to_dict()
    receiver = as_callback(callback)

    def observe(text: str) -> None:
        receiver.on(parse_event(text))

    try:
        check_output(config, room)
        # In the data type of the checkpoint, which the result keeps.
        model, tokenizer = load(values["model_path"], dtype="auto", show_progress=show_progress)
        engine = getattr(core, room)
        report: str = getattr(engine, room)(model, tokenizer, config.to_json(), observe)
    finally:
        receiver.close()
        release(Path(values["output"]))
    return report
