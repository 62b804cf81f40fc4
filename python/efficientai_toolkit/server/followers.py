"""Clients that follow the events of jobs."""

import asyncio
import time
from collections.abc import AsyncIterator

from efficientai_toolkit.jobs.job import JobEvent
from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.generation import Service

_MAX_FOLLOWERS = 200
"""Most clients that follow at once."""

_CHECK_SECS = 0.05
"""Time after which changes by this process are seen."""

_POLL_SECS = 1.0
"""Time after which changes by other processes are seen."""

_PING_SECS = 15.0
"""Silence after which an empty page shows that the connection lives."""


class Followers:
    """Counts the clients that follow, and reads events for them.

    Parameters
    ----------
    jobs
        The jobs.
    service
        The server, which ends all streams when it shuts down.
    """

    def __init__(self, jobs: Jobs, service: Service) -> None:
        self._jobs = jobs
        self._service = service
        self._count = 0

    def open(self, job_id: int, after: int, *, follow: bool = True) -> "Follower":
        """Count one more client.

        Raises
        ------
        ApiError
            If there are too many.
        """
        if self._count >= _MAX_FOLLOWERS:
            message = f"{self._count} clients follow jobs already"
            raise ApiError(message, status=429, retry_after=5)
        self._count += 1
        return Follower(self, job_id, after, follow=follow)

    async def read(self, job_id: int, after: int, *, follow: bool) -> AsyncIterator[list[JobEvent]]:
        """Iterate over pages of events, until the job has ended or there are none to replay."""
        sent = time.monotonic()
        while True:
            seen = self._jobs.store.changes
            events, is_complete = await asyncio.to_thread(self._jobs.read_on, job_id, after)
            if events:
                after = events[-1].number
            if events or time.monotonic() - sent > _PING_SECS:
                sent = time.monotonic()
                yield events
            if is_complete or self._service.is_draining:
                return
            if not events:
                if not follow:
                    return
                await self._wait(seen)

    def close(self) -> None:
        """Count one client less."""
        self._count -= 1

    async def _wait(self, seen: int) -> None:
        """Wait until something has changed since ``seen``, a second at most."""
        until = time.monotonic() + _POLL_SECS
        while self._jobs.store.changes == seen and time.monotonic() < until and not self._service.is_draining:
            await asyncio.sleep(_CHECK_SECS)


class Follower:
    """A client that follows a job; iterate over pages of events, of which an empty one is a sign of life."""

    def __init__(self, followers: Followers, job_id: int, after: int, *, follow: bool) -> None:
        self._followers = followers
        self._job_id = job_id
        self._after = after
        self._follow = follow

    def __aiter__(self) -> AsyncIterator[list[JobEvent]]:
        """Iterate over the pages."""
        return self._followers.read(self._job_id, self._after, follow=self._follow)

    def close(self) -> None:
        """End following; called once."""
        self._followers.close()
