"""Check that a folder can be written to."""

import errno
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from efficientai_toolkit.exceptions import TrainingError


def check_writable(output: Path) -> None:
    """Check that files can be written to a folder, which need not exist; nothing is left behind.

    Raises
    ------
    TrainingError
        If the folder cannot be created or written.
    """
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
