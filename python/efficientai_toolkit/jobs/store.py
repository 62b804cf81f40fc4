"""Rows of jobs and events: what :class:`~efficientai_toolkit.jobs.Jobs` and runners do with them."""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from threading import Condition
from typing import Any, cast

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from efficientai_toolkit.jobs.job import Job, JobNotFoundError, State
from efficientai_toolkit.jobs.kinds import KINDS
from efficientai_toolkit.jobs.tables import EventRow, JobRow
from efficientai_toolkit.workspace.database import READ_ONLY, Base
from efficientai_toolkit.workspace.folder import Workspace

MAX_ID = 2**63 - 1
"""Largest number that the database takes."""


class Store:
    """Jobs and events in the database of a workspace.

    Parameters
    ----------
    workspace
        The workspace.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.changed = Condition()
        """Notified after each change by this object."""
        self.changes = 0
        """Number of changes by this object."""
        self._engine = workspace.database
        self._reading = self._engine.execution_options(**{READ_ONLY: True})
        tables = [cast("Any", row).__table__ for row in (JobRow, EventRow)]
        Base.metadata.create_all(self._engine, tables=tables)

    @contextmanager
    def read(self) -> Generator[Session]:
        """Open a transaction that reads."""
        with Session(self._reading) as session:
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """Open a transaction that writes; notify whoever waits for a change after it."""
        with Session(self._engine) as session, session.begin():
            yield session
        with self.changed:
            self.changes += 1
            self.changed.notify_all()

    def record(self, job_id: int, events: Sequence[Mapping[str, Any]], **values: Any) -> None:
        """Append events to a job, and set columns of its row, in one transaction.

        A job that was deleted is ignored.
        """
        with self.write() as session:
            if values:
                session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
            if session.get(JobRow, job_id) is not None:
                append(session, job_id, events)

    def count_events(self, job_id: int) -> dict[str, int]:
        """Return how many events of each name a job has."""
        query = select(EventRow.name, func.count()).where(EventRow.job_id == job_id).group_by(EventRow.name)
        with self.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def take_next(self, *, light: bool = False) -> Job | None:
        """Return the job whose turn it is, which is running from now on; ``None`` if none waits.

        Parameters
        ----------
        light
            Whether it is one of the kinds that do not wait for the device, or one of the others.
        """
        is_light = JobRow.kind.in_([kind.name for kind in KINDS.values() if kind.is_light])
        query = (
            select(JobRow)
            .where(JobRow.state == "queued", is_light if light else ~is_light)
            .order_by(JobRow.priority.desc(), JobRow.id)
            .limit(1)
        )
        with self.read() as session:
            if session.scalar(query) is None:
                return None
        with self.write() as session:
            row = session.scalar(query)
            if row is None:
                return None
            row.state = "running"
            row.started = time.time()
            row.ended = row.error = None
            row.is_cancelled = False
            append(session, row.id, [{"event": "state", "state": "running"}])
            session.flush()
            return to_job(session, row)

    def requeue_unfinished(self) -> None:
        """Queue the jobs again whose runner has ended. Only whoever holds the lock may."""
        with self.write() as session:
            rows = session.scalars(select(JobRow).where(JobRow.state.in_(("running", "interrupted"))))
            for row in rows.all():
                events: list[dict[str, Any]] = [{"event": "state", "state": "queued"}]
                if row.state == "running":
                    # The runner was killed, and could not say so.
                    events.insert(0, {"event": "state", "state": "interrupted"})
                row.state = "queued"
                if row.is_cancelled:
                    row.state, row.ended = "cancelled", time.time()
                events[-1]["state"] = row.state
                append(session, row.id, events)

    def find_cancelled(self) -> set[int]:
        """Return the running jobs that are to be cancelled."""
        query = select(JobRow.id).where(JobRow.state == "running", JobRow.is_cancelled)
        with self.read() as session:
            return set(session.scalars(query))


def find(session: Session, job_id: int) -> JobRow:
    """Return the row of a job.

    Raises
    ------
    JobNotFoundError
        If there is none.
    """
    row = session.get(JobRow, job_id) if 0 < job_id <= MAX_ID else None
    if row is None:
        message = f"there is no job {str(job_id)[:20]}"
        raise JobNotFoundError(message)
    return row


def append(session: Session, job_id: int, events: Sequence[Mapping[str, Any]]) -> None:
    """Append events to a job in a transaction."""
    last = session.scalar(select(func.max(EventRow.number)).where(EventRow.job_id == job_id)) or 0
    now = time.time()
    session.add_all(
        EventRow(
            job_id=job_id,
            number=number,
            name=str(event["event"]),
            time=event.get("time", now),
            data=json.dumps({name: value for name, value in event.items() if name != "time"}),
        )
        for number, event in enumerate(events, last + 1)
    )


def to_job(session: Session, row: JobRow) -> Job:
    """Return the job of a row."""
    count = session.scalar(select(func.max(EventRow.number)).where(EventRow.job_id == row.id))
    return Job(
        id=row.id,
        kind=row.kind,
        settings=json.loads(row.settings),
        priority=row.priority,
        state=cast("State", row.state),
        created=row.created,
        started=row.started,
        ended=row.ended,
        output=row.output,
        error=row.error,
        result=None if row.result is None else json.loads(row.result),
        peak_memory=row.peak_memory,
        events=count or 0,
    )
