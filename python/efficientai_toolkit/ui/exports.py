"""Adapters and models as files to take along."""

import zipfile
from pathlib import Path

from efficientai_toolkit._base.files import replace_file
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.workspace.folder import Workspace

FOLDER = "exports"
"""Folder of the workspace with the files that the page hands out."""

_ENDINGS = frozenset({".safetensors", ".json", ".md", ".txt", ".jinja", ".model"})
_MAX_BYTES = 8 << 30


def pack(workspace: Workspace, folder: Path, name: str) -> Path:
    """Write a zip file with the files of an adapter, without checkpoints and logs, and return its path.

    Raises
    ------
    ConfigError
        If the folder is gone or too large.
    """
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in _ENDINGS and path.is_file() and not path.is_symlink() and path.name[0] != "."
        )
    except OSError as error:
        message = f"{name} cannot be read: {error.strerror}"
        raise ConfigError(message) from error
    size = sum(path.stat().st_size for path in files)
    if size > _MAX_BYTES:
        message = f"{name} has {format_size(size)}, too much for a zip file: copy {folder}"
        raise ConfigError(message)
    target = workspace.path / FOLDER / f"{name.replace('/', '-')}.zip"

    def write(output: object) -> None:
        # Weights do not become smaller.
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
            for path in files:
                archive.write(path, f"{target.stem}/{path.name}")

    replace_file(target, write)
    return target
