"""The files of a version and their fingerprint.

They are what loading reads: records, checkpoints and logs of the run that lie beside them may change.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.hub import LANGUAGE_MODEL
from efficientai_toolkit.registry.version import Kind

_CHECKPOINT = ("*.safetensors", "state.json")
_MAX_ENTRIES = 100_000
"""Most entries of a folder that are looked at."""
_MAX_FILES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a folder has."""

    fingerprint: str
    size_bytes: int
    files: int


def detect_kind(folder: Path, kind: Kind | None = None) -> Kind:
    """Tell what a folder has.

    Parameters
    ----------
    folder
        Folder.
    kind
        What it should have, if that is known.

    Raises
    ------
    ConfigError
        If it has nothing that can be registered, or something else than ``kind``.
    """
    marks: dict[Kind, str] = {
        "adapter": "adapter_config.json", "checkpoint": "state.json", "model": "config.json"
    }  # fmt: skip
    if not folder.is_dir():
        message = f"{folder} is {'a file; register its folder' if folder.exists() else 'no folder'}"
        raise ConfigError(message)
    found: list[Kind] = [each for each, mark in marks.items() if (folder / mark).is_file()]
    if kind is not None and kind not in marks:
        message = f"`kind` must be one of {', '.join(marks)}, not {kind!r}"
        raise ConfigError(message)
    if kind is not None and kind not in found:
        message = f"{folder} is no {kind}: it has no {marks[kind]}"
        raise ConfigError(message)
    if not found:
        files = ", ".join(sorted(marks.values()))
        message = f"{folder} has no model, adapter or checkpoint: none of {files} is in it"
        raise ConfigError(message)
    return kind or found[0]


def read_content(folder: Path, kind: Kind, *, within: Path | None = None) -> Content:
    """Read all files of a version.

    Parameters
    ----------
    folder
        Folder.
    kind
        What it has.
    within
        Folder that its files have to be in, after following symbolic links.

    Raises
    ------
    ConfigError
        If there are no weights, or a file is no regular one, not in ``within``, or changes meanwhile.
    """
    digest = hashlib.sha256()
    total = 0
    files = _list_files(folder, kind)
    for file in files:
        if within is not None and not file.resolve().is_relative_to(within):
            message = f"{file} is a link to what is not in the workspace"
            raise ConfigError(message)
        try:
            size, content = _read_file(file)
        except OSError as error:
            message = f"{file} cannot be read: {error.strerror or error}"
            raise ConfigError(message) from error
        digest.update(f"{file.name}\0{size}\0{content}\0".encode("utf-8", "surrogateescape"))
        total += size
    return Content(fingerprint=digest.hexdigest(), size_bytes=total, files=len(files))


def _list_files(folder: Path, kind: Kind) -> list[Path]:
    patterns = _CHECKPOINT if kind == "checkpoint" else LANGUAGE_MODEL.allowed
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries, 1):
                if number > _MAX_ENTRIES or len(names) > _MAX_FILES:
                    message = f"{folder} has too many files to be {kind}"
                    raise ConfigError(message)
                is_part = any(fnmatchcase(entry.name, pattern) for pattern in patterns)
                if is_part and not entry.name.startswith("."):
                    names.append(entry.name)
    except OSError as error:
        message = f"{folder} cannot be read: {error.strerror or error}"
        raise ConfigError(message) from error
    if not any(name.endswith(".safetensors") for name in names):
        message = f"{folder} has no weights: no .safetensors file is in it"
        raise ConfigError(message)
    return [folder / name for name in sorted(names)]


def _read_file(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a regular file."""
    # A pipe would block before its type is known.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            message = f"{path} is no regular file"
            raise ConfigError(message)
        content = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        message = f"{path} is being written; wait until the run has ended"
        raise ConfigError(message)
    return before.st_size, content
