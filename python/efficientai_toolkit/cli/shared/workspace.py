"""The option that names a workspace."""

from argparse import ArgumentParser
from pathlib import Path

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.workspace.folder import WORKSPACE, Workspace


def add_workspace(parser: ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--workspace", metavar="FOLDER", default=WORKSPACE, help=f"workspace (default: {WORKSPACE})"
    )


def open_workspace(path: str) -> Workspace:
    """Open a workspace that exists: a command that only reads makes none.

    Raises
    ------
    ConfigError
        If it does not exist.
    """
    if not Path(path).expanduser().is_dir():
        message = f"there is no workspace {path}; --workspace names another one"
        raise ConfigError(message)
    return Workspace(path)
