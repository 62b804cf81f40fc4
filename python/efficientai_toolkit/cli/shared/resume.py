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


def describe_interruption(argv: list[str], output: Path, *, named: bool, resumed: bool) -> str:
    """Say which checkpoint of an interrupted training is saved, and how to continue.

    ``named`` tells whether ``argv`` names the output folder, ``resumed`` whether it resumes a run already.
    """
    checkpoints = sorted(output.glob("checkpoints/step-*"))
    if not checkpoints:
        return "interrupted before the first checkpoint; nothing was saved"
    command = build_resume_command(argv, output=None if named else output, resumed=resumed)
    return f"interrupted: {checkpoints[-1]} is saved; continue with `{command}`"
