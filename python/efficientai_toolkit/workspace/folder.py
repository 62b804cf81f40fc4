"""The folder of a workspace."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.exceptions import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine

WORKSPACE = "workspace"
"""Default folder, relative to the current one."""

_DATABASE = "workspace.db"


class Workspace:
    """A folder with data, runs and a database.

    Parameters
    ----------
    path
        Folder, created if it does not exist.

    Raises
    ------
    ConfigError
        If it cannot be created.
    """

    def __init__(self, path: str | Path = WORKSPACE) -> None:
        folder = Path(path).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the workspace {folder} cannot be created: {error.strerror}"
            raise ConfigError(message) from error
        self.path = folder.resolve()

    @cached_property
    def database(self) -> "Engine":
        """The database, created when it is first asked for."""
        from efficientai_toolkit.workspace.database import open_database

        return open_database(self.path / _DATABASE)

    @property
    def data(self) -> Path:
        """Folder of uploaded data sets."""
        return self.path / "data"

    @property
    def runs(self) -> Path:
        """Folder of the runs of jobs."""
        return self.path / "runs"

    def resolve(self, path: str) -> Path:
        """Return the absolute path of a file or folder in the workspace, existing or not.

        Parameters
        ----------
        path
            Relative to the workspace, or absolute.

        Raises
        ------
        ConfigError
            If it is not in the workspace, after following symbolic links.
        """
        try:
            resolved = (self.path / path).resolve()
        except (OSError, ValueError, RuntimeError):
            resolved = None
        if resolved is None or not resolved.is_relative_to(self.path):
            message = f"{path[:200]!r} is not in the workspace; give a path relative to its folder"
            raise ConfigError(message)
        return resolved

    def relative(self, path: Path) -> str:
        """Return a path in the workspace relative to its folder, with slashes."""
        return path.resolve().relative_to(self.path).as_posix()
