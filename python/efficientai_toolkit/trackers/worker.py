"""Threads of trackers, so that no slow disk or server holds up the training."""

import logging
import queue
import time
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread

from efficientai_toolkit.trackers.backend import Backend

_WAITING = 100_000
"""Calls that may wait for a back end."""
_IDLE_SECS = 1.0
_SETTLE_SECS = 15.0
_POLL_SECS = 0.1
_PATIENCE = 60.0
"""Seconds that the end of a run waits for what is not written yet."""

log = logging.getLogger(__package__)


class Worker:
    """A thread that makes all calls of one back end, in order; its first error is logged and ends it.

    Parameters
    ----------
    name
        Name of the tracker.
    open_backend
        Opens the back end.
    """

    def __init__(self, name: str, open_backend: Callable[[], Backend]) -> None:
        self._name = name
        self._open = open_backend
        self._calls: queue.Queue[Callable[[Backend], object] | None] = queue.Queue(_WAITING)
        self._has_failed = False
        self._thread = Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[Backend], object] | None) -> None:
        """Call a function with the back end, later; ``None`` ends the thread."""
        if self._has_failed:
            return
        try:
            self._calls.put_nowait(function)
        except queue.Full:
            self._fail(f"it is more than {_WAITING:,} calls behind")

    def settle(self) -> None:
        """Wait a while until all calls are made and nothing is held back."""
        done = Event()

        def flush(backend: Backend) -> None:
            backend.flush()
            done.set()

        self.call(flush)
        until = time.monotonic() + _SETTLE_SECS
        while not self._has_failed and not done.wait(_POLL_SECS) and time.monotonic() < until:
            pass

    def finish(self) -> None:
        """Wait until all calls are made."""
        self.call(None)
        if not self._has_failed:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                self._fail(f"it did not end within {_PATIENCE:g} s")

    def _work(self) -> None:
        try:
            with closing(self._open()) as backend:
                while (call := self._wait(backend)) is not None:
                    call(backend)
        except Exception as error:  # noqa: BLE001
            # Of a library, a disk or a server.
            self._fail(" ".join(str(error).split())[:500] or type(error).__name__)

    def _wait(self, backend: Backend) -> Callable[[Backend], object] | None:
        while not self._has_failed:
            try:
                return self._calls.get(timeout=_IDLE_SECS)
            except queue.Empty:
                backend.flush()
        return None

    def _fail(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("tracking with %s ends here, the run goes on: %s", self._name, reason)
