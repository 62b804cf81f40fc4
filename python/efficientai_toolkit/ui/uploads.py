"""Uploaded data sets: names that are safe, sizes that fit, files that are whole."""

import re
import shutil
from pathlib import Path

from efficientai_toolkit._base.files import replace_file
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import DatasetError
from efficientai_toolkit.workspace.folder import Workspace

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Formats of data sets."""

_MAX_NAME = 80
_SAMPLE = 1 << 16
_MAGIC = b"PAR1"
_SPARE = 64 << 20
"""Bytes of the disk that an upload leaves free."""


def store_upload(workspace: Workspace, source: Path, name: str, *, limit: int) -> str:
    """Copy an uploaded file into the workspace, and return its path relative to it.

    Parameters
    ----------
    workspace
        Workspace.
    source
        File.
    name
        Name that the browser gave it, which may be anything.
    limit
        Largest size in bytes.

    Raises
    ------
    DatasetError
        If it is no data set, or too large. Nothing is stored then.
    """
    stem, ending = split_name(name)
    size = source.stat().st_size
    if size == 0:
        message = f"{stem}{ending} is empty"
        raise DatasetError(message)
    if size > limit:
        message = (
            f"{stem}{ending} has {format_size(size)}, more than {format_size(limit)}; put larger files into "
            f"{workspace.data} yourself, or start the page with a larger --max-upload"
        )
        raise DatasetError(message)
    if shutil.disk_usage(workspace.path).free < size + _SPARE:
        message = f"the disk has no room for {format_size(size)}"
        raise DatasetError(message)
    _check_content(source, f"{stem}{ending}")
    target = _find_free(workspace.data, stem, ending)
    with source.open("rb") as file:
        replace_file(target, lambda output: shutil.copyfileobj(file, output))
    return workspace.relative(target)


def split_name(name: str) -> tuple[str, str]:
    """Return a safe stem and the ending of a file's name.

    Raises
    ------
    DatasetError
        If the ending is none of a data set.
    """
    last = re.split(r"[/\\]", name)[-1]
    stem, dot, ending = last.rpartition(".")
    ending = f"{dot}{ending}".lower()
    if not dot or ending not in ENDINGS:
        message = f"{last[:100]!r} is none of {', '.join(ENDINGS)}; save the data as one of these"
        raise DatasetError(message)
    # Commas and equals signs separate the parts of `data`.
    safe = re.sub(r"[^\w.-]+", "-", stem[:_MAX_NAME]).strip("-.")
    return safe or "data", ending


def delete_data(workspace: Workspace, name: str) -> None:
    """Delete an uploaded data set.

    Raises
    ------
    DatasetError
        If there is none of this name.
    """
    # Not resolved: a link itself is removed, not what it points to.
    path = workspace.data / Path(name).name
    if name != f"{workspace.data.name}/{path.name}" or not (path.is_file() or path.is_symlink()):
        message = f"there is no file {name[:200]!r} to delete"
        raise DatasetError(message)
    path.unlink()


def _check_content(source: Path, name: str) -> None:
    with source.open("rb") as file:
        sample = file.read(_SAMPLE)
    if name.endswith(".parquet"):
        if not sample.startswith(_MAGIC):
            message = f"{name} is no Parquet file"
            raise DatasetError(message)
        return
    try:
        sample.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            message = f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8"
            raise DatasetError(message) from None
    if b"\0" in sample:
        message = f"{name} is not text, whatever its name says"
        raise DatasetError(message)


def _find_free(folder: Path, stem: str, ending: str) -> Path:
    path, number = folder / f"{stem}{ending}", 1
    while path.exists() or path.is_symlink():
        number += 1
        path = folder / f"{stem}-{number}{ending}"
    return path
