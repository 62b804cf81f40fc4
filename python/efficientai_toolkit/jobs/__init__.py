"""Jobs: long work in processes of its own, queued in the database of a workspace.

::

    submit ─► queued ─► running ─┬► finished
                ▲                ├► failed ────┐
                │                ├► cancelled ─┤ resume
                │                └► interrupted│
                └──────────────────────────────┘

- ``kinds`` is the table of what a job may be. Settings are checked by the configuration of the kind, and
  paths stay in the workspace (``settings``).
- ``queue`` and ``store`` keep jobs and events in the database, where any process reads and changes them.
- ``runner`` is a thread of one process, which holds the ``lock`` of the workspace; an ``attempt`` is a
  process of ``study/job``, which runs a function of ``work``. It ends when its runner does, and the next
  runner continues it from its last checkpoint.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.jobs.job import (
        Job,
        JobEvent,
        JobNotFoundError,
        JobStateError,
        QueueFullError,
    )
    from efficientai_toolkit.jobs.kinds import KINDS, Kind
    from efficientai_toolkit.jobs.queue import Jobs
    from efficientai_toolkit.jobs.runner import Runner

__all__ = [
    "KINDS",
    "Job",
    "JobEvent",
    "JobNotFoundError",
    "JobStateError",
    "Jobs",
    "Kind",
    "QueueFullError",
    "Runner",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "KINDS": "jobs.kinds:KINDS",
            "Job": "jobs.job:Job",
            "JobEvent": "jobs.job:JobEvent",
            "JobNotFoundError": "jobs.job:JobNotFoundError",
            "JobStateError": "jobs.job:JobStateError",
            "Jobs": "jobs.queue:Jobs",
            "Kind": "jobs.kinds:Kind",
            "QueueFullError": "jobs.job:QueueFullError",
            "Runner": "jobs.runner:Runner",
        },
    )
