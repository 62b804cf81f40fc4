"""The lock of a workspace: one runner at a time.

The processes of its jobs keep the lock open. When the runner is killed, the next one waits until they have
ended, so that no two processes write to the folder of a job.
"""

import fcntl
import os

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.workspace.folder import Workspace

_NAME = "jobs.lock"


class RunnerLock:
    """A lock held until it is released, or the process and its jobs have ended."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def acquire(cls, workspace: Workspace) -> "RunnerLock | None":
        """Return the lock of a workspace, or ``None`` if another runner or its last job holds it."""
        path = workspace.path / _NAME
        refuse_link(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    @classmethod
    def is_held(cls, workspace: Workspace) -> bool:
        """Return whether a runner, or its last job, holds the lock of a workspace."""
        lock = cls.acquire(workspace)
        if lock is not None:
            lock.release()
        return lock is None

    def release(self) -> None:
        """Release the lock, unless jobs still hold it."""
        os.close(self.descriptor)
