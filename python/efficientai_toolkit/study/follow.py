"""Runs in other processes, as callbacks of this one see them."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from efficientai_toolkit.callbacks.base import Callback
from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.study.record import RECORD, end_run, read_run

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.run import Run


class Follower(Callback):
    """Callback in front of another one, for a run whose process keeps the record.

    As a context manager it hands the end on. A run whose process was killed has failed.

    Parameters
    ----------
    folder
        Output folder of the run; the record of an earlier one is removed.
    callback
        Receives the run and its events; not closed.
    """

    def __init__(self, folder: Path, callback: Callback) -> None:
        self._folder = folder
        self._callback = callback
        self._run: Run | None = None
        self.error = "its process ended"
        """Reason to record if the process did not."""
        (folder / RECORD).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Hand the end of the run on."""
        if self._run is None:
            return
        run = read_run(self._folder) or self._run
        if run.status == "running":
            is_interrupted = isinstance(error, KeyboardInterrupt)
            run = end_run(run, "interrupted" if is_interrupted else "failed", error=self.error)
        self._callback.end(run)

    def on(self, event: Event) -> None:
        """Hand the event on, and before the first one the run."""
        if self._run is None:
            self._run = read_run(self._folder)
            if self._run is not None:
                self._callback.begin(self._run)
        self._callback.on(event)
