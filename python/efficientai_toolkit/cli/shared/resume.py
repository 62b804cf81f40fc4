"""The command that goes on where Ctrl-C has ended one."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from efficientai_toolkit.cli.commands import build_program


def build_resume_command(argv: Sequence[str], *, output: Path | None, resumed: bool) -> str:
    """The command line ``argv`` again, with ``--resume``.

    Parameters
    ----------
    argv
        Arguments of this process.
    output
        Folder to name; ``None`` where the settings name it already.
    resumed
        Whether the settings already resume.
    """
    words = [*build_program(), *(word for word in argv if word != "--overwrite")]
    if output is not None:
        words += ["--output", str(output)]
    if not resumed:
        words.append("--resume")
    return shlex.join(words)
