"""Where exports may be written."""

from pathlib import Path

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.exports.formats import Format

_MODELS = ("config.json", "Manifest.json", "Package.swift")
"""Files of which every folder with a model, package of Core ML or Swift package has one."""


def check_output(output: Path, chosen: Format, *, overwrite: bool) -> None:
    """Check that an output is new, or may be replaced.

    Raises
    ------
    DeploymentError
        If it exists without ``overwrite``, or is no file or folder like the format.
    """
    refuse_link(output)
    if output.exists() and not overwrite:
        message = f"{output} exists: choose another output, or replace it with --overwrite (overwrite=True)"
        raise DeploymentError(message)
    if output.exists() and output.is_dir() == bool(chosen.suffix):
        is_, expected = ("a folder", "a file") if output.is_dir() else ("a file", "a folder")
        message = f"{output} is {is_}, but the format is {expected}: choose another output"
        raise DeploymentError(message)
    check_writable(output.absolute().parent)


def check_replaced(output: Path, *sources: Path) -> None:
    """Check that an output replaces nothing that is read, and no folder of other things.

    Raises
    ------
    DeploymentError
        If it is, or holds, one of the sources, or something that is no model.
    """
    for source in sources:
        if source.resolve().is_relative_to(output.resolve()):
            message = f"{output} holds {source}, which is exported: choose another output"
            raise DeploymentError(message)
    if output.is_dir() and any(output.iterdir()) and not any((output / name).is_file() for name in _MODELS):
        message = f"{output} holds no model, and would be replaced: choose another output"
        raise DeploymentError(message)
