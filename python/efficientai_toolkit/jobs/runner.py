"""The runner of a workspace: a thread that starts the jobs whose turn it is."""

import logging
from threading import Event, Thread
from types import TracebackType
from typing import Self

from efficientai_toolkit.jobs.attempt import Attempt
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.jobs.kinds import KINDS
from efficientai_toolkit.jobs.lock import RunnerLock
from efficientai_toolkit.jobs.queue import Jobs

_POLL_SECS = 0.2
"""Time after which changes by other processes are seen."""

_MAX_LIGHT = 2
"""Light jobs that run at once."""

log = logging.getLogger(__package__)


class Runner:
    """Runs the jobs of a workspace while it is open; a second one waits until the first has ended.

    Unfinished jobs of an earlier runner are continued from their last checkpoint.

    >>> from efficientai_toolkit.jobs import Jobs, Runner
    >>> jobs = Jobs("workspace")
    >>> with Runner(jobs):  # doctest: +SKIP
    ...     job = jobs.submit("train", {"model_path": "embedded", "iters": 20})
    ...     for event in jobs.events(job.id, follow=True):
    ...         print(event.number, event.data)

    Parameters
    ----------
    jobs
        The jobs.
    max_running
        Number of jobs that run at once. They share one device, so that more than one rarely gains time.
        Kinds that hardly need the device run beside them.
    """

    def __init__(self, jobs: Jobs, *, max_running: int = 1) -> None:
        self._jobs = jobs
        self._max_running = max_running
        self._running: dict[int, Attempt] = {}
        self._stopping = Event()
        self._wake = Event()
        self._thread: Thread | None = None
        self.is_active = False
        """Whether it holds the lock of the workspace."""

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._thread = Thread(target=self._run, name="jobs")
        self._thread.start()

    def stop(self) -> None:
        """Interrupt running jobs, which are continued by the next runner, and wait for their checkpoints."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            lock = RunnerLock.acquire(self._jobs.workspace)
            if lock is None:
                self._stopping.wait(_POLL_SECS)
                continue
            try:
                self.is_active = True
                self._serve(lock)
            except Exception:
                # Such as a full disk: what ran is continued when there is room again.
                log.exception("the runner of the jobs failed, and starts again")
                self._stopping.wait(5 * _POLL_SECS)
            finally:
                self.is_active = False
                self._interrupt()
                lock.release()

    def _serve(self, lock: RunnerLock) -> None:
        self._jobs.store.requeue_unfinished()
        while not self._stopping.is_set():
            self._wake.clear()
            self._forget_ended()
            for number in self._jobs.store.find_cancelled() & self._running.keys():
                self._running[number].stop("cancelled")
            self._start(lock, light=False, limit=self._max_running)
            self._start(lock, light=True, limit=_MAX_LIGHT)
            self._wake.wait(_POLL_SECS)

    def _start(self, lock: RunnerLock, *, light: bool, limit: int) -> None:
        """Start the light jobs whose turn it is, or the others."""
        running = [one for one in self._running.values() if _is_light(one.job) is light]
        for _ in range(limit - len(running)):
            job = self._jobs.store.take_next(light=light)
            if job is None:
                return
            self._running[job.id] = Attempt(self._jobs, job, lock.descriptor, self._wake)

    def _forget_ended(self) -> None:
        ended = [one for one in self._running.values() if not one.is_alive]
        for attempt in ended:
            del self._running[attempt.job.id]
        if not all(attempt.is_stored for attempt in ended):
            # Only a new start finds the jobs again that nobody knows to have ended.
            message = "an outcome is not stored"
            raise OSError(message)

    def _interrupt(self) -> None:
        for attempt in self._running.values():
            attempt.stop("interrupted")
        for attempt in self._running.values():
            attempt.join()
        self._running = {}


def _is_light(job: Job) -> bool:
    # An older version of this package may have had other kinds.
    return job.kind in KINDS and KINDS[job.kind].is_light
