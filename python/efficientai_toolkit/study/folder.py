"""The folder of a study: a new one, or one whose results are kept, and what it was made with.

``run.json`` holds the configuration, the environment, the machine and a fingerprint of the data, so that two
results can be told apart by what made them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.config import Config, list_options
from efficientai_toolkit._base.files import write_json, write_text
from efficientai_toolkit.device import hardware
from efficientai_toolkit.exceptions import TrainingError

RUNS = "runs"
"""Folder, below the current one, of the runs whose output is not named."""

RECORD = "run.json"
"""What a study was made with."""

RESULT = "result.json"
"""What came out of one part of a study, with what was asked for."""

FOLDER_SETTINGS = frozenset({"output", "resume", "overwrite"})
"""Settings that say where results go and not what they are."""

_SAMPLE = 64 << 20
"""Bytes of each file that go into the fingerprint of data: large files must not delay a run."""


def new_run(runs: Path, kind: str) -> Path:
    """The first free name ``kind-0001``, ``kind-0002``, … after those taken."""
    names = [entry.name for entry in runs.iterdir()] if runs.is_dir() else []
    taken = [int(match[1]) for name in names if (match := re.fullmatch(rf"{kind}-(\d+)", name))]
    return runs / f"{kind}-{max(taken, default=0) + 1:04}"


def check_unused(output: Path, marker: str, *, what: str, resume: bool | None, overwrite: bool) -> None:
    """Refuse a folder that holds another study.

    Parameters
    ----------
    output
        Where results are to go.
    marker
        File that a study of this kind leaves there.
    what
        The kind, with its article: ``a comparison``.
    resume
        Whether what is there is kept; ``None`` where a study of this kind cannot be resumed.
    overwrite
        Whether what is there is replaced.

    Raises
    ------
    TrainingError
        ``marker`` is there, and neither ``resume`` nor ``overwrite`` is wanted.
    """
    if (output / marker).exists() and not (resume or overwrite):
        choices = "overwrite" if resume is None else "resume or overwrite"
        message = f"{output} holds {what}; choose another output, or give {choices}"
        raise TrainingError(message)


def write_record(
    output: Path, *, kind: str, configuration: Mapping[str, Any], data: Iterable[Path] = ()
) -> None:
    """Create the folder of a study and write ``run.json`` into it.

    Parameters
    ----------
    output
        The folder.
    kind
        What the study is.
    configuration
        All settings, as plain values.
    data
        Files and folders that it learns from.
    """
    import platform
    from importlib.metadata import version

    output.mkdir(parents=True, exist_ok=True)
    record = {
        "kind": kind,
        "configuration": dict(configuration),
        "environment": {
            "efficientai-toolkit": version("efficientai-toolkit"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "mlx": version("mlx"),
            "numpy": version("numpy"),
        },
        "hardware": asdict(hardware()),
        "data": fingerprint_data(data),
    }
    write_json(output / RECORD, record)


def fingerprint_data(data: Iterable[Path]) -> dict[str, Any]:
    """What tells data apart: how many files and bytes, and a hash of names, sizes and beginnings.

    Parameters
    ----------
    data
        Files, and folders whose files count, in order.
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
    """What :func:`save_result` has written for the same ``request``."""
    path = folder / RESULT
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["measurement"] if stored["request"] == request else None


def save_result(folder: Path, request: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write what came out of ``request``, for a study that is resumed."""
    write_text(folder / RESULT, json.dumps({"request": request, "measurement": result}))


def write_settings(path: Path, config: Config) -> dict[str, Any]:
    """Write what differs from the defaults as YAML, which ``--config`` takes; what it holds."""
    import yaml

    settings = {
        option.name: value
        for option in list_options(type(config))
        if option.name not in FOLDER_SETTINGS and (value := getattr(config, option.name)) != option.default
    }
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return settings
