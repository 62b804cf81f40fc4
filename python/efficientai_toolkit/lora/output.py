"""Check of the output folder of a run."""

import errno
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.config import TrainingConfig


def check_output(config: TrainingConfig) -> Path:
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

    core.lora.check_output(config.to_json())
    output = Path(str(config.output))
    try:
        # By doing it: permissions, links, read-only disks and long names all count.
        with ExitStack() as created:
            for folder in reversed((output, *output.parents)):
                created.enter_context(_existing(folder))
            with tempfile.TemporaryFile(dir=output):
                pass
    except (OSError, ValueError) as error:
        # A path with a null character is a ValueError.
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        message = f"cannot write to the output folder {output}: {reason}"
        raise TrainingError(message) from error
    return output


@contextmanager
def _existing(folder: Path) -> Generator[None]:
    """Create a folder if it is missing; it is removed again if it is still empty."""
    is_new = not folder.is_dir()
    if folder.is_file():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(folder))
    if is_new:
        folder.mkdir()
    try:
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
