"""Output folders of runs."""

import atexit
import json
import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.config import Config, list_options
from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.exceptions import TrainingError

RUNS = "runs"
"""Default parent folder of runs, relative to the current folder."""

RESULT = "result.json"
"""Result of a part of a study, with its request."""

FOLDER_SETTINGS = frozenset({"output", "resume", "overwrite"})
"""Settings that concern the output folder and do not affect results."""

_SAMPLE = 64 << 20
"""Bytes hashed per file, limited so that large data sets do not delay a run."""


_reserved: set[Path] = set()
"""Folders that :func:`new_run` created."""


def new_run(runs: Path, kind: str) -> Path:
    """Create and return the next unused folder in the sequence ``kind-0001``, ``kind-0002``.

    Creating it reserves the name against other processes. If it is still empty when the process ends, it is
    removed.
    """
    names = [entry.name for entry in runs.iterdir()] if runs.is_dir() else []
    taken = [int(match[1]) for name in names if (match := re.fullmatch(rf"{kind}-(\d+)", name))]
    for number in count(max(taken, default=0) + 1):
        folder = runs / f"{kind}-{number:04}"
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        try:
            runs.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except OSError:
            if folder.exists():
                # Another process was faster.
                continue
            # It cannot be created. The check of the output, which every run begins with, says why.
            return folder
        _reserved.update(parent.absolute() for parent in missing)
        return folder
    raise AssertionError


def release(folder: Path) -> None:
    """Remove a folder created by :func:`new_run` in which nothing was written."""
    for created in (folder.absolute(), *folder.absolute().parents):
        if created not in _reserved:
            return
        try:
            created.rmdir()
        except OSError:
            # Something was written into it.
            return
        _reserved.discard(created)


@atexit.register
def _release_all() -> None:
    for folder in sorted(_reserved, reverse=True):
        release(folder)


def check_unused(output: Path, marker: str, *, what: str, resume: bool | None, overwrite: bool) -> None:
    """Check that an output folder does not contain another study.

    Parameters
    ----------
    output
        Output folder.
    marker
        File that indicates an existing study.
    what
        Kind of study with its article, such as ``a comparison``.
    resume
        Whether to resume an existing study; ``None`` if this kind cannot be resumed.
    overwrite
        Whether to replace an existing study.

    Raises
    ------
    TrainingError
        If ``marker`` exists and neither ``resume`` nor ``overwrite`` is set.
    """
    if (output / marker).exists() and not (resume or overwrite):
        choices = "--overwrite" if resume is None else "--resume or --overwrite"
        message = f"{output} holds {what}; choose another --output, or give {choices}"
        raise TrainingError(message)


def describe_environment() -> dict[str, str]:
    """Return the platform and the versions of Python and of the packages that every result depends on."""
    import platform
    from importlib.metadata import version

    return {
        "efficientai-toolkit": version("efficientai-toolkit"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "mlx": version("mlx"),
        "numpy": version("numpy"),
    }


def fingerprint_data(data: Iterable[Path]) -> dict[str, Any]:
    """Compute number of files, bytes and a hash of file names, sizes and leading bytes.

    Parameters
    ----------
    data
        Files and folders, in order; folders are not searched recursively.
    """
    import hashlib

    files = [
        file
        for path in data
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
    digest = hashlib.sha256()
    total = 0
    for file in files:
        size = file.stat().st_size
        total += size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
    return {"files": len(files), "bytes": total, "sha256": digest.hexdigest()}


def load_result(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result saved for the same ``request``, or ``None`` if there is none or it is damaged."""
    try:
        stored = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        result = stored["measurement"] if stored["request"] == request else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return cast("dict[str, Any]", result) if isinstance(result, dict) else None


def save_result(folder: Path, request: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Save the result of ``request``, to be reused when the study is resumed."""
    write_text(folder / RESULT, json.dumps({"request": request, "measurement": result}))


def write_settings(path: Path, config: Config) -> dict[str, Any]:
    """Write and return the settings that differ from the defaults, as a YAML file for ``--config``."""
    import yaml

    settings = {
        option.name: value
        for option in list_options(type(config))
        if option.name not in FOLDER_SETTINGS and (value := getattr(config, option.name)) != option.default
    }
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return settings
