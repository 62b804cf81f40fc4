"""Where the folders of versions and of their base models are."""

import os
from pathlib import Path

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.workspace.folder import Workspace


def locate(workspace: Workspace, path: str | os.PathLike[str], *, outside: bool) -> tuple[Path, str]:
    """Return a folder without links, and how it is stored: relative to the workspace where it is in it.

    Parameters
    ----------
    workspace
        Workspace.
    path
        Relative to the current folder or to the workspace, or absolute.
    outside
        Whether it may lie elsewhere.

    Raises
    ------
    ConfigError
        If it may not, or is no path.
    """
    given = Path(path)
    folder = _resolve(given)
    if folder is None or not folder.exists():
        folder = _resolve(workspace.path / given)
    if folder is None:
        message = f"{str(given)[:200]!r} is not in the workspace {workspace.path}"
        raise ConfigError(message)
    if folder.is_relative_to(workspace.path):
        return folder, workspace.relative(folder)
    if not outside:
        message = (
            f"{folder} is not in the workspace {workspace.path}; move it there, or allow it with `outside` "
            "(--outside)"
        )
        raise ConfigError(message)
    return folder, str(folder)


def make_absolute(base: str | None) -> str | None:
    """Return an existing folder as an absolute path, and other text, such as a hub id, as it is."""
    folder = None if base is None else _resolve(Path(base))
    return str(folder) if folder is not None and folder.is_dir() else base


def _resolve(path: Path) -> Path | None:
    """Return an absolute path without links; ``None`` if it can be none."""
    try:
        return path.expanduser().resolve()
    except (OSError, ValueError, RuntimeError):
        return None
