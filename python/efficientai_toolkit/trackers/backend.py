"""Where a tracker writes: the interface of its back ends."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from efficientai_toolkit.callbacks.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """A run to track."""

    run: Run
    parent: Run | None = None
    """Study that the run is a part of."""
    last_step: int = -1
    """Step after which a resumed run continues; -1 if it starts anew."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def runs(self) -> Path:
        """Folder that the run and its study lie in."""
        return (self.parent or self.run).folder.absolute().parent

    @property
    def name(self) -> str:
        """Name of the run: its folder, after that of the study it is a part of."""
        folder = self.run.folder.absolute()
        return folder.relative_to(self.runs).as_posix()

    def all_tags(self) -> dict[str, str]:
        """Return what the run can be found by."""
        tags = {
            "kind": self.run.kind,
            "version": str(self.run.environment.get("efficientai-toolkit", "")),
            "device": str(self.run.hardware.get("chip", "")),
            "data": str(self.run.data.get("sha256", "")),
            "output": str(self.run.folder.absolute()),
        }
        return {**tags, **self.tags}


class Backend(ABC):
    """A tracked run in one place.

    All methods are called by one thread. After an exception the run is not tracked there any longer.

    Parameters
    ----------
    tracked
        The run, to be opened; its values after ``last_step`` are to be forgotten.
    """

    @abstractmethod
    def __init__(self, tracked: Tracked) -> None: ...

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Add metrics of a step, at a time in seconds since 1970."""

    def flush(self) -> None:  # noqa: B027
        """Write what is held back; called when nothing is logged for a while, and after a checkpoint."""

    def end(self, run: Run) -> None:  # noqa: B027
        """Write status and result of the run."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left and release all resources; also called after an error."""
