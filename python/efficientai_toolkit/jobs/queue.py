"""The jobs of a workspace: submitted, listed, followed, cancelled, resumed, deleted, by any process."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.jobs.job import (
    ENDED,
    Job,
    JobEvent,
    JobStateError,
    QueueFullError,
    State,
)
from efficientai_toolkit.jobs.kinds import find_kind
from efficientai_toolkit.jobs.lock import RunnerLock
from efficientai_toolkit.jobs.settings import FindModel, PathRules, check_settings
from efficientai_toolkit.jobs.store import MAX_ID, Store, append, find, to_job
from efficientai_toolkit.jobs.tables import EventRow, JobRow
from efficientai_toolkit.workspace.folder import WORKSPACE, Workspace

MAX_QUEUED = 1000
"""Most jobs that wait."""

MAX_PRIORITY = 1000
"""Largest priority; the lowest is its negative."""

_PAGE = 500
"""Events that are read at once."""
_POLL_SECS = 0.2
"""Time after which events of other processes are seen."""


class Jobs:
    """The jobs of a workspace.

    Jobs are run by a :class:`~efficientai_toolkit.jobs.Runner`, in this process or another one.

    Parameters
    ----------
    workspace
        The workspace, or its folder.
    find_model
        Returns the folder of a model with a name, or ``None``; folders in the workspace and ``embedded``
        need no name.
    allow_downloads
        Whether settings may name models of the Hugging Face hub.
    """

    def __init__(
        self,
        workspace: Workspace | str | Path = WORKSPACE,
        *,
        find_model: FindModel | None = None,
        allow_downloads: bool = False,
    ) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
        self.rules = PathRules(
            workspace=self.workspace,
            find_model=find_model or (lambda _: None),
            allow_downloads=allow_downloads,
        )
        self.store = Store(self.workspace)

    def submit(self, kind: str, settings: Mapping[str, Any] | None = None, *, priority: int = 0) -> Job:
        """Queue a job.

        Parameters
        ----------
        kind
            Name in :data:`~efficientai_toolkit.jobs.KINDS`.
        settings
            Settings of the kind; paths are relative to the workspace.
        priority
            Jobs with a higher one run first, those with the same one in their order.

        Raises
        ------
        ConfigError
            If a setting is wrong, or a path is not in the workspace.
        QueueFullError
            If too many jobs wait.
        """
        found = find_kind(kind)
        if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            message = f"`priority` must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}"
            raise ConfigError(message)
        values = check_settings(found, settings or {}, self.rules)
        with self.store.write() as session:
            waiting = session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state == "queued"))
            if (waiting or 0) >= MAX_QUEUED:
                message = f"{waiting} jobs wait already; try again when some have ended, or cancel them"
                raise QueueFullError(message)
            row = JobRow(
                kind=kind,
                settings=json.dumps(values),
                priority=priority,
                state="queued",
                created=time.time(),
                # Two rows never have the same for longer than this transaction.
                output="",
            )
            session.add(row)
            session.flush()
            row.output = self._name_folder(kind, row.id)
            append(session, row.id, [{"event": "state", "state": "queued"}])
            session.flush()
            return to_job(session, row)

    def get(self, job_id: int) -> Job:
        """Return a job.

        Raises
        ------
        JobNotFoundError
            If there is none.
        """
        with self.store.read() as session:
            return to_job(session, find(session, job_id))

    def read_events(self, job_id: int, after: int = 0, *, limit: int = _PAGE) -> list[JobEvent]:
        """Return the events of a job after number ``after`` that there are, at most ``limit``.

        Raises
        ------
        JobNotFoundError
            If there is no such job.
        ConfigError
            If ``after`` is below 0.
        """
        return self.read_on(job_id, after, limit=limit)[0]

    def read_on(self, job_id: int, after: int = 0, *, limit: int = _PAGE) -> tuple[list[JobEvent], bool]:
        """Return events as :meth:`read_events`, and whether no more follow by themselves."""
        if not 0 <= after <= MAX_ID:
            message = f"`after` is the number of an event or 0, not {after}"
            raise ConfigError(message)
        query = (
            select(EventRow)
            .where(EventRow.job_id == job_id, EventRow.number > after)
            .order_by(EventRow.number)
            .limit(limit)
        )
        with self.store.read() as session:
            job = find(session, job_id)
            rows = session.scalars(query).all()
            events = [
                JobEvent(job=job_id, number=row.number, time=row.time, data=json.loads(row.data))
                for row in rows
            ]
            return events, job.state in ENDED and len(events) < limit

    def events(self, job_id: int, after: int = 0, *, follow: bool = False) -> Iterator[JobEvent]:
        """Iterate over the events of a job.

        Parameters
        ----------
        job_id
            The job.
        after
            Number of the last event that is known already.
        follow
            Wait for further events until the job has ended.

        Raises
        ------
        JobNotFoundError
            If there is no such job, or it is deleted while it is followed.
        """
        while True:
            events, is_complete = self.read_on(job_id, after)
            yield from events
            if events:
                after = events[-1].number
            if is_complete or (not follow and len(events) < _PAGE):
                return
            if len(events) < _PAGE:
                with self.store.changed:
                    self.store.changed.wait(_POLL_SECS)

    def cancel(self, job_id: int) -> Job:
        """Cancel a job; a running one is interrupted and keeps its last checkpoint.

        Raises
        ------
        JobNotFoundError
            If there is no such job.
        JobStateError
            If it has ended.
        """
        with self.store.write() as session:
            row = find(session, job_id)
            if row.state in ENDED:
                message = f"job {job_id} has ended: it is {row.state}"
                raise JobStateError(message)
            if row.state == "running" and RunnerLock.is_held(self.workspace):
                row.is_cancelled = True
            else:
                row.state = "cancelled"
                row.ended = time.time()
                append(session, job_id, [{"event": "state", "state": "cancelled"}])
            session.flush()
            return to_job(session, row)

    def resume(self, job_id: int) -> Job:
        """Queue a job again that was stopped or has failed; it continues from its last checkpoint.

        Raises
        ------
        JobNotFoundError
            If there is no such job.
        JobStateError
            If it is not one of these.
        ConfigError
            If its settings are no longer valid.
        """
        job = self.get(job_id)
        check_settings(find_kind(job.kind), job.settings, self.rules)
        with self.store.write() as session:
            row = find(session, job_id)
            if row.state not in {"cancelled", "failed", "interrupted"}:
                message = f"job {job_id} is {row.state}; only cancelled and failed jobs are resumed"
                raise JobStateError(message)
            row.state = "queued"
            row.ended = row.error = None
            row.is_cancelled = False
            append(session, job_id, [{"event": "state", "state": "queued"}])
            session.flush()
            return to_job(session, row)

    def delete(self, job_id: int, *, files: bool = False) -> None:
        """Forget a job that does not run, with its events.

        Parameters
        ----------
        job_id
            The job.
        files
            Remove its output folder, too.

        Raises
        ------
        JobNotFoundError
            If there is no such job.
        JobStateError
            If it runs: cancel it first.
        """
        with self.store.write() as session:
            row = find(session, job_id)
            if row.state == "running":
                message = f"job {job_id} is running; cancel it first"
                raise JobStateError(message)
            output = row.output
            session.execute(delete(EventRow).where(EventRow.job_id == job_id))
            session.delete(row)
        if files:
            shutil.rmtree(self.workspace.runs / Path(output).name, ignore_errors=True)

    def _name_folder(self, kind: str, job_id: int) -> str:
        name = f"{kind}-{job_id:04}"
        number = 1
        while (self.workspace.runs / name).exists():
            # Left over from a workspace whose database was removed.
            number += 1
            name = f"{kind}-{job_id:04}-{number}"
        return self.workspace.relative(self.workspace.runs / name)

    def list(self, *, states: Sequence[State] = (), kind: str | None = None, limit: int = 1000) -> list[Job]:
        """Return jobs, the newest first.

        Parameters
        ----------
        states
            Only those in one of these states.
        kind
            Only those of this kind.
        limit
            Largest number of jobs.
        """
        query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
        if states:
            query = query.where(JobRow.state.in_(states))
        if kind is not None:
            query = query.where(JobRow.kind == kind)
        with self.store.read() as session:
            return [to_job(session, row) for row in session.scalars(query)]
