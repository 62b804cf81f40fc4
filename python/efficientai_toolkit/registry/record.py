"""What a run wrote about itself beside its result."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.registry.version import Kind
from efficientai_toolkit.study.folder import FOLDER_SETTINGS, RESULT
from efficientai_toolkit.study.record import RECORD

_REPORTS = ("training.json", "quantization.json")
"""Files in which the engine writes ``config`` and ``report``."""

_STATE = "state.json"
"""File of a checkpoint, with its step, the losses so far and the settings that affect it."""

_MAX_BYTES = 64 << 20
_MAX_METRICS = 500
_MAX_PATH = 4096
_MAX_SETTINGS = 1 << 20
"""Most characters of settings as JSON."""

_LARGEST = sys.float_info.max

_ESTIMATE = "memory"
"""Part of a training's report that was computed before it."""


@dataclass(kw_only=True, slots=True)
class Record:
    """What is known about a run."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    data: str | None = None
    """Fingerprint of the data."""
    base: str | None = None
    """Folder or hub id of the model that the run began with."""


def read_record(folder: Path, kind: Kind) -> Record:
    """Read the files that a run left in its folder; those that it has not are left out.

    Parameters
    ----------
    folder
        Folder of a version. The run of a checkpoint is two folders above it.
    kind
        What it has.

    Raises
    ------
    ConfigError
        If a file is too large or damaged.
    """
    record = Record()
    run = folder.parent.parent if kind == "checkpoint" and folder.parent.name == "checkpoints" else folder
    about = _read(run / RECORD)
    record.settings |= _mapping(about.get("configuration"))
    data = _mapping(about.get("data"))
    if data.get("files") and isinstance(data.get("sha256"), str):
        record.data = data["sha256"]
    if kind == "checkpoint":
        _add_state(record, _read(folder / _STATE))
    else:
        for name in _REPORTS:
            report = _read(folder / name)
            record.settings |= _mapping(report.get("config"))
            record.metrics |= list_numbers(_mapping(report.get("report")), folder / name)
        measured = _mapping(_read(folder / RESULT).get("measurement"))
        record.metrics |= list_numbers(measured, folder / RESULT)
        if kind == "adapter":
            adapter = _read(folder / "adapter_config.json")
            record.base = _text(adapter.get("base_model_name_or_path") or adapter.get("model"))
    record.base = record.base or _text(record.settings.get("model_path"))
    record.settings = {name: value for name, value in record.settings.items() if name not in FOLDER_SETTINGS}
    if len(json.dumps(record.settings)) > _MAX_SETTINGS:
        message = f"the run in {run} has more than {_MAX_SETTINGS:,} characters of settings"
        raise ConfigError(message)
    return record


def list_numbers(values: Mapping[str, Any], source: Path | str) -> dict[str, float]:
    """Return the finite numbers among ``values``, those in groups as ``GROUP.NAME``.

    Raises
    ------
    ConfigError
        If there are too many.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name != _ESTIMATE:
            flat |= {f"{name}.{part}": item for part, item in cast("dict[str, Any]", value).items()}
        else:
            flat[name] = value
    numbers: dict[str, float] = {
        name: value
        for name, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    }
    if len(numbers) > _MAX_METRICS:
        message = f"{source} has {len(numbers)} metrics, more than {_MAX_METRICS}"
        raise ConfigError(message)
    return numbers


def _add_state(record: Record, state: Mapping[str, Any]) -> None:
    record.settings |= {
        name: value
        for name, value in _mapping(state.get("identity")).items()
        # Fingerprints of the engine's own.
        if name not in {"data", "model"}
    }
    history = _mapping(state.get("history"))
    numbers: dict[str, Any] = {"step": state.get("step")}
    match history.get("train_losses"):
        case [*_, loss]:
            numbers["final_loss"] = loss
        case _:
            pass
    match history.get("validation_losses"):
        case [*_, [_, loss]]:
            numbers["validation_loss"] = loss
        case _:
            pass
    record.metrics |= list_numbers(numbers, _STATE)


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_PATH else None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            message = f"{path} is larger than {_MAX_BYTES >> 20} MiB"
            raise ConfigError(message)
        return _mapping(json.loads(content))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        message = (
            f"{path} cannot be read: {' '.join(str(error).split())}; move it away to register without it"
        )
        raise ConfigError(message) from error
