"""Commands that resume interrupted work."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from efficientai_toolkit.cli.commands import build_program


def build_resume_command(argv: Sequence[str], *, output: Path | None, resumed: bool) -> str:
    """Return the command line that resumes the command ``argv``.

    Parameters
    ----------
    argv
        Arguments of the interrupted command.
    output
        Output folder to add; ``None`` if the configuration contains it.
    resumed
        Whether the configuration already contains ``resume``.
    """
    words = [*build_program(), *(word for word in argv if word != "--overwrite")]
    if output is not None:
        words += ["--output", str(output)]
    if not resumed:
        words.append("--resume")
    return shlex.join(words)
