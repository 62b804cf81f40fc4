"""Jobs and their events, as callers see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.exceptions import ConfigError

State = Literal["queued", "running", "finished", "failed", "cancelled", "interrupted"]
"""State of a job. An interrupted one was running when its runner ended, and is continued by the next one."""

ENDED: frozenset[State] = frozenset({"finished", "failed", "cancelled"})
"""States in which nothing more happens by itself."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Job(Displayed):
    """A job. Times are in seconds since 1970."""

    id: int
    kind: str
    settings: dict[str, Any]
    """Settings as given, with paths relative to the workspace."""
    priority: int
    """Jobs with a higher one run first."""
    state: State
    created: float
    started: float | None
    """Start of the last attempt."""
    ended: float | None
    output: str
    """Output folder, relative to the workspace."""
    error: str | None
    """Reason of a failure."""
    result: dict[str, Any] | None
    """Result of a finished job; its paths are relative to the workspace."""
    peak_memory: int | None
    """Peak resident memory of the last attempt in bytes."""
    events: int
    """Number of its events so far."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ENDED

    def folder(self, workspace: Path) -> Path:
        """Return the absolute output folder in the folder of the workspace."""
        return workspace / self.output


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent:
    """An event of a job."""

    job: int
    number: int
    """From 1, without gaps."""
    time: float
    """Seconds since 1970."""
    data: Mapping[str, Any]
    """Name under ``event``, and its values."""


class JobNotFoundError(ConfigError):
    """There is no job with this number."""


class JobStateError(ConfigError):
    """The state of a job does not allow it."""


class QueueFullError(ConfigError):
    """Too many jobs wait."""
