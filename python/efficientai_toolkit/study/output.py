"""Check of the output folder of a run."""

from pathlib import Path

from efficientai_toolkit._base.config import Config
from efficientai_toolkit._base.writable import check_writable


def check_output(config: Config, room: str) -> Path:
    """Check that a run can write to its output folder, before a model is loaded; nothing is left behind.

    Parameters
    ----------
    config
        Configuration with ``output`` filled in.
    room
        Room of the engine that the configuration belongs to, such as ``lora``.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    TrainingError
        If the folder holds another run, cannot be created or cannot be written.
    """
    from efficientai_toolkit._engine.core import core

    getattr(core, room).check_output(config.to_json())
    output = Path(str(config.to_dict()["output"]))
    check_writable(output)
    return output
