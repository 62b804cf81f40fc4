"""Runs as callbacks and readers see them: what ``run.json`` in an output folder says."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

Status = Literal["running", "finished", "failed", "interrupted", "pruned"]
"""State of a run. One whose process was killed stays ``running``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run, with the configuration, environment and data it was made with."""

    folder: Path
    """Output folder, with everything that the run saves."""
    id: str
    """Unique name; a resumed run keeps it."""
    kind: str
    """Kind of run, such as ``lora``, ``quantize`` or ``search``."""
    status: Status = "running"
    error: str | None = None
    """Reason of a failure."""
    started: str | None = None
    """Time in ISO 8601, that of the first start."""
    resumed: str | None = None
    """Time of the last resumption."""
    ended: str | None = None
    configuration: dict[str, Any]
    """All settings, also those with default values."""
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    """Platform and versions."""
    hardware: dict[str, Any] = field(default_factory=dict[str, Any])
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fingerprint of the data."""
    result: dict[str, float] = field(default_factory=dict[str, float])
    """Final metrics."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``run.json``."""
        values = asdict(self)
        del values["folder"]
        return values

    @classmethod
    def from_dict(cls, folder: Path, values: object) -> "Run":
        """Create a run from the content of ``run.json``; unknown fields are ignored.

        Raises
        ------
        ValueError
            If a field is missing or has the wrong type.
        """
        if not isinstance(values, dict):
            message = f"expected an object, found {type(values).__name__}"
            raise ValueError(message)
        kinds = {f.name: _KINDS.get(f.name, str) for f in fields(cls) if f.name != "folder"}
        known = cast("dict[str, Any]", values)
        found = {name: known[name] for name in kinds if known.get(name) is not None}
        for name, value in found.items():
            kind = kinds[name]
            if not isinstance(value, kind):
                message = f"`{name}` must be of type {kind.__name__}"
                raise ValueError(message)
        for name in _REQUIRED:
            if name not in found:
                message = f"`{name}` is missing"
                raise ValueError(message)
        if found.get("status", "finished") not in get_args(Status):
            message = f"`status` must be one of {', '.join(get_args(Status))}"
            raise ValueError(message)
        # Records of version 0.1.0 have neither.
        defaults: dict[str, Any] = {"id": folder.name, "status": "finished"}
        result = numbers(found.pop("result", {}))
        return cls(folder=folder, **{**defaults, **found}, result=result)


_KINDS: dict[str, type] = dict.fromkeys(("configuration", "environment", "hardware", "data", "result"), dict)
_REQUIRED = ("kind", "configuration")


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among ``values``."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
