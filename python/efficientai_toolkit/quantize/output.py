"""Check of the output folder of a quantization."""

from pathlib import Path

from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.quantize.config import QuantizeConfig


def check_output(config: QuantizeConfig) -> Path:
    """Check that a run can write to its output folder, before a model is loaded; nothing is left behind.

    Parameters
    ----------
    config
        Configuration with ``output`` filled in.

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

    core.quantize.check_output(config.to_json())
    output = Path(str(config.output))
    check_writable(output)
    return output
