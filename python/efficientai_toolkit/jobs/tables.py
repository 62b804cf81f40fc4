"""Tables of jobs and their events in the database of a workspace."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from efficientai_toolkit.workspace.database import Base


class JobRow(Base):
    """A job; see :class:`efficientai_toolkit.jobs.job.Job`."""

    __tablename__ = "jobs"
    # Numbers of deleted jobs, which name their folders, are not used again.
    __table_args__ = (Index("jobs_by_state", "state"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    settings: Mapped[str]
    """JSON."""
    priority: Mapped[int]
    state: Mapped[str]
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]
    output: Mapped[str] = mapped_column(unique=True)
    error: Mapped[str | None]
    result: Mapped[str | None]
    """JSON."""
    peak_memory: Mapped[int | None]
    is_cancelled: Mapped[bool] = mapped_column(default=False)
    """Whether a running job is to be cancelled; its runner may be another process."""


class EventRow(Base):
    """An event."""

    __tablename__ = "job_events"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    """Which kind of event it is."""
    time: Mapped[float]
    data: Mapped[str]
    """JSON."""
